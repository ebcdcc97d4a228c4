//! Mails to buyers: each notice once as far as SMTP allows, never lost, never to somebody else.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use doorbuster_engine::domain::clock::Clock;
use doorbuster_engine::domain::ids::{OrderId, RefundId};
use doorbuster_engine::domain::money::Money;
use doorbuster_engine::domain::notices::{MailLane, Notice};
use doorbuster_engine::domain::stock::StockWay;
use doorbuster_engine::flows::Engine;
use doorbuster_engine::flows::outbox::{DeliveryReport, DeliverySettings, Lane};
use doorbuster_engine::ledger::outbox::{DeliveryState, Destination};
use doorbuster_engine::mail::{MailOutcome, MailSettings, Mailer, NoMail};
use doorbuster_sandbox::certificate::Certificate;
use doorbuster_sandbox::provider::FakeProviderOptions;
use doorbuster_sandbox::smtp_sink::{ReceivedMail, SinkTls, SmtpSink, SmtpSinkOptions};
use jiff::SignedDuration;
use mail_parser::MessageParser;
use tokio_util::sync::CancellationToken;

use crate::harness::{World, buyer, provider, taken};
use crate::shelves::{fill, ordered, put_on_shelves, serve_everywhere};

pub(crate) fn mailer(url: &str) -> Mailer {
    Mailer::new(&MailSettings {
        url: url.to_owned(),
        from: "Doorbuster <orders@shop.example>".to_owned(),
        order_link: Some("https://shop.example/orders/{order}".to_owned()),
        invoice_link: None,
        send_timeout: Duration::from_secs(5),
    })
    .unwrap()
}

pub(crate) async fn deliver(engine: &Engine, lane: &Lane) -> DeliveryReport {
    let settings = DeliverySettings { concurrency: 4, batch: 8, ..DeliverySettings::default() };
    engine.deliver_due(lane, settings, &CancellationToken::new()).await.unwrap()
}

/// Backoff is a due time: brought forward, so that a test does not wait for it.
async fn bring_forward(world: &World) {
    let now = "update outbox set next_at = least(next_at, now()) where next_at is not null";
    world.sql.execute(now, &[]).await.unwrap();
}

/// Delivers until nothing waits in this lane.
async fn deliver_all(world: &World, lane: &Lane) {
    let (started, name) = (Instant::now(), lane.name());
    let waiting = format!("select count(*) from outbox where next_at is not null and destination = '{name}'");
    while world.count(&waiting).await > 0 {
        bring_forward(world).await;
        deliver(&world.engine, lane).await;
        assert!(started.elapsed().as_secs() < 60, "mails are still waiting");
    }
}

/// A drop with one order for each of these buyers, charged; every fifth is declined if asked for.
pub(crate) async fn sell(world: &World, buyers: u32, every_fifth_declined: &str) {
    let (_fake, client) = provider(FakeProviderOptions::default()).await;
    let live = world.open(&[buyers], 2, 1).await;
    for who in 0..buyers {
        world.save_profile(who, if who % 5 == 4 { every_fifth_declined } else { "pm_card_visa" }).await;
        taken(world.claim_until_answered(&live, who, "k", 0, 1).await);
    }
    world.settle().await;
    while world.engine.charge_due(&client, 100, 8).await.unwrap().leased > 0 {}
}

pub(crate) async fn orders(world: &World) -> Vec<OrderId> {
    let rows = world.sql.query("select order_id from orders order by buyer", &[]).await.unwrap();
    rows.iter().map(|row| OrderId(row.get(0))).collect()
}

/// The decoded text part.
pub(crate) fn text(mail: &ReceivedMail) -> String {
    let message = MessageParser::default().parse(&mail.data).unwrap();
    message.body_text(0).unwrap().replace("\r\n", "\n")
}

