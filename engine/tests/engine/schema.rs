//! Migrations: many at once, never backwards.

use doorbuster_engine::domain::drops::InvalidDrop;
use doorbuster_engine::domain::grant_kinds::GrantKind;
use doorbuster_engine::flows::open_drop::DropRefused;
use doorbuster_engine::ledger::{Ledger, LedgerError};
use futures_util::future::join_all;

use crate::harness::{World, buyer, claim, taken};

#[tokio::test(flavor = "multi_thread")]
async fn many_programs_may_start_at_once_and_a_newer_schema_is_refused() {
    let world = World::new().await;
    world.sql.batch_execute("drop schema public cascade; create schema public").await.unwrap();
    let ledgers = (0..4).map(|_| Ledger::new(&world.database, 2).unwrap()).collect::<Vec<_>>();
    let applied = join_all(ledgers.iter().map(Ledger::migrate)).await;
    let applied = applied.into_iter().map(|outcome| outcome.unwrap().len()).collect::<Vec<_>>();
    let folder = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../migrations")).unwrap();
    let files = folder.filter(|file| file.as_ref().unwrap().file_name().to_string_lossy().ends_with(".sql")).count();
    assert_eq!(applied.iter().sum::<usize>(), files, "each migration by one of them: {applied:?}");
    let newer = "insert into refinery_schema_history (version, name, applied_on, checksum)
                 values (999, 'from_the_future', '2030-01-01T00:00:00Z', '1')";
    world.sql.execute(newer, &[]).await.unwrap();
    let refused = ledgers[0].migrate().await.unwrap_err();
    assert!(matches!(refused, LedgerError::SchemaNewer { found: 999, .. }), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drop_that_cannot_be_sold_is_refused_and_leaves_nothing() {
    let world = World::new().await;
    let good = world.new_drop(&[5], 2, 1);
    let mut refused = Vec::new();
    for change in 0..8 {
        let mut new = good.clone();
        match change {
            0 => new.buyer_limit = 0,
            1 => new.warehouses = 0,
            2 => new.variants.clear(),
            3 => new.variants[0].price_minor = -1,
            4 => new.variants[0].stock_units = u32::MAX,
            5 => new.variants.push(new.variants[0].clone()),
            6 => new.currency = "ZZZ".parse().unwrap(),
            // The provider wants the last of three decimals to be 0.
            _ => (new.currency, new.variants[0].price_minor) = ("BHD".parse().unwrap(), 1_235),
        }
        refused.push(world.engine.create_drop(&new, 1).await.unwrap().unwrap_err());
    }
    assert!(matches!(refused[0], DropRefused::Invalid(InvalidDrop::BuyerLimit(0))));
    for refused in &refused[6..] {
        assert!(matches!(refused, DropRefused::Invalid(InvalidDrop::NotChargeable { .. })), "{refused:?}");
    }
    assert_eq!(world.count("select count(*) from drops").await, 0);
    world.engine.create_drop(&good, 1).await.unwrap().unwrap();
    assert_eq!(world.engine.create_drop(&good, 1).await.unwrap().unwrap_err(), DropRefused::NameTaken);
}

/// Who asks whether a kind puts units on sale has an answer for each.
#[tokio::test(flavor = "multi_thread")]
async fn grants_have_the_kinds_that_the_program_knows() {
    let world = World::new().await;
    let check = "select pg_get_constraintdef(oid) from pg_constraint where conname = 'grants_kind_check'";
    let check = world.sql.query_one(check, &[]).await.unwrap().get::<_, String>(0);
    let mut allowed = check.split('\'').skip(1).step_by(2).collect::<Vec<_>>();
    let mut known = GrantKind::ALL.map(GrantKind::as_str);
    allowed.sort_unstable();
    known.sort_unstable();
    assert_eq!(allowed, known);
}

#[tokio::test(flavor = "multi_thread")]
async fn card_numbers_that_were_stored_are_erased_and_nothing_else_is() {
    const ERASE: &str = include_str!("../../../migrations/V35__card_numbers.sql");
    let world = World::new().await;
    let live = world.open(&[3], 1, 1).await;
    for (who, method) in [(1, "4242424242424242"), (2, "pm_1234567890123456"), (3, "5555555555554444")] {
        world.save_profile(who, method).await;
        taken(world.claim_until_answered(&live, who, "k", 0, 1).await);
    }
    world.settle().await;
    for (number, state, body) in [
        (1, "DECLINED", "payment_method=4242424242424242"),
        (2, "SUCCEEDED", "payment_method=pm_1234567890123456"),
        (3, "UNKNOWN", "payment_method=5555555555554444"),
    ] {
        let order = claim(&live, &buyer(number), "k", 0, 1).id.order_id();
        let sql = "insert into payment_attempts (order_id, number, operation, idempotency_key, path, body, state, prepared_at,
                                                 dispatched_at, finished_at)
            values ($1, 1, 'confirm', $2, '/', $3, $4, now(), now(), case when $4 <> 'UNKNOWN' then now() end)";
        world.sql.execute(sql, &[&order.0, &format!("order-{order}:{number}"), &body, &state]).await.unwrap();
    }
    world.sql.batch_execute(ERASE).await.unwrap();
    let left = async |sql: &str| {
        let rows = world.sql.query(sql, &[]).await.unwrap();
        rows.iter().map(|row| row.get::<_, String>(0)).collect::<Vec<_>>()
    };
    let methods = ["card_number_erased", "card_number_erased", "pm_1234567890123456"];
    assert_eq!(left("select payment_method from checkout_profiles order by 1").await, methods);
    assert_eq!(left("select payment_method from payments order by 1").await, methods);
    let bodies =
        ["payment_method=5555555555554444", "payment_method=card_number_erased", "payment_method=pm_1234567890123456"];
    assert_eq!(
        left("select body from payment_attempts order by 1").await,
        bodies,
        "what is open is repeated as it was"
    );
}
