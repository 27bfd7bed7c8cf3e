//! This node among others: its number, and what may be asked of it from outside. Never talks to other nodes itself; `ripen_grid::cluster` does.

pub mod control;
pub mod identity;
