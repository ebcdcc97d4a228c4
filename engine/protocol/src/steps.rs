//! Each action, one atomic step: a script, a transaction, a crash. It stands for the code named in it.

use crate::actions::Action;
use crate::guards::Guard;
use crate::state::{
    Contents, Entry, Fate, Grant, Holder, Out, Protocol, REST, Rebuild, Record, Redis, Stage, State, Transfer,
    WAREHOUSES, Worker, serials,
};

/// The epoch of a claim that stands in no log: an award in flight. No warehouse has it.
const UNLOGGED: u8 = 0;

impl State {
    /// `None`: it cannot happen now, or nothing would come of it.
    pub(crate) fn step(&mut self, protocol: &Protocol, action: Action) -> Option<()> {
        match action {
            Action::Claim { claim } => self.claim(protocol, claim),
            Action::FallBehind { warehouse } => {
                self.left.failovers = self.left.failovers.checked_sub(1)?;
                let replica = &mut self.replicas[warehouse];
                if replica.behind.is_some() {
                    return None;
                }
                replica.behind = Some(Box::new(self.redis[warehouse].clone()));
                Some(())
            }
            Action::Failover { warehouse } => {
                let replica = &mut self.replicas[warehouse];
                let promoted = replica.behind.take()?;
                replica.newest_replid += 1;
                let old = std::mem::replace(&mut self.redis[warehouse], *promoted);
                self.redis[warehouse].replid = replica.newest_replid;
                replica.old = (self.left.returns > 0).then(|| Box::new(old));
                Some(())
            }
            Action::OldPrimaryReturns { warehouse } => {
                self.left.returns = self.left.returns.checked_sub(1)?;
                self.redis[warehouse] = *self.replicas[warehouse].old.take()?;
                self.seen.returned = true;
                Some(())
            }
            Action::Release { .. }
            | Action::ReleaseOld { .. }
            | Action::HurryOld { .. }
            | Action::Join
            | Action::NoteAward
            | Action::NoteRest { .. }
            | Action::EndRest { .. } => self.come_back(protocol, action),
            Action::Tick => self.tick(),
            Action::ApplyGrant { warehouse, number } => self.apply_grant(protocol, warehouse, number),
            Action::ReadLog { .. }
            | Action::Settle { .. }
            | Action::SettleUnknown { .. }
            | Action::SettleAhead { .. }
            | Action::Mark { .. }
            | Action::MarkOverGap { .. }
            | Action::MarkEarly { .. }
            | Action::WorkerDies { .. } => self.work(protocol, action),
            Action::Pull { .. }
            | Action::FindTransfer { .. }
            | Action::CommitTransfer { .. }
            | Action::Clear { .. }
            | Action::ClearEarly { .. }
            | Action::TransferDies { .. } => self.transfer(protocol, action),
            Action::BeginRebuild { warehouse } => {
                self.left.rebuilds = self.left.rebuilds.checked_sub(1)?;
                if self.rebuilds.len() == protocol.scope.rebuilders {
                    return None;
                }
                self.postgres.epoch[warehouse] += 1;
                let epoch = self.postgres.epoch[warehouse];
                self.rebuilds.push(Rebuild { warehouse, epoch, stage: Stage::Begun, waits: 0 });
                Some(())
            }
            Action::Rebuild { rebuild } => {
                let Rebuild { warehouse, epoch, stage, waits } = self.rebuilds.remove(rebuild);
                if matches!(stage, Stage::Loaded { is_marked: true, .. }) && waits > 0 {
                    return None;
                }
                let waits = if stage == Stage::Begun { REST } else { waits };
                if let Some(stage) = self.rebuild(protocol, warehouse, epoch, stage) {
                    self.rebuilds.push(Rebuild { warehouse, epoch, stage, waits });
                }
                Some(())
            }
            Action::RebuildDies { rebuild } => {
                self.rebuilds.remove(rebuild);
                Some(())
            }
            Action::BuyerArrives | Action::ProofReads => self.prove(protocol, action),
        }
    }

    /// Whether the scripts give anything to somebody who believes in `epoch`.
    pub(crate) fn issues(&self, protocol: &Protocol, warehouse: usize, epoch: u8) -> bool {
        let redis = &self.redis[warehouse];
        let fence = redis.fence == Some(redis.replid) || !protocol.has(Guard::ClaimFence);
        redis.epoch == epoch && fence && !redis.is_loading
    }

