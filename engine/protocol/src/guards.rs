//! What the protocol leans on. Each can be taken out of the model.

/// What the checker finds when a guard is gone.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Missed {
    /// A broken promise, in this world.
    In(&'static str),
    /// Nothing in any world: why not.
    Nowhere(&'static str),
}

macro_rules! guards {
    ($($name:ident: $words:literal, $place:literal, $missed:ident($why:literal);)*) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Guard { $($name,)* }

        impl Guard {
            pub(crate) const ALL: &'static [Self] = &[$(Self::$name,)*];

            pub(crate) fn words(self) -> &'static str {
                match self { $(Self::$name => $words,)* }
            }

            /// Where it stands in the code.
            pub(crate) fn place(self) -> &'static str {
                match self { $(Self::$name => $place,)* }
            }

            pub(crate) fn missed(self) -> Missed {
                match self { $(Self::$name => Missed::$missed($why),)* }
            }
        }

        /// The guards that are left out. None of them: the protocol as it is.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub(crate) struct Without(u64);

        impl Without {
            pub(crate) fn nothing() -> Self {
                Self(0)
            }

            pub(crate) fn one(guard: Guard) -> Self {
                Self(1 << guard as u64)
            }

            pub(crate) fn and(self, guard: Guard) -> Self {
                Self(self.0 | 1 << guard as u64)
            }

            /// Whether this guard stands.
            pub(crate) fn has(self, guard: Guard) -> bool {
                self.0 & 1 << guard as u64 == 0
            }
        }
    };
}
pub(crate) use guards;

guards! {
    ClaimFence: "claim, pull, grant, look: the replication id is that of the opening", "lua/claim.lua and others", In("forgetting");
    ClaimEpoch: "claim: the epoch is the warehouse's", "lua/claim.lua", In("forgetting");
    ScriptLimit: "claim: the buyer's limit", "lua/claim.lua", In("two clicks");
    EndedStays: "grant: an ended claim leaves its id behind", "lua/grant.lua", In("two clicks");
    GrantNumbers: "grant: number n comes after n - 1, once", "lua/grant.lua", In("ping-pong");
    MarkInStream: "settled: the mark stays within what the stream has", "lua/settled.lua", In("forgetting");
    MarkAfterCommit: "settle: the mark moves after the commit", "flows/settle.rs", In("ping-pong");
    MarkUnbroken: "settle: the mark moves over no entry that a lane has left open", "domain/settlement.rs", In("two clicks");
    SettleEpoch: "settle: entries of another epoch are left alone", "ledger/settlements.rs", In("forgetting");
    SettleRebuildEpoch: "settle in a rebuild: it is still the newest rebuild", "ledger/settlements.rs", In("two rebuilds");
    SettleOnce: "settle: a claim id seen once is not settled again", "ledger/settlements.rs", In("ping-pong");
    SettleHolder: "settle: the token row has no holder", "ledger/settlements.rs", In("return");
    SettleWarehouse: "settle: the token row is this warehouse's", "ledger/settlements.rs", Nowhere("a claim's unit can be another warehouse's only where another guard has failed");
    SettleLimit: "settle: the buyer's limit, once more", "ledger/settlements.rs", In("return");
    TransferId: "transfer: its id is new", "ledger/grants.rs", In("ping-pong");
    TransferEpoch: "transfer: the source's epoch is that of its reading", "ledger/grants.rs", In("forgetting a move");
    TransferRow: "transfer: the token rows are the source's and have no holder", "ledger/grants.rs", Nowhere("the transfer's id and the source's epoch say the same");
    ClearAfterCommit: "transfer: `out` is cleared after the commit", "flows/pull.rs", In("ping-pong");
    Leftovers: "rebuild: what the stream holds is settled before Postgres is read", "flows/open_drop.rs", In("forgetting");
    LoadsEnded: "rebuild: ended orders are loaded too", "ledger/drops.rs", In("forgetting a release");
    LoadsRejected: "rebuild: rejected claims are loaded too", "ledger/drops.rs", In("return");
    ContentsEpoch: "rebuild: Postgres is read only by the newest rebuild", "ledger/drops.rs", Nowhere("`load` refuses the older epoch; what was read is brought up to date by the grants after it");
    FenceNewest: "fence: an older epoch does not begin a load", "lua/fence.lua", Nowhere("the newer load then fails on its epoch and is begun again");
    LoadEpoch: "load, open: the epoch is that of the fence", "lua/load.lua, open.lua", Nowhere("counted chunks let only one loader in; without both, see below");
    LoadReplid: "load, open: the replication id is that of the fence", "lua/load.lua, open.lua", Nowhere("lost chunks are counted, and the opening writes the fence's id; without counting, see below");
    LoadChunks: "load, open: chunks are counted", "lua/load.lua, open.lua", Nowhere("epoch and replication id let only one loader in; without either, see below");
    OpenSettled: "open: nothing in the stream is unsettled", "lua/open.lua", In("return");
    ReadingMarks: "reading: the drop is marked before the first one", "flows/readings.rs", In("lease and forgetting");
    ReadingLeaving: "reading: nothing is in `out`", "flows/readings.rs", In("refusal");
    ReadingGranted: "reading: every grant of units that Postgres knows is applied", "flows/readings.rs", In("refusal");
    ReadingEpochs: "reading: the epochs are those of Postgres", "flows/readings.rs", In("lease and forgetting");
    ReadingAwards: "reading: awards do not count", "ledger/readings.rs", In("award");
    LeaseStart: "lease: it is counted from before the first look", "flows/readings.rs", In("rest");
    LeaseAge: "lease: it is shorter by what a unit has rested", "domain/rest.rs", In("rest");
    LeaseOldest: "lease: by what the oldest of them has rested", "ledger/readings.rs", In("two rests");
    LeaseClock: "lease: none where Postgres' clock may have been set back", "domain/rest.rs", In("rest");
    LeaseSeq: "lease: `seq` is the same in a second look", "flows/readings.rs", Nowhere("units come in by grants only, and Postgres is asked for those behind the first look");
    LeaseTwice: "lease: a second look", "flows/readings.rs", Nowhere("after the first look a unit comes in by a grant only, and Postgres is asked for grants after it");
    ReleaseRests: "release, rejection: the unit rests, and the grant has none", "ledger/rest.rs", In("rest");
    RestWait: "rest: its whole time, from when it was seen committed", "domain/rest.rs", In("rest");
    RestAlways: "rest: also before there is a mark", "flows/grants.rs", In("rest");
    RestAgain: "rest: whether the unit still rests is read again under the lock", "ledger/rest.rs", In("rest");
    RestSince: "rest: and whether since the same time", "ledger/rest.rs", In("rest again");
    ContentsRest: "rebuild: a resting unit is not free", "ledger/drops.rs", In("forgetting a release");
    OpenWait: "open: a rebuilt warehouse of a drop with a mark waits until no lease can be alive", "flows/open_drop.rs", In("lease and forgetting");
    OldWait: "grant: units that an older worker released wait", "flows/grants.rs", In("older workers");
    AwardHolder: "award: the unit bears its claim in Postgres", "ledger/awards.rs", In("award and forgetting");
    AwardLimit: "award: the buyer's limit", "lua/award.lua", In("award");
    RefusalKept: "award: what its home refuses is rejected, and its unit comes back", "ledger/awards.rs", In("award");
    RebuildAwards: "rebuild: awards in flight are decided before Postgres is read", "flows/open_drop.rs", In("award and forgetting");
}
