//! What Postgres says: wire messages, types, values, SQLSTATEs, replication messages. No IO, no async, no state of the proxy.

pub mod auth;
pub mod ids;
pub mod key;
pub mod replication;
pub mod sqlstate;
pub mod tuple;
pub mod value;
pub mod wire;
