//! This node among others: its number, what may be asked of it from outside, and how its folder is recovered. Never talks to other nodes itself; `ripen_grid::cluster` does.

pub mod control;
pub mod identity;
pub mod recovery;
