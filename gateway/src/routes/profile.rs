//! `/v1/me/checkout-profile`: where the money comes from and where the goods go. Saved before or after claiming.

use axum::Json;
use axum::extract::State;
use doorbuster_engine::domain::ids::PaymentMethodId;
use doorbuster_engine::ledger::profiles::CheckoutProfile;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::auth::Buyer;
use crate::error::{Errors, FieldProblem, Problem, kinds};
use crate::extract::JsonBody;
use crate::state::Gate;

/// Every field at its longest, in four-byte characters, with room for the names.
const PROFILE_BODY_BYTES: usize = 8 * 1024;
/// RFC 5321: 256 bytes for a path, two of which are its brackets.
const EMAIL_BYTES_MAX: usize = 254;
/// RFC 5321.
const EMAIL_LOCAL_BYTES_MAX: usize = 64;
const ADDRESS_CHARACTERS_MAX: usize = 128;
const POSTAL_CODE_CHARACTERS_MAX: usize = 16;

/// ISO 3166-1 alpha-2.
const COUNTRIES: &str = "AD AE AF AG AI AL AM AO AQ AR AS AT AU AW AX AZ BA BB BD BE BF BG BH BI BJ BL BM BN BO BQ BR BS \
    BT BV BW BY BZ CA CC CD CF CG CH CI CK CL CM CN CO CR CU CV CW CX CY CZ DE DJ DK DM DO DZ EC EE EG EH ER ES ET FI FJ \
    FK FM FO FR GA GB GD GE GF GG GH GI GL GM GN GP GQ GR GS GT GU GW GY HK HM HN HR HT HU ID IE IL IM IN IO IQ IR IS IT \
    JE JM JO JP KE KG KH KI KM KN KP KR KW KY KZ LA LB LC LI LK LR LS LT LU LV LY MA MC MD ME MF MG MH MK ML MM MN MO MP \
    MQ MR MS MT MU MV MW MX MY MZ NA NC NE NF NG NI NL NO NP NR NU NZ OM PA PE PF PG PH PK PL PM PN PR PS PT PW PY QA RE \
    RO RS RU RW SA SB SC SD SE SG SH SI SJ SK SL SM SN SO SR SS ST SV SX SY SZ TC TD TF TG TH TJ TK TL TM TN TO TR TT TV \
    TW TZ UA UG UM US UY UZ VA VC VE VG VI VN VU WF WS YE YT ZA ZM ZW";

/// How a buyer pays, and where to
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// The payment provider's id of a stored means of payment
    #[schema(example = "pm_card_visa", max_length = 255)]
    pub payment_method: String,
    #[schema(example = "ada@example.com", max_length = 254)]
    pub email: String,
    pub ship_to: ShipTo,
}

/// A postal address
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ShipTo {
    #[schema(max_length = 128)]
    pub name: String,
    #[schema(max_length = 128)]
    pub line1: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 128)]
    pub line2: Option<String>,
    #[schema(max_length = 128)]
    pub city: String,
    #[schema(max_length = 16)]
    pub postal_code: String,
    /// ISO 3166-1 alpha-2
    #[schema(example = "DE", min_length = 2, max_length = 2)]
    pub country: String,
}

/// The saved checkout profile
#[utoipa::path(
    get, path = "/v1/me/checkout-profile", tag = "checkout",
    responses(
        (status = 200, body = Profile),
        Errors<kinds::ProfileNotFound>,
    ),
    security(("buyer" = []))
)]
pub async fn get_profile(State(gate): State<Gate>, Buyer(buyer): Buyer) -> Result<Json<Profile>, Problem> {
    let saved = gate.engine.ledger.profile_of(&buyer).await?.ok_or(Problem::ProfileNotFound)?;
    let Ok(ship_to) = serde_json::from_value(saved.ship_to) else {
        tracing::error!(%buyer, "the saved address of buyer {buyer} does not have the form of an address");
        return Err(Problem::Internal);
    };
    let payment_method = saved.payment_method.as_str().to_owned();
    Ok(Json(Profile { payment_method, email: saved.email, ship_to }))
}

