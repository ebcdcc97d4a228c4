//! Drafts: changed and deleted until somebody begins to open them, and by nobody afterwards.

use doorbuster_engine::domain::drafts::DraftChange;
use doorbuster_engine::domain::drops::DropState;
use doorbuster_engine::flows::open_drop::DropRefused;

use crate::harness::{World, buyer, claim, taken};

const TABLES: [&str; 8] =
    ["drops", "drop_variants", "warehouses", "tokens", "inventory", "grants", "products", "variants"];

async fn rows(world: &World) -> Vec<i64> {
    let mut rows = Vec::new();
    for table in TABLES {
        rows.push(world.sql.query_one(&format!("select count(*) from {table}"), &[]).await.unwrap().get(0));
    }
    rows
}

#[tokio::test]
async fn a_deleted_draft_leaves_nothing_and_its_name_is_free_for_another_drop() {
    let world = World::new().await;
    world.engine.create_drop(&world.new_drop(&[3, 1], 2, 1), 42).await.unwrap().unwrap();
    let gateway = world.another_engine().await;
    gateway.live_drop(&world.drop).await.unwrap().expect("it has met the draft");
    world.engine.delete_draft(&world.drop).await.unwrap().unwrap();
    assert_eq!(rows(&world).await, [0; TABLES.len()], "{TABLES:?}");
    assert_eq!(world.engine.delete_draft(&world.drop).await.unwrap(), Err(DropRefused::Unknown));

    // Another drop of the same name, with more warehouses: who remembers the first one must not sell the second by it.
    world.open(&[40], 8, 1).await;
    let live = gateway.refresh(&world.drop).await.unwrap().expect("the second one");
    assert_eq!(live.free_units().await.unwrap().iter().sum::<u32>(), 40);
    // Enough of them for a home in every warehouse.
    for who in 0..32 {
        let claim = claim(&live, &buyer(who), "key", 0, 1);
        taken(gateway.claim(&live, &claim).await.unwrap().outcome);
    }
    let report = world.engine.audit(None).await.unwrap();
    assert!(report.violations.is_empty(), "{:?}", report.violations);
}

#[tokio::test]
async fn a_process_forgets_a_draft_that_another_one_deleted() {
    let world = World::new().await;
    world.engine.create_drop(&world.new_drop(&[3], 2, 1), 42).await.unwrap().unwrap();
    let gateway = world.another_engine().await;
    gateway.live_drop(&world.drop).await.unwrap().expect("it has met the draft");
    world.engine.delete_draft(&world.drop).await.unwrap().unwrap();
    assert!(gateway.refresh(&world.drop).await.unwrap().is_none());
    assert!(gateway.known_drop(&world.drop).is_none());
}

#[tokio::test]
async fn what_somebody_else_uses_or_has_edited_stays_in_the_catalog() {
    let world = World::new().await;
    world.engine.create_drop(&world.new_drop(&[3, 4], 2, 1), 42).await.unwrap().unwrap();
    world
        .sql
        .execute("update variants set title = 'edited', updated_at = now() where sku like '%-1'", &[])
        .await
        .unwrap();
    world.engine.delete_draft(&world.drop).await.unwrap().unwrap();
    assert_eq!(rows(&world).await, [0, 0, 0, 0, 0, 0, 1, 1], "{TABLES:?}");
}

#[tokio::test]
async fn what_was_opened_is_neither_changed_nor_deleted() {
    let world = World::new().await;
    world.open(&[3], 2, 1).await;
    let before = rows(&world).await;
    let change = DraftChange { buyer_limit: Some(2), ..DraftChange::default() };
    let refused = world.engine.update_draft(&world.drop, &change).await.unwrap().unwrap_err();
    assert_eq!(refused, DropRefused::NoDraft(DropState::Open));
    let refused = world.engine.delete_draft(&world.drop).await.unwrap().unwrap_err();
    assert_eq!(refused, DropRefused::NoDraft(DropState::Open));
    assert_eq!(rows(&world).await, before);
}

