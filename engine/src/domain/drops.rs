//! A drop: one timed sale of one product, and the rules a new one must keep.

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::catalog::{is_name, is_sku, name_rule};
use super::charges::{NotChargeable, check_total};
use super::claims::{Acknowledgement, Claim, ClaimOutcome};
use super::countries::Country;
use super::ids::{BuyerId, DropId, DropName, Epoch, VariantNumber, WarehouseId, WarehouseNumber};
use super::line::terms::{InvalidLine, NewLine};
use super::money::{Currency, Money};
use super::payments::DECLINE_GRACE;
use super::pricing::{Rate, Terms};

/// A drop has at most this many variants: they are numbered in one byte, and a batch may name every one of them.
pub const MAX_VARIANTS: usize = 32;
/// At most this many units a buyer: a record keeps a quantity in seven bits.
pub const MAX_BUYER_LIMIT: u32 = 100;
pub const MAX_WAREHOUSES: u32 = 1024;
/// Warehouses of a drop for each primary of Redis, unless its operator asks for others. More have smaller batches, which cost Redis
/// more for each claim; docs/PERFORMANCE.md has the figures.
pub const WAREHOUSES_PER_PRIMARY: u32 = 2;
/// More replicas than any primary has that we have heard of.
pub const MAX_REPLICAS: u8 = 16;
/// Units of one drop: ten times the largest sale we know of, and serials stay far below 32 bits.
pub const MAX_STOCK_UNITS: u32 = 10_000_000;

/// The life of a drop: `draft → opening → open ⇄ paused → closed → archived`. One with a line is `lining` behind `draft`,
/// and comes from there to `closed`, or to `opening` with what its line has left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DropState {
    /// Rows exist in Postgres; Redis knows nothing of it.
    Draft,
    /// Buyers stand in line, and rounds give them units. Redis knows nothing of it.
    Lining,
    /// Warehouses are being loaded; an opening that died is begun again.
    Opening,
    Open,
    /// No new claims for now; everything else goes on.
    Paused,
    /// No new claims any more; known ones are still answered and settled.
    Closed,
    /// Redis holds nothing of it any more.
    Archived,
}

impl DropState {
    pub const ALL: [Self; 7] =
        [Self::Draft, Self::Lining, Self::Opening, Self::Open, Self::Paused, Self::Closed, Self::Archived];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Draft => "draft",
            Self::Lining => "lining",
            Self::Opening => "opening",
            Self::Open => "open",
            Self::Paused => "paused",
            Self::Closed => "closed",
            Self::Archived => "archived",
        }
    }

    /// What the warehouses in Redis are told, while they are to be there.
    pub fn in_warehouses(self) -> Option<&'static str> {
        match self {
            Self::Draft | Self::Lining | Self::Opening | Self::Archived => None,
            Self::Open | Self::Paused | Self::Closed => Some(self.as_str()),
        }
    }
}

/// How buyers come to units of a drop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Admission {
    /// Who claims first is served first.
    Open,
    /// They stand in line. Who is there when it is sealed is shuffled; who comes later stands behind.
    Queue,
    /// They enter a draw: everybody who is there when it is sealed has the same chance.
    Draw,
}

impl Admission {
    pub const ALL: [Self; 3] = [Self::Open, Self::Queue, Self::Draw];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Queue => "queue",
            Self::Draw => "draw",
        }
    }

    pub fn has_line(self) -> bool {
        self != Self::Open
    }
}

/// One SKU of a drop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DropVariant {
    pub number: VariantNumber,
    pub variant_id: i32,
    pub sku: String,
    pub title: String,
    pub price: Money,
    pub stock_units: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Warehouse {
    pub id: WarehouseId,
    pub number: WarehouseNumber,
    pub epoch: Epoch,
}

