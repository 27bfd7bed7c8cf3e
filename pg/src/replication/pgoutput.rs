//! pgoutput messages of protocol version 1 (no streaming, no two-phase), with `binary` and `messages`. Never guesses: an unknown message is an error.
//!
//! A decoded view has been walked to its end: its iterators cannot fail.

use super::PgMicros;
use crate::ids::{Lsn, TableOid, TypeOid, Xid32};
use crate::wire::{Reader, WireError};

/// One message of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PgOutput<'a> {
    /// A committed transaction begins.
    Begin {
        /// Position of its commit record.
        final_lsn: Lsn,
        /// When it committed.
        commit_time: PgMicros,
        /// Its top-level transaction id.
        xid: Xid32,
    },
    /// It ends.
    Commit {
        /// Position of the commit record.
        lsn: Lsn,
        /// The byte after it: what may be acknowledged.
        end_lsn: Lsn,
        /// When it committed.
        commit_time: PgMicros,
    },
    /// The transaction was replicated from elsewhere.
    Origin {
        /// Commit position there.
        lsn: Lsn,
        /// Name of the origin.
        name: &'a [u8],
    },
    /// What the columns of a table are, sent before its first row of a connection and after it changed.
    Relation(RelationMessage<'a>),
    /// Name of a type that is not built in.
    Type {
        /// The type.
        oid: TypeOid,
        /// Its schema; empty for `pg_catalog`.
        namespace: &'a [u8],
        /// Its name.
        name: &'a [u8],
    },
    /// A new row.
    Insert {
        /// The table.
        table: TableOid,
        /// The row.
        new: TupleData<'a>,
    },
    /// A changed row.
    Update {
        /// The table.
        table: TableOid,
        /// The old key or row; only there when the key changed or the whole row is the replica identity.
        old: Option<Old<'a>>,
        /// The row afterwards.
        new: TupleData<'a>,
    },
    /// A row that is gone.
    Delete {
        /// The table.
        table: TableOid,
        /// Its key or row.
        old: Old<'a>,
    },
    /// Tables emptied.
    Truncate {
        /// CASCADE.
        cascade: bool,
        /// RESTART IDENTITY.
        restart_identity: bool,
        /// Which tables.
        tables: Tables<'a>,
    },
    /// `pg_logical_emit_message`.
    Message {
        /// Part of a transaction; otherwise it comes on its own, between transactions.
        transactional: bool,
        /// Its position.
        lsn: Lsn,
        /// Who it is for.
        prefix: &'a [u8],
        /// What it says.
        content: &'a [u8],
    },
}

/// What identifies the row before the change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Old<'a> {
    /// Columns of the replica identity index; the others are NULL and mean nothing.
    Key(TupleData<'a>),
    /// The whole row (`REPLICA IDENTITY FULL`).
    Full(TupleData<'a>),
}

impl<'a> Old<'a> {
    /// The columns.
    pub fn data(self) -> TupleData<'a> {
        match self {
            Old::Key(data) | Old::Full(data) => data,
        }
    }
}

/// Relation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelationMessage<'a> {
    /// The table.
    pub table: TableOid,
    /// Its schema; empty for `pg_catalog`.
    pub namespace: &'a [u8],
    /// Its name.
    pub name: &'a [u8],
    /// `relreplident`: d, n, f, i.
    pub replica_identity: u8,
    count: usize,
    columns: &'a [u8],
}

impl<'a> RelationMessage<'a> {
    /// Published columns in attnum order; dropped and generated ones are left out.
    pub fn columns(&self) -> impl Iterator<Item = RelationColumn<'a>> + use<'a> {
        let mut reader = Reader(self.columns);
        (0..self.count).map(move |_| decode_column(&mut reader).expect("walked over when decoded"))
    }

    /// The bytes that describe the columns: equal bytes, equal columns.
    pub fn shape(&self) -> &'a [u8] {
        self.columns
    }
}

/// A column of a Relation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelationColumn<'a> {
    /// Part of the replica identity.
    pub is_key: bool,
    /// Its name.
    pub name: &'a [u8],
    /// Its type.
    pub type_oid: TypeOid,
    /// `atttypmod`.
    pub type_modifier: i32,
}

/// A column's value in a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Column<'a> {
    /// SQL NULL.
    Null,
    /// An out-of-line value that did not change and is not sent.
    Unchanged,
    /// Text form: the type has no `send` function.
    Text(&'a [u8]),
    /// Binary form.
    Binary(&'a [u8]),
}

/// Columns of a row, in the order of the Relation message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TupleData<'a> {
    count: usize,
    bytes: &'a [u8],
}

impl<'a> TupleData<'a> {
    /// How many columns.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is no column.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Bytes of the columns as sent.
    pub fn weight(&self) -> usize {
        self.bytes.len()
    }

    /// One by one.
    pub fn iter(&self) -> impl Iterator<Item = Column<'a>> + use<'a> {
        let mut reader = Reader(self.bytes);
        (0..self.count).map(move |_| decode_value(&mut reader).expect("walked over when decoded"))
    }
}

/// A list of tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tables<'a>(&'a [u8]);

impl<'a> Tables<'a> {
    /// One by one.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = TableOid> + use<'a> {
        self.0
            .chunks_exact(4)
            .map(|oid| TableOid(u32::from_be_bytes([oid[0], oid[1], oid[2], oid[3]])))
    }
}

