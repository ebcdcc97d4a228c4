//! `/v1/drops/{drop}/line`: the line of a drop. Everybody sees the same board, which costs no store anything; a place is its
//! buyer's alone.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, LOCATION};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use doorbuster_engine::domain::claims::Quantity;
use doorbuster_engine::domain::drops::SaleDrop;
use doorbuster_engine::domain::ids::{BuyerId, IdempotencyKey};
use doorbuster_engine::domain::line::joining::{JoinRefused, PlaceKept};
use doorbuster_engine::domain::line::rounds::MAX_CHOICES;
use doorbuster_engine::domain::line::rules::hash_of;
use doorbuster_engine::domain::line::state::{EntryState, LineState};
use doorbuster_engine::domain::money::Money;
use doorbuster_engine::domain::versions::{Expected, Version};
use doorbuster_engine::flows::LiveDrop;
use doorbuster_engine::flows::line::{Board, JoinAsked, LineJoined, MyPlace, Where};
use doorbuster_engine::ledger::line::{Changed, Choice, Joined, LeftPlace, LineEntry};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::Amount;
use super::checkout::AcceptedTotal;
use super::claims::{country_of, not_served};
use crate::auth::Buyer;
use crate::error::{Errors, IDEMPOTENT_REPLAYED, Problem, kinds};
use crate::etag::{IfMatch, IfMatchHeader, IfNoneMatch, MaybeIfMatch, MaybeIfMatchHeader, etag};
use crate::extract::{JsonBody, Key, KeyHeader, PathPair, PathText};
use crate::state::Gate;
use crate::words;

/// Three SKUs of 64 bytes, three totals, a country.
const LINE_BODY_BYTES: usize = 4 * 1024;
/// Everybody sees a board for a second; while Postgres is away, a cache shows the last one a little longer.
const BOARD_CACHE: &str = "public, max-age=1, s-maxage=1, stale-while-revalidate=1, stale-if-error=30";
/// What a sealed line publishes never changes.
const FOR_EVER: &str = "public, max-age=31536000, immutable";
/// A bundle of a line that may still change.
const BUNDLE_CACHE: &str = "public, max-age=5";
/// Between two looks at a board, in seconds.
const LOOK_EVERY: (u32, u32) = (2, 15);

/// What to stand in line for
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewPlace {
    /// One to three variants, the one they like best first: a round gives the first that is left
    #[schema(min_items = 1, max_items = 3)]
    pub choices: Vec<NewChoice>,
    /// Units, all of one variant, all or nothing
    #[serde(default = "one")]
    #[schema(minimum = 1, maximum = 100, default = 1)]
    pub quantity: i64,
    /// Where they are to go (ISO 3166-1)
    #[schema(example = "DE")]
    pub country: String,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewChoice {
    #[schema(example = "shoe-42")]
    pub sku: String,
    /// The most that they pay for all units of it, with tax and shipping. What it costs now if left out
    pub accepted_total: Option<AcceptedTotal>,
}

fn one() -> i64 {
    1
}

/// A buyer's place in line
#[derive(Debug, Serialize, ToSchema)]
pub struct LinePlace {
    pub drop: String,
    /// Stands for the buyer in what is published, and says nothing about them
    #[schema(example = "7e8e089726701a50707b433738a20388")]
    pub entry_id: String,
    /// Evidence of the place, signed with the key in the line's rules
    pub ticket: String,
    pub status: PlaceStatus,
    pub choices: Vec<PlaceChoice>,
    pub quantity: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "DE")]
    pub country: Option<String>,
    /// Raised by every change; the ETag names it
    pub revision: u32,
    pub joined_at: Timestamp,
    /// The place in the order of the line, from 0, once it is known
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rank: Option<u32>,
    /// The round, counted from 1, in which the rank is decided at the latest
    #[serde(skip_serializing_if = "Option::is_none")]
    pub round: Option<u32>,
    /// The order of an award
    #[serde(skip_serializing_if = "Option::is_none")]
    pub order_id: Option<Uuid>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct PlaceChoice {
    pub sku: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accepted_total: Option<Amount>,
}

