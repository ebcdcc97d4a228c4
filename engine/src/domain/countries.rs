//! The countries that goods are sent to: one list for addresses and for rates.

use std::fmt;
use std::str::FromStr;

/// ISO 3166-1 alpha-2.
const COUNTRIES: &str = "AD AE AF AG AI AL AM AO AQ AR AS AT AU AW AX AZ BA BB BD BE BF BG BH BI BJ BL BM BN BO BQ BR BS \
    BT BV BW BY BZ CA CC CD CF CG CH CI CK CL CM CN CO CR CU CV CW CX CY CZ DE DJ DK DM DO DZ EC EE EG EH ER ES ET FI FJ \
    FK FM FO FR GA GB GD GE GF GG GH GI GL GM GN GP GQ GR GS GT GU GW GY HK HM HN HR HT HU ID IE IL IM IN IO IQ IR IS IT \
    JE JM JO JP KE KG KH KI KM KN KP KR KW KY KZ LA LB LC LI LK LR LS LT LU LV LY MA MC MD ME MF MG MH MK ML MM MN MO MP \
    MQ MR MS MT MU MV MW MX MY MZ NA NC NE NF NG NI NL NO NP NR NU NZ OM PA PE PF PG PH PK PL PM PN PR PS PT PW PY QA RE \
    RO RS RU RW SA SB SC SD SE SG SH SI SJ SK SL SM SN SO SR SS ST SV SX SY SZ TC TD TF TG TH TJ TK TL TM TN TO TR TT TV \
    TW TZ UA UG UM US UY UZ VA VC VE VG VI VN VU WF WS YE YT ZA ZM ZW";

/// Countries whose post knows no codes, or whose people often have none.
const WITHOUT_POSTAL_CODES: &str = "AE AG AO AW BF BI BJ BO BS BW BZ CD CF CG CI CK CM CW DJ DM ER FJ GA GD GH GM GQ GY HK IE \
    JM KI KM KN KP LC LY ML MO MR MW NR NU PA QA RW SB SC SL SR SS ST SX SY TD TF TG TK TL TO TV UG VU YE ZW";

/// Codes that people write for a country which has another one.
const MEANT: [(&str, &str); 3] = [("UK", "GB"), ("EL", "GR"), ("EN", "GB")];

/// A country of the list, in two bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Country([u8; 2]);

impl Country {
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("a country is made of ASCII capitals only")
    }

    pub fn bytes(self) -> [u8; 2] {
        self.0
    }
}

impl FromStr for Country {
    /// What is wrong with a code that names none.
    type Err = String;

    fn from_str(code: &str) -> Result<Self, String> {
        check_country(code)?;
        let bytes = code.as_bytes().try_into();
        Ok(Self(bytes.expect("every code of the list has two bytes")))
    }
}

impl fmt::Display for Country {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Country {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Says what is wrong with a code that names no country.
pub fn check_country(code: &str) -> Result<(), String> {
    if is_in(COUNTRIES, code) {
        return Ok(());
    }
    let upper = code.to_uppercase();
    let meant = MEANT.iter().find(|(written, _)| *written == upper).map_or(&*upper, |(_, meant)| meant);
    match is_in(COUNTRIES, meant) {
        true => Err(format!("must be a country code of ISO 3166-1; for {code} that is {meant}")),
        false => Err("must be a country code of ISO 3166-1 such as DE".to_owned()),
    }
}

/// Whether an address there needs a postal code.
pub fn needs_postal_code(code: &str) -> bool {
    !is_in(WITHOUT_POSTAL_CODES, code)
}

fn is_in(list: &str, code: &str) -> bool {
    list.split(' ').any(|known| known == code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lists_are_complete_and_sorted() {
        let codes = COUNTRIES.split(' ').collect::<Vec<_>>();
        assert_eq!(codes.len(), 249);
        assert!(codes.windows(2).all(|pair| pair[0] < pair[1]));
        assert!(WITHOUT_POSTAL_CODES.split(' ').all(|code| check_country(code).is_ok()));
        assert!(!needs_postal_code("HK") && needs_postal_code("DE"));
    }

    #[test]
    fn a_code_that_is_none_names_the_one_that_is_meant() {
        for (written, meant) in [("UK", "GB"), ("uk", "GB"), ("EL", "GR"), ("de", "DE")] {
            assert!(
                check_country(written).unwrap_err().ends_with(&format!("for {written} that is {meant}")),
                "{written}"
            );
        }
        for wrong in ["XX", "DEU", "", "*", "D E"] {
            assert!(check_country(wrong).unwrap_err().ends_with("such as DE"), "{wrong}");
        }
    }
}
