//! `/v1/cart`: what a buyer or a guest means to order. One call to Redis a request; what is shown beside it is a second old.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use doorbuster_engine::domain::carts::{Addition, Cart, CartChange, CartOwner, LineQuantity};
use doorbuster_engine::domain::ids::VariantId;
use doorbuster_engine::domain::money::Money;
use doorbuster_engine::flows::EngineError;
use doorbuster_engine::ledger::showcase::ShownVariant;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Amount;
use crate::auth::Buyer;
use crate::error::{Errors, FieldProblem, IDEMPOTENT_REPLAYED, Problem, kinds};
use crate::etag::{IfMatch, IfMatchHeader, etag};
use crate::extract::{JsonBody, Key, KeyHeader, PathText};
use crate::shopper::{Guest, Shopper};
use crate::showcase::Shown;
use crate::state::Gate;

/// A SKU, a number, and room for spaces.
const BODY_BYTES: usize = 1024;
/// Longer than any SKU.
const SKU_BYTES_MAX: usize = 128;

/// A guest's session
#[derive(Debug, Serialize, ToSchema)]
pub struct GuestSession {
    /// Send it as the header `Cart-Session`, as it is. Whoever knows it has the cart
    pub cart_session: String,
}

/// What comes into the cart: either `sku` or `variant_id` says what
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewItem {
    #[schema(example = "shoe-42", max_length = 128)]
    pub sku: Option<String>,
    pub variant_id: Option<i32>,
    #[schema(minimum = 1, maximum = 999)]
    pub quantity: i64,
}

/// How many of a line there shall be
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ItemQuantity {
    #[schema(minimum = 1, maximum = 999)]
    pub quantity: i64,
}

/// A cart
#[derive(Debug, Serialize, ToSchema)]
pub struct CartFound {
    /// Grows with every change; 0 if there is no cart. The ETag is the same between quotes, with a v
    pub version: u64,
    pub lines: Vec<CartFoundLine>,
    /// Of the lines that are for sale, at today's prices; null while one is not known, or if they are in several currencies
    pub subtotal: Option<Amount>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct CartFoundLine {
    pub variant_id: i32,
    pub quantity: u32,
    /// What was shown when it came into the cart
    pub price_at_add: Amount,
    pub status: LineStatus,
    pub sku: Option<String>,
    pub title: Option<String>,
    pub product: Option<String>,
    /// Today's price
    pub price: Option<Amount>,
    /// Whether today's price is another one than was shown then
    pub price_changed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum LineStatus {
    ForSale,
    NotForSale,
    /// The catalog cannot be asked just now: what it would say is null
    Unknown,
}

/// The buyer's cart after a merge
#[derive(Debug, Serialize, ToSchema)]
pub struct CartMergedFound {
    pub cart: CartFound,
    /// Variants that got fewer units than the guest's cart had: the limit of a line
    pub clamped: Vec<i32>,
    /// Variants for which the cart had no place; they stay in the guest's cart
    pub left_out: Vec<i32>,
}

/// Begin a guest's cart
///
/// Nothing is kept before something is put into it.
#[utoipa::path(
    post, path = "/v1/carts/guest", tag = "carts",
    responses((status = 201, body = GuestSession)),
    security(())
)]
pub async fn begin_guest(State(gate): State<Gate>) -> Response {
    (StatusCode::CREATED, Json(GuestSession { cart_session: gate.sessions.begin() })).into_response()
}

/// The cart
#[utoipa::path(
    get, path = "/v1/cart", tag = "carts",
    responses((status = 200, body = CartFound, headers(("ETag", description = "For If-Match")))),
    security(("buyer" = []), ("guest" = []))
)]
pub async fn get_cart(State(gate): State<Gate>, Shopper(owner): Shopper) -> Result<Response, Problem> {
    let cart = gate.engine.carts.read(&owner).await.map_err(EngineError::from)?;
    Ok(answer(&gate, cart.unwrap_or(Cart::none())).await)
}

