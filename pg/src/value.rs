//! What the values of Postgres's built-in types mean: text and binary forms, keys, operators, casts. Never guesses: a case that is not
//! exactly what Postgres would do is [`Unsupported`], and the caller passes the statement through.
//!
//! Everywhere "binary form" is what the type's `send` function gives. NULL is the caller's business (`Option`), so are domains (resolve them
//! first) and enums (use [`ENUM_AS`] for their labels). Text is UTF-8: sessions of other encodings must not come here.

mod calendar;
mod data;
mod increment;
mod interval;
pub mod key;
mod numeric;
pub mod oid;
pub mod ops;
mod parse;
mod render;
mod settings;
mod typmod;
mod zone;

pub use data::Value;
pub use increment::{add, additive, negate, sum};
pub use interval::Interval;
pub use numeric::Numeric;
pub use parse::{parse_enum, parse_text};
pub use render::render_text;
pub use settings::{DateOrder, DateStyle, IntervalStyle, Settings};
pub use typmod::coerce_typmod;

use crate::ids::TypeOid;
use std::borrow::Cow;

/// Under which type an enum's binary form (its label) is rendered, kept and used as a key. Order is by [`ops::compare_enum`].
pub const ENUM_AS: TypeOid = oid::TEXT;

/// Not surely what Postgres would do; the statement goes to Postgres.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not computed here")]
pub struct Unsupported;

/// An error exactly as Postgres would raise it (severity ERROR; no position, no context).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ValueError {
    /// SQLSTATE.
    pub sqlstate: &'static str,
    /// Primary message.
    pub message: Cow<'static, str>,
    /// DETAIL, where Postgres gives one.
    pub detail: Option<String>,
}

impl ValueError {
    pub(crate) fn new(sqlstate: &'static str, message: impl Into<Cow<'static, str>>) -> ValueError {
        ValueError {
            sqlstate,
            message: message.into(),
            detail: None,
        }
    }

    pub(crate) fn with_detail(mut self, detail: String) -> ValueError {
        self.detail = Some(detail);
        self
    }
}

/// Why a computation has no result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// Postgres raises this very error.
    #[error(transparent)]
    Sql(#[from] ValueError),
    /// Unknown here; the statement goes to Postgres.
    #[error("not computed here")]
    Refused,
}

/// Why a text is not a value. The same two cases as everywhere.
pub type ParseError = Failure;

impl From<Unsupported> for Failure {
    fn from(_: Unsupported) -> Failure {
        Failure::Refused
    }
}

/// Whether values of this type can be rendered as text ([`render_text`]) under common settings. Single values may still be refused.
pub fn supports(type_oid: TypeOid) -> bool {
    oid::is_scalar(type_oid) || oid::array_element(type_oid).is_some()
}
