//! Casts. Never does in an assignment what Postgres allows only when written out.

use super::arithmetic::{Integer, exact, integer};
use crate::ids::TypeOid;
use crate::value::calendar::{MICROS_PER_DAY, TIMESTAMP_END, split_days};
use crate::value::render::{float4_digits, float8_digits, render_text};
use crate::value::{
    Failure, Interval, Numeric, Settings, Unsupported, Value, ValueError, coerce_typmod, oid,
    parse_text,
};
use bytes::BytesMut;
use std::borrow::Cow;

/// In which context a cast happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CastKind {
    /// A value stored into a column, implicit casts included.
    Assignment,
    /// `x::type`, `CAST`.
    Explicit,
}

type Computed = Result<Value<'static>, Failure>;

/// Casts to a type with its modifier (-1: none). [`Failure::Refused`] for casts that Postgres does not have in this context, too.
pub fn cast(
    value: &Value<'_>,
    target: TypeOid,
    type_modifier: i32,
    kind: CastKind,
    settings: &Settings,
) -> Computed {
    let explicit = kind == CastKind::Explicit;
    let converted = match target {
        _ if value.type_oid() == target => value.clone().into_owned(),
        oid::TEXT | oid::VARCHAR => Value::Text(to_text(value, settings)?.into()),
        oid::BPCHAR => Value::Bpchar(to_text(value, settings)?.into()),
        oid::NAME => to_name(value, settings)?,
        oid::INT2 => to_integer(value, 2, explicit)?,
        oid::INT4 => to_integer(value, 4, explicit)?,
        oid::INT8 => to_integer(value, 8, explicit)?,
        oid::FLOAT4 if is_number(value) => Value::Float4(to_float4(value)?),
        oid::FLOAT8 if is_number(value) => Value::Float8(to_float8(value)?),
        oid::NUMERIC if is_number(value) => Value::Numeric(to_numeric(value)?),
        oid::BOOL if matches!(value, Value::Int4(_)) && explicit => {
            Value::Bool(*value != Value::Int4(0))
        }
        _ => match temporal(value, target, settings)? {
            Some(converted) => converted,
            None => from_text(value, target, explicit, settings)?,
        },
    };
    if type_modifier < 0 {
        return Ok(converted);
    }
    let bytes = coerce_typmod(target, type_modifier, &converted.to_binary(), explicit)?;
    Value::owned(target, &bytes)
}

/// The text that a cast to `text` gives: the output function's, but for booleans and padded strings.
pub(super) fn to_text(value: &Value<'_>, settings: &Settings) -> Result<String, Failure> {
    match value {
        Value::Bool(value) => Ok(value.to_string()),
        Value::Bpchar(text) => Ok(text.trim_end_matches(' ').to_owned()),
        Value::Text(text) | Value::Name(text) => Ok(text.clone().into_owned()),
        _ => {
            let mut out = BytesMut::new();
            render_text(value.type_oid(), &value.to_binary(), settings, &mut out)?;
            Ok(String::from_utf8(out.into()).map_err(|_| Unsupported)?)
        }
    }
}

/// A number as `double precision`.
pub(super) fn to_float8(value: &Value<'_>) -> Result<f64, Failure> {
    match value {
        Value::Float8(number) => Ok(*number),
        Value::Float4(number) => Ok(f64::from(*number)),
        Value::Numeric(number) => float_of(number, oid::FLOAT8, f64::from_be_bytes),
        _ => Ok(Integer::of(value).ok_or(Unsupported)?.number as f64),
    }
}

/// A date's first moment, as Postgres casts it.
pub(super) fn date_to_timestamp(days: i32) -> Result<i64, ValueError> {
    match days {
        i32::MIN => Ok(i64::MIN),
        i32::MAX => Ok(i64::MAX),
        _ => (i64::from(days) * MICROS_PER_DAY < TIMESTAMP_END)
            .then(|| i64::from(days) * MICROS_PER_DAY)
            .ok_or_else(|| ValueError::new("22008", "date out of range for timestamp")),
    }
}

fn is_number(value: &Value<'_>) -> bool {
    let float = matches!(value, Value::Float4(_) | Value::Float8(_));
    float || Integer::of(value).is_some() || matches!(value, Value::Numeric(_))
}

fn to_float4(value: &Value<'_>) -> Result<f32, Failure> {
    match value {
        Value::Float4(number) => Ok(*number),
        Value::Float8(number) => {
            let narrow = *number as f32;
            let problem = match narrow {
                _ if narrow.is_infinite() && !number.is_infinite() => "overflow",
                _ if narrow == 0.0 && *number != 0.0 => "underflow",
                _ => return Ok(narrow),
            };
            let message = format!("value out of range: {problem}");
            Err(ValueError::new("22003", message).into())
        }
        Value::Numeric(number) => float_of(number, oid::FLOAT4, f32::from_be_bytes),
        _ => Ok(Integer::of(value).ok_or(Unsupported)?.number as f32),
    }
}

/// Postgres prints the numeric and reads it as a float; so do we, errors included.
fn float_of<F, const N: usize>(
    number: &Numeric,
    target: TypeOid,
    read: impl Fn([u8; N]) -> F,
) -> Result<F, Failure> {
    let bytes = parse_text(target, -1, &number.to_text(), &Settings::default())?;
    Ok(read(crate::value::data::array(&bytes)?))
}

