//! `doorbuster check-config`: each broken set-up is told with the word WRONG and its exit code, and nobody notices.

use std::collections::BTreeMap;

use doorbuster_sandbox::provider::{FakeProvider, FakeProviderOptions};
use doorbuster_sandbox::shared;
use doorbuster_sandbox::smtp_sink::{SmtpSink, SmtpSinkOptions};
use doorbuster_sandbox::webhook_sink::WebhookSink;
use doorbuster_sandbox::{Redis, RedisOptions};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio_postgres::NoTls;

use super::program::{configured, output, with_provider};
use crate::support::{empty_database, new_database};

const WEBHOOK_SECRET: &str = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz";
const ADA: &str = "ada=0123456789abcdef0123456789abcdef";

/// A set-up with which everything could be sold.
struct Shop {
    database_url: String,
    provider: FakeProvider,
    mails: SmtpSink,
    hooks: WebhookSink,
}

/// What the command said, and how it ended.
struct Told {
    code: Option<i32>,
    text: String,
    sentence: String,
}

impl Shop {
    async fn open() -> Self {
        Self {
            database_url: new_database().await.0,
            provider: FakeProvider::start(FakeProviderOptions::default()).await.unwrap(),
            mails: SmtpSink::start(SmtpSinkOptions::default()).await.unwrap(),
            hooks: WebhookSink::start(&[WEBHOOK_SECRET]).await.unwrap(),
        }
    }

    /// Runs the command with all of it, and with these settings instead of those that are right.
    async fn check(&self, arguments: &[&str], instead: &[(&str, &str)]) -> Told {
        let mut command = configured(&[&["check-config"], arguments].concat(), &self.database_url).await;
        with_provider(&mut command, &self.provider)
            .env("DOORBUSTER_SMTP_URL", self.mails.url())
            .env("DOORBUSTER_MAIL_FROM", "Shop <orders@shop.example>")
            .env("DOORBUSTER_WEBHOOKS", format!("shop={}", self.hooks.url()))
            .env("DOORBUSTER_WEBHOOK_SECRETS", format!("shop={WEBHOOK_SECRET}"))
            .env("DOORBUSTER_PROVIDER_WEBHOOK_SECRETS", "whsec_0123456789")
            .env("DOORBUSTER_OPERATOR_TOKENS", ADA)
            .env("DOORBUSTER_RECEIPT_KEYS", "new=another-secret-of-32-bytes-and-more")
            .envs(instead.iter().copied());
        let output = output(command).await;
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Told { code: output.status.code(), text: text(output.stdout), sentence: text(output.stderr) }
    }

    /// One setting is broken: that is said, all others are tried all the same, and nothing that is secret is shown.
    async fn is_wrong(&self, instead: &[(&str, &str)], code: i32, expected: &str) {
        let told = self.check(&[], instead).await;
        assert_eq!(told.code, Some(code), "{expected}: {}{}", told.text, told.sentence);
        // What a client says to its log is told as a line already.
        assert_eq!(told.sentence.lines().count(), 1, "{expected}: {}", told.sentence);
        let wrong = told.lines("WRONG");
        assert!(wrong.iter().any(|line| line.contains(expected)), "{expected}: {}", told.text);
        for name in
            ["tokens of buyers", "operators", "Redis", "Postgres", "migrations", "payment provider", "mail server"]
        {
            assert!(told.text.contains(&format!("  {name}: ")), "{expected}: {name} was not tried: {}", told.text);
        }
        assert!(
            told.text.contains("  endpoint shop: ") && told.sentence.contains("WRONG"),
            "{expected}: {}",
            told.text
        );
        for secret in [WEBHOOK_SECRET, &ADA[4..], "sk_test_", "hidden"] {
            assert!(!told.text.contains(secret) && !told.sentence.contains(secret), "{}{}", told.text, told.sentence);
        }
        assert!(self.mails.mails().is_empty() && self.hooks.events().is_empty(), "nobody notices");
    }

