//! Binary forms to text forms, as the types' `output` functions print them. Never allocates for the common types beyond growing the buffer.

mod array;
mod datetime;
mod float;
mod inet;

pub(crate) use datetime::{put_padded, put_seconds};
pub(crate) use float::{float4_digits, float8_digits};

use super::data::{array as fixed, text};
use super::{Interval, Numeric, Settings, Unsupported, oid};
use crate::ids::TypeOid;
use bytes::{BufMut, BytesMut};

/// Appends the text form of a binary form. On [`Unsupported`] `out` is as it was.
pub fn render_text(
    type_oid: TypeOid,
    bytes: &[u8],
    settings: &Settings,
    out: &mut BytesMut,
) -> Result<(), Unsupported> {
    let start = out.len();
    let rendered = render(type_oid, bytes, settings, out);
    if rendered.is_err() {
        out.truncate(start);
    }
    rendered
}

fn render(
    type_oid: TypeOid,
    bytes: &[u8],
    settings: &Settings,
    out: &mut BytesMut,
) -> Result<(), Unsupported> {
    match type_oid {
        oid::BOOL => out.put_u8(if fixed::<1>(bytes)?[0] != 0 {
            b't'
        } else {
            b'f'
        }),
        oid::INT2 => put_integer(out, i16::from_be_bytes(fixed(bytes)?)),
        oid::INT4 => put_integer(out, i32::from_be_bytes(fixed(bytes)?)),
        oid::INT8 => put_integer(out, i64::from_be_bytes(fixed(bytes)?)),
        oid::OID => put_integer(out, u32::from_be_bytes(fixed(bytes)?)),
        oid::TEXT | oid::VARCHAR | oid::BPCHAR | oid::NAME | oid::JSON => {
            out.put_slice(text(bytes)?.as_bytes());
        }
        oid::JSONB => match bytes.split_first() {
            Some((1, rest)) => out.put_slice(text(rest)?.as_bytes()),
            _ => return Err(Unsupported),
        },
        oid::UUID => put_uuid(out, fixed(bytes)?),
        oid::CHAR => match fixed::<1>(bytes)? {
            [0] => {}
            // Newer versions print these as octal escapes.
            [byte] if byte >= 128 => return Err(Unsupported),
            [byte] => out.put_u8(byte),
        },
        oid::BYTEA if settings.bytea_escape.ok_or(Unsupported)? => put_escaped(out, bytes),
        oid::BYTEA => {
            out.put_slice(b"\\x");
            bytes.iter().for_each(|byte| put_hex(out, *byte));
        }
        oid::FLOAT4 => float::put_float4(out, f32::from_be_bytes(fixed(bytes)?), settings)?,
        oid::FLOAT8 => float::put_float8(out, f64::from_be_bytes(fixed(bytes)?), settings)?,
        oid::NUMERIC => Numeric::decode(bytes)?.render(out),
        oid::DATE => datetime::put_date(out, i32::from_be_bytes(fixed(bytes)?), settings)?,
        oid::TIME => datetime::put_time(out, i64::from_be_bytes(fixed(bytes)?))?,
        oid::TIMETZ => datetime::put_timetz(out, fixed(bytes)?)?,
        oid::TIMESTAMP => {
            datetime::put_timestamp(out, i64::from_be_bytes(fixed(bytes)?), settings)?
        }
        oid::TIMESTAMPTZ => {
            datetime::put_timestamptz(out, i64::from_be_bytes(fixed(bytes)?), settings)?;
        }
        oid::INTERVAL => {
            let style = settings.interval_style.ok_or(Unsupported)?;
            Interval::decode(bytes)?.render(style, out)?;
        }
        oid::INET => inet::put_inet(out, bytes, false)?,
        oid::CIDR => inet::put_inet(out, bytes, true)?,
        _ => {
            let element = oid::array_element(type_oid).ok_or(Unsupported)?;
            array::put_array(out, element, bytes, settings)?;
        }
    }
    Ok(())
}

pub(crate) fn put_integer(out: &mut BytesMut, number: impl itoa::Integer) {
    out.put_slice(itoa::Buffer::new().format(number).as_bytes());
}

fn put_uuid(out: &mut BytesMut, bytes: [u8; 16]) {
    for (index, byte) in bytes.into_iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            out.put_u8(b'-');
        }
        put_hex(out, byte);
    }
}

fn put_hex(out: &mut BytesMut, byte: u8) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    out.put_u8(DIGITS[usize::from(byte >> 4)]);
    out.put_u8(DIGITS[usize::from(byte & 15)]);
}

fn put_escaped(out: &mut BytesMut, bytes: &[u8]) {
    for byte in bytes {
        match byte {
            b'\\' => out.put_slice(b"\\\\"),
            0x20..=0x7e => out.put_u8(*byte),
            _ => {
                let octal = [byte >> 6, byte >> 3 & 7, byte & 7].map(|digit| digit + b'0');
                out.put_u8(b'\\');
                out.put_slice(&octal);
            }
        }
    }
}

#[cfg(test)]
mod tests;
