//! The operations of a case, and how they are drawn. Few buyers and keys, so that retries, reused keys and buyers at their
//! limit are common; mostly the right epoch and the next grant, so that a case gets somewhere.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

pub(crate) const BUYERS: u8 = 9;
const KEYS: u8 = 5;

/// A whole case: the warehouse as it begins, and what is done to it.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) limit: u32,
    /// For each variant: units at the beginning, and the bits of those that are missing in between.
    pub(crate) stock: Vec<(u8, u64)>,
    /// False: the case begins with a warehouse that nobody has loaded.
    pub(crate) opens_first: bool,
    pub(crate) operations: Vec<Operation>,
}

#[derive(Debug, Clone)]
pub(crate) enum Operation {
    Claim {
        epoch: Of,
        claims: Vec<Pick>,
    },
    Pull {
        epoch: Of,
        variant: u8,
        transfer: u8,
        units: u32,
    },
    Clear {
        epoch: Of,
        transfer: u8,
    },
    Grant {
        epoch: Of,
        number: Number,
        fresh: Vec<(u8, u8)>,
        released: Option<Ended>,
    },
    SetState {
        epoch: Of,
        state: &'static str,
    },
    Settled {
        epoch: Of,
        mark: Mark,
        trim: Mark,
    },
    Look {
        epoch: Of,
    },
    Rebuild(Rebuild),
    /// The server restarts, or a replica is promoted.
    ChangeReplicationId,
    /// FLUSHALL, as far as this drop is concerned.
    Forget,
    Dump,
}

/// Which epoch a caller believes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Of {
    Before,
    Now,
    Next,
}

