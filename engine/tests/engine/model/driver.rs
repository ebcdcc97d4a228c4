//! Does the operations of a case to Redis and to the model, and says where they differ.

use std::collections::BTreeMap;

use doorbuster_engine::domain::claims::{Claim, Quantity};
use doorbuster_engine::domain::ids::{BuyerId, GrantNumber, Serial, TransferId, VariantNumber, WarehouseNumber};
use doorbuster_engine::domain::money::Money;
use doorbuster_engine::tokens::TokenError;
use doorbuster_engine::tokens::store::{GrantApplied, StreamId};
use uuid::Uuid;

use super::harness::{Place, Servers};
use super::operations::{Case, Disturbance, Ended, Mark, Number, Of, Operation, Pick, Rebuild, Stage, Twist};
use super::warehouse::{Reply, Truth, WarehouseModel, release_of};

/// Where Redis and the model differ, in words.
pub(crate) type Divergence = String;

/// So many operations pass between two comparisons of the whole warehouse.
const DUMP_EVERY: usize = 8;

pub(crate) struct Run {
    place: Place,
    limit: u32,
    variants: u8,
    model: WarehouseModel,
    truth: Truth,
    /// What the server answered to the last fence.
    replid: String,
    /// The newest epoch Postgres has given out.
    epoch: i64,
    pub(crate) commands: u64,
    /// How many operations have been begun.
    pub(crate) begun: usize,
    now_ms: i64,
}

impl Run {
    pub(crate) async fn new(servers: &Servers, case: &Case) -> Self {
        let variants = case.stock.len() as u8;
        let place = Place::new(servers, variants, case.limit).await;
        let mut truth = Truth { last_grant: 1, next_serial: 1, ..Truth::default() };
        for (number, (units, missing)) in case.stock.iter().enumerate() {
            for index in 0..u32::from(*units) {
                if missing >> (index % 64) & missing >> (index * 7 % 64) & 1 == 0 {
                    truth.free.insert(Serial(truth.next_serial + index), VariantNumber(number as u8));
                }
            }
            truth.next_serial += u32::from(*units);
        }
        // Serials of restocks are far away, and too large for a signed 32-bit number or a short float.
        truth.next_serial = 3_000_000_001;
        Self {
            place,
            limit: case.limit,
            variants,
            model: WarehouseModel::default(),
            truth,
            replid: String::new(),
            epoch: 0,
            commands: 0,
            begun: 0,
            now_ms: 1_000,
        }
    }

    pub(crate) async fn run(&mut self, case: &Case) -> Result<(), Divergence> {
        if case.opens_first {
            let opening = Rebuild { pending: 0, disturbed: None, stops_after: Stage::Open, state: "open" };
            self.rebuild(opening).await.map_err(|what| format!("at the opening: {what}"))?;
        }
        for (index, operation) in case.operations.iter().enumerate() {
            self.begun = index + 1;
            let done = self.apply(operation).await;
            done.map_err(|what| format!("operation {index}, {operation:?}: {what}"))?;
            if index % DUMP_EVERY == DUMP_EVERY - 1 {
                self.compare_dump().await.map_err(|what| format!("after operation {index}: {what}"))?;
            }
        }
        self.compare_dump().await.map_err(|what| format!("at the end: {what}"))?;
        self.check_keys().await
    }