#[tokio::test]
async fn a_draft_that_a_row_names_is_not_deleted() {
    let world = World::new().await;
    let drop = world.engine.create_drop(&world.new_drop(&[3], 2, 1), 42).await.unwrap().unwrap();
    let restock =
        "insert into restocks (restock_id, drop_id, variant_number, units) values (gen_random_uuid(), $1, 0, 1)";
    world.sql.execute(restock, &[&drop.id.0]).await.unwrap();
    let before = rows(&world).await;
    assert_eq!(world.engine.delete_draft(&world.drop).await.unwrap(), Err(DropRefused::InUse));
    assert_eq!(rows(&world).await, before);
}

#[tokio::test]
async fn a_change_decided_on_an_older_draft_is_not_written() {
    let world = World::new().await;
    let read = world.engine.create_drop(&world.new_drop(&[3], 2, 1), 42).await.unwrap().unwrap();
    let limit = |limit| DraftChange { buyer_limit: Some(limit), ..DraftChange::default() };
    let mine = limit(2).of(&read).unwrap();
    let theirs = world.engine.update_draft(&world.drop, &limit(3)).await.unwrap().unwrap();
    assert!(!world.engine.ledger.write_draft(&read, &mine).await.unwrap());
    assert_eq!(world.engine.ledger.drop_by_id(read.id).await.unwrap().unwrap().buyer_limit, 3);

    // Nor one that is being opened by now.
    world.engine.ledger.move_drop(read.id, &[DropState::Draft], DropState::Opening).await.unwrap();
    assert!(!world.engine.ledger.write_draft(&theirs, &limit(4).of(&theirs).unwrap()).await.unwrap());
}

#[tokio::test]
async fn a_draft_changed_between_reading_and_opening_it_is_loaded_as_it_is_now() {
    let world = World::new().await;
    world.engine.create_drop(&world.new_drop(&[8], 1, 1), 42).await.unwrap().unwrap();
    // Changes the draft at the very moment in which it stops being one.
    let trigger = "create function raise_limit() returns trigger language plpgsql as
                   'begin if old.state = ''draft'' then new.buyer_limit := 4; end if; return new; end';
                   create trigger raise_limit before update on drops for each row execute function raise_limit()";
    world.sql.batch_execute(trigger).await.unwrap();
    world.engine.open_drop(&world.drop).await.unwrap().unwrap();
    let live = world.live().await;
    let loaded = live.store(&live.drop.warehouses[0]).dump().await.unwrap().expect("it is loaded");
    assert_eq!((live.drop.buyer_limit, loaded.limit), (4, 4), "Redis has the limit that Postgres has");
}

#[tokio::test]
async fn figures_count_every_unit_of_every_state_once() {
    let world = World::new().await;
    world.engine.create_drop(&world.new_drop(&[10, 5], 3, 2), 42).await.unwrap().unwrap();
    let left = async || {
        let figures = world.engine.drop_figures(&world.drop).await.unwrap().unwrap();
        let of = |figures: &doorbuster_engine::domain::figures::VariantFigures| {
            (figures.left_units, figures.moving_units, figures.ordered_units, figures.sold_units)
        };
        figures.variants.iter().map(of).collect::<Vec<_>>()
    };
    assert_eq!(left().await, [(Some(10), Some(0), 0, 0), (Some(5), Some(0), 0, 0)]);
    world.engine.open_drop(&world.drop).await.unwrap().unwrap();
    assert_eq!(left().await, [(Some(10), Some(0), 0, 0), (Some(5), Some(0), 0, 0)]);
    let live = world.live().await;
    taken(world.claim_until_answered(&live, 1, "key", 0, 2).await);
    assert_eq!(left().await, [(Some(8), Some(2), 0, 0), (Some(5), Some(0), 0, 0)], "claimed and no order yet");
    world.settle().await;
    assert_eq!(left().await, [(Some(8), Some(0), 2, 0), (Some(5), Some(0), 0, 0)], "ordered and not paid");
}
