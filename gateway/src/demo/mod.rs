//! The demo: a whole sale on private servers, from an empty folder to the audit. Nothing in it is a mock: the buyers come
//! over HTTP, the tokens lie in a real Redis, the orders in a real Postgres; only the payment provider is ours, and it is
//! reached over HTTP as well.

mod options;
mod sale;
mod report;
mod screen;

pub use options::DemoOptions;
pub use report::DemoReport;
pub use sale::Demo;
pub use screen::Screen;
