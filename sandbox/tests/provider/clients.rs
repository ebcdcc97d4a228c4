//! The provider's own clients, Python and Node, driven against the fake: what they cannot parse is a fault of the fake.
//!
//! `make stripe-client` installs them and runs this.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use doorbuster_sandbox::provider::{FakeProviderOptions, WebhookOptions};
use tokio::process::Command;

use super::Shop;

const SECRET: &str = "whsec_walk";

/// The walk takes a second; the rest is the start of an interpreter.
const PATIENCE: Duration = Duration::from_secs(60);

#[expect(clippy::print_stdout, reason = "what was walked is what this is run for")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the provider's own clients: make stripe-client"]
async fn the_providers_own_clients_find_their_way() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/stripe-client");
    for (program, script) in [
        (folder.join("env/bin/python"), folder.join("walk.py")),
        (Path::new("node").to_path_buf(), folder.join("walk.mjs")),
    ] {
        assert!(script.exists(), "{} is not there: use `make stripe-client`", script.display());
        let shop = Shop::open(FakeProviderOptions::default()).await;
        // The script takes this port. Nobody else on the machine is likely to in the moment between.
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        shop.fake.send_webhooks(WebhookOptions::new(&format!("http://127.0.0.1:{port}/"), SECRET));
        let ran = Command::new(program)
            .arg(&script)
            .env("FAKE_URL", shop.fake.url())
            .env("FAKE_KEY", shop.fake.secret_key())
            .env("FAKE_WEBHOOK_PORT", port.to_string())
            .env("FAKE_WEBHOOK_SECRET", SECRET)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let ran = tokio::time::timeout(PATIENCE, ran).await.expect("the walk does not come to its end").unwrap();
        let said = String::from_utf8_lossy(&ran.stdout);
        assert!(ran.status.success(), "{}: {said}{}", script.display(), String::from_utf8_lossy(&ran.stderr));
        print!("{said}");
        assert!(said.contains("walked to its end"), "{said}");
    }
}
