//! How a sale stands: of each variant, the units that are left, claimed, ordered and sold. Counted from what each
//! warehouse has free and from the inventory, never from the units one by one.

use serde::Serialize;

use super::drops::{DropState, SaleDrop};
use super::ids::VariantNumber;
use super::money::Money;

/// What Postgres counts of one variant, over the drop's warehouses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShelfCount {
    pub variant: VariantNumber,
    /// Not paid for.
    pub available: u64,
    /// Of these, held by orders that are not paid.
    pub reserved: u64,
}

/// The units of one variant, each counted once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VariantFigures {
    pub sku: String,
    pub title: String,
    pub price: Money,
    pub stock_units: u64,
    /// Nobody holds them. `None`: some warehouse could not be read, so nobody knows.
    pub left_units: Option<u64>,
    /// Claimed and no order yet, on the way between warehouses, or set aside.
    pub moving_units: Option<u64>,
    /// In orders that are not paid.
    pub ordered_units: u64,
    /// In orders that are paid.
    pub sold_units: u64,
}

/// `free`: units free in Redis, of each variant in order; `None` if that is not known of every warehouse. The two
/// stores are read one after the other, so of a sale that runs the figures may be off by what happened in between.
pub fn variant_figures(drop: &SaleDrop, shelves: &[ShelfCount], free: Option<&[u64]>) -> Vec<VariantFigures> {
    let figures = drop.variants.iter().enumerate().map(|(position, variant)| {
        let shelf = shelves.iter().find(|shelf| shelf.variant == variant.number);
        let (available, reserved) = shelf.map_or((0, 0), |shelf| (shelf.available, shelf.reserved));
        let unordered = available.saturating_sub(reserved);
        let left = match drop.state {
            // Redis has nothing of it: what no order holds is free.
            DropState::Archived => Some(unordered),
            _ if !drop.was_loaded() => Some(unordered),
            _ => free.map(|free| free.get(position).copied().unwrap_or_default()),
        };
        VariantFigures {
            sku: variant.sku.clone(),
            title: variant.title.clone(),
            price: variant.price,
            stock_units: u64::from(variant.stock_units),
            left_units: left,
            moving_units: left.map(|left| unordered.saturating_sub(left)),
            ordered_units: reserved,
            sold_units: u64::from(variant.stock_units).saturating_sub(available),
        }
    });
    figures.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::claims::Acknowledgement;
    use crate::domain::drops::{Admission, DropVariant, PayTerms, Warehouse};
    use crate::domain::ids::{DropId, Epoch, WarehouseId, WarehouseNumber};
    use crate::domain::pricing::{Rate, Terms};

    #[test]
    fn every_unit_is_counted_once_in_every_state() {
        let currency = "EUR".parse().unwrap();
        let mut drop = SaleDrop {
            id: DropId(1),
            name: "shoe".parse().unwrap(),
            product_id: 1,
            product_name: "Shoe".to_owned(),
            state: DropState::Draft,
            admission: Admission::Open,
            currency,
            buyer_limit: 2,
            home_key: 7,
            tax_basis_points: 0,
            shipping_tax_basis_points: None,
            shipping: Money::zero(currency),
            rates_of_shop: false,
            terms: Terms::flat(Rate {
                tax_basis_points: 0,
                shipping_tax_basis_points: None,
                shipping: Money::zero(currency),
                free_shipping_from: None,
            }),
            opens_at: None,
            closes_at: None,
            pay_by: jiff::Timestamp::UNIX_EPOCH,
            pay_terms: PayTerms::OF_THE_DROP,
            acknowledgement: Acknowledgement::Accepted,
            replicas: 0,
            variants: vec![DropVariant {
                number: VariantNumber(0),
                variant_id: 1,
                sku: "shoe-42".to_owned(),
                title: "Shoe 42".to_owned(),
                price: Money::new(100, currency),
                stock_units: 100,
            }],
            warehouses: vec![Warehouse { id: WarehouseId(1), number: WarehouseNumber(0), epoch: Epoch(1) }],
        };
        // State, available, reserved, free in Redis; left, moving, ordered, sold.
        let cases = [
            (DropState::Draft, (100, 0, None), (Some(100), Some(0), 0, 0)),
            (DropState::Open, (100, 0, Some(100)), (Some(100), Some(0), 0, 0)),
            (DropState::Open, (90, 20, Some(60)), (Some(60), Some(10), 20, 10)),
            (DropState::Paused, (90, 20, None), (None, None, 20, 10)),
            (DropState::Closed, (10, 0, Some(0)), (Some(0), Some(10), 0, 90)),
            // Redis was read first, and twenty were ordered and paid since.
            (DropState::Open, (60, 20, Some(60)), (Some(60), Some(0), 20, 40)),
            (DropState::Archived, (30, 5, None), (Some(25), Some(0), 5, 70)),
            // Its buyers stand in line: Redis has never had it.
            (DropState::Lining, (30, 5, None), (Some(25), Some(0), 5, 70)),
        ];
        for (state, (available, reserved, free), expected) in cases {
            drop.state = state;
            drop.warehouses[0].epoch = Epoch(i64::from(!matches!(state, DropState::Draft | DropState::Lining)));
            let shelf = ShelfCount { variant: VariantNumber(0), available, reserved };
            let free = free.map(|free| vec![free]);
            let found = &variant_figures(&drop, &[shelf], free.as_deref())[0];
            let found = (found.left_units, found.moving_units, found.ordered_units, found.sold_units);
            assert_eq!(found, expected, "{state:?}, {available} available, {reserved} reserved, {free:?} free");
        }
    }
}