    async fn apply(&mut self, operation: &Operation) -> Result<(), Divergence> {
        match operation {
            Operation::Claim { epoch, claims } => self.claim(*epoch, claims).await,
            Operation::Pull { epoch, variant, transfer, units } => self.pull(*epoch, *variant, *transfer, *units).await,
            Operation::Clear { epoch, transfer } => self.clear(*epoch, *transfer).await,
            Operation::Grant { epoch, number, fresh, released } => self.grant(*epoch, *number, fresh, *released).await,
            Operation::SetState { epoch, state } => {
                let epoch = epoch.epoch(self.epoch);
                let real = self.place.store(epoch).set_state(state).await;
                self.same(reply(real.map(|()| Reply::Done))?, |model| model.set_state(epoch, state))
            }
            Operation::Settled { epoch, mark, trim } => {
                self.compare_dump().await?;
                let epoch = epoch.epoch(self.epoch);
                let (mark, trim) = (self.stream_id(*mark), self.stream_id(*trim));
                let real = self.place.store(epoch).settled(mark, trim).await;
                self.same(reply(real.map(|()| Reply::Done))?, |model| model.settled(epoch, mark, trim))
            }
            Operation::Look { epoch } => {
                let epoch = epoch.epoch(self.epoch);
                let real = self.place.store(epoch).look().await.map(|mut view| {
                    view.leaving.sort_by_key(|leaving| leaving.transfer);
                    Reply::View(view)
                });
                self.same(reply(real)?, |model| model.look(epoch))
            }
            Operation::Rebuild(rebuild) => self.rebuild(*rebuild).await,
            Operation::ChangeReplicationId => {
                if self.model.contents.is_some() {
                    let meta = self.place.key("meta");
                    let mut command = redis::cmd("HSET");
                    command.arg(meta).arg("fence").arg("0".repeat(40));
                    command.exec_async(&mut self.place.raw).await.map_err(|error| error.to_string())?;
                    self.model.change_replication_id();
                }
                Ok(())
            }
            Operation::Forget => {
                let mut command = redis::cmd("DEL");
                command.arg(self.place.keys());
                command.exec_async(&mut self.place.raw).await.map_err(|error| error.to_string())?;
                self.model = WarehouseModel::default();
                Ok(())
            }
            Operation::Dump => self.compare_dump().await,
        }
    }

    async fn claim(&mut self, epoch: Of, picks: &[Pick]) -> Result<(), Divergence> {
        let epoch = epoch.epoch(self.epoch);
        self.now_ms += 7;
        let now_ms = self.now_ms;
        let claims = picks.iter().map(|pick| self.claim_of(*pick)).collect::<Vec<_>>();
        let real = self.place.store(epoch).claim(now_ms, &claims).await.map(Reply::Outcomes);
        let logged = self.model.log.len();
        self.same(reply(real)?, |model| model.claim(epoch, now_ms, &claims))?;
        for entry in &self.model.log[logged..] {
            self.truth.note_taken(&entry.claims);
        }
        Ok(())
    }

    async fn pull(&mut self, epoch: Of, variant: u8, transfer: u8, units: u32) -> Result<(), Divergence> {
        let epoch = epoch.epoch(self.epoch);
        let (variant, transfer) = (VariantNumber(variant), transfer_id(transfer));
        let store = self.place.store(epoch);
        let real = store.pull(variant, transfer, WarehouseNumber(1), units).await.map(Reply::Serials);
        self.same(reply(real)?, |model| model.pull(epoch, variant, transfer, 1, units))
    }

    async fn clear(&mut self, epoch: Of, transfer: u8) -> Result<(), Divergence> {
        let epoch = epoch.epoch(self.epoch);
        let transfer = transfer_id(transfer);
        let loaded = self.model.contents.as_ref().and_then(|contents| contents.loaded.as_ref());
        let gone = loaded.and_then(|loaded| loaded.out.get(&transfer)).map(|leaving| leaving.serials.clone());
        let real = self.place.store(epoch).clear(transfer).await;
        let real = reply(real.map(|()| Reply::Done))?;
        let cleared = real == Reply::Done;
        self.same(real, |model| model.clear(epoch, transfer))?;
        if cleared {
            // They have been granted to another warehouse.
            self.truth.free.retain(|serial, _| !gone.iter().flatten().any(|gone| gone == serial));
        }
        Ok(())
    }

