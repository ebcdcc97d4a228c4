//! The gateway over real HTTP, in front of a real Redis and Postgres. One database and one drop a test.

pub(crate) mod shop;
pub(crate) mod admin;
mod refusals;
mod carts;
mod checkout;
mod claims;
mod whole_price;
mod orders;
mod fulfilment;
mod webhooks;
mod surface;
mod described;
mod schema;
mod clients;
mod matrix;
mod pairs;
mod schemathesis;
mod line;
mod draw_page;
mod standby;
mod catalog;
mod drafts;
mod crowded;
mod stopping;
mod stores;
mod connections;
