//! Buyers at the provider: a card is saved once, charged again and again, and gone when its buyer is.

use std::time::Instant;

use doorbuster_engine::domain::cards::{CardRefusal, CardState};
use doorbuster_engine::domain::ids::{CustomerId, OrderId};
use doorbuster_engine::ledger::customers::ProfileSaved;
use doorbuster_engine::ledger::payments::MethodGiven;
use doorbuster_engine::ledger::profiles::CheckoutProfile;
use doorbuster_engine::ledger::setups::{SetupState, SetupView};
use doorbuster_engine::provider::{
    Customer, Endpoint, Outcome, ProviderClient, ProviderRequest, RateLimit, SavedMethod,
};
use doorbuster_sandbox::provider::{FakeProvider, FakeProviderOptions};
use jiff::SignedDuration;
use uuid::Uuid;

use crate::harness::{World, buyer, claim, provider, taken};
use crate::payments::until_paid;

async fn reliable() -> (World, FakeProvider, ProviderClient) {
    let (fake, client) = provider(FakeProviderOptions::default()).await;
    (World::new().await, fake, client)
}

async fn card_of(world: &World, who: u32) -> Option<(CardState, Option<CardRefusal>)> {
    world.engine.ledger.card_of_profile(&buyer(who)).await.unwrap()
}

/// Asks about cards until none is being checked; what waits for another try does not wait here.
async fn until_checked(world: &World, client: &ProviderClient) {
    let started = Instant::now();
    while world.count("select count(*) from cards where state = 'CHECKING'").await > 0 {
        world.sql.execute("update cards set due_at = now() where due_at is not null", &[]).await.unwrap();
        world.engine.check_cards(client, 100).await.unwrap();
        assert!(started.elapsed().as_secs() < 30, "cards are still being checked");
    }
}

fn profile(who: u32, method: Option<&str>) -> CheckoutProfile {
    CheckoutProfile {
        payment_method: method.map(|method| method.parse().unwrap()),
        email: format!("b{who}@example.test"),
        ship_to: serde_json::json!({ "name": "B", "country": "DE" }),
    }
}

async fn saved(world: &World, who: u32, method: Option<&str>) -> ProfileSaved {
    let now = world.engine.clock.now();
    world.engine.ledger.save_profile_and_card(&buyer(who), &profile(who, method), now).await.unwrap()
}

