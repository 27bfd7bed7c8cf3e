//! The in-memory grid: rows, locks, the log and its state machine, ripening. Talks to Postgres only through the cache store.

pub use ripen_cachestore::change;

pub mod clock;
pub mod cluster;
pub mod desk;
pub mod feed;
pub mod fences;
pub mod flusher;
pub mod grid;
pub mod kept;
pub mod leader;
pub mod limits;
pub mod loader;
pub mod log;
pub mod machine;
pub mod marks;
pub mod memory;
pub mod mistake;
pub mod node;
pub mod ownership;
pub mod peers;
pub mod record;
pub mod requester;
pub mod requests;
pub mod rescue;
pub mod ripening;
pub mod rows;
pub mod schedule;
pub mod scope;
pub mod settlement;
pub mod thread;
