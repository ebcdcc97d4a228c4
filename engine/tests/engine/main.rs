//! The engine against a real Redis, a real Postgres and the fake provider over HTTP. One binary, so that it is linked once;
//! every test has a database and a drop of its own.

mod tidy;
mod provider;
mod model;
mod harness;
mod counters;
mod claims;
mod acknowledgement;
mod pulls;
mod sellout;
mod stalls;
mod wire;
mod refusals;
mod standby;
mod tls;
mod lifecycle;
mod drafts;
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
mod lost_keys;
mod lost_claims;
mod audit;
mod stock;
mod imports;
mod carts;
mod cart_model;
mod shelves;
mod checkout;
mod reservations;
mod schema;

/// Some of them run on a cluster too: `tests/cluster/main.rs`. `DOORBUSTER_TEST_ON=cluster` puts all of them there.
const IS_FOR_CLUSTERS: bool = false;