/// A customer of somebody else's program on the same account, with this card.
async fn strangers_card(client: &ProviderClient, method: &str) {
    let turn = client.turn(Endpoint::Card).await.unwrap();
    let made = client.send_card_in_turn::<Customer>(&ProviderRequest::customer(Uuid::now_v7(), "other", 0), turn).await;
    let Outcome::Answered(customer) = made else { panic!("{made:?}") };
    let attach = ProviderRequest::attach(Uuid::now_v7(), &method.parse().unwrap(), &customer.id, 0);
    let turn = client.turn(Endpoint::Card).await.unwrap();
    let attached = client.send_card_in_turn::<SavedMethod>(&attach, turn).await;
    assert!(matches!(attached, Outcome::Answered(_)), "{attached:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_card_is_saved_in_the_background_and_of_its_fingerprint_only_a_hash_is_kept() {
    let (world, fake, client) = reliable().await;
    let method = fake.new_payment_method("pm_card_visa").unwrap();
    assert_eq!(saved(&world, 1, Some(&method)).await, ProfileSaved::Now(Some((CardState::Checking, None))));
    let report = world.engine.check_cards(&client, 10).await.unwrap();
    assert_eq!((report.leased, report.saved), (1, 1), "{report:?}");
    assert_eq!(card_of(&world, 1).await, Some((CardState::Saved, None)));
    assert_eq!(world.engine.check_cards(&client, 10).await.unwrap().leased, 0, "nothing is due");
    // Given again it stays saved, and nobody is asked.
    assert_eq!(saved(&world, 1, Some(&method)).await, ProfileSaved::Now(Some((CardState::Saved, None))));
    // Two buyers with one card: two customers, two methods, one hash.
    saved(&world, 2, Some(&fake.new_payment_method("pm_card_visa").unwrap())).await;
    saved(&world, 3, Some(&fake.new_payment_method("pm_card_mastercard").unwrap())).await;
    until_checked(&world, &client).await;
    assert_eq!(fake.customers().len(), 3);
    assert_eq!(world.count("select count(distinct fingerprint) from cards").await, 2);
    let found = client.read_method(&method.parse().unwrap()).await.unwrap();
    let plain = found.fingerprint.unwrap();
    let kept = format!("select count(*) from cards where position('{plain}' in cards::text) > 0");
    assert_eq!(world.count(&kept).await, 0, "the provider's own word is not kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn while_a_charge_waits_for_its_turn_no_card_is_taken_in_the_background() {
    let (world, fake, client) = reliable().await;
    world.save_card(1, &fake.new_payment_method("pm_card_visa").unwrap()).await;
    let client = client.limited_to(RateLimit { per_second: 4, burst: 1 });
    let _first = client.turn(Endpoint::Create).await.unwrap();
    let background = async {
        while !client.has_charges_waiting() {
            tokio::task::yield_now().await;
        }
        world.engine.check_cards(&client, 10).await.unwrap()
    };
    let (report, _second) = tokio::join!(background, client.turn(Endpoint::Create));
    assert_eq!(report.leased, 0, "a charge that needs it would find it taken");
    assert_eq!(world.engine.check_cards(&client, 10).await.unwrap().saved, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_card_that_cannot_be_saved_is_refused_with_its_reason_and_one_that_is_known_at_once() {
    let (world, fake, client) = reliable().await;
    let live = world.open(&[1], 1, 1).await;
    let others = fake.new_payment_method("pm_card_visa").unwrap();
    strangers_card(&client, &others).await;
    // Used without a customer, as a program that knew none did.
    let used = fake.new_payment_method("pm_card_visa").unwrap();
    world.save_profile(9, &used).await;
    taken(world.claim_until_answered(&live, 9, "k", 0, 1).await);
    world.settle().await;
    assert_eq!(world.engine.charge_due(&client, 10, 4).await.unwrap().confirmed, 1);
    let table = [
        (1, &*others, CardRefusal::OfAnother),
        (2, &*used, CardRefusal::UsedBefore),
        (3, "pm_nobody", CardRefusal::NotThere),
        (4, "pm_card_chargeDeclined", CardRefusal::Declined),
    ];
    for (who, method, refusal) in table {
        saved(&world, who, Some(method)).await;
        until_checked(&world, &client).await;
        assert_eq!(card_of(&world, who).await, Some((CardState::Refused, Some(refusal))), "{method}");
        // Given again: refused at once where that can never change, and asked about anew where it may.
        let again = match refusal {
            CardRefusal::Declined => ProfileSaved::Now(Some((CardState::Checking, None))),
            _ => ProfileSaved::CardNeededAgain(refusal),
        };
        assert_eq!(saved(&world, who, Some(method)).await, again, "{method}");
    }
    // A card of another buyer of ours.
    let hers = fake.new_payment_method("pm_card_visa").unwrap();
    saved(&world, 5, Some(&hers)).await;
    until_checked(&world, &client).await;
    assert_eq!(saved(&world, 6, Some(&hers)).await, ProfileSaved::CardNeededAgain(CardRefusal::OfAnother));
    assert!(world.engine.ledger.profile_of(&buyer(6)).await.unwrap().is_none(), "nothing was saved");
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_answers_and_stored_errors_save_every_card_and_a_repeat_makes_no_second_customer() {
    let world = World::new().await;
    let faults = FakeProviderOptions { lost_answer_rate: 0.4, lost_request_rate: 0.2, seed: 3, ..Default::default() };
    let (fake, client) = provider(faults).await;
    for who in 0..20 {
        world.save_card(who, &fake.new_payment_method("pm_card_visa").unwrap()).await;
    }
    until_checked(&world, &client).await;
    assert_eq!(world.count("select count(*) from cards where state = 'SAVED'").await, 20);
    assert!(fake.fault_counts().lost_answers > 5, "{:?}", fake.fault_counts());
    // Only where a key was given up, after three tries without an answer, may there be another one.
    let given_up = world.count("select coalesce(sum(again), 0) from customers").await;
    assert!(fake.customers().len() as i64 <= 20 + given_up, "{} for 20 buyers", fake.customers().len());

    let world = World::new().await;
    let (fake, client) = provider(FakeProviderOptions { error_500_rate: 0.5, seed: 5, ..Default::default() }).await;
    for who in 0..10 {
        world.save_card(who, &fake.new_payment_method("pm_card_visa").unwrap()).await;
    }
    until_checked(&world, &client).await;
    assert_eq!(world.count("select count(*) from cards where state = 'SAVED'").await, 10, "under their next keys");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_customer_that_somebody_deleted_at_the_provider_is_made_again() {
    let (world, fake, client) = reliable().await;
    world.save_card(1, &fake.new_payment_method("pm_card_visa").unwrap()).await;
    until_checked(&world, &client).await;
    let first = CustomerId(fake.customers()[0].customer_id.clone());
    assert!(matches!(client.delete_customer(&first).await, Outcome::Answered(_)));
    world.save_card(1, &fake.new_payment_method("pm_card_visa").unwrap()).await;
    until_checked(&world, &client).await;
    assert_eq!(card_of(&world, 1).await, Some((CardState::Saved, None)));
    assert_eq!(fake.customers().iter().filter(|customer| !customer.is_deleted).count(), 1);
    assert_eq!(world.count("select count(*) from cards where state = 'SAVED'").await, 1, "the first has gone with it");
}

/// An order that was begun in the first format: its intent is there, made without a customer.
async fn begun_in_first_format(world: &World, client: &ProviderClient) -> OrderId {
    let ledger = &world.engine.ledger;
    let now = world.engine.clock.now();
    let mut leased = ledger.lease_payments(now, SignedDuration::from_mins(1), 1).await.unwrap().remove(0);
    assert_eq!(leased.format, None);
    leased.format = Some(1);
    let create = ProviderRequest::create(leased.order, leased.amount).unwrap();
    let call = ("create", &*create.idempotency_key, &*create.path, &*create.body);
    let attempt = ledger.begin_attempt(&mut leased, None, call, now).await.unwrap().unwrap();
    let Outcome::Answered(intent) = client.send(&create).await else { panic!("not created") };
    let state = doorbuster_engine::domain::payments::AttemptState::Succeeded;
    let end = leased.ended(&attempt, state, "").with_intent(intent.id);
    ledger.yield_payment(&leased, Some(&end), None, None, Some(now), now).await.unwrap();
    leased.order
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_of_the_first_format_ends_in_it_and_its_intent_gets_the_customer_of_a_card_saved_since() {
    let (world, fake, client) = reliable().await;
    let live = world.open(&[3], 2, 3).await;
    let method = fake.new_payment_method("pm_card_visa").unwrap();
    world.save_profile(1, &method).await;
    taken(world.claim_until_answered(&live, 1, "old", 0, 1).await);
    world.settle().await;
    let order = begun_in_first_format(&world, &client).await;
    world.save_card(1, &method).await;
    until_checked(&world, &client).await;
    // Beside it a new one, of the second format.
    taken(world.claim_until_answered(&live, 1, "new", 0, 1).await);
    world.settle().await;
    until_paid(&world, &client, 2).await;
    let customer = Some(fake.customers()[0].customer_id.clone());
    assert!(fake.intents().iter().all(|intent| intent.customer == customer));
    let of = async |order: OrderId, is_this: bool| {
        let sql = format!(
            "select string_agg(operation || ' ' || format, ', ' order by order_id, number) from payment_attempts
             where (order_id = '{order}') = {is_this}"
        );
        world.sql.query_one(&sql, &[]).await.unwrap().get::<_, String>(0)
    };
    assert_eq!(of(order, true).await, "create 1, confirm 1");
    assert_eq!(of(order, false).await, "create 2, confirm 2");
    let body = format!("select body from payment_attempts where order_id = '{order}' and operation = 'confirm'");
    let body = world.sql.query_one(&body, &[]).await.unwrap().get::<_, String>(0);
    assert_eq!(body, format!("payment_method={method}"));
}

/// What a program that knows the first format only runs to lease a payment.
async fn leases_of_before(world: &World, order: OrderId) -> u64 {
    const SQL: &str = "update payments set lease_number = lease_number + 1, leased_until = now() + interval '1 minute',
                           tries = tries + 1 where order_id = $1 and due_at is not null";
    world.sql.execute(SQL, &[&order.0]).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_knows_the_first_format_only_gets_no_lease_of_what_needs_the_second() {
    let (world, fake, client) = reliable().await;
    let live = world.open(&[4], 2, 1).await;
    let order = |who: u32| claim(&live, &buyer(who), "k", 0, 1).id.order_id();
    // 1: nobody has asked about its card, and nothing was sent. 2: its card is being saved. 3: its card cannot be saved.
    world.save_profile(1, "pm_card_visa").await;
    world.save_card(2, &fake.new_payment_method("pm_card_visa").unwrap()).await;
    world.save_card(3, "pm_nobody").await;
    world.engine.check_cards(&client, 1).await.unwrap();
    world.save_card(4, "pm_nobody").await;
    until_checked(&world, &client).await;
    world.save_card(2, &fake.new_payment_method("pm_card_visa").unwrap()).await;
    for who in 1..=4 {
        taken(world.claim_until_answered(&live, who, "k", 0, 1).await);
    }
    world.settle().await;
    assert_eq!(leases_of_before(&world, order(2)).await, 0, "its card is being saved");
    assert_eq!(leases_of_before(&world, order(1)).await, 1, "as ever");
    assert_eq!(leases_of_before(&world, order(3)).await, 1, "a card that is charged once, without a customer");
    // Once it has begun in the second format, whatever its card is.
    let leased = world.engine.ledger.lease_payments(world.engine.clock.now(), SignedDuration::ZERO, 10).await.unwrap();
    let leased_orders = leased.iter().map(|payment| payment.order).collect::<Vec<_>>();
    assert!(leased_orders.contains(&order(2)) && leased_orders.contains(&order(4)), "by who knows both");
    let mut fourth = leased.into_iter().find(|payment| payment.order == order(4)).unwrap();
    fourth.format = Some(2);
    let now = world.engine.clock.now();
    let key = format!("order-{}", fourth.order);
    let create = ("create", &*key, "/p", "b");
    world.engine.ledger.begin_attempt(&mut fourth, None, create, now).await.unwrap().unwrap();
    assert_eq!(leases_of_before(&world, order(4)).await, 0, "it was begun in the second format");
    // What only fences a worker, and leases nothing, goes on working.
    let fence = "update payments set lease_number = lease_number + 1 where order_id = $1";
    assert_eq!(world.sql.execute(fence, &[&order(4).0]).await.unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_saved_card_whose_bank_wants_to_ask_is_confirmed_again_and_leads_its_owner_there() {
    let (world, fake, client) = reliable().await;
    let live = world.open(&[1], 1, 1).await;
    world.save_card(1, "pm_card_authenticationRequired").await;
    taken(world.claim_until_answered(&live, 1, "k", 0, 1).await);
    world.settle().await;
    for _ in 0..2 {
        world.engine.charge_due(&client, 10, 4).await.unwrap();
    }
    assert_eq!(world.count("select count(*) from payments where state = 'ACTION_REQUIRED'").await, 1);
    let link = "select count(*) from payments where next_action->>'url' is not null";
    assert_eq!(world.count(link).await, 1, "a return_url was sent");
    let bodies = "select string_agg(split_part(body, '&', 2), ' ' order by number) from payment_attempts
                  where operation = 'confirm'";
    let bodies = world.sql.query_one(bodies, &[]).await.unwrap().get::<_, String>(0);
    assert_eq!(bodies, "off_session=true return_url=https%3A%2F%2Fshop.example%2Fback");
    assert!(fake.complete_action(&fake.intents()[0].intent_id));
    until_paid(&world, &client, 1).await;
    assert_eq!(fake.captures().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_profile_without_a_card_lets_its_orders_wait_for_one() {
    let (world, fake, client) = reliable().await;
    let live = world.open(&[1], 1, 1).await;
    assert_eq!(saved(&world, 1, None).await, ProfileSaved::Now(None));
    let order = claim(&live, &buyer(1), "k", 0, 1).id.order_id();
    taken(world.claim_until_answered(&live, 1, "k", 0, 1).await);
    world.settle().await;
    assert_eq!(world.count("select count(*) from payments where state = 'REQUIRED'").await, 1);
    assert_eq!(world.engine.charge_due(&client, 10, 4).await.unwrap().leased, 0);
    let give = async |key: &str| {
        let now = world.engine.clock.now();
        world.engine.ledger.use_profile(order, &buyer(1), &key.parse().unwrap(), now).await.unwrap()
    };
    assert_eq!(give("a").await, MethodGiven::NoCard);
    assert_eq!(world.engine.ledger.profile_of(&buyer(1)).await.unwrap().unwrap().payment_method, None);
    saved(&world, 1, Some(&fake.new_payment_method("pm_card_visa").unwrap())).await;
    assert_eq!(give("b").await, MethodGiven::Now);
    until_paid(&world, &client, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forgotten_buyer_is_deleted_at_the_provider_however_often_it_takes() {
    let (world, fake, client) = reliable().await;
    let live = world.open(&[1], 1, 1).await;
    for who in [1, 2] {
        world.save_card(who, &fake.new_payment_method("pm_card_visa").unwrap()).await;
    }
    world.save_card(3, "pm_card_visa").await;
    taken(world.claim_until_answered(&live, 1, "k", 0, 1).await);
    world.settle().await;
    until_paid(&world, &client, 1).await;
    world
        .sql
        .execute("update cards set due_at = now() - interval '1 hour' where buyer = $1", &[&buyer(2).as_str()])
        .await
        .unwrap();
    assert_eq!(world.engine.check_cards(&client, 1).await.unwrap().saved, 1);
    // The first one's order is not over, and keeps their customer; the third was never asked for.
    let now = world.engine.clock.now();
    for who in [1, 2, 3] {
        world.engine.ledger.erase_buyer(&buyer(who), now).await.unwrap();
    }
    assert_eq!(world.count("select count(*) from customers where ends_at is not null").await, 1);
    assert_eq!(world.count("select count(*) from customers").await, 2);
    assert_eq!(world.count("select count(*) from cards").await, 1);
    let (gone, nowhere) = provider(FakeProviderOptions::default()).await;
    drop(gone);
    world.engine.end_customers(&nowhere, 10).await.unwrap();
    assert_eq!(fake.customers().iter().filter(|customer| customer.is_deleted).count(), 0);
    let due = "update customers set ends_at = now() where ends_at is not null";
    world.sql.execute(due, &[]).await.unwrap();
    // The answer is lost, so to speak: it was deleted, and the repeat is told that there is none.
    let second = world.sql.query_one("select customer_id from customers where ends_at is not null", &[]).await.unwrap();
    assert!(matches!(client.delete_customer(&CustomerId(second.get(0))).await, Outcome::Answered(_)));
    world.engine.end_customers(&client, 10).await.unwrap();
    assert_eq!(world.count("select count(*) from customers").await, 1);
    assert_eq!(fake.customers().iter().filter(|customer| customer.is_deleted).count(), 1);
}

async fn asked(world: &World, key: &str) -> (SetupView, bool) {
    let now = world.engine.clock.now();
    let url = "https://shop.example/account";
    world.engine.ledger.ask_setup(&buyer(1), &key.parse().unwrap(), url, now).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_card_saved_on_the_providers_page_is_stored_once_whoever_tells_of_it_first_and_twice() {
    let (world, fake, client) = reliable().await;
    saved(&world, 1, None).await;
    let ledger = &world.engine.ledger;
    let (setup, is_replay) = asked(&world, "k").await;
    assert_eq!((setup.state, is_replay), (SetupState::Asked, false));
    world.engine.look_after_setups(&client, 10).await.unwrap();
    let (open, is_replay) = asked(&world, "k").await;
    assert_eq!((open.reference, open.state, is_replay), (setup.reference, SetupState::Open, true));
    assert_eq!(ledger.setup_of(&buyer(2), setup.reference).await.unwrap(), None, "not theirs");
    // Too early: nobody has saved a card yet.
    ledger.read_setup_now(&buyer(1), setup.reference, world.engine.clock.now()).await.unwrap();
    world.engine.look_after_setups(&client, 10).await.unwrap();
    assert_eq!(asked(&world, "k").await.0.state, SetupState::Open);
    // Its owner authenticates, so that it can be charged while they are away.
    let http = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    let page = http.post(open.url.unwrap()).header("content-type", "application/x-www-form-urlencoded");
    let bank = page.body("card=pm_card_authenticationRequiredOnSetup").send().await.unwrap();
    let bank = bank.headers()["location"].to_str().unwrap().replace('?', "/complete?");
    let back = http.post(bank).send().await.unwrap();
    let back = back.headers()["location"].to_str().unwrap().to_owned();
    assert_eq!(back, format!("https://shop.example/account?card_setup={}", setup.reference));

    let session = world.sql.query_one("select session_id from card_setups", &[]).await.unwrap().get::<_, String>(0);
    for _ in 0..2 {
        assert!(ledger.read_session_now(&session, world.engine.clock.now()).await.unwrap());
        ledger.read_setup_now(&buyer(1), setup.reference, world.engine.clock.now()).await.unwrap();
        world.engine.look_after_setups(&client, 10).await.unwrap();
    }
    assert!(!ledger.read_session_now("cs_test_0", world.engine.clock.now()).await.unwrap());
    let ended = asked(&world, "k").await.0;
    assert_eq!((ended.state, &ended.url), (SetupState::Saved, &None));
    assert_eq!(card_of(&world, 1).await, Some((CardState::Saved, None)));
    assert_eq!(ledger.profile_of(&buyer(1)).await.unwrap().unwrap().payment_method, ended.method);
    assert_eq!(world.count("select count(*) from cards where length(fingerprint) = 32").await, 1);
    // Nobody asks its owner again.
    let live = world.open(&[1], 1, 1).await;
    taken(world.claim_until_answered(&live, 1, "k", 0, 1).await);
    world.settle().await;
    assert_eq!(world.engine.charge_due(&client, 10, 4).await.unwrap().confirmed, 1);
    assert_eq!(fake.customers().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_nobody_used_expires_and_a_buyer_keeps_few_of_them() {
    let (world, fake, client) = reliable().await;
    for number in 0..7 {
        asked(&world, &format!("k{number}")).await;
    }
    assert_eq!(world.count("select count(*) from card_setups").await, 5);
    world.engine.look_after_setups(&client, 10).await.unwrap();
    let session = world.sql.query_one("select min(session_id) from card_setups", &[]).await.unwrap();
    let session = session.get::<_, String>(0);
    let expire = format!("{}/v1/checkout/sessions/{session}/expire", fake.url());
    let expired = reqwest::Client::builder().no_proxy().build().unwrap().post(expire).bearer_auth(fake.secret_key());
    assert!(expired.send().await.unwrap().status().is_success());
    assert!(world.engine.ledger.read_session_now(&session, world.engine.clock.now()).await.unwrap());
    world.engine.look_after_setups(&client, 10).await.unwrap();
    assert_eq!(world.count("select count(*) from card_setups where state = 'EXPIRED'").await, 1);
}
