//! How nodes talk: who may (`keys`), what is said (`frame`, `hello`), the connections that carry it (`link`,
//! `listener`), whose voices count (`membership`),
//! who may answer from memory (`lease`), and how the cluster is (`status`).

mod control;
pub mod frame;
pub mod hello;
pub mod keys;
pub mod lease;
mod leases;
mod limits;
pub mod link;
pub mod listener;
pub mod member;
pub mod membership;
mod seeds;
pub mod status;
pub mod tcp;

pub use hello::{Identity, Refusal};
pub use keys::{Keys, KeysError};
pub use link::Links;
pub use listener::{Handler, serve};
pub use member::{
    Cancels, Desk, DrainError, Handle, Lane, Member, MemberError, MemberOptions, Operator, Relay,
    Returned,
};