    async fn sql(&self, sql: &str) {
        sql_in(&self.database_url, sql).await;
    }
}

impl Told {
    fn lines(&self, verdict: &str) -> Vec<&str> {
        self.text.lines().filter(|line| line.starts_with(verdict)).collect()
    }
}

async fn sql_in(database_url: &str, sql: &str) {
    let (client, connection) = tokio_postgres::connect(database_url, NoTls).await.unwrap();
    let driver = tokio::spawn(connection);
    client.batch_execute(sql).await.unwrap();
    drop(client);
    driver.await.unwrap().unwrap();
}

async fn redis_with(name: &str, value: &str) -> Redis {
    shared::sandbox().redis_with(RedisOptions::default().setting(name, value)).await.unwrap()
}

#[tokio::test]
async fn a_set_up_that_can_sell_is_all_right_and_nobody_hears_of_the_check() {
    let shop = Shop::open().await;
    let told = shop.check(&[], &[]).await;
    assert_eq!((told.code, told.sentence.as_str()), (Some(0), ""), "{}", told.text);
    assert!(told.lines("WRONG").is_empty(), "{}", told.text);
    for expected in [
        "ok       payment provider: it takes our key; it is a test key: no money moves",
        "WARNING  return page: none is configured (DOORBUSTER_RETURN_URL)",
        "ok       mail server: the mail server takes our sender",
        "ok       endpoint shop: somebody listens at 127.0.0.1, and nothing was sent",
        "WARNING  Redis of the carts: carts share the tokens' Redis",
        "ok       operators: ada",
        "ok       receipts: the key new signs, 0 older keys verify",
        "ok       clock of Redis: ",
        "ok       clock of Postgres: ",
        "ok       migrations: the schema has version ",
        "ok       Postgres: no pooler",
    ] {
        assert!(told.text.contains(expected), "{expected}: {}", told.text);
    }
    for line in told.text.lines() {
        let verdicts = ["ok  ", "WARNING  ", "WRONG  ", "unknown  "];
        assert!(verdicts.iter().any(|verdict| line.starts_with(verdict)), "{line}");
    }
    assert!(shop.mails.mails().is_empty() && shop.hooks.events().is_empty(), "nobody notices");

    let page = [("DOORBUSTER_RETURN_URL", "https://shop.example/account")];
    let told = shop.check(&["--json", "--send-test", "ops@shop.example"], &page).await;
    let shown: Value = serde_json::from_str(&told.text).unwrap();
    let verdicts = shown["checks"].as_array().unwrap().iter();
    let verdicts = verdicts.map(|check| (check["check"].as_str().unwrap(), check["verdict"].as_str().unwrap()));
    let verdicts = verdicts.collect::<BTreeMap<_, _>>();
    assert_eq!((told.code, verdicts["test mail"], verdicts["test event to shop"]), (Some(0), "ok", "ok"), "{shown}");
    assert_eq!(verdicts["return page"], "ok", "{shown}");
    let (mails, events) = (shop.mails.mails(), shop.hooks.events());
    assert_eq!((mails.len(), events.len()), (1, 1));
    assert_eq!(mails[0].to, ["ops@shop.example"]);
    assert_eq!((events[0].problem, &events[0].body["type"]), (None, &"test".into()));
}

#[tokio::test]
async fn a_wrong_key_of_the_payment_provider_is_wrong() {
    let shop = Shop::open().await;
    let key = [("DOORBUSTER_PROVIDER_KEY", "sk_test_another")];
    shop.is_wrong(&key, 1, "payment provider: it refuses our key with 401").await;
    // Its address is another's: our key would travel in the clear.
    let plain = [("DOORBUSTER_PROVIDER_URL", "http://192.0.2.1")];
    shop.is_wrong(&plain, 64, "payment provider: --provider-url").await;
    shop.provider.cut_off();
    let told = shop.check(&[], &[]).await;
    let unknown = told.lines("unknown");
    assert_eq!(told.code, Some(75), "{}", told.text);
    assert!(unknown.iter().any(|line| line.contains("payment provider: ")), "{}", told.text);
}

