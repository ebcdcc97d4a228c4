//! The population: buyers with their tokens, minted before the run, and the requests they send.
//!
//! Tokens lie one behind the other in one piece of memory: half a million of them are 100 MB, and none is copied before it
//! goes into a request.

use std::io::Write as _;
use std::net::SocketAddr;

use doorbuster::{Secret, auth};
use doorbuster_engine::domain::ids::BuyerId;
use jiff::{SignedDuration, Timestamp};

use super::scenario::{Action, Planned};

/// Ids of 20 bytes, as a UUID in base 32 would need 26 and a database's number fewer.
const DIGITS: usize = 14;

/// Buyers and their tokens.
pub struct Buyers {
    /// Told apart by it from the buyers of other runs.
    first: u64,
    tokens: Vec<u8>,
    /// Where each token ends.
    ends: Vec<usize>,
}

/// One drop as requests name it.
#[derive(Debug, Clone)]
pub struct DropPaths {
    look: Vec<u8>,
    click: Vec<u8>,
    board: Vec<u8>,
    join: Vec<u8>,
    skus: Vec<String>,
}

impl Buyers {
    /// `count` buyers from number `first` on, with tokens that live for `life`.
    pub fn mint(first: u64, count: u32, secret: &Secret, now: Timestamp, life: SignedDuration) -> Self {
        let (mut tokens, mut ends) = (Vec::new(), Vec::with_capacity(count as usize));
        for number in 0..u64::from(count) {
            let token = auth::mint(secret, &id_of(first + number), now, life);
            tokens.extend_from_slice(token.as_bytes());
            ends.push(tokens.len());
        }
        Self { first, tokens, ends }
    }

    /// The number of the first one.
    pub fn first(&self) -> u64 {
        self.first
    }

    pub fn len(&self) -> u32 {
        self.ends.len() as u32
    }

    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    pub fn id(&self, buyer: u32) -> String {
        id_of(self.first + u64::from(buyer)).as_str().to_owned()
    }

    pub fn token(&self, buyer: u32) -> &[u8] {
        let index = buyer as usize;
        let from = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.tokens[from..self.ends[index]]
    }

    /// The request of one step of a plan, in place of what stands in `request`.
    pub fn write_planned(&self, drops: &[DropPaths], planned: &Planned, request: &mut Vec<u8>) {
        let drop = &drops[usize::from(planned.drop)];
        match planned.action {
            Action::Look => {
                request.clear();
                request.extend_from_slice(&drop.look);
            }
            Action::Click | Action::ClickAgain | Action::BotClick => {
                let sku = (drop.skus.len() > 1).then(|| &*drop.skus[usize::from(planned.sku)]);
                self.write_click(drop, planned.buyer, sku, planned.quantity, request);
            }
        }
    }

    /// A click, in place of what stands in `request`. A buyer has one key a drop: a second click is a replay.
    pub fn write_click(&self, drop: &DropPaths, buyer: u32, sku: Option<&str>, quantity: u8, request: &mut Vec<u8>) {
        request.clear();
        request.extend_from_slice(&drop.click);
        request.extend_from_slice(self.token(buyer));
        const WRITING: &str = "a Vec takes every write";
        match sku {
            // {"quantity":1} has 14 bytes, and 15 or 16 from two digits on.
            None => {
                let length = 13 + digits(quantity);
                write!(request, "\r\ncontent-length: {length}\r\n\r\n{{\"quantity\":{quantity}}}").expect(WRITING);
            }
            Some(sku) => {
                let length = 13 + digits(quantity) + 9 + sku.len();
                write!(request, "\r\ncontent-length: {length}\r\n\r\n{{\"sku\":\"{sku}\",\"quantity\":{quantity}}}")
                    .expect(WRITING);
            }
        }
    }
}

/// What everybody of a closed run asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// `POST /v1/drops/{drop}/claims`
    Click,
    /// `POST /v1/drops/{drop}/line`
    Join,
    /// `GET /v1/drops/{drop}/line`, which needs no token
    Board,
}

impl Buyers {
    /// One request of a closed run, in place of what stands in `request`.
    pub fn write_ask(&self, ask: Ask, drop: &DropPaths, buyer: u32, request: &mut Vec<u8>) {
        match ask {
            Ask::Click => self.write_click(drop, buyer, None, 1, request),
            Ask::Join => self.write_join(drop, buyer, request),
            Ask::Board => {
                request.clear();
                request.extend_from_slice(&drop.board);
            }
        }
    }

