//! A draft: a drop that nobody has begun to open. It may still be changed and deleted; what has been opened may not,
//! since buyers have seen it.

use jiff::{SignedDuration, Timestamp};

use super::claims::Acknowledgement;
use super::drops::{DropState, InvalidDrop, NewDrop, NewVariant, SaleDrop};
use super::money::Money;
use super::pricing::RateTable;

/// What is to be different; what is `None` stays. Stock and warehouses are rows already: for others a draft is
/// deleted and made again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DraftChange {
    /// Of every variant.
    pub price_minor: Option<i64>,
    /// Of single variants, by SKU.
    pub prices: Vec<(String, i64)>,
    pub buyer_limit: Option<u32>,
    pub tax_basis_points: Option<u32>,
    pub shipping_minor: Option<i64>,
    pub price_includes_tax: Option<bool>,
    /// `Some(None)`: by hand.
    pub opens_at: Option<Option<Timestamp>>,
    pub closes_at: Option<Option<Timestamp>>,
    pub pay_by: Option<Timestamp>,
    pub pay_within: Option<SignedDuration>,
    pub decline_grace: Option<SignedDuration>,
    pub acknowledgement: Option<Acknowledgement>,
    pub replicas: Option<u8>,
}

/// Why a draft stays as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DraftKept {
    /// It is none any more.
    State(DropState),
    /// Something beside the drop names it, which no draft should have.
    InUse,
    UnknownSku(String),
    /// It would be no drop that can be sold.
    Invalid(InvalidDrop),
}

impl DraftChange {
    /// The draft as it will be.
    pub fn of(&self, drop: &SaleDrop) -> Result<SaleDrop, DraftKept> {
        check_is_draft(drop.state)?;
        let mut changed = drop.clone();
        if let Some(minor) = self.price_minor {
            changed.variants.iter_mut().for_each(|variant| variant.price = Money::new(minor, drop.currency));
        }
        for (sku, minor) in &self.prices {
            let variant = changed.variants.iter_mut().find(|variant| variant.sku == *sku);
            variant.ok_or_else(|| DraftKept::UnknownSku(sku.clone()))?.price = Money::new(*minor, drop.currency);
        }
        changed.buyer_limit = self.buyer_limit.unwrap_or(drop.buyer_limit);
        changed.tax_basis_points = self.tax_basis_points.unwrap_or(drop.tax_basis_points);
        changed.shipping = Money::new(self.shipping_minor.unwrap_or(drop.shipping.amount_minor), drop.currency);
        if self.tax_basis_points.is_some() || self.shipping_minor.is_some() {
            changed.rates_of_shop = false;
        }
        if !changed.rates_of_shop {
            changed.terms.rates = RateTable::everywhere(changed.rate());
        }
        changed.terms.price_includes_tax = self.price_includes_tax.unwrap_or(drop.terms.price_includes_tax);
        changed.opens_at = self.opens_at.unwrap_or(drop.opens_at);
        changed.closes_at = self.closes_at.unwrap_or(drop.closes_at);
        changed.pay_by = self.pay_by.unwrap_or(drop.pay_by);
        changed.pay_terms.within = self.pay_within.or(drop.pay_terms.within);
        changed.pay_terms.decline_grace = self.decline_grace.unwrap_or(drop.pay_terms.decline_grace);
        changed.acknowledgement = self.acknowledgement.unwrap_or(drop.acknowledgement);
        changed.replicas = self.replicas.unwrap_or(match changed.acknowledgement {
            Acknowledgement::Replicated => drop.replicas,
            // Whoever waits for no replicas any more need not say that there are none.
            Acknowledgement::Accepted | Acknowledgement::Settled => 0,
        });
        terms(&changed).check().map_err(DraftKept::Invalid)?;
        Ok(changed)
    }
}

/// Whether a drop may be deleted, with all that was made for it.
pub fn check_deletable(state: DropState, is_in_use: bool) -> Result<(), DraftKept> {
    check_is_draft(state)?;
    if is_in_use { Err(DraftKept::InUse) } else { Ok(()) }
}

fn check_is_draft(state: DropState) -> Result<(), DraftKept> {
    if state == DropState::Draft { Ok(()) } else { Err(DraftKept::State(state)) }
}

