//! The engine's tests again, on a Redis Cluster of three primaries and three replicas; and what only a cluster can do.

#[path = "../engine/harness.rs"]
mod harness;
#[path = "../engine/counters.rs"]
mod counters;
#[path = "../engine/claims.rs"]
mod claims;
#[path = "../engine/pulls.rs"]
mod pulls;
#[path = "../engine/sellout.rs"]
mod sellout;
#[path = "../engine/stalls.rs"]
mod stalls;
#[path = "../engine/lifecycle.rs"]
mod lifecycle;
#[path = "../engine/settlement.rs"]
mod settlement;
#[path = "../engine/payments.rs"]
mod payments;
#[path = "../engine/standby.rs"]
mod standby;
#[path = "../engine/forgetting.rs"]
mod forgetting;
#[path = "../engine/audit.rs"]
mod audit;
#[path = "../engine/carts.rs"]
mod carts;
#[path = "../engine/shelves.rs"]
mod shelves;
#[path = "../engine/checkout.rs"]
mod checkout;
mod failover;

const SHARED_REDIS_IS_A_CLUSTER: bool = true;
