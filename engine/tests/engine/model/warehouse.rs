//! The model: one warehouse as the scripts' headers describe it, in the plainest Rust. It shares no code with them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use doorbuster_engine::domain::claims::{Claim, Quantity};
use doorbuster_engine::domain::ids::{BuyerId, Epoch, GrantNumber, Serial, TransferId, VariantNumber, WarehouseNumber};
use doorbuster_engine::tokens::contract::{MAX_BATCH, MAX_RELEASED, MAX_SERIALS};
use doorbuster_engine::tokens::store::{
    HeldClaim, LeavingTokens, LoadVariant, LogClaim, Outcome, ReleasedClaim, StreamId, View,
};

/// What a call came to, of whatever kind it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reply {
    Done,
    Outcomes(Vec<Outcome>),
    Serials(Vec<Serial>),
    /// A grant that an earlier call had applied.
    Before,
    Chunks(u32),
    View(View),
    NotLoaded,
    Fenced,
    Stale,
    Gap,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Logged {
    /// Chosen by Redis, and learned from its first dump.
    pub(crate) id: Option<StreamId>,
    pub(crate) epoch: Epoch,
    pub(crate) taken_at_ms: i64,
    pub(crate) claims: Vec<LogClaim>,
}

/// The free units of one variant: a run that is taken from its end, then spare ones from the front.
#[derive(Debug, Clone, Default)]
pub(crate) struct Free {
    first: u32,
    run: u32,
    spare: VecDeque<u32>,
}

impl Free {
    fn units(&self) -> usize {
        self.run as usize + self.spare.len()
    }

    fn take(&mut self) -> Serial {
        if self.run > 0 {
            self.run -= 1;
            return Serial(self.first + self.run);
        }
        Serial(self.spare.pop_front().expect("the caller has counted"))
    }

