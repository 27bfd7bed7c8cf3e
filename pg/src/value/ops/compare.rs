//! Equality and order. Never orders text under a collation other than `C`.

use super::arithmetic::{Integer, exact};
use super::cast::{date_to_timestamp, to_float8};
use crate::value::key::without_trailing_blanks;
use crate::value::{Unsupported, Value};
use std::cmp::Ordering;

/// What is known of the collation that applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TextOrder {
    /// `C` or `POSIX`: order of bytes.
    C,
    /// Deterministic (equal means equal bytes), order unknown.
    Unknown,
}

/// `left < = > right`, with numbers of different types compared as Postgres does. Equal text is equal under any deterministic collation.
pub fn compare(
    left: &Value<'_>,
    right: &Value<'_>,
    order: TextOrder,
) -> Result<Ordering, Unsupported> {
    if let (Some(left), Some(right)) = (Integer::of(left), Integer::of(right)) {
        return Ok(left.number.cmp(&right.number));
    }
    Ok(match (left, right) {
        (Value::Bool(left), Value::Bool(right)) => left.cmp(right),
        (Value::Oid(left), Value::Oid(right)) => left.cmp(right),
        (Value::Bytea(left), Value::Bytea(right)) => left.cmp(right),
        (Value::Uuid(left), Value::Uuid(right)) => left.cmp(right),
        (Value::Date(left), Value::Date(right)) => left.cmp(right),
        (Value::Time(left), Value::Time(right))
        | (Value::Timestamp(left), Value::Timestamp(right))
        | (Value::Timestamptz(left), Value::Timestamptz(right)) => left.cmp(right),
        (Value::Date(left), Value::Timestamp(right)) => as_timestamp(*left)?.cmp(right),
        (Value::Timestamp(left), Value::Date(right)) => left.cmp(&as_timestamp(*right)?),
        (Value::Interval(left), Value::Interval(right)) => left.order(right),
        (Value::Name(left), Value::Name(right)) => left.as_bytes().cmp(right.as_bytes()),
        (Value::Jsonb(left), Value::Jsonb(right)) if left == right => Ordering::Equal,
        _ => match (characters(left, right), characters(right, left)) {
            (Some(left), Some(right)) => text(left, right, order)?,
            _ => numbers(left, right)?,
        },
    })
}

/// `left = right`.
pub fn equal(left: &Value<'_>, right: &Value<'_>) -> Result<bool, Unsupported> {
    match (characters(left, right), characters(right, left)) {
        (Some(left), Some(right)) => Ok(left == right),
        _ => compare(left, right, TextOrder::Unknown).map(Ordering::is_eq),
    }
}

/// Compares two labels of an enum by their place among `labels` (in sort order).
pub fn compare_enum(labels: &[String], left: &str, right: &str) -> Result<Ordering, Unsupported> {
    let place = |label: &str| labels.iter().position(|known| known == label);
    let (left, right) = (place(left), place(right));
    Ok(left.ok_or(Unsupported)?.cmp(&right.ok_or(Unsupported)?))
}

/// The bytes of a character value that count when it meets `other`; `None` where it is unclear which operator Postgres takes.
fn characters<'a>(value: &'a Value<'_>, other: &Value<'_>) -> Option<&'a [u8]> {
    let other_is_padded = matches!(other, Value::Bpchar(_));
    match value {
        Value::Bpchar(text) => Some(without_trailing_blanks(text.as_bytes())),
        // As bpchar the blanks would not count, as text they would.
        Value::Text(text) if other_is_padded && text.ends_with(' ') => None,
        Value::Name(_) if other_is_padded => None,
        Value::Text(text) | Value::Name(text) => Some(text.as_bytes()),
        _ => None,
    }
}

fn text(left: &[u8], right: &[u8], order: TextOrder) -> Result<Ordering, Unsupported> {
    match order {
        TextOrder::C => Ok(left.cmp(right)),
        TextOrder::Unknown if left == right => Ok(Ordering::Equal),
        TextOrder::Unknown => Err(Unsupported),
    }
}

fn numbers(left: &Value<'_>, right: &Value<'_>) -> Result<Ordering, Unsupported> {
    if let (Some(left), Some(right)) = (exact(left), exact(right)) {
        return Ok(left.order(&right));
    }
    let float = |value: &Value<'_>| to_float8(value).map_err(|_| Unsupported);
    let (left, right) = (float(left)?, float(right)?);
    // NaN equals itself and is above everything; the two zeros are equal.
    let order = left.partial_cmp(&right);
    Ok(order.unwrap_or_else(|| left.is_nan().cmp(&right.is_nan())))
}

fn as_timestamp(days: i32) -> Result<i64, Unsupported> {
    date_to_timestamp(days).map_err(|_| Unsupported)
}