/// A drop as it would be asked for, for the rules that a new one must keep.
pub fn terms(drop: &SaleDrop) -> NewDrop {
    let variants = drop.variants.iter().map(|variant| NewVariant {
        sku: variant.sku.clone(),
        title: variant.title.clone(),
        price_minor: variant.price.amount_minor,
        stock_units: variant.stock_units,
    });
    NewDrop {
        name: drop.name.clone(),
        product_name: drop.product_name.clone(),
        currency: drop.currency,
        variants: variants.collect(),
        buyer_limit: drop.buyer_limit,
        warehouses: drop.warehouses.len() as u32,
        tax_basis_points: drop.tax_basis_points,
        shipping_minor: drop.shipping.amount_minor,
        rates_of_shop: drop.rates_of_shop,
        price_includes_tax: drop.terms.price_includes_tax,
        opens_at: drop.opens_at,
        closes_at: drop.closes_at,
        pay_by: drop.pay_by,
        pay_terms: drop.pay_terms,
        acknowledgement: drop.acknowledgement,
        replicas: drop.replicas,
        // What a line asks of its drop's times is looked at with its own row.
        line: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::drops::{Admission, DropVariant, PayTerms, Warehouse};
    use crate::domain::ids::{DropId, Epoch, VariantNumber, WarehouseId, WarehouseNumber};
    use crate::domain::pricing::{Rate, Terms};

    fn drop(state: DropState) -> SaleDrop {
        let currency = "EUR".parse().unwrap();
        let variant = |number: u8, sku: &str| DropVariant {
            number: VariantNumber(number),
            variant_id: 1 + i32::from(number),
            sku: sku.to_owned(),
            title: sku.to_owned(),
            price: Money::new(9_900, currency),
            stock_units: 5,
        };
        SaleDrop {
            id: DropId(1),
            name: "shoe".parse().unwrap(),
            product_id: 1,
            product_name: "Shoe".to_owned(),
            state,
            admission: Admission::Open,
            currency,
            buyer_limit: 2,
            home_key: 7,
            tax_basis_points: 1_900,
            shipping_tax_basis_points: None,
            shipping: Money::new(490, currency),
            rates_of_shop: false,
            terms: Terms::flat(Rate {
                tax_basis_points: 1_900,
                shipping_tax_basis_points: None,
                shipping: Money::new(490, currency),
                free_shipping_from: None,
            }),
            opens_at: Some(at(100)),
            closes_at: Some(at(200)),
            pay_by: at(1_300),
            pay_terms: PayTerms::OF_THE_DROP,
            acknowledgement: Acknowledgement::Replicated,
            replicas: 2,
            variants: vec![variant(0, "shoe-42"), variant(1, "shoe-43")],
            warehouses: vec![Warehouse { id: WarehouseId(1), number: WarehouseNumber(0), epoch: Epoch(0) }],
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn a_drop_is_called_what_a_mail_can_say() {
        let named = |name: &str, title: &str| {
            let mut drop = drop(DropState::Draft);
            (drop.product_name, drop.variants[1].title) = (name.to_owned(), title.to_owned());
            terms(&drop).check()
        };
        assert_eq!(named("Shoe", "42"), Ok(()));
        assert_eq!(named(&"ß".repeat(200), &"4".repeat(200)), Ok(()));
        for bad in ["", " ", "Shoe\nBcc: x", "Shoe\u{2028}", "a\u{202e}b", &"x".repeat(201), &"x".repeat(5_000)] {
            assert_eq!(named(bad, "42"), Err(InvalidDrop::ProductName), "{bad:?}");
            assert_eq!(named("Shoe", bad), Err(InvalidDrop::Title("shoe-43".to_owned())), "{bad:?}");
        }
    }

    #[test]
    fn only_a_draft_that_nothing_else_names_may_be_deleted() {
        for state in DropState::ALL {
            for is_in_use in [false, true] {
                let expected = match (state, is_in_use) {
                    (DropState::Draft, false) => Ok(()),
                    (DropState::Draft, true) => Err(DraftKept::InUse),
                    (state, _) => Err(DraftKept::State(state)),
                };
                assert_eq!(check_deletable(state, is_in_use), expected, "{state:?}, in use: {is_in_use}");
            }
        }
    }

    #[test]
    fn only_a_draft_may_be_changed() {
        let change = DraftChange { buyer_limit: Some(3), ..DraftChange::default() };
        for state in DropState::ALL {
            let changed = change.of(&drop(state)).map(|changed| changed.buyer_limit);
            let expected = if state == DropState::Draft { Ok(3) } else { Err(DraftKept::State(state)) };
            assert_eq!(changed, expected, "{state:?}");
        }
    }

    #[test]
    fn a_change_changes_what_it_names_and_nothing_else() {
        let draft = drop(DropState::Draft);
        assert_eq!(DraftChange::default().of(&draft), Ok(draft.clone()));
        let change = DraftChange {
            price_minor: Some(5_000),
            prices: vec![("shoe-43".to_owned(), 6_000)],
            buyer_limit: Some(4),
            tax_basis_points: Some(700),
            shipping_minor: Some(0),
            price_includes_tax: Some(true),
            opens_at: Some(None),
            closes_at: Some(Some(at(250))),
            pay_by: Some(at(1_400)),
            pay_within: Some(SignedDuration::from_mins(20)),
            decline_grace: Some(SignedDuration::from_mins(2)),
            acknowledgement: Some(Acknowledgement::Settled),
            replicas: None,
        };
        let changed = change.of(&draft).unwrap();
        let mut expected = draft.clone();
        expected.variants[0].price.amount_minor = 5_000;
        expected.variants[1].price.amount_minor = 6_000;
        (expected.buyer_limit, expected.tax_basis_points, expected.shipping.amount_minor) = (4, 700, 0);
        expected.terms = Terms { price_includes_tax: true, ..Terms::flat(expected.rate()) };
        (expected.opens_at, expected.closes_at, expected.pay_by) = (None, Some(at(250)), at(1_400));
        expected.pay_terms =
            PayTerms { within: Some(SignedDuration::from_mins(20)), decline_grace: SignedDuration::from_mins(2) };
        (expected.acknowledgement, expected.replicas) = (Acknowledgement::Settled, 0);
        assert_eq!(changed, expected);
    }

    #[test]
    fn a_draft_keeps_the_rules_of_a_new_drop() {
        let none = DraftChange::default;
        let second = SignedDuration::from_secs(1);
        let cases = [
            (DraftChange { price_minor: Some(-1), ..none() }, InvalidDrop::Price("shoe-42".to_owned())),
            (DraftChange { buyer_limit: Some(101), ..none() }, InvalidDrop::BuyerLimit(101)),
            (DraftChange { tax_basis_points: Some(10_001), ..none() }, InvalidDrop::Tax(10_001)),
            (DraftChange { shipping_minor: Some(-1), ..none() }, InvalidDrop::Shipping),
            (DraftChange { pay_within: Some(second), ..none() }, InvalidDrop::PayWithin(second)),
            (DraftChange { decline_grace: Some(-second), ..none() }, InvalidDrop::DeclineGrace(-second)),
            (DraftChange { closes_at: Some(Some(at(100))), ..none() }, InvalidDrop::Times),
            (DraftChange { pay_by: Some(at(699)), ..none() }, InvalidDrop::PayBy),
            (DraftChange { replicas: Some(0), ..none() }, InvalidDrop::Replicas(0)),
            (
                DraftChange { acknowledgement: Some(Acknowledgement::Accepted), replicas: Some(1), ..none() },
                InvalidDrop::NeedlessReplicas,
            ),
        ];
        for (change, invalid) in cases {
            assert_eq!(change.of(&drop(DropState::Draft)), Err(DraftKept::Invalid(invalid)));
        }
        let tax = |own, rates: &[u32]| {
            let changed = DraftChange { tax_basis_points: Some(own), ..none() }.of(&drop(DropState::Draft)).unwrap();
            terms(&changed).check_tax(rates.iter().copied())
        };
        assert_eq!(
            tax(19, &[0, 700, 1_900]),
            Err(InvalidDrop::TaxFarBelow { own: 19, usual: 700, currency: "EUR".parse().unwrap() })
        );
        for (own, rates) in [(0, &[700][..]), (70, &[700]), (19, &[]), (19, &[0])] {
            assert_eq!(tax(own, rates), Ok(()), "{own} beside {rates:?}");
        }
        let mut of_shop = drop(DropState::Draft);
        of_shop.rates_of_shop = true;
        let kept = |change: DraftChange| change.of(&of_shop).unwrap().rates_of_shop;
        assert!(kept(DraftChange { price_minor: Some(0), ..none() }));
        assert!(!kept(DraftChange { shipping_minor: Some(0), ..none() }), "terms of its own");
        let strange = DraftChange { prices: vec![("boot".to_owned(), 1)], ..none() };
        assert_eq!(strange.of(&drop(DropState::Draft)), Err(DraftKept::UnknownSku("boot".to_owned())));
    }
}
