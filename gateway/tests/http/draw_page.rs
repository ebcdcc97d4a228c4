//! The bundle of a draw over HTTP, and the page that checks it, in a real browser.

use std::path::PathBuf;

use doorbuster_engine::domain::drops::Admission;
use doorbuster_engine::domain::ids::DropId;
use doorbuster_engine::domain::line::beacon::{Chain, Pulse};
use doorbuster_engine::domain::line::bundle::Bundle;
use doorbuster_engine::domain::line::entries::EntryId;
use doorbuster_engine::domain::line::example;
use doorbuster_engine::domain::line::hex::{Digest, Hex};
use doorbuster_engine::domain::line::tickets::{Ticket, TicketSigner};
use doorbuster_sandbox::browser::Browser;
use futures_util::future::join_all;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::line::Queue;
use super::shop::send;
use crate::support::until;

#[tokio::test]
async fn the_bundle_is_what_the_command_writes_and_never_changes_once_the_line_is_closed() {
    let mut queue = Queue::new(Admission::Queue, 100).await;
    for who in ["ada", "bob", "carl"] {
        assert_eq!(queue.join(who, "k", &[42, 43]).await.status, 201);
    }
    queue.anybody("/bundle").await.is_problem(409, "not_drawn");
    queue.let_it_be_opening().await;
    until("the board says so", async || queue.anybody("").await.json()["state"] == "drawn").await;
    // A crowd asks at once, and it is made once.
    let crowd = join_all((0..20).map(|_| queue.anybody("/bundle"))).await;
    assert!(crowd.iter().all(|shown| shown.status == 200 && shown.text == crowd[0].text), "{crowd:?}");
    let made = format!("doorbuster_line_bundles_made_total{{drop=\"{}\"}} 1\n", queue.name);
    let metrics = queue.shop.ops("/metrics").await.text;
    assert!(metrics.contains(&made), "{metrics}");
    let written = async || {
        let bundle = queue.shop.engine.line_bundle(&queue.name.parse().unwrap()).await.unwrap();
        bundle.unwrap().to_text()
    };
    let shown = queue.anybody("/bundle").await;
    assert_eq!(shown.text, written().await);
    assert_eq!(
        (shown.header("content-type"), shown.header("cache-control")),
        (Some("application/json"), Some("public, max-age=5"))
    );
    let etag = shown.header("etag").unwrap().to_owned();
    let request = queue.shop.http.get(queue.shop.url(&queue.path("/bundle"))).header("If-None-Match", &etag);
    let known = send(request).await;
    assert_eq!((known.status.as_u16(), known.text.as_str()), (304, ""));

    assert_eq!(queue.join("dora", "k", &[42]).await.status, 201, "behind the list");
    let engine = &queue.shop.engine;
    assert!(engine.ledger.close_line(drop_of(&queue), engine.clock.now()).await.unwrap());
    until("nothing comes to it any more", async || {
        let closed = queue.anybody("/bundle").await;
        closed.header("cache-control") == Some("public, max-age=31536000, immutable")
    })
    .await;
    let closed = queue.anybody("/bundle").await;
    assert_eq!((closed.text.as_str(), closed.header("etag") == Some(&etag)), (written().await.as_str(), false));
    assert_eq!(closed.json()["joins"].as_array().unwrap().len(), 1);
}

fn drop_of(queue: &Queue) -> DropId {
    queue.shop.engine.known_drop(&queue.name.parse().unwrap()).unwrap().drop.id
}

/// The page in a browser, and files for it to read.
struct Visitor {
    browser: Browser,
    folder: tempfile::TempDir,
    files: u32,
}

impl Visitor {
    async fn new() -> Self {
        let mut browser = Browser::start().await.unwrap();
        // What the policy of a page forbids and the page does all the same.
        let note = "globalThis.forbidden = []; addEventListener('securitypolicyviolation',
            (event) => forbidden.push(`${event.violatedDirective} ${event.blockedURI}`), true)";
        browser.before_pages(note).await.unwrap();
        Self { browser, folder: tempfile::tempdir().unwrap(), files: 0 }
    }

    fn write(&mut self, text: &str) -> PathBuf {
        self.files += 1;
        let file = self.folder.path().join(format!("{}.json", self.files));
        std::fs::write(&file, text).unwrap();
        file
    }

    /// Chooses a bundle's file, enters a ticket and has both checked.
    async fn check(&mut self, bundle: &str, own: &str) -> Value {
        let file = self.write(bundle);
        self.browser.choose_file("#file", &file).await.unwrap();
        let enter =
            format!("document.getElementById('own').value = {}; document.getElementById('check').click()", json!(own));
        self.browser.evaluate(&enter).await.unwrap();
        self.verdict().await
    }

    /// What the page says once it has come to its end: the name of what is wrong, the heading, and all of it.
    async fn verdict(&mut self) -> Value {
        let verdict = "!document.getElementById('check').disabled && !document.getElementById('result').hidden && {
            code: document.getElementById('result').dataset.code,
            heading: document.activeElement.textContent,
            text: document.getElementById('result').innerText.replace(/\\s+/g, ' '),
            width: document.documentElement.scrollWidth,
            forbidden,
        }";
        let verdict = self.browser.until(verdict).await.unwrap();
        assert_eq!(verdict["forbidden"], json!([]), "{verdict}");
        assert!(verdict["width"].as_u64() <= Some(390), "it is wider than a phone: {verdict}");
        verdict
    }
}

