//! What a line tells: its buyers by mail, in a lane that holds up no other, and the shop's systems by webhook.

use doorbuster_engine::domain::drops::Admission;
use doorbuster_engine::flows::outbox::Lane;
use doorbuster_sandbox::smtp_sink::{SmtpSink, SmtpSinkOptions};
use doorbuster_sandbox::webhook_sink::WebhookSink;
use jiff::SignedDuration;
use serde_json::json;

use crate::harness::buyer;
use crate::line::{EVERY, Line, same, with_terms};
use crate::mails::{deliver, mailer, text};
use crate::webhooks::{OLD, fan_out, lane};

#[tokio::test(flavor = "multi_thread")]
async fn everybody_in_line_is_told_that_they_are_and_how_it_ended() {
    let mut line = Line::open(Admission::Queue, &[1, 1], 10, same).await;
    for who in 1..=5 {
        // The fifth has given no address.
        if who < 5 {
            line.world.save_profile(who, "pm_card_visa").await;
        }
        line.join(who, &[1, 0], 1).await;
    }
    line.engine().leave_line(&line.drop().await, &buyer(2), None).await.unwrap();
    assert_eq!(line.engine().write_line_mails().await.unwrap(), 3);
    assert_eq!(line.engine().write_line_mails().await.unwrap(), 0, "once each");
    let sink = SmtpSink::start(SmtpSinkOptions::default()).await.unwrap();
    let [orders, awards, lines] = Lane::mails(&mailer(&sink.url()));
    assert_eq!(deliver(line.engine(), &orders).await.leased, 0, "they hold up nobody's order");
    assert_eq!(deliver(line.engine(), &lines).await.sent, 3);
    let mails = sink.mails();
    let ours = mails.iter().find(|mail| mail.to == ["b1@example.test"]).unwrap();
    let (said, entry) = (text(ours), line.entry(1).await.id);
    assert!(said.contains("You stand in line for Shoe ") && said.contains(&format!("Entry {}\n", entry.0)), "{said}");
    let (first, second) = (said.find(", size 1 (").unwrap(), said.find(", size 0 (").unwrap());
    assert!(first < second && !said.contains("Total:"), "their wish in its order, and no sum: {said}");

    assert_eq!(line.until_first_round().await, 2);
    assert_eq!(deliver(line.engine(), &awards).await.leased, 2, "in a lane of their own");
    assert_eq!(line.engine().write_line_mails().await.unwrap(), 0, "nobody is told of a seal or a round");
    line.after(SignedDuration::from_hours(1)).await;
    let waiting = 4 - line.given().await.len();
    let ended = line.engine().write_line_mails().await.unwrap();
    assert!((1..=waiting).contains(&ended), "{ended} of {waiting} who wait: one of these may have no address");
    assert_eq!(deliver(line.engine(), &lines).await.sent, ended);
    let last = text(sink.mails().last().unwrap());
    assert!(last.contains("there was nothing left of what you wanted") && last.contains("Nothing has been charged"));
    let twice = "select count(*) from outbox group by order_id, kind having count(*) > 1";
    assert!(line.world.sql.query(twice, &[]).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_another_place_with_the_same_card_is_told_so() {
    let mut line = Line::open(Admission::Draw, &[2], 10, with_terms(|terms| terms.requires_card = true)).await;
    for who in 1..=3 {
        line.world.save_card(who, "pm_card_visa").await;
        let card = "update cards set fingerprint = sha256($2::text::bytea) where buyer = $1";
        let finger = if who < 3 { "one" } else { "other" };
        line.world.sql.execute(card, &[&buyer(who).as_str(), &finger]).await.unwrap();
        let asked = Line::asked(who, "k", &[0], 1);
        line.engine().join_line(&line.drop().await, &asked).await.unwrap();
    }
    line.until_first_round().await;
    let merged = "select count(*) from outbox where kind = 'line_merged' and destination = 'mail:lines'";
    assert_eq!(line.world.count(merged).await, 1);
    let sink = SmtpSink::start(SmtpSinkOptions::default()).await.unwrap();
    let [_, _, lines] = Lane::mails(&mailer(&sink.url()));
    assert_eq!(deliver(line.engine(), &lines).await.sent, 1);
    assert_eq!(sink.mails()[0].to, ["b2@example.test"]);
    assert!(text(&sink.mails()[0]).contains("One card has one place"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shops_systems_are_told_what_a_line_comes_to() {
    let mut line = Line::open(Admission::Queue, &[3], 2, same).await;
    let sink = WebhookSink::start(&[OLD]).await.unwrap();
    let lane = lane("shop", &sink.url(), &[OLD]);
    fan_out(&line.world, &[&lane]).await;
    for who in 1..=5 {
        line.join(who, &[0], 1).await;
    }
    line.until_first_round().await;
    line.after(EVERY).await;
    line.after(SignedDuration::from_hours(1)).await;
    fan_out(&line.world, &[&lane]).await;
    while deliver(line.engine(), &lane).await.leased > 0 {}
    // The line's time stood still, so the receiver calls these too old: it has them all the same.
    let events = sink.events();
    let of_drop = events.iter().filter(|event| event.body["data"].get("order_id").is_none());
    let detail = |kind: &str| {
        let of_kind = of_drop.clone().filter(|event| event.body["type"] == kind).collect::<Vec<_>>();
        assert!(of_kind.iter().all(|event| event.body["data"]["drop"] == line.world.drop.as_str()), "{of_kind:?}");
        of_kind.iter().map(|event| event.body["data"]["detail"].clone()).collect::<Vec<_>>()
    };
    let row = line.row().await;
    assert_eq!(detail("drop.sealed"), [json!({ "count": 5, "root": row.root, "beacon_round": null })]);
    let seed = row.drawn.as_ref().unwrap().seed;
    assert_eq!(detail("drop.drawn"), [json!({ "count": 5, "seed": seed, "beacon_round": null })]);
    let mut rounds = detail("line.round");
    rounds.sort_by_key(|round| round["round"].as_u64());
    let round = |round: u32, from: u32, to: u32, awarded: u32, passed_over: u32| {
        json!({ "round": round, "ranks_from": from, "ranks_to": to, "awarded": awarded, "units": awarded,
                "passed_over": passed_over })
    };
    // Once nothing is left, all later ranks are decided at once.
    assert_eq!(rounds, [round(0, 0, 2, 2, 0), round(1, 2, 5, 1, 2)]);
    assert_eq!(detail("line.closed"), [json!({ "served": 5, "goes_on_sale": false })]);
    assert_eq!(of_drop.count(), 5);
    assert_eq!(events.iter().filter(|event| event.body["type"] == "line.awarded").count(), 3);
}
