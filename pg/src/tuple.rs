//! One row as typed column values in Postgres's binary form, in one allocation. Never interprets a value; `value` does.
//!
//! Positions are `attnum - 1`, dropped columns included, so that a tuple keeps its meaning when columns are added or dropped.
//! Layout: `u16` column count, then per column a `u32` end offset (two top bits: null, missing), then the values.

use std::fmt;
use std::sync::Arc;

const NULL: u32 = 1 << 31;
const MISSING: u32 = 1 << 30;
const END: u32 = MISSING - 1;

/// One column of a [`Tuple`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Datum<'a> {
    /// SQL NULL.
    Null,
    /// Not known here: a dropped column, a type without exact renderer, an unchanged TOAST value. A read that needs it goes to Postgres.
    Missing,
    /// The value as the type's `send` function gives it.
    Value(&'a [u8]),
}

impl<'a> Datum<'a> {
    /// The bytes, if there are any.
    pub fn value(self) -> Option<&'a [u8]> {
        match self {
            Datum::Value(bytes) => Some(bytes),
            Datum::Null | Datum::Missing => None,
        }
    }
}

/// An immutable row. Cloning shares it.
#[derive(Clone, PartialEq, Eq)]
pub struct Tuple(Arc<[u8]>);

impl Tuple {
    /// Number of positions (`max(attnum)` when the row was made).
    pub fn len(&self) -> usize {
        usize::from(u16::from_be_bytes([self.0[0], self.0[1]]))
    }

    /// Whether the row has no column at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The column at `position`; beyond the end (a column added later) it is [`Datum::Missing`].
    pub fn get(&self, position: usize) -> Datum<'_> {
        if position >= self.len() {
            return Datum::Missing;
        }
        let end = self.offset(position);
        if end & NULL != 0 {
            return Datum::Null;
        }
        if end & MISSING != 0 {
            return Datum::Missing;
        }
        let start = if position == 0 {
            0
        } else {
            self.offset(position - 1) & END
        };
        let values = 2 + 4 * self.len();
        Datum::Value(&self.0[values + start as usize..values + end as usize])
    }

    /// All columns in order.
    pub fn iter(&self) -> impl Iterator<Item = Datum<'_>> {
        (0..self.len()).map(|position| self.get(position))
    }

    /// Bytes of memory the row takes, reference counts included.
    pub fn weight(&self) -> usize {
        self.0.len() + 16
    }

    /// The stored form, for the log and snapshots. [`Tuple::from_bytes`] reads it.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// A tuple from its stored form; `None` when it is not one.
    pub fn from_bytes(bytes: &[u8]) -> Option<Tuple> {
        let tuple = Tuple(bytes.into());
        let count = usize::from(u16::from_be_bytes([*bytes.first()?, *bytes.get(1)?]));
        let values = bytes.len().checked_sub(2 + 4 * count)?;
        let mut last = 0;
        for position in 0..count {
            let end = tuple.offset(position) & END;
            if end < last || end as usize > values {
                return None;
            }
            last = end;
        }
        (last as usize == values).then_some(tuple)
    }

    fn offset(&self, position: usize) -> u32 {
        let at = 2 + 4 * position;
        u32::from_be_bytes([self.0[at], self.0[at + 1], self.0[at + 2], self.0[at + 3]])
    }
}

impl fmt::Debug for Tuple {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl<'a> FromIterator<Datum<'a>> for Tuple {
    fn from_iter<I: IntoIterator<Item = Datum<'a>>>(columns: I) -> Tuple {
        let (mut offsets, mut values, mut count) = (Vec::new(), Vec::new(), 0u16);
        for column in columns {
            count = count
                .checked_add(1)
                .expect("a Postgres row has at most 1600 columns");
            let flag = match column {
                Datum::Null => NULL,
                Datum::Missing => MISSING,
                Datum::Value(bytes) => {
                    values.extend_from_slice(bytes);
                    0
                }
            };
            let end = u32::try_from(values.len())
                .ok()
                .filter(|end| *end <= END)
                .expect("a Postgres value is below 1 GB");
            offsets.extend_from_slice(&(end | flag).to_be_bytes());
        }
        let mut bytes = Vec::with_capacity(2 + offsets.len() + values.len());
        bytes.extend_from_slice(&count.to_be_bytes());
        bytes.extend_from_slice(&offsets);
        bytes.extend_from_slice(&values);
        Tuple(bytes.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_come_back_as_they_went_in() {
        let columns = [
            Datum::Value(b"abc"),
            Datum::Null,
            Datum::Missing,
            Datum::Value(b""),
            Datum::Value(b"z"),
        ];
        let tuple: Tuple = columns.into_iter().collect();
        assert_eq!(tuple.iter().collect::<Vec<_>>(), columns);
        assert_eq!(tuple.get(9), Datum::Missing);
        assert_eq!(Tuple::from_bytes(tuple.as_bytes()), Some(tuple));
    }

    #[test]
    fn damaged_bytes_are_refused() {
        let tuple: Tuple = [Datum::Value(b"abc"), Datum::Null].into_iter().collect();
        let bytes = tuple.as_bytes();
        assert_eq!(Tuple::from_bytes(&bytes[..bytes.len() - 1]), None);
        assert_eq!(Tuple::from_bytes(&[]), None);
        assert_eq!(Tuple::from_bytes(&[0, 9, 0]), None);
    }
}
