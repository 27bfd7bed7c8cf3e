//! Primary keys in canonical bytes: equal keys, and only they, have equal bytes, and each column's canonical bytes are a valid binary form of
//! the value. Never canonicalises by guess: a type whose equality is wider than its bytes, and not listed here, is not keyable.
//!
//! Text columns must have a deterministic collation; the caller checks that.

use super::data::array;
use super::{Numeric, oid};
use crate::ids::TypeOid;
use crate::key::Key;
use smallvec::SmallVec;

/// The type or the value has no canonical form here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no canonical key form")]
pub struct NotKeyable;

/// How the canonical form lies in a key.
enum Form {
    Fixed(usize),
    Varying,
}

fn form(type_oid: TypeOid) -> Option<Form> {
    Some(match type_oid {
        oid::BOOL | oid::CHAR => Form::Fixed(1),
        oid::INT2 => Form::Fixed(2),
        oid::INT4 | oid::OID | oid::FLOAT4 | oid::DATE => Form::Fixed(4),
        oid::INT8 | oid::FLOAT8 | oid::TIME | oid::TIMESTAMP | oid::TIMESTAMPTZ => Form::Fixed(8),
        oid::TIMETZ => Form::Fixed(12),
        oid::UUID => Form::Fixed(16),
        oid::TEXT | oid::VARCHAR | oid::BPCHAR | oid::NAME | oid::BYTEA => Form::Varying,
        oid::NUMERIC | oid::INET | oid::CIDR => Form::Varying,
        _ => return None,
    })
}

/// Whether columns of this type can be in a key.
pub fn keyable(type_oid: TypeOid) -> bool {
    form(type_oid).is_some()
}

/// Appends a column, given in binary form. Fails without touching the key.
pub fn append(type_oid: TypeOid, bytes: &[u8], key: &mut Key) -> Result<(), NotKeyable> {
    match form(type_oid).ok_or(NotKeyable)? {
        Form::Fixed(length) if length != bytes.len() => return Err(NotKeyable),
        Form::Fixed(_) => match type_oid {
            oid::FLOAT4 => key.push_fixed(&canonical_float4(bytes)?),
            oid::FLOAT8 => key.push_fixed(&canonical_float8(bytes)?),
            oid::BOOL => key.push_fixed(&[u8::from(bytes[0] != 0)]),
            _ => key.push_fixed(bytes),
        },
        Form::Varying => match type_oid {
            oid::NUMERIC => {
                let number = Numeric::decode(bytes).map_err(|_| NotKeyable)?;
                let mut canonical = Vec::new();
                number.canonical().encode(&mut canonical);
                key.push_varying(&canonical);
            }
            oid::BPCHAR => key.push_varying(without_trailing_blanks(bytes)),
            _ => key.push_varying(bytes),
        },
    }
    Ok(())
}

/// The canonical columns of a key of those types; `None` when it is not such a key.
pub fn split<'a>(types: &[TypeOid], key: &'a Key) -> Option<Vec<&'a [u8]>> {
    let mut rest = key.as_bytes();
    let mut columns = Vec::with_capacity(types.len());
    for type_oid in types {
        let length = match form(*type_oid)? {
            Form::Fixed(length) => length,
            Form::Varying => {
                let (length, after) = rest.split_first_chunk::<4>()?;
                rest = after;
                u32::from_be_bytes(*length) as usize
            }
        };
        let (column, after) = rest.split_at_checked(length)?;
        columns.push(column);
        rest = after;
    }
    rest.is_empty().then_some(columns)
}

/// The binary form of an integer in a key column of an integer type; `Ok(None)` when it is out of the column's range, so that it names no row.
pub fn int_key(number: i64, type_oid: TypeOid) -> Result<Option<SmallVec<[u8; 8]>>, NotKeyable> {
    Ok(match type_oid {
        oid::INT2 => i16::try_from(number)
            .ok()
            .map(|n| SmallVec::from_slice(&n.to_be_bytes())),
        oid::INT4 => i32::try_from(number)
            .ok()
            .map(|n| SmallVec::from_slice(&n.to_be_bytes())),
        oid::INT8 => Some(SmallVec::from_slice(&number.to_be_bytes())),
        _ => return Err(NotKeyable),
    })
}

fn canonical_float4(bytes: &[u8]) -> Result<[u8; 4], NotKeyable> {
    let number = f32::from_be_bytes(array(bytes).map_err(|_| NotKeyable)?);
    Ok(match number {
        _ if number == 0.0 => 0f32,
        _ if number.is_nan() => f32::from_bits(0x7fc0_0000),
        _ => number,
    }
    .to_be_bytes())
}

fn canonical_float8(bytes: &[u8]) -> Result<[u8; 8], NotKeyable> {
    let number = f64::from_be_bytes(array(bytes).map_err(|_| NotKeyable)?);
    Ok(match number {
        _ if number == 0.0 => 0f64,
        _ if number.is_nan() => f64::from_bits(0x7ff8_0000_0000_0000),
        _ => number,
    }
    .to_be_bytes())
}

pub(crate) fn without_trailing_blanks(bytes: &[u8]) -> &[u8] {
    let blanks = bytes.iter().rev().take_while(|byte| **byte == b' ').count();
    &bytes[..bytes.len() - blanks]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_split_into_what_was_appended() {
        let mut key = Key::new();
        append(oid::INT4, &7i32.to_be_bytes(), &mut key).unwrap();
        append(oid::BPCHAR, b"ab   ", &mut key).unwrap();
        append(oid::FLOAT8, &(-0f64).to_be_bytes(), &mut key).unwrap();
        let types = [oid::INT4, oid::BPCHAR, oid::FLOAT8];
        let columns = split(&types, &key).unwrap();
        assert_eq!(
            columns,
            [&7i32.to_be_bytes()[..], b"ab", &0f64.to_be_bytes()]
        );
        assert_eq!(split(&types[..2], &key), None);
        assert_eq!(append(oid::INT4, b"xx", &mut key), Err(NotKeyable));
    }

    #[test]
    fn integer_out_of_the_columns_range_names_no_row() {
        assert_eq!(int_key(70_000, oid::INT2), Ok(None));
        assert_eq!(int_key(7, oid::INT2).unwrap().unwrap().as_slice(), [0, 7]);
        assert_eq!(int_key(7, oid::TEXT), Err(NotKeyable));
    }
}