    async fn grant(
        &mut self,
        epoch: Of,
        number: Number,
        fresh: &[(u8, u8)],
        ended: Option<Ended>,
    ) -> Result<(), Divergence> {
        let epoch = epoch.epoch(self.epoch);
        let number = match number {
            Number::Next => self.truth.last_grant + 1,
            Number::Last => self.truth.last_grant,
            Number::First => 1,
            Number::Gap => self.truth.last_grant + 2,
        };
        let mut tokens: BTreeMap<VariantNumber, Vec<Serial>> = BTreeMap::new();
        for (variant, units) in fresh {
            tokens.entry(VariantNumber(*variant)).or_default().extend(self.truth.fresh(*units));
        }
        let chosen = |claims: Vec<(BuyerId, doorbuster_engine::tokens::store::HeldClaim)>, index: u16| {
            let index = usize::from(index) % claims.len().max(1);
            claims.into_iter().nth(index)
        };
        let released = match ended {
            None => None,
            Some(Ended::Live(index)) => chosen(self.truth.live_claims(), index),
            Some(Ended::Again(index)) => {
                let over = self.truth.claims.iter().filter(|(_, held)| held.serials.is_none()).cloned().collect();
                chosen(over, index)
            }
            Some(Ended::Unknown { buyer, key, units }) => {
                let key = format!("nobody-{key}").parse().expect("a key");
                let quantity = Quantity::new(i64::from(units)).expect("a quantity");
                let claim = Claim::new(self.place.drop.id, buyer_id(buyer), &key, VariantNumber(0), quantity);
                let (id, variant) = (claim.id, claim.variant);
                let held = doorbuster_engine::tokens::store::HeldClaim { id, variant, quantity, serials: None };
                Some((claim.buyer, held))
            }
        };
        // A claim that was rejected as a whole ends without units.
        if let Some((_, held)) = &released
            && let Some(serials) = &held.serials
        {
            tokens.entry(held.variant).or_default().extend(serials);
        }
        let released = released.map(|(buyer, held)| release_of(&buyer, &held));
        let tokens = tokens.into_iter().collect::<Vec<_>>();
        let store = self.place.store(epoch);
        let real = store.grant(GrantNumber(number), &tokens, released.as_ref()).await.map(|applied| match applied {
            GrantApplied::Now => Reply::Done,
            GrantApplied::Before => Reply::Before,
        });
        let real = reply(real)?;
        let applied = real == Reply::Done;
        self.same(real, |model| model.grant(epoch, number, &tokens, released.as_ref()))?;
        if applied {
            self.truth.note_granted(number, &tokens, released.as_ref());
        }
        Ok(())
    }

    /// What `flows/open_drop.rs` does, from what Postgres would say, with somebody in the way.
    async fn rebuild(&mut self, rebuild: Rebuild) -> Result<(), Divergence> {
        for _ in 0..rebuild.pending {
            let fresh = self.truth.fresh(3);
            let number = self.truth.last_grant + 1;
            self.truth.note_granted(number, &[(VariantNumber(0), fresh)], None);
        }
        self.fence(self.epoch + 1).await?;
        if rebuild.stops_after == Stage::Fence {
            return Ok(());
        }
        if rebuild.disturbed != Some(Disturbance::LeftoversForgotten) {
            self.settle_leftovers().await?;
        }
        match rebuild.disturbed {
            Some(Disturbance::NewerFenceBeforeLoad) => {
                let older = self.epoch;
                let replid = self.replid.clone();
                self.fence(older + 1).await?;
                self.load(older).await?;
                self.open(older, &replid, 1, rebuild.state).await?;
            }
            Some(Disturbance::OlderFence) => self.fence(self.epoch - 1).await?,
            Some(Disturbance::OtherReplicationId) => {
                // The load of somebody who fenced before the server restarted.
                let before = std::mem::replace(&mut self.replid, "f".repeat(40));
                let real = self.place.store(self.epoch).open(&self.replid, 0, rebuild.state).await;
                self.replid = before;
                self.same(reply(real.map(|()| Reply::Done))?, |_| Reply::Fenced)?;
            }
            _ => {}
        }
        if rebuild.disturbed == Some(Disturbance::UsedBetween) {
            self.use_it().await?;
        }
        let mut chunks = self.load(self.epoch).await?;
        if rebuild.stops_after == Stage::Load {
            return Ok(());
        }
        match rebuild.disturbed {
            Some(Disturbance::UsedBetween) => self.use_it().await?,
            Some(Disturbance::LoadedTwice) => {
                self.load(self.epoch).await?;
            }
            Some(Disturbance::WrongChunks) => {
                let replid = self.replid.clone();
                self.open(self.epoch, &replid, chunks + 1, rebuild.state).await?;
                self.open(self.epoch, &replid, chunks - 1, rebuild.state).await?;
            }
            Some(Disturbance::NewerFenceAfterLoad) => {
                let older = self.epoch;
                let replid = self.replid.clone();
                self.fence(older + 1).await?;
                self.open(older, &replid, chunks, rebuild.state).await?;
                chunks = self.load(self.epoch).await?;
            }
            _ => {}
        }
        let replid = self.replid.clone();
        self.open(self.epoch, &replid, chunks, rebuild.state).await?;
        if rebuild.disturbed == Some(Disturbance::LeftoversForgotten) {
            self.settle_leftovers().await?;
            self.open(self.epoch, &replid, chunks, rebuild.state).await?;
        }
        // Whoever repeats the opening finds no load to end.
        self.open(self.epoch, &replid, chunks, rebuild.state).await
    }

