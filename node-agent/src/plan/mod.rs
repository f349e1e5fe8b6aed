//! Desired minus actual gives ordered, idempotent operations.
//!
//! ```text
//! set_service ─► claims ─► ports ──┐ prepare   write backends, blocks, source ranges: nobody sees them yet
//!                                  │ remove    frontends that nobody wants any more, whole addresses first
//!                                  │ flip      one write makes a frontend name the new block; whole addresses last
//!                                  │ retire    removed backends lose ALIVE, old blocks are set aside
//!                                  ▼ reclaim   once no reader is left, their room is free again
//! ```
//!
//! Invariants: after every prefix of the operations each frontend names only
//! blocks of valid backends of its own service port; what stands in the tables in
//! the end depends on the services given, not on their history (ids aside); a
//! failed operation is tried again and costs nobody else anything.
//!
//! This module computes and records; the writes themselves go through
//! [`ServiceTables`]. It must not know BPF, clocks, or where objects come from.

mod adopt;
mod apply;
mod frontend;
mod ids;
mod maglev;
mod op;
mod port;
mod ranges;
mod room;
mod services;
mod source_ranges;

pub use adopt::Snapshot;
pub use apply::Outcome;
pub use op::{Op, ServiceTables};
pub use room::{Capacities, Usage};
pub use services::{NoLocalEndpoints, Owner, ServicePlan};
