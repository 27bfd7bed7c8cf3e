//! The stored form of entries around the commit groups' own (`cachestore::change::codec`). Never changes what a version means.
//!
//! Entry: `u8` version, `u64` at_ms, `u64` term, `u32` count, then commands, each a `u8` tag and its fields. Version 1 had no term.

use super::command::{
    Answered, Command, Entry, FlushEnd, FlushScope, FlushStart, HeldScope, HoldEnd, RequestId,
};
use crate::scope::Scope;
use bytes::Bytes;
use ripen_cachestore::change::codec::{
    Malformed, Reader, decode_before, decode_group, decode_row_id, encode_before, encode_group,
    encode_row_id, put_bytes, put_count, put_many, put_u32, put_u64,
};
use ripen_cachestore::change::shape::{decode_shape, encode_shape};
use ripen_cachestore::change::{Before, CommitGroup, FlushSeq};
use ripen_cachestore::home::Server;
use ripen_pg::ids::{TableOid, Xid};

const VERSION: u8 = 2;

/// The stored form of an entry whose commands are encoded already, one after the other.
pub(crate) fn encode_entry(at_ms: u64, term: u64, count: usize, commands: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(21 + commands.len());
    out.push(VERSION);
    put_u64(&mut out, at_ms);
    put_u64(&mut out, term);
    put_count(&mut out, count);
    out.extend_from_slice(commands);
    out.into()
}

/// Reads what [`encode_entry`] wrote.
pub(crate) fn decode_entry(bytes: &[u8]) -> Result<Entry, Malformed> {
    let mut reader = Reader::new(bytes);
    let version = reader.u8()?;
    if !(1..=VERSION).contains(&version) {
        return Err(Malformed("unknown entry version"));
    }
    let at_ms = reader.u64()?;
    let term = if version == 1 { 0 } else { reader.u64()? };
    let commands = reader.many(decode_command)?;
    reader.end()?;
    Ok(Entry {
        at_ms,
        term,
        commands,
    })
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
            encode_end(out, end);
        }
        Command::FlushKept(end) => {
            out.push(14);
            encode_end(out, end);
        }
        Command::Safe(seq) => {
            out.push(15);
            put_u64(out, seq.0);
        }
        Command::Home(server, anew) => {
            out.push(16);
            encode_server(out, *server);
            out.push(u8::from(*anew));
        }
        Command::FlushXid(seq, xid) => {
            out.push(6);
            put_u64(out, seq.0);
            put_u64(out, xid.0);
        }
        Command::Nothing => out.push(7),
        Command::Hold(held) => {
            out.push(8);
            encode_held(out, held);
        }
        Command::Release(ids, end) => {
            out.push(9);
            encode_release(out, ids, *end);
        }
        Command::CatalogChanged => out.push(10),
        Command::Once(answered, command) => {
            out.push(11);
            encode_request(out, answered.id);
            put_u64(out, answered.below);
            put_bytes(out, &answered.answer);
            encode_command(out, command);
        }
        Command::Forget(process) => {
            out.push(12);
            put_u64(out, *process);
        }
        Command::TakenOver => out.push(13),
        Command::Left(tables) => {
            out.push(17);
            put_many(out, tables, |out, table| put_u32(out, table.0));
        }
    }
}

fn encode_end(out: &mut Vec<u8>, end: &FlushEnd) {
    put_u64(out, end.seq.0);
    out.push(u8::from(end.applied));
    put_many(out, &end.dead, encode_row_id);
}

fn decode_end(reader: &mut Reader<'_>) -> Result<FlushEnd, Malformed> {
    Ok(FlushEnd {
        seq: FlushSeq(reader.u64()?),
        applied: reader.bool()?,
        dead: reader.many(decode_row_id)?,
    })
}

pub(crate) fn encode_server(out: &mut Vec<u8>, server: Server) {
    put_u64(out, server.started);
    put_u32(out, server.timeline);
}

pub(crate) fn decode_server(reader: &mut Reader<'_>) -> Result<Server, Malformed> {
    Ok(Server {
        started: reader.u64()?,
        timeline: reader.u32()?,
    })
}

pub(crate) fn encode_request(out: &mut Vec<u8>, id: RequestId) {
    put_u64(out, id.process);
    put_u64(out, id.number);
}

