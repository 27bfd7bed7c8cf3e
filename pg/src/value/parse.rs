//! Text forms to binary forms, as the types' `input` functions read them. Never raises an error that Postgres would word differently: then, and
//! for spellings whose meaning depends on version or locale, it refuses.

mod array;
mod datetime;
pub(super) mod json;
mod number;
mod scalar;

use super::{Failure, Numeric, ParseError, Settings, ValueError, oid, typmod};
use crate::ids::TypeOid;

/// Reads a literal or a text parameter of that type, its modifier applied as input does (-1: none).
pub fn parse_text(
    type_oid: TypeOid,
    type_modifier: i32,
    text: &str,
    settings: &Settings,
) -> Result<Vec<u8>, ParseError> {
    if text.contains('\0') {
        return Err(Failure::Refused);
    }
    if let Some(element) = oid::array_element(type_oid) {
        return array::parse(element, type_modifier, text, settings);
    }
    let bytes = match type_oid {
        oid::BOOL => scalar::boolean(text)?,
        oid::INT2 => number::integer::<i16>(text, "smallint")?
            .to_be_bytes()
            .into(),
        oid::INT4 => number::integer::<i32>(text, "integer")?
            .to_be_bytes()
            .into(),
        oid::INT8 => number::integer::<i64>(text, "bigint")?.to_be_bytes().into(),
        oid::OID => number::oid(text)?.to_be_bytes().into(),
        oid::FLOAT4 => number::float4(text)?.to_be_bytes().into(),
        oid::FLOAT8 => number::float8(text)?.to_be_bytes().into(),
        oid::NUMERIC => {
            let mut bytes = Vec::new();
            Numeric::parse(text)?.encode(&mut bytes);
            bytes
        }
        oid::TEXT | oid::VARCHAR | oid::BPCHAR => text.into(),
        oid::NAME => scalar::name(text)?,
        oid::CHAR => scalar::char(text)?,
        oid::BYTEA => scalar::bytea(text)?,
        oid::UUID => scalar::uuid(text)?,
        oid::INET => scalar::inet(text, false)?,
        oid::CIDR => scalar::inet(text, true)?,
        oid::JSON => json::json(text)?,
        oid::JSONB => json::jsonb(text)?,
        oid::DATE => datetime::date(text)?.to_be_bytes().into(),
        oid::TIME => datetime::time(text)?.to_be_bytes().into(),
        oid::TIMETZ => datetime::timetz(text)?,
        oid::TIMESTAMP => datetime::timestamp(text)?.to_be_bytes().into(),
        oid::TIMESTAMPTZ => datetime::timestamptz(text, settings)?.to_be_bytes().into(),
        oid::INTERVAL => datetime::interval(text, settings)?,
        _ => return Err(Failure::Refused),
    };
    match type_modifier {
        ..0 => Ok(bytes),
        _ => typmod::coerce_typmod(type_oid, type_modifier, &bytes, false),
    }
}

/// Reads a label of an enum.
pub fn parse_enum(labels: &[String], text: &str) -> Result<Vec<u8>, ParseError> {
    if labels.iter().any(|label| label == text) {
        return Ok(text.as_bytes().to_vec());
    }
    Err(Failure::Refused)
}

/// What C's `isspace` takes for a blank.
pub(crate) fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t'..='\r')
}

fn invalid_syntax(type_name: &str, text: &str) -> Failure {
    let message = format!("invalid input syntax for type {type_name}: \"{text}\"");
    ValueError::new("22P02", message).into()
}

#[cfg(test)]
mod tests;
