//! Our client against localstripe 1.15.10 (PyPI), a fake that somebody else wrote: a second opinion on the wire format.
//!
//! `make localstripe` installs it and runs this. Where localstripe leaves something out that the provider has, a bridge
//! fills it in, each gap in one place below, so that everything else is compared unchanged.

use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use doorbuster_engine::domain::ids::{IntentId, RefundId};
use doorbuster_engine::domain::money::Money;
use doorbuster_engine::provider::{
    BalanceKind, Event, IntentStatus, Outcome, ProviderClient, ProviderError, ProviderRequest, RefundStatus,
    SIGNATURE_HEADER, WebhookVerifier,
};
use jiff::Timestamp;
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

use super::{ANSWER_TIMEOUT, answered, client_of, confirm, create, header, order, price, read_request};

const KEY: &str = "sk_test_localstripe";
const SECRET: &str = "whsec_localstripe";
/// Its name for a card that is declined when it is charged.
const DECLINED: &str = "pm_card_chargeCustomerFail";

/// A private localstripe; killed when dropped.
struct Localstripe {
    process: Child,
    url: String,
}

impl Localstripe {
    async fn start() -> Self {
        // It takes a port and cannot choose one. Nobody else on the machine is likely to in the moment between.
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = free.local_addr().unwrap().port().to_string();
        drop(free);
        let process = Command::new("localstripe")
            .args(["--port", &port, "--from-scratch"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("localstripe is not on the PATH: use `make localstripe`");
        let localstripe = Self { process, url: format!("http://127.0.0.1:{port}") };
        let answers = async {
            while reqwest::get(&localstripe.url).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(ANSWER_TIMEOUT, answers).await.expect("localstripe answers on its port");
        localstripe
    }
}

impl Drop for Localstripe {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// An address at which `answer` is asked for every request, one a connection.
async fn serve<F, A>(answer: F) -> String
where
    F: Fn(String, Vec<u8>) -> A + Send + Sync + 'static,
    A: Future<Output = (u16, String)> + Send,
{
    async fn once<A: Future<Output = (u16, String)>>(mut connection: TcpStream, answer: impl Fn(String, Vec<u8>) -> A) {
        let (head, body) = read_request(&mut connection).await;
        let (status, body) = answer(head, body).await;
        let head = format!("HTTP/1.1 {status} -\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
        connection.write_all((head + &body).as_bytes()).await.unwrap();
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let answer = Arc::new(answer);
    tokio::spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            let answer = Arc::clone(&answer);
            tokio::spawn(async move { once(connection, |head, body| answer(head, body)).await });
        }
    });
    url
}

/// What stands between our client and localstripe.
async fn bridge(target: &str) -> String {
    let (http, target) = (reqwest::Client::new(), target.to_owned());
    serve(move |head, body| {
        let (http, target) = (http.clone(), target.clone());
        async move {
            let mut words = head.split(' ');
            let (method, path) = (words.next().unwrap().to_owned(), words.next().unwrap().to_owned());
            let forward = async |path: &str, body: Vec<u8>| {
                let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
                let request = http.request(method, format!("{target}{path}")).body(body);
                let request = ["authorization", "content-type", "idempotency-key", "stripe-version"].into_iter().fold(
                    request,
                    |request, name| match header(&head, name) {
                        Some(value) => request.header(name, value),
                        None => request,
                    },
                );
                let answer = request.send().await.unwrap();
                (answer.status().as_u16(), answer.text().await.unwrap())
            };
            let (status, body) = match path.strip_suffix("/confirm") {
                // Gap: confirm with a payment_method is "not implemented". It is set by an update, then confirmed.
                Some(intent) => {
                    let update = forward(intent, body).await;
                    if update.0 == 200 { forward(&path, Vec::new()).await } else { update }
                }
                None => forward(&path, body).await,
            };
            let mut object: Value = serde_json::from_str(&body).unwrap();
            fill_in(&mut object);
            (status, object.to_string())
        }
    })
    .await
}

/// What localstripe's intents leave out, and what they put where an id belongs.
fn fill_in(object: &mut Value) {
    if let Some(items) = object["data"].as_array_mut() {
        items.iter_mut().for_each(fill_in);
    }
    if object["object"] == "payment_intent" {
        // Gap: no amount_received, which the provider always writes.
        let received = if object["status"] == "succeeded" { object["amount"].clone() } else { 0.into() };
        object["amount_received"] = received;
        // Gap: the whole charge, where the provider writes its id unless asked to expand it.
        if object["latest_charge"].is_object() {
            object["latest_charge"] = object["latest_charge"]["id"].clone();
        }
    }
}

/// The code of a refusal: localstripe writes none, so it is the type.
fn refusal<T: std::fmt::Debug>(outcome: Outcome<T>) -> String {
    match outcome {
        Outcome::Rejected { code, .. } => code,
        other => panic!("expected a rejection, got {other:?}"),
    }
}

async fn create_and_confirm(client: &ProviderClient, number: u128, method: &str) -> (IntentId, Outcome) {
    let intent = answered(client.send(&create(number)).await).id;
    let outcome = client.send(&confirm(number, &intent, method, 1)).await;
    (intent, outcome)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs localstripe from PyPI: make localstripe"]
async fn localstripe_understands_our_client_and_our_client_understands_it() {
    let localstripe = Localstripe::start().await;
    let client = client_of(&bridge(&localstripe.url).await, KEY, ANSWER_TIMEOUT);
    let plain = client_of(&localstripe.url, KEY, ANSWER_TIMEOUT);

    // Its webhooks are signed by its own code, so they test our verification.
    let received = Arc::<Mutex<Vec<Event>>>::default();
    let verify = {
        let received = Arc::clone(&received);
        move |head: String, body: Vec<u8>| {
            let verifier = WebhookVerifier::new(vec![SECRET.to_owned().into()]).unwrap();
            #[expect(clippy::disallowed_methods, reason = "localstripe signs with the machine's time")]
            let verified = verifier.verify(header(&head, SIGNATURE_HEADER), &body, Timestamp::now());
            let forged = verifier.verify(header(&head, SIGNATURE_HEADER), b"{}", Timestamp::UNIX_EPOCH);
            assert!(forged.is_err());
            received.lock().unwrap().push(verified.expect("localstripe signs as the provider does"));
            std::future::ready((200, String::new()))
        }
    };
    let endpoint = serve(verify).await;
    let registered = reqwest::Client::new()
        .post(format!("{}/_config/webhooks/doorbuster", localstripe.url))
        .form(&[("url", endpoint.as_str()), ("secret", SECRET)]);
    assert!(registered.send().await.unwrap().status().is_success());

    // Create, confirm, read: our bytes are taken, and every field we read is where we look for it.
    let (intent, outcome) = create_and_confirm(&client, 1, "pm_card_visa").await;
    let paid = answered(outcome);
    assert_eq!(paid.status, IntentStatus::Succeeded);
    assert_eq!((paid.amount, paid.order_id.clone()), (price(), Some(order(1).to_string())));
    assert!(!paid.livemode && paid.latest_charge.is_some());
    assert_eq!(client.read_intent(&intent).await.unwrap(), paid);

    // Decline: 402 with a code; the intent is open again.
    let (declined, outcome) = create_and_confirm(&client, 2, DECLINED).await;
    let Outcome::Declined(decline) = outcome else { panic!("{outcome:?}") };
    assert_eq!(decline.code, "card_declined");
    let open = client.read_intent(&declined).await.unwrap();
    assert_eq!(open.status, IntentStatus::RequiresPaymentMethod);
    assert_eq!(open.last_payment_error.as_deref(), Some("card_declined"));

    // Cancel: once, and not after a success.
    let cancelled = answered(client.send(&ProviderRequest::cancel(order(2), &declined)).await);
    assert_eq!(cancelled.status, IntentStatus::Canceled);
    let late = client.send(&ProviderRequest::cancel(order(1), &intent)).await;
    assert_eq!(refusal(late), "invalid_request_error");

    // Refund, without the bridge: nothing is filled in.
    let part = Money::new(4_900, price().currency);
    let refund_id = RefundId(uuid::Uuid::from_u128(7));
    let request = ProviderRequest::refund(order(1), refund_id, &intent, part).unwrap();
    let Outcome::Answered(refund) = plain.send_refund(&request).await else { panic!("no refund") };
    assert_eq!((&refund.status, refund.amount), (&RefundStatus::Succeeded, part));
    assert_eq!((refund.intent.as_ref(), refund.charge.as_ref()), (Some(&intent), paid.latest_charge.as_ref()));
    assert_eq!(refund.refund_id, Some(refund_id.to_string()));
    assert_eq!(plain.read_refund(&refund.id).await.unwrap(), refund);
    assert_eq!(plain.list_refunds(&intent, None, 100).await.unwrap().data, [refund]);

    // Lists are pages of objects, continued behind the last one.
    let first = client.list_intents(None, 1).await.unwrap();
    assert_eq!((first.data.len(), first.has_more), (1, true));
    let rest = client.list_intents(Some(&first.data[0].id), 100).await.unwrap();
    assert_eq!((rest.data.len(), rest.has_more), (1, false));
    assert_ne!(first.data[0].id, rest.data[0].id);
    assert_eq!(client.read_intent(&IntentId("pi_missing".to_owned())).await.unwrap_err(), ProviderError::NotFound);
    let unknown_key = client_of(&localstripe.url, "rk_unknown", ANSWER_TIMEOUT);
    assert_eq!(unknown_key.send(&create(3)).await, Outcome::Misconfigured { status: 401 });

    // Its gaps, so that a version without them is noticed.
    let outcome = plain.send(&create(3)).await;
    assert!(matches!(&outcome, Outcome::Unknown { reason } if reason.contains("amount_received")), "{outcome:?}");
    let outcome = plain.send(&confirm(1, &intent, "pm_card_visa", 2)).await;
    assert!(matches!(&outcome, Outcome::Unknown { reason } if reason.contains("500")), "{outcome:?}");
    assert_ne!(answered(client.send(&create(4)).await).id, answered(client.send(&create(4)).await).id, "no keys");
    let since = client.list_intents_since(Timestamp::UNIX_EPOCH, None, 10).await.unwrap_err();
    assert!(matches!(&since, ProviderError::Rejected { message, .. } if message.contains("created")), "{since}");
    let whole = ProviderRequest::refund(order(1), RefundId(uuid::Uuid::from_u128(8)), &intent, price()).unwrap();
    assert!(matches!(plain.send_refund(&whole).await, Outcome::Answered(_)), "it gives back more than was taken");

    // The account book has our fields too, though the list takes no dates.
    let book = reqwest::Client::new().get(format!("{}/v1/balance_transactions", localstripe.url)).bearer_auth(KEY);
    let book: Value = serde_json::from_str(&book.send().await.unwrap().text().await.unwrap()).unwrap();
    let page: doorbuster_engine::provider::Page<doorbuster_engine::provider::BalanceTransaction> =
        serde_json::from_value(book).unwrap();
    let count = |kind| page.data.iter().filter(|line| line.kind == kind).count();
    assert_eq!((count(BalanceKind::Charge), count(BalanceKind::Refund)), (1, 2));

    let arrived = async {
        while received.lock().unwrap().len() < 2 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(ANSWER_TIMEOUT, arrived).await.expect("localstripe sends its events a second later");
    let received = received.lock().unwrap();
    let about = |kind: &str| received.iter().find(|event| event.kind == kind).map(|event| event.intent.clone());
    assert_eq!(about("payment_intent.succeeded"), Some(Some(intent)));
    assert_eq!(about("payment_intent.payment_failed"), Some(Some(declined)));
}
