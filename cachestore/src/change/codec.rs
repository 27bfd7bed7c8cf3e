//! The stored form of commit groups and their parts, in the log, in its snapshots and in dead letters: an own layout, little endian, lengths before contents.
//! Who stores it puts a version in front. Never changes what a version means.

use super::{Before, Change, CommitGroup, Increment, RowChange, RowId};
use bytes::Bytes;
use ripen_pg::ids::{TableOid, TypeOid};
use ripen_pg::key::Key;
use ripen_pg::tuple::Tuple;

/// Bytes that are not what they should be. Checksums have passed by then, so this is a version mismatch or our own mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed bytes: {0}")]
pub struct Malformed(pub &'static str);

/// Appends a commit group.
pub fn encode_group(out: &mut Vec<u8>, group: &CommitGroup) {
    put_many(out, &group.rows, encode_row_change);
}

/// Reads what [`encode_group`] wrote.
pub fn decode_group(reader: &mut Reader<'_>) -> Result<CommitGroup, Malformed> {
    reader
        .many(decode_row_change)
        .map(|rows| CommitGroup { rows })
}

/// Appends one row's change.
pub fn encode_row_change(out: &mut Vec<u8>, row: &RowChange) {
    encode_row_id(out, &row.row);
    encode_change(out, &row.change);
}

/// Reads what [`encode_row_change`] wrote.
pub fn decode_row_change(reader: &mut Reader<'_>) -> Result<RowChange, Malformed> {
    Ok(RowChange {
        row: decode_row_id(reader)?,
        change: decode_change(reader)?,
    })
}

/// Appends what a row was before.
pub fn encode_before(out: &mut Vec<u8>, before: &Before) {
    match before {
        Before::Any => out.push(0),
        Before::Absent => out.push(1),
        Before::Row(row) => {
            out.push(2);
            encode_tuple(out, row);
        }
    }
}

/// Reads what [`encode_before`] wrote.
pub fn decode_before(reader: &mut Reader<'_>) -> Result<Before, Malformed> {
    Ok(match reader.u8()? {
        0 => Before::Any,
        1 => Before::Absent,
        2 => Before::Row(decode_tuple(reader)?),
        _ => return Err(Malformed("unknown state before")),
    })
}

/// Appends a row's identity.
pub fn encode_row_id(out: &mut Vec<u8>, row: &RowId) {
    put_u32(out, row.table.0);
    put_bytes(out, row.key.as_bytes());
}

/// Reads what [`encode_row_id`] wrote.
pub fn decode_row_id(reader: &mut Reader<'_>) -> Result<RowId, Malformed> {
    Ok(RowId {
        table: TableOid(reader.u32()?),
        key: Key::from_bytes(reader.bytes()?),
    })
}

/// Appends what became of a row.
pub fn encode_change(out: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Insert { image } => {
            out.push(1);
            encode_tuple(out, image);
        }
        Change::Put { image } => {
            out.push(2);
            encode_tuple(out, image);
        }
        Change::Update { image, set, add } => {
            out.push(3);
            encode_tuple(out, image);
            put_many(out, set, |out, position| {
                out.extend(position.to_le_bytes());
            });
            put_many(out, add, encode_increment);
        }
        Change::Delete => out.push(4),
    }
}

/// Reads what [`encode_change`] wrote.
pub fn decode_change(reader: &mut Reader<'_>) -> Result<Change, Malformed> {
    Ok(match reader.u8()? {
        1 => Change::Insert {
            image: decode_tuple(reader)?,
        },
        2 => Change::Put {
            image: decode_tuple(reader)?,
        },
        3 => Change::Update {
            image: decode_tuple(reader)?,
            set: reader.many(Reader::u16)?,
            add: reader.many(decode_increment)?,
        },
        4 => Change::Delete,
        _ => return Err(Malformed("unknown change")),
    })
}

fn encode_increment(out: &mut Vec<u8>, increment: &Increment) {
    out.extend(increment.position.to_le_bytes());
    put_u32(out, increment.type_oid.0);
    put_bytes(out, &increment.amount);
}

fn decode_increment(reader: &mut Reader<'_>) -> Result<Increment, Malformed> {
    Ok(Increment {
        position: reader.u16()?,
        type_oid: TypeOid(reader.u32()?),
        amount: Bytes::copy_from_slice(reader.bytes()?),
    })
}

/// Appends a row image.
pub fn encode_tuple(out: &mut Vec<u8>, tuple: &Tuple) {
    put_bytes(out, tuple.as_bytes());
}

/// Reads what [`encode_tuple`] wrote.
pub fn decode_tuple(reader: &mut Reader<'_>) -> Result<Tuple, Malformed> {
    Tuple::from_bytes(reader.bytes()?).ok_or(Malformed("not a tuple"))
}

/// Appends a number.
pub fn put_u32(out: &mut Vec<u8>, value: u32) {
    out.extend_from_slice(&value.to_le_bytes());
}

/// Appends a number.
pub fn put_u64(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&value.to_le_bytes());
}

/// Appends bytes, their `u32` length first.
pub fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_count(out, bytes.len());
    out.extend_from_slice(bytes);
}

/// Appends items, their `u32` count first.
pub fn put_many<T>(out: &mut Vec<u8>, items: &[T], put: impl Fn(&mut Vec<u8>, &T)) {
    put_count(out, items.len());
    items.iter().for_each(|item| put(out, item));
}

/// Appends a count of items or bytes.
pub fn put_count(out: &mut Vec<u8>, count: usize) {
    let count = u32::try_from(count).expect("a commit group is far below 4 Gi items and bytes");
    put_u32(out, count);
}

/// Reads stored bytes from front to back.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// A reader at the start of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { rest: bytes }
    }

    /// The next `count` bytes.
    pub fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self
            .rest
            .split_at_checked(count)
            .ok_or(Malformed("ends early"))?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let taken = self.take(N)?;
        Ok(taken.try_into().expect("take returns the length asked for"))
    }

    /// One byte.
    pub fn u8(&mut self) -> Result<u8, Malformed> {
        self.array::<1>().map(|[byte]| byte)
    }

    /// A byte that is 0 or 1.
    pub fn bool(&mut self) -> Result<bool, Malformed> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed("not a boolean")),
        }
    }

    /// A number.
    pub fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_le_bytes)
    }

    /// A number, as [`put_u32`] wrote it.
    pub fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_le_bytes)
    }

    /// A number, as [`put_u64`] wrote it.
    pub fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_le_bytes)
    }

    /// Bytes, as [`put_bytes`] wrote them.
    pub fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let length = self.u32()? as usize;
        self.take(length)
    }

    /// Items, as [`put_many`] wrote them.
    pub fn many<T>(
        &mut self,
        mut item: impl FnMut(&mut Reader<'a>) -> Result<T, Malformed>,
    ) -> Result<Vec<T>, Malformed> {
        let count = self.u32()? as usize;
        // An item takes at least a byte, so a damaged count cannot reserve more than the input.
        let mut items = Vec::with_capacity(count.min(self.rest.len()));
        for _ in 0..count {
            items.push(item(self)?);
        }
        Ok(items)
    }

    /// Checks that nothing is left.
    pub fn end(&self) -> Result<(), Malformed> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(Malformed("goes on after its end"))
        }
    }
}
