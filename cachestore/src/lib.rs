//! The system of record as Ripen sees it: catalog, loads, flush transactions, dead letters. Never decides what is ripe or cached; the grid does.

pub mod advisory;
pub mod backends;
pub mod catalog;
pub mod change;
pub mod claim;
pub mod dead_letter;
pub mod dial;
pub mod error;
pub mod failpoint;
pub mod flush;
pub mod home;
pub mod limits;
pub mod load;
pub mod migrate;
pub mod prepared;
pub mod progress;
pub mod sequence;
pub mod server;
pub mod standing;
pub mod store;
pub mod upstream;

mod raw;
mod sql;

pub use error::{Class, StoreError};
pub use store::Store;
pub use upstream::Upstream;
