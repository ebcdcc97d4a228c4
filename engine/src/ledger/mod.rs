//! The ledger: the only user of Postgres, and the truth.
//!
//! Every transaction goes through `run_tx!` and takes its locks in this order, so that no two can wait for each
//! other: an operator's request, a buyer, a checkout, drops, lines, their counters, their entries (by number), lines of standby
//! (by variant), warehouses (by id), checkout profiles, customers, cards, pages that save cards, orders, payments, tokens (by serial), holdings, places in standby, inventory (by variant and warehouse), outbox.

mod address;
pub mod pool;
mod tx;
mod group;
pub mod migrate;
pub mod facts;
mod requests;
pub mod catalog;
pub mod showcase;
pub mod stock;
pub mod imports;
pub mod drops;
pub mod drafts;
pub mod drop_figures;
pub mod grants;
pub mod rest;
pub mod readings;
pub mod restocks;
pub mod standby;
pub mod line;
pub mod lost;
pub mod answered;
pub mod awards;
pub mod profiles;
pub mod customers;
pub mod setups;
pub mod rates;
pub mod for_sale;
mod reservations;
pub mod checkouts;
pub mod settlements;
mod settlement_rows;
pub mod poison;
pub mod orders;
mod locked_order;
pub mod attempts;
pub mod payments;
pub mod news;
pub mod reconcile;
pub mod reviews;
pub mod finance;
mod credits;
pub mod documents;
pub mod refunds;
pub mod fulfilment;
pub mod returns;
pub mod order_pages;
pub mod order_details;
pub mod erasures;
mod journal;
pub mod outbox;
pub mod audit;
pub mod error;

pub use error::LedgerError;
pub use pool::Ledger;