impl PgOutput<'_> {
    /// Decodes the data of one XLogData.
    pub fn decode(data: &[u8]) -> Result<PgOutput<'_>, WireError> {
        let mut reader = Reader(data);
        let message = decode_body(&mut reader)?;
        reader.end().map(|()| message)
    }
}

fn decode_body<'a>(reader: &mut Reader<'a>) -> Result<PgOutput<'a>, WireError> {
    Ok(match reader.u8()? {
        b'B' => PgOutput::Begin {
            final_lsn: Lsn(reader.u64()?),
            commit_time: PgMicros(reader.i64()?),
            xid: Xid32(reader.u32()?),
        },
        b'C' => {
            let _flags = reader.u8()?;
            PgOutput::Commit {
                lsn: Lsn(reader.u64()?),
                end_lsn: Lsn(reader.u64()?),
                commit_time: PgMicros(reader.i64()?),
            }
        }
        b'O' => PgOutput::Origin {
            lsn: Lsn(reader.u64()?),
            name: reader.text()?,
        },
        b'R' => PgOutput::Relation(decode_relation(reader)?),
        b'Y' => PgOutput::Type {
            oid: TypeOid(reader.u32()?),
            namespace: reader.text()?,
            name: reader.text()?,
        },
        b'I' => {
            let table = TableOid(reader.u32()?);
            expect(reader, b'N')?;
            let new = decode_tuple(reader)?;
            PgOutput::Insert { table, new }
        }
        b'U' => decode_update(reader)?,
        b'D' => {
            let table = TableOid(reader.u32()?);
            let kind = reader.u8()?;
            let old = decode_old(kind, reader)?;
            PgOutput::Delete { table, old }
        }
        b'T' => decode_truncate(reader)?,
        b'M' => decode_message(reader)?,
        other => return Err(WireError::BackendType(other)),
    })
}

fn decode_relation<'a>(reader: &mut Reader<'a>) -> Result<RelationMessage<'a>, WireError> {
    let table = TableOid(reader.u32()?);
    let (namespace, name) = (reader.text()?, reader.text()?);
    let replica_identity = reader.u8()?;
    let count = reader.count()?;
    let start = reader.0;
    for _ in 0..count {
        decode_column(reader)?;
    }
    let columns = &start[..start.len() - reader.0.len()];
    Ok(RelationMessage {
        table,
        namespace,
        name,
        replica_identity,
        count,
        columns,
    })
}

fn decode_column<'a>(reader: &mut Reader<'a>) -> Result<RelationColumn<'a>, WireError> {
    Ok(RelationColumn {
        is_key: reader.u8()? & 1 != 0,
        name: reader.text()?,
        type_oid: TypeOid(reader.u32()?),
        type_modifier: reader.i32()?,
    })
}

fn decode_update<'a>(reader: &mut Reader<'a>) -> Result<PgOutput<'a>, WireError> {
    let table = TableOid(reader.u32()?);
    let old = match reader.u8()? {
        b'N' => None,
        kind => {
            let old = decode_old(kind, reader)?;
            expect(reader, b'N')?;
            Some(old)
        }
    };
    let new = decode_tuple(reader)?;
    Ok(PgOutput::Update { table, old, new })
}

fn decode_old<'a>(kind: u8, reader: &mut Reader<'a>) -> Result<Old<'a>, WireError> {
    match kind {
        b'K' => decode_tuple(reader).map(Old::Key),
        b'O' => decode_tuple(reader).map(Old::Full),
        _ => Err(WireError::Format),
    }
}

fn decode_truncate<'a>(reader: &mut Reader<'a>) -> Result<PgOutput<'a>, WireError> {
    let count = usize::try_from(reader.i32()?).map_err(|_| WireError::Format)?;
    let flags = reader.u8()?;
    let bytes = count.checked_mul(4).ok_or(WireError::Format)?;
    Ok(PgOutput::Truncate {
        cascade: flags & 1 != 0,
        restart_identity: flags & 2 != 0,
        tables: Tables(reader.take(bytes)?),
    })
}

fn decode_message<'a>(reader: &mut Reader<'a>) -> Result<PgOutput<'a>, WireError> {
    let flags = reader.u8()?;
    let (lsn, prefix) = (Lsn(reader.u64()?), reader.text()?);
    let length = usize::try_from(reader.i32()?).map_err(|_| WireError::Format)?;
    Ok(PgOutput::Message {
        transactional: flags & 1 != 0,
        lsn,
        prefix,
        content: reader.take(length)?,
    })
}

fn decode_tuple<'a>(reader: &mut Reader<'a>) -> Result<TupleData<'a>, WireError> {
    let count = reader.count()?;
    let start = reader.0;
    for _ in 0..count {
        decode_value(reader)?;
    }
    let bytes = &start[..start.len() - reader.0.len()];
    Ok(TupleData { count, bytes })
}

fn decode_value<'a>(reader: &mut Reader<'a>) -> Result<Column<'a>, WireError> {
    let kind = reader.u8()?;
    match kind {
        b'n' => return Ok(Column::Null),
        b'u' => return Ok(Column::Unchanged),
        b't' | b'b' => {}
        _ => return Err(WireError::Format),
    }
    let value = reader.value()?.ok_or(WireError::Format)?;
    Ok(match kind {
        b't' => Column::Text(value),
        _ => Column::Binary(value),
    })
}

fn expect(reader: &mut Reader<'_>, kind: u8) -> Result<(), WireError> {
    if reader.u8()? == kind {
        Ok(())
    } else {
        Err(WireError::Format)
    }
}

#[cfg(test)]
mod tests;
