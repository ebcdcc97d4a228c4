//! What the payment provider can charge: the one table that catalog, drop, cart and refund ask.
//!
//! The provider takes amounts as whole numbers too, and for most currencies they are our minor units. Two of those that have
//! no minor units it counts in hundredths all the same, which are always 00. Of three decimals it wants the last to be 0.
//! Source: docs.stripe.com/currencies, "minimum and maximum charge amounts", "zero-decimal currencies", "three-decimal
//! currencies" and "special cases".

use std::collections::BTreeMap;
use std::str::FromStr;
use std::sync::OnceLock;

use super::money::{Currency, Money, MoneyError};

/// Digits of the largest amount, in the provider's units.
const DIGITS_MAX: u32 = 8;
const DIGITS_MAX_IDR: u32 = 12;

/// How a currency's amounts are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Decimals {
    None,
    /// None for people; the provider wants hundredths, which are 00.
    NoneSentAsTwo,
    Two,
    /// Three, of which the last is 0.
    Three,
}

/// Every currency that the provider takes, with the smallest amount that it charges, in our minor units. 1: what the
/// conversion into the account's own currency makes of that one's smallest amount.
#[rustfmt::skip]
const CURRENCIES: &[(&str, Decimals, i64)] = {
    use Decimals::{NoneSentAsTwo as S, None as N, Three as D, Two as T};
    &[
        ("AED", T, 200), ("AFN", T, 1), ("ALL", T, 1), ("AMD", T, 1), ("ANG", T, 1), ("AOA", T, 1), ("ARS", T, 1),
        ("AUD", T, 50), ("AWG", T, 1), ("AZN", T, 1), ("BAM", T, 1), ("BBD", T, 1), ("BDT", T, 1), ("BGN", T, 100),
        ("BHD", D, 10), ("BIF", N, 1), ("BMD", T, 1), ("BND", T, 1), ("BOB", T, 1), ("BRL", T, 50), ("BSD", T, 1),
        ("BWP", T, 1), ("BYN", T, 1), ("BZD", T, 1), ("CAD", T, 50), ("CDF", T, 1), ("CHF", T, 50), ("CLP", N, 1),
        ("CNY", T, 1), ("COP", T, 1), ("CRC", T, 1), ("CVE", T, 1), ("CZK", T, 1_500), ("DJF", N, 1), ("DKK", T, 250),
        ("DOP", T, 1), ("DZD", T, 1), ("EGP", T, 1), ("ETB", T, 1), ("EUR", T, 50), ("FJD", T, 1), ("FKP", T, 1),
        ("GBP", T, 30), ("GEL", T, 1), ("GIP", T, 1), ("GMD", T, 1), ("GNF", N, 1), ("GTQ", T, 1), ("GYD", T, 1),
        ("HKD", T, 400), ("HNL", T, 1), ("HTG", T, 1), ("HUF", T, 17_500), ("IDR", T, 1), ("ILS", T, 1), ("INR", T, 50),
        ("ISK", S, 1), ("JMD", T, 1), ("JOD", D, 10), ("JPY", N, 50), ("KES", T, 1), ("KGS", T, 1), ("KHR", T, 1),
        ("KMF", N, 1), ("KRW", N, 1), ("KWD", D, 10), ("KYD", T, 1), ("KZT", T, 1), ("LAK", T, 1), ("LBP", T, 1),
        ("LKR", T, 1), ("LRD", T, 1), ("LSL", T, 1), ("MAD", T, 1), ("MDL", T, 1), ("MGA", N, 1), ("MKD", T, 1),
        ("MMK", T, 1), ("MNT", T, 1), ("MOP", T, 1), ("MUR", T, 1), ("MVR", T, 1), ("MWK", T, 1), ("MXN", T, 1_000),
        ("MYR", T, 200), ("MZN", T, 1), ("NAD", T, 1), ("NGN", T, 1), ("NIO", T, 1), ("NOK", T, 300), ("NPR", T, 1),
        ("NZD", T, 50), ("OMR", D, 10), ("PAB", T, 1), ("PEN", T, 1), ("PGK", T, 1), ("PHP", T, 1), ("PKR", T, 1),
        ("PLN", T, 200), ("PYG", N, 1), ("QAR", T, 1), ("RON", T, 200), ("RSD", T, 1), ("RUB", T, 1), ("RWF", N, 1),
        ("SAR", T, 1), ("SBD", T, 1), ("SCR", T, 1), ("SEK", T, 300), ("SGD", T, 50), ("SHP", T, 1), ("SLE", T, 1),
        ("SOS", T, 1), ("SRD", T, 1), ("STD", T, 1), ("SZL", T, 1), ("THB", T, 1_000), ("TJS", T, 1), ("TND", D, 10),
        ("TOP", T, 1), ("TRY", T, 1), ("TTD", T, 1), ("TWD", T, 1), ("TZS", T, 1), ("UAH", T, 1), ("UGX", S, 1),
        ("USD", T, 50), ("UYU", T, 1), ("UZS", T, 1), ("VND", N, 1), ("VUV", N, 1), ("WST", T, 1), ("XAF", N, 1),
        ("XCD", T, 1), ("XCG", T, 1), ("XOF", N, 1), ("XPF", N, 1), ("YER", T, 1), ("ZAR", T, 1), ("ZMW", T, 1),
    ]
};

