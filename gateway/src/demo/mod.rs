//! The demo: a whole sale on private servers, from an empty folder to the audit. Nothing in it is a mock: the buyers come
//! over HTTP, the tokens lie in a real Redis, the orders in a real Postgres; only the payment provider is ours, and it is
//! reached over HTTP as well. With `--chaos` gateway and worker are processes of their own, and all of them are killed in the
//! middle of the sale.

mod options;
mod sale;
mod line;
mod line_chaos;
mod shop;
mod chaos;
mod timeline;
mod facts;
mod report;
mod line_report;
mod screen;

pub use facts::store_facts;
pub use line::LineDemo;
pub use line_report::{LineReport, LineStores, in_vain};
pub use options::DemoOptions;
pub use report::DemoReport;
pub use sale::Demo;
pub use screen::Screen;
pub use shop::{Processes, Shop};
pub use timeline::{CallsHit, Event, Hit, Target, Timeline, What};
