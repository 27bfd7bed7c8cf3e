//! The stored form of entries around the commit groups' own (`cachestore::change::codec`). Never changes what a version means.
//!
//! Entry: `u8` version, `u64` at_ms, `u32` count, then commands, each a `u8` tag and its fields.

use super::command::{Command, Entry, FlushEnd, FlushScope, FlushStart};
use bytes::Bytes;
use ripen_cachestore::change::codec::{
    Malformed, Reader, decode_before, decode_group, decode_row_id, encode_before, encode_group,
    encode_row_id, put_count, put_many, put_u32, put_u64,
};
use ripen_cachestore::change::shape::{decode_shape, encode_shape};
use ripen_cachestore::change::{Before, CommitGroup, FlushSeq};
use ripen_pg::ids::TableOid;

const VERSION: u8 = 1;

/// The stored form of an entry whose commands are encoded already, one after the other.
pub(crate) fn encode_entry(at_ms: u64, count: usize, commands: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(13 + commands.len());
    out.push(VERSION);
    put_u64(&mut out, at_ms);
    put_count(&mut out, count);
    out.extend_from_slice(commands);
    out.into()
}

/// Reads what [`encode_entry`] wrote.
pub(crate) fn decode_entry(bytes: &[u8]) -> Result<Entry, Malformed> {
    let mut reader = Reader::new(bytes);
    if reader.u8()? != VERSION {
        return Err(Malformed("unknown entry version"));
    }
    let at_ms = reader.u64()?;
    let commands = reader.many(decode_command)?;
    reader.end()?;
    Ok(Entry { at_ms, commands })
}

pub(crate) fn encode_command(out: &mut Vec<u8>, command: &Command) {
    match command {
        Command::Group(group) => {
            out.push(1);
            encode_group(out, group);
        }
        Command::Guarded(group, before) => {
            out.push(4);
            encode_group(out, group);
            put_many(out, before, encode_before);
        }
        Command::Shape(table, shape) => {
            out.push(5);
            encode_shape(out, *table, shape);
        }
        Command::FlushStart(start) => {
            out.push(2);
            put_u64(out, start.seq.0);
            put_u64(out, start.cutoff_ms);
            put_u32(out, start.rows_max);
            encode_scope(out, &start.scope);
        }
        Command::FlushEnd(end) => {
            out.push(3);
            put_u64(out, end.seq.0);
            out.push(u8::from(end.applied));
            put_many(out, &end.dead, encode_row_id);
        }
    }
}

fn decode_command(reader: &mut Reader<'_>) -> Result<Command, Malformed> {
    Ok(match reader.u8()? {
        1 => Command::Group(decode_group(reader)?),
        2 => Command::FlushStart(FlushStart {
            seq: FlushSeq(reader.u64()?),
            cutoff_ms: reader.u64()?,
            rows_max: reader.u32()?,
            scope: decode_scope(reader)?,
        }),
        3 => Command::FlushEnd(FlushEnd {
            seq: FlushSeq(reader.u64()?),
            applied: reader.bool()?,
            dead: reader.many(decode_row_id)?,
        }),
        4 => guarded(decode_group(reader)?, reader.many(decode_before)?)?,
        5 => decode_shape(reader).map(|(table, shape)| Command::Shape(table, shape))?,
        _ => return Err(Malformed("unknown command")),
    })
}

fn guarded(group: CommitGroup, before: Vec<Before>) -> Result<Command, Malformed> {
    if group.rows.len() != before.len() {
        return Err(Malformed(
            "a guarded group does not say what all its rows were",
        ));
    }
    Ok(Command::Guarded(group, before))
}

fn encode_scope(out: &mut Vec<u8>, scope: &FlushScope) {
    match scope {
        FlushScope::All => out.push(0),
        FlushScope::Tables(tables) => {
            out.push(1);
            put_many(out, tables, |out, table| put_u32(out, table.0));
        }
        FlushScope::Rows(rows) => {
            out.push(2);
            put_many(out, rows, encode_row_id);
        }
    }
}

