//! What is another path on a Redis Cluster: scripts on the node that has the warehouse, units that move between nodes, nodes that
//! forget, carts in slots of their own. The same tests as on one server, on three primaries and three replicas; and what only a
//! cluster can do. `make soak` runs all the others there as well.

#[expect(dead_code, reason = "the tests on one server need more of it")]
#[path = "../engine/harness.rs"]
mod harness;
#[path = "../engine/claims.rs"]
mod claims;
#[path = "../engine/pulls.rs"]
mod pulls;
#[path = "../engine/forgetting.rs"]
mod forgetting;
#[path = "../engine/carts.rs"]
mod carts;
mod failover;
#[path = "../engine/wire.rs"]
mod wire;
mod refusals;

const IS_FOR_CLUSTERS: bool = true;