impl Of {
    pub(crate) fn epoch(self, now: i64) -> i64 {
        match self {
            Self::Before => now - 1,
            Self::Now => now,
            Self::Next => now + 1,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Number {
    Next,
    Last,
    First,
    Gap,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Ended {
    /// One of the claims that hold units, with its units.
    Live(u16),
    /// A claim that has ended before.
    Again(u16),
    /// One of which Redis knows nothing.
    Unknown { buyer: u8, key: u8, units: u8 },
}

/// Where in the log a mark is put.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Mark {
    Zero,
    Entry(u16),
    /// Behind the last entry.
    Beyond,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Pick {
    pub(crate) buyer: u8,
    pub(crate) key: u8,
    /// Another body under the same key.
    pub(crate) twist: Twist,
    /// What the buyer was told that it costs; a repeat may have been told something else.
    pub(crate) told: Option<i64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Twist {
    None,
    OtherVariant,
    OtherQuantity,
    Most,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Rebuild {
    /// Grants that Postgres has decided and Redis has not seen; they come in with the load.
    pub(crate) pending: u8,
    pub(crate) disturbed: Option<Disturbance>,
    pub(crate) stops_after: Stage,
    pub(crate) state: &'static str,
}

/// What gets in the way of a rebuild before it ends well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Disturbance {
    /// A newer load begins after the fence: load and opening of the older one are refused.
    NewerFenceBeforeLoad,
    NewerFenceAfterLoad,
    /// A load of an older epoch comes late.
    OlderFence,
    WrongChunks,
    OtherReplicationId,
    /// The whole load is sent once more.
    LoadedTwice,
    /// What the stream still holds is not settled before the load.
    LeftoversForgotten,
    /// Claims, grants and pulls in the middle of it.
    UsedBetween,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    Fence,
    Load,
    Open,
}

fn of() -> impl Strategy<Value = Of> {
    prop_oneof![1 => Just(Of::Before), 18 => Just(Of::Now), 1 => Just(Of::Next)]
}

fn pick() -> impl Strategy<Value = Pick> {
    let twist = prop_oneof![
        16 => Just(Twist::None),
        1 => Just(Twist::OtherVariant),
        1 => Just(Twist::OtherQuantity),
        1 => Just(Twist::Most)
    ];
    let told = option::weighted(0.2, prop_oneof![8 => 0..1_000_i64, 1 => Just(i64::MAX)]);
    (0..BUYERS, 0..KEYS, twist, told).prop_map(|(buyer, key, twist, told)| Pick { buyer, key, twist, told })
}

fn rebuild() -> impl Strategy<Value = Rebuild> {
    use Disturbance::{
        LeftoversForgotten, LoadedTwice, NewerFenceAfterLoad, NewerFenceBeforeLoad, OlderFence, OtherReplicationId,
        UsedBetween, WrongChunks,
    };
    let disturbances = [
        NewerFenceBeforeLoad,
        NewerFenceAfterLoad,
        OlderFence,
        WrongChunks,
        OtherReplicationId,
        LoadedTwice,
        LeftoversForgotten,
        UsedBetween,
    ];
    let stage = prop_oneof![1 => Just(Stage::Fence), 1 => Just(Stage::Load), 14 => Just(Stage::Open)];
    let state = prop_oneof![1 => Just("ready"), 8 => Just("open"), 1 => Just("closed")];
    (0..3_u8, option::of(prop::sample::select(disturbances.to_vec())), stage, state)
        .prop_map(|(pending, disturbed, stops_after, state)| Rebuild { pending, disturbed, stops_after, state })
}

fn mark() -> impl Strategy<Value = Mark> {
    prop_oneof![1 => Just(Mark::Zero), 6 => any::<u16>().prop_map(Mark::Entry), 1 => Just(Mark::Beyond)]
}

fn operation(variants: u8) -> impl Strategy<Value = Operation> {
    let number = prop_oneof![
        12 => Just(Number::Next), 2 => Just(Number::Last), 1 => Just(Number::First), 1 => Just(Number::Gap)
    ];
    let ended = prop_oneof![
        8 => any::<u16>().prop_map(Ended::Live),
        1 => any::<u16>().prop_map(Ended::Again),
        1 => (0..BUYERS, 0..KEYS, 1..4_u8).prop_map(|(buyer, key, units)| Ended::Unknown { buyer, key, units }),
    ];
    let state = prop_oneof![1 => Just("ready"), 5 => Just("open"), 1 => Just("closed")];
    let units = prop_oneof![8 => 0..9_u32, 1 => Just(1_000)];
    prop_oneof![
        24 => (of(), vec(pick(), 1..=40)).prop_map(|(epoch, claims)| Operation::Claim { epoch, claims }),
        8 => (of(), vec(pick(), 1..=2)).prop_map(|(epoch, claims)| Operation::Claim { epoch, claims }),
        8 => (of(), 0..variants, 0..4_u8, units)
            .prop_map(|(epoch, variant, transfer, units)| Operation::Pull { epoch, variant, transfer, units }),
        6 => (of(), 0..4_u8).prop_map(|(epoch, transfer)| Operation::Clear { epoch, transfer }),
        14 => (of(), number, vec((0..variants, 0..12_u8), 0..3), option::weighted(0.7, ended))
            .prop_map(|(epoch, number, fresh, released)| Operation::Grant { epoch, number, fresh, released }),
        2 => (of(), state).prop_map(|(epoch, state)| Operation::SetState { epoch, state }),
        6 => (of(), mark(), mark()).prop_map(|(epoch, mark, trim)| Operation::Settled { epoch, mark, trim }),
        5 => of().prop_map(|epoch| Operation::Look { epoch }),
        6 => rebuild().prop_map(Operation::Rebuild),
        1 => Just(Operation::ChangeReplicationId),
        1 => Just(Operation::Forget),
        4 => Just(Operation::Dump),
    ]
}

pub(crate) fn case() -> impl Strategy<Value = Case> {
    let limit = prop_oneof![4 => 1..4_u32, 2 => Just(10), 1 => Just(100)];
    let stock = vec((0..60_u8, any::<u64>()), 1..=3);
    (limit, stock, prop::bool::weighted(0.95)).prop_flat_map(|(limit, stock, opens_first)| {
        let variants = stock.len() as u8;
        vec(operation(variants), 1..50).prop_map(move |operations| Case {
            limit,
            stock: stock.clone(),
            opens_first,
            operations,
        })
    })
}
