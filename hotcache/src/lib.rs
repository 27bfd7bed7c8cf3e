//! The hot cache: follows Postgres's own WAL as a logical replication client, so that changes made by anyone reach the grid. Never writes user data, never decides what a cached
//! row becomes; the grid does.
//!
//! ```text
//! Postgres ── CopyBoth ──► connection ──► stream (decides) ──► Event ──► the grid
//!     ▲                        │
//!     └── status: passed ◄─────┘  only what was handed over
//! ```
//! Among several nodes one does this for all: see [`relay`].

pub mod client;
pub mod error;
pub mod event;
pub mod limits;
pub mod publication;
pub mod relay;
pub mod shape;
pub mod slots;
pub mod stream;

mod backoff;
mod connection;
mod slot;
mod table;

pub use client::{HotCache, Options, Prober, Shared, Sink};
pub use event::{Event, Outcome, OwnFlush, RowOutcome, Transaction};