    /// lua/claim.lua. There is always a gateway that still believes in the epoch that the warehouse has.
    fn claim(&mut self, protocol: &Protocol, claim: usize) -> Option<()> {
        if protocol.scope.award == Some(claim) {
            return None;
        }
        let home = protocol.home(claim);
        let known = self.redis[home].epoch;
        let epoch = if protocol.has(Guard::ClaimEpoch) { known } else { self.postgres.epoch[home] };
        if !self.issues(protocol, home, known) {
            return None;
        }
        let at_limit = self.is_at_limit(protocol, claim) && protocol.has(Guard::ScriptLimit);
        let redis = &mut self.redis[home];
        if redis.records[claim] != Record::None || at_limit || redis.free == 0 {
            return None;
        }
        let serial = redis.free.trailing_zeros() as usize;
        redis.free &= !(1 << serial);
        redis.records[claim] = Record::Live(serial);
        redis.log.push(Entry { claim, serial, epoch });
        Some(())
    }

    /// Whether the buyer holds as much as they may, as far as the records of their home say.
    pub(crate) fn is_at_limit(&self, protocol: &Protocol, claim: usize) -> bool {
        let records = self.redis[protocol.home(claim)].records.iter().enumerate();
        let mut held = records.filter(|(other, _)| protocol.buyer(*other) == protocol.buyer(claim));
        held.any(|(_, record)| matches!(record, Record::Live(_)))
    }

    /// ledger/grants.rs, `insert`.
    pub(crate) fn grant(&mut self, warehouse: usize, grant: Grant) {
        self.postgres.grants[warehouse].push(grant);
    }

    /// flows/grants.rs, lua/grant.lua and lua/award.lua. Anyone may, at any time, with the epoch that the warehouse
    /// has.
    pub(crate) fn apply_grant(&mut self, protocol: &Protocol, warehouse: usize, number: u8) -> Option<()> {
        let grant = self.postgres.grants[warehouse].get(usize::from(number).checked_sub(1)?)?.clone();
        if !self.issues(protocol, warehouse, self.redis[warehouse].epoch) {
            return None;
        }
        if grant.waits > 0 && !grant.is_hurried {
            return None;
        }
        if let Some(claim) = grant.award {
            return self.apply_award(protocol, warehouse, number, claim);
        }
        let redis = &mut self.redis[warehouse];
        if number != redis.granted + 1 && protocol.has(Guard::GrantNumbers) {
            return None;
        }
        redis.free |= grant.serials;
        redis.granted = redis.granted.max(number);
        if let Some(claim) = grant.ends {
            redis.records[claim] = if protocol.has(Guard::EndedStays) { Record::Ended } else { Record::None };
        }
        Some(())
    }

    /// flows/settle.rs.
    fn work(&mut self, protocol: &Protocol, action: Action) -> Option<()> {
        match action {
            Action::ReadLog { worker, warehouse } => {
                let redis = &self.redis[warehouse];
                let entries = redis.log.get(redis.mark..).unwrap_or_default().to_vec();
                if self.workers[worker] != Worker::Idle || entries.is_empty() {
                    return None;
                }
                let epoch = self.postgres.epoch[warehouse];
                self.workers[worker] =
                    Worker::Read { warehouse, epoch, entries, upto: redis.log.len(), is_ahead: false };
            }
            Action::SettleAhead { worker } => return self.settle_ahead(protocol, worker),
            Action::Settle { worker } | Action::SettleUnknown { worker } => {
                let Worker::Read { warehouse, epoch, entries, upto, .. } = self.workers[worker].clone() else {
                    return None;
                };
                let is_settled = self.settle(protocol, warehouse, &entries, None);
                if action == (Action::Settle { worker }) {
                    let committed = Worker::Committed { warehouse, epoch, upto };
                    self.workers[worker] = if is_settled { committed } else { Worker::Idle };
                }
            }
            Action::Mark { worker } => {
                let Worker::Committed { warehouse, epoch, upto } = self.workers[worker] else { return None };
                self.mark(protocol, warehouse, epoch, upto);
                self.workers[worker] = Worker::Idle;
            }
            Action::MarkOverGap { worker } => {
                let Worker::Read { warehouse, epoch, upto, is_ahead: true, .. } = self.workers[worker] else {
                    return None;
                };
                if protocol.has(Guard::MarkUnbroken) {
                    return None;
                }
                self.mark(protocol, warehouse, epoch, upto);
            }
            Action::MarkEarly { worker } => {
                let Worker::Read { warehouse, epoch, upto, .. } = self.workers[worker] else { return None };
                if protocol.has(Guard::MarkAfterCommit) {
                    return None;
                }
                self.mark(protocol, warehouse, epoch, upto);
            }
            Action::WorkerDies { worker } => self.workers[worker] = Worker::Idle,
            _ => return None,
        }
        Some(())
    }