#[tokio::test]
async fn a_mail_server_that_wants_a_login_or_another_sender_is_wrong() {
    let shop = Shop::open().await;
    let login = Some(("shop".to_owned(), "hidden".to_owned()));
    let strict = SmtpSink::start(SmtpSinkOptions { login, ..SmtpSinkOptions::default() }).await.unwrap();
    let without = format!("smtp://{}", strict.address());
    let refused = format!("smtp://shop:hidden-too@{}", strict.address());
    shop.is_wrong(&[("DOORBUSTER_SMTP_URL", &without)], 1, "authentication required").await;
    shop.is_wrong(&[("DOORBUSTER_SMTP_URL", &refused)], 1, "credentials invalid").await;
    let known = shop.check(&[], &[("DOORBUSTER_SMTP_URL", &strict.url())]).await;
    assert!(known.code == Some(0) && known.text.contains("logged in, as orders@shop.example"), "{}", known.text);

    let options = SmtpSinkOptions { refuses_sender: true, ..SmtpSinkOptions::default() };
    let strict = SmtpSink::start(options).await.unwrap();
    shop.is_wrong(&[("DOORBUSTER_SMTP_URL", &strict.url())], 1, "sender not allowed").await;
}

#[tokio::test]
async fn a_redis_that_evicts_or_is_a_replica_is_wrong() {
    let shop = Shop::open().await;
    let evicting = redis_with("maxmemory-policy", "allkeys-lru").await;
    // Nobody is there to be a replica of.
    let replica = redis_with("replicaof", "127.0.0.1 1").await;
    shop.is_wrong(&[("DOORBUSTER_REDIS_URL", &evicting.url())], 1, "maxmemory-policy is allkeys-lru").await;
    shop.is_wrong(&[("DOORBUSTER_REDIS_URL", &replica.url())], 1, "Redis: it is a replica").await;
    let carts = [("DOORBUSTER_CARTS_REDIS_URL", &*evicting.url())];
    shop.is_wrong(&carts, 1, "Redis of the carts: maxmemory-policy is allkeys-lru").await;
}

/// By what the servers say of themselves: one Redis has as many addresses as somebody gives it.
#[tokio::test]
async fn carts_on_the_tokens_redis_are_told_whatever_it_is_called() {
    let shop = Shop::open().await;
    let (tokens, other) = (shared::redis_url().await, redis_with("maxmemory-policy", "noeviction").await);
    let called_otherwise = format!("{}/7", tokens.replace("127.0.0.1", "localhost"));
    assert_ne!(called_otherwise, format!("{tokens}/7"));
    for (carts, expected) in [
        (called_otherwise, "WARNING  Redis of the carts: DOORBUSTER_CARTS_REDIS_URL leads to the tokens' Redis"),
        (other.url(), "ok       Redis of the carts: it is another one than the tokens'"),
    ] {
        let told = shop.check(&[], &[("DOORBUSTER_CARTS_REDIS_URL", &carts)]).await;
        assert!(told.text.contains(expected), "{carts}: {}{}", told.text, told.sentence);
    }
}

#[tokio::test]
async fn a_database_that_is_empty_or_ahead_or_behind_is_wrong() {
    let shop = Shop::open().await;
    let empty = empty_database().await;
    shop.is_wrong(&[("DOORBUSTER_DATABASE_URL", &empty)], 1, "migrations: the database is empty").await;
    shop.sql("insert into refinery_schema_history values (999, 'later', '2026-11-30T00:00:00Z', '1')").await;
    shop.is_wrong(&[], 1, "migrations: the schema has version 999").await;
    shop.sql(
        "delete from refinery_schema_history where version >= (select max(version) from refinery_schema_history
        where version < 999)",
    )
    .await;
    shop.is_wrong(&[], 1, "migrations: 1 migration is missing").await;
}