/// A drop as Postgres has it. Once it is no draft, everything but `state`, stock and the warehouses' epochs is fixed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SaleDrop {
    pub id: DropId,
    pub name: DropName,
    pub product_id: i32,
    pub product_name: String,
    pub state: DropState,
    pub admission: Admission,
    pub currency: Currency,
    pub buyer_limit: u32,
    pub home_key: u64,
    pub tax_basis_points: u32,
    /// What shipping is taxed with. `None`: as the goods are. Drops made before there was VAT on shipping have 0.
    pub shipping_tax_basis_points: Option<u32>,
    pub shipping: Money,
    /// It takes the shop's rates in its currency when it opens; if there are none, its own.
    pub rates_of_shop: bool,
    /// What its orders cost in each country: of a draft, as they would be now.
    pub terms: Terms,
    pub opens_at: Option<Timestamp>,
    pub closes_at: Option<Timestamp>,
    pub pay_by: Timestamp,
    pub pay_terms: PayTerms,
    /// What a claim must have reached before its buyer is told that it is his.
    pub acknowledgement: Acknowledgement,
    /// Replicas of each Redis primary, should claims wait for them; otherwise 0.
    pub replicas: u8,
    /// In the order of their numbers, from 0, without gaps.
    pub variants: Vec<DropVariant>,
    /// In the order of their numbers, from 0, without gaps.
    pub warehouses: Vec<Warehouse>,
}

/// How long an order of a drop may take to be paid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PayTerms {
    /// From when it was made. `None`: until the drop's end to pay, as drops of before have it.
    pub within: Option<SignedDuration>,
    /// After a decline, for another card; it never prolongs the time to pay.
    pub decline_grace: SignedDuration,
}

impl Default for PayTerms {
    fn default() -> Self {
        Self { within: Some(SignedDuration::from_mins(30)), decline_grace: DECLINE_GRACE }
    }
}

impl PayTerms {
    /// Until the drop's end to pay, and no second card.
    pub const OF_THE_DROP: Self = Self { within: None, decline_grace: SignedDuration::ZERO };

    /// Until when an order made now waits for its payment, where `end` is the drop's end to pay. Units may come back after that;
    /// who gets one then has as long as everybody else had. `None`: until the drop's end.
    pub fn pay_by(self, end: Timestamp, now: Timestamp) -> Option<Timestamp> {
        let own = now.checked_add(self.within?).unwrap_or(Timestamp::MAX);
        Some(if end <= now { own } else { own.min(end) })
    }
}

impl SaleDrop {
    /// Whether buyers may know of it. A draft is its operator's alone, until it has a time at which it opens: then whoever knows
    /// its name may ask when.
    pub fn is_announced(&self) -> bool {
        self.state != DropState::Draft || self.opens_at.is_some()
    }

    /// The warehouse that owns this buyer's limit and idempotency record. The hash is a published specification
    /// (XXH3, 64 bits), so every build and every gateway agrees.
    pub fn home_of(&self, buyer: &BuyerId) -> &Warehouse {
        &self.warehouses[(self.hash_of(buyer) % self.warehouses.len() as u64) as usize]
    }

    /// The drop's own hash of a buyer: decides his home, and stands for him where his id would take too much room.
    pub fn hash_of(&self, buyer: &BuyerId) -> u64 {
        xxh3_64_with_seed(buyer.as_str().as_bytes(), self.home_key)
    }

    /// What its orders cost beside their goods by its own terms, which are the same in every country.
    pub fn rate(&self) -> Rate {
        Rate {
            tax_basis_points: self.tax_basis_points,
            shipping_tax_basis_points: self.shipping_tax_basis_points,
            shipping: self.shipping,
            free_shipping_from: None,
        }
    }

    /// Whether every order of it can be charged, wherever it goes.
    pub fn check_totals(&self) -> Result<(), InvalidDrop> {
        for (country, rate) in self.terms.rates.rows() {
            for variant in &self.variants {
                for quantity in 1..=self.buyer_limit {
                    let totals = self.terms.totals_at(rate, variant.price, quantity);
                    let total = totals.map_err(|_| InvalidDrop::Amount)?.total;
                    check_total(total).map_err(|why| match (country, variant.sku.clone()) {
                        (Some(country), sku) => InvalidDrop::NotChargeableThere { country, sku, quantity, why },
                        (None, sku) => InvalidDrop::NotChargeable { sku, quantity, why },
                    })?;
                }
            }
        }
        Ok(())
    }

