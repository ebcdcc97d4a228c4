//! Clients that others' generators make of the buyers' description, and that buy a pair each: TypeScript by openapi-typescript
//! and openapi-fetch, Python by openapi-python-client.
//!
//! `make clients` generates and type-checks them, and runs this.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use doorbuster_sandbox::provider::{FakeProvider, FakeProviderOptions};
use tokio::process::Command;

use super::schemathesis::working_shop;
use super::shop::Shop;
use crate::support::token;

/// One purchase takes a second or two; the rest is the start of an interpreter.
const PATIENCE: Duration = Duration::from_secs(60);

async fn buys(shop: &Shop, program: &Path, script: &Path) -> String {
    let buyer = format!("{}-{}", script.file_stem().unwrap().display(), script.extension().unwrap().display());
    let ran = Command::new(program)
        .arg(script)
        .env("DOORBUSTER_URL", shop.url(""))
        .env("DOORBUSTER_TOKEN", token(&buyer))
        .env("DOORBUSTER_DROP", &shop.drop)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let ran = tokio::time::timeout(PATIENCE, ran).await.expect("the client does not come to its end").unwrap();
    let said = String::from_utf8_lossy(&ran.stdout).into_owned();
    assert!(ran.status.success(), "{}: {said}{}", script.display(), String::from_utf8_lossy(&ran.stderr));
    said
}

#[expect(clippy::print_stdout, reason = "what was bought is what this is run for")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs generated clients: make clients"]
async fn generated_clients_buy_a_pair() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/clients");
    let fake = FakeProvider::start(FakeProviderOptions::default()).await.unwrap();
    let shop = working_shop(&fake).await;
    for (program, script) in [
        (Path::new("node").to_path_buf(), folder.join("typescript/out/buy.js")),
        (folder.join("python/env/bin/python"), folder.join("python/buy.py")),
    ] {
        assert!(script.exists(), "{} is not there: use `make clients`", script.display());
        let said = buys(&shop, &program, &script).await;
        print!("{said}");
        assert!(said.contains("is CONFIRMED"), "{said}");
    }
}
