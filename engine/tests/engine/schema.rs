//! Migrations: many at once, never backwards.

use doorbuster_engine::domain::drops::InvalidDrop;
use doorbuster_engine::domain::grant_kinds::GrantKind;
use doorbuster_engine::flows::open_drop::DropRefused;
use doorbuster_engine::ledger::{Ledger, LedgerError};
use futures_util::future::join_all;

use crate::harness::World;

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
            3 => new.variants[0].price_minor = 0,
            4 => new.variants[0].stock_units = u32::MAX,
            5 => new.variants.push(new.variants[0].clone()),
            6 => new.currency = "ISK".parse().unwrap(),
            // 1.230 dinars and 10 % of tax are 1.353, and the provider wants the last of three decimals to be 0.
            _ => {
                new.currency = "BHD".parse().unwrap();
                (new.variants[0].price_minor, new.tax_basis_points, new.shipping_minor) = (1_230, 1_000, 0);
            }
        }
        refused.push(world.engine.create_drop(&new, 1).await.unwrap().unwrap_err());
    }
    assert!(matches!(refused[0], DropRefused::Invalid(InvalidDrop::BuyerLimit(0))));
    assert!(matches!(refused[6], DropRefused::NotChargeable(_)), "{:?}", refused[6]);
    assert!(matches!(refused[7], DropRefused::NotChargeable(_)), "{:?}", refused[7]);
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
