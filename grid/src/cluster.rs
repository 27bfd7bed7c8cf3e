//! How nodes talk: who may (`keys`), what is said (`frame`, `hello`), the connections that carry it (`link`,
//! `listener`), and whose voices count (`membership`).

pub mod frame;
pub mod hello;
pub mod keys;
mod limits;
pub mod link;
pub mod listener;
pub mod membership;
pub mod tcp;

pub use hello::{Identity, Refusal};
pub use keys::{Keys, KeysError};
pub use link::Links;
pub use listener::{Handler, serve};
