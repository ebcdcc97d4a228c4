//! What can be charged: which currencies, at least how much, at most how much, in what steps.

use super::answer::Refusal;

/// Least amounts in minor units, where the currency is also the account's own. Elsewhere the real provider converts,
/// and this one takes any amount above zero. Source: docs.stripe.com/currencies, "minimum and maximum charge amounts".
const LEAST: [(&str, i64); 24] = [
    ("usd", 50),
    ("eur", 50),
    ("chf", 50),
    ("cad", 50),
    ("aud", 50),
    ("nzd", 50),
    ("sgd", 50),
    ("inr", 50),
    ("brl", 50),
    ("gbp", 30),
    ("dkk", 250),
    ("nok", 300),
    ("sek", 300),
    ("hkd", 400),
    ("jpy", 50),
    ("mxn", 1_000),
    ("thb", 1_000),
    ("pln", 200),
    ("aed", 200),
    ("ron", 200),
    ("myr", 200),
    ("bgn", 100),
    ("czk", 1_500),
    ("huf", 17_500),
];

/// The smallest unit that cannot be paid: the last of three decimals is 0, and two that do not exist are 00.
const STEPS: [(&str, i64); 7] =
    [("bhd", 10), ("jod", 10), ("kwd", 10), ("omr", 10), ("tnd", 10), ("isk", 100), ("ugx", 100)];

const CURRENCIES: &str = "\
    aed afn all amd ang aoa ars aud awg azn bam bbd bdt bgn bhd bif bmd bnd bob brl bsd bwp byn bzd cad cdf chf \
    clp cny cop crc cve czk djf dkk dop dzd egp etb eur fjd fkp gbp gel gip gmd gnf gtq gyd hkd hnl htg huf idr \
    ils inr isk jmd jod jpy kes kgs khr kmf krw kwd kyd kzt lak lbp lkr lrd lsl mad mdl mga mkd mmk mnt mop mur \
    mvr mwk mxn myr mzn nad ngn nio nok npr nzd omr pab pen pgk php pkr pln pyg qar ron rsd rub rwf sar sbd scr \
    sek sgd shp sle sos srd std szl thb tjs tnd top try ttd twd tzs uah ugx usd uyu uzs vnd vuv wst xaf xcd xcg \
    xof xpf yer zar zmw";

/// Whether this much of this currency, as it stands on the wire, can be charged.
pub(crate) fn check_amount(amount_minor: i64, currency: &str) -> Result<(), Refusal> {
    /// Eight digits, and twelve of the rupiah, whose units are small.
    const MOST: i64 = 99_999_999;
    const MOST_RUPIAH: i64 = 999_999_999_999;
    check_currency(currency)?;
    let refused = |code, message: String| Err(Refusal::new(Some(code), "amount", message));
    if amount_minor < 1 {
        return refused("parameter_invalid_integer", "This value must be greater than or equal to 1.".to_owned());
    }
    let least = LEAST.iter().find(|(code, _)| *code == currency).map_or(1, |(_, least)| *least);
    if amount_minor < least {
        return refused("amount_too_small", format!("Amount must be at least {least} {currency}"));
    }
    let most = if currency == "idr" { MOST_RUPIAH } else { MOST };
    if amount_minor > most {
        return refused("amount_too_large", format!("Amount must be no more than {most} {currency}"));
    }
    match STEPS.iter().find(|(code, _)| *code == currency) {
        Some((_, step)) if amount_minor % step != 0 => {
            refused("parameter_invalid_integer", format!("Amount must be a multiple of {step} in {currency}"))
        }
        _ => Ok(()),
    }
}

pub(crate) fn check_currency(currency: &str) -> Result<(), Refusal> {
    match currency.len() == 3 && CURRENCIES.split_whitespace().any(|known| known == currency) {
        true => Ok(()),
        false => Err(Refusal::new(None, "currency", format!("Invalid currency: {currency}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_refused_below_and_above_their_bounds_and_between_their_steps() {
        let table = [
            (50, "eur", ""),
            (49, "eur", "amount_too_small"),
            (0, "eur", "parameter_invalid_integer"),
            (-50, "eur", "parameter_invalid_integer"),
            (99_999_999, "eur", ""),
            (100_000_000, "eur", "amount_too_large"),
            (999_999_999_999, "idr", ""),
            (1_000_000_000_000, "idr", "amount_too_large"),
            (30, "gbp", ""),
            (29, "gbp", "amount_too_small"),
            (50, "jpy", ""),
            (49, "jpy", "amount_too_small"),
            (17_499, "huf", "amount_too_small"),
            (5_120, "kwd", ""),
            (5_124, "kwd", "parameter_invalid_integer"),
            (500, "ugx", ""),
            (550, "ugx", "parameter_invalid_integer"),
            (1, "zmw", ""),
            (50, "EUR", "-"),
            (50, "xxx", "-"),
            (50, "eu", "-"),
            (50, "eur usd", "-"),
        ];
        for (amount, currency, expected) in table {
            let code = match check_amount(amount, currency) {
                Ok(()) => "",
                Err(refusal) => refusal.code.unwrap_or("-"),
            };
            assert_eq!(code, expected, "{amount} {currency}");
        }
    }
}
