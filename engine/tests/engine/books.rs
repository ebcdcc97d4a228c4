//! The books: credit notes line by line, refunds that the provider takes back, documents, days in the shop's zone, VAT
//! by month.

use std::collections::HashSet;

use doorbuster_engine::domain::clock::Clock;
use doorbuster_engine::domain::credits::RefundOf;
use doorbuster_engine::domain::documents::{DocumentKind, Seller};
use doorbuster_engine::domain::fulfilment::{NewReturn, ReturnedLine};
use doorbuster_engine::domain::ids::{EventId, IntentId, OrderId, RefundId, ReturnId};
use doorbuster_engine::domain::money::Money;
use doorbuster_engine::domain::orders::OrderState;
use doorbuster_engine::domain::payments::{PaymentState, RefundState};
use doorbuster_engine::flows::finance::BadZone;
use doorbuster_engine::ledger::documents::OrderDocuments;
use doorbuster_engine::ledger::erasures::Erasure;
use doorbuster_engine::ledger::fulfilment::{Fulfilled, FulfilmentStep};
use doorbuster_engine::ledger::refunds::{OrderCancelled, RefundAsked};
use doorbuster_engine::ledger::returns::ReturnTaken;
use doorbuster_engine::provider::{Event, Outcome, ProviderClient, ProviderRequest};
use doorbuster_sandbox::provider::{End, FakeClock, FakeProvider, FakeProviderOptions};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

use crate::fulfilment::{bring, fulfil};
use crate::harness::{World, buyer, claim, provider, taken};
use crate::refunds::{assert_audit_is_clean, owed_by_provider, paid_orders, pay, until_nothing_is_due};

const WHY: (&str, &str) = ("grace", "did not fit");
/// 149.00, its VAT of 19 %, shipping and its VAT.
const TOTAL: i64 = 14_900 + 2_831 + 490 + 93;

fn euros(minor: i64) -> Money {
    Money::new(minor, "EUR".parse().unwrap())
}

async fn refund(world: &World, id: u128, order: OrderId, minor: Option<i64>) -> RefundAsked {
    let (id, now) = (RefundId(Uuid::from_u128(id)), world.engine.clock.now());
    world.engine.ledger.ask_refund(id, order, minor.map(euros), WHY, now).await.unwrap()
}

async fn documents(world: &World, order: OrderId) -> OrderDocuments {
    world.engine.order_documents(order, None).await.unwrap().unwrap()
}

/// `(line, quantity, net, tax)` of a refund's lines.
async fn lines_of(world: &World, refund: u128) -> Vec<(i32, i32, i64, i64)> {
    let sql =
        "select line, quantity, net_minor, tax_minor from refund_lines where refund_id = $1 order by line = 0, line";
    let rows = world.sql.query(sql, &[&Uuid::from_u128(refund)]).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1), row.get(2), row.get(3))).collect()
}

/// What is left of an order on goods, tax and shipping, by the journal.
async fn left_by_account(world: &World) -> Vec<(String, i64)> {
    let sql = "select account, sum(minor)::bigint from (
            select credit_account as account, amount_minor as minor from journal where debit_account = 'provider'
            union all select debit_account, -amount_minor from journal where credit_account = 'provider') moved
        where account in ('sales', 'tax', 'shipping') group by account having sum(minor) <> 0 order by account";
    world.sql.query(sql, &[]).await.unwrap().iter().map(|row| (row.get(0), row.get(1))).collect()
}

async fn findings(world: &World) -> Vec<(String, Option<OrderId>)> {
    let found = world.engine.ledger.open_findings(100).await.unwrap();
    found.into_iter().map(|finding| (finding.kind, finding.order)).collect()
}

async fn intent_of(world: &World, order: OrderId) -> IntentId {
    let row = world.sql.query_one("select intent_id from payments where order_id = $1", &[&order.0]).await.unwrap();
    IntentId(row.get(0))
}

/// A shipped order of two units.
async fn two_shipped() -> (World, FakeProvider, ProviderClient, OrderId) {
    let world = World::new().await;
    let (fake, client) = provider(FakeProviderOptions::default()).await;
    let live = world.open(&[2], 1, 2).await;
    world.save_profile(1, "pm_card_visa").await;
    taken(world.claim_until_answered(&live, 1, "k", 0, 2).await);
    world.settle().await;
    until_nothing_is_due(&world, &client).await;
    let order = claim(&live, &buyer(1), "k", 0, 2).id.order_id();
    bring(&world, order).await;
    (world, fake, client, order)
}

