//! Values as Postgres's own bytes, past tokio-postgres's types: what the grid holds is sent as it is. Never converts a value.

use bytes::{BufMut, BytesMut};
use ripen_pg::ids::TypeOid;
use std::error::Error;
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};

/// A parameter in binary form; `None` is NULL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawParam(pub Option<Vec<u8>>);

impl ToSql for RawParam {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        match &self.0 {
            None => Ok(IsNull::Yes),
            Some(bytes) => {
                out.put_slice(bytes);
                Ok(IsNull::No)
            }
        }
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

/// Parameters as tokio-postgres wants them.
pub fn dynamic(params: &[RawParam]) -> Vec<&(dyn ToSql + Sync)> {
    params.iter().map(|param| param as _).collect()
}

/// A result column in binary form; `None` is NULL.
pub struct RawValue<'a>(pub Option<&'a [u8]>);

impl<'a> FromSql<'a> for RawValue<'a> {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(RawValue(Some(raw)))
    }

    fn from_sql_null(_: &Type) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(RawValue(None))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

/// The binary form of a one-dimensional array (`array_send`): dimensions, null flag, element type, then length and lower bound, then the elements.
pub fn array<'a>(element: TypeOid, values: impl Iterator<Item = Option<&'a [u8]>>) -> Vec<u8> {
    let mut body = Vec::new();
    let (mut count, mut nulls) = (0i32, 0i32);
    for value in values {
        count += 1;
        match value {
            None => {
                nulls = 1;
                body.extend_from_slice(&(-1i32).to_be_bytes());
            }
            Some(bytes) => {
                let length = i32::try_from(bytes.len()).expect("a Postgres value is below 1 GB");
                body.extend_from_slice(&length.to_be_bytes());
                body.extend_from_slice(bytes);
            }
        }
    }
    let mut out = Vec::with_capacity(20 + body.len());
    out.extend_from_slice(&1i32.to_be_bytes());
    out.extend_from_slice(&nulls.to_be_bytes());
    out.extend_from_slice(&element.0.to_be_bytes());
    out.extend_from_slice(&count.to_be_bytes());
    out.extend_from_slice(&1i32.to_be_bytes());
    out.extend_from_slice(&body);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn array_is_as_postgres_sends_it() {
        let bytes = array(TypeOid(25), [Some(&b"ab"[..]), None].into_iter());
        let expected = [
            &[0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 25, 0, 0, 0, 2, 0, 0, 0, 1][..],
            &[0, 0, 0, 2, b'a', b'b', 255, 255, 255, 255],
        ];
        assert_eq!(bytes, expected.concat());
    }
}
