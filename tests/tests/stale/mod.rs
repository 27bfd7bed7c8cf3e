//! Sessions and the model that they are held against. Never looks into Ripen.

pub mod model;
pub mod session;