fn one_unit(refund: Option<i64>, refund_of: Option<RefundOf>) -> NewReturn {
    let line = ReturnedLine { line: 1, quantity: 1, serials: Vec::new(), restock: false };
    NewReturn { lines: vec![line], refund: refund.map(euros), refund_of }
}

async fn take(world: &World, id: u128, order: OrderId, new: &NewReturn) -> ReturnTaken {
    let (id, now) = (ReturnId(Uuid::from_u128(id)), world.engine.clock.now());
    world.engine.ledger.take_return(id, order, new, WHY, now).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partial_return_credits_its_goods_and_all_notes_add_up_to_the_invoice() {
    let (world, fake, client, order) = two_shipped().await;
    let goods = one_unit(None, Some(RefundOf::Goods));
    assert_eq!(take(&world, 1, order, &goods).await, ReturnTaken::Now);
    assert_eq!(take(&world, 1, order, &goods).await, ReturnTaken::Before);
    let other = one_unit(None, Some(RefundOf::GoodsAndShipping));
    assert_eq!(take(&world, 1, order, &other).await, ReturnTaken::IdTaken);
    assert_eq!(lines_of(&world, 1).await, [(1, 1, 14_900, 2_831)], "and no shipping");
    until_nothing_is_due(&world, &client).await;
    let left = left_by_account(&world).await;
    let left = left.iter().map(|(account, minor)| (account.as_str(), *minor)).collect::<Vec<_>>();
    assert_eq!(
        left,
        [("sales", 14_900), ("shipping", 490), ("tax", 2_831 + 93)],
        "VAT went back with the goods it was on"
    );

    // A scratch on the other pair, then all that is left.
    assert_eq!(refund(&world, 2, order, Some(5_000)).await, RefundAsked::Now);
    assert_eq!(lines_of(&world, 2).await, [(1, 0, 4_202, 798)]);
    assert_eq!(refund(&world, 3, order, None).await, RefundAsked::Now);
    assert_eq!(lines_of(&world, 3).await, [(1, 1, 10_698, 2_033), (0, 1, 490, 93)]);
    until_nothing_is_due(&world, &client).await;
    assert_eq!(left_by_account(&world).await, [], "to the last cent");
    assert_eq!(fake.refunds().iter().map(|refund| refund.amount_minor).collect::<Vec<_>>(), [17_731, 5_000, 13_314]);
    assert_audit_is_clean(&world, &client).await;

    let found = documents(&world, order).await;
    let invoice = found.invoice.unwrap();
    assert_eq!((invoice.total, invoice.tax), (euros(2 * 14_900 + 5_662 + 490 + 93), euros(5_662 + 93)));
    let titles = invoice.lines.iter().map(|line| (line.line, line.quantity, line.tax_basis_points)).collect::<Vec<_>>();
    assert_eq!(titles, [(1, 2, 1_900), (0, 1, 1_900)]);
    let credited = found.credit_notes.iter().map(|note| note.total.amount_minor).sum::<i64>();
    assert_eq!(credited, invoice.total.amount_minor);
    for (number, note) in (1..).zip(&found.credit_notes) {
        assert_eq!((note.head.kind, note.head.number), (DocumentKind::CreditNote, number));
        assert_eq!((note.head.invoice_number, note.head.reversed_at), (Some(invoice.head.number), None));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn shipping_goes_back_with_a_return_that_asks_and_with_a_cancelled_order() {
    let (world, _fake, client, order) = two_shipped().await;
    assert_eq!(take(&world, 1, order, &one_unit(None, Some(RefundOf::GoodsAndShipping))).await, ReturnTaken::Now);
    assert_eq!(lines_of(&world, 1).await, [(1, 1, 14_900, 2_831), (0, 1, 490, 93)]);
    // Worn: less than it is worth.
    assert_eq!(take(&world, 2, order, &one_unit(Some(10_000), None)).await, ReturnTaken::Now);
    assert_eq!(lines_of(&world, 2).await, [(1, 1, 8_403, 1_597)]);
    until_nothing_is_due(&world, &client).await;
    assert_audit_is_clean(&world, &client).await;

    let (world, _fake, client, orders) = paid_orders(FakeProviderOptions::default(), 1).await;
    let now = world.engine.clock.now();
    assert_eq!(world.engine.ledger.cancel_order(orders[0], None, WHY, now).await.unwrap(), OrderCancelled::Now);
    until_nothing_is_due(&world, &client).await;
    assert_eq!(left_by_account(&world).await, []);
    let lines = world.sql.query("select line, net_minor from refund_lines order by line", &[]).await.unwrap();
    let lines = lines.iter().map(|row| (row.get(0), row.get(1))).collect::<Vec<(i32, i64)>>();
    assert_eq!(lines, [(0, 490), (1, 14_900)]);
}

/// As an older program has written them: refunds have no lines, and are booked in the proportion of the order.
#[tokio::test(flavor = "multi_thread")]
async fn refunds_of_an_older_program_are_readable_and_later_ones_leave_room_for_them() {
    let (world, _fake, client, orders) = paid_orders(FakeProviderOptions::default(), 1).await;
    let (order, id) = (orders[0], Uuid::from_u128(1));
    assert_eq!(refund(&world, 1, order, Some(5_000)).await, RefundAsked::Now);
    world.sql.execute("delete from refund_lines", &[]).await.unwrap();
    until_nothing_is_due(&world, &client).await;
    // It was asked for by the older program and settled by this one: it has lines now.
    assert_eq!(lines_of(&world, 1).await, [(1, 0, 4_202, 798)]);

    // Asked for and settled by the older program.
    world.sql.execute("delete from refund_lines", &[]).await.unwrap();
    let booked = [("sales", 4_067), ("tax", 800), ("shipping", 133)];
    world.sql.execute("delete from journal where source like 'refund-%'", &[]).await.unwrap();
    for (account, minor) in booked {
        let sql =
            "insert into journal (source, order_id, debit_account, credit_account, amount_minor, currency, booked_at)
                   values ('refund-' || $1::uuid || ':' || $2::text, $3, $2, 'provider', $4, 'EUR', now())";
        world.sql.execute(sql, &[&id, &account, &order.0, &(minor as i64)]).await.unwrap();
    }
    let shown = documents(&world, order).await.credit_notes;
    let lines = shown[0].lines.iter().map(|line| (line.line, line.net.amount_minor, line.tax.amount_minor));
    assert_eq!(lines.collect::<Vec<_>>(), [(1, 4_067, 774), (0, 133, 26)], "as it was booked");
    assert_eq!(lines_of(&world, 1).await, [], "reading writes nothing");
    assert_eq!(refund(&world, 2, order, None).await, RefundAsked::Now);
    assert_eq!(lines_of(&world, 1).await.len(), 2, "and from now on it stays so");
    until_nothing_is_due(&world, &client).await;
    assert_eq!(left_by_account(&world).await, []);
    // The older program's own statements still do.
    let old = "insert into refunds (refund_id, order_id, amount_minor, currency, reason, asked_by, state, created_at)
               values ('00000000-0000-0000-0000-000000000009', $1, 1, 'EUR', 'r', 'a', 'PENDING', now())";
    world.sql.execute(old, &[&order.0]).await.unwrap();
    let old = "insert into rates (country, currency, tax_basis_points, shipping_minor, free_shipping_from_minor)
               values ('DE', 'EUR', 1900, 490, null)";
    world.sql.execute(old, &[]).await.unwrap();
    let row = world.engine.ledger.rates().await.unwrap().remove(0);
    assert_eq!(row.shipping_tax_basis_points, Some(0), "it charges no VAT on shipping");
}

fn refund_event(number: u32, kind: &str, intent: &IntentId, refund: &str, at: Timestamp) -> Event {
    Event {
        id: EventId(format!("evt_{number}")),
        kind: kind.to_owned(),
        created: at,
        livemode: false,
        object: "refund".to_owned(),
        object_id: refund.to_owned(),
        intent: Some(intent.clone()),
        order_id: None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refund_that_comes_back_is_reversed_named_and_may_be_repeated() {
    let (world, fake, client, orders) = paid_orders(FakeProviderOptions::default(), 1).await;
    let order = orders[0];
    assert_eq!(refund(&world, 1, order, Some(5_000)).await, RefundAsked::Now);
    until_nothing_is_due(&world, &client).await;
    let before = documents(&world, order).await;
    assert_eq!(before.credit_notes.len(), 1);
    let theirs = fake.refunds()[0].refund_id.clone();
    assert!(fake.settle_refund(&theirs, End::Failed));

    let intent = intent_of(&world, order).await;
    let event = refund_event(1, "refund.failed", &intent, &theirs, world.engine.clock.now());
    world.engine.keep_event(&event).await.unwrap();
    let report = world.engine.deal_with_events(&client, 10).await.unwrap();
    assert_eq!((report.leased, report.settled), (1, 1), "{report:?}");
    let found = world.engine.ledger.order(order).await.unwrap().unwrap();
    assert_eq!((found.payment, found.refunds[0].state), (PaymentState::Succeeded, RefundState::Failed));
    assert_eq!(owed_by_provider(&world).await, TOTAL, "booked back");
    assert_eq!(findings(&world).await, [("refund_failed".to_owned(), Some(order))]);
    let finding = world.engine.ledger.open_findings(1).await.unwrap().remove(0);
    assert_eq!(finding.intent, theirs);
    assert!(finding.detail.contains("50.00 EUR had arrived and came back: lost_or_stolen_card"), "{}", finding.detail);
    let note = documents(&world, order).await.credit_notes.remove(0);
    assert!(note.head.reversed_at.is_some() && note.head.number == 1, "its number stays");
    for table in ["outbox", "order_events"] {
        let told = format!("select count(*) from {table} where kind = 'refund_failed'");
        assert_eq!(world.count(&told).await, 1, "its buyer had been told of it: {table}");
    }
    assert_audit_is_clean(&world, &client).await;

    // Told again, nothing happens again; and all of it may go back.
    let again = refund_event(2, "refund.updated", &intent, &theirs, world.engine.clock.now());
    world.engine.keep_event(&again).await.unwrap();
    assert_eq!(world.engine.deal_with_events(&client, 10).await.unwrap().known, 1);
    assert_eq!(refund(&world, 1, order, Some(5_000)).await, RefundAsked::Before, "the same key is the same refund");
    assert_eq!(refund(&world, 2, order, None).await, RefundAsked::Now);
    until_nothing_is_due(&world, &client).await;
    assert_eq!((owed_by_provider(&world).await, left_by_account(&world).await), (0, Vec::new()));
    assert_audit_is_clean(&world, &client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sweep_compares_refunds_too_and_counts_strangers_as_one_number() {
    let (world, fake, client, orders) = paid_orders(FakeProviderOptions::default(), 5).await;
    let sweep = async || {
        let (now, hour) = (world.engine.clock.now(), SignedDuration::from_hours(1));
        world.engine.sweep(&client, now - hour, now + hour).await.unwrap()
    };
    for (id, order) in (1..).zip(&orders[..3]) {
        assert_eq!(refund(&world, id, *order, Some(5_000)).await, RefundAsked::Now);
    }
    until_nothing_is_due(&world, &client).await;
    let report = sweep().await;
    assert_eq!((report.refunds, report.settled, report.findings.len(), report.strangers), (3, 0, 0, 0));

    // One came back and no event was heard; one is there with another amount; one nobody there knows.
    let theirs = async |id: u128| {
        let sql = "select provider_refund_id from refunds where refund_id = $1";
        world.sql.query_one(sql, &[&Uuid::from_u128(id)]).await.unwrap().get::<_, String>(0)
    };
    assert!(fake.settle_refund(&theirs(1).await, End::Failed));
    let doctored = "update refunds set amount_minor = 4999 where refund_id = $1";
    world.sql.execute(doctored, &[&Uuid::from_u128(2)]).await.unwrap();
    let lost = "update refunds set provider_refund_id = 're_nothing' where refund_id = $1";
    world.sql.execute(lost, &[&Uuid::from_u128(3)]).await.unwrap();
    // One was made by hand there, of an order of ours; and somebody else uses the same account.
    let by_hand = |order: OrderId, intent: &IntentId| {
        ProviderRequest::refund(order, RefundId(Uuid::now_v7()), intent, euros(100)).unwrap()
    };
    let intent = intent_of(&world, orders[3]).await;
    assert!(matches!(client.send_refund(&by_hand(orders[3], &intent)).await, Outcome::Answered(_)));
    let stranger = OrderId(Uuid::now_v7());
    let Outcome::Answered(strange) = client.send(&ProviderRequest::create(stranger, euros(700)).unwrap()).await else {
        panic!("no answer")
    };
    let visa = "pm_card_visa".parse().unwrap();
    let confirmed = client.send(&ProviderRequest::confirm(stranger, &strange.id, &visa, 1)).await;
    assert!(matches!(confirmed, Outcome::Answered(_)));
    assert!(matches!(client.send_refund(&by_hand(stranger, &strange.id)).await, Outcome::Answered(_)));

    let report = sweep().await;
    assert_eq!((report.settled, report.strangers), (1, 2), "{report:?}");
    let mut found = findings(&world).await;
    found.sort();
    let expected = [
        ("refund_differs".to_owned(), Some(orders[1])),
        ("refund_failed".to_owned(), Some(orders[0])),
        // Found under the id that we have lost, and missed under the one that we have.
        ("refund_differs".to_owned(), Some(orders[2])),
        ("refund_missing".to_owned(), Some(orders[2])),
        ("unknown_refund".to_owned(), Some(orders[3])),
    ];
    assert_eq!(found.into_iter().collect::<HashSet<_>>(), expected.into_iter().collect());
    let again = sweep().await;
    assert_eq!((again.settled, again.strangers), (0, 2), "{again:?}");
    assert_eq!(findings(&world).await.len(), 5, "each is kept once");
    let audit = world.engine.audit(Some(&client)).await.unwrap();
    assert_eq!((audit.captures, audit.strangers), (Some(5), 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_order_whose_refund_fails_at_once_is_a_finding_and_its_buyer_is_told_nothing_untrue() {
    let (world, fake, client, orders) = paid_orders(FakeProviderOptions::default(), 1).await;
    let order = orders[0];
    // A charge whose bank wants it back is not refunded: the provider refuses.
    let disputed = fake.open_dispute(&intent_of(&world, order).await.0).unwrap();
    let now = world.engine.clock.now();
    assert_eq!(world.engine.ledger.cancel_order(order, None, WHY, now).await.unwrap(), OrderCancelled::Now);
    until_nothing_is_due(&world, &client).await;
    let found = world.engine.ledger.order(order).await.unwrap().unwrap();
    assert_eq!((found.status, found.payment), (OrderState::Cancelled, PaymentState::Succeeded));
    assert_eq!(findings(&world).await, [("refund_failed".to_owned(), Some(order))]);
    let finding = world.engine.ledger.open_findings(1).await.unwrap().remove(0);
    assert!(finding.detail.contains("did not go through: charge_disputed"), "{}", finding.detail);
    assert_eq!(finding.intent, found.refunds[0].id.to_string(), "the provider has made none");
    let mails = "select count(*) from outbox where kind in ('refund_failed', 'refund_issued')";
    assert_eq!(world.count(mails).await, 0);
    assert_eq!(
        world.count("select count(*) from order_events where kind = 'refund_failed'").await,
        1,
        "the shop is told"
    );

    // The dispute itself waits for a person as well, once, however often the provider tells of it.
    let event = |number: u32, kind: &str| Event {
        object: "dispute".to_owned(),
        ..refund_event(number, kind, &IntentId(disputed.intent_id.clone()), &disputed.dispute_id, now)
    };
    for (number, kind) in [(1, "charge.dispute.created"), (2, "charge.dispute.funds_withdrawn")] {
        world.engine.keep_event(&event(number, kind)).await.unwrap();
        assert_eq!(world.engine.deal_with_events(&client, 10).await.unwrap().known, 1);
    }
    let found = findings(&world).await;
    assert_eq!(found[1..], [("disputed".to_owned(), Some(order))]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_with_another_reason_is_another_request() {
    let (world, _fake, _client, orders) = paid_orders(FakeProviderOptions::default(), 1).await;
    let ledger = &world.engine.ledger;
    let ask = async |reason: &str| {
        let id = RefundId(Uuid::from_u128(1));
        let now = world.engine.clock.now();
        ledger.ask_refund(id, orders[0], Some(euros(500)), ("grace", reason), now).await.unwrap()
    };
    assert_eq!(ask("a scratch").await, RefundAsked::Now);
    assert_eq!(ask("a scratch").await, RefundAsked::Before);
    assert_eq!(ask("two scratches").await, RefundAsked::IdTaken);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_return_under_the_same_id_with_another_reason_is_another_return() {
    let (world, _fake, _client, order) = two_shipped().await;
    let back = one_unit(None, None);
    assert_eq!(take(&world, 1, order, &back).await, ReturnTaken::Now);
    let (id, now) = (ReturnId(Uuid::from_u128(1)), world.engine.clock.now());
    let other = world.engine.ledger.take_return(id, order, &back, ("grace", "too small"), now).await.unwrap();
    assert_eq!(other, ReturnTaken::IdTaken);
}

/// A world whose clock and provider stand at this time.
async fn paid_at(time: &str, paid: u32) -> (World, FakeProvider, ProviderClient, Vec<OrderId>, Clock) {
    paid_with(FakeProviderOptions::default(), time, paid).await
}

async fn paid_with(
    options: FakeProviderOptions,
    time: &str,
    paid: u32,
) -> (World, FakeProvider, ProviderClient, Vec<OrderId>, Clock) {
    let clock = Clock::manual(time.parse().unwrap());
    let mut world = World::new().await;
    world.engine.clock = clock.clone();
    let seconds = clock.clone();
    let options = FakeProviderOptions { clock: FakeClock::unix_seconds(move || seconds.now().as_second()), ..options };
    let (world, fake, client, orders) = pay(world, options, paid).await;
    (world, fake, client, orders, clock)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_days_of_the_books_are_the_shops_own_and_the_first_closed_one_decides() {
    // In Berlin it is half past midnight on the 24th already.
    let (world, fake, client, orders, clock) = paid_at("2026-11-23T23:30:00Z", 3).await;
    let engine = &world.engine;
    let berlin = engine.books_zone(Some("Europe/Berlin")).await.unwrap().unwrap();
    assert_eq!(engine.books_zone(None).await.unwrap().unwrap(), TimeZone::UTC);
    let unknown = engine.books_zone(Some("Europe/Nowhere")).await.unwrap();
    assert_eq!(unknown, Err(BadZone::Unknown("Europe/Nowhere".to_owned())));
    refund(&world, 1, orders[0], Some(5_000)).await;
    until_nothing_is_due(&world, &client).await;
    // Two days later the money is back.
    clock.advance(SignedDuration::from_hours(48));
    assert!(fake.settle_refund(&fake.refunds()[0].refund_id, End::Failed));
    let now = clock.now();
    let event =
        refund_event(1, "refund.failed", &intent_of(&world, orders[0]).await, &fake.refunds()[0].refund_id, now);
    engine.keep_event(&event).await.unwrap();
    assert_eq!(engine.deal_with_events(&client, 10).await.unwrap().settled, 1);
    // And somebody else on the account has been paid.
    let stranger = OrderId(Uuid::now_v7());
    let Outcome::Answered(strange) = client.send(&ProviderRequest::create(stranger, euros(700)).unwrap()).await else {
        panic!("no answer")
    };
    let confirm = ProviderRequest::confirm(stranger, &strange.id, &"pm_card_visa".parse().unwrap(), 1);
    assert!(matches!(client.send(&confirm).await, Outcome::Answered(_)));

    clock.advance(SignedDuration::from_hours(24));
    let close = async |day: &str| {
        let report = engine.close_day(&client, day.parse().unwrap(), &berlin).await.unwrap().unwrap();
        assert_eq!(report.differences, [], "{day}: {report:#?}");
        (report.charges, report.refunds, report.refunds_returned, report.strangers.count)
    };
    assert_eq!(close("2026-11-23").await, (0, 0, 0, 0));
    assert_eq!(close("2026-11-24").await, (3, 1, 0, 0));
    assert_eq!(close("2026-11-26").await, (0, 0, 1, 1));
    assert_eq!(
        world.count("select count(*) from journal where source like 'provider-%:fee'").await,
        3,
        "not the stranger's"
    );
    let days = engine.book_days(&berlin).await.unwrap();
    let days = days.iter().map(|day| (day.day.to_string(), day.differences)).collect::<Vec<_>>();
    let expected = [("2026-11-23", Some(0)), ("2026-11-24", Some(0)), ("2026-11-25", None), ("2026-11-26", Some(0))];
    assert_eq!(days, expected.map(|(day, differences)| (day.to_owned(), differences)), "one was forgotten");

    assert_eq!(engine.books_zone(None).await.unwrap().unwrap(), berlin);
    let kept = BadZone::Other { kept: "Europe/Berlin".to_owned(), asked: "UTC".to_owned() };
    assert_eq!(engine.books_zone(Some("UTC")).await.unwrap(), Err(kept));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_is_told_from_an_order_of_ours_that_lost_its_charge() {
    let (world, _fake, client, orders, clock) = paid_at("2026-11-23T10:00:00Z", 2).await;
    clock.advance(SignedDuration::from_hours(24));
    let lost = "update payments set provider_charge_id = 'ch_nothing' where order_id = $1";
    world.sql.execute(lost, &[&orders[0].0]).await.unwrap();
    let report = world.engine.close_day(&client, "2026-11-23".parse().unwrap(), &TimeZone::UTC).await.unwrap().unwrap();
    let rules = report.differences.iter().map(|difference| difference.rule).collect::<HashSet<_>>();
    assert_eq!(rules, HashSet::from(["not_at_provider", "charge_without_order"]), "{:?}", report.differences);
    assert_eq!(report.strangers.count, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vat_report_adds_invoices_up_by_the_month_of_the_shop_and_takes_credit_notes_off() {
    // The last hour of November in UTC is the first of December in Berlin.
    let (world, fake, client, orders, clock) = paid_at("2026-11-30T23:30:00Z", 2).await;
    let engine = &world.engine;
    let (november, december) = ("2026-11".parse().unwrap(), "2026-12".parse().unwrap());
    let country = "update orders set ship_to = '{\"country\": \"PL\"}' where order_id = $1";
    world.sql.execute(country, &[&orders[1].0]).await.unwrap();
    let report = async |zone: &TimeZone| {
        let rows = engine.vat_report(november, december, zone).await.unwrap();
        let shown = rows.into_iter().map(|row| {
            (
                row.month.to_string(),
                row.country,
                row.invoiced_net.amount_minor,
                row.net.amount_minor,
                row.tax.amount_minor,
            )
        });
        shown.collect::<Vec<_>>()
    };
    let row = |month: &str, country: Option<&str>, invoiced: i64, net: i64, tax: i64| {
        (month.to_owned(), country.map(str::to_owned), invoiced, net, tax)
    };
    let one = 14_900 + 490;
    let of_one = |month: &str, country| row(month, country, one, one, 2_924);
    let here = Some("DE");
    assert_eq!(report(&TimeZone::UTC).await, [of_one("2026-11", here), of_one("2026-11", Some("PL"))]);
    let berlin = TimeZone::get("Europe/Berlin").unwrap();
    assert_eq!(report(&berlin).await, [of_one("2026-12", here), of_one("2026-12", Some("PL"))]);

    clock.advance(SignedDuration::from_hours(24));
    refund(&world, 1, orders[0], Some(5_000)).await;
    refund(&world, 2, orders[1], None).await;
    until_nothing_is_due(&world, &client).await;
    clock.advance(SignedDuration::from_hours(1));
    let after = report(&TimeZone::UTC).await;
    let credited = [row("2026-12", here, 0, -4_202, -798), row("2026-12", Some("PL"), 0, -one, -2_924)];
    assert_eq!(after[2..], credited);
    // What came back counts again, and the country stays when its buyer is forgotten.
    let theirs = fake.refunds().into_iter().find(|refund| refund.amount_minor == TOTAL).unwrap().refund_id;
    assert!(fake.settle_refund(&theirs, End::Failed));
    let event = refund_event(1, "refund.failed", &intent_of(&world, orders[1]).await, &theirs, clock.now());
    engine.keep_event(&event).await.unwrap();
    engine.deal_with_events(&client, 10).await.unwrap();
    world.sql.execute("update orders set ship_to = null", &[]).await.unwrap();
    let after = report(&TimeZone::UTC).await;
    assert_eq!(after[3..], [row("2026-12", Some("PL"), 0, 0, 0)]);
    assert_eq!(after[..2], [of_one("2026-11", here), of_one("2026-11", Some("PL"))]);
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_have_numbers_without_gaps_whoever_asks_first_and_keep_the_seller_of_their_day() {
    let (world, _fake, _client, orders) = paid_orders(FakeProviderOptions::default(), 6).await;
    let ledger = &world.engine.ledger;
    let seller = |name: &str| Seller {
        name: name.to_owned(),
        address: vec!["1 Road".to_owned()],
        country: "DE".to_owned(),
        tax_id: Some("DE1".to_owned()),
    };
    let now = world.engine.clock.now();
    ledger.set_seller(&seller("Old"), "ada", now).await.unwrap();
    let asked = orders.iter().map(|order| world.engine.order_documents(*order, None));
    let found = futures_util::future::join_all(asked).await;
    let found = found.into_iter().map(|found| found.unwrap().unwrap().invoice.unwrap()).collect::<Vec<_>>();
    let mut numbers = found.iter().map(|invoice| invoice.head.number).collect::<Vec<_>>();
    numbers.sort_unstable();
    assert_eq!(numbers, [1, 2, 3, 4, 5, 6]);
    assert_eq!(ledger.document_gaps().await.unwrap(), (0, 0));
    ledger.set_seller(&seller("New"), "ada", now).await.unwrap();
    let kept = documents(&world, orders[0]).await.invoice.unwrap().head;
    assert_eq!(kept.seller, Some(seller("Old")));
    assert_eq!(ledger.seller().await.unwrap(), Some(seller("New")));
    // Another buyer's documents are not there.
    assert!(world.engine.order_documents(orders[0], Some(&buyer(0))).await.unwrap().is_some());
    assert!(world.engine.order_documents(orders[0], Some(&buyer(1))).await.unwrap().is_none());
}

/// The provider takes the money off at once, and says that it has arrived when the bank says so.
#[tokio::test(flavor = "multi_thread")]
async fn a_refund_that_is_on_its_way_over_midnight_is_no_difference() {
    let options = FakeProviderOptions { refund_pending_rate: 1.0, ..FakeProviderOptions::default() };
    let (world, fake, client, orders, clock) = paid_with(options, "2026-11-23T22:00:00Z", 2).await;
    for (id, order) in (1..).zip(&orders) {
        assert_eq!(refund(&world, id, *order, Some(5_000)).await, RefundAsked::Now);
    }
    world.engine.charge_due(&client, 10, 4).await.unwrap();
    let close = async |day: &str| {
        let day = day.parse().unwrap();
        let report = world.engine.close_day(&client, day, &TimeZone::UTC).await.unwrap().unwrap();
        assert_eq!(report.differences, [], "{day}: {report:#?}");
        (report.charges, report.refunds, report.across_midnight_minor.get("EUR").copied())
    };
    clock.advance(SignedDuration::from_hours(4));
    assert_eq!(close("2026-11-23").await, (2, 0, Some(10_000)));
    // One arrives, the other one never does.
    assert!(fake.settle_refund(&fake.refunds()[0].refund_id, End::Succeeded));
    assert!(fake.settle_refund(&fake.refunds()[1].refund_id, End::Failed));
    until_nothing_is_due(&world, &client).await;
    clock.advance(SignedDuration::from_hours(24));
    assert_eq!(close("2026-11-24").await, (0, 1, Some(-10_000)));
    assert_eq!(close("2026-11-23").await, (2, 0, Some(10_000)), "closed again");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invoice_keeps_the_country_of_a_buyer_who_is_forgotten() {
    let (world, _fake, _client, orders) = paid_orders(FakeProviderOptions::default(), 1).await;
    bring(&world, orders[0]).await;
    assert_eq!(fulfil(&world, orders[0], FulfilmentStep::Deliver).await, Fulfilled::Now);
    let erased = world.engine.ledger.erase_buyer(&buyer(0), world.engine.clock.now()).await.unwrap();
    assert!(matches!(erased, Erasure::Done(_)), "{erased:?}");
    let head = documents(&world, orders[0]).await.invoice.unwrap().head;
    assert_eq!((head.buyer, head.country.as_deref()), (None, Some("DE")));
}
