//! The log from outside: what it keeps through restarts, crashes, faults and kills. Never looks at its insides, except to damage files.

#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a test stops at what it did not expect"
)]

mod behaviour;
mod cluster;
mod crash;
mod damage;
mod group;
mod kill;
mod support;
