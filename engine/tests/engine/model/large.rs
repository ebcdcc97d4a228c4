//! What random cases are too small for: loads of several chunks of each kind, and batches as large as they may be.

use doorbuster_engine::domain::claims::{Claim, Quantity};
use doorbuster_engine::domain::ids::{BuyerId, GrantNumber, Serial, VariantNumber};
use doorbuster_engine::tokens::contract::{MAX_BATCH, MAX_RELEASED};
use doorbuster_engine::tokens::store::{HeldClaim, Outcome};

use super::harness::{Place, servers};
use super::warehouse::{Reply, Truth, WarehouseModel, release_of};

const STOCK: u32 = 5_000;
const HOLDERS: u32 = 700;

#[test]
fn a_load_of_many_chunks_and_batches_of_256_agree_with_the_model() {
    let servers = servers();
    servers.runtime.block_on(async {
        let place = Place::new(servers, 2, 100).await;
        let mut truth = Truth { last_grant: 3, ..Truth::default() };
        // No two neighbours: nearly all of them are spare, in three chunks for each variant.
        for index in 0..STOCK {
            truth.free.insert(Serial(1 + 2 * index), VariantNumber((index % 2) as u8));
        }
        for holder in 0..HOLDERS {
            let claim = claim(&place, holder, "settled", 2);
            let serials = (holder % 3 != 0).then(|| vec![Serial(100_000 + 2 * holder), Serial(100_001 + 2 * holder)]);
            let held = HeldClaim { id: claim.id, variant: claim.variant, quantity: claim.quantity, serials };
            truth.claims.push((claim.buyer, held));
        }
        let mut model = WarehouseModel::default();
        let store = place.store(1);
        let replid = store.fence().await.unwrap();
        model.fence(1);
        let (variants, holders) = (truth.load(2), truth.holders());
        let chunks = store.load(&replid, GrantNumber(3), 3, &variants, &holders).await.unwrap();
        assert_eq!(Reply::Chunks(chunks), model.load(1, 3, 3, &variants, &holders));
        assert_eq!(chunks, 1 + 3 + 3 + 3);
        store.open(&replid, chunks, "open").await.unwrap();
        model.open(1, chunks, "open");

        // Old claims again, new ones of old and of new buyers, some twice in a batch, until nothing is left.
        let mut who = 0;
        let mut sold_out = 0;
        while sold_out < 3 {
            let batch = (0..MAX_BATCH as u32).map(|index| match index % 8 {
                0 => claim(&place, (who + index) % HOLDERS, "settled", 2),
                1 => claim(&place, who + index - 1, "new", 1),
                _ => claim(&place, who + index, "new", 1 + i64::from(index % 3)),
            });
            let batch = batch.collect::<Vec<_>>();
            let real = store.claim(7, &batch).await.unwrap();
            let has_taken = real.iter().any(|outcome| matches!(outcome, Outcome::Taken(_)));
            assert_eq!(Reply::Outcomes(real), model.claim(1, 7, &batch));
            sold_out += u32::from(!has_taken);
            who += 200;
        }
        // A thousand units and an ended claim in one grant.
        let (buyer, held) = truth.claims[1].clone();
        let serials = (0..1_000).map(|index| Serial(200_000 + index)).collect::<Vec<_>>();
        let tokens = vec![(VariantNumber(1), serials)];
        store.grant(GrantNumber(4), &tokens, Some(&release_of(&buyer, &held))).await.unwrap();
        assert_eq!(model.grant(1, 4, &tokens, Some(&release_of(&buyer, &held))), Reply::Done);

        let dump = store.dump().await.unwrap().unwrap();
        let loaded = model.contents.as_ref().and_then(|contents| contents.loaded.as_ref()).unwrap();
        assert_eq!(dump.seq, loaded.seq);
        for ((_, serials), free) in dump.free.iter().zip(&loaded.free) {
            assert_eq!(*serials, free.serials());
        }
        assert_eq!(dump.buyers.into_iter().collect::<std::collections::BTreeMap<_, _>>(), loaded.buyers);
        let logged = dump.log.iter().flat_map(|entry| &entry.claims).collect::<Vec<_>>();
        assert_eq!(logged, model.log.iter().flat_map(|entry| &entry.claims).collect::<Vec<_>>());
    });
}

fn claim(place: &Place, who: u32, key: &str, units: i64) -> Claim {
    let buyer: BuyerId = format!("buyer-{who:014x}").parse().expect("a buyer");
    let (key, variant) = (key.parse().expect("a key"), VariantNumber((who % 2) as u8));
    Claim::new(place.drop.id, buyer, &key, variant, Quantity::new(units).expect("a quantity"))
}

#[test]
fn who_gives_back_again_and_again_gets_no_more_and_others_do() {
    let servers = servers();
    servers.runtime.block_on(async {
        let place = Place::new(servers, 2, 100).await;
        let mut truth = Truth { last_grant: 1, ..Truth::default() };
        truth.free.extend((1..10).map(|serial| (Serial(serial), VariantNumber(0))));
        for round in 0..MAX_RELEASED as u32 - 1 {
            let claim = claim(&place, 1, &format!("round-{round}"), 1);
            let held = HeldClaim { id: claim.id, variant: claim.variant, quantity: claim.quantity, serials: None };
            truth.claims.push((claim.buyer, held));
        }
        let store = place.store(1);
        let replid = store.fence().await.unwrap();
        let chunks = store.load(&replid, GrantNumber(1), 5, &truth.load(2), &truth.holders()).await.unwrap();
        store.open(&replid, chunks, "open").await.unwrap();
        let ask = async |who: u32, key: &str| {
            let claim = Claim { variant: VariantNumber(0), ..claim(&place, who, key, 1) };
            store.claim(7, &[claim]).await.unwrap().remove(0)
        };
        assert!(matches!(ask(1, "last").await, Outcome::Taken(_)));
        let last = Claim { variant: VariantNumber(0), ..claim(&place, 1, "last", 1) };
        let held = HeldClaim { id: last.id, variant: last.variant, quantity: last.quantity, serials: None };
        store.grant(GrantNumber(2), &[], Some(&release_of(&last.buyer, &held))).await.unwrap();
        assert_eq!(ask(1, "last").await, Outcome::Released, "a repeat is told how it ended");
        assert_eq!(ask(1, "one-more").await, Outcome::TooManyReleased);
        assert!(matches!(ask(2, "first").await, Outcome::Taken(_)));
    });
}