    /// domain/settlement.rs. Of two lanes the one with the newer entries is through first, and the oldest entry is still open.
    /// All claims of a buyer are one lane's.
    fn settle_ahead(&mut self, protocol: &Protocol, worker: usize) -> Option<()> {
        let Worker::Read { warehouse, epoch, entries, upto, is_ahead: false } = self.workers[worker].clone() else {
            return None;
        };
        let (oldest, newer) = entries.split_first()?;
        let of_oldest = |entry: &Entry| protocol.buyer(entry.claim) == protocol.buyer(oldest.claim);
        if newer.is_empty() || newer.iter().any(of_oldest) {
            return None;
        }
        let is_settled = self.settle(protocol, warehouse, newer, None);
        let behind = Worker::Read { warehouse, epoch, entries: vec![*oldest], upto, is_ahead: true };
        self.workers[worker] = if is_settled { behind } else { Worker::Idle };
        Some(())
    }

    /// ledger/settlements.rs. `false`: another epoch has begun, the entries were left alone.
    pub(crate) fn settle(
        &mut self,
        protocol: &Protocol,
        warehouse: usize,
        entries: &[Entry],
        rebuild: Option<u8>,
    ) -> bool {
        let now = self.postgres.epoch[warehouse];
        let is_stale = match rebuild {
            None => protocol.has(Guard::SettleEpoch) && entries.iter().any(|entry| entry.epoch != now),
            Some(epoch) => protocol.has(Guard::SettleRebuildEpoch) && epoch != now,
        };
        if is_stale {
            return false;
        }
        for Entry { claim, serial, epoch } in entries.iter().copied() {
            if self.postgres.claims[claim] != Fate::Unseen && protocol.has(Guard::SettleOnce) {
                continue;
            }
            self.postgres.settled[claim] += 1;
            let token = self.postgres.tokens[serial];
            let is_held = match token.holder {
                Holder::Nobody | Holder::Resting(_) => false,
                Holder::Order(_) => true,
                Holder::Awarded(other) => other != claim,
            };
            let of_buyer = |other: &usize| protocol.buyer(*other) == protocol.buyer(claim);
            let mut live = (0..self.postgres.claims.len()).filter(of_buyer);
            let at_limit = live.any(|other| matches!(self.postgres.claims[other], Fate::Live(_)));
            let is_refused = (is_held && protocol.has(Guard::SettleHolder))
                || (token.at != warehouse && protocol.has(Guard::SettleWarehouse))
                || (at_limit && protocol.has(Guard::SettleLimit));
            if is_refused {
                self.seen.rejected |= epoch != UNLOGGED;
                self.seen.rejected_of_this_epoch |= epoch == now;
                if self.postgres.claims[claim] == Fate::Unseen {
                    self.postgres.claims[claim] = Fate::Rejected;
                }
                // One that rests already goes on resting.
                let comes_back = !is_held && token.at == warehouse && !matches!(token.holder, Holder::Resting(_));
                self.give_back(protocol, warehouse, claim, comes_back.then_some(serial));
            } else {
                // And it rests no longer.
                self.postgres.claims[claim] = Fate::Live(serial);
                self.postgres.tokens[serial].holder = Holder::Order(claim);
            }
        }
        true
    }

    /// lua/settled.lua.
    pub(crate) fn mark(&mut self, protocol: &Protocol, warehouse: usize, epoch: u8, upto: usize) -> bool {
        let redis = &mut self.redis[warehouse];
        if redis.epoch != epoch {
            return false;
        }
        let upto = if protocol.has(Guard::MarkInStream) { upto.min(redis.log.len()) } else { upto };
        redis.mark = redis.mark.max(upto);
        true
    }

