//! Sessions through the proxy, compared byte for byte with sessions without it, against a real Postgres.

#![allow(clippy::unwrap_used)]

mod away;
mod login;
mod memory;
mod mixed;
mod parity;
mod postgres;
mod proxy;
mod raw;
mod snapshots;
mod tls;