fn to_numeric(value: &Value<'_>) -> Result<Numeric, Failure> {
    let mut out = BytesMut::new();
    match value {
        // Older versions refuse infinities.
        Value::Float4(number) if number.is_infinite() => return Err(Failure::Refused),
        Value::Float8(number) if number.is_infinite() => return Err(Failure::Refused),
        Value::Float4(number) if number.is_nan() => return Numeric::parse("NaN"),
        Value::Float8(number) if number.is_nan() => return Numeric::parse("NaN"),
        Value::Float4(number) => float4_digits(&mut out, *number, 6),
        Value::Float8(number) => float8_digits(&mut out, *number, 15),
        _ => return Ok(exact(value).ok_or(Unsupported)?),
    }
    Numeric::parse(std::str::from_utf8(&out).map_err(|_| Unsupported)?)
}

fn to_integer(value: &Value<'_>, bytes: usize, explicit: bool) -> Computed {
    let name = ["smallint", "integer", "bigint"][bytes.ilog2() as usize - 1];
    let out_of_range = || ValueError::new("22003", format!("{name} out of range"));
    let number = match value {
        Value::Bool(value) if explicit && bytes == 4 => i128::from(*value),
        Value::Text(_) | Value::Bpchar(_) if explicit => {
            let target = [oid::INT2, oid::INT4, oid::INT8][bytes.ilog2() as usize - 1];
            return from_text(value, target, explicit, &Settings::default());
        }
        Value::Float4(number) => nearest(f64::from(*number)).ok_or_else(out_of_range)?,
        Value::Float8(number) => nearest(*number).ok_or_else(out_of_range)?,
        Value::Numeric(number) if number.is_finite() => {
            i128::from(number.to_i64()?.ok_or_else(out_of_range)?)
        }
        Value::Numeric(number) if number.to_text() == "NaN" => {
            let message = format!("cannot convert NaN to {name}");
            return Err(ValueError::new("0A000", message).into());
        }
        _ => Integer::of(value).ok_or(Unsupported)?.number,
    };
    integer(number, bytes)
}

/// The integer nearest to a float, half to even; `None` when no integer type holds it.
fn nearest(number: f64) -> Option<i128> {
    let rounded = number.round_ties_even();
    (rounded.abs() <= 1e20).then_some(rounded as i128)
}

fn to_name(value: &Value<'_>, settings: &Settings) -> Computed {
    match value {
        Value::Text(_) | Value::Bpchar(_) => {
            let bytes = parse_text(oid::NAME, -1, &to_text(value, settings)?, settings)?;
            Value::owned(oid::NAME, &bytes)
        }
        _ => Err(Failure::Refused),
    }
}

/// Casts among dates and times; `None` when it is not one.
fn temporal(
    value: &Value<'_>,
    target: TypeOid,
    settings: &Settings,
) -> Result<Option<Value<'static>>, Failure> {
    let zone = || settings.zone.as_ref().ok_or(Unsupported);
    let infinite = |micros: i64| matches!(micros, i64::MIN | i64::MAX);
    let local = |instant: i64| match infinite(instant) {
        true => Ok(instant),
        false => zone()?.to_local(instant),
    };
    let instant = |local: i64| match infinite(local) {
        true => Ok(local),
        false => zone()?.to_instant(local),
    };
    Ok(Some(match (value, target) {
        (Value::Date(days), oid::TIMESTAMP) => Value::Timestamp(date_to_timestamp(*days)?),
        (Value::Date(days), oid::TIMESTAMPTZ) => {
            Value::Timestamptz(instant(date_to_timestamp(*days)?)?)
        }
        (Value::Timestamp(micros), oid::TIMESTAMPTZ) => Value::Timestamptz(instant(*micros)?),
        (Value::Timestamptz(micros), oid::TIMESTAMP) => Value::Timestamp(local(*micros)?),
        (Value::Timestamp(micros), oid::DATE) => Value::Date(date_of(*micros)),
        (Value::Timestamptz(micros), oid::DATE) => Value::Date(date_of(local(*micros)?)),
        // Of the infinities the time is NULL.
        (Value::Timestamp(micros) | Value::Timestamptz(micros), oid::TIME) if infinite(*micros) => {
            return Err(Failure::Refused);
        }
        (Value::Timestamp(micros), oid::TIME) => Value::Time(split_days(*micros).1),
        (Value::Timestamptz(micros), oid::TIME) => Value::Time(split_days(local(*micros)?).1),
        (Value::Time(micros), oid::INTERVAL) => Value::Interval(Interval {
            micros: *micros,
            ..Interval::default()
        }),
        (Value::Interval(interval), oid::TIME) => Value::Time(split_days(interval.micros).1),
        (Value::Jsonb(text), oid::JSON) => Value::Json(Cow::Owned(text.clone().into_owned())),
        _ => return Ok(None),
    }))
}

fn date_of(micros: i64) -> i32 {
    match micros {
        i64::MIN => i32::MIN,
        i64::MAX => i32::MAX,
        _ => split_days(micros).0 as i32,
    }
}

/// The last resort, and only when written out: through the input function.
fn from_text(value: &Value<'_>, target: TypeOid, explicit: bool, settings: &Settings) -> Computed {
    match value {
        // Padding included: it is the output function's text.
        Value::Text(text) | Value::Bpchar(text) if explicit => {
            Value::owned(target, &parse_text(target, -1, text, settings)?)
        }
        _ => Err(Failure::Refused),
    }
}