    /// flows/pull.rs.
    fn transfer(&mut self, protocol: &Protocol, action: Action) -> Option<()> {
        let has_room = self.transfers.len() < protocol.scope.finishers;
        match action {
            Action::Pull { source } => {
                let id = protocol.scope.pulls - self.left.pulls;
                self.left.pulls = self.left.pulls.checked_sub(1)?;
                let epoch = self.redis[source].epoch;
                if !has_room || !self.issues(protocol, source, epoch) || self.redis[source].free == 0 {
                    return None;
                }
                let redis = &mut self.redis[source];
                let serial = redis.free.trailing_zeros() as usize;
                redis.free &= !(1 << serial);
                redis.out.push(Out { transfer: id, serial });
                self.transfers.push(Transfer { id, source, epoch, serial, is_committed: false });
            }
            Action::FindTransfer { source, at } => {
                let epoch = self.redis[source].epoch;
                if !has_room || !self.issues(protocol, source, epoch) {
                    return None;
                }
                let Out { transfer: id, serial } = self.redis[source].out[at];
                self.transfers.push(Transfer { id, source, epoch, serial, is_committed: false });
            }
            Action::CommitTransfer { transfer } => {
                let found = self.transfers[transfer].clone();
                if found.is_committed {
                    return None;
                }
                if self.commit_transfer(protocol, &found) {
                    self.transfers[transfer].is_committed = true;
                } else {
                    self.transfers.remove(transfer);
                }
            }
            Action::Clear { transfer } => {
                if !self.transfers[transfer].is_committed {
                    return None;
                }
                let done = self.transfers.remove(transfer);
                self.clear(protocol, &done);
            }
            Action::ClearEarly { transfer } => {
                if protocol.has(Guard::ClearAfterCommit) {
                    return None;
                }
                let found = self.transfers[transfer].clone();
                self.clear(protocol, &found);
            }
            Action::TransferDies { transfer } => drop(self.transfers.remove(transfer)),
            _ => return None,
        }
        Some(())
    }

    /// ledger/grants.rs, `grant_transfer`. `false`: it is void.
    pub(crate) fn commit_transfer(&mut self, protocol: &Protocol, transfer: &Transfer) -> bool {
        let Transfer { id, source, epoch, serial, .. } = *transfer;
        let destination = (source + 1) % WAREHOUSES;
        if self.postgres.epoch[source] != epoch && protocol.has(Guard::TransferEpoch) {
            return false;
        }
        if self.is_transferred(id) && protocol.has(Guard::TransferId) {
            return true;
        }
        let token = &mut self.postgres.tokens[serial];
        if (token.at, token.holder) != (source, Holder::Nobody) && protocol.has(Guard::TransferRow) {
            return false;
        }
        token.at = destination;
        self.grant(destination, Grant { serials: serials([serial]), transfer: Some(id), ..Grant::default() });
        true
    }

    pub(crate) fn clear(&mut self, protocol: &Protocol, transfer: &Transfer) {
        if self.issues(protocol, transfer.source, transfer.epoch) {
            self.redis[transfer.source].out.retain(|out| out.transfer != transfer.id);
        }
    }

