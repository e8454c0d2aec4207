//! The registry of a worker's connections, with their live counts and a command slot for each.
//!
//! Everything belongs to one worker thread. A sweep at every [`TICK`] replaces a timer and an atomic for each
//! connection. It adds the moved bytes to the shared metrics and finds silent connections. It wakes a relay only if
//! the relay has work to do. Drain deadlines and closes go through the command slots.
//!
//! A worker that has much more to do than another gives connections away (`loads`). The connections of a
//! backend that is down are closed one after the other (`closing`). An operator lists, describes and closes connections
//! by tasks that walk the registry in slices (`requests`). Such a task also orders the records of open
//! connections for the access log (`log_orders`). The server names and sources with the most new connections are counted in
//! a fixed memory (`top`).

mod card;
mod closing;
mod command;
mod entry;
mod filter;
mod glob;
mod intervals;
mod legs;
mod listing;
mod loads;
pub mod log_orders;
mod page;
mod peer_timeouts;
mod registry;
pub mod requests;
mod space_saving;
mod stage;
mod tallies;
#[cfg(test)]
mod tests;
mod top;
mod view;
mod walk;

pub use card::ConnectionCard;
pub use closing::{CloseNotice, CloseOrder, ClosePace, CloseSelection};
pub use command::{ConnectionCommand, MoveTarget};
pub use entry::{ConnectionEntry, ConnectionGroup, HandedEntry, MigratingEntry, TICK};
pub use filter::{BackendFilter, ConnectionFilter};
pub use glob::NameGlob;
pub use intervals::LoggedProgress;
pub use legs::{ConnectionLeg, ConnectionLegs};
pub use listing::{OpenConnection, OpenConnections};
pub use loads::{Loads, WorkerSlot};
pub use page::{ConnectionPage, ConnectionQuery, ConnectionSort, PageBuilder};
pub use peer_timeouts::PeerTimeouts;
pub use registry::{ConnectionRegistry, RegistryGuard};
pub use space_saving::{HeavyItem, HeavyItems, SpaceSaving};
pub use stage::{OpenStage, StageCounts};
pub use tallies::ConnectionTallies;
pub use top::{TOP_SLOTS, TOP_WINDOW, TopCounts, TopItems};
pub use view::{ConnectionFigures, ConnectionRow, ConnectionView};
