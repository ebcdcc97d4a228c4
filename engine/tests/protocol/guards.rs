//! What the protocol leans on. Each can be taken out of the model.

macro_rules! guards {
    ($($name:ident: $words:literal, $place:literal;)*) => {
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
        }
    };
}

guards! {
    ClaimFence: "claim, pull, grant: the replication id is that of the opening", "lua/claim.lua, pull.lua, grant.lua";
    ClaimEpoch: "claim: the epoch is the warehouse's", "lua/claim.lua";
    ScriptLimit: "claim: the buyer's limit", "lua/claim.lua";
    EndedStays: "grant: an ended claim leaves its id behind", "lua/grant.lua";
    GrantNumbers: "grant: number n comes after n - 1, once", "lua/grant.lua";
    MarkInStream: "settled: the mark stays within what the stream has", "lua/settled.lua";
    MarkAfterCommit: "settle: the mark moves after the commit", "flows/settle.rs";
    SettleEpoch: "settle: entries of another epoch are left alone", "ledger/settlements.rs";
    SettleRebuildEpoch: "settle in a rebuild: it is still the newest rebuild", "ledger/settlements.rs";
    SettleOnce: "settle: a claim id seen once is not settled again", "ledger/settlements.rs";
    SettleHolder: "settle: the token row has no holder", "ledger/settlements.rs";
    SettleWarehouse: "settle: the token row is this warehouse's", "ledger/settlements.rs";
    SettleLimit: "settle: the buyer's limit, once more", "ledger/settlements.rs";
    TransferId: "transfer: its id is new", "ledger/grants.rs";
    TransferEpoch: "transfer: the source's epoch is that of its reading", "ledger/grants.rs";
    TransferRow: "transfer: the token rows are the source's and have no holder", "ledger/grants.rs";
    ClearAfterCommit: "transfer: `out` is cleared after the commit", "flows/pull.rs";
    Leftovers: "rebuild: what the stream holds is settled before Postgres is read", "flows/open_drop.rs";
    LoadsEnded: "rebuild: ended orders are loaded too", "ledger/drops.rs";
    LoadsRejected: "rebuild: rejected claims are loaded too", "ledger/drops.rs";
    ContentsEpoch: "rebuild: Postgres is read only by the newest rebuild", "ledger/drops.rs";
    FenceNewest: "fence: an older epoch does not begin a load", "lua/fence.lua";
    LoadEpoch: "load, open: the epoch is that of the fence", "lua/load.lua, open.lua";
    LoadReplid: "load, open: the replication id is that of the fence", "lua/load.lua, open.lua";
    LoadChunks: "load, open: chunks are counted", "lua/load.lua, open.lua";
    OpenSettled: "open: nothing in the stream is unsettled", "lua/open.lua";
    ProofLeaving: "proof: nothing is in `out`", "flows/pull.rs";
    ProofGranted: "proof: every grant that Postgres knows is applied", "flows/pull.rs";
    ProofEpochs: "proof: the epochs are those of Postgres", "flows/pull.rs";
    ProofSeq: "proof: `seq` is the same in both readings", "flows/pull.rs";
    ProofTwice: "proof: a second reading", "flows/pull.rs";
    FreedWait: "grant: freed units wait until no lease can be alive", "flows/grants.rs";
    OpenWait: "open: a rebuilt warehouse waits until no lease can be alive", "flows/open_drop.rs";
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
