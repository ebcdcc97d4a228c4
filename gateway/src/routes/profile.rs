//! `/v1/me/checkout-profile`: where the money comes from and where the goods go. Saved before or after claiming.

use axum::Json;
use axum::extract::State;
use doorbuster_engine::domain::cards::{CardRefusal, CardState};
use doorbuster_engine::domain::countries::{check_country, needs_postal_code};
use doorbuster_engine::domain::emails::Email;
use doorbuster_engine::domain::ids::PaymentMethodId;
use doorbuster_engine::domain::texts::is_unseen;
use doorbuster_engine::ledger::customers::ProfileSaved;
use doorbuster_engine::ledger::profiles::CheckoutProfile;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::auth::Buyer;
use crate::error::{Errors, FieldProblem, Problem, kinds};
use crate::extract::JsonBody;
use crate::state::Gate;

/// Every field at its longest, in four-byte characters, with room for the names.
const PROFILE_BODY_BYTES: usize = 8 * 1024;
const ADDRESS_CHARACTERS_MAX: usize = 128;
const POSTAL_CODE_CHARACTERS_MAX: usize = 16;

/// How a buyer pays, and where to
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// The payment provider's id of a means of payment. Without one, orders wait until there is one
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "pm_card_visa", max_length = 255)]
    pub payment_method: Option<String>,
    #[schema(example = "ada@example.com", max_length = 254)]
    pub email: String,
    pub ship_to: ShipTo,
}

/// The checkout profile, and how its card stands
#[derive(Debug, Serialize, ToSchema)]
pub struct ProfileFound {
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "pm_card_visa")]
    pub payment_method: Option<String>,
    pub email: String,
    pub ship_to: ShipTo,
    /// Whether the card can be charged for one order after another. Absent without a card, and for one that was given before
    /// cards were saved
    #[serde(skip_serializing_if = "Option::is_none")]
    pub card: Option<Card>,
    /// Why it is refused
    #[serde(skip_serializing_if = "Option::is_none")]
    pub card_refusal: Option<Refusal>,
}

/// How a card stands
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Card {
    /// The payment provider is being asked
    Checking,
    Saved,
    /// It is charged once at most: give another one, or the same one again as the provider's script makes it anew
    Refused,
}

/// Why a card cannot be saved
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// It was used before, or was taken from its owner
    UsedBefore,
    /// It is somebody else's
    OfAnother,
    /// The payment provider knows no such card
    NotThere,
    /// Its bank said no
    Declined,
    /// The payment provider said no
    Refused,
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
    /// The state or province, where addresses have one
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 128)]
    pub state: Option<String>,
    /// Needed where the post has such codes
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 16)]
    pub postal_code: Option<String>,
    /// ISO 3166-1 alpha-2
    #[schema(example = "DE", min_length = 2, max_length = 2)]
    pub country: String,
}

/// The saved checkout profile
#[utoipa::path(
    get, path = "/v1/me/checkout-profile", tag = "checkout",
    responses(
        (status = 200, body = ProfileFound),
        Errors<kinds::ProfileNotFound>,
    ),
    security(("buyer" = []))
)]
pub async fn get_profile(State(gate): State<Gate>, Buyer(buyer): Buyer) -> Result<Json<ProfileFound>, Problem> {
    let saved = gate.engine.ledger.profile_of(&buyer).await?.ok_or(Problem::ProfileNotFound)?;
    let Ok(ship_to) = serde_json::from_value(saved.ship_to) else {
        tracing::error!(%buyer, "the saved address of buyer {buyer} does not have the form of an address");
        return Err(Problem::Internal);
    };
    let payment_method = saved.payment_method.map(|method| method.as_str().to_owned());
    let card = gate.engine.ledger.card_of_profile(&buyer).await?;
    Ok(Json(ProfileFound::of(Profile { payment_method, email: saved.email, ship_to }, card)))
}

/// Save the checkout profile
///
/// Orders made from now on are paid and shipped with it. An order that waits for a payment takes it with
/// POST /v1/orders/{id}/payment. Spaces around a text are left out, and so are empty texts that need not be given.
///
/// A card is then saved at the payment provider for this buyer alone, within seconds: `card` says how it stands. It can be
/// charged for one order after another once it is `saved`.
#[utoipa::path(
    put, path = "/v1/me/checkout-profile", tag = "checkout",
    request_body = Profile,
    responses(
        (status = 200, body = ProfileFound, description = "As it was saved"),
        Errors<kinds::CardNeededAgain>,
    ),
    security(("buyer" = []))
)]
pub async fn put_profile(
    State(gate): State<Gate>,
    Buyer(buyer): Buyer,
    JsonBody(profile): JsonBody<Profile, PROFILE_BODY_BYTES>,
) -> Result<Json<ProfileFound>, Problem> {
    let profile = profile.trimmed();
    let payment_method = check(&profile)?;
    let ship_to = serde_json::to_value(&profile.ship_to).expect("an address is made of texts");
    let saved = CheckoutProfile { payment_method, email: profile.email.clone(), ship_to };
    match gate.engine.ledger.save_profile_and_card(&buyer, &saved, gate.engine.clock.now()).await? {
        ProfileSaved::Now(card) => Ok(Json(ProfileFound::of(profile, card))),
        ProfileSaved::CardNeededAgain(refusal) => Err(Problem::CardNeededAgain { why: why(refusal) }),
    }
}