pub(crate) fn decode_request(reader: &mut Reader<'_>) -> Result<RequestId, Malformed> {
    Ok(RequestId {
        process: reader.u64()?,
        number: reader.u64()?,
    })
}

pub(crate) fn encode_release(out: &mut Vec<u8>, ids: &[RequestId], end: HoldEnd) {
    put_many(out, ids, |out, id| encode_request(out, *id));
    out.push(u8::from(end == HoldEnd::Changed));
}

pub(crate) fn decode_release(
    reader: &mut Reader<'_>,
) -> Result<(Vec<RequestId>, HoldEnd), Malformed> {
    let ids = reader.many(decode_request)?;
    Ok((ids, HoldEnd::of(reader.bool()?)))
}

pub(crate) fn encode_held(out: &mut Vec<u8>, held: &HeldScope) {
    encode_request(out, held.id);
    put_u64(out, held.node);
    put_u64(out, held.below);
    encode_owned(out, &held.scope);
    out.push(u8::from(held.backend.is_some()));
    put_u32(out, held.backend.unwrap_or_default().cast_unsigned());
    out.push(u8::from(held.rewires));
    put_many(out, &held.withdrawn, |out, table| put_u32(out, table.0));
}

pub(crate) fn decode_held(reader: &mut Reader<'_>) -> Result<HeldScope, Malformed> {
    let (id, node, below) = (decode_request(reader)?, reader.u64()?, reader.u64()?);
    let scope = decode_owned(reader)?;
    let (has_backend, backend) = (reader.bool()?, reader.u32()?.cast_signed());
    Ok(HeldScope {
        id,
        node,
        below,
        scope,
        backend: has_backend.then_some(backend),
        rewires: reader.bool()?,
        withdrawn: reader.many(|reader| reader.u32().map(TableOid))?,
    })
}

pub(crate) fn encode_owned(out: &mut Vec<u8>, scope: &Scope) {
    match scope {
        Scope::Nothing => out.push(0),
        Scope::Rows(rows) => {
            out.push(1);
            put_many(out, rows, encode_row_id);
        }
        Scope::Tables(tables) => {
            out.push(2);
            let tables: Vec<TableOid> = tables.iter().copied().collect();
            put_many(out, &tables, |out, table| put_u32(out, table.0));
        }
        Scope::Everything => out.push(3),
    }
}

pub(crate) fn decode_owned(reader: &mut Reader<'_>) -> Result<Scope, Malformed> {
    Ok(match reader.u8()? {
        0 => Scope::Nothing,
        1 => Scope::rows(reader.many(decode_row_id)?),
        2 => {
            let tables = reader.many(|reader| reader.u32().map(TableOid))?;
            Scope::Tables(tables.into_iter().collect())
        }
        3 => Scope::Everything,
        _ => return Err(Malformed("unknown scope")),
    })
}

fn decode_command(reader: &mut Reader<'_>) -> Result<Command, Malformed> {
    match reader.u8()? {
        11 => {
            let answered = Answered {
                id: decode_request(reader)?,
                below: reader.u64()?,
                answer: Bytes::copy_from_slice(reader.bytes()?),
            };
            let tag = reader.u8()?;
            Ok(Command::Once(
                answered,
                Box::new(decode_single(tag, reader)?),
            ))
        }
        tag => decode_single(tag, reader),
    }
}