#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PlaceStatus {
    /// In line
    Waiting,
    /// They left
    Left,
    /// Another place with the same card stands for it
    Merged,
    /// Units are theirs: there is an order
    Awarded,
}

/// What everybody sees of a line, a second old at most
#[derive(Debug, Serialize, ToSchema)]
pub struct LineBoard {
    #[schema(value_type = words::LineState)]
    pub state: LineState,
    /// The server's time
    pub now: Timestamp,
    /// Only rises: a board with a lower one is older
    pub version: u64,
    pub line_opens_at: Timestamp,
    pub seal_at: Timestamp,
    pub opens_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub closes_at: Option<Timestamp>,
    /// Places that are taken
    pub in_line: u32,
    /// The list as it was sealed, and what decides its order
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seal: Option<BoardSeal>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rounds: Option<BoardRounds>,
    /// The shop holds no rounds for now
    pub paused: bool,
    /// Of each variant, in the drop's order: `many`, `few` or `none`
    #[schema(example = json!(["many", "none"]))]
    pub left: Vec<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Look again after so many seconds, at least and at most
    pub look: [u32; 2],
}

#[derive(Debug, Serialize, ToSchema)]
pub struct BoardSeal {
    pub count: u32,
    /// SHA-256 of the rules
    #[schema(value_type = String)]
    pub rules: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub root: Option<String>,
    /// The beacon's round
    #[serde(skip_serializing_if = "Option::is_none")]
    pub beacon: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reveal_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct BoardRounds {
    /// Rounds that are over
    pub over: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_at: Option<Timestamp>,
    pub every: u32,
    pub per_round: u32,
    /// Ranks that have been decided
    pub served: u32,
}

/// A part of the sealed list
#[derive(Debug, Serialize, ToSchema)]
pub struct Leaves {
    pub count: u32,
    /// Each entry whose id begins so
    pub leaves: Vec<Leaf>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct Leaf {
    /// In the sealed list, from 0
    pub index: u32,
    pub entry_id: String,
}

/// Join the line
///
/// The place is written down before this answers, and nothing makes it forgotten. Joining never changes a place: whoever is in line gets it as it is.
#[utoipa::path(
    post, path = "/v1/drops/{drop}/line", tag = "line",
    params(("drop" = String, Path, description = "The drop's name", example = "shoe"), KeyHeader),
    request_body = NewPlace,
    responses(
        (status = 201, body = LinePlace, description = "In line now or, with Idempotent-Replayed: true, before",
            headers(("Location" = String), ("Idempotent-Replayed" = Option<bool>))),
        (status = 200, body = LinePlace, description = "In line before, under another key: the place stays as it is"),
        Errors<(
            (kinds::DropNotFound, kinds::NoLine), (kinds::NotOpen, kinds::LineFull), (kinds::LineLeft, kinds::LeftTooOften),
            kinds::DrawSealed, kinds::Closed, (kinds::KeyReused, kinds::NotChargeable),
            (kinds::PriceChanged, kinds::CountryNotServed), kinds::ProfileMissing, kinds::LimitExceeded,
        )>,
    ),
    security(("buyer" = []))
)]
pub async fn join_line(
    State(gate): State<Gate>,
    Buyer(buyer): Buyer,
    Key(key): Key,
    PathText(drop): PathText,
    JsonBody(new): JsonBody<NewPlace, LINE_BODY_BYTES>,
) -> Result<Response, Problem> {
    let live = line_of(&gate, &drop).await?;
    let asked = asked(&live.drop, buyer, key, &new)?;
    let joined = match gate.engine.join_line(&live.drop, &asked).await? {
        LineJoined::Answered(joined) => joined,
        LineJoined::NoCard => return Err(Problem::ProfileMissing),
    };
    let (status, entry, is_replay) = match joined {
        Joined::Now(entry) => (StatusCode::CREATED, entry, false),
        Joined::Before(entry) => (StatusCode::CREATED, entry, true),
        Joined::InLine(entry) => (StatusCode::OK, entry, false),
        Joined::NoLine => return Err(Problem::NoLine),
        Joined::Refused(why) => {
            return Err(match why {
                JoinRefused::KeyReused => Problem::KeyReused,
                JoinRefused::HasLeft => Problem::LineLeft,
                JoinRefused::NotOpenYet => Problem::NotOpen,
                JoinRefused::Closed => Problem::Closed,
                JoinRefused::Full => Problem::LineFull,
                JoinRefused::DrawIsSealed => Problem::DrawSealed,
                JoinRefused::TooOften => Problem::LeftTooOften,
            });
        }
    };
    metrics::counter!("doorbuster_line_joins_total").increment(u64::from(status == StatusCode::CREATED && !is_replay));
    let place = shown(&gate, &live.drop, entry).await?;
    let tag = etag(Version(i64::from(place.revision)));
    let mut response = (status, [tag], Json(place)).into_response();
    let location = format!("/v1/drops/{}/line/me", live.drop.name);
    let location = HeaderValue::from_str(&location).expect("a drop's name is made of letters, digits and hyphens");
    response.headers_mut().insert(LOCATION, location);
    if is_replay {
        response.headers_mut().insert(IDEMPOTENT_REPLAYED, HeaderValue::from_static("true"));
    }
    Ok(response)
}