impl ProfileFound {
    pub fn of(profile: Profile, card: Option<(CardState, Option<CardRefusal>)>) -> Self {
        let (card, refusal) = card.map_or((None, None), |(state, refusal)| (Some(state), refusal));
        let card = card.map(|state| match state {
            CardState::Checking => Card::Checking,
            CardState::Saved => Card::Saved,
            CardState::Refused => Card::Refused,
        });
        let card_refusal = refusal.map(|refusal| match refusal {
            CardRefusal::UsedBefore => Refusal::UsedBefore,
            CardRefusal::OfAnother => Refusal::OfAnother,
            CardRefusal::NotThere => Refusal::NotThere,
            CardRefusal::Declined => Refusal::Declined,
            CardRefusal::Refused => Refusal::Refused,
        });
        let Profile { payment_method, email, ship_to } = profile;
        Self { payment_method, email, ship_to, card, card_refusal }
    }
}

/// As the beginning of a sentence.
fn why(refusal: CardRefusal) -> &'static str {
    match refusal {
        CardRefusal::UsedBefore => "This one was used before, or was taken from its owner, and cannot be used again",
        CardRefusal::OfAnother => "This one is somebody else's",
        CardRefusal::NotThere => "The payment provider knows none of this name",
        CardRefusal::Declined => "Its bank said no",
        CardRefusal::Refused => "The payment provider said no",
    }
}

impl Profile {
    /// Without the spaces around its texts, and without those that are empty.
    fn trimmed(self) -> Self {
        let trim = |text: String| text.trim().to_owned();
        let trim_optional = |text: Option<String>| text.map(trim).filter(|text| !text.is_empty());
        let ShipTo { name, line1, line2, city, state, postal_code, country } = self.ship_to;
        Self {
            payment_method: self.payment_method,
            email: trim(self.email),
            ship_to: ShipTo {
                name: trim(name),
                line1: trim(line1),
                line2: trim_optional(line2),
                city: trim(city),
                state: trim_optional(state),
                postal_code: trim_optional(postal_code),
                country: trim(country),
            },
        }
    }
}

/// Everything that is wrong with it, at once.
fn check(profile: &Profile) -> Result<Option<PaymentMethodId>, Problem> {
    let mut errors = Vec::new();
    let mut wrong = |field: &str, detail: String| errors.push(FieldProblem::new(field, detail));
    let payment_method = profile.payment_method.as_deref().map(str::parse::<PaymentMethodId>).transpose();
    match &payment_method {
        Ok(Some(method)) if method.is_card_number() => wrong(
            "payment_method",
            "is a card number, which must not come here: send the name that the payment provider gave the card (pm_…)"
                .to_owned(),
        ),
        Ok(_) => {}
        Err(error) => wrong("payment_method", error.to_string()),
    }
    if let Err(error) = profile.email.parse::<Email>() {
        wrong("email", error.to_string());
    }
    let ship_to = &profile.ship_to;
    for (field, text, longest) in [
        ("ship_to.name", Some(&ship_to.name), ADDRESS_CHARACTERS_MAX),
        ("ship_to.line1", Some(&ship_to.line1), ADDRESS_CHARACTERS_MAX),
        ("ship_to.line2", ship_to.line2.as_ref(), ADDRESS_CHARACTERS_MAX),
        ("ship_to.city", Some(&ship_to.city), ADDRESS_CHARACTERS_MAX),
        ("ship_to.state", ship_to.state.as_ref(), ADDRESS_CHARACTERS_MAX),
        ("ship_to.postal_code", ship_to.postal_code.as_ref(), POSTAL_CODE_CHARACTERS_MAX),
    ] {
        let Some(text) = text else { continue };
        if !(1..=longest).contains(&text.chars().count()) || text.chars().any(is_unseen) {
            wrong(field, format!("must be 1 to {longest} characters, without line breaks or others that nobody sees"));
        }
    }
    match check_country(&ship_to.country) {
        Err(detail) => wrong("ship_to.country", detail),
        Ok(()) if ship_to.postal_code.is_none() && needs_postal_code(&ship_to.country) => {
            wrong("ship_to.postal_code", format!("must be given in an address in {}", ship_to.country));
        }
        Ok(()) => {}
    }
    match payment_method {
        Ok(payment_method) if errors.is_empty() => Ok(payment_method),
        _ => Err(Problem::Invalid(errors)),
    }
}
