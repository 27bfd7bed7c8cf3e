//! Arrays as text. Never prints an array of a type whose elements are not supported.

use super::{put_integer, render};
use crate::ids::TypeOid;
use crate::value::data::array as fixed;
use crate::value::{Settings, Unsupported};
use bytes::{BufMut, BytesMut};

/// Largest number of dimensions in Postgres (`MAXDIM`).
const DIMENSIONS_MAX: usize = 6;

/// The binary form, read from the front.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn number(&mut self) -> Result<i32, Unsupported> {
        Ok(i32::from_be_bytes(fixed(self.take(4)?)?))
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Unsupported> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Unsupported)?;
        self.0 = rest;
        Ok(taken)
    }
}

/// Appends `array_out`.
pub(crate) fn put_array(
    out: &mut BytesMut,
    element: TypeOid,
    bytes: &[u8],
    settings: &Settings,
) -> Result<(), Unsupported> {
    let mut reader = Reader(bytes);
    let dimensions = usize::try_from(reader.number()?).map_err(|_| Unsupported)?;
    let (_has_nulls, stored_element) = (reader.number()?, reader.number()?);
    if dimensions > DIMENSIONS_MAX || stored_element as u32 != element.0 {
        return Err(Unsupported);
    }
    let mut lengths = [0; DIMENSIONS_MAX];
    let mut bounds = [1; DIMENSIONS_MAX];
    for dimension in 0..dimensions {
        lengths[dimension] = reader.number()?;
        bounds[dimension] = reader.number()?;
    }
    if dimensions == 0 {
        out.put_slice(b"{}");
    } else {
        put_bounds(out, &lengths[..dimensions], &bounds[..dimensions])?;
        put_dimension(out, element, &lengths[..dimensions], &mut reader, settings)?;
    }
    if reader.0.is_empty() {
        Ok(())
    } else {
        Err(Unsupported)
    }
}

/// `[0:2][1:4]=`, only where a lower bound is not 1.
fn put_bounds(out: &mut BytesMut, lengths: &[i32], bounds: &[i32]) -> Result<(), Unsupported> {
    if bounds.iter().all(|bound| *bound == 1) {
        return Ok(());
    }
    for (length, bound) in lengths.iter().zip(bounds) {
        let last = bound.checked_add(length - 1).ok_or(Unsupported)?;
        out.put_u8(b'[');
        put_integer(out, *bound);
        out.put_u8(b':');
        put_integer(out, last);
        out.put_u8(b']');
    }
    out.put_u8(b'=');
    Ok(())
}

fn put_dimension(
    out: &mut BytesMut,
    element: TypeOid,
    lengths: &[i32],
    reader: &mut Reader<'_>,
    settings: &Settings,
) -> Result<(), Unsupported> {
    let (length, inner) = lengths.split_first().expect("at least one dimension");
    if *length <= 0 {
        return Err(Unsupported);
    }
    out.put_u8(b'{');
    for index in 0..*length {
        if index > 0 {
            out.put_u8(b',');
        }
        if inner.is_empty() {
            put_element(out, element, reader, settings)?;
        } else {
            put_dimension(out, element, inner, reader, settings)?;
        }
    }
    out.put_u8(b'}');
    Ok(())
}

fn put_element(
    out: &mut BytesMut,
    element: TypeOid,
    reader: &mut Reader<'_>,
    settings: &Settings,
) -> Result<(), Unsupported> {
    let length = reader.number()?;
    if length == -1 {
        out.put_slice(b"NULL");
        return Ok(());
    }
    let bytes = reader.take(usize::try_from(length).map_err(|_| Unsupported)?)?;
    let start = out.len();
    render(element, bytes, settings, out)?;
    if needs_quotes(&out[start..]) {
        let plain = out.split_off(start);
        out.put_u8(b'"');
        for byte in plain {
            if matches!(byte, b'"' | b'\\') {
                out.put_u8(b'\\');
            }
            out.put_u8(byte);
        }
        out.put_u8(b'"');
    }
    Ok(())
}

fn needs_quotes(text: &[u8]) -> bool {
    let special = |byte: &u8| matches!(byte, b'"' | b'\\' | b'{' | b'}' | b',' | b' ' | 9..=13);
    text.is_empty() || text.eq_ignore_ascii_case(b"null") || text.iter().any(special)
}
