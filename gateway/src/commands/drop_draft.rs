//! `doorbuster drop update | delete`: what may still be done to a draft.

use std::str::FromStr;

use clap::Args;
use doorbuster_engine::domain::claims::Acknowledgement;
use doorbuster_engine::domain::drafts::DraftChange;
use doorbuster_engine::domain::ids::DropName;
use jiff::{SignedDuration, Timestamp};

use super::text::{instant, one_of};
use crate::config::BadUsage;

#[derive(Debug, Args)]
pub(super) struct UpdateArguments {
    /// The drop's name
    pub(super) name: DropName,
    /// Price of a unit of every variant, in the currency's smallest unit
    #[arg(long, value_name = "AMOUNT")]
    price_minor: Option<i64>,
    /// Price of one variant as SKU=PRICE_MINOR; once for each
    #[arg(long, value_name = "PRICE")]
    price: Vec<SkuPrice>,
    /// Units a buyer may hold
    #[arg(long, value_name = "UNITS")]
    limit: Option<u32>,
    /// Tax on the goods in every country: 1900 is 19 %. Given this or --shipping-minor, it does not take the shop's
    /// rates
    #[arg(long, value_name = "BASIS_POINTS")]
    tax_basis_points: Option<u32>,
    /// Shipping of one order, in the currency's smallest unit
    #[arg(long, value_name = "AMOUNT")]
    shipping_minor: Option<i64>,
    /// Whether the prices include the tax on the goods
    #[arg(long, value_name = "TRUE_OR_FALSE")]
    price_includes_tax: Option<bool>,
    /// When workers open it (RFC 3339), or by-hand
    #[arg(long, value_name = "TIME")]
    opens_at: Option<When>,
    /// When workers close it (RFC 3339), or by-hand
    #[arg(long, value_name = "TIME")]
    closes_at: Option<When>,
    /// Until when an order waits for a payment method (RFC 3339)
    #[arg(long, value_name = "TIME", value_parser = instant)]
    pay_by: Option<Timestamp>,
    /// How long an order waits for its payment
    #[arg(long, value_name = "DURATION")]
    pay_within: Option<SignedDuration>,
    /// How long an order whose card was declined waits for another one; 0s ends it at once
    #[arg(long, value_name = "DURATION")]
    decline_grace: Option<SignedDuration>,
    /// When buyers are answered: accepted, replicated or settled, as for `drop create`
    #[arg(long, value_name = "LEVEL", value_parser = one_of(Acknowledgement::ALL, Acknowledgement::as_str))]
    acknowledgement: Option<Acknowledgement>,
    /// For --acknowledgement replicated: how many replicas each Redis primary has
    #[arg(long, value_name = "N")]
    replicas: Option<u8>,
}

#[derive(Debug, Clone)]
struct SkuPrice {
    sku: String,
    minor: i64,
}

impl FromStr for SkuPrice {
    type Err = String;

    /// A SKU may hold `=` itself, a price may not.
    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.rsplit_once('=').and_then(|(sku, minor)| Some((sku.to_owned(), minor.parse().ok()?)));
        let (sku, minor) = parts.ok_or("a price is SKU=PRICE_MINOR, such as shoe-42=14900")?;
        Ok(Self { sku, minor })
    }
}

#[derive(Debug, Clone, Copy)]
enum When {
    At(Timestamp),
    ByHand,
}

impl FromStr for When {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "by-hand" => Ok(Self::ByHand),
            text => instant(text).map(Self::At).map_err(|error| format!("neither by-hand nor a time: {error}")),
        }
    }
}

impl When {
    fn time(self) -> Option<Timestamp> {
        match self {
            Self::At(time) => Some(time),
            Self::ByHand => None,
        }
    }
}

impl UpdateArguments {
    pub(super) fn change(&self) -> Result<DraftChange, BadUsage> {
        let change = DraftChange {
            price_minor: self.price_minor,
            prices: self.price.iter().map(|price| (price.sku.clone(), price.minor)).collect(),
            buyer_limit: self.limit,
            tax_basis_points: self.tax_basis_points,
            shipping_minor: self.shipping_minor,
            price_includes_tax: self.price_includes_tax,
            opens_at: self.opens_at.map(When::time),
            closes_at: self.closes_at.map(When::time),
            pay_by: self.pay_by,
            pay_within: self.pay_within,
            decline_grace: self.decline_grace,
            acknowledgement: self.acknowledgement,
            replicas: self.replicas,
        };
        match change == DraftChange::default() {
            true => Err(BadUsage("say what to change, such as --limit 2 (see --help)".to_owned())),
            false => Ok(change),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prices_and_times_are_read_from_their_short_form() {
        let read = |text: &str| text.parse::<SkuPrice>().map(|price| (price.sku, price.minor)).ok();
        assert_eq!(read("shoe-42=14900"), Some(("shoe-42".to_owned(), 14_900)));
        assert_eq!(read("a=b=1"), Some(("a=b".to_owned(), 1)));
        assert_eq!([read("shoe"), read("shoe="), read("shoe=x")], [None, None, None]);
        let time = |text: &str| text.parse::<When>().map(When::time).ok();
        assert_eq!(time("by-hand"), Some(None));
        assert_eq!(time("1970-01-01T00:00:00Z"), Some(Some(Timestamp::UNIX_EPOCH)));
        assert_eq!(time("tomorrow"), None);
    }
}
