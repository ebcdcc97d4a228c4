//! What the line leans on. Each can be taken out of the model.

use crate::guards::{Missed, guards};

guards! {
    JoinBehindCounter: "join: the line's state is read behind the counter that the close takes", "ledger/line/joins.rs", In("the end");
    ChangeBehindCounter: "change: the line's state is read behind the counter that the seal takes", "ledger/line/joins.rs", In("changing");
    LeaveBehindCounter: "leave: before the seal, the line's state is read behind the counter", "ledger/line/joins.rs", In("joining");
    JoinKeepsPlace: "join: it never changes a place", "domain/line/joining.rs", In("changing");
    OnePlace: "join: who is in line keeps their place, whatever the key", "domain/line/joining.rs", In("joining");
    Tombstone: "join: the key of a place that was left stays used", "domain/line/joining.rs", In("joining");
    DrawIsSealed: "join: who left a sealed draw cannot come back", "domain/line/joining.rs", In("a sealed draw");
    Revision: "change: under the revision that was seen", "domain/line/joining.rs", In("changing");
    RevisionGoesOn: "join: the revision goes on from the places before", "ledger/line/joins.rs", In("late changes");
    ChangeBeforeSeal: "change: only until the seal", "domain/line/joining.rs", In("changing");
    LeftKeepsRank: "leave: behind the seal it keeps its rank", "domain/line/joining.rs", In("joining");
    LeaveLocks: "leave: the entry's row is taken before it is read", "ledger/line/joins.rs", Nowhere("the write asks for an entry that waits; without both, see below");
    LeaveWaiting: "leave: the write asks for an entry that waits", "ledger/line/joins.rs", Nowhere("the entry's row is taken before it is read; without both, see below");
    MergeFirst: "seal: cards are merged before it counts", "ledger/line/draws.rs", In("cards");
    RootOnce: "root: the line is sealed and has none", "ledger/line/draws.rs", In("beacon");
    RootInTime: "root: in time, by Postgres' clock", "ledger/line/draws.rs", In("beacon");
    SeenInTime: "root: it is seen before the beacon speaks, by Postgres' clock", "ledger/line/draws.rs", In("beacon");
    RootSeen: "draw: the root was seen", "ledger/line/draws.rs", Nowhere("the schedule asks for no draw then; without both, see below");
    VoidUnseen: "schedule: a root that was not seen in time makes the round void", "domain/line/schedule.rs", In("beacon");
    DrawOnce: "draw: the line is rooted", "ledger/line/draws.rs", In("beacon");
    PostponeInTime: "postponement: before the beacon speaks, by Postgres' clock", "ledger/line/draws.rs", In("beacon");
    PostponeSealed: "postponement: there is no root", "ledger/line/draws.rs", Nowhere("it is planned once it is too late for a root");
    VoidKeepsSeen: "void: the root was not seen", "ledger/line/draws.rs", In("beacon");
    VoidRound: "void: the round is the one that was read", "ledger/line/draws.rs", In("beacon");
    ChunkCompared: "round: chunk, round and position are those of the worker's order", "ledger/line/rounds.rs", Nowhere("the write asks for the chunk before; without both, see below");
    PositionFollows: "round: the write asks for the chunk before", "ledger/line/rounds.rs", Nowhere("the order is compared under the line's row; without both, see below");
    MemoryCompared: "round: what a worker remembers is of this chunk", "flows/line/steps.rs", Nowhere("the order is compared under the line's row, and read anew when it differs");
    RoundDrawn: "round: the line is drawn, under its row", "ledger/line/rounds.rs", In("the end");
    RoundNotPaused: "round: none begins in a pause, under the line's row", "ledger/line/rounds.rs", In("pause");
    FactsLocked: "round: what stands against a rank is read under its entry's row", "ledger/line/rounds.rs", Nowhere("the award asks for an entry that waits; without both, see below");
    AwardWaiting: "award: the entry waits", "ledger/line/rounds.rs", Nowhere("what stands against it was read under its row; without both, see below");
    GoneIsBarred: "round: who has left is passed by", "domain/line/rounds.rs", In("leaving");
    UnitFree: "award: the unit has no holder", "ledger/line/rounds.rs", In("pause");
    Snapshot: "round: what becomes free after its begin belongs to the next", "domain/line/rounds.rs", In("pace");
    StandersFirst: "round: who was passed over is served before later ranks", "domain/line/rounds.rs", In("rounds");
    StandsBy: "round: who gets nothing stands by", "domain/line/rounds.rs", In("rounds");
    PaceInRanks: "round: who stands by does not count in the pace", "domain/line/rounds.rs", In("pace");
    FreedRests: "release: the unit waits for the next round", "ledger/rest.rs", In("pace");
    LastRound: "schedule: one more round before the close", "domain/line/schedule.rs", In("the end");
    LastRoundOnce: "round: the last one is noted", "ledger/line/rounds.rs", In("the end");
    CloseBetween: "close: no round is under way, under the line's row", "ledger/line/rows.rs", In("the end");
}