/// Smallest charges that are above the table's: the provider's own depends on the currency of the account that it pays to, and
/// on the conversion. Set once, when a program starts.
static RAISED: OnceLock<Minimums> = OnceLock::new();

/// The smallest charge of some currencies, in minor units; of the others the table's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Minimums(BTreeMap<Currency, i64>);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadMinimum {
    #[error("{0:?} is not a currency, a colon and an amount in its minor units, such as eur:100")]
    Unreadable(String),
    #[error("the payment provider does not take {0}: check the currency's code")]
    UnknownCurrency(Currency),
    #[error("{raised} is less than {table}, the least that the payment provider charges anybody")]
    BelowTable { raised: Money, table: Money },
    #[error("{0} cannot be charged itself: its currency has steps, and a largest amount")]
    NotChargeable(Money),
    #[error("{0} is named twice")]
    Twice(Currency),
}

impl FromStr for Minimums {
    type Err = BadMinimum;

    /// `eur:100,usd:50`
    fn from_str(text: &str) -> Result<Self, BadMinimum> {
        let mut raised = BTreeMap::new();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let unreadable = || BadMinimum::Unreadable(part.to_owned());
            let (code, minor) = part.split_once(':').ok_or_else(unreadable)?;
            let currency: Currency = code.to_ascii_uppercase().parse().map_err(|_| unreadable())?;
            let minor = minor.parse::<i64>().map_err(|_| unreadable())?;
            let (_, table) = row(currency).ok_or(BadMinimum::UnknownCurrency(currency))?;
            let (least, table) = (Money::new(minor, currency), Money::new(table, currency));
            if minor < table.amount_minor {
                return Err(BadMinimum::BelowTable { raised: least, table });
            }
            if check_refund(least).and_then(|()| check_maximum(least)).is_err() {
                return Err(BadMinimum::NotChargeable(least));
            }
            if raised.insert(currency, minor).is_some() {
                return Err(BadMinimum::Twice(currency));
            }
        }
        Ok(Self(raised))
    }
}

impl Minimums {
    /// Makes them this process' own. What was set first stays: `false` says that it was something else.
    pub fn hold_here(self) -> bool {
        RAISED.get_or_init(|| self.clone()) == &self
    }

    fn of(&self, currency: Currency) -> i64 {
        let table = row(currency).map_or(1, |(_, minimum)| minimum);
        self.0.get(&currency).map_or(table, |raised| table.max(*raised))
    }
}

/// Why the provider cannot charge, or give back, an amount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotChargeable {
    #[error("the payment provider does not take {0}: check the currency's code")]
    UnknownCurrency(Currency),
    #[error("{0} is not an amount of money that can be moved")]
    NotPositive(Money),
    #[error("{amount} is less than {minimum}, the least that the payment provider charges")]
    BelowMinimum { amount: Money, minimum: Money },
    #[error("{amount} is more than {maximum}, the most that the payment provider charges")]
    AboveMaximum { amount: Money, maximum: Money },
    #[error("{0} cannot be charged: the payment provider takes {currency} in steps of {step}",
        currency = .0.currency, step = Money::new(step(.0.currency), .0.currency))]
    BetweenSteps(Money),
}

