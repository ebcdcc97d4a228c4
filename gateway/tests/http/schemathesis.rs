//! Both listeners against schemathesis 4.32.5 (PyPI), which makes requests up from /openapi.json, good ones and bad ones, and
//! holds every answer against it: no 5xx, no status, header or body that is not described, no bad request that is taken.
//!
//! `make schemathesis` installs it and runs this, with a fixed seed.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use doorbuster::Workers;
use doorbuster_engine::provider::{ProviderClient, ProviderSettings, RateLimit};
use doorbuster_engine::workers::WorkerSettings;
use doorbuster_sandbox::provider::{FakeProvider, FakeProviderOptions};
use serde_json::{Value, json};

use super::admin::ADA;
use super::checkout::stock_mugs;
use super::shop::{Shop, send, whole_config};
use crate::support::{Sale, client, engine, make_drop, new_database, token, until};

const SEED: &str = "20261126";
/// Cases that are made up for each operation, beside those that its description lists.
const EXAMPLES: &str = "25";
/// For each of the five runs.
const PATIENCE: Duration = Duration::from_secs(120);

/// Where its rule is not ours: 428 (RFC 6585) for a missing If-Match.
const ANSWERS: &str = "[checks.missing_required_header]\nexpected-statuses = [400, 401, 403, 406, 415, 422, 428]\n";
/// A number in a path that is filled with one that is there is sent even where one too large was made up, and then taken. The phase
/// that makes such numbers up goes over these routes in the runs that fill nothing.
const NUMBERS_THAT_ARE_THERE: &str =
    "[[operations]]\ninclude-path-regex = \"/(products|items)/\"\nphases.coverage.enabled = false\n";
/// What is not asked: whether good data is always taken (a drop is sold out some time), and whether every bad token is 401, since
/// a Cart-Session that cannot be one is 400; matrix.rs tries tokens at every route.
const NOT_CHECKED: &str = "positive_data_acceptance,ignored_auth";

/// A gateway with workers and everything configured: nothing may answer that it is off.
pub(super) async fn working_shop(fake: &FakeProvider) -> Shop {
    let provider = ProviderClient::new(ProviderSettings {
        base_url: fake.url().to_owned(),
        secret_key: fake.secret_key().to_owned().into(),
        connect_timeout: Duration::from_secs(1),
        answer_timeout: Duration::from_secs(5),
    });
    let provider = provider.unwrap().limited_to(RateLimit::NONE);
    let (database_url, drop) = new_database().await;
    let engine = engine(&database_url).await;
    make_drop(&engine, &drop, &Sale { limit: 10, ..Sale::default() }).await;
    let settings = WorkerSettings { settle_every: Duration::from_millis(100), ..WorkerSettings::default() };
    let gateway =
        doorbuster::serve(whole_config(), engine.clone(), Some(Workers { provider, settings })).await.unwrap();
    let shop = Shop { engine, gateway, http: client(), database_url, drop };
    stock_mugs(&shop).await;
    shop
}

/// A paid order of this buyer, who has a profile and a cart.
async fn order_of(shop: &Shop, buyer: &str) -> String {
    let address = json!({ "name": "A", "line1": "1 Road", "city": "Köln", "postal_code": "50667", "country": "DE" });
    let profile = json!({ "payment_method": "pm_card_visa", "email": "ada@example.com", "ship_to": address });
    let url = shop.url("/v1/me/checkout-profile");
    assert_eq!(send(shop.http.put(url).bearer_auth(token(buyer)).json(&profile)).await.status, 200);
    let order = shop.claim(buyer, "k", 1).await.json()["claim_id"].as_str().unwrap().to_owned();
    until("the order is paid", async || {
        let seen = shop.get(buyer, &format!("/v1/orders/{order}")).await;
        seen.status == 200 && seen.json()["status"] == "CONFIRMED"
    })
    .await;
    order
}

/// What one run came to.
#[derive(Debug)]
struct Found {
    operations: u64,
    cases: u64,
    failures: u64,
}

