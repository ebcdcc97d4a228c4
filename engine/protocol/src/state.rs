//! Everything there is: Postgres, the warehouses in Redis, and the processes with what they have in memory.

use crate::guards::{Guard, Without};

/// Warehouses. A buyer's home is `buyer % WAREHOUSES`.
pub(crate) const WAREHOUSES: usize = 2;
pub(crate) const MAX_TOKENS: usize = 3;
pub(crate) const MAX_CLAIMS: usize = 4;

/// A unit that came back rests for so many ticks. A tick is half a second.
pub(crate) const REST: u8 = 3;
/// A lease lasts no longer than this, in ticks.
pub(crate) const LEASE: u8 = 2;

/// A set of serials.
pub(crate) type Serials = u8;

/// How large a world is, and how much may go wrong in it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scope {
    pub(crate) name: &'static str,
    /// Where each token is at first.
    pub(crate) tokens: &'static [usize],
    /// The buyer of each claim id; two ids of one buyer are two clicks with different keys.
    pub(crate) claims: &'static [usize],
    /// So many of the claims are orders at first, each of the token with its number.
    pub(crate) sold: usize,
    pub(crate) pulls: u8,
    pub(crate) releases: u8,
    /// Releases by a worker of the version before, which grants the unit at once and has the grant wait.
    pub(crate) old_releases: u8,
    /// The claim that standby's buyer gets, who joins the line at any time; nobody makes it by a click.
    pub(crate) award: Option<usize>,
    pub(crate) proofs: u8,
    pub(crate) workers: usize,
    pub(crate) rebuilders: usize,
    /// Processes that look into `out` and finish what they find, beside the one that pulled.
    pub(crate) finishers: usize,
    /// So many warehouses may fail over and be rebuilt.
    pub(crate) forgetful: usize,
    /// Failovers of a warehouse's Redis. Each loses any suffix of what was done to it.
    pub(crate) failovers: u8,
    /// An old primary comes back, with its old replication id and all it had.
    pub(crate) returns: u8,
    /// Begun rebuilds, over all warehouses.
    pub(crate) rebuilds: u8,
}

#[derive(Debug, Clone)]
pub(crate) struct Protocol {
    pub(crate) scope: Scope,
    pub(crate) without: Without,
}

impl Protocol {
    pub(crate) fn has(&self, guard: Guard) -> bool {
        self.without.has(guard)
    }

    pub(crate) fn buyer(&self, claim: usize) -> usize {
        self.scope.claims[claim]
    }

