//! The store against a real Postgres: what the catalog says, what loads see, what flushes do. Starts its own server; uses nobody else's.
#![allow(clippy::unwrap_used, missing_docs)]

mod catalog;
mod changes;
mod claim;
mod dial;
mod flush;
mod guard;
mod home;
mod load;
mod progress;
mod refused;
mod relay;
mod schema;
mod sequence;
mod server;
mod succession;
mod take_over;