fn row(currency: Currency) -> Option<(Decimals, i64)> {
    let found = CURRENCIES.binary_search_by(|(code, ..)| (*code).cmp(currency.as_str())).ok()?;
    let (_, decimals, minimum) = CURRENCIES[found];
    Some((decimals, minimum))
}

/// Digits behind the decimal point, of a currency that the provider takes.
pub(super) fn exponent(currency: Currency) -> Option<u32> {
    Some(match row(currency)?.0 {
        Decimals::None | Decimals::NoneSentAsTwo => 0,
        Decimals::Two => 2,
        Decimals::Three => 3,
    })
}

/// The provider charges, and gives back, multiples of this, in our minor units.
pub fn step(currency: Currency) -> i64 {
    match row(currency) {
        Some((Decimals::Three, _)) => 10,
        _ => 1,
    }
}

/// Of one of our minor units, so many are the provider's.
fn provider_units(currency: Currency) -> i64 {
    match row(currency) {
        Some((Decimals::NoneSentAsTwo, _)) => 100,
        _ => 1,
    }
}

fn maximum(currency: Currency) -> Money {
    let digits = if currency.as_str() == "IDR" { DIGITS_MAX_IDR } else { DIGITS_MAX };
    let most = (10_i64.pow(digits) - 1) / provider_units(currency);
    Money::new(most - most % step(currency), currency)
}

/// Whether goods can have this price: nothing, or what some order can be charged for. Several of them, or several goods,
/// may come to the smallest charge together.
pub fn check_price(price: Money) -> Result<(), NotChargeable> {
    if price.amount_minor == 0 && row(price.currency).is_some() {
        return Ok(());
    }
    check_refund(price)?;
    check_maximum(price)
}

/// Whether the provider charges this amount as it stands.
pub fn check_charge(amount: Money) -> Result<(), NotChargeable> {
    static OF_TABLE: Minimums = Minimums(BTreeMap::new());
    check_charge_above(amount, RAISED.get().unwrap_or(&OF_TABLE))
}

fn check_charge_above(amount: Money, minimums: &Minimums) -> Result<(), NotChargeable> {
    check_refund(amount)?;
    check_maximum(amount)?;
    let minimum = minimums.of(amount.currency);
    if amount.amount_minor < minimum {
        return Err(NotChargeable::BelowMinimum { amount, minimum: Money::new(minimum, amount.currency) });
    }
    Ok(())
}

/// Whether an order can have this total: nothing, which is not charged at all, or what the provider charges.
pub fn check_total(total: Money) -> Result<(), NotChargeable> {
    if total.amount_minor == 0 && row(total.currency).is_some() {
        return Ok(());
    }
    check_charge(total)
}

/// Whether an amount may go back: it may be less than the smallest charge, and what was charged bounds it.
pub fn check_refund(amount: Money) -> Result<(), NotChargeable> {
    if row(amount.currency).is_none() {
        return Err(NotChargeable::UnknownCurrency(amount.currency));
    }
    if amount.amount_minor <= 0 {
        return Err(NotChargeable::NotPositive(amount));
    }
    if amount.amount_minor % step(amount.currency) != 0 {
        return Err(NotChargeable::BetweenSteps(amount));
    }
    Ok(())
}

fn check_maximum(amount: Money) -> Result<(), NotChargeable> {
    let maximum = maximum(amount.currency);
    if amount.amount_minor > maximum.amount_minor {
        return Err(NotChargeable::AboveMaximum { amount, maximum });
    }
    Ok(())
}

/// A share of an amount, in 1/100 of a percent, rounded half away from zero to what can be charged.
pub fn share(of: Money, basis_points: u32) -> Result<Money, MoneyError> {
    part(of, basis_points, 10_000)
}