/// Save the checkout profile
///
/// Orders made from now on are paid and shipped with it. An order that waits for a payment takes it with
/// POST /v1/orders/{id}/payment.
#[utoipa::path(
    put, path = "/v1/me/checkout-profile", tag = "checkout",
    request_body = Profile,
    responses((status = 200, body = Profile, description = "As it was saved")),
    security(("buyer" = []))
)]
pub async fn put_profile(
    State(gate): State<Gate>,
    Buyer(buyer): Buyer,
    JsonBody(profile): JsonBody<Profile, PROFILE_BODY_BYTES>,
) -> Result<Json<Profile>, Problem> {
    let payment_method = check(&profile)?;
    let ship_to = serde_json::to_value(&profile.ship_to).expect("an address is made of texts");
    let saved = CheckoutProfile { payment_method, email: profile.email.clone(), ship_to };
    gate.engine.ledger.save_profile(&buyer, &saved, gate.engine.clock.now()).await?;
    Ok(Json(profile))
}

/// Everything that is wrong with it, at once.
fn check(profile: &Profile) -> Result<PaymentMethodId, Problem> {
    let mut errors = Vec::new();
    let mut wrong = |field: &str, detail: String| errors.push(FieldProblem::new(field, detail));
    let payment_method = profile.payment_method.parse::<PaymentMethodId>();
    if let Err(error) = &payment_method {
        wrong("payment_method", error.to_string());
    }
    if !is_plausible_email(&profile.email) {
        wrong("email", format!("must be an e-mail address of at most {EMAIL_BYTES_MAX} bytes"));
    }
    let ship_to = &profile.ship_to;
    for (field, text, longest) in [
        ("ship_to.name", Some(&ship_to.name), ADDRESS_CHARACTERS_MAX),
        ("ship_to.line1", Some(&ship_to.line1), ADDRESS_CHARACTERS_MAX),
        ("ship_to.line2", ship_to.line2.as_ref(), ADDRESS_CHARACTERS_MAX),
        ("ship_to.city", Some(&ship_to.city), ADDRESS_CHARACTERS_MAX),
        ("ship_to.postal_code", Some(&ship_to.postal_code), POSTAL_CODE_CHARACTERS_MAX),
    ] {
        let Some(text) = text else { continue };
        let fits = (1..=longest).contains(&text.chars().count());
        if !fits || text.trim() != text || text.chars().any(char::is_control) {
            wrong(field, format!("must be 1 to {longest} characters, without spaces around or control characters"));
        }
    }
    if !COUNTRIES.split(' ').any(|country| country == ship_to.country) {
        wrong("ship_to.country", "must be a country code of ISO 3166-1 such as DE".to_owned());
    }
    match payment_method {
        Ok(payment_method) if errors.is_empty() => Ok(payment_method),
        _ => Err(Problem::Invalid(errors)),
    }
}

/// Has the form of an address that mail can be sent to; whether somebody reads it only mail can tell.
fn is_plausible_email(text: &str) -> bool {
    let Some((local, domain)) = text.rsplit_once('@') else { return false };
    let printable = text.chars().all(|character| !character.is_control() && !character.is_whitespace());
    let special = text.contains(['<', '>', '(', ')', '[', ']', ',', ';', ':', '\\', '"']);
    let labels = domain.split('.').all(|label| !label.is_empty() && !label.starts_with('-') && !label.ends_with('-'));
    text.len() <= EMAIL_BYTES_MAX
        && (1..=EMAIL_LOCAL_BYTES_MAX).contains(&local.len())
        && !local.contains('@')
        && domain.contains('.')
        && labels
        && printable
        && !special
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn emails_are_plausible_or_not() {
        for good in ["ada@example.com", "a.b+c@sub.example.co.uk", "jörg@example.de"] {
            assert!(is_plausible_email(good), "{good}");
        }
        let long = format!("{}@example.com", "a".repeat(65));
        for bad in
            ["", "ada", "@example.com", "ada@", "ada@localhost", "a b@c.de", "a@b..de", "a@b@c.de", "a@-b.de", &long]
        {
            assert!(!is_plausible_email(bad), "{bad}");
        }
        assert!(!is_plausible_email("a@b.de\r\nBcc: x@y.z"));
    }

    #[test]
    fn the_list_of_countries_is_complete_and_sorted() {
        let codes = COUNTRIES.split(' ').collect::<Vec<_>>();
        assert_eq!(codes.len(), 249);
        assert!(codes.windows(2).all(|pair| pair[0] < pair[1]));
    }
}