    pub(crate) fn serials(&self) -> Vec<Serial> {
        (self.first..self.first + self.run).chain(self.spare.iter().copied()).map(Serial).collect()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fence {
    /// Being loaded, or the server has another replication id than at the last opening.
    Down,
    Up,
}

/// What a warehouse with meta holds.
#[derive(Debug, Clone)]
pub(crate) struct Contents {
    pub(crate) epoch: i64,
    fence: Fence,
    pub(crate) state: &'static str,
    chunks: u32,
    /// Nothing before the first chunk of the first load.
    pub(crate) loaded: Option<Loaded>,
}

#[derive(Debug, Clone)]
pub(crate) struct Loaded {
    pub(crate) granted: i64,
    pub(crate) limit: u32,
    /// Of each variant.
    pub(crate) seq: Vec<u64>,
    pub(crate) settled: StreamId,
    pub(crate) free: Vec<Free>,
    pub(crate) out: BTreeMap<TransferId, LeavingTokens>,
    pub(crate) buyers: BTreeMap<BuyerId, Vec<HeldClaim>>,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct WarehouseModel {
    pub(crate) contents: Option<Contents>,
    pub(crate) log: Vec<Logged>,
    /// A log may be empty; before the first opening there is none.
    has_log: bool,
}

impl Loaded {
    fn has_record_of(&self, released: &ReleasedClaim) -> bool {
        self.buyers.get(&released.buyer).is_some_and(|record| record.iter().any(|held| held.id == released.id))
    }
}

impl WarehouseModel {
    /// The contents if the warehouse may issue under this epoch.
    fn issuing(&mut self, epoch: i64) -> Result<(&mut Contents, &mut Vec<Logged>), Reply> {
        match &mut self.contents {
            None => Err(Reply::NotLoaded),
            Some(contents) if contents.epoch != epoch || contents.fence == Fence::Down => Err(Reply::Fenced),
            Some(contents) => Ok((contents, &mut self.log)),
        }
    }

    pub(crate) fn claim(&mut self, epoch: i64, now_ms: i64, claims: &[Claim]) -> Reply {
        let (contents, log) = match self.issuing(epoch) {
            Ok(issuing) => issuing,
            Err(refused) => return refused,
        };
        let (state, loaded) = (contents.state, contents.loaded.as_mut().expect("an open warehouse was loaded"));
        let mut taken = Vec::new();
        let outcomes = claims.iter().map(|claim| loaded.claim_one(state, claim, &mut taken)).collect();
        if !taken.is_empty() {
            let sold = taken.iter().map(|logged| usize::from(logged.claim.variant.0)).collect::<BTreeSet<_>>();
            sold.into_iter().for_each(|variant| loaded.seq[variant] += 1);
            log.push(Logged { id: None, epoch: Epoch(epoch), taken_at_ms: now_ms, claims: taken });
        }
        Reply::Outcomes(outcomes)
    }

    pub(crate) fn pull(
        &mut self,
        epoch: i64,
        variant: VariantNumber,
        transfer: TransferId,
        destination: u16,
        units: u32,
    ) -> Reply {
        let loaded = match self.issuing(epoch) {
            Ok((contents, _)) => contents.loaded.as_mut().expect("an open warehouse was loaded"),
            Err(refused) => return refused,
        };
        if let Some(before) = loaded.out.get(&transfer) {
            return Reply::Serials(before.serials.clone());
        }
        let free = &mut loaded.free[usize::from(variant.0)];
        let serials = (0..free.units().min(units as usize)).map(|_| free.take()).collect::<Vec<_>>();
        if !serials.is_empty() {
            let destination = WarehouseNumber(destination);
            let leaving = LeavingTokens { transfer, variant, destination, serials: serials.clone() };
            loaded.out.insert(transfer, leaving);
            loaded.seq[usize::from(variant.0)] += 1;
        }
        Reply::Serials(serials)
    }

    pub(crate) fn clear(&mut self, epoch: i64, transfer: TransferId) -> Reply {
        match self.issuing(epoch) {
            Err(refused) => refused,
            Ok((contents, _)) => {
                let loaded = contents.loaded.as_mut().expect("an open warehouse was loaded");
                if let Some(leaving) = loaded.out.remove(&transfer) {
                    loaded.seq[usize::from(leaving.variant.0)] += 1;
                }
                Reply::Done
            }
        }
    }

    pub(crate) fn grant(
        &mut self,
        epoch: i64,
        number: i64,
        tokens: &[(VariantNumber, Vec<Serial>)],
        released: Option<&ReleasedClaim>,
    ) -> Reply {
        let loaded = match self.issuing(epoch) {
            Ok((contents, _)) => contents.loaded.as_mut().expect("an open warehouse was loaded"),
            Err(refused) => return refused,
        };
        if number <= loaded.granted {
            return Reply::Before;
        }
        if number != loaded.granted + 1 {
            return Reply::Gap;
        }
        let mut changed = tokens.iter().map(|(variant, _)| *variant).collect::<BTreeSet<_>>();
        // A record that is there already is known to every lease.
        changed.extend(released.filter(|released| !loaded.has_record_of(released)).map(|released| released.variant));
        changed.into_iter().for_each(|variant| loaded.seq[usize::from(variant.0)] += 1);
        for (variant, serials) in tokens {
            serials.iter().for_each(|serial| loaded.free[usize::from(variant.0)].spare.push_front(serial.0));
        }
        if let Some(released) = released {
            let quantity = Quantity::new(i64::from(released.units)).expect("a claim's quantity");
            let over = HeldClaim { id: released.id, variant: released.variant, quantity, serials: None };
            let record = loaded.buyers.entry(released.buyer.clone()).or_default();
            match record.iter_mut().find(|held| held.id == released.id) {
                Some(held) => *held = over,
                None => record.push(over),
            }
        }
        loaded.granted = number;
        Reply::Done
    }

    pub(crate) fn set_state(&mut self, epoch: i64, state: &'static str) -> Reply {
        match self.issuing(epoch) {
            Err(refused) => refused,
            Ok((contents, _)) => {
                contents.state = state;
                Reply::Done
            }
        }
    }

    pub(crate) fn settled(&mut self, epoch: i64, settled: StreamId, trim_before: StreamId) -> Reply {
        let Some(contents) = &mut self.contents else { return Reply::NotLoaded };
        if contents.epoch != epoch {
            return Reply::Fenced;
        }
        let Some(loaded) = contents.loaded.as_mut().filter(|_| self.has_log) else { return Reply::NotLoaded };
        let last =
            self.log.last().map_or(StreamId::ZERO, |entry| entry.id.expect("ids are learned before a mark is moved"));
        loaded.settled = loaded.settled.max(settled.min(last));
        let trim_before = trim_before.min(loaded.settled);
        self.log.retain(|entry| entry.id.expect("ids are learned before a mark is moved") >= trim_before);
        Reply::Done
    }

    pub(crate) fn look(&mut self, epoch: i64) -> Reply {
        match self.issuing(epoch) {
            Err(refused) => refused,
            Ok((contents, _)) => {
                let loaded = contents.loaded.as_ref().expect("an open warehouse was loaded");
                Reply::View(View {
                    granted: GrantNumber(loaded.granted),
                    seq: loaded.seq.clone(),
                    state: contents.state.to_owned(),
                    leaving: loaded.out.values().cloned().collect(),
                    free: loaded.free.iter().map(|free| free.units() as u32).collect(),
                })
            }
        }
    }

    pub(crate) fn fence(&mut self, epoch: i64) -> Reply {
        if self.contents.as_ref().is_some_and(|contents| contents.epoch > epoch) {
            return Reply::Stale;
        }
        let loaded = self.contents.take().and_then(|contents| contents.loaded);
        self.contents = Some(Contents { epoch, fence: Fence::Down, state: "loading", chunks: 0, loaded });
        Reply::Done
    }

    pub(crate) fn load(
        &mut self,
        epoch: i64,
        granted: i64,
        limit: u32,
        variants: &[LoadVariant],
        holders: &[(BuyerId, Vec<HeldClaim>)],
    ) -> Reply {
        let Some(contents) = &mut self.contents else { return Reply::NotLoaded };
        if contents.epoch != epoch || contents.state != "loading" {
            return Reply::Fenced;
        }
        if contents.chunks != 0 {
            return Reply::Gap;
        }
        let of_serials = variants.iter().map(|variant| variant.serials.len().div_ceil(MAX_SERIALS)).sum::<usize>();
        let chunks = (1 + of_serials + holders.len().div_ceil(MAX_BATCH)) as u32;
        let before = contents.loaded.take();
        let seq = before.as_ref().map_or_else(|| vec![0; variants.len()], |before| before.seq.clone());
        let free = |variant: &LoadVariant| {
            let (first, run) = variant.run.unwrap_or((Serial(1), 0));
            Free { first: first.0, run, spare: variant.serials.iter().rev().map(|serial| serial.0).collect() }
        };
        contents.chunks = chunks;
        contents.loaded = Some(Loaded {
            granted,
            limit,
            seq: seq.iter().map(|seq| seq + u64::from(chunks)).collect(),
            settled: before.map_or(StreamId::ZERO, |before| before.settled),
            free: variants.iter().map(free).collect(),
            out: BTreeMap::new(),
            buyers: holders.iter().cloned().collect(),
        });
        Reply::Chunks(chunks)
    }

    pub(crate) fn open(&mut self, epoch: i64, chunks: u32, state: &'static str) -> Reply {
        let Some(contents) = &mut self.contents else { return Reply::NotLoaded };
        if contents.epoch != epoch || contents.state != "loading" {
            return Reply::Fenced;
        }
        if contents.chunks != chunks {
            return Reply::Gap;
        }
        let settled = contents.loaded.as_ref().map_or(StreamId::ZERO, |loaded| loaded.settled);
        if self.log.iter().any(|entry| entry.id.is_none_or(|id| id > settled)) {
            return Reply::Fenced;
        }
        (contents.fence, contents.state) = (Fence::Up, state);
        self.has_log = true;
        Reply::Done
    }

    /// A restart or a promotion.
    pub(crate) fn change_replication_id(&mut self) {
        if let Some(contents) = &mut self.contents {
            contents.fence = Fence::Down;
        }
    }
}

impl Loaded {
    fn claim_one(&mut self, state: &str, claim: &Claim, taken: &mut Vec<LogClaim>) -> Outcome {
        let record = self.buyers.get(&claim.buyer).map_or(&[][..], Vec::as_slice);
        if let Some(known) = record.iter().find(|held| held.id == claim.id) {
            return match &known.serials {
                _ if (known.variant, known.quantity) != (claim.variant, claim.quantity) => Outcome::KeyReused,
                None => Outcome::Released,
                Some(serials) => Outcome::Replayed(serials.clone()),
            };
        }
        match state {
            "open" => {}
            "closed" => return Outcome::Closed,
            _ => return Outcome::NotOpen,
        }
        let live = record.iter().filter(|held| held.serials.is_some());
        let held = live.map(|held| held.quantity.units()).sum::<u32>();
        if held + claim.quantity.units() > self.limit {
            return Outcome::OverLimit { held };
        }
        if record.len() - record.iter().filter(|held| held.serials.is_some()).count() >= MAX_RELEASED {
            return Outcome::TooManyReleased;
        }
        let free = &mut self.free[usize::from(claim.variant.0)];
        if free.units() < claim.quantity.units() as usize {
            return Outcome::Short { free: free.units() as u32 };
        }
        let serials = (0..claim.quantity.units()).map(|_| free.take()).collect::<Vec<_>>();
        let held = HeldClaim {
            id: claim.id,
            variant: claim.variant,
            quantity: claim.quantity,
            serials: Some(serials.clone()),
        };
        self.buyers.entry(claim.buyer.clone()).or_default().push(held);
        taken.push(LogClaim { claim: claim.clone(), serials: serials.clone() });
        Outcome::Taken(serials)
    }
}

/// What Postgres would say of the warehouse: everything that was taken is settled, everything set aside is still here
/// until it is granted away.
#[derive(Debug, Clone, Default)]
pub(crate) struct Truth {
    pub(crate) last_grant: i64,
    pub(crate) free: BTreeMap<Serial, VariantNumber>,
    pub(crate) claims: Vec<(BuyerId, HeldClaim)>,
    pub(crate) next_serial: u32,
}

impl Truth {
    /// Units that no warehouse had before.
    pub(crate) fn fresh(&mut self, count: u8) -> Vec<Serial> {
        let serials = (0..u32::from(count)).map(|index| Serial(self.next_serial + index)).collect();
        self.next_serial += u32::from(count);
        serials
    }

    pub(crate) fn note_taken(&mut self, claims: &[LogClaim]) {
        for logged in claims {
            for serial in &logged.serials {
                assert!(self.free.remove(serial).is_some(), "{serial:?} was issued and was not free: {logged:?}");
            }
            let Claim { id, buyer, variant, quantity, told: _ } = logged.claim.clone();
            self.claims.push((buyer, HeldClaim { id, variant, quantity, serials: Some(logged.serials.clone()) }));
        }
    }

    pub(crate) fn note_granted(
        &mut self,
        number: i64,
        tokens: &[(VariantNumber, Vec<Serial>)],
        released: Option<&ReleasedClaim>,
    ) {
        self.last_grant = number;
        for (variant, serials) in tokens {
            for serial in serials {
                assert!(self.free.insert(*serial, *variant).is_none(), "{serial:?} was granted twice");
            }
        }
        let Some(released) = released else { return };
        let quantity = Quantity::new(i64::from(released.units)).expect("a claim's quantity");
        let over = HeldClaim { id: released.id, variant: released.variant, quantity, serials: None };
        match self.claims.iter_mut().find(|(_, held)| held.id == released.id) {
            Some((_, held)) => *held = over,
            None => self.claims.push((released.buyer.clone(), over)),
        }
    }

    pub(crate) fn live_claims(&self) -> Vec<(BuyerId, HeldClaim)> {
        self.claims.iter().filter(|(_, held)| held.serials.is_some()).cloned().collect()
    }

    /// The longest run of each variant, and the rest of its units.
    pub(crate) fn load(&self, variants: u8) -> Vec<LoadVariant> {
        let of_variant = |number: u8| {
            let serials = self.free.iter().filter(|(_, variant)| variant.0 == number).map(|(serial, _)| serial.0);
            let mut runs: Vec<(u32, u32)> = Vec::new();
            for serial in serials {
                match runs.last_mut() {
                    Some((first, length)) if *first + *length == serial => *length += 1,
                    _ => runs.push((serial, 1)),
                }
            }
            let run = runs.iter().copied().max_by_key(|(_, length)| *length);
            let rest = runs.iter().filter(|other| Some(**other) != run);
            let serials = rest.flat_map(|(first, length)| (*first..first + length).map(Serial)).collect();
            LoadVariant { run: run.map(|(first, length)| (Serial(first), length)), serials }
        };
        (0..variants).map(of_variant).collect()
    }

    pub(crate) fn holders(&self) -> Vec<(BuyerId, Vec<HeldClaim>)> {
        let mut holders: BTreeMap<BuyerId, Vec<HeldClaim>> = BTreeMap::new();
        for (buyer, held) in &self.claims {
            holders.entry(buyer.clone()).or_default().push(held.clone());
        }
        holders.into_iter().collect()
    }
}

/// The claim that a grant ends.
pub(crate) fn release_of(buyer: &BuyerId, held: &HeldClaim) -> ReleasedClaim {
    ReleasedClaim { id: held.id, buyer: buyer.clone(), variant: held.variant, units: held.quantity.units() }
}