fn decode_single(tag: u8, reader: &mut Reader<'_>) -> Result<Command, Malformed> {
    Ok(match tag {
        1 => Command::Group(decode_group(reader)?),
        2 => Command::FlushStart(FlushStart {
            seq: FlushSeq(reader.u64()?),
            cutoff_ms: reader.u64()?,
            rows_max: reader.u32()?,
            scope: decode_scope(reader)?,
        }),
        3 => Command::FlushEnd(decode_end(reader)?),
        4 => guarded(decode_group(reader)?, reader.many(decode_before)?)?,
        5 => decode_shape(reader).map(|(table, shape)| Command::Shape(table, shape))?,
        6 => Command::FlushXid(FlushSeq(reader.u64()?), Xid(reader.u64()?)),
        7 => Command::Nothing,
        8 => Command::Hold(decode_held(reader)?),
        9 => {
            let (ids, end) = decode_release(reader)?;
            Command::Release(ids, end)
        }
        10 => Command::CatalogChanged,
        12 => Command::Forget(reader.u64()?),
        13 => Command::TakenOver,
        14 => Command::FlushKept(decode_end(reader)?),
        15 => Command::Safe(FlushSeq(reader.u64()?)),
        16 => Command::Home(decode_server(reader)?, reader.bool()?),
        17 => Command::Left(reader.many(|reader| reader.u32().map(TableOid))?),
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
        let simple = prop_oneof![
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
            (end, any::<bool>()).prop_map(|((seq, applied, dead), kept)| {
                let end = FlushEnd {
                    seq: FlushSeq(seq),
                    applied,
                    dead,
                };
                match kept {
                    true => Command::FlushKept(end),
                    false => Command::FlushEnd(end),
                }
            }),
            any::<u64>().prop_map(|seq| Command::Safe(FlushSeq(seq))),
            (any::<u64>(), any::<u32>(), any::<bool>()).prop_map(|(started, timeline, anew)| {
                Command::Home(Server { started, timeline }, anew)
            }),
            (any::<u64>(), any::<u64>())
                .prop_map(|(seq, xid)| Command::FlushXid(FlushSeq(seq), Xid(xid))),
            Just(Command::Nothing),
            held().prop_map(Command::Hold),
            (prop::collection::vec(request(), 0..3), any::<bool>())
                .prop_map(|(ids, changed)| { Command::Release(ids, HoldEnd::of(changed)) }),
            Just(Command::CatalogChanged),
            Just(Command::TakenOver),
            prop::collection::vec(any::<u32>().prop_map(TableOid), 0..3).prop_map(Command::Left),
            any::<u64>().prop_map(Command::Forget),
        ];
        let answered = (request(), any::<u64>(), any::<Vec<u8>>());
        let answered = answered.prop_map(|(id, below, answer)| Answered {
            id,
            below,
            answer: answer.into(),
        });
        (simple, prop::option::of(answered)).prop_map(|(command, answered)| match answered {
            Some(answered) => Command::Once(answered, Box::new(command)),
            None => command,
        })
    }

    fn request() -> impl Strategy<Value = RequestId> {
        (any::<u64>(), any::<u64>()).prop_map(|(process, number)| RequestId { process, number })
    }

    fn held() -> impl Strategy<Value = HeldScope> {
        let scope = prop_oneof![
            Just(Scope::Nothing),
            Just(Scope::Everything),
            prop::collection::btree_set(any::<u32>().prop_map(TableOid), 0..3)
                .prop_map(Scope::Tables),
            prop::collection::vec(row_id(), 1..3).prop_map(Scope::rows),
        ];
        let facts = (
            request(),
            any::<u64>(),
            scope,
            any::<Option<i32>>(),
            any::<bool>(),
            prop::collection::vec(any::<u32>().prop_map(TableOid), 0..3),
        );
        facts.prop_map(
            |(id, below, scope, backend, rewires, withdrawn)| HeldScope {
                id,
                node: id.number,
                below,
                scope,
                backend,
                rewires,
                withdrawn,
            },
        )
    }

    fn encode(entry: &Entry) -> Bytes {
        let mut commands = Vec::new();
        for command in &entry.commands {
            encode_command(&mut commands, command);
        }
        encode_entry(entry.at_ms, entry.term, entry.commands.len(), &commands)
    }

    proptest! {
        #[test]
        fn entries_come_back_as_they_went_in(at_ms: u64, term: u64, commands in prop::collection::vec(command(), 0..4)) {
            let entry = Entry { at_ms, term, commands };
            prop_assert_eq!(decode_entry(&encode(&entry)), Ok(entry));
        }

        #[test]
        fn shortened_entries_are_refused(commands in prop::collection::vec(command(), 1..3), cut: prop::sample::Index) {
            let bytes = encode(&Entry { at_ms: 1, term: 1, commands });
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
            term: 1,
            commands: vec![],
        })
        .to_vec();
        bytes[0] = VERSION + 1;
        assert_eq!(
            decode_entry(&bytes),
            Err(Malformed("unknown entry version"))
        );
    }
}
