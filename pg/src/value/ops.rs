//! Postgres's operators, casts and functions on [`Value`]s, with Postgres's errors. Never coerces more than Postgres's operator resolution does
//! for two known types; untyped literals are the caller's to resolve first. All functions are strict: with a NULL argument do not call them.

mod arithmetic;
mod cast;
mod compare;
mod json;
mod text;
mod time;

pub use arithmetic::{Arithmetic, abs, arithmetic, ceil, floor, negate, round, sign, trunc};
pub use cast::{CastKind, cast};
pub use compare::{TextOrder, compare, compare_enum, equal};
pub use json::{JsonKey, json_concat, json_field, json_has, json_set, json_text, json_without};
pub use text::{TrimSide, concat, length, lower, octet_length, substring, trim, upper};