    /// What a rebuild does with the log before it reads Postgres.
    async fn settle_leftovers(&mut self) -> Result<(), Divergence> {
        self.compare_dump().await?;
        let mark = self.model.log.last().and_then(|entry| entry.id).unwrap_or(StreamId::ZERO);
        let real = self.place.store(self.epoch).settled(mark, StreamId::ZERO).await;
        let epoch = self.epoch;
        self.same(reply(real.map(|()| Reply::Done))?, |model| model.settled(epoch, mark, StreamId::ZERO))
    }

    /// Everything that must wait for the opening.
    async fn use_it(&mut self) -> Result<(), Divergence> {
        let pick = Pick { buyer: 0, key: 0, twist: Twist::None, told: None };
        for epoch in [Of::Before, Of::Now] {
            self.claim(epoch, &[pick]).await?;
            self.pull(epoch, 0, 0, 1).await?;
            self.grant(epoch, Number::Next, &[(0, 1)], None).await?;
        }
        Ok(())
    }

    async fn fence(&mut self, epoch: i64) -> Result<(), Divergence> {
        self.epoch = self.epoch.max(epoch);
        let real = self.place.store(epoch).fence().await.map(|replid| {
            self.replid = replid;
            Reply::Done
        });
        self.same(reply(real)?, |model| model.fence(epoch))
    }

    async fn load(&mut self, epoch: i64) -> Result<u32, Divergence> {
        let (variants, holders) = (self.truth.load(self.variants), self.truth.holders());
        let (granted, limit) = (self.truth.last_grant, self.limit);
        let store = self.place.store(epoch);
        let real = store.load(&self.replid, GrantNumber(granted), limit, &variants, &holders).await;
        let real = reply(real.map(Reply::Chunks))?;
        let chunks = if let Reply::Chunks(chunks) = real { chunks } else { 0 };
        self.same(real, |model| model.load(epoch, granted, limit, &variants, &holders))?;
        Ok(chunks)
    }

    async fn open(&mut self, epoch: i64, replid: &str, chunks: u32, state: &'static str) -> Result<(), Divergence> {
        let real = self.place.store(epoch).open(replid, chunks, state).await;
        self.same(reply(real.map(|()| Reply::Done))?, |model| model.open(epoch, chunks, state))
    }

    fn same(&mut self, real: Reply, model: impl FnOnce(&mut WarehouseModel) -> Reply) -> Result<(), Divergence> {
        self.commands += 1;
        let expected = model(&mut self.model);
        if real == expected { Ok(()) } else { Err(format!("Redis answered {real:?}, the model {expected:?}")) }
    }

    /// The whole warehouse, and the log with the ids that Redis has chosen.
    pub(crate) async fn compare_dump(&mut self) -> Result<(), Divergence> {
        self.commands += 1;
        let dump = self.place.store(self.epoch).dump().await;
        let Some(contents) = &self.model.contents else {
            return match dump {
                Ok(None) => Ok(()),
                other => Err(format!("nothing was loaded, and the dump is {other:?}")),
            };
        };
        let Some(loaded) = &contents.loaded else {
            return if dump.is_err() { Ok(()) } else { Err(format!("fenced and empty, and the dump is {dump:?}")) };
        };
        let dump = dump.map_err(|error| error.to_string())?.ok_or("the warehouse is gone")?;
        let real = (dump.epoch.0, dump.granted.0, &dump.seq, dump.state.as_str(), dump.limit, dump.settled);
        let expected = (contents.epoch, loaded.granted, &loaded.seq, contents.state, loaded.limit, loaded.settled);
        equal("meta (epoch, granted, seq, state, limit, settled)", &real, &expected)?;
        for (number, ((_, real), free)) in dump.free.iter().zip(&loaded.free).enumerate() {
            equal(&format!("free units of variant {number}"), real, &free.serials())?;
        }
        let leaving =
            dump.leaving.iter().map(|leaving| (leaving.transfer, leaving.clone())).collect::<BTreeMap<_, _>>();
        equal("out", &leaving, &loaded.out)?;
        equal("buyers", &dump.buyers.into_iter().collect::<BTreeMap<_, _>>(), &loaded.buyers)?;
        if dump.log.len() != self.model.log.len() {
            return Err(format!("the log has {} entries, the model {}", dump.log.len(), self.model.log.len()));
        }
        let mut last = StreamId::ZERO;
        for (real, expected) in dump.log.iter().zip(&mut self.model.log) {
            let id = *expected.id.get_or_insert(real.id);
            equal("an id of the log", &real.id, &id)?;
            if id <= last {
                return Err(format!("the log is not in order: {id} after {last}"));
            }
            last = id;
            equal("an epoch of the log", &real.epoch, &expected.epoch)?;
            equal("a time of the log", &real.taken_at_ms, &expected.taken_at_ms)?;
            equal("an entry of the log", &real.claims, &expected.claims)?;
        }
        Ok(())
    }