/// The board
///
/// The same for everybody, a second old at most. Whoever is in line looks here, and at their own place only once its rank is known and when their round has been.
#[utoipa::path(
    get, path = "/v1/drops/{drop}/line", tag = "line",
    params(("drop" = String, Path, description = "The drop's name", example = "shoe")),
    responses(
        (status = 200, body = LineBoard, headers(("ETag" = String), ("Cache-Control" = String))),
        (status = 304, description = "As the asker knows it"),
        Errors<(kinds::DropNotFound, kinds::NoLine, kinds::Overloaded)>,
    ),
    security(())
)]
pub async fn get_board(
    State(gate): State<Gate>,
    PathText(drop): PathText,
    known: IfNoneMatch,
) -> Result<Response, Problem> {
    let name = drop.parse().map_err(|_| Problem::DropNotFound)?;
    let live = match gate.engine.known_drop(&name) {
        Some(live) if live.drop.admission.has_line() => live,
        // Also for whoever asks about what is none.
        _ => gate.drops.fresh(&name).await?.ok_or(Problem::DropNotFound)?,
    };
    let board = gate.engine.board(&live.drop).await?.ok_or(Problem::NoLine)?;
    let shown = gate.boards.shown(live.drop.id, &board, |board| {
        let board = board_of(&live.drop, board);
        Bytes::from(serde_json::to_vec(&board).expect("a board is made of texts and numbers"))
    });
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("application/json")),
        (CACHE_CONTROL, HeaderValue::from_static(BOARD_CACHE)),
    ];
    Ok(known.answer(shown.etag.clone(), (headers, shown.body.clone())))
}

/// One's place in line
#[utoipa::path(
    get, path = "/v1/drops/{drop}/line/me", tag = "line",
    params(("drop" = String, Path, description = "The drop's name", example = "shoe")),
    responses(
        (status = 200, body = LinePlace, headers(("ETag" = String))),
        Errors<(kinds::DropNotFound, kinds::NoLine, kinds::PlaceNotFound)>,
    ),
    security(("buyer" = []))
)]
pub async fn get_place(
    State(gate): State<Gate>,
    Buyer(buyer): Buyer,
    PathText(drop): PathText,
) -> Result<Response, Problem> {
    let live = line_of(&gate, &drop).await?;
    let place = gate.engine.place_of(&live.drop, &buyer).await?.ok_or(Problem::PlaceNotFound)?;
    Ok(answered(&live.drop, place))
}

