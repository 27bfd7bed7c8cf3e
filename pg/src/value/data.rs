//! A value taken out of its binary form, for computing. Holds no NULL (that is `Option`) and keeps nothing that the binary form does not say.

use super::{Failure, Interval, Numeric, Unsupported, oid};
use crate::ids::TypeOid;
use std::borrow::Cow;

/// A value that is not NULL. The variant is the type: `varchar` is [`Value::Text`], which Postgres too treats alike.
#[derive(Clone, Debug, PartialEq)]
pub enum Value<'a> {
    /// `boolean`
    Bool(bool),
    /// `smallint`
    Int2(i16),
    /// `integer`
    Int4(i32),
    /// `bigint`
    Int8(i64),
    /// `oid`
    Oid(u32),
    /// `real`
    Float4(f32),
    /// `double precision`
    Float8(f64),
    /// `numeric`
    Numeric(Numeric),
    /// `text` and `character varying`
    Text(Cow<'a, str>),
    /// `character(n)`: trailing blanks do not count.
    Bpchar(Cow<'a, str>),
    /// `name`
    Name(Cow<'a, str>),
    /// `bytea`
    Bytea(Cow<'a, [u8]>),
    /// `uuid`
    Uuid([u8; 16]),
    /// `date`: days since 2000-01-01; the extremes are the infinities.
    Date(i32),
    /// `time`: microseconds.
    Time(i64),
    /// `timestamp`: microseconds since 2000-01-01; the extremes are the infinities.
    Timestamp(i64),
    /// `timestamptz`: microseconds since 2000-01-01 UTC; the extremes are the infinities.
    Timestamptz(i64),
    /// `interval`
    Interval(Interval),
    /// `json`, as text.
    Json(Cow<'a, str>),
    /// `jsonb`, as Postgres prints it.
    Jsonb(Cow<'a, str>),
}

impl<'a> Value<'a> {
    /// Reads a binary form; [`Unsupported`] for other types and for bytes that are not one.
    pub fn decode(type_oid: TypeOid, bytes: &'a [u8]) -> Result<Value<'a>, Unsupported> {
        Ok(match type_oid {
            oid::BOOL => Value::Bool(array::<1>(bytes)?[0] != 0),
            oid::INT2 => Value::Int2(i16::from_be_bytes(array(bytes)?)),
            oid::INT4 => Value::Int4(i32::from_be_bytes(array(bytes)?)),
            oid::INT8 => Value::Int8(i64::from_be_bytes(array(bytes)?)),
            oid::OID => Value::Oid(u32::from_be_bytes(array(bytes)?)),
            oid::FLOAT4 => Value::Float4(f32::from_be_bytes(array(bytes)?)),
            oid::FLOAT8 => Value::Float8(f64::from_be_bytes(array(bytes)?)),
            oid::NUMERIC => Value::Numeric(Numeric::decode(bytes)?),
            oid::TEXT | oid::VARCHAR => Value::Text(text(bytes)?),
            oid::BPCHAR => Value::Bpchar(text(bytes)?),
            oid::NAME => Value::Name(text(bytes)?),
            oid::BYTEA => Value::Bytea(Cow::Borrowed(bytes)),
            oid::UUID => Value::Uuid(array(bytes)?),
            oid::DATE => Value::Date(i32::from_be_bytes(array(bytes)?)),
            oid::TIME => Value::Time(i64::from_be_bytes(array(bytes)?)),
            oid::TIMESTAMP => Value::Timestamp(i64::from_be_bytes(array(bytes)?)),
            oid::TIMESTAMPTZ => Value::Timestamptz(i64::from_be_bytes(array(bytes)?)),
            oid::INTERVAL => Value::Interval(Interval::decode(bytes)?),
            oid::JSON => Value::Json(text(bytes)?),
            oid::JSONB => match bytes.split_first() {
                Some((1, rest)) => Value::Jsonb(text(rest)?),
                _ => return Err(Unsupported),
            },
            _ => return Err(Unsupported),
        })
    }

    /// Appends the binary form.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Value::Bool(value) => out.push(u8::from(*value)),
            Value::Int2(value) => out.extend_from_slice(&value.to_be_bytes()),
            Value::Int4(value) | Value::Date(value) => out.extend_from_slice(&value.to_be_bytes()),
            Value::Int8(value)
            | Value::Time(value)
            | Value::Timestamp(value)
            | Value::Timestamptz(value) => out.extend_from_slice(&value.to_be_bytes()),
            Value::Oid(value) => out.extend_from_slice(&value.to_be_bytes()),
            Value::Float4(value) => out.extend_from_slice(&value.to_be_bytes()),
            Value::Float8(value) => out.extend_from_slice(&value.to_be_bytes()),
            Value::Numeric(value) => value.encode(out),
            Value::Text(text) | Value::Bpchar(text) | Value::Name(text) | Value::Json(text) => {
                out.extend_from_slice(text.as_bytes());
            }
            Value::Bytea(bytes) => out.extend_from_slice(bytes),
            Value::Uuid(bytes) => out.extend_from_slice(bytes),
            Value::Interval(value) => value.encode(out),
            Value::Jsonb(text) => {
                out.push(1);
                out.extend_from_slice(text.as_bytes());
            }
        }
    }

    /// The binary form.
    pub fn to_binary(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.encode(&mut out);
        out
    }

    /// The type; `text` for both character types of varying length.
    pub fn type_oid(&self) -> TypeOid {
        match self {
            Value::Bool(_) => oid::BOOL,
            Value::Int2(_) => oid::INT2,
            Value::Int4(_) => oid::INT4,
            Value::Int8(_) => oid::INT8,
            Value::Oid(_) => oid::OID,
            Value::Float4(_) => oid::FLOAT4,
            Value::Float8(_) => oid::FLOAT8,
            Value::Numeric(_) => oid::NUMERIC,
            Value::Text(_) => oid::TEXT,
            Value::Bpchar(_) => oid::BPCHAR,
            Value::Name(_) => oid::NAME,
            Value::Bytea(_) => oid::BYTEA,
            Value::Uuid(_) => oid::UUID,
            Value::Date(_) => oid::DATE,
            Value::Time(_) => oid::TIME,
            Value::Timestamp(_) => oid::TIMESTAMP,
            Value::Timestamptz(_) => oid::TIMESTAMPTZ,
            Value::Interval(_) => oid::INTERVAL,
            Value::Json(_) => oid::JSON,
            Value::Jsonb(_) => oid::JSONB,
        }
    }

    /// The same value without the borrow.
    pub fn into_owned(self) -> Value<'static> {
        let own = |text: Cow<'_, str>| Cow::Owned(text.into_owned());
        match self {
            Value::Text(text) => Value::Text(own(text)),
            Value::Bpchar(text) => Value::Bpchar(own(text)),
            Value::Name(text) => Value::Name(own(text)),
            Value::Json(text) => Value::Json(own(text)),
            Value::Jsonb(text) => Value::Jsonb(own(text)),
            Value::Bytea(bytes) => Value::Bytea(Cow::Owned(bytes.into_owned())),
            Value::Bool(value) => Value::Bool(value),
            Value::Int2(value) => Value::Int2(value),
            Value::Int4(value) => Value::Int4(value),
            Value::Int8(value) => Value::Int8(value),
            Value::Oid(value) => Value::Oid(value),
            Value::Float4(value) => Value::Float4(value),
            Value::Float8(value) => Value::Float8(value),
            Value::Numeric(value) => Value::Numeric(value),
            Value::Uuid(value) => Value::Uuid(value),
            Value::Date(value) => Value::Date(value),
            Value::Time(value) => Value::Time(value),
            Value::Timestamp(value) => Value::Timestamp(value),
            Value::Timestamptz(value) => Value::Timestamptz(value),
            Value::Interval(value) => Value::Interval(value),
        }
    }

    pub(crate) fn owned(type_oid: TypeOid, bytes: &[u8]) -> Result<Value<'static>, Failure> {
        Ok(Value::decode(type_oid, bytes)?.into_owned())
    }
}

/// Bytes of exactly that length.
pub(crate) fn array<const N: usize>(bytes: &[u8]) -> Result<[u8; N], Unsupported> {
    bytes.try_into().map_err(|_| Unsupported)
}

/// UTF-8 text.
pub(crate) fn text(bytes: &[u8]) -> Result<Cow<'_, str>, Unsupported> {
    std::str::from_utf8(bytes)
        .map(Cow::Borrowed)
        .map_err(|_| Unsupported)
}