    /// Why a claim may not be made at what its buyer was told. `None`: nothing is in its way.
    pub fn price_in_the_way(&self, claim: &Claim) -> Option<ClaimOutcome> {
        let told = claim.told?;
        let price = self.variant(claim.variant)?.price;
        let Some(totals) = self.terms.totals(price, claim.quantity.units(), told.country) else {
            return Some(ClaimOutcome::NotServed);
        };
        // One that does not fit was refused when the drop was made.
        let total = totals.ok()?.total;
        (total.amount_minor != told.total_minor).then_some(ClaimOutcome::PriceChanged { total })
    }

    /// Whether some warehouse has ever been loaded: otherwise Redis knows nothing of the drop. A load begins a new epoch.
    pub fn was_loaded(&self) -> bool {
        self.warehouses.iter().any(|warehouse| warehouse.epoch > Epoch(0))
    }

    /// What its warehouses in Redis are told, if they are to be there. A drop that closed while its buyers stood in line
    /// has never come to Redis.
    pub fn in_warehouses(&self) -> Option<&'static str> {
        self.state.in_warehouses().filter(|_| self.was_loaded())
    }

    pub fn variant(&self, number: VariantNumber) -> Option<&DropVariant> {
        self.variants.get(usize::from(number.0))
    }

    pub fn variant_by_sku(&self, sku: &str) -> Option<&DropVariant> {
        self.variants.iter().find(|variant| variant.sku == sku)
    }

    pub fn warehouse_by_id(&self, id: WarehouseId) -> Option<&Warehouse> {
        self.warehouses.iter().find(|warehouse| warehouse.id == id)
    }

    pub fn variant_numbers(&self) -> Vec<VariantNumber> {
        self.variants.iter().map(|variant| variant.number).collect()
    }

    pub fn stock_units(&self) -> u64 {
        self.variants.iter().map(|variant| u64::from(variant.stock_units)).sum()
    }
}

#[derive(Debug, Clone)]
pub struct NewVariant {
    pub sku: String,
    pub title: String,
    pub price_minor: i64,
    pub stock_units: u32,
}

/// What `drop create` asks for. [`NewDrop::check`] says what is wrong with it.
#[derive(Debug, Clone)]
pub struct NewDrop {
    pub name: DropName,
    pub product_name: String,
    pub currency: Currency,
    pub variants: Vec<NewVariant>,
    pub buyer_limit: u32,
    pub warehouses: u32,
    pub tax_basis_points: u32,
    pub shipping_minor: i64,
    /// The shop's rates, as they are when it opens, instead of these two. Where there are none in its currency, these
    /// two.
    pub rates_of_shop: bool,
    /// The prices include the tax on the goods.
    pub price_includes_tax: bool,
    pub opens_at: Option<Timestamp>,
    pub closes_at: Option<Timestamp>,
    pub pay_by: Timestamp,
    pub pay_terms: PayTerms,
    pub acknowledgement: Acknowledgement,
    /// All replicas that each Redis primary has, should claims wait for them; otherwise 0.
    pub replicas: u8,
    /// How its buyers stand in line. `None`: who claims first is served first.
    pub line: Option<NewLine>,
}

