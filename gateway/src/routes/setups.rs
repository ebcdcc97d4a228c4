//! `/v1/me/checkout-profile/setup`: the payment provider's own page on which a buyer saves a card.
//!
//! A worker asks the provider, so that a gateway needs no credential of it. The request waits for that, and no longer than
//! [`WAIT`]: the same key asks again.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::header::RETRY_AFTER;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use doorbuster_engine::domain::ids::BuyerId;
use doorbuster_engine::ledger::setups::{SetupState, SetupView};
use serde::Serialize;
use tokio::time::Instant;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::auth::Buyer;
use crate::error::{Errors, IDEMPOTENT_REPLAYED, Problem, kinds};
use crate::extract::{Key, KeyHeader, PathText};
use crate::state::Gate;

/// A worker looks every quarter of a second, and the provider answers within one.
const WAIT: Duration = Duration::from_millis(1_500);
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A page of the payment provider's on which a card is saved
#[derive(Debug, Serialize, ToSchema)]
pub struct CardSetup {
    pub setup_id: Uuid,
    pub state: CardSetupState,
    /// Where the buyer goes, while the page is `open`
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "https://checkout.stripe.com/c/pay/cs_test_a1")]
    pub url: Option<String>,
    /// The card that was saved there; the checkout profile has it from then on
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "pm_1MtwBwLkdIwHu7ix")]
    pub payment_method: Option<String>,
}

/// How such a page stands
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CardSetupState {
    /// The payment provider has not said yet where it is
    Asked,
    Open,
    Saved,
    /// No card can be saved there any more
    Expired,
}

impl From<SetupView> for CardSetup {
    fn from(view: SetupView) -> Self {
        Self {
            setup_id: view.reference,
            state: match view.state {
                SetupState::Asked => CardSetupState::Asked,
                SetupState::Open => CardSetupState::Open,
                SetupState::Saved => CardSetupState::Saved,
                SetupState::Expired => CardSetupState::Expired,
            },
            url: view.url,
            payment_method: view.method.map(|method| method.as_str().to_owned()),
        }
    }
}

/// Save a card on the payment provider's page
///
/// Send the buyer to `url`. The card is asked about there, so their bank lets it be charged later while they are away. They
/// come back to the shop's page, with `card_setup={setup_id}` in its address; tell that with
/// POST /v1/me/checkout-profile/setup/{id}/return. A card that was saved is the checkout profile's from then on. A repeat
/// with the same key is answered with the same page, and marked `Idempotent-Replayed: true`.
#[utoipa::path(
    post, path = "/v1/me/checkout-profile/setup", tag = "checkout",
    params(KeyHeader),
    responses(
        (status = 201, body = CardSetup, description = "The page is there"),
        (status = 202, body = CardSetup, description = "The payment provider has not answered yet: ask again with the same key"),
        Errors<kinds::SetupsOff>,
    ),
    security(("buyer" = []))
)]
pub async fn begin_setup(State(gate): State<Gate>, Buyer(buyer): Buyer, Key(key): Key) -> Result<Response, Problem> {
    let return_url = gate.engine.return_url.as_deref().ok_or(Problem::SetupsOff)?;
    let ledger = &gate.engine.ledger;
    let (view, is_replay) = ledger.ask_setup(&buyer, &key, return_url, gate.engine.clock.now()).await?;
    let view = wait_while(&gate, &buyer, view, SetupState::Asked).await?;
    let mut headers = HeaderMap::new();
    if is_replay {
        headers.insert(IDEMPOTENT_REPLAYED, HeaderValue::from_static("true"));
    }
    let status = if view.state == SetupState::Asked {
        headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        StatusCode::ACCEPTED
    } else {
        StatusCode::CREATED
    };
    Ok((status, headers, Json(CardSetup::from(view))).into_response())
}

/// Say that the buyer is back from the payment provider's page
///
/// Whether a card was saved is read from the payment provider, so this may be told at any time and more than once; the
/// provider tells it too.
#[utoipa::path(
    post, path = "/v1/me/checkout-profile/setup/{id}/return", tag = "checkout",
    params(("id" = Uuid, Path, description = "The page's id"), KeyHeader),
    responses(
        (status = 200, body = CardSetup, description = "As the page stands"),
        Errors<kinds::SetupNotFound>,
    ),
    security(("buyer" = []))
)]
pub async fn return_from_setup(
    State(gate): State<Gate>,
    Buyer(buyer): Buyer,
    // Reading is the same each time, whatever the key; it is asked for as of every request that has an effect.
    Key(_): Key,
    PathText(id): PathText,
) -> Result<Json<CardSetup>, Problem> {
    let id = id.parse::<Uuid>().map_err(|_| Problem::SetupNotFound)?;
    let ledger = &gate.engine.ledger;
    let view = ledger.setup_of(&buyer, id).await?.ok_or(Problem::SetupNotFound)?;
    if view.state != SetupState::Open {
        return Ok(Json(view.into()));
    }
    ledger.read_setup_now(&buyer, id, gate.engine.clock.now()).await?;
    Ok(Json(wait_while(&gate, &buyer, view, SetupState::Open).await?.into()))
}

/// The page once it has left this state, or as it stands after [`WAIT`].
async fn wait_while(
    gate: &Gate,
    buyer: &BuyerId,
    mut view: SetupView,
    state: SetupState,
) -> Result<SetupView, Problem> {
    let deadline = Instant::now() + WAIT;
    while view.state == state && Instant::now() < deadline {
        tokio::time::sleep(LOOK_EVERY).await;
        view = gate.engine.ledger.setup_of(buyer, view.reference).await?.ok_or(Problem::SetupNotFound)?;
    }
    Ok(view)
}
