//! The engine against a real Redis, a real Postgres and the fake provider over HTTP. One binary, one pair of servers;
//! every test has a database and a drop of its own.

mod harness;
mod counters;
mod claims;
mod acknowledgement;
mod pulls;
mod sellout;
mod stalls;
mod standby;
mod tls;
mod lifecycle;
mod settlement;
mod poison;
mod postgres_away;
mod payments;
mod cancels;
mod captures;
mod refunds;
mod fulfilment;
mod returns;
mod order_pages;
mod erasures;
mod mails;
mod webhooks;
mod charging;
mod reconcile;
mod forgetting;
mod audit;
mod stock;
mod imports;
mod carts;
mod cart_model;
mod shelves;
mod checkout;
mod reservations;
mod schema;

/// The tests that need no server of their own run on a cluster too: `tests/cluster/main.rs`.
const SHARED_REDIS_IS_A_CLUSTER: bool = false;