fn decode_scope(reader: &mut Reader<'_>) -> Result<FlushScope, Malformed> {
    Ok(match reader.u8()? {
        0 => FlushScope::All,
        1 => FlushScope::Tables(reader.many(|reader| reader.u32().map(TableOid))?),
        2 => FlushScope::Rows(reader.many(decode_row_id)?),
        _ => return Err(Malformed("unknown flush scope")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use ripen_cachestore::change::{Change, Increment, RowChange, RowId, Shape};
    use ripen_pg::ids::TypeOid;
    use ripen_pg::key::Key;
    use ripen_pg::tuple::{Datum, Tuple};

    fn row_id() -> impl Strategy<Value = RowId> {
        (any::<u32>(), any::<Vec<u8>>()).prop_map(|(table, key)| RowId {
            table: TableOid(table),
            key: Key::from_bytes(&key),
        })
    }

    fn tuple() -> impl Strategy<Value = Tuple> {
        any::<Vec<Option<Vec<u8>>>>().prop_map(|columns| {
            let columns = columns.iter().map(Option::as_deref);
            columns
                .map(|column| column.map_or(Datum::Null, Datum::Value))
                .collect()
        })
    }

    fn increment() -> impl Strategy<Value = Increment> {
        let parts = (any::<u16>(), any::<u32>(), any::<Vec<u8>>());
        parts.prop_map(|(position, type_oid, amount)| Increment {
            position,
            type_oid: TypeOid(type_oid),
            amount: amount.into(),
        })
    }

    fn change() -> impl Strategy<Value = Change> {
        let add = prop::collection::vec(increment(), 0..3);
        prop_oneof![
            tuple().prop_map(|image| Change::Insert { image }),
            tuple().prop_map(|image| Change::Put { image }),
            (tuple(), any::<Vec<u16>>(), add).prop_map(|(image, set, add)| Change::Update {
                image,
                set,
                add
            }),
            Just(Change::Delete),
        ]
    }

    fn before() -> impl Strategy<Value = Before> {
        let row = tuple().prop_map(Before::Row);
        prop_oneof![Just(Before::Any), Just(Before::Absent), row]
    }

    fn shape() -> impl Strategy<Value = Shape> {
        let types = prop::collection::btree_map(any::<u16>(), any::<u32>().prop_map(TypeOid), 0..4);
        (any::<Vec<u16>>(), types).prop_map(|(key, types)| Shape { key, types })
    }

    fn command() -> impl Strategy<Value = Command> {
        let row = || (row_id(), change()).prop_map(|(row, change)| RowChange { row, change });
        let (rows, guarded) = (row(), (row(), before()));
        let scope = prop_oneof![
            Just(FlushScope::All),
            any::<Vec<u32>>()
                .prop_map(|oids| FlushScope::Tables(oids.into_iter().map(TableOid).collect())),
            prop::collection::vec(row_id(), 0..3).prop_map(FlushScope::Rows),
        ];
        let start = (any::<u64>(), any::<u64>(), scope, any::<u32>());
        let end = (
            any::<u64>(),
            any::<bool>(),
            prop::collection::vec(row_id(), 0..3),
        );
        prop_oneof![
            prop::collection::vec(rows, 0..4).prop_map(|rows| Command::Group(CommitGroup { rows })),
            prop::collection::vec(guarded, 0..4).prop_map(|guarded| {
                let (rows, before) = guarded.into_iter().unzip();
                Command::Guarded(CommitGroup { rows }, before)
            }),
            (any::<u32>(), shape()).prop_map(|(oid, shape)| Command::Shape(TableOid(oid), shape)),
            start.prop_map(
                |(seq, cutoff_ms, scope, rows_max)| Command::FlushStart(FlushStart {
                    seq: FlushSeq(seq),
                    cutoff_ms,
                    scope,
                    rows_max
                })
            ),
            end.prop_map(|(seq, applied, dead)| Command::FlushEnd(FlushEnd {
                seq: FlushSeq(seq),
                applied,
                dead
            })),
        ]
    }

    fn encode(entry: &Entry) -> Bytes {
        let mut commands = Vec::new();
        for command in &entry.commands {
            encode_command(&mut commands, command);
        }
        encode_entry(entry.at_ms, entry.commands.len(), &commands)
    }

    proptest! {
        #[test]
        fn entries_come_back_as_they_went_in(at_ms: u64, commands in prop::collection::vec(command(), 0..4)) {
            let entry = Entry { at_ms, commands };
            prop_assert_eq!(decode_entry(&encode(&entry)), Ok(entry));
        }

        #[test]
        fn shortened_entries_are_refused(commands in prop::collection::vec(command(), 1..3), cut: prop::sample::Index) {
            let bytes = encode(&Entry { at_ms: 1, commands });
            prop_assert!(decode_entry(&bytes[..cut.index(bytes.len())]).is_err());
        }

        #[test]
        fn arbitrary_bytes_do_no_harm(bytes: Vec<u8>) {
            let _ = decode_entry(&bytes);
        }
    }

    #[test]
    fn another_version_is_refused() {
        let mut bytes = encode(&Entry {
            at_ms: 1,
            commands: vec![],
        })
        .to_vec();
        bytes[0] = 2;
        assert_eq!(
            decode_entry(&bytes),
            Err(Malformed("unknown entry version"))
        );
    }
}