/// Why a drop cannot be made, in a sentence that says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidDrop {
    #[error("the product's name {}", name_rule())]
    ProductName,
    #[error("the title of {sku} {rule}", sku = .0, rule = name_rule())]
    Title(String),
    #[error("a drop has 1 to {MAX_VARIANTS} variants; this one has {0}")]
    VariantCount(usize),
    #[error("the SKU {0:?} must be 1 to 64 visible ASCII characters and occur once")]
    Sku(String),
    #[error("the price of {0} cannot be negative")]
    Price(String),
    #[error("the stock of all variants is {0} units; at most {MAX_STOCK_UNITS} fit into one drop")]
    Stock(u64),
    #[error("the limit per buyer must be 1 to {MAX_BUYER_LIMIT} units; it is {0}")]
    BuyerLimit(u32),
    #[error("a drop has 1 to {MAX_WAREHOUSES} virtual warehouses; {0} were asked for")]
    Warehouses(u32),
    #[error("tax is 0 to 10000 basis points; {0} were given")]
    Tax(u32),
    #[error("shipping cannot be negative")]
    Shipping,
    #[error("the drop must close after it opens")]
    Times,
    #[error("buyers need at least ten minutes to pay: pay_by must be so long after opens_at")]
    PayBy,
    #[error("an order is paid within 1 minute to 7 days of being made; {0:#} were given")]
    PayWithin(SignedDuration),
    #[error("after a decline an order waits 0 seconds to 1 day for another card; {0:#} were given")]
    DeclineGrace(SignedDuration),
    #[error("{0} has no units: a variant has at least one when the drop is made")]
    NoUnits(String),
    #[error("nobody could pay for {quantity} × {sku}: {why}")]
    NotChargeable { sku: String, quantity: u32, why: NotChargeable },
    #[error("nobody in {country} could pay for {quantity} × {sku}: {why}")]
    NotChargeableThere { country: Country, sku: String, quantity: u32, why: NotChargeable },
    #[error(
        "tax of {own} basis points is less than a tenth of what the shop's rates have in {currency} ({usual}): 1900 is 19 %, \
        and a drop without tax has 0"
    )]
    TaxFarBelow { own: u32, usual: u32, currency: Currency },
    #[error(transparent)]
    Line(InvalidLine),
    #[error("claims that are answered once they are replicated wait for 1 to {MAX_REPLICAS} replicas; {0} were given")]
    Replicas(u8),
    #[error("only an acknowledgement of `replicated` waits for replicas")]
    NeedlessReplicas,
    #[error("the full price of an order at the limit does not fit into 64 bits of minor units")]
    Amount,
}

/// The least time that buyers have to pay, from the opening.
const PAY_WITHIN_MIN: SignedDuration = SignedDuration::from_mins(10);

impl NewDrop {
    pub fn admission(&self) -> Admission {
        self.line.as_ref().map_or(Admission::Open, |line| line.terms.admission)
    }

    /// Whether its tax is one that the shop can mean, beside those of its own rates in the same currency: who writes 19 for
    /// 19 % has forgotten that it is counted in hundredths. None at all is meant.
    pub fn check_tax(&self, of_rates: impl Iterator<Item = u32>) -> Result<(), InvalidDrop> {
        let (own, currency) = (self.tax_basis_points, self.currency);
        match of_rates.filter(|tax| *tax > 0).min() {
            Some(usual) if own > 0 && own < usual / 10 => Err(InvalidDrop::TaxFarBelow { own, usual, currency }),
            _ => Ok(()),
        }
    }

    /// What its orders will cost beside their goods.
    pub fn rate(&self) -> Rate {
        Rate {
            tax_basis_points: self.tax_basis_points,
            shipping_tax_basis_points: None,
            shipping: Money::new(self.shipping_minor, self.currency),
            free_shipping_from: None,
        }
    }