/// Put units into the cart
///
/// They come on top of what the line has. The price is ours, of now.
#[utoipa::path(
    post, path = "/v1/cart/items", tag = "carts",
    params(KeyHeader),
    request_body = NewItem,
    responses(
        (status = 200, body = CartFound, headers(("ETag", description = "For If-Match"))),
        Errors<(
            kinds::VariantNotFound,
            kinds::NotForSale,
            kinds::CartFull,
            kinds::QuantityLimit,
            kinds::KeyReused,
            kinds::Overloaded,
        )>,
    ),
    security(("buyer" = []), ("guest" = []))
)]
pub async fn add_item(
    State(gate): State<Gate>,
    Shopper(owner): Shopper,
    Key(key): Key,
    JsonBody(item): JsonBody<NewItem, BODY_BYTES>,
) -> Result<Response, Problem> {
    let quantity = LineQuantity::new(item.quantity).map_err(|error| Problem::field("quantity", error.to_string()))?;
    let showcase = &gate.showcase;
    let variant = match (&item.sku, item.variant_id) {
        (Some(sku), None) if sku.len() <= SKU_BYTES_MAX && !sku.contains('\0') => {
            showcase.variant_of_sku(sku, &owner).await?
        }
        (Some(_), None) => None,
        (None, Some(id)) => showcase.variant(VariantId(id)).await?,
        _ => {
            let detail = "either sku or variant_id must be given";
            return Err(Problem::Invalid(vec![FieldProblem::new("sku", detail)]));
        }
    };
    let variant = variant.ok_or(Problem::VariantNotFound)?;
    if !variant.is_for_sale {
        return Err(Problem::NotForSale);
    }
    let addition = Addition { variant_id: variant.id, quantity, price: variant.price, key };
    changed(&gate, gate.engine.carts.add(&owner, &addition).await.map_err(EngineError::from)?).await
}

/// Give a line another quantity
///
/// A line that is not there is put in. `If-Match: "v0"` begins a cart that is not there.
#[utoipa::path(
    put, path = "/v1/cart/items/{variant}", tag = "carts",
    params(("variant" = i32, Path, description = "The variant's id", example = 2), IfMatchHeader),
    request_body = ItemQuantity,
    responses(
        (status = 200, body = CartFound, headers(("ETag", description = "For If-Match"))),
        Errors<(
            kinds::VariantNotFound,
            kinds::NotForSale,
            kinds::CartFull,
            kinds::QuantityLimit,
            kinds::Overloaded,
        )>,
    ),
    security(("buyer" = []), ("guest" = []))
)]
pub async fn set_item(
    State(gate): State<Gate>,
    Shopper(owner): Shopper,
    IfMatch(expected): IfMatch,
    PathText(variant): PathText,
    JsonBody(item): JsonBody<ItemQuantity, BODY_BYTES>,
) -> Result<Response, Problem> {
    let quantity = LineQuantity::new(item.quantity).map_err(|error| Problem::field("quantity", error.to_string()))?;
    let id = variant.parse().map(VariantId).map_err(|_| Problem::VariantNotFound)?;
    let variant = gate.showcase.variant(id).await?.ok_or(Problem::VariantNotFound)?;
    if !variant.is_for_sale {
        return Err(Problem::NotForSale);
    }
    let change = gate.engine.carts.set(&owner, &expected, id, quantity, variant.price).await;
    changed(&gate, change.map_err(EngineError::from)?).await
}

/// Take a line out
#[utoipa::path(
    delete, path = "/v1/cart/items/{variant}", tag = "carts",
    params(("variant" = i32, Path, description = "The variant's id", example = 2), IfMatchHeader),
    responses(
        (status = 200, body = CartFound, headers(("ETag", description = "For If-Match"))),
        Errors<kinds::CartLineNotFound>,
    ),
    security(("buyer" = []), ("guest" = []))
)]
pub async fn remove_item(
    State(gate): State<Gate>,
    Shopper(owner): Shopper,
    IfMatch(expected): IfMatch,
    PathText(variant): PathText,
) -> Result<Response, Problem> {
    let id = variant.parse().map(VariantId).map_err(|_| Problem::CartLineNotFound)?;
    let change = gate.engine.carts.remove(&owner, &expected, id).await;
    changed(&gate, change.map_err(EngineError::from)?).await
}

/// Empty the cart
#[utoipa::path(
    delete, path = "/v1/cart", tag = "carts",
    params(IfMatchHeader),
    responses((status = 200, body = CartFound, headers(("ETag", description = "For If-Match")))),
    security(("buyer" = []), ("guest" = []))
)]
pub async fn clear_cart(
    State(gate): State<Gate>,
    Shopper(owner): Shopper,
    IfMatch(expected): IfMatch,
) -> Result<Response, Problem> {
    let change = gate.engine.carts.clear(&owner, &expected).await;
    changed(&gate, change.map_err(EngineError::from)?).await
}