#[tokio::test]
async fn an_endpoint_at_which_nobody_listens_is_wrong() {
    let shop = Shop::open().await;
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nobody = format!("shop=http://{}/hooks?token=hidden", free.local_addr().unwrap());
    drop(free);
    shop.is_wrong(&[("DOORBUSTER_WEBHOOKS", &nobody)], 1, "endpoint shop: nobody listens at 127.0.0.1").await;
    // It answers, and not with a certificate.
    let (_, address) = shop.hooks.url().split_once("://").map(|(_, rest)| ((), rest.to_owned())).unwrap();
    let no_tls = format!("shop=https://{address}");
    shop.is_wrong(&[("DOORBUSTER_WEBHOOKS", &no_tls)], 1, "endpoint shop: 127.0.0.1 answers and gets no events").await;
}

/// The database has a clock of its own, which the server's name for it leads to.
#[tokio::test]
async fn a_clock_far_off_is_wrong() {
    let shop = Shop::open().await;
    shop.sql(
        "create schema ahead;
         create function ahead.clock_timestamp() returns timestamptz language sql
             as 'select pg_catalog.clock_timestamp() + interval ''1 hour''';
         do $$ begin
             execute format('alter database %I set search_path = ahead, pg_catalog, public', current_database());
         end $$",
    )
    .await;
    shop.is_wrong(&[], 1, "clock of Postgres: it is 3").await;
}

#[tokio::test]
async fn secrets_that_nobody_could_use_end_with_64_and_everything_else_is_tried() {
    let shop = Shop::open().await;
    for (name, value, expected) in [
        ("DOORBUSTER_OPERATOR_TOKENS", "ada=hidden", "operators: --operator-tokens"),
        ("DOORBUSTER_OPERATOR_TOKENS", "hidden", "has no ="),
        ("DOORBUSTER_RECEIPT_KEYS", "new=hidden", "receipts: --receipt-keys"),
        ("DOORBUSTER_JWT_SECRET", "hidden", "tokens of buyers: --jwt-secret"),
        ("DOORBUSTER_JWT_SECRET", &ADA[4..], "secrets: --operator-tokens"),
        ("DOORBUSTER_PROVIDER_WEBHOOK_SECRETS", "hidden", "provider's webhooks: --provider-webhook-secrets"),
        ("DOORBUSTER_WEBHOOK_SECRETS", "shop=hidden", "endpoints: --webhook-secrets"),
        ("DOORBUSTER_SMTP_URL", "hidden", "mail server: --smtp-url"),
        ("DOORBUSTER_REDIS_URL", "redis://x:hidden", "stores: --redis-url"),
    ] {
        let told = shop.check(&[], &[(name, value)]).await;
        assert_eq!(told.code, Some(64), "{expected}: {}{}", told.text, told.sentence);
        assert!(told.lines("WRONG").iter().any(|line| line.contains(expected)), "{expected}: {}", told.text);
        assert!(!told.text.contains("hidden"), "{}", told.text);
        let tried = told.text.contains("it takes our key");
        assert!(tried, "{expected}: {}", told.text);
    }
}

#[tokio::test]
async fn stores_that_are_away_are_unknown_and_to_be_tried_again() {
    let shop = Shop::open().await;
    let away = [
        ("DOORBUSTER_REDIS_URL", "redis://127.0.0.1:1"),
        ("DOORBUSTER_DATABASE_URL", "postgres://nobody@127.0.0.1:1/nothing"),
    ];
    let told = shop.check(&[], &away).await;
    assert_eq!(told.code, Some(75), "{}{}", told.text, told.sentence);
    assert!(
        told.lines("ok").iter().all(|line| !line.contains("Redis: ") && !line.contains("Postgres")),
        "{}",
        told.text
    );
    assert!(told.text.contains("it takes our key") && told.sentence.contains("did not answer"), "{}", told.text);
}
