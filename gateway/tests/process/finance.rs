//! Orders and finance at the command line: an order is shown, refunded in part, another cancelled, one goes out and comes back, a
//! buyer is forgotten, and the day is closed with the books right.

use doorbuster_engine::domain::claims::{Claim, Quantity};
use doorbuster_engine::domain::ids::BuyerId;
use doorbuster_engine::ledger::profiles::CheckoutProfile;
use doorbuster_engine::provider::{ProviderClient, ProviderSettings, SecretKey};
use doorbuster_engine::workers::settle_all;
use doorbuster_sandbox::provider::{FakeClock, FakeProvider, FakeProviderOptions};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, ToSpan as _};
use serde_json::{Value, json};

use super::program::{configured, output, with_provider};
use crate::support::{Sale, engine, make_drop, new_database, until};

#[tokio::test(flavor = "multi_thread")]
async fn orders_are_refunded_and_a_day_is_closed_at_the_command_line() {
    let (database_url, drop) = new_database().await;
    let engine = engine(&database_url).await;
    make_drop(&engine, &drop, &Sale { limit: 1, ..Sale::default() }).await;
    // The provider lives a day behind, and so will our books: then yesterday is over.
    let a_day = SignedDuration::from_hours(24);
    let clock = engine.clock.clone();
    let yesterday = clock.clone();
    let options = FakeProviderOptions {
        clock: FakeClock::unix_seconds(move || (yesterday.now() - a_day).as_second()),
        ..FakeProviderOptions::default()
    };
    let provider = FakeProvider::start(options).await.unwrap();
    let client = ProviderClient::new(ProviderSettings {
        base_url: provider.url().to_owned(),
        secret_key: SecretKey::from(provider.secret_key().to_owned()),
        connect_timeout: std::time::Duration::from_secs(1),
        answer_timeout: std::time::Duration::from_secs(5),
    });
    let client = client.unwrap();

    let live = engine.live_drop(&drop.parse().unwrap()).await.unwrap().unwrap();
    let mut orders = Vec::new();
    for name in ["ada", "bob", "eve"] {
        let buyer: BuyerId = name.parse().unwrap();
        let profile = CheckoutProfile {
            payment_method: Some("pm_card_visa".parse().unwrap()),
            email: format!("{name}@example.com"),
            ship_to: json!({}),
        };
        engine.ledger.save_profile(&buyer, &profile, clock.now()).await.unwrap();
        let claim = Claim::new(
            live.drop.id,
            buyer,
            &"k".parse().unwrap(),
            live.drop.variants[0].number,
            Quantity::new(1).unwrap(),
        );
        engine.claim(&live, &claim).await.unwrap();
        orders.push(claim.id.order_id().to_string());
    }
    settle_all(&engine).await.unwrap();
    engine.charge_due(&client, 10, 4).await.unwrap();

    let run = async |arguments: &[&str]| {
        let mut command = configured(arguments, &database_url).await;
        with_provider(&mut command, &provider);
        let output = output(command).await;
        (output.status.code(), String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, shown, _) = run(&["order", "show", &orders[0], "--json"]).await;
    assert_eq!(code, Some(0));
    assert_eq!(serde_json::from_str::<Value>(&shown).unwrap()["status"], "CONFIRMED");
    let id = "00000000-0000-7000-8000-000000000001";
    let refund = ["order", "refund", &*orders[0], "--amount-minor", "1000", "--reason", "a scratch", "--id", id];
    let (code, said, _) = run(&refund).await;
    assert_eq!((code, said.contains("workers carry it out")), (Some(0), true), "{said}");
    let (code, said, _) = run(&refund).await;
    assert_eq!((code, said.contains("was asked for before")), (Some(0), true), "{said}");
    let (code, said, _) = run(&[&refund[..], &["--json"]].concat()).await;
    let shown: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((code, &shown["refund"]), (Some(0), &serde_json::json!({ "id": id, "is_new": false })), "{said}");
    let (code, _, error) =
        run(&["order", "refund", &orders[0], "--amount-minor", "99999999", "--reason", "too much"]).await;
    assert_eq!((code, error.contains("can go back")), (Some(1), true), "{error}");
    let (code, said, error) = run(&["order", "cancel", &orders[1], "--reason", "asked by mail", "--by", "grace"]).await;
    assert_eq!((code, said.contains("CANCELLED")), (Some(0), true), "{said}{error}");
    engine.charge_due(&client, 10, 4).await.unwrap();

    // Another goes to its buyer, and comes back.
    let eves = orders[2].as_str();
    let (code, _, error) = run(&["order", "deliver", eves]).await;
    assert_eq!((code, error.contains("is CONFIRMED")), (Some(1), true), "{error}");
    let ship = ["order", "ship", eves, "--carrier", "DHL", "--tracking-number", "1", "--by", "grace"];
    let back = ["order", "return", eves, "--line", "1:1", "--restock", "--reason", "small", "--id", id];
    let again = ["order", "return", eves, "--line", "1:1", "--reason", "small"];
    let other = id.replace("0001", "0002");
    let back = back.map(|argument| if argument == id { other.as_str() } else { argument });
    for (arguments, expected, says) in [
        (&["order", "process", eves][..], 0, "PROCESSING"),
        (&ship, 0, "shipped with DHL 1"),
        (&["order", "deliver", eves], 0, "DELIVERED"),
        (&back, 0, "1 returned"),
        (&back, 0, "was taken before"),
        (&again, 1, "at most 0 can come back"),
        (&["order", "history", eves], 0, "SHIPPED          grace       handed over to DHL"),
        (&["order", "list", "--status", "DELIVERED", "--buyer", "eve"], 0, eves),
        (&["buyer", "export", "eve"], 0, "\"tracking_number\": \"1\""),
        (&["buyer", "erase", "ada"], 1, &orders[0]),
        (&["buyer", "erase", "bob"], 0, &drop),
        (&["drop", "close", &drop], 0, "closed"),
    ] {
        let (code, said, error) = run(arguments).await;
        assert_eq!((code, format!("{said}{error}").contains(says)), (Some(expected), true), "{says}: {said}{error}");
    }
    until("the units are back", async || engine.apply_grants().await.unwrap().is_done()).await;
    let (code, said, error) = run(&["drop", "archive", &drop]).await;
    assert_eq!((code, said.contains("archived")), (Some(0), true), "{said}{error}");
    let (code, said, error) = run(&["order", "list", "--status", "CANCELLED"]).await;
    assert_eq!((code, said.contains("erased-"), said.contains("bob")), (Some(0), true, false), "{said}{error}");

    let (sql, connection) = tokio_postgres::connect(&database_url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    sql.batch_execute(
        "update journal set booked_at = booked_at - interval '1 day';
         update refunds set settled_at = settled_at - interval '1 day';
         update invoices set charged_at = charged_at - interval '1 day';
         update credit_notes set settled_at = settled_at - interval '1 day'",
    )
    .await
    .unwrap();
    let actor = sql.query_one("select actor from order_history where to_state = 'CANCELLED'", &[]).await.unwrap();
    assert_eq!(actor.get::<_, &str>(0), "grace");

    let today = clock.now().to_zoned(TimeZone::UTC).date();
    let day = today.checked_sub(1.day()).unwrap().to_string();
    let (code, _, error) = run(&["finance", "close", "--day", &today.to_string()]).await;
    assert_eq!((code, error.contains("is not over")), (Some(1), true), "{error}");
    let folder = tempfile::tempdir().unwrap();
    let csv = folder.path().to_str().unwrap();
    let (code, report, error) = run(&["finance", "close", "--day", &day, "--csv", csv, "--json"]).await;
    assert_eq!(code, Some(0), "{error}");
    let report: Value = serde_json::from_str(&report).unwrap();
    assert_eq!((&report["charges"], &report["refunds"], &report["differences"]), (&json!(3), &json!(2), &json!([])));
    let lines = |table: &str| {
        let path = folder.path().join(format!("{table}-{day}.csv"));
        csv::Reader::from_path(path).unwrap().records().map(Result::unwrap).count()
    };
    assert_eq!((lines("orders"), lines("invoices"), lines("credit-notes")), (3, 3, 2));
    let vat = folder.path().join("vat.csv");
    let (month, vat) = (&day[..7], vat.to_str().unwrap());
    let pages = folder.path().join("pages");
    for (arguments, expected, says) in [
        (&["finance", "days"][..], 0, "0 days forgotten"),
        (&["finance", "days", "--time-zone", "Europe/Berlin"], 1, "the first day was closed in UTC"),
        (&["finance", "vat", "--from", month, "--time-zone", ""], 0, "CREDITED"),
        (&["finance", "vat", "--from", month, "--csv", vat, "--json"], 0, "\"tax_basis_points\": 1900"),
        (&["finance", "vat", "--from", "2026-12", "--to", "2026-11"], 1, "is before"),
        (&["finance", "vat", "--from", "2026"], 2, "a month is written as 2026-11"),
        (&["finance", "seller"], 0, "nobody has said"),
        (&["finance", "seller", "--name", "Shop\n", "--country", "DE"], 1, "control characters"),
        (&["finance", "seller", "--name", "Shop", "--country", "UK"], 1, "for UK that is GB"),
        (&["finance", "seller", "--name", "Shop", "--country", "DE", "--tax-id", "DE1"], 0, "VAT number: DE1"),
        (&["finance", "invoice", &orders[0], "--html", pages.to_str().unwrap()], 0, "lower price"),
        (&["finance", "invoice", id], 1, "there is no order"),
    ] {
        let (code, said, error) = run(arguments).await;
        assert_eq!((code, format!("{said}{error}").contains(says)), (Some(expected), true), "{says}: {said}{error}");
    }
    let files = std::fs::read_dir(&pages).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap());
    let files = files.collect::<Vec<_>>();
    assert!(files.len() == 2 && files.iter().all(|name| name.ends_with(".html")), "{files:?}");
    let header = std::fs::read_to_string(vat).unwrap();
    assert!(header.starts_with("month,country,vat_rate,invoiced_net,"), "{header}");
    let (code, said, _) = run(&["finance", "drop", &drop]).await;
    assert_eq!((code, said.contains("CANCELLED"), said.contains("provider_fees")), (Some(0), true, false), "{said}");

    sql.execute("update journal set amount_minor = amount_minor + 1 where credit_account = 'sales'", &[])
        .await
        .unwrap();
    let (code, said, error) = run(&["finance", "close", "--day", &day]).await;
    assert_eq!((code, said.contains("journal_differs")), (Some(1), true), "{said}{error}");
}