    /// flows/open_drop.rs, `try_load`: its next step. `None`: it has ended, well or not.
    pub(crate) fn rebuild(&mut self, protocol: &Protocol, warehouse: usize, epoch: u8, stage: Stage) -> Option<Stage> {
        match stage {
            Stage::Begun => {
                let redis = &mut self.redis[warehouse];
                if redis.epoch > epoch && protocol.has(Guard::FenceNewest) {
                    return None;
                }
                (redis.epoch, redis.fence, redis.is_loading, redis.chunks) = (epoch, None, true, 0);
                Some(Stage::Fenced { replid: redis.replid })
            }
            Stage::Fenced { replid } => {
                let redis = &self.redis[warehouse];
                let entries = redis.log.get(redis.mark..).unwrap_or_default().to_vec();
                if entries.is_empty() || !protocol.has(Guard::Leftovers) {
                    return Some(Stage::NoLeftovers { replid });
                }
                Some(Stage::ReadLeftovers { replid, entries, upto: redis.log.len() })
            }
            Stage::ReadLeftovers { replid, entries, upto } => {
                let is_settled = self.settle(protocol, warehouse, &entries, Some(epoch));
                is_settled.then_some(Stage::SettledLeftovers { replid, upto })
            }
            Stage::SettledLeftovers { replid, upto } => {
                self.mark(protocol, warehouse, epoch, upto).then_some(Stage::Fenced { replid })
            }
            Stage::NoLeftovers { replid } => {
                if self.postgres.epoch[warehouse] != epoch && protocol.has(Guard::ContentsEpoch) {
                    return None;
                }
                let awards = self.awards_in_flight(warehouse);
                if !awards.is_empty() && protocol.has(Guard::RebuildAwards) {
                    let is_settled = self.settle(protocol, warehouse, &awards, Some(epoch));
                    return is_settled.then_some(Stage::NoLeftovers { replid });
                }
                let contents = self.contents(protocol, warehouse);
                Some(Stage::Contents { replid, contents, chunks: 0 })
            }
            Stage::Contents { contents: _, chunks: 2, replid } => {
                // Units that Redis had forgotten come in here without a rest.
                let is_marked = self.postgres.is_marked && protocol.has(Guard::OpenWait);
                Some(Stage::Loaded { replid, is_marked })
            }
            Stage::Contents { replid, contents, chunks } => {
                let redis = self.may_load(protocol, warehouse, epoch, replid, chunks)?;
                if chunks == 0 {
                    (redis.free, redis.granted) = (contents.free, contents.granted);
                    redis.out.clear();
                    redis.records.fill(Record::None);
                } else {
                    redis.records.clone_from(&contents.records);
                }
                redis.chunks += 1;
                Some(Stage::Contents { replid, contents, chunks: chunks + 1 })
            }
            Stage::Loaded { replid, .. } => {
                let redis = self.may_load(protocol, warehouse, epoch, replid, 2)?;
                if redis.mark >= redis.log.len() || !protocol.has(Guard::OpenSettled) {
                    (redis.fence, redis.is_loading) = (Some(replid), false);
                }
                None
            }
        }
    }

    /// lua/load.lua and lua/open.lua.
    fn may_load(
        &mut self,
        protocol: &Protocol,
        warehouse: usize,
        epoch: u8,
        replid: u8,
        chunks: u8,
    ) -> Option<&mut Redis> {
        let redis = &mut self.redis[warehouse];
        let may_load = (redis.epoch == epoch || !protocol.has(Guard::LoadEpoch))
            && (redis.replid == replid || !protocol.has(Guard::LoadReplid))
            && (redis.chunks == chunks || !protocol.has(Guard::LoadChunks))
            && redis.is_loading;
        may_load.then_some(redis)
    }

    /// ledger/awards.rs, `awards_in_flight`: those that are to become claims in this warehouse.
    fn awards_in_flight(&self, warehouse: usize) -> Vec<Entry> {
        let tokens = self.postgres.tokens.iter().enumerate();
        let awarded = tokens.filter_map(|(serial, token)| match token.holder {
            Holder::Awarded(claim) if token.at == warehouse => Some(Entry { claim, serial, epoch: UNLOGGED }),
            _ => None,
        });
        awarded.collect()
    }

    /// ledger/drops.rs, `warehouse_contents`.
    fn contents(&self, protocol: &Protocol, warehouse: usize) -> Contents {
        let tokens = self.postgres.tokens.iter().enumerate();
        let is_free = |holder| match holder {
            Holder::Nobody => true,
            Holder::Resting(_) => !protocol.has(Guard::ContentsRest),
            Holder::Order(_) | Holder::Awarded(_) => false,
        };
        let free = tokens.filter(|(_, token)| token.at == warehouse && is_free(token.holder));
        let free = serials(free.map(|(serial, _)| serial));
        let record = |(claim, fate): (usize, &Fate)| match fate {
            _ if protocol.home(claim) != warehouse => Record::None,
            Fate::Live(serial) => Record::Live(*serial),
            Fate::Released if protocol.has(Guard::LoadsEnded) => Record::Ended,
            Fate::Rejected if protocol.has(Guard::LoadsRejected) => Record::Ended,
            Fate::Unseen | Fate::Released | Fate::Rejected => Record::None,
        };
        let records = self.postgres.claims.iter().enumerate().map(record).collect();
        Contents { free, records, granted: self.last_grant(warehouse) }
    }
}