fn by_message_id(sink: &SmtpSink) -> HashMap<String, Vec<ReceivedMail>> {
    let mut found: HashMap<String, Vec<ReceivedMail>> = HashMap::new();
    for mail in sink.mails() {
        found.entry(mail.message_id()).or_default().push(mail);
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_mail_reaches_its_buyer_as_text_and_html() {
    let world = World::new().await;
    let sink = SmtpSink::start(SmtpSinkOptions::default()).await.unwrap();
    sell(&world, 1, "").await;
    let order = orders(&world).await[0];
    let amount = Money::new(5_000, "EUR".parse().unwrap());
    let now = world.engine.clock.now();
    for notice in Notice::samples(RefundId(uuid::Uuid::from_u128(1)), amount) {
        world.engine.ledger.enqueue_notice(order, &notice, now).await.unwrap();
    }
    let full = Notice::RefundIssued { refund: RefundId(uuid::Uuid::from_u128(2)), amount, is_full: false };
    assert!(world.engine.ledger.enqueue_notice(order, &full, now).await.unwrap());
    assert!(!world.engine.ledger.enqueue_notice(order, &full, now).await.unwrap(), "the second time is none");
    for lane in Lane::mails(&mailer(&sink.url())) {
        deliver_all(&world, &lane).await;
    }

    let product = format!("Shoe {}", world.drop.as_str().trim_start_matches("drop-"));
    let deadline = world.sql.query_one("select pay_by from drops", &[]).await.unwrap().get::<_, jiff::Timestamp>(0);
    let deadline = deadline.strftime("%-d %B %Y, %H:%M UTC");
    let kept = format!("We keep it for you until {deadline}; after that it goes to somebody else.");
    let takes = "It can take some days until your bank shows it.";
    let expected = [
        (
            "payment_required",
            format!("Payment needed: {product}"),
            format!("You got it: {product} is set aside for you. Please tell us how you want to pay 183.14 EUR.\n\n{kept}"),
        ),
        (
            "payment_method_required-1",
            format!("Another card needed: {product}"),
            format!(
                "Your payment was declined.\n\nNothing has been charged. Please give us another card for {product}, or try \
                 this one again.\n\n{kept}"
            ),
        ),
        (
            "total_changed",
            format!("Please look at the new total: {product}"),
            format!(
                "You got it: {product} is set aside for you. Sent to your address it costs 183.14 EUR.\n\nThat is more than \
                 you agreed to, so we charge nothing before you tell us that you take it.\n\n{kept}"
            ),
        ),
        (
            "payment_action_required",
            format!("Please confirm your payment: {product}"),
            format!("Your bank wants you to confirm the payment of 183.14 EUR for {product}.\n\n{kept}"),
        ),
        (
            "order_confirmed",
            format!("Order confirmed: {product}"),
            format!("Thank you: your payment of 183.14 EUR has arrived, and {product} is yours."),
        ),
        (
            "payment_failed",
            format!("Payment failed: {product}"),
            "Your payment was declined.\n\nNothing has been charged, and the order has ended.".to_owned(),
        ),
        (
            "order_cancelled",
            format!("Order cancelled: {product}"),
            "Your order has been cancelled.\n\nYou get back what you have paid: another mail tells you once it has been sent."
                .to_owned(),
        ),
        (
            "refund_issued-00000000-0000-0000-0000-000000000001",
            format!("Refund: {product}"),
            format!("We have refunded your order in full: 50.00 EUR.\n\n{takes}"),
        ),
        (
            "refund_issued-00000000-0000-0000-0000-000000000002",
            format!("Partial refund: {product}"),
            format!("We have refunded 50.00 EUR of your order.\n\n{takes}"),
        ),
        (
            "refund_failed-00000000-0000-0000-0000-000000000001",
            format!("Your refund came back: {product}"),
            "We had refunded 50.00 EUR to you, and your bank has sent it back to us.\n\nWe look for another way, and tell \
             you once the money has been sent again."
                .to_owned(),
        ),
        (
            "order_processing",
            format!("We are packing your order: {product}"),
            format!("{product} is being packed for you."),
        ),
        (
            "order_shipped",
            format!("Your order is on its way: {product}"),
            format!("We have handed {product} over to DHL.\n\nIts tracking number is 00340434161094015902."),
        ),
        (
            "order_delivered",
            format!("Delivered: {product}"),
            format!("{product} has been delivered. We hope you like it."),
        ),
        (
            "order_returned-00000000-0000-0000-0000-000000000001",
            format!("Your return has arrived: {product}"),
            "We have got 1 unit back from you.\n\nYou get your money back: another mail tells you how much, once it has been sent."
                .to_owned(),
        ),
        (
            "standby_awarded",
            format!("Your wait has paid off: {product}"),
            format!(
                "You have waited in standby, and {product} has come back: it is set aside for you now.\n\nIf we know how you pay, \
                 you will be charged and need to do nothing. If not, please tell us.\n\n{kept}"
            ),
        ),
        (
            "line_awarded",
            format!("Your turn has come: {product}"),
            format!(
                "You have waited in line, and {product} is set aside for you now.\n\nIf we know how you pay, you will be \
                 charged and need to do nothing. If not, please tell us.\n\n{kept}"
            ),
        ),
    ];
    let mut mails = by_message_id(&sink);
    // About a claim that never became an order.
    let lost = mails.remove(&format!("<evt_{}_claim_lost@shop.example>", order.0.simple())).unwrap();
    assert_eq!(
        MessageParser::default().parse(&lost[0].data).unwrap().subject(),
        Some(&*format!("We could not keep our word: {product}"))
    );
    let lost = text(&lost[0]);
    assert!(lost.contains(&format!("Claim {order}")) && !lost.contains("/orders/"), "{lost}");
    assert_eq!(mails.len(), expected.len(), "{:?}", mails.keys());
    let sku = world.sql.query_one("select sku from variants", &[]).await.unwrap().get::<_, String>(0);
    for (kind, subject, says) in expected {
        let id = format!("<evt_{}_{kind}@shop.example>", order.0.simple());
        let [mail] = &mails[&id][..] else { panic!("{kind} more than once") };
        let want = format!(
            "Hello B,\n\n{says}\n\nOrder {order}\n\n  1 x {product}, size 0 ({sku}): 149.00 EUR\n  Subtotal: 149.00 EUR\n  Tax: 29.24 EUR\n  \
             Shipping: 4.90 EUR\n  Total: 183.14 EUR\n\nhttps://shop.example/orders/{order}\n\nDoorbuster"
        );
        assert_eq!(text(mail).trim_end(), want, "{kind}");
        assert_eq!((mail.from.as_str(), &mail.to[..]), ("orders@shop.example", &["b0@example.test".to_owned()][..]));
        let message = MessageParser::default().parse(&mail.data).unwrap();
        assert_eq!(message.subject(), Some(&*subject));
        assert_eq!(mail.header("auto-submitted").as_deref(), Some("auto-generated"));
        assert!(mail.header("content-type").unwrap().starts_with("multipart/alternative"));
        assert!((message.date().unwrap().to_timestamp() - now.as_second()).abs() < 30);
        let html = message.body_html(0).unwrap();
        assert!(html.contains("<td>Shipping</td>") && html.contains(&format!("shop.example/orders/{order}")), "{html}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_workers_at_once_send_each_mail_once() {
    let world = World::new().await;
    let delay = Duration::from_millis(5);
    let sink = SmtpSink::start(SmtpSinkOptions { delay, ..SmtpSinkOptions::default() }).await.unwrap();
    sell(&world, 40, "pm_card_chargeDeclined").await;
    let lane = Lane::Mail(MailLane::Orders, mailer(&sink.url()));
    let another = world.another_engine().await;
    let drain = async |engine: &Engine| while deliver(engine, &lane).await.leased > 0 {};
    tokio::join!(drain(&world.engine), drain(&another), drain(&world.engine));
    let mails = by_message_id(&sink);
    assert!(mails.values().all(|copies| copies.len() == 1), "a mail was sent twice");
    let of = |kind: &str| mails.keys().filter(|id| id.contains(kind)).count();
    assert_eq!((of("_order_confirmed@"), of("_payment_failed@"), mails.len()), (32, 8, 40));
    assert_eq!(world.count("select count(*) from outbox where state = 'sent' and sent_at is not null").await, 40);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mail_whose_worker_died_before_it_could_say_so_comes_again_as_the_same_mail() {
    let world = World::new().await;
    let sink = SmtpSink::start(SmtpSinkOptions::default()).await.unwrap();
    sell(&world, 1, "").await;
    let (engine, mailer) = (&world.engine, mailer(&sink.url()));
    let now = engine.clock.now();
    let lease = SignedDuration::from_secs(30);
    let leased = engine.ledger.lease_deliveries(&Destination::Mail(MailLane::Orders), now, lease, 10).await.unwrap();
    let dying = &leased[0];
    let mail = mailer.compose(&dying.subject, dying.notice.as_ref().unwrap(), dying.created_at).unwrap();
    assert_eq!(mailer.send(&mail).await, MailOutcome::Sent);
    let lane = Lane::Mail(MailLane::Orders, mailer);
    assert_eq!(deliver(engine, &lane).await.leased, 0, "it is leased");

    world.sql.execute("update outbox set leased_until = now()", &[]).await.unwrap();
    assert_eq!(deliver(engine, &lane).await.sent, 1);
    let mails = sink.mails();
    assert_eq!(mails.len(), 2);
    assert_eq!(mails[0].data, mails[1].data, "byte for byte, Message-ID and all");
    // The dead one wakes up: its word no longer counts.
    let late = DeliveryState::Again { at: now, error: "late".to_owned() };
    assert!(!engine.ledger.record_delivery(dying, &late, now).await.unwrap());
    assert_eq!(deliver(engine, &lane).await.leased, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn through_faults_every_mail_arrives_at_least_once_or_is_shown_as_refused() {
    for seed in 1..=3 {
        let world = World::new().await;
        let faults = SmtpSinkOptions {
            seed,
            busy_rate: 0.15,
            later_rate: 0.15,
            refused_rate: 0.05,
            lost_answer_rate: 0.2,
            ..SmtpSinkOptions::default()
        };
        let sink = SmtpSink::start(faults).await.unwrap();
        sell(&world, 40, "pm_card_chargeDeclined").await;
        deliver_all(&world, &Lane::Mail(MailLane::Orders, mailer(&sink.url()))).await;
        let refused = world.engine.ledger.unsent_deliveries(100).await.unwrap();
        assert!(
            refused.iter().all(|mail| mail.state == "refused" && mail.last_error.as_ref().unwrap().contains("550"))
        );
        assert_eq!(refused.len() as u64, sink.refused(), "seed {seed}: every refusal is shown");
        // One that was refused may have been taken before, when its answer was lost.
        let arrived = by_message_id(&sink).into_keys().collect::<HashSet<_>>();
        let told = |event: &String| arrived.contains(&format!("<{event}@shop.example>"));
        let unheard = refused.iter().filter(|mail| !told(&mail.event)).count();
        assert_eq!(arrived.len() + unheard, 40, "seed {seed}");
        assert!(sink.mails().iter().any(|mail| !mail.is_answered), "seed {seed}: no answer was lost");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_does_not_want_us_refuses_no_mail() {
    let world = World::new().await;
    let login = Some(("shop".to_owned(), "right".to_owned()));
    let sink = SmtpSink::start(SmtpSinkOptions { login, ..SmtpSinkOptions::default() }).await.unwrap();
    sell(&world, 10, "pm_card_visa").await;
    let wrong = Lane::Mail(MailLane::Orders, mailer(&sink.url().replace("right", "wrong")));
    let report = deliver(&world.engine, &wrong).await;
    assert_eq!((report.refused, report.sent, report.leased), (0, 0, 8));
    assert!(report.rest.is_some() && report.untried > 0, "the others are not even tried: {report:?}");
    let gone = Lane::Mail(MailLane::Orders, mailer("smtp://127.0.0.1:1"));
    assert!(deliver(&world.engine, &gone).await.rest.is_some());
    assert_eq!(world.count("select count(*) from outbox where state = 'queued'").await, 10);
    deliver_all(&world, &Lane::Mail(MailLane::Orders, mailer(&sink.url()))).await;
    assert_eq!(by_message_id(&sink).len(), 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn mail_is_encrypted_for_a_server_that_is_trusted_and_goes_to_no_other() {
    let login = Some(("shop".to_owned(), "secret".to_owned()));
    for tls in [SinkTls::Upgrade as fn(Certificate) -> SinkTls, SinkTls::FromTheStart] {
        let world = World::new().await;
        let options =
            SmtpSinkOptions { tls: tls(Certificate::new().unwrap()), login: login.clone(), ..Default::default() };
        let sink = SmtpSink::start(options).await.unwrap();
        sell(&world, 3, "pm_card_visa").await;
        // A stranger on the way has a certificate too, but not one that we were told to trust.
        let (trusted, _) =
            sink.url().split_once("ca=").map(|(before, after)| (before.to_owned(), after.to_owned())).unwrap();
        let stranger = Certificate::new().unwrap();
        for untrusted in
            [trusted.trim_end_matches(['?', '&']).to_owned(), format!("{trusted}ca={}", stranger.path().display())]
        {
            bring_forward(&world).await;
            let report = deliver(&world.engine, &Lane::Mail(MailLane::Orders, mailer(&untrusted))).await;
            assert_eq!((report.sent, report.refused), (0, 0), "{untrusted}");
            assert!(report.rest.is_some(), "the others are not even tried: {report:?}");
        }
        assert!(sink.mails().is_empty());
        deliver_all(&world, &Lane::Mail(MailLane::Orders, mailer(&sink.url()))).await;
        let mails = sink.mails();
        assert_eq!(mails.len(), 3);
        assert!(mails.iter().all(|mail| mail.is_encrypted));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_does_not_offer_tls_gets_no_mail_where_tls_is_required() {
    let world = World::new().await;
    let sink = SmtpSink::start(SmtpSinkOptions::default()).await.unwrap();
    sell(&world, 1, "").await;
    let report =
        deliver(&world.engine, &Lane::Mail(MailLane::Orders, mailer(&format!("{}?tls=required", sink.url())))).await;
    assert_eq!((report.sent, report.refused, report.rest.is_some()), (0, 0, true));
    assert!(sink.mails().is_empty());
    // Whoever asks for encryption only where it is to be had, gets his mail out in the clear.
    deliver_all(&world, &Lane::Mail(MailLane::Orders, mailer(&format!("{}?tls=opportunistic", sink.url())))).await;
    assert_eq!(sink.mails().iter().filter(|mail| !mail.is_encrypted).count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn names_and_addresses_with_line_breaks_are_refused_and_hold_up_nobody() {
    let world = World::new().await;
    let sink = SmtpSink::start(SmtpSinkOptions::default()).await.unwrap();
    sell(&world, 4, "").await;
    let set = async |who: u32, column: &str| {
        let sql = format!("update orders set {column} where buyer = $1");
        world.sql.execute(&sql, &[&buyer(who).as_str()]).await.unwrap();
    };
    set(0, r#"ship_to = '{"name": "B\r\nBcc: thief@example.test"}'"#).await;
    set(1, r"email = E'b1@example.test\r\nBcc: thief@example.test'").await;
    set(2, "email = 'nobody'").await;
    deliver_all(&world, &Lane::Mail(MailLane::Orders, mailer(&sink.url()))).await;
    let mails = sink.mails();
    assert_eq!(mails.iter().map(|mail| mail.to.join(" ")).collect::<Vec<_>>(), ["b3@example.test"]);
    let refused = world.engine.ledger.unsent_deliveries(10).await.unwrap();
    let reasons = refused.iter().map(|mail| mail.last_error.clone().unwrap()).collect::<Vec<_>>().join("; ");
    for reason in ["the buyer's name has a line break", "the e-mail address has a line break", "cannot be written to"] {
        assert!(reasons.contains(reason), "{reasons}");
    }
    // Somebody corrects an address.
    set(2, "email = 'b2@example.test'").await;
    assert_eq!(world.engine.ledger.retry_mails(world.engine.clock.now()).await.unwrap(), 3);
    deliver_all(&world, &Lane::Mail(MailLane::Orders, mailer(&sink.url()))).await;
    assert_eq!(sink.mails().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_buyer_without_an_address_gets_no_mail_and_a_kind_of_a_newer_program_waits() {
    let world = World::new().await;
    let sink = SmtpSink::start(SmtpSinkOptions::default()).await.unwrap();
    let live = world.open(&[1], 1, 1).await;
    taken(world.claim_until_answered(&live, 1, "k", 0, 1).await);
    world.settle().await;
    let order = orders(&world).await[0];
    world.engine.ledger.expire_unpaid(&[order], world.engine.clock.now()).await.unwrap();
    let newer = "insert into outbox (order_id, kind, created_at) values ($1, 'parcel_lost', now())";
    world.sql.execute(newer, &[&order.0]).await.unwrap();
    let report = deliver(&world.engine, &Lane::Mail(MailLane::Orders, mailer(&sink.url()))).await;
    assert_eq!((report.skipped, report.later, report.sent), (1, 1, 0));
    let unsent = world.engine.ledger.unsent_deliveries(10).await.unwrap();
    assert_eq!((unsent[0].state.as_str(), unsent[1].state.as_str()), ("skipped", "queued"));
    assert!(unsent[0].last_error.as_ref().unwrap().contains("no e-mail address"));
    assert!(sink.mails().is_empty());
    let detail = "select detail ->> 'reason' from outbox where kind = 'payment_failed'";
    assert_eq!(world.sql.query_one(detail, &[]).await.unwrap().get::<_, String>(0), "no_payment_method");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_buyer_whose_bank_wants_him_to_act_is_told_once() {
    let world = World::new().await;
    let sink = SmtpSink::start(SmtpSinkOptions::default()).await.unwrap();
    let (_fake, client) = provider(FakeProviderOptions::default()).await;
    let live = world.open(&[1], 1, 1).await;
    world.save_profile(1, "pm_card_authenticationRequired").await;
    taken(world.claim_until_answered(&live, 1, "k", 0, 1).await);
    world.settle().await;
    for _ in 0..3 {
        world.sql.execute("update payments set due_at = now()", &[]).await.unwrap();
        world.engine.charge_due(&client, 10, 1).await.unwrap();
        deliver_all(&world, &Lane::Mail(MailLane::Orders, mailer(&sink.url()))).await;
    }
    let mails = sink.mails();
    assert_eq!(mails.len(), 1);
    assert!(mails[0].message_id().contains("_payment_action_required@") && text(&mails[0]).contains("until"));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_ordered_his_cart_is_told_how_long_it_is_kept_for_him() {
    let world = World::new().await;
    let sink = SmtpSink::start(SmtpSinkOptions::default()).await.unwrap();
    let (_fake, client) = provider(FakeProviderOptions::default()).await;
    serve_everywhere(&world).await;
    let mug = put_on_shelves(&world, "mug", StockWay::RowLock, &[10]).await;
    let buyer = fill(&world, 1, &[(mug, 1)]).await;
    world
        .sql
        .execute("update checkout_profiles set payment_method = 'pm_card_authenticationRequired'", &[])
        .await
        .unwrap();
    ordered(&world, &buyer, "a").await;
    world.engine.charge_due(&client, 10, 1).await.unwrap();
    deliver_all(&world, &Lane::Mail(MailLane::Orders, mailer(&sink.url()))).await;
    let mails = sink.mails();
    let told = mails.iter().find(|mail| mail.message_id().contains("_payment_action_required@")).expect("he is told");
    let until =
        world.sql.query_one("select to_char(pay_by at time zone 'UTC', 'HH24:MI') from orders", &[]).await.unwrap();
    assert!(text(told).contains(&format!(", {} UTC;", until.get::<_, String>(0))), "{}", text(told));
}

/// Somebody who gives another person's address cannot fill that person's mailbox, and loses no mail by it.
#[tokio::test(flavor = "multi_thread")]
async fn an_address_gets_so_many_mails_an_hour_and_the_others_come_in_the_next_one() {
    let mut world = World::new().await;
    let now = world.engine.clock.now();
    world.engine.clock = Clock::manual(now);
    let sink = SmtpSink::start(SmtpSinkOptions::default()).await.unwrap();
    sell(&world, 5, "pm_card_visa").await;
    let same = "update orders set email = case when buyer = (select max(buyer) from orders) then 'eve@example.test'
        when buyer = (select min(buyer) from orders) then 'Ada@Example.test' else 'ada@example.test' end";
    world.sql.batch_execute(same).await.unwrap();
    let lane = Lane::Mail(MailLane::Orders, mailer(&sink.url()));
    let settings = DeliverySettings { concurrency: 4, mails_per_address: 3, ..DeliverySettings::default() };
    let deliver = async || world.engine.deliver_due(&lane, settings, &CancellationToken::new()).await.unwrap();
    let report = deliver().await;
    assert_eq!((report.leased, report.sent, report.put_off), (5, 4, 1), "three of four to Ada, and Eve's");
    assert_eq!(deliver().await.leased, 0);
    let waiting = "select count(*) from outbox where state = 'queued' and attempts = 0 and last_error like '3 mails%'";
    assert_eq!(world.count(waiting).await, 1);
    world.engine.clock.advance(SignedDuration::from_hours(1));
    world.engine.count_waiting_deliveries(&[]).await.unwrap();
    assert_eq!(world.count("select count(*) from mail_turns").await, 0, "the hour is forgotten");
    let report = deliver().await;
    assert_eq!((report.leased, report.sent), (1, 1));
    assert_eq!(by_message_id(&sink).len(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mail_that_was_not_taken_is_not_counted_against_its_address() {
    let world = World::new().await;
    sell(&world, 1, "").await;
    let lane = Lane::Mail(MailLane::Orders, mailer("smtp://127.0.0.1:1"));
    let settings = DeliverySettings { mails_per_address: 1, ..DeliverySettings::default() };
    for _ in 0..2 {
        bring_forward(&world).await;
        let report = world.engine.deliver_due(&lane, settings, &CancellationToken::new()).await.unwrap();
        assert_eq!((report.leased, report.put_off), (1, 0));
    }
}

/// A mail server that knows no SMTPUTF8 takes a domain in punycode, and cannot be asked for a mailbox of other letters.
#[tokio::test(flavor = "multi_thread")]
async fn only_letters_before_the_at_need_a_server_that_takes_them() {
    let world = World::new().await;
    let login = Some(("u".to_owned(), "p".to_owned()));
    let sink = SmtpSink::start(SmtpSinkOptions { login, ..SmtpSinkOptions::default() }).await.unwrap();
    sell(&world, 2, "").await;
    let addresses =
        "update orders set email = case when buyer = (select min(buyer) from orders) then 'zoe@münchen.example'
        else 'jürgen@exämple.com' end";
    world.sql.batch_execute(addresses).await.unwrap();
    let lane = Lane::Mail(MailLane::Orders, mailer(&sink.url()));
    let report = deliver(&world.engine, &lane).await;
    assert_eq!((report.sent, report.refused), (1, 1));
    assert_eq!(sink.mails()[0].to, ["zoe@xn--mnchen-3ya.example"]);
    let why: String =
        world.sql.query_one("select last_error from outbox where state = 'refused'", &[]).await.unwrap().get(0);
    assert!(why.contains("no SMTPUTF8"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_finds_out_that_a_server_wants_a_login() {
    let login = Some(("u".to_owned(), "p".to_owned()));
    let sink = SmtpSink::start(SmtpSinkOptions { login, ..SmtpSinkOptions::default() }).await.unwrap();
    assert_eq!(mailer(&sink.url()).check_server().await, Ok(()));
    let refused = mailer(&sink.url().replace("u:p@", "")).check_server().await.unwrap_err();
    let NoMail::Refused(why) = &refused else { panic!("{refused:?}") };
    assert!(why.contains("authentication required"), "{why}");
}