fn says(verdict: &Value, code: &str, texts: &[&str]) {
    assert_eq!(verdict["code"], code, "{verdict}");
    let said = verdict["text"].as_str().unwrap();
    for text in texts {
        assert!(said.contains(text), "{text:?}: {said}");
    }
}

/// A draw of so many entries, with a signature that only a verifier with BLS refuses.
fn example(entries: u32, signer: &TicketSigner) -> Bundle {
    let signature = Hex([5; 48]);
    // Its SHA-256.
    let randomness: Digest = "bae0441407d7f6e0fe664fd07f8d144340acea5f88820f2ad0c800671c9479e3".parse().unwrap();
    let chain = Chain::quicknet();
    example::bundle(entries, &chain, signer.public_key(), |round| Pulse { round, randomness, signature })
}

#[tokio::test]
async fn the_page_checks_a_draw_of_this_shop_and_any_file() {
    let mut queue = Queue::new(Admission::Queue, 100).await;
    for who in ["ada", "bob", "carl"] {
        assert_eq!(queue.join(who, "k", &[42, 43]).await.status, 201);
    }
    queue.let_it_be_opening().await;
    until("it is drawn", async || queue.anybody("/bundle").await.status == 200).await;
    let me = queue.me("ada").await.json();
    let ticket = me["ticket"].as_str().unwrap();
    let page = send(queue.shop.http.get(queue.shop.url("/draw"))).await;
    let policy = page.header("content-security-policy").unwrap();
    assert!(policy.starts_with("default-src 'none'; ") && !policy.contains("unsafe"), "{policy}");
    assert_eq!(page.header("cache-control"), Some("public, no-cache"));

    let mut visitor = Visitor::new().await;
    visitor.browser.show_on(390, true).await.unwrap();
    let address = queue.shop.url(&format!("/draw?drop={}#{ticket}", queue.name));
    visitor.browser.open(&address).await.unwrap();
    let verdict = visitor.verdict().await;
    let rank = format!("with rank {} (counted from 0)", me["rank"]);
    let secret = "People at the shop could have known this result, or abandoned one.";
    says(&verdict, "right", &[&rank, "You were given 1 ×", "The shop has signed your ticket.", secret, "3 entries"]);
    assert_eq!(verdict["heading"], json!(format!("The draw of {} follows from what was published", queue.name)));
    // What is dark is dark, and every field has its label.
    let look = "[getComputedStyle(document.body).backgroundColor,
        [...document.querySelectorAll('input, textarea')].every((field) => field.labels.length === 1)]";
    assert_eq!(visitor.browser.evaluate(look).await.unwrap(), json!(["rgb(21, 21, 26)", true]));

    let none = "document.getElementById('drop').value = 'nothing'; document.getElementById('check').click()";
    visitor.browser.evaluate(none).await.unwrap();
    says(&visitor.verdict().await, "refused", &["There is no such drop"]);

    let signer = TicketSigner::new(&[1; 32]).unwrap();
    let (large, small) = (example(10_000, &signer), example(300, &signer));
    let of = |entry| signer.sign(&Ticket { drop: DropId(1), number: 1, entry, joined_at: Timestamp::UNIX_EPOCH });
    let entry = large.leaves[17].id;
    let right = visitor.check(&large.to_text(), &of(entry)).await;
    let signature = "One thing is left for you to check: the beacon’s signature.";
    says(&right, "right", &["10,000 entries", signature, &entry.to_string()]);
    let mut other = small.clone();
    other.leaves.remove(17);
    other.count -= 1;
    says(&visitor.check(&other.to_text(), "").await, "Root", &["an entry was added, removed or changed"]);
    says(&visitor.check("{", "").await, "Malformed", &["it is no JSON, or was cut off"]);

    // As a file from the disk: no server is asked.
    let saved = visitor.folder.path().join("saved.html");
    std::fs::write(&saved, &page.text).unwrap();
    visitor.browser.open(&format!("file://{}", saved.display())).await.unwrap();
    let right = visitor.check(&small.to_text(), &of(small.leaves[17].id)).await;
    says(&right, "right", &["300 entries", "The shop has signed your ticket."]);
    // Some browsers have no worker for such a page.
    visitor.browser.evaluate("globalThis.Worker = undefined").await.unwrap();
    let out = visitor.check(&small.to_text(), &of(EntryId(Hex([3; 16])))).await;
    says(&out, "NotInList", &["is not in the list", "show both to the shop"]);
    let mut other = small.clone();
    other.chunks[0].awards.remove(0);
    says(&visitor.check(&other.to_text(), "").await, "MissingAward", &["was not given what the rules give them"]);
    visitor.browser.close().await.unwrap();
}