    pub(crate) fn home(&self, claim: usize) -> usize {
        self.buyer(claim) % WAREHOUSES
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct State {
    pub(crate) postgres: Postgres,
    pub(crate) redis: [Redis; WAREHOUSES],
    pub(crate) replicas: [Replica; WAREHOUSES],
    pub(crate) workers: Vec<Worker>,
    pub(crate) rebuilds: Vec<Rebuild>,
    pub(crate) transfers: Vec<Transfer>,
    pub(crate) proof: Option<Proof>,
    /// So many ticks buyers are refused without a look.
    pub(crate) lease: u8,
    /// What the home has made of the award, as a process was told that has not written it down yet.
    pub(crate) award: AwardTold,
    /// Units that a worker has seen resting and will grant, where it does not look again: only without a guard.
    pub(crate) noted: Serials,
    pub(crate) left: Left,
    pub(crate) seen: Seen,
}

/// What may still happen.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Left {
    pub(crate) pulls: u8,
    pub(crate) releases: u8,
    pub(crate) old_releases: u8,
    pub(crate) proofs: u8,
    pub(crate) failovers: u8,
    pub(crate) returns: u8,
    pub(crate) rebuilds: u8,
}

/// What must never have happened.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Seen {
    pub(crate) refused_while_free: bool,
    /// A claim taken in the epoch that Postgres has was not made an order.
    pub(crate) rejected_of_this_epoch: bool,
    pub(crate) rejected: bool,
    pub(crate) returned: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Postgres {
    pub(crate) epoch: [u8; WAREHOUSES],
    pub(crate) grants: [Vec<Grant>; WAREHOUSES],
    pub(crate) tokens: Vec<Token>,
    pub(crate) claims: Vec<Fate>,
    pub(crate) line: Line,
    /// The award is noted as applied: nobody applies it again.
    pub(crate) is_award_noted: bool,
    /// A reading has begun at some time.
    pub(crate) is_marked: bool,
    /// How often each claim was settled.
    pub(crate) settled: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Token {
    /// The warehouse that it belongs to.
    pub(crate) at: usize,
    pub(crate) holder: Holder,
}

/// One of them at the most, as the table's constraint has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Holder {
    Nobody,
    Order(usize),
    /// The claim that its grant is to make.
    Awarded(usize),
    /// For so many ticks. No longer than [`REST`] is counted.
    Resting(u8),
}

/// Standby's one place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Line {
    Empty,
    Waiting,
    Over,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum AwardTold {
    Nothing,
    Taken,
    Refused,
}

/// What became of a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Fate {
    Unseen,
    Live(usize),
    Released,
    Rejected,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Grant {
    pub(crate) serials: Serials,
    pub(crate) ends: Option<usize>,
    pub(crate) transfer: Option<u8>,
    pub(crate) award: Option<usize>,
    /// Ticks until it may be applied: units that an older worker released.
    pub(crate) waits: u8,
    /// An older worker has read it and then found no mark: it will not wait.
    pub(crate) is_hurried: bool,
}

impl Grant {
    /// It puts units on sale.
    pub(crate) fn has_units(&self) -> bool {
        self.serials != 0 && self.award.is_none()
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Redis {
    pub(crate) replid: u8,
    pub(crate) epoch: u8,
    /// The replication id of the opening; none while it is loaded.
    pub(crate) fence: Option<u8>,
    pub(crate) is_loading: bool,
    pub(crate) chunks: u8,
    pub(crate) granted: u8,
    pub(crate) free: Serials,
    pub(crate) out: Vec<Out>,
    pub(crate) records: Vec<Record>,
    pub(crate) log: Vec<Entry>,
    /// So many entries are settled. A stream id is a place in the log: a new primary may give a lost id again, since its
    /// clock may be behind.
    pub(crate) mark: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Record {
    None,
    Live(usize),
    Ended,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Entry {
    pub(crate) claim: usize,
    pub(crate) serial: usize,
    pub(crate) epoch: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Out {
    pub(crate) transfer: u8,
    pub(crate) serial: usize,
}

/// What a failover will bring back: the warehouse as it was when its replica fell behind, and later the old primary.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Replica {
    pub(crate) behind: Option<Box<Redis>>,
    pub(crate) old: Option<Box<Redis>>,
    pub(crate) newest_replid: u8,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Worker {
    Idle,
    /// Has read the log, under the epoch that Postgres had then.
    Read {
        warehouse: usize,
        epoch: u8,
        entries: Vec<Entry>,
        upto: usize,
        /// One lane has committed its share; `entries` are the other's.
        is_ahead: bool,
    },
    Committed {
        warehouse: usize,
        epoch: u8,
        upto: usize,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Rebuild {
    pub(crate) warehouse: usize,
    pub(crate) epoch: u8,
    pub(crate) stage: Stage,
    /// Ticks from its fence until it may open, if the drop has a mark.
    pub(crate) waits: u8,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Stage {
    Begun,
    Fenced {
        replid: u8,
    },
    ReadLeftovers {
        replid: u8,
        entries: Vec<Entry>,
        upto: usize,
    },
    SettledLeftovers {
        replid: u8,
        upto: usize,
    },
    NoLeftovers {
        replid: u8,
    },
    Contents {
        replid: u8,
        contents: Contents,
        chunks: u8,
    },
    /// All is loaded, and then the mark was looked for.
    Loaded {
        replid: u8,
        is_marked: bool,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Contents {
    pub(crate) free: Serials,
    pub(crate) records: Vec<Record>,
    pub(crate) granted: u8,
}

/// A transfer in the memory of a process, after step 1 or after a look.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Transfer {
    pub(crate) id: u8,
    pub(crate) source: usize,
    pub(crate) epoch: u8,
    pub(crate) serial: usize,
    pub(crate) is_committed: bool,
}

/// A reading, and the lease that may come of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Proof {
    /// Steps made: warehouse 0, 1, Postgres (which refuses), warehouse 0, 1 (which gives the lease).
    pub(crate) step: u8,
    pub(crate) epochs: [u8; WAREHOUSES],
    pub(crate) granted: [u8; WAREHOUSES],
    /// Ticks since before its first look. No more than [`LEASE`] are counted.
    pub(crate) age: u8,
    /// So many ticks from there on no resting unit can be granted.
    pub(crate) lease: u8,
    /// At one instant since the call arrived nothing was on sale and nothing was on its way.
    pub(crate) was_empty: bool,
    /// A warehouse is another than at its first look.
    pub(crate) is_disturbed: bool,
}

impl State {
    pub(crate) fn first(protocol: &Protocol) -> Self {
        let scope = &protocol.scope;
        let claims = scope.claims.len();
        assert!(scope.tokens.len() <= MAX_TOKENS && claims <= MAX_CLAIMS, "a world this large would never be finished");
        let sold = |claim: usize| claim < scope.sold;
        let order = |serial| if sold(serial) { Holder::Order(serial) } else { Holder::Nobody };
        let record = |claim| if sold(claim) { Record::Live(claim) } else { Record::None };
        let free = |warehouse| {
            let tokens = scope.tokens.iter().enumerate();
            serials(tokens.filter(|(serial, at)| **at == warehouse && !sold(*serial)).map(|(serial, _)| serial))
        };
        let redis = |warehouse| Redis {
            replid: 1,
            epoch: 1,
            fence: Some(1),
            is_loading: false,
            chunks: 2,
            granted: 0,
            free: free(warehouse),
            out: Vec::new(),
            records: (0..claims)
                .map(|claim| if protocol.home(claim) == warehouse { record(claim) } else { Record::None })
                .collect(),
            log: Vec::new(),
            mark: 0,
        };
        let replica = Replica { newest_replid: 1, ..Replica::default() };
        Self {
            postgres: Postgres {
                epoch: [1; WAREHOUSES],
                grants: [const { Vec::new() }; WAREHOUSES],
                tokens: (scope.tokens.iter().enumerate())
                    .map(|(serial, at)| Token { at: *at, holder: order(serial) })
                    .collect(),
                claims: (0..claims).map(|claim| if sold(claim) { Fate::Live(claim) } else { Fate::Unseen }).collect(),
                line: Line::Empty,
                is_award_noted: false,
                is_marked: false,
                settled: vec![0; claims],
            },
            redis: std::array::from_fn(redis),
            replicas: std::array::from_fn(|_| replica.clone()),
            workers: vec![Worker::Idle; scope.workers],
            rebuilds: Vec::new(),
            transfers: Vec::new(),
            proof: None,
            lease: 0,
            award: AwardTold::Nothing,
            noted: 0,
            left: Left {
                pulls: scope.pulls,
                releases: scope.releases,
                old_releases: scope.old_releases,
                proofs: scope.proofs,
                failovers: scope.failovers,
                returns: scope.returns,
                rebuilds: scope.rebuilds,
            },
            seen: Seen::default(),
        }
    }

    /// Whether this warehouse is open under the epoch that Postgres has, on the server that was opened.
    pub(crate) fn is_current(&self, warehouse: usize) -> bool {
        let redis = &self.redis[warehouse];
        redis.epoch == self.postgres.epoch[warehouse] && redis.fence == Some(redis.replid) && !redis.is_loading
    }

    pub(crate) fn last_grant(&self, warehouse: usize) -> u8 {
        self.postgres.grants[warehouse].len() as u8
    }

    pub(crate) fn is_transferred(&self, transfer: u8) -> bool {
        self.postgres.grants.iter().flatten().any(|grant| grant.transfer == Some(transfer))
    }
}

pub(crate) fn serials(of: impl IntoIterator<Item = usize>) -> Serials {
    of.into_iter().fold(0, |set, serial| set | 1 << serial)
}

pub(crate) fn has(set: Serials, serial: usize) -> bool {
    set & 1 << serial != 0
}
