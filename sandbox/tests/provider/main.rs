//! The fake payment provider over HTTP, as anybody's client sees it: `store` has the tables of what requests mean.

mod clients;
mod faults;
mod http;
mod pages;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use doorbuster_sandbox::provider::{FakeClock, FakeProvider, FakeProviderOptions};
use reqwest::{Method, StatusCode};
use serde_json::Value;

const INTENTS: &str = "/v1/payment_intents";
const INTENT: &str = "amount=100&currency=eur&payment_method_types[]=card";

/// A provider with the strictest rules, and a merchant's plain HTTP client.
struct Shop {
    fake: FakeProvider,
    http: reqwest::Client,
}

/// What came back.
struct Answered {
    status: u16,
    headers: reqwest::header::HeaderMap,
    text: String,
}

impl Answered {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    fn id(&self) -> String {
        self.json()["id"].as_str().unwrap_or_else(|| panic!("{}", self.text)).to_owned()
    }

    /// `200 succeeded`, `402 card_declined`.
    fn short(&self) -> String {
        let json = self.json();
        let word = if self.status == 200 { &json["status"] } else { &json["error"]["code"] };
        format!("{} {}", self.status, word.as_str().unwrap_or("-"))
    }
}

impl Shop {
    async fn open(options: FakeProviderOptions) -> Self {
        let options = FakeProviderOptions { one_off_methods_once: true, links_need_return_url: true, ..options };
        let fake = FakeProvider::start(options).await.unwrap();
        let http = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
        Self { fake, http }
    }

    fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.http.request(method, format!("{}{path}", self.fake.url())).bearer_auth(self.fake.secret_key())
    }

    async fn get(&self, path: &str) -> Answered {
        send(self.request(Method::GET, path)).await.unwrap()
    }

    async fn post(&self, path: &str, form: &str) -> Answered {
        send(self.form(path, form)).await.unwrap()
    }

    /// The error is a connection that was cut.
    async fn post_with_key(&self, path: &str, key: &str, form: &str) -> Result<Answered, reqwest::Error> {
        send(self.form(path, form).header("idempotency-key", key)).await
    }

    fn form(&self, path: &str, form: &str) -> reqwest::RequestBuilder {
        let kind = "application/x-www-form-urlencoded";
        self.request(Method::POST, path).header("content-type", kind).body(form.to_owned())
    }
}

async fn send(request: reqwest::RequestBuilder) -> Result<Answered, reqwest::Error> {
    let answer = request.send().await?;
    let (status, headers): (StatusCode, _) = (answer.status(), answer.headers().clone());
    Ok(Answered { status: status.as_u16(), headers, text: answer.text().await? })
}

/// A clock by hand.
fn by_hand() -> (FakeClock, Arc<AtomicI64>) {
    let now = Arc::new(AtomicI64::new(1_795_773_600));
    let read = Arc::clone(&now);
    (FakeClock::unix_seconds(move || read.load(Ordering::SeqCst)), now)
}
