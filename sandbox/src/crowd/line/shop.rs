//! The buyers' side of the HTTP contract of a line. Silence is never taken for a refusal.

use std::time::Duration;

use reqwest::header::{ETAG, HeaderValue, IF_MATCH, IF_NONE_MATCH};
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::super::plan::Buyer;
use super::super::shop::{retry_after, sentence};
use super::super::{CrowdOptions, Mint};
use super::{JoinOutcome, Place, Told, Wait};

/// Where the crowd's addresses are.
const COUNTRY: &str = "DE";
/// A page looks again halfway to the next change.
const PARTS_OF_WAIT: f64 = 2.0;

pub(super) struct LineShop {
    http: Client,
    line_url: String,
    mint: Mint,
}

/// What a page keeps of a board.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Board {
    pub(super) version: u64,
    state: String,
    now: String,
    seal_at: String,
    opens_at: String,
    #[serde(default)]
    seal: Option<Seal>,
    #[serde(default)]
    rounds: Option<Rounds>,
    /// Seconds between two looks, at least and at most.
    look: [u32; 2],
    #[serde(skip)]
    etag: Option<HeaderValue>,
}

#[derive(Debug, Clone, Deserialize)]
struct Seal {
    #[serde(default)]
    reveal_at: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
struct Rounds {
    #[serde(default)]
    next_at: Option<String>,
    every: u32,
    per_round: u32,
    served: u32,
}

#[derive(Deserialize)]
struct PlaceBody {
    entry_id: String,
    status: String,
    choices: Vec<ChoiceBody>,
    rank: Option<u32>,
    order_id: Option<String>,
}

#[derive(Deserialize)]
struct ChoiceBody {
    sku: String,
}

#[derive(Default, Deserialize)]
struct Problem {
    #[serde(default)]
    code: String,
}

impl Board {
    pub(super) fn is_drawn(&self) -> bool {
        matches!(self.state.as_str(), "drawn" | "closed")
    }

    pub(super) fn is_decided(&self, rank: u32) -> bool {
        self.rounds.as_ref().is_some_and(|rounds| rank < rounds.served)
    }

    /// What the page says to whoever has this rank.
    pub(super) fn wait(&self, rank: u32) -> Option<Wait> {
        let rounds = self.rounds.as_ref()?;
        let ranks = (u64::from(rank) + 1).saturating_sub(u64::from(rounds.served));
        let left = u32::try_from(ranks.div_ceil(u64::from(rounds.per_round.max(1)))).unwrap_or(u32::MAX);
        let next_ms = rounds.next_at.as_deref().and_then(milliseconds);
        let every_ms = i64::from(rounds.every) * 1_000;
        let later_ms = i64::from(left.saturating_sub(1)) * every_ms;
        let decided_by_ms = next_ms.filter(|_| left > 0).map(|next_ms| next_ms + later_ms);
        Some(Wait { rounds: left, decided_by_ms, every_ms })
    }

    pub(super) fn look_again_in(&self) -> Duration {
        let now = milliseconds(&self.now).unwrap_or_default();
        let reveal_at = self.seal.as_ref().and_then(|seal| seal.reveal_at.as_deref());
        let next_at = self.rounds.as_ref().and_then(|rounds| rounds.next_at.as_deref());
        let times = [Some(self.seal_at.as_str()), reveal_at, Some(self.opens_at.as_str()), next_at];
        let next = times.into_iter().flatten().filter_map(milliseconds).filter(|at| *at > now).min();
        let until = next.map_or(Duration::MAX, |next| Duration::from_millis((next - now).unsigned_abs()));
        let [least, most] = self.look.map(|seconds| Duration::from_secs(seconds.into()));
        until.div_f64(PARTS_OF_WAIT).min(most).max(least)
    }
}

impl LineShop {
    pub(super) fn new(options: &CrowdOptions) -> reqwest::Result<Self> {
        let http = Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .no_proxy()
            .pool_max_idle_per_host(options.connections)
            .timeout(options.answer_timeout)
            .build()?;
        let base_url = options.base_url.trim_end_matches('/');
        let line_url = format!("{base_url}/v1/drops/{}/line", options.drop);
        Ok(Self { http, line_url, mint: options.mint.clone() })
    }

