//! The sandbox's beacon, judged by the engine's verification: what draws are tested with must be what drand serves.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use doorbuster_engine::domain::line::beacon::{BadPulse, Chain, Pulse};
use doorbuster_sandbox::beacon::{Beacon, BeaconFault, BeaconOptions};
use doorbuster_sandbox::provider::FakeClock;
use jiff::Timestamp;

const GENESIS: i64 = 1_700_000_000;

struct World {
    beacon: Beacon,
    chain: Chain,
    now: Arc<AtomicI64>,
    http: reqwest::Client,
}

impl World {
    async fn new() -> Self {
        let now = Arc::new(AtomicI64::new(GENESIS));
        let clock = Arc::clone(&now);
        let clock = FakeClock::unix_seconds(move || clock.load(Ordering::SeqCst));
        let beacon = Beacon::start(BeaconOptions::new(GENESIS, clock)).await.unwrap();
        let http = reqwest::Client::new();
        let info = http.get(format!("{}/{}/info", beacon.url(), beacon.chain_hash())).send().await.unwrap();
        let chain = Chain::from_info(&info.text().await.unwrap()).unwrap();
        Self { beacon, chain, now, http }
    }

    /// `None`: 404.
    async fn ask(&self, chain: &str, round: &str) -> Option<Pulse> {
        let url = format!("{}/{chain}/public/{round}", self.beacon.url());
        let answer = self.http.get(url).send().await.unwrap();
        match answer.status().as_u16() {
            200 => Some(Pulse::from_json(&answer.text().await.unwrap()).unwrap()),
            404 => None,
            other => panic!("{other}"),
        }
    }

    async fn round(&self, round: u64) -> Option<Pulse> {
        self.ask(&self.beacon.chain_hash(), &round.to_string()).await
    }

    /// So many seconds after the first round was due.
    fn at(&self, second: i64) {
        self.now.store(GENESIS + second, Ordering::SeqCst);
    }
}

#[tokio::test]
async fn a_round_of_the_sandbox_is_signed_when_it_is_due() {
    let world = World::new().await;
    assert_eq!(world.chain.time_of(4), Some(Timestamp::from_second(GENESIS + 9).unwrap()));
    world.at(8);
    assert_eq!(world.round(4).await, None, "a second too early");
    world.at(9);
    let pulse = world.round(4).await.unwrap();
    assert_eq!(world.chain.verify(&pulse), Ok(()));
    assert_eq!(world.ask(&world.beacon.chain_hash(), "latest").await, Some(pulse));
    assert_eq!(Pulse::from_json(&world.beacon.pulse(4)), Ok(pulse));
    assert_eq!(world.round(0).await, None);
    assert_eq!(world.ask(&"0".repeat(64), "4").await, None, "another chain");
    world.at(-1);
    assert_eq!(world.ask(&world.beacon.chain_hash(), "latest").await, None, "before the first round");
}

#[tokio::test]
async fn what_is_wrong_with_the_beacon_is_seen() {
    let world = World::new().await;
    world.at(9);
    world.beacon.set_fault(BeaconFault::Late { seconds: 1 });
    assert_eq!(world.round(4).await, None);
    world.at(10);
    assert_eq!(world.chain.verify(&world.round(4).await.unwrap()), Ok(()));
    for fault in [BeaconFault::Forged, BeaconFault::Foreign] {
        world.beacon.set_fault(fault);
        let verdict = world.chain.verify(&world.round(4).await.unwrap());
        assert_eq!(verdict, Err(BadPulse::Signature), "{fault:?}");
    }
    world.beacon.set_fault(BeaconFault::Missing);
    assert_eq!(world.round(4).await, None);
    world.beacon.set_fault(BeaconFault::None);
    assert_eq!(world.chain.verify(&world.round(4).await.unwrap()), Ok(()));
}
