//! Sessions, planning, evaluation, upstream connections. The binary `ripen` is built from this.

pub mod accept;
pub mod admin;
pub mod cancels;
pub mod carriers;
pub mod cli;
pub mod commands;
pub mod config;
pub mod engine;
pub mod eval;
pub mod limits;
mod login;
pub mod logins;
pub mod metrics;
pub mod nodes;
pub mod plan;
mod portals;
pub mod registry;
mod relay;
pub mod server;
pub mod session;
pub mod template;
pub mod tls;
mod upstream;