    fn own(&self, method: Method, path: &str, buyer: &Buyer) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.line_url)).bearer_auth((self.mint)(&buyer.id))
    }

    pub(super) async fn join(&self, buyer: &Buyer, wish: &[String]) -> (JoinOutcome, Option<Duration>) {
        let request = self.own(Method::POST, "", buyer).header("Idempotency-Key", &buyer.key).json(&body(buyer, wish));
        let response = match request.send().await {
            Ok(response) => response,
            Err(error) => return (JoinOutcome::Unknown(sentence(&error)), None),
        };
        let retry_after = retry_after(&response);
        let status = response.status();
        let replayed = response.headers().get("Idempotent-Replayed").is_some_and(|value| value == "true");
        let outcome = match response.bytes().await {
            Err(error) => JoinOutcome::Unknown(format!("{status}, then {}", sentence(&error))),
            Ok(body) if status.is_success() => match serde_json::from_slice::<PlaceBody>(&body) {
                Ok(place) if status == StatusCode::CREATED => {
                    JoinOutcome::Joined { entry_id: place.entry_id, replayed }
                }
                Ok(place) => JoinOutcome::InLine { entry_id: place.entry_id },
                Err(error) => JoinOutcome::Unknown(format!("{status} with a body that is no place: {error}")),
            },
            Ok(_) if matches!(status.as_u16(), 429 | 503) => JoinOutcome::Overloaded,
            Ok(body) if status.is_client_error() => JoinOutcome::Refused(code(status, &body)),
            Ok(_) => JoinOutcome::Unknown(status.to_string()),
        };
        (outcome, retry_after)
    }

    pub(super) async fn change(&self, buyer: &Buyer, wish: &[String]) -> Told {
        // A page has the revision from the answer to its join, which was the first.
        let request = self.own(Method::PUT, "/me", buyer).header(IF_MATCH, "\"v1\"").json(&body(buyer, wish));
        told(request.send().await).await
    }

    pub(super) async fn leave(&self, buyer: &Buyer) -> Told {
        told(self.own(Method::DELETE, "/me", buyer).send().await).await
    }

    pub(super) async fn place(&self, buyer: &Buyer) -> Result<Place, Told> {
        let unknown = |error: reqwest::Error| Told::Unknown(sentence(&error));
        let response = self.own(Method::GET, "/me", buyer).send().await.map_err(unknown)?;
        let status = response.status();
        let body = response.bytes().await.map_err(unknown)?;
        if !status.is_success() {
            let code = code(status, &body);
            return Err(if status.is_client_error() { Told::Refused(code) } else { Told::Unknown(code) });
        }
        let place: PlaceBody = serde_json::from_slice(&body).map_err(|error| Told::Unknown(error.to_string()))?;
        let PlaceBody { entry_id, status, choices, rank, order_id } = place;
        Ok(Place { entry_id, status, wish: choices.into_iter().map(|choice| choice.sku).collect(), rank, order_id })
    }

    /// `None`: as it was.
    pub(super) async fn look(&self, seen: Option<&Board>) -> Result<Option<Board>, String> {
        let mut request = self.http.get(&self.line_url);
        if let Some(etag) = seen.and_then(|board| board.etag.clone()) {
            request = request.header(IF_NONE_MATCH, etag);
        }
        let response = request.send().await.map_err(|error| sentence(&error))?;
        match response.status() {
            StatusCode::NOT_MODIFIED => Ok(None),
            StatusCode::OK => {
                let etag = response.headers().get(ETAG).cloned();
                let board = response.bytes().await.map_err(|error| sentence(&error))?;
                let board: Board = serde_json::from_slice(&board).map_err(|error| error.to_string())?;
                Ok(Some(Board { etag, ..board }))
            }
            status => Err(status.to_string()),
        }
    }
}

