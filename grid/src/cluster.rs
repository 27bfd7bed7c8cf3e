//! How nodes talk: who may (`keys`), what is said (`frame`, `hello`), and the connections that carry it (`link`, `listener`). Knows nothing of what is asked.

pub mod frame;
pub mod hello;
pub mod keys;
mod limits;
pub mod link;
pub mod listener;
pub mod tcp;

pub use hello::{Identity, Refusal};
pub use keys::{Keys, KeysError};
pub use link::Links;
pub use listener::{Handler, serve};
