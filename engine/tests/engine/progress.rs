//! How far long work is, as its flows tell it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use doorbuster_engine::domain::progress::{Progress, Step};

use super::harness::World;

#[tokio::test]
async fn long_work_says_how_far_it_is_and_ends_at_the_whole() {
    let mut world = World::new().await;
    let told = Arc::new(Mutex::new(Vec::<Step>::new()));
    let listener = Arc::clone(&told);
    world.engine.ledger.progress = Progress::to(move |step| listener.lock().unwrap().push(step));

    let drop = world.engine.create_drop(&world.new_drop(&[10], 2, 1), 42).await.unwrap().unwrap();
    world.engine.open_drop(&drop.name).await.unwrap().unwrap();
    world.engine.audit(None).await.unwrap();

    let mut by_kind: BTreeMap<&str, Vec<Step>> = BTreeMap::new();
    for step in told.lock().unwrap().iter() {
        by_kind.entry(step.what).or_default().push(*step);
    }
    for (what, all) in [("units made", 10), ("warehouses loaded", 2), ("readings of drops", 4)] {
        let steps = &by_kind[what];
        assert!(steps.iter().all(|step| step.of == Some(all)), "{steps:?}");
        assert!(steps.is_sorted_by_key(|step| step.done), "{steps:?}");
        assert_eq!(steps.last().unwrap().done, all, "{steps:?}");
    }
}
