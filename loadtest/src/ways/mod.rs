//! Ways to answer `POST /v1/drops/{drop}/claims` that are measured against each other.
//!
//! All of them run behind the same listener, router, token check, parsing and limits, and answer with the same bytes: what
//! differs is only what happens between the request that is understood and the answer that is written.

mod shelves;
mod sql;

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use axum::routing::{MethodRouter, post};
use clap::ValueEnum;
use doorbuster::auth::Buyer;
use doorbuster::error::Problem;
use doorbuster::extract::{JsonBody, Key, PathText};
use doorbuster::routes::claims::{Asked, CLAIM_BODY_BYTES, Held, NewClaim, answer, asked};
use doorbuster::state::Gate;
use doorbuster_engine::domain::claims::Acknowledgement;
use doorbuster_engine::domain::drops::WAREHOUSES_PER_PRIMARY;
use doorbuster_engine::domain::ids::{Epoch, Serial};
use doorbuster_engine::domain::stock::StockWay;
use doorbuster_engine::tokens::store::Outcome;

pub(crate) use shelves::order as order_of_goods;
pub use sql::{SqlShop, prepare};

/// As many digits as the serials of the drops that the others are measured with.
const SOME_SERIAL: Serial = Serial(100_000_000);

/// What happens between request and answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, ValueEnum)]
pub enum Way {
    /// The product: tokens, batched.
    Tokens,
    /// Nothing: the ceiling of all others.
    Ceiling,
    /// The product's claim script, once for each request.
    SingleEvalsha,
    /// The product's `row_lock`: `SELECT … FOR UPDATE` on one row of stock.
    RowLock,
    /// The product's `warehouses`: one of ten rows, chosen at random.
    TenRows,
    /// The product's `optimistic`: one row with a version; read, write if nobody else has, again otherwise.
    Optimistic,
    /// `FOR UPDATE` on one row, with everything that an order needs in the same statement: no round trip under the lock.
    OneStatement,
    /// A row for each unit; the next one that nobody has locked; in one statement too.
    SkipLocked,
}

impl Way {
    pub fn name(self) -> &'static str {
        match self {
            Self::Tokens => "tokens",
            Self::Ceiling => "ceiling",
            Self::SingleEvalsha => "one EVALSHA per request",
            Self::RowLock => "FOR UPDATE, one row",
            Self::TenRows => "FOR UPDATE, ten rows",
            Self::Optimistic => "optimistic, one row",
            Self::OneStatement => "FOR UPDATE in one statement, one row",
            Self::SkipLocked => "SKIP LOCKED, row per unit",
        }
    }

    /// The order is written before the answer; the others leave it to settlement.
    pub fn is_sql(self) -> bool {
        self.shelves().is_some() || matches!(self, Self::OneStatement | Self::SkipLocked)
    }

    /// The product sells what lies on shelves this way.
    pub fn shelves(self) -> Option<StockWay> {
        match self {
            Self::RowLock => Some(StockWay::RowLock),
            Self::TenRows => Some(StockWay::Warehouses),
            Self::Optimistic => Some(StockWay::Optimistic),
            _ => None,
        }
    }

    /// Rows of stock, or warehouses of tokens, of a drop that is sold this way.
    pub const fn rows(self) -> u32 {
        match self {
            Self::RowLock | Self::Optimistic | Self::OneStatement | Self::SkipLocked => 1,
            Self::TenRows => 10,
            Self::Tokens | Self::Ceiling | Self::SingleEvalsha => WAREHOUSES_PER_PRIMARY,
        }
    }
}

/// The answer to a claim by this way. `None` for the product's own, which needs no replacement.
pub fn replacement(way: Way, shop: SqlShop) -> Option<MethodRouter<Gate>> {
    match way {
        Way::Tokens => None,
        Way::Ceiling => Some(post(ceiling)),
        Way::SingleEvalsha => Some(post(single_evalsha)),
        Way::RowLock | Way::TenRows | Way::Optimistic | Way::OneStatement | Way::SkipLocked => {
            let shop = Arc::new(shop);
            let handler = move |gate: State<Gate>, buyer: Buyer, key: Key, drop: PathText, new: Claimed| {
                order(Arc::clone(&shop), way, gate, buyer, key, drop, new)
            };
            Some(post(handler))
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ordered {
    Made,
    /// The same order was made before.
    Before,
    SoldOut,
}

type Claimed = JsonBody<NewClaim, CLAIM_BODY_BYTES>;

async fn ceiling(
    State(gate): State<Gate>,
    Buyer(buyer): Buyer,
    Key(key): Key,
    PathText(drop): PathText,
    JsonBody(new): Claimed,
) -> Result<Response, Problem> {
    let asked = asked(&gate, buyer, &key, &drop, &new).await?;
    Ok(answer(&gate, &asked, &held(vec![SOME_SERIAL], false)))
}

/// Over the product's own connections, which send what many requests ask for one behind the other without waiting.
async fn single_evalsha(
    State(gate): State<Gate>,
    Buyer(buyer): Buyer,
    Key(key): Key,
    PathText(drop): PathText,
    JsonBody(new): Claimed,
) -> Result<Response, Problem> {
    let asked = asked(&gate, buyer, &key, &drop, &new).await?;
    let Asked { live, claim } = &asked;
    let home = *live.home_of(&claim.buyer);
    let now_ms = gate.engine.clock.now().as_millisecond();
    let outcomes = live.store(&home).claim(now_ms, std::slice::from_ref(claim)).await;
    match outcomes.map(|outcomes| outcomes.into_iter().next()) {
        Ok(Some(Outcome::Taken(serials))) => Ok(answer(&gate, &asked, &held(serials, false))),
        Ok(Some(Outcome::Replayed(serials))) => Ok(answer(&gate, &asked, &held(serials, true))),
        Ok(Some(Outcome::Short { .. })) => Err(Problem::SoldOut),
        Ok(_) | Err(_) => Err(Problem::Unavailable),
    }
}

/// Written before it is answered.
async fn order(
    shop: Arc<SqlShop>,
    way: Way,
    State(gate): State<Gate>,
    Buyer(buyer): Buyer,
    Key(key): Key,
    PathText(drop): PathText,
    JsonBody(new): Claimed,
) -> Result<Response, Problem> {
    let asked = asked(&gate, buyer, &key, &drop, &new).await?;
    let (drop, claim) = (&asked.live.drop, &asked.claim);
    let ordered = match way.shelves() {
        Some(reserve) => shelves::order(&gate.engine, reserve, drop, claim).await,
        None => shop.order(way, drop, claim, gate.engine.clock.now()).await.map_err(anyhow::Error::from),
    };
    match ordered {
        Ok(Ordered::Made) => Ok(answer(&gate, &asked, &held(vec![SOME_SERIAL], false))),
        Ok(Ordered::Before) => Ok(answer(&gate, &asked, &held(vec![SOME_SERIAL], true))),
        Ok(Ordered::SoldOut) => Err(Problem::SoldOut),
        Err(error) => {
            tracing::warn!(%error, "an order could not be made: {error}");
            Err(Problem::Unavailable)
        }
    }
}

fn held(serials: Vec<Serial>, is_replay: bool) -> Held {
    Held { serials, acknowledgement: Acknowledgement::Accepted, epoch: Epoch(1), is_replay }
}