/// Change what one stands in line for
///
/// Until the seal, under the revision that was seen: of two changes of one revision one wins.
#[utoipa::path(
    put, path = "/v1/drops/{drop}/line/me", tag = "line",
    params(("drop" = String, Path, description = "The drop's name", example = "shoe"), IfMatchHeader),
    request_body = NewPlace,
    responses(
        (status = 200, body = LinePlace, headers(("ETag" = String))),
        Errors<(
            (kinds::DropNotFound, kinds::NoLine), kinds::PlaceNotFound, (kinds::LineSealed, kinds::LineLeft),
            (kinds::AlreadyAwarded, kinds::EntryMerged), kinds::Closed,
            (kinds::PriceChanged, kinds::CountryNotServed, kinds::NotChargeable), kinds::LimitExceeded,
        )>,
    ),
    security(("buyer" = []))
)]
pub async fn change_place(
    State(gate): State<Gate>,
    Buyer(buyer): Buyer,
    PathText(drop): PathText,
    IfMatch(expected): IfMatch,
    JsonBody(new): JsonBody<NewPlace, LINE_BODY_BYTES>,
) -> Result<Response, Problem> {
    let live = line_of(&gate, &drop).await?;
    // Of a change the key says nothing: the revision tells two apart.
    let key = "change".parse().expect("six letters are a key");
    let asked = asked(&live.drop, buyer, key, &new)?;
    let seen = match expected {
        Expected::Any => {
            let place = gate.engine.place_of(&live.drop, &asked.buyer).await?.ok_or(Problem::PlaceNotFound)?;
            place.entry.revision
        }
        Expected::OneOf(versions) => revision(&versions)?,
    };
    match gate.engine.change_place(&live.drop, &asked, seen).await? {
        Changed::Now(entry) => {
            let place = gate.engine.my_place(&live.drop, entry).await?.ok_or(Problem::NoLine)?;
            Ok(answered(&live.drop, place))
        }
        Changed::Kept(kept) => Err(kept_problem(kept)),
        Changed::NoPlace => Err(Problem::PlaceNotFound),
    }
}

/// The revision of a place that a tag names. One that is none of ours is of no place.
fn revision(versions: &[Version]) -> Result<u32, Problem> {
    let seen = versions.first().and_then(|version| u32::try_from(version.0).ok());
    seen.ok_or(Problem::PreconditionFailed)
}

/// Leave the line
///
/// Whoever is told 204 is given nothing any more. Of units that are theirs already there is an order, which they can cancel.
/// With `If-Match`, a request that was long on its way cannot take away a place that its buyer has taken since.
#[utoipa::path(
    delete, path = "/v1/drops/{drop}/line/me", tag = "line",
    params(("drop" = String, Path, description = "The drop's name", example = "shoe"), MaybeIfMatchHeader),
    responses(
        (status = 204, description = "Not in line any more"),
        Errors<(
            kinds::DropNotFound, kinds::NoLine, kinds::PlaceNotFound, kinds::AlreadyAwarded, kinds::EntryMerged,
            kinds::PreconditionFailed,
        )>,
    ),
    security(("buyer" = []))
)]
pub async fn leave_line(
    State(gate): State<Gate>,
    Buyer(buyer): Buyer,
    PathText(drop): PathText,
    MaybeIfMatch(expected): MaybeIfMatch,
) -> Result<StatusCode, Problem> {
    let live = line_of(&gate, &drop).await?;
    let seen = match expected {
        Expected::Any => None,
        Expected::OneOf(versions) => Some(revision(&versions)?),
    };
    match gate.engine.leave_line(&live.drop, &buyer, seen).await? {
        LeftPlace::Left => Ok(StatusCode::NO_CONTENT),
        LeftPlace::Kept(kept) => Err(kept_problem(kept)),
        LeftPlace::NoPlace => Err(Problem::PlaceNotFound),
    }
}