/// Bring a guest's cart into mine
///
/// For the login: of two quantities of one variant the higher one wins, and the guest's cart is empty afterwards. Asking again
/// changes nothing.
#[utoipa::path(
    post, path = "/v1/cart/merge", tag = "carts",
    params(("Cart-Session" = String, Header, description = "The guest's session", example = "kT3vQ9mZ1xW7bR5nL2pY8dFhQ4sV6uX0yA2cE4gI6kM8oQ"), KeyHeader),
    responses((status = 200, body = CartMergedFound, headers(("ETag", description = "For If-Match")))),
    security(("buyer" = []))
)]
pub async fn merge_cart(
    State(gate): State<Gate>,
    Buyer(buyer): Buyer,
    Guest(session): Guest,
    // A version of a guest's cart is merged once, whatever the key; it is asked for as of every request that has an effect.
    Key(_): Key,
) -> Result<Response, Problem> {
    let merged = gate.engine.carts.merge_guest(&session, &buyer).await.map_err(EngineError::from)?;
    let numbers = |variants: Vec<VariantId>| variants.into_iter().map(|variant| variant.0).collect();
    let tag = etag(merged.cart.version.into());
    let cart = shown(&gate, merged.cart).await;
    let body = CartMergedFound { cart, clamped: numbers(merged.clamped), left_out: numbers(merged.left_out) };
    Ok(([tag], Json(body)).into_response())
}

async fn changed(gate: &Gate, change: CartChange) -> Result<Response, Problem> {
    match change {
        CartChange::Done(cart) => Ok(answer(gate, cart).await),
        CartChange::Replayed(cart) => {
            let mut response = answer(gate, cart).await;
            response.headers_mut().insert(IDEMPOTENT_REPLAYED, HeaderValue::from_static("true"));
            Ok(response)
        }
        CartChange::KeyReused => Err(Problem::KeyReused),
        CartChange::Stale => Err(Problem::PreconditionFailed),
        CartChange::Full { limit } => Err(Problem::CartFull { limit: limit.into() }),
        CartChange::OverLimit { limit } => Err(Problem::QuantityLimit { limit: limit.into() }),
        CartChange::NoSuchLine => Err(Problem::CartLineNotFound),
        CartChange::TooManyBegin => Err(Problem::Overloaded),
    }
}

async fn answer(gate: &Gate, cart: Cart) -> Response {
    let tag: (HeaderName, HeaderValue) = etag(cart.version.into());
    ([tag], Json(shown(gate, cart).await)).into_response()
}

/// The cart beside what the catalog says. It is the cart all the same when the catalog cannot be asked.
pub(super) async fn shown(gate: &Gate, cart: Cart) -> CartFound {
    let ids = cart.lines.iter().map(|line| line.variant_id).collect::<Vec<_>>();
    let known = match gate.showcase.variants(&ids).await {
        Ok(shown) => Some(shown),
        Err(error) => {
            tracing::debug!(%error, "a cart is shown without the catalog: {error}");
            None
        }
    };
    CartFound {
        version: cart.version.0,
        subtotal: known.as_ref().and_then(|known| subtotal(&cart, known)).map(Amount::from),
        lines: cart
            .lines
            .iter()
            .map(|line| {
                let variant = known.as_ref().and_then(|known| known.get(&line.variant_id));
                let text = |of: fn(&ShownVariant) -> &String| variant.map(|variant| of(variant).clone());
                CartFoundLine {
                    variant_id: line.variant_id.0,
                    quantity: line.quantity,
                    price_at_add: line.price_at_add.into(),
                    status: match (&known, variant) {
                        (None, _) => LineStatus::Unknown,
                        (_, Some(variant)) if variant.is_for_sale => LineStatus::ForSale,
                        _ => LineStatus::NotForSale,
                    },
                    sku: text(|variant| &variant.sku),
                    title: text(|variant| &variant.title),
                    product: text(|variant| &variant.product),
                    price: variant.map(|variant| variant.price.into()),
                    price_changed: variant.is_some_and(|variant| variant.price != line.price_at_add),
                }
            })
            .collect(),
    }
}

fn subtotal(cart: &Cart, known: &Shown) -> Option<Money> {
    let for_sale = cart.lines.iter().filter_map(|line| {
        let variant = known.get(&line.variant_id).filter(|variant| variant.is_for_sale)?;
        Some(variant.price.times(line.quantity))
    });
    let mut sum: Option<Money> = None;
    for line in for_sale {
        let line = line.ok()?;
        sum = Some(match sum {
            Some(sum) => sum.plus(line).ok()?,
            None => line,
        });
    }
    sum
}

/// The buyer's cart, for who asks what is kept of him.
pub(super) async fn cart_of(gate: &Gate, owner: &CartOwner) -> Result<Option<CartFound>, Problem> {
    match gate.engine.carts.read(owner).await.map_err(EngineError::from)? {
        Some(cart) => Ok(Some(shown(gate, cart).await)),
        None => Ok(None),
    }
}
