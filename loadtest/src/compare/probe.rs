//! What can be measured in one sample.

use doorbuster_engine::domain::drops::WAREHOUSES_PER_PRIMARY;

use crate::stage::Fsync;
use crate::ways::Way;

pub(super) const MANY: usize = 512;
pub(super) const FEW: usize = 64;
/// Warehouses of a drop unless they are what is compared.
pub(super) const WAREHOUSES: u32 = WAREHOUSES_PER_PRIMARY;

/// In the order of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Probe {
    /// Claims a second that were taken, connections asking again as soon as they have their answer.
    Claims { way: Way, connections: usize, fsync: Fsync, warehouses: u32, gateways: usize },
    /// Places in a line a second: rows that are committed before the answer.
    Joins { gateways: usize },
    /// Answers of a line's board a second.
    Board,
    /// Answers "sold out" a second.
    SoldOut,
    /// Our generator's requests a second, all of one buyer's, at the ceiling.
    Generator,
    /// The same of wrk's.
    Wrk,
    /// The p99 in ms at half of the rate of claims, requests leaving when they are due.
    HalfLoad { way: Way, warehouses: u32 },
    /// Orders a second by tokens, from the first click to the last order in Postgres.
    Settled,
}

impl Probe {
    pub(super) const fn claims(way: Way, connections: usize) -> Self {
        let warehouses = way.rows();
        Self::Claims { way, connections, fsync: Fsync::Always, warehouses, gateways: 1 }
    }

    /// Claims by tokens, many at a time, through so many gateways.
    pub(super) const fn claims_through(gateways: usize) -> Self {
        Self::Claims { way: Way::Tokens, connections: MANY, fsync: Fsync::Always, warehouses: WAREHOUSES, gateways }
    }

    pub(super) const fn claims_with(fsync: Fsync) -> Self {
        Self::Claims { way: Way::Tokens, connections: MANY, fsync, warehouses: WAREHOUSES, gateways: 1 }
    }

    pub(super) const fn half_load(way: Way) -> Self {
        Self::HalfLoad { way, warehouses: WAREHOUSES }
    }

    /// Claims in this many warehouses: many at a time, few at a time, and at half of the rate.
    pub(super) fn of_warehouses(warehouses: u32) -> [Self; 3] {
        let claims =
            |connections| Self::Claims { way: Way::Tokens, connections, fsync: Fsync::Always, warehouses, gateways: 1 };
        [claims(MANY), claims(FEW), Self::HalfLoad { way: Way::Tokens, warehouses }]
    }

    /// What stands in the table and is part of no figure.
    pub(super) fn table_only() -> Vec<Self> {
        let ways = [
            Way::Tokens,
            Way::Ceiling,
            Way::SingleEvalsha,
            Way::RowLock,
            Way::TenRows,
            Way::Optimistic,
            Way::OneStatement,
            Way::SkipLocked,
        ];
        let connections = ways.into_iter().flat_map(|way| [Self::claims(way, FEW), Self::claims(way, MANY)]);
        let warehouses = [1, 4, 8, 16, 32, 64].map(|warehouses| Self::of_warehouses(warehouses)[0]);
        connections.chain([Fsync::EverySecond, Fsync::Never].map(Self::claims_with)).chain(warehouses).collect()
    }

    pub(super) fn name(self) -> String {
        match self {
            Self::Claims { way, connections, fsync, warehouses, gateways } => {
                let mut name = format!("{}, {connections} connections", way.name());
                if !way.is_sql() && way != Way::Ceiling {
                    if fsync != Fsync::Always {
                        name += &format!(", fsync {}", fsync.name());
                    }
                    name += &of_warehouses(warehouses);
                }
                name + &through(gateways)
            }
            Self::Joins { gateways } => format!("joins, {MANY} connections{}", through(gateways)),
            Self::Board => format!("boards, {MANY} connections"),
            Self::SoldOut => format!("sold-out answers, {MANY} connections"),
            Self::Generator => format!("our generator at the ceiling, {MANY} connections"),
            Self::Wrk => format!("wrk at the ceiling, {MANY} connections"),
            Self::HalfLoad { way, warehouses } => {
                format!("{}, at half of the tokens' rate{}", way.name(), of_warehouses(warehouses))
            }
            Self::Settled => "tokens to settled orders, 64 connections".to_owned(),
        }
    }
}

/// For the name of a probe: of one gateway nothing is said.
fn through(gateways: usize) -> String {
    if gateways == 1 { String::new() } else { format!(", {gateways} gateways") }
}

/// For the name of a probe: nothing is said of the usual number.
fn of_warehouses(warehouses: u32) -> String {
    match warehouses {
        WAREHOUSES => String::new(),
        1 => ", 1 warehouse".to_owned(),
        more => format!(", {more} warehouses"),
    }
}
