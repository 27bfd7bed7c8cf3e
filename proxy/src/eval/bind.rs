//! Parameters as they came in a Bind message, decoded and checked as the types' input and receive functions would. Never lets a value through that Postgres would refuse.

use super::array;
use super::expr::{REFUSED, Repr, Scalar};
use super::{EvalError, Params};
use ripen_pg::ids::TypeOid;
use ripen_pg::value::{self, Settings, Value, oid};
use smallvec::SmallVec;
use std::borrow::Cow;

/// A parameter's type.
#[derive(Clone, Debug)]
pub struct ParamType {
    /// Its type, domains resolved.
    pub type_oid: TypeOid,
    /// How its values are held.
    pub repr: Repr,
}

/// The parameters of one execution, decoded.
pub type Bound<'a> = SmallVec<[Option<Scalar<'a>>; 4]>;

/// Decodes all parameters. Postgres does so too before it runs anything, so a bad one fails the statement even where it is not used.
pub fn bind<'a>(
    types: &[Option<ParamType>],
    params: &Params<'a>,
    settings: &Settings,
) -> Result<Bound<'a>, EvalError> {
    if types.len() > params.values.len() {
        return Err(EvalError::PassThrough("the number of parameters differs"));
    }
    types
        .iter()
        .zip(params.values)
        .enumerate()
        .map(|(index, (kind, value))| {
            let (Some(kind), Some(bytes)) = (kind, value) else {
                return Ok(None);
            };
            let scalar = match params.formats.get(index) {
                0 => from_text(kind, bytes, settings)?,
                1 => from_binary(kind, bytes)?,
                _ => return Err(REFUSED),
            };
            Ok(Some(scalar))
        })
        .collect()
}

fn from_text<'a>(
    kind: &ParamType,
    bytes: &'a [u8],
    settings: &Settings,
) -> Result<Scalar<'a>, EvalError> {
    let text = checked_text(bytes)?;
    if let Some(value) = plain(kind.type_oid, text) {
        return Ok(Scalar::Value(value));
    }
    parse(kind, text, settings)
}

/// Reads a literal or a text parameter as the type's input function would.
pub fn parse(
    kind: &ParamType,
    text: &str,
    settings: &Settings,
) -> Result<Scalar<'static>, EvalError> {
    let binary = match &kind.repr {
        Repr::Enum(labels) => value::parse_enum(labels, text)?,
        Repr::Typed | Repr::Raw => value::parse_text(kind.type_oid, -1, text, settings)?,
    };
    Ok(kind.repr.decode(kind.type_oid, &binary)?.into_owned())
}

/// The most usual cases, without a detour over binary forms.
fn plain(type_oid: TypeOid, text: &str) -> Option<Value<'_>> {
    // Only what every integer parser reads alike: digits with at most a minus sign.
    let digits = |text: &str| {
        text.bytes()
            .enumerate()
            .all(|(at, byte)| byte.is_ascii_digit() || (at == 0 && byte == b'-' && text.len() > 1))
    };
    match type_oid {
        oid::INT4 if digits(text) => text.parse().ok().map(Value::Int4),
        oid::INT8 if digits(text) => text.parse().ok().map(Value::Int8),
        oid::TEXT | oid::VARCHAR => Some(Value::Text(Cow::Borrowed(text))),
        _ => None,
    }
}

/// Text as Postgres accepts it: UTF-8 without NUL.
fn checked_text(bytes: &[u8]) -> Result<&str, EvalError> {
    let text = std::str::from_utf8(bytes).map_err(|_| REFUSED)?;
    if text.contains('\0') {
        Err(REFUSED)
    } else {
        Ok(text)
    }
}

fn from_binary<'a>(kind: &ParamType, bytes: &'a [u8]) -> Result<Scalar<'a>, EvalError> {
    match &kind.repr {
        Repr::Typed => Ok(Scalar::Value(received(kind.type_oid, bytes)?)),
        Repr::Enum(labels) => {
            let label = value::parse_enum(labels, checked_text(bytes)?)?;
            Ok(kind.repr.decode(kind.type_oid, &label)?.into_owned())
        }
        Repr::Raw => {
            let element = oid::array_element(kind.type_oid).ok_or(REFUSED)?;
            for element_bytes in array::elements(kind.type_oid, bytes)
                .ok_or(REFUSED)?
                .iter()
                .flatten()
            {
                received(element, element_bytes)?;
            }
            Ok(Scalar::Raw(Cow::Borrowed(bytes)))
        }
    }
}

const MICROS_PER_DAY: i64 = 86_400_000_000;
const TIMESTAMPS: std::ops::Range<i64> = -211_813_488_000_000_000..9_223_371_331_200_000_000;
const DATES: std::ops::Range<i32> = -2_451_545..2_145_031_949;

/// What the type's `recv` function makes of the bytes; refused where it would raise an error, or where that is not known.
fn received(type_oid: TypeOid, bytes: &[u8]) -> Result<Value<'_>, EvalError> {
    match type_oid {
        oid::JSON => return json(oid::JSON, bytes),
        oid::JSONB => match bytes.split_first() {
            Some((1, text)) => return json(oid::JSONB, text),
            _ => return Err(REFUSED),
        },
        oid::TEXT | oid::VARCHAR | oid::BPCHAR => drop(checked_text(bytes)?),
        oid::NAME if checked_text(bytes)?.len() > 63 => return Err(REFUSED),
        _ => {}
    }
    let value = Value::decode(type_oid, bytes)?;
    let valid = match &value {
        Value::Date(i32::MIN | i32::MAX) => true,
        Value::Date(days) => DATES.contains(days),
        Value::Time(micros) => (0..=MICROS_PER_DAY).contains(micros),
        Value::Timestamp(i64::MIN | i64::MAX) | Value::Timestamptz(i64::MIN | i64::MAX) => true,
        Value::Timestamp(micros) | Value::Timestamptz(micros) => TIMESTAMPS.contains(micros),
        _ => true,
    };
    if valid { Ok(value) } else { Err(REFUSED) }
}

fn json(type_oid: TypeOid, text: &[u8]) -> Result<Value<'static>, EvalError> {
    let binary = value::parse_text(type_oid, -1, checked_text(text)?, &Settings::default())?;
    Ok(Value::decode(type_oid, &binary)?.into_owned())
}