/// The rules of the line
///
/// The very text whose SHA-256 is a part of the draw's seed. It never changes.
#[utoipa::path(
    get, path = "/v1/drops/{drop}/line/rules", tag = "line",
    params(("drop" = String, Path, description = "The drop's name", example = "shoe")),
    responses(
        (status = 200, body = serde_json::Value, description = "docs/DRAW.md says what is in it",
            headers(("Cache-Control" = String)),
            example = json!({ "version": 2, "drop": "shoe", "mode": "queue", "seal_at": "2026-11-23T09:57:30Z" })),
        Errors<(kinds::DropNotFound, kinds::NoLine, kinds::NotOpen, kinds::Overloaded)>,
    ),
    security(())
)]
pub async fn get_rules(State(gate): State<Gate>, PathText(drop): PathText) -> Result<Response, Problem> {
    let (_, board) = board_of_drop(&gate, &drop).await?;
    let rules = board.row.line.rules.clone().ok_or(Problem::NotOpen)?;
    Ok(for_ever(rules))
}

/// A part of the sealed list
///
/// Those entries whose id begins with three hexadecimal digits: a page finds its own index here, and nobody learns which it looked for.
#[utoipa::path(
    get, path = "/v1/drops/{drop}/line/leaves/{prefix}", tag = "line",
    params(
        ("drop" = String, Path, description = "The drop's name", example = "shoe"),
        ("prefix" = String, Path, description = "Three small hexadecimal digits", example = "7e8"),
    ),
    responses(
        (status = 200, body = Leaves, headers(("Cache-Control" = String))),
        Errors<(kinds::DropNotFound, kinds::NoLine, kinds::NotOpen, kinds::NotFound, kinds::Overloaded)>,
    ),
    security(())
)]
pub async fn get_leaves(State(gate): State<Gate>, PathPair(drop, prefix): PathPair) -> Result<Response, Problem> {
    let is_prefix = prefix.len() == 3 && prefix.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if !is_prefix {
        return Err(Problem::NotFound);
    }
    let (live, board) = board_of_drop(&gate, &drop).await?;
    if board.row.line.root.is_none() {
        return Err(Problem::NotOpen);
    }
    let list = gate.engine.sealed_list(live.drop.id).await?;
    let first = list.partition_point(|id| id.to_string().as_str() < prefix.as_str());
    let leaves = (0_u32..).zip(list.iter()).skip(first);
    let leaves = leaves.map(|(index, id)| Leaf { index, entry_id: id.to_string() });
    let leaves = leaves.take_while(|leaf| leaf.entry_id.starts_with(&prefix)).collect();
    let leaves = Leaves { count: list.len() as u32, leaves };
    Ok(for_ever(serde_json::to_string(&leaves).expect("leaves are numbers and texts")))
}

/// The bundle of the draw
///
/// Everything that is published about a drawn line, as one document: with it anybody decides all of it again, on the page /draw, with `doorbuster draw verify` or with a program of their own. The bytes are those that `doorbuster draw bundle` writes. Of a line that runs it is some seconds old, and may end in the middle of a round; once the line is closed it never changes.
#[utoipa::path(
    get, path = "/v1/drops/{drop}/line/bundle", tag = "line",
    params(("drop" = String, Path, description = "The drop's name", example = "shoe")),
    responses(
        (status = 200, body = serde_json::Value, description = "docs/DRAW.md says what is in it",
            headers(("ETag" = String), ("Cache-Control" = String)),
            example = json!({ "version": 2, "rules": "{\"version\":2,…}", "count": 1,
                "leaves": [["7e8e089726701a50707b433738a20388", 1, [0, 1]]] })),
        (status = 304, description = "As the asker knows it"),
        Errors<(kinds::DropNotFound, kinds::NoLine, kinds::NotDrawn, kinds::BundleTooLong, kinds::Overloaded)>,
    ),
    security(())
)]
pub async fn get_bundle(
    State(gate): State<Gate>,
    PathText(drop): PathText,
    known: IfNoneMatch,
) -> Result<Response, Problem> {
    let (live, board) = board_of_drop(&gate, &drop).await?;
    let bundle = gate.bundles.of(&gate.engine, &live.drop, &board).await?;
    let cache = if bundle.is_final { FOR_EVER } else { BUNDLE_CACHE };
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("application/json")),
        (CACHE_CONTROL, HeaderValue::from_static(cache)),
    ];
    Ok(known.answer(bundle.etag, (headers, bundle.body)))
}

