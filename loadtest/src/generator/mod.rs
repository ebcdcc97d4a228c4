//! The generator: what is sent, when, and what was answered. It knows the API's requests and nothing of the engine.
//!
//! Two modes. The open one ([`open`]) is what load tests mean by latency; the closed one ([`closed`]) only finds the rate at
//! which a server is saturated.

// In reading order.
pub mod schedule;
pub mod scenario;
pub mod buyers;
pub mod wire;
pub mod tally;
mod profiles;
mod ticker;
pub mod open;
pub mod closed;

pub(crate) use buyers::id_of;
pub use buyers::{Ask, Buyers, DropPaths};
pub use closed::{ClosedResult, ClosedRun};
pub use open::{OpenResult, OpenRun};
pub use profiles::save_profiles;
pub use scenario::{Action, Planned, Scenario};
pub use schedule::{BadSchedule, Schedule, Spacing, Stage};
pub(crate) use tally::SLICE;
pub use tally::{Outcome, Percentiles, Tally};
