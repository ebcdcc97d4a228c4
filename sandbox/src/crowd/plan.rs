//! Who the buyers are and what they want: everything that the seed decides.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::index;
use rand::{RngExt as _, SeedableRng as _};
use serde::Serialize;

use super::CrowdOptions;

const CARD: &str = "pm_card_visa";
const CARD_DECLINED_AT_CHARGE: &str = "pm_card_chargeDeclined";
/// Any odd number: a multiple of it, modulo a power of two, meets no number twice.
const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
/// 14 hexadecimal digits.
const ID_MASK: u64 = (1 << 56) - 1;

pub(super) struct Buyer {
    pub(super) id: String,
    /// One intent, one key: every click of this buyer carries it.
    pub(super) key: String,
    pub(super) sku: String,
    pub(super) quantity: u32,
    pub(super) profile: Profile,
    pub(super) arrives_after: Duration,
    pub(super) double_click: Option<DoubleClick>,
    pub(super) is_patient: bool,
    /// For the jitter of his waits, which is nobody's content.
    pub(super) seed: u64,
}

#[derive(Clone, Copy)]
pub(super) enum DoubleClick {
    AtOnce,
    Afterwards,
}

/// The body of `PUT /v1/me/checkout-profile`.
#[derive(Serialize)]
pub(super) struct Profile {
    pub(super) payment_method: &'static str,
    email: String,
    ship_to: Address,
}

#[derive(Serialize)]
struct Address {
    name: String,
    line1: String,
    city: &'static str,
    postal_code: &'static str,
    country: &'static str,
}

const CITIES: [(&str, &str); 5] =
    [("Berlin", "12047"), ("Hamburg", "20359"), ("Köln", "50667"), ("Leipzig", "04229"), ("München", "80469")];

/// In the order of arrival.
pub(super) fn buyers(options: &CrowdOptions) -> Vec<Buyer> {
    let mut chance = StdRng::seed_from_u64(options.seed);
    let first_id: u64 = chance.random();
    let mut declined = vec![false; options.buyers];
    for index in index::sample(&mut chance, options.buyers, declines(options)) {
        declined[index] = true;
    }
    let mut buyers: Vec<Buyer> = (1u64..)
        .zip(declined)
        .map(|(number, declined)| {
            let (city, postal_code) = CITIES[chance.random_range(0..CITIES.len())];
            let payment_method = if declined { CARD_DECLINED_AT_CHARGE } else { CARD };
            let ship_to = Address {
                name: format!("Buyer {number:04}"),
                line1: format!("Sonnenallee {}", chance.random_range(1..300)),
                city,
                postal_code,
                country: "DE",
            };
            Buyer {
                id: format!("buyer-{:014x}", first_id.wrapping_add(number.wrapping_mul(ODD)) & ID_MASK),
                key: uuid::Builder::from_random_bytes(chance.random()).into_uuid().to_string(),
                sku: options.skus[chance.random_range(0..options.skus.len())].clone(),
                quantity: chance.random_range(1..=options.quantity_max),
                profile: Profile { payment_method, email: format!("b{number:04}@example.test"), ship_to },
                arrives_after: options.arrive_within.mul_f64(chance.random()),
                double_click: double_click(options, &mut chance),
                is_patient: chance.random_bool(options.patient_rate),
                seed: chance.random(),
            }
        })
        .collect();
    buyers.sort_by_key(|buyer| buyer.arrives_after);
    buyers
}

fn declines(options: &CrowdOptions) -> usize {
    // Exact up to 2^53 buyers, and a float cast saturates.
    (options.decline_rate * options.buyers as f64).round() as usize
}

fn double_click(options: &CrowdOptions, chance: &mut StdRng) -> Option<DoubleClick> {
    let kind = if chance.random() { DoubleClick::AtOnce } else { DoubleClick::Afterwards };
    chance.random_bool(options.double_click_rate).then_some(kind)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::Arc;

    use super::*;

    fn options(seed: u64) -> CrowdOptions {
        let skus = vec!["small".to_owned(), "large".to_owned()];
        let mut options = CrowdOptions::new("http://127.0.0.1:1", "sneaker", skus, Arc::new(str::to_owned));
        (options.buyers, options.seed, options.quantity_max, options.decline_rate) = (1_001, seed, 3, 0.05);
        options
    }

    #[test]
    fn the_seed_decides_who_wants_what() {
        let wants = |seed| -> Vec<_> {
            let buyers = buyers(&options(seed)).into_iter();
            buyers.map(|b| (b.id, b.key, b.sku, b.quantity, b.profile.payment_method, b.arrives_after)).collect()
        };
        assert_eq!(wants(7), wants(7));
        assert_ne!(wants(7), wants(8));
    }

    #[test]
    fn ids_and_keys_are_unique_and_exactly_the_declining_share_declines() {
        let buyers = buyers(&options(7));
        assert!(buyers.iter().all(|buyer| buyer.id.len() == 20));
        assert_eq!(buyers.iter().map(|buyer| &buyer.id).collect::<HashSet<_>>().len(), 1_001);
        assert_eq!(buyers.iter().map(|buyer| &buyer.key).collect::<HashSet<_>>().len(), 1_001);
        assert_eq!(buyers.iter().filter(|b| b.profile.payment_method == CARD_DECLINED_AT_CHARGE).count(), 50);
        for quantity in 1..=3 {
            assert!(buyers.iter().any(|buyer| buyer.quantity == quantity), "nobody wants {quantity}");
        }
    }
}