fn for_ever(body: String) -> Response {
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("application/json")),
        (CACHE_CONTROL, HeaderValue::from_static(FOR_EVER)),
    ];
    (headers, body).into_response()
}

/// The drop of this name, if it has a line.
async fn line_of(gate: &Gate, drop: &str) -> Result<Arc<LiveDrop>, Problem> {
    let name = drop.parse().map_err(|_| Problem::DropNotFound)?;
    let live = gate.drops.get(&name).await?.ok_or(Problem::DropNotFound)?;
    if live.drop.admission.has_line() { Ok(live) } else { Err(Problem::NoLine) }
}

async fn board_of_drop(gate: &Gate, drop: &str) -> Result<(Arc<LiveDrop>, Arc<Board>), Problem> {
    let name = drop.parse().map_err(|_| Problem::DropNotFound)?;
    let live = gate.drops.fresh(&name).await?.ok_or(Problem::DropNotFound)?;
    let board = gate.engine.board(&live.drop).await?.ok_or(Problem::NoLine)?;
    Ok((live, board))
}

/// What somebody asks for, checked against the drop. What they accept is at least what it costs now: who accepts less would
/// wait in vain.
fn asked(drop: &SaleDrop, buyer: BuyerId, key: IdempotencyKey, new: &NewPlace) -> Result<JoinAsked, Problem> {
    let quantity = Quantity::new(new.quantity).map_err(|error| Problem::field("quantity", error.to_string()))?;
    if quantity.units() > drop.buyer_limit {
        return Err(Problem::LimitExceeded { held: 0, limit: drop.buyer_limit });
    }
    let country = country_of(drop, &new.country)?;
    if !(1..=MAX_CHOICES).contains(&new.choices.len()) {
        return Err(Problem::field(
            "choices",
            format!("name 1 to {MAX_CHOICES} variants, the one you like best first"),
        ));
    }
    let mut choices: Vec<Choice> = Vec::new();
    for (position, choice) in new.choices.iter().enumerate() {
        let field = format!("choices.{position}");
        let unknown = || Problem::field(format!("{field}.sku"), format!("the drop has no variant {:?}", choice.sku));
        let variant = drop.variant_by_sku(&choice.sku).ok_or_else(unknown)?;
        if choices.iter().any(|other| other.variant == variant.number) {
            return Err(Problem::field(format!("{field}.sku"), "name each variant once".to_owned()));
        }
        let totals = drop.terms.totals(variant.price, quantity.units(), country);
        let totals = totals.ok_or_else(|| not_served(drop, country))?;
        let total = totals.map_err(|error| Problem::NotChargeable { why: error.to_string() })?.total;
        let accepted = choice.accepted_total.clone().map(AcceptedTotal::parse).transpose()?.unwrap_or(total);
        if accepted.currency != total.currency || accepted.amount_minor < total.amount_minor {
            return Err(Problem::PriceChanged { lines: Vec::new(), total: total.into() });
        }
        choices.push(Choice { variant: variant.number, accepted_minor: Some(accepted.amount_minor) });
    }
    Ok(JoinAsked { buyer, key, quantity, choices, country })
}

fn kept_problem(kept: PlaceKept) -> Problem {
    match kept {
        PlaceKept::Changed { .. } => Problem::PreconditionFailed,
        PlaceKept::Sealed => Problem::LineSealed,
        PlaceKept::Closed => Problem::Closed,
        PlaceKept::Awarded => Problem::AlreadyAwarded,
        PlaceKept::Merged => Problem::EntryMerged,
        PlaceKept::HasLeft => Problem::LineLeft,
    }
}

async fn shown(gate: &Gate, drop: &SaleDrop, entry: LineEntry) -> Result<LinePlace, Problem> {
    let place = gate.engine.my_place(drop, entry).await?.ok_or(Problem::NoLine)?;
    Ok(place_of(drop, &place))
}

