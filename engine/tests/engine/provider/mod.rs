//! The provider client against the fake provider, over real HTTP: what arrives, what is lost, what that proves.

mod account;
mod golden;
mod intents;
mod localstripe;
mod refunds;
mod table;
mod webhooks;

use std::time::Duration;

use doorbuster_engine::domain::ids::{IntentId, OrderId, PaymentMethodId};
use doorbuster_engine::domain::money::Money;
use doorbuster_engine::provider::{Intent, Outcome, ProviderClient, ProviderRequest, ProviderSettings, RateLimit};
use doorbuster_sandbox::provider::{FakeProvider, FakeProviderOptions};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

pub(crate) fn client_of(url: &str, secret_key: &str, answer_timeout: Duration) -> ProviderClient {
    ProviderClient::new(ProviderSettings {
        base_url: url.to_owned(),
        secret_key: secret_key.to_owned().into(),
        connect_timeout: answer_timeout / 2,
        answer_timeout,
    })
    .unwrap()
    // On this machine there is no limit to keep to.
    .limited_to(RateLimit::NONE)
}

pub(crate) async fn start(options: FakeProviderOptions) -> (FakeProvider, ProviderClient) {
    let fake = FakeProvider::start(options).await.unwrap();
    let client = client_of(fake.url(), fake.secret_key(), ANSWER_TIMEOUT);
    (fake, client)
}

pub(crate) async fn start_reliable() -> (FakeProvider, ProviderClient) {
    start(FakeProviderOptions::default()).await
}

pub(crate) fn order(number: u128) -> OrderId {
    OrderId(uuid::Uuid::from_u128(number))
}

pub(crate) fn price() -> Money {
    Money::new(14_900, "EUR".parse().unwrap())
}

pub(crate) fn create(number: u128) -> ProviderRequest {
    ProviderRequest::create(order(number), price()).unwrap()
}

pub(crate) fn confirm(number: u128, intent: &IntentId, method: &str, attempt: u32) -> ProviderRequest {
    ProviderRequest::confirm(order(number), intent, &method.parse::<PaymentMethodId>().unwrap(), attempt)
}

pub(crate) fn answered(outcome: Outcome) -> Intent {
    match outcome {
        Outcome::Answered(intent) => intent,
        other => panic!("expected an answer, got {other:?}"),
    }
}

/// The code of a rejection.
pub(crate) fn rejected(outcome: Outcome) -> String {
    match outcome {
        Outcome::Rejected { code, .. } => code,
        other => panic!("expected a rejection, got {other:?}"),
    }
}

pub(crate) fn is_unknown(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Unknown { .. })
}

/// Repeats the same bytes until they are answered; everything before must be unknown. Bounded, so that a lost
/// answer that stays lost fails the test.
pub(crate) async fn answered_at_last(client: &ProviderClient, request: &ProviderRequest) -> (Intent, u32) {
    for lost in 0..64 {
        match client.send(request).await {
            Outcome::Answered(intent) => return (intent, lost),
            outcome => assert!(is_unknown(&outcome), "{outcome:?}"),
        }
    }
    panic!("64 answers lost in a row: {request:?}");
}

/// Head and body of one HTTP/1.1 request, as bare as they come.
pub(crate) async fn read_request(connection: &mut TcpStream) -> (String, Vec<u8>) {
    let (mut bytes, mut chunk) = (Vec::new(), [0; 4096]);
    let (head, body_starts, length) = loop {
        let read = connection.read(&mut chunk).await.unwrap();
        bytes.extend_from_slice(&chunk[..read]);
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
            let length = header(&head, "content-length").map_or(0, |length| length.parse().unwrap());
            break (head, end + 4, length);
        }
        assert!(read > 0, "the request ends in its head");
    };
    while bytes.len() < body_starts + length {
        let read = connection.read(&mut chunk).await.unwrap();
        assert!(read > 0, "the request ends in its body");
        bytes.extend_from_slice(&chunk[..read]);
    }
    (head, bytes.split_off(body_starts))
}

pub(crate) fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let found =
        head.lines().filter_map(|line| line.split_once(": ")).find(|(found, _)| found.eq_ignore_ascii_case(name));
    found.map(|(_, value)| value)
}