    pub fn check(&self) -> Result<(), InvalidDrop> {
        if !is_name(&self.product_name) {
            return Err(InvalidDrop::ProductName);
        }
        if !(1..=MAX_VARIANTS).contains(&self.variants.len()) {
            return Err(InvalidDrop::VariantCount(self.variants.len()));
        }
        if !(1..=MAX_BUYER_LIMIT).contains(&self.buyer_limit) {
            return Err(InvalidDrop::BuyerLimit(self.buyer_limit));
        }
        if !(1..=MAX_WAREHOUSES).contains(&self.warehouses) {
            return Err(InvalidDrop::Warehouses(self.warehouses));
        }
        if self.tax_basis_points > 10_000 {
            return Err(InvalidDrop::Tax(self.tax_basis_points));
        }
        if self.shipping_minor < 0 {
            return Err(InvalidDrop::Shipping);
        }
        if let (Some(opens_at), Some(closes_at)) = (self.opens_at, self.closes_at)
            && closes_at <= opens_at
        {
            return Err(InvalidDrop::Times);
        }
        if self.opens_at.is_some_and(|opens_at| self.pay_by < opens_at + PAY_WITHIN_MIN) {
            return Err(InvalidDrop::PayBy);
        }
        let PayTerms { within, decline_grace } = self.pay_terms;
        if let Some(within) = within
            && !(SignedDuration::from_mins(1)..=SignedDuration::from_hours(7 * 24)).contains(&within)
        {
            return Err(InvalidDrop::PayWithin(within));
        }
        if !(SignedDuration::ZERO..=SignedDuration::from_hours(24)).contains(&decline_grace) {
            return Err(InvalidDrop::DeclineGrace(decline_grace));
        }
        if let Some(line) = &self.line {
            line.terms.check(self.opens_at).map_err(InvalidDrop::Line)?;
        }
        match (self.acknowledgement, self.replicas) {
            (Acknowledgement::Replicated, 1..=MAX_REPLICAS) => {}
            (Acknowledgement::Replicated, replicas) => return Err(InvalidDrop::Replicas(replicas)),
            (Acknowledgement::Accepted | Acknowledgement::Settled, 0) => {}
            (Acknowledgement::Accepted | Acknowledgement::Settled, _) => return Err(InvalidDrop::NeedlessReplicas),
        }
        for (index, variant) in self.variants.iter().enumerate() {
            if !is_sku(&variant.sku) || self.variants[..index].iter().any(|earlier| earlier.sku == variant.sku) {
                return Err(InvalidDrop::Sku(variant.sku.clone()));
            }
            if !is_name(&variant.title) {
                return Err(InvalidDrop::Title(variant.sku.clone()));
            }
            if variant.price_minor < 0 {
                return Err(InvalidDrop::Price(variant.sku.clone()));
            }
            if variant.stock_units == 0 {
                return Err(InvalidDrop::NoUnits(variant.sku.clone()));
            }
            let price = Money::new(variant.price_minor, self.currency);
            // Its own terms, which it has too should there be no others; those of the shop are looked at when it opens.
            let terms = Terms { price_includes_tax: self.price_includes_tax, ..Terms::flat(self.rate()) };
            for quantity in 1..=self.buyer_limit {
                let totals = terms.totals_at(&self.rate(), price, quantity);
                let total = totals.map_err(|_| InvalidDrop::Amount)?.total;
                check_total(total).map_err(|why| InvalidDrop::NotChargeable {
                    sku: variant.sku.clone(),
                    quantity,
                    why,
                })?;
            }
        }
        let stock = self.variants.iter().map(|variant| u64::from(variant.stock_units)).sum::<u64>();
        if stock > u64::from(MAX_STOCK_UNITS) {
            return Err(InvalidDrop::Stock(stock));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_has_its_own_time_within_the_drops() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let within = |minutes| PayTerms { within: Some(SignedDuration::from_mins(minutes)), ..PayTerms::OF_THE_DROP };
        for (terms, end, expected) in [
            (within(30), 10_000, Some(2_800)),
            (within(30), 2_000, Some(2_000)),
            // A unit came back after the end.
            (within(30), 1_000, Some(2_800)),
            (within(30), 10, Some(2_800)),
            (PayTerms::OF_THE_DROP, 10_000, None),
        ] {
            assert_eq!(terms.pay_by(at(end), at(1_000)), expected.map(at), "{terms:?} {end}");
        }
    }
}