fn answered(drop: &SaleDrop, place: MyPlace) -> Response {
    let tag = etag(Version(i64::from(place.entry.revision)));
    ([tag], Json(place_of(drop, &place))).into_response()
}

fn place_of(drop: &SaleDrop, place: &MyPlace) -> LinePlace {
    let entry = &place.entry;
    let (rank, round) = match place.place {
        Where::At { rank, rounds } => (Some(rank), Some(rounds)),
        Where::Unknown | Where::Gone => (None, None),
    };
    LinePlace {
        drop: drop.name.to_string(),
        entry_id: entry.id.to_string(),
        ticket: place.ticket.clone(),
        status: match entry.state {
            EntryState::Waiting => PlaceStatus::Waiting,
            EntryState::Left | EntryState::Withdrawn => PlaceStatus::Left,
            EntryState::Merged => PlaceStatus::Merged,
            EntryState::Awarded => PlaceStatus::Awarded,
        },
        choices: entry
            .choices
            .iter()
            .map(|choice| PlaceChoice {
                sku: drop.variant(choice.variant).map(|variant| variant.sku.clone()).unwrap_or_default(),
                accepted_total: choice.accepted_minor.map(|minor| Money::new(minor, drop.currency).into()),
            })
            .collect(),
        quantity: entry.quantity.units(),
        country: entry.country.map(|country| country.to_string()),
        revision: entry.revision,
        joined_at: entry.joined_at,
        rank,
        round,
        order_id: entry.claim.map(|claim| claim.order_id().0),
    }
}

fn board_of(drop: &SaleDrop, board: &Board) -> LineBoard {
    let (row, line) = (&board.row, &board.row.line);
    // While a round is under way it is the next one: whoever waits for it has not waited longer than they were told.
    let over = line.round.map_or(0, |round| round + u32::from(!line.is_in_round()));
    let next_at = line.round_due_at(row.opens_at, over);
    let is_drawn = line.state == LineState::Drawn;
    LineBoard {
        state: line.state,
        now: to_milliseconds(board.read_at),
        version: line.version + u64::from(row.last_number) + u64::from(row.gone),
        line_opens_at: line.terms.line_opens_at,
        seal_at: line.terms.seal_at,
        opens_at: row.opens_at,
        closes_at: row.closes_at,
        in_line: row.in_line,
        seal: line.sealed.map(|sealed| BoardSeal {
            count: sealed.count,
            rules: line.rules.as_deref().map(|rules| hash_of(rules).to_string()).unwrap_or_default(),
            root: line.root.map(|root| root.to_string()),
            beacon: line.beacon_round,
            reveal_at: line.drawn.is_none().then(|| line.terms.time_of(line.beacon_round)),
            seed: line.drawn.as_ref().map(|drawn| drawn.seed.to_string()),
        }),
        rounds: is_drawn.then(|| BoardRounds {
            over,
            next_at: line.paused_at.is_none().then_some(next_at),
            every: u32::try_from(line.terms.round_every.as_secs()).unwrap_or_default(),
            per_round: line.terms.per_round,
            served: line.position.served,
        }),
        paused: line.paused_at.is_some(),
        left: drop.variants.iter().map(|variant| left_of(line, variant)).collect(),
        message: line.message.clone(),
        look: [LOOK_EVERY.0, LOOK_EVERY.1],
    }
}

/// Before the first round everything is there.
fn left_of(
    line: &doorbuster_engine::domain::line::state::Line,
    variant: &doorbuster_engine::domain::drops::DropVariant,
) -> &'static str {
    let left = match line.round {
        None => variant.stock_units,
        Some(_) => line.position.free.of(variant.number),
    };
    match left {
        0 => "none",
        left if left.saturating_mul(10) < variant.stock_units => "few",
        _ => "many",
    }
}

fn to_milliseconds(at: Timestamp) -> Timestamp {
    let over = at.subsec_nanosecond() % 1_000_000;
    at - SignedDuration::from_nanos(over.into())
}