    /// A buyer who joins the line for one unit of the first variant.
    fn write_join(&self, drop: &DropPaths, buyer: u32, request: &mut Vec<u8>) {
        request.clear();
        request.extend_from_slice(&drop.join);
        request.extend_from_slice(self.token(buyer));
        let sku = &drop.skus[0];
        let body = format_args!("{{\"choices\":[{{\"sku\":\"{sku}\"}}],\"country\":\"DE\"}}");
        let length = 39 + sku.len();
        write!(request, "\r\ncontent-length: {length}\r\n\r\n{body}").expect("a Vec takes every write");
    }
}

impl DropPaths {
    pub fn new(address: SocketAddr, drop: &str, skus: Vec<String>) -> Self {
        let get = |path: &str| format!("GET /v1/drops/{drop}{path} HTTP/1.1\r\nhost: {address}\r\n\r\n").into_bytes();
        let post = |path: &str| {
            let head = format!(
                "POST /v1/drops/{drop}{path} HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\n\
                 idempotency-key: {KEY}\r\nauthorization: Bearer "
            );
            head.into_bytes()
        };
        Self { look: get(""), click: post("/claims"), board: get("/line"), join: post("/line"), skus }
    }

    pub fn skus(&self) -> &[String] {
        &self.skus
    }
}

/// The idempotency key of every buyer: keys are told apart by buyer and drop.
pub const KEY: &str = "first-click";

pub(crate) fn id_of(number: u64) -> BuyerId {
    format!("buyer-{number:0DIGITS$}").parse().expect("20 visible characters are a buyer")
}

fn digits(quantity: u8) -> usize {
    match quantity {
        0..10 => 1,
        10..100 => 2,
        _ => 3,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_well_formed_and_carry_their_buyers_token() {
        let secret = Secret::from("a secret of this test, long enough for HS256".to_owned());
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let buyers = Buyers::mint(40, 3, &secret, now, SignedDuration::from_hours(1));
        assert_eq!((buyers.len(), buyers.id(2)), (3, "buyer-00000000000042".to_owned()));
        let address = SocketAddr::from(([127, 0, 0, 1], 8080));
        let drop = DropPaths::new(address, "shoe", vec!["a".to_owned(), "b-42".to_owned()]);
        let expected = auth::mint(&secret, &id_of(41), now, SignedDuration::from_hours(1));
        let mut request = Vec::new();
        for (sku, quantity, body) in [
            (None, 1, r#"{"quantity":1}"#),
            (None, 100, r#"{"quantity":100}"#),
            (Some("b-42"), 12, r#"{"sku":"b-42","quantity":12}"#),
        ] {
            buyers.write_click(&drop, 1, sku, quantity, &mut request);
            let text = std::str::from_utf8(&request).unwrap();
            let (head, sent) = text.split_once("\r\n\r\n").unwrap();
            assert_eq!(sent, body);
            assert!(head.starts_with("POST /v1/drops/shoe/claims HTTP/1.1\r\n"), "{head}");
            assert!(head.contains(&format!("content-length: {}", body.len())), "{head}");
            assert!(head.contains(&format!("authorization: Bearer {expected}")), "{head}");
        }
        buyers.write_ask(Ask::Join, &drop, 1, &mut request);
        let text = std::str::from_utf8(&request).unwrap();
        let (head, sent) = text.split_once("\r\n\r\n").unwrap();
        assert_eq!(sent, r#"{"choices":[{"sku":"a"}],"country":"DE"}"#);
        assert!(head.starts_with("POST /v1/drops/shoe/line HTTP/1.1\r\n"), "{head}");
        assert!(head.contains(&format!("content-length: {}", sent.len())), "{head}");
        assert!(head.contains(&format!("authorization: Bearer {expected}")), "{head}");
        buyers.write_ask(Ask::Board, &drop, 1, &mut request);
        let text = std::str::from_utf8(&request).unwrap();
        assert!(text.starts_with("GET /v1/drops/shoe/line HTTP/1.1\r\n") && text.ends_with("\r\n\r\n"), "{text}");
    }
}