fn body(buyer: &Buyer, wish: &[String]) -> Value {
    let choices = wish.iter().map(|sku| json!({ "sku": sku })).collect::<Vec<_>>();
    json!({ "choices": choices, "quantity": buyer.quantity, "country": COUNTRY })
}

async fn told(answer: reqwest::Result<Response>) -> Told {
    let response = match answer {
        Ok(response) => response,
        Err(error) => return Told::Unknown(sentence(&error)),
    };
    let status = response.status();
    let body = response.bytes().await.unwrap_or_default();
    match status {
        _ if status.is_success() => Told::Done,
        _ if status.is_client_error() && status != StatusCode::TOO_MANY_REQUESTS => Told::Refused(code(status, &body)),
        _ => Told::Unknown(status.to_string()),
    }
}

fn code(status: StatusCode, body: &[u8]) -> String {
    let problem: Problem = serde_json::from_slice(body).unwrap_or_default();
    if problem.code.is_empty() { status.to_string() } else { problem.code }
}

/// Of a time as the shop writes it (RFC 3339, UTC): milliseconds since 1970.
fn milliseconds(text: &str) -> Option<i64> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let mut date = date.splitn(3, '-').map(str::parse::<i64>);
    let (year, month, day) = (date.next()?.ok()?, date.next()?.ok()?, date.next()?.ok()?);
    let mut time = time.splitn(3, ':');
    let (hour, minute) = (time.next()?.parse::<i64>().ok()?, time.next()?.parse::<i64>().ok()?);
    let second = time.next()?.parse::<f64>().ok()?;
    // Days since 1970 in the Gregorian calendar, with years that begin in March.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days =
        year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + (153 * month + 2) / 5 + day
            - 1
            - 719_468;
    Some(((days * 24 + hour) * 60 + minute) * 60_000 + (second * 1e3).round() as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_the_shop_writes_them() {
        for (text, expected) in [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("2026-12-01T12:00:00Z", Some(1_796_126_400_000)),
            ("2024-02-29T23:59:59.25Z", Some(1_709_251_199_250)),
            ("2026-12-01T12:00:00+01:00", None),
            ("soon", None),
        ] {
            assert_eq!(milliseconds(text), expected, "{text}");
        }
    }

    #[test]
    fn a_page_says_when_a_rank_is_decided_at_the_latest_and_looks_no_faster_than_it_is_asked_to() {
        let board = |served: u32, next_at: Value| -> Board {
            let (epoch, look) = ("1970-01-01T00:00:00Z", [2, 15]);
            let rounds = json!({ "over": 1, "next_at": next_at, "every": 30, "per_round": 10, "served": served });
            let board = json!({ "version": 7, "state": "drawn", "now": epoch, "seal_at": epoch, "opens_at": epoch,
                "rounds": rounds, "look": look });
            serde_json::from_value(board).unwrap()
        };
        let next = json!("1970-01-01T00:00:08Z");
        for (served, rank, rounds, decided_by_ms) in
            [(10, 9, 0, None), (10, 10, 1, Some(8_000)), (10, 19, 1, Some(8_000)), (10, 20, 2, Some(38_000))]
        {
            assert_eq!(
                board(served, next.clone()).wait(rank),
                Some(Wait { rounds, decided_by_ms, every_ms: 30_000 }),
                "{rank}"
            );
        }
        assert_eq!(board(10, Value::Null).wait(10).unwrap().decided_by_ms, None);
        let again = |next_at: Value| board(0, next_at).look_again_in().as_secs();
        assert_eq!([next, json!("1970-01-01T00:00:01Z"), Value::Null].map(again), [4, 2, 15]);
    }
}
