//! The program `doorbuster` as a library, so that tests, the demo and load tests can start the gateway in process.
//!
//! Modules stand in reading order. The gateway translates: HTTP to the engine's words and back. It decides nothing about
//! stock or money, and it is the only part that reads the environment (config.rs) or knows error statuses (error.rs).

mod secret;
pub mod config;
pub mod exit;
pub mod logging;
pub mod files;
pub mod steps;
pub mod commands;
pub mod places;
pub mod server;
pub mod state;
pub mod auth;
pub mod shopper;
pub mod anonymous;
pub mod pages;
pub mod bundles;
pub mod showcase;
pub mod operators;
pub mod receipt;
pub mod error;
pub mod extract;
pub mod etag;
pub mod page;
pub mod routes;
pub mod import;
mod middleware;
pub mod words;
pub mod openapi;
pub mod static_page;
pub mod docs_page;
pub mod draw_page;
pub mod documents;
pub mod telemetry;
pub mod demo;

pub use config::{GatewayConfig, Secret};
pub use server::{Gateway, RunningGateway, Workers, serve};