/// Runs it; `known` are ids that paths are filled with, so that requests find something.
fn run(url: &str, bearer: &str, known: &[(&str, &str)], paths: &str) -> Found {
    let folder = tempfile::tempdir().unwrap();
    let report = folder.path().join("report.json");
    let config = folder.path().join("schemathesis.toml");
    let numbers = if known.is_empty() { "" } else { NUMBERS_THAT_ARE_THERE };
    let known = known.iter().map(|(name, value)| format!("\"{name}\" = \"{value}\"\n")).collect::<String>();
    std::fs::write(&config, format!("[parameters]\n{known}\n{ANSWERS}\n{numbers}")).unwrap();
    let mut process = Command::new("schemathesis")
        .arg("--config-file")
        .arg(&config)
        .args(["run", &format!("{url}/openapi.json"), "--header", &format!("Authorization: Bearer {bearer}")])
        .args(["--include-path-regex", paths])
        .args(["--seed", SEED, "--max-examples", EXAMPLES, "--generation-database", "none", "--workers", "1"])
        .args(["--checks", "all", "--exclude-checks", NOT_CHECKED, "--no-color"])
        .args(["--continue-on-failure", "--no-shrink", "--warnings", "off", "--report", "json", "--report-json-path"])
        .arg(&report)
        .current_dir(folder.path())
        .stdin(Stdio::null())
        .spawn()
        .expect("schemathesis is not on the PATH: use `make schemathesis`");
    let began = Instant::now();
    while process.try_wait().unwrap().is_none() {
        if began.elapsed() > PATIENCE {
            let _ = process.kill();
            panic!("schemathesis did not end within {} s", PATIENCE.as_secs());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    found(&report)
}

fn found(report: &Path) -> Found {
    let report: Value = serde_json::from_str(&std::fs::read_to_string(report).unwrap()).unwrap();
    assert_eq!(report["complete"], true, "schemathesis did not come to its end: {}", report["errors"]);
    let count = |value: &Value| value.as_u64().unwrap_or_else(|| panic!("a number is missing from {report}"));
    let cases = &report["test_cases"];
    let errors = report["errors"].as_array().map_or(0, Vec::len) as u64;
    Found {
        operations: count(&report["operations"]["tested"]),
        cases: count(&cases["generated"]),
        failures: count(&cases["unique_failures"]) + count(&cases["errored"]) + errors,
    }
}

#[expect(clippy::print_stdout, reason = "what was tried is what this is run for")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs schemathesis from PyPI: make schemathesis"]
async fn schemathesis_finds_nothing_that_is_not_described() {
    let fake = FakeProvider::start(FakeProviderOptions::default()).await.unwrap();
    let shop = working_shop(&fake).await;
    let buyer = format!("ada-{}", shop.drop);
    let order = order_of(&shop, &buyer).await;
    let known = [("path.drop", shop.drop.as_str()), ("path.id", order.as_str()), ("path.variant", "2")];
    let products = [("path.id", "2")];
    let (public, operators) = (shop.url(""), shop.ops_url(""));
    let mut failures = 0;
    for (what, url, bearer, known, paths) in [
        ("operators, any path", &operators, ADA, &[][..], "/"),
        ("operators, products that are there", &operators, ADA, &products[..], "/(products|stock|warehouses)"),
        ("operators, an order that is there", &operators, ADA, &known[1..2], "/orders"),
        ("buyers, any path", &public, &*token(&buyer), &[][..], "/"),
        ("buyers, an order that is there", &public, &*token(&buyer), &known[..], "/"),
    ] {
        let began = Instant::now();
        let found = tokio::task::block_in_place(|| run(url, bearer, known, paths));
        let Found { operations, cases, failures: failed } = found;
        println!(
            "{what}: {operations} operations, {cases} test cases, {failed} failures, {} s",
            began.elapsed().as_secs()
        );
        failures += failed;
    }
    assert_eq!(failures, 0, "see above");
}
