//! Functions on text. Never touches case beyond what every locale agrees on.

use super::TextOrder;
use super::cast::to_text;
use crate::value::{Failure, Settings, Value, ValueError};

/// Which ends [`trim`] trims.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TrimSide {
    /// `btrim`, `trim(both …)`
    Both,
    /// `ltrim`, `trim(leading …)`
    Leading,
    /// `rtrim`, `trim(trailing …)`
    Trailing,
}

type Computed = Result<Value<'static>, Failure>;

/// `left || right` of two character strings, of one and a number or boolean, or of two `bytea`.
pub fn concat(left: &Value<'_>, right: &Value<'_>) -> Computed {
    if let (Value::Bytea(left), Value::Bytea(right)) = (left, right) {
        return Ok(Value::Bytea([&left[..], &right[..]].concat().into()));
    }
    if text_of(left).is_err() && text_of(right).is_err() {
        return Err(Failure::Refused);
    }
    Ok(Value::Text((part(left)? + &part(right)?).into()))
}

/// `length(value)`, in characters (`bytea`: bytes).
pub fn length(value: &Value<'_>) -> Computed {
    match value {
        Value::Bytea(bytes) => count(bytes.len()),
        _ => count(text_of(value)?.chars().count()),
    }
}

/// `octet_length(value)`
pub fn octet_length(value: &Value<'_>) -> Computed {
    match value {
        Value::Bytea(bytes) => count(bytes.len()),
        // Here the padding counts.
        Value::Text(text) | Value::Bpchar(text) => count(text.len()),
        _ => Err(Failure::Refused),
    }
}

/// `lower(value)` under a collation of that order.
pub fn lower(value: &Value<'_>, order: TextOrder) -> Computed {
    let text = cased(value, order, 'I')?;
    Ok(Value::Text(text.to_ascii_lowercase().into()))
}

/// `upper(value)` under a collation of that order.
pub fn upper(value: &Value<'_>, order: TextOrder) -> Computed {
    let text = cased(value, order, 'i')?;
    Ok(Value::Text(text.to_ascii_uppercase().into()))
}

/// `substring(value, start)`, or with `length`; also called `substr`. `start` counts from 1, and may be below.
pub fn substring(value: &Value<'_>, start: i32, length: Option<i32>) -> Computed {
    let text = text_of(value)?;
    if length.is_some_and(|length| length < 0) {
        let message = "negative substring length not allowed";
        return Err(ValueError::new("22011", message).into());
    }
    let skipped = i64::from(start).max(1) - 1;
    let end = match length {
        // A sum that overflows means: to the end.
        Some(length) => start.checked_add(length).map_or(i64::MAX, i64::from),
        None => i64::MAX,
    };
    let kept = (end - 1 - skipped).max(0);
    let to_size = |number: i64| usize::try_from(number).unwrap_or(usize::MAX);
    let part: String = text
        .chars()
        .skip(to_size(skipped))
        .take(to_size(kept))
        .collect();
    Ok(Value::Text(part.into()))
}

/// `btrim`, `ltrim`, `rtrim`: strips the characters of `set` (`None`: the blank).
pub fn trim(side: TrimSide, value: &Value<'_>, set: Option<&str>) -> Computed {
    let text = text_of(value)?;
    let set = set.unwrap_or(" ");
    let in_set = |c: char| set.contains(c);
    let trimmed = match side {
        TrimSide::Both => text.trim_matches(in_set),
        TrimSide::Leading => text.trim_start_matches(in_set),
        TrimSide::Trailing => text.trim_end_matches(in_set),
    };
    Ok(Value::Text(trimmed.to_owned().into()))
}

/// A character value as `text`: without padding.
fn text_of<'a>(value: &'a Value<'_>) -> Result<&'a str, Failure> {
    match value {
        Value::Text(text) | Value::Name(text) => Ok(text),
        Value::Bpchar(text) => Ok(text.trim_end_matches(' ')),
        _ => Err(Failure::Refused),
    }
}

/// One side of `||`: types whose text depends on no setting.
fn part(value: &Value<'_>) -> Result<String, Failure> {
    match value {
        Value::Text(_) | Value::Bpchar(_) | Value::Name(_) => Ok(text_of(value)?.to_owned()),
        Value::Bool(_)
        | Value::Int2(_)
        | Value::Int4(_)
        | Value::Int8(_)
        | Value::Numeric(_)
        | Value::Uuid(_) => to_text(value, &Settings::default()),
        _ => Err(Failure::Refused),
    }
}

/// Text whose case every locale of that order changes alike. Turkic languages have another partner for `dotted`.
fn cased<'a>(value: &'a Value<'_>, order: TextOrder, dotted: char) -> Result<&'a str, Failure> {
    let text = text_of(value)?;
    match order {
        TextOrder::C => Ok(text),
        TextOrder::Unknown if text.is_ascii() && !text.contains(dotted) => Ok(text),
        TextOrder::Unknown => Err(Failure::Refused),
    }
}

fn count(number: usize) -> Computed {
    i32::try_from(number)
        .map(Value::Int4)
        .map_err(|_| Failure::Refused)
}