    /// Nothing of a loaded warehouse may vanish: every key is there, none has a TTL, sentinels stand where they should.
    async fn check_keys(&mut self) -> Result<(), Divergence> {
        let loaded = self.model.contents.as_ref().is_some_and(|contents| contents.state != "loading");
        if !loaded {
            return Ok(());
        }
        let keys = self.place.keys();
        let raw = &mut self.place.raw;
        for key in keys {
            let ttl: i64 = redis::cmd("PTTL").arg(&key).query_async(raw).await.map_err(|error| error.to_string())?;
            equal(&format!("PTTL of {key} (-2 is missing)"), &ttl, &-1)?;
            if key.contains(":spare:") {
                let last: String = redis::cmd("LINDEX").arg(&key).arg(-1).query_async(raw).await.map_err(describe)?;
                equal(&format!("the last element of {key}"), &last.as_str(), &"0")?;
            }
            if key.ends_with(":out") || key.ends_with(":buyers") {
                let sentinel: Option<String> =
                    redis::cmd("HGET").arg(&key).arg("").query_async(raw).await.map_err(describe)?;
                equal(&format!("the sentinel of {key}"), &sentinel.as_deref(), &Some(""))?;
            }
        }
        Ok(())
    }

    /// Under the same key always the same body, unless it is twisted.
    fn claim_of(&self, pick: Pick) -> Claim {
        let (buyer, key) = (u32::from(pick.buyer), u32::from(pick.key));
        let mut variant = (buyer + key) % u32::from(self.variants);
        let mut units = 1 + (buyer * 7 + key * 3) % 3;
        match pick.twist {
            Twist::None => {}
            Twist::OtherVariant => variant = (variant + 1) % u32::from(self.variants),
            Twist::OtherQuantity => units += 1,
            Twist::Most => units = 100,
        }
        let key = format!("key-{key}").parse().expect("a key");
        let quantity = Quantity::new(i64::from(units)).expect("a quantity");
        let claim = Claim::new(self.place.drop.id, buyer_id(pick.buyer), &key, VariantNumber(variant as u8), quantity);
        match pick.told {
            None => claim,
            Some(total) => {
                claim.told("DE".parse().expect("a country"), Money::new(total, "EUR".parse().expect("a currency")))
            }
        }
    }

    fn stream_id(&self, mark: Mark) -> StreamId {
        let last = self.model.log.last().and_then(|entry| entry.id).unwrap_or(StreamId::ZERO);
        match mark {
            Mark::Zero => StreamId::ZERO,
            Mark::Beyond => StreamId { ms: last.ms + 1, seq: 0 },
            Mark::Entry(index) => {
                let index = usize::from(index) % self.model.log.len().max(1);
                self.model.log.get(index).and_then(|entry| entry.id).unwrap_or(StreamId::ZERO)
            }
        }
    }
}

fn buyer_id(number: u8) -> BuyerId {
    // One character, and as many as there may be.
    let text = match number {
        0 => "a".to_owned(),
        1 => "b".repeat(64),
        number => format!("buyer-{number}"),
    };
    text.parse().expect("a buyer")
}

fn transfer_id(number: u8) -> TransferId {
    TransferId(Uuid::from_u128(u128::from(number) + 1))
}

fn reply(real: Result<Reply, TokenError>) -> Result<Reply, Divergence> {
    match real {
        Ok(reply) => Ok(reply),
        Err(TokenError::NotLoaded) => Ok(Reply::NotLoaded),
        Err(TokenError::Fenced) => Ok(Reply::Fenced),
        Err(TokenError::Stale) => Ok(Reply::Stale),
        Err(TokenError::Gap) => Ok(Reply::Gap),
        Err(other) => Err(other.to_string()),
    }
}

fn equal<T: PartialEq + std::fmt::Debug>(what: &str, real: &T, expected: &T) -> Result<(), Divergence> {
    if real == expected { Ok(()) } else { Err(format!("{what}: Redis has {real:?}, the model {expected:?}")) }
}

fn describe(error: redis::RedisError) -> Divergence {
    error.to_string()
}