/// The tax that an amount includes, rounded in the same way.
pub fn included(of: Money, basis_points: u32) -> Result<Money, MoneyError> {
    part(of, basis_points, 10_000 + i128::from(basis_points))
}

fn part(of: Money, basis_points: u32, of_parts: i128) -> Result<Money, MoneyError> {
    let whole = of_parts * i128::from(step(of.currency));
    let scaled = i128::from(of.amount_minor) * i128::from(basis_points);
    let steps = (scaled.abs() + whole / 2) / whole * scaled.signum();
    let minor = i64::try_from(steps * i128::from(step(of.currency))).map_err(|_| MoneyError::Overflow)?;
    Ok(Money::new(minor, of.currency))
}

/// An amount as the provider writes it.
pub fn to_provider(amount: Money) -> i64 {
    amount.amount_minor.saturating_mul(provider_units(amount.currency))
}

/// What the provider means by an amount. `None`: it is none of ours, for it has a part of our smallest unit.
pub fn from_provider(amount: i64, currency: Currency) -> Option<Money> {
    let units = provider_units(currency);
    (amount % units == 0).then(|| Money::new(amount / units, currency))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn money(minor: i64, code: &str) -> Money {
        Money::new(minor, code.parse().unwrap())
    }

    #[test]
    fn the_table_is_in_the_order_in_which_it_is_searched() {
        assert!(CURRENCIES.is_sorted_by(|(one, ..), (next, ..)| one < next));
    }

    #[test]
    fn what_the_provider_cannot_charge_is_named() {
        for (minor, code) in [
            (50, "EUR"),
            (99_999_999, "EUR"),
            (14_900, "JPY"),
            (5_120, "KWD"),
            (5_000, "ISK"),
            (20_000, "UGX"),
            (200_000_000, "IDR"),
            (17_500, "HUF"),
            (1, "MGA"),
        ] {
            assert_eq!(check_charge(money(minor, code)), Ok(()), "{minor} {code}");
        }
        let refused = |minor, code| check_charge(money(minor, code)).unwrap_err().to_string();
        for (minor, code, why) in [
            (10, "EUR", "0.10 EUR is less than 0.50 EUR, the least that the payment provider charges"),
            (
                100_000_000,
                "EUR",
                "1000000.00 EUR is more than 999999.99 EUR, the most that the payment provider charges",
            ),
            (1_000_000, "ISK", "1000000 ISK is more than 999999 ISK, the most that the payment provider charges"),
            (5_124, "KWD", "5.124 KWD cannot be charged: the payment provider takes KWD in steps of 0.010 KWD"),
            (500, "ZZZ", "the payment provider does not take ZZZ: check the currency's code"),
            (0, "EUR", "0.00 EUR is not an amount of money that can be moved"),
            (-1, "EUR", "-0.01 EUR is not an amount of money that can be moved"),
        ] {
            assert_eq!(refused(minor, code), why);
        }
    }

    #[test]
    fn the_smallest_charge_may_be_raised_and_never_lowered() {
        let raised: Minimums = "eur:100, kwd:500,USD:50".parse().unwrap();
        for (minor, code, is_charged) in [
            (99, "EUR", false),
            (100, "EUR", true),
            (490, "KWD", false),
            (500, "KWD", true),
            (50, "USD", true),
            (30, "GBP", true),
        ] {
            assert_eq!(check_charge_above(money(minor, code), &raised).is_ok(), is_charged, "{minor} {code}");
        }
        let why = check_charge_above(money(99, "EUR"), &raised).unwrap_err().to_string();
        assert_eq!(why, "0.99 EUR is less than 1.00 EUR, the least that the payment provider charges");
        assert_eq!("".parse(), Ok(Minimums::default()));
        for (text, why) in [
            ("eur:49", "0.49 EUR is less than 0.50 EUR, the least that the payment provider charges anybody"),
            ("eur", "\"eur\" is not a currency, a colon and an amount in its minor units, such as eur:100"),
            ("eur:1.00", "\"eur:1.00\" is not a currency, a colon and an amount in its minor units, such as eur:100"),
            ("zzz:100", "the payment provider does not take ZZZ: check the currency's code"),
            ("kwd:15", "0.015 KWD cannot be charged itself: its currency has steps, and a largest amount"),
            ("eur:100,eur:200", "EUR is named twice"),
        ] {
            assert_eq!(text.parse::<Minimums>().unwrap_err().to_string(), why, "{text}");
        }
    }

    #[test]
    fn what_is_held_once_holds_for_every_charge_of_the_process() {
        // A currency that no other test charges.
        let raised: Minimums = "lak:7000".parse().unwrap();
        assert!(raised.clone().hold_here() && raised.hold_here());
        assert!(check_charge(money(6_999, "LAK")).is_err() && check_total(money(7_000, "LAK")).is_ok());
        assert!(!"lak:8000".parse::<Minimums>().unwrap().hold_here());
    }

    #[test]
    fn a_price_may_be_less_than_a_charge_and_a_refund_too() {
        for free in [money(0, "EUR"), money(10, "EUR"), money(0, "KWD")] {
            assert_eq!(check_price(free), Ok(()));
        }
        assert!(matches!(check_price(money(0, "ZZZ")), Err(NotChargeable::UnknownCurrency(_))));
        assert!(matches!(check_price(money(-1, "EUR")), Err(NotChargeable::NotPositive(_))));
        assert_eq!(check_refund(money(10, "EUR")), Ok(()));
        assert!(matches!(check_refund(money(5, "KWD")), Err(NotChargeable::BetweenSteps(_))));
        assert!(matches!(check_refund(money(0, "EUR")), Err(NotChargeable::NotPositive(_))));
    }

    #[test]
    fn shares_are_what_can_be_charged() {
        // 5 % of 1.010 are 0.0505, and 0.055 is as far from 0.050 as from 0.060.
        assert_eq!(share(money(1_010, "KWD"), 500), Ok(money(50, "KWD")));
        assert_eq!(share(money(1_100, "KWD"), 500), Ok(money(60, "KWD")));
        assert_eq!(share(money(50, "EUR"), 100), Ok(money(1, "EUR")));
        assert_eq!(share(money(49, "EUR"), 100), Ok(money(0, "EUR")));
        assert_eq!(share(money(-50, "EUR"), 100), Ok(money(-1, "EUR")));
        assert!(share(money(i64::MAX, "EUR"), 20_000).is_err());
    }

    #[test]
    fn tax_that_a_price_includes_is_what_can_be_charged() {
        for (gross, basis_points, tax) in [
            (money(11_900, "EUR"), 1_900, 1_900),
            // 99.99 with 19 %: 15.9647…
            (money(9_999, "EUR"), 1_900, 1_596),
            (money(1_100, "JPY"), 1_000, 100),
            // 5 % in 1.010 are 0.0481: 0.050 is the next step.
            (money(1_010, "KWD"), 500, 50),
            (money(9_999, "EUR"), 0, 0),
            (money(i64::MAX, "EUR"), 10_000, i64::MAX / 2 + 1),
        ] {
            assert_eq!(included(gross, basis_points), Ok(Money::new(tax, gross.currency)), "{gross} {basis_points}");
        }
    }

    #[test]
    fn an_order_costs_nothing_or_what_can_be_charged() {
        for total in [money(0, "EUR"), money(50, "EUR"), money(0, "KWD"), money(0, "JPY")] {
            assert_eq!(check_total(total), Ok(()), "{total}");
        }
        for total in [money(1, "EUR"), money(49, "EUR"), money(-1, "EUR"), money(55, "KWD"), money(0, "ZZZ")] {
            assert!(check_total(total).is_err(), "{total}");
        }
    }

    #[test]
    fn the_provider_counts_two_currencies_in_hundredths() {
        for (ours, theirs) in
            [(money(5_000, "ISK"), 500_000), (money(5_000, "JPY"), 5_000), (money(5_000, "EUR"), 5_000)]
        {
            assert_eq!(to_provider(ours), theirs);
            assert_eq!(from_provider(theirs, ours.currency), Some(ours));
        }
        assert_eq!(from_provider(150, "UGX".parse().unwrap()), None);
    }
}
