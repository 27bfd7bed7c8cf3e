//! The harness of the whole-system tests: a Postgres of one's own, a Ripen or a cluster of them in front of it, clients to both. Never reaches into Ripen: what it
//! sees is what any client, any Prometheus and any DBA sees.

pub mod answers;
pub mod both;
pub mod cluster;
pub mod history;
pub mod lists;
pub mod network;
pub mod pair;
pub mod parity;
pub mod postgres;
pub mod ripen;
pub mod script;
pub mod specs;
pub mod three;
pub mod wait;
pub mod wire;

pub use both::Both;
pub use cluster::Cluster;
pub use pair::Pair;
pub use postgres::Postgres;
pub use ripen::Ripen;
pub use three::Three;
