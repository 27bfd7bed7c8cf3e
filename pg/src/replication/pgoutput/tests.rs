//! Each message by its documented layout; random bytes.

use super::*;
use bytes::BufMut;
use proptest::prelude::*;

fn columns(values: &[Column<'_>]) -> Vec<u8> {
    let mut out = Vec::new();
    out.put_u16(u16::try_from(values.len()).unwrap());
    for value in values {
        let (kind, bytes) = match value {
            Column::Null => (b'n', None),
            Column::Unchanged => (b'u', None),
            Column::Text(bytes) => (b't', Some(bytes)),
            Column::Binary(bytes) => (b'b', Some(bytes)),
        };
        out.put_u8(kind);
        if let Some(bytes) = bytes {
            out.put_u32(u32::try_from(bytes.len()).unwrap());
            out.put_slice(bytes);
        }
    }
    out
}

fn change(tag: u8, parts: &[(u8, &[Column<'_>])]) -> Vec<u8> {
    let mut out = vec![tag];
    out.put_u32(16385);
    for (kind, values) in parts {
        out.put_u8(*kind);
        out.put_slice(&columns(values));
    }
    out
}

const NEW: [Column<'static>; 4] = [
    Column::Binary(b"\0\0\0\x01"),
    Column::Null,
    Column::Unchanged,
    Column::Text(b""),
];

#[test]
fn rows_come_with_every_kind_of_column() {
    let data = change(b'I', &[(b'N', &NEW)]);
    let Ok(PgOutput::Insert { table, new }) = PgOutput::decode(&data) else {
        panic!("not Insert")
    };
    assert_eq!((table, new.len()), (TableOid(16385), 4));
    assert_eq!(new.iter().collect::<Vec<_>>(), NEW);
}

#[test]
fn updates_tell_the_old_key_only_when_it_matters() {
    let key = [Column::Binary(b"\0\0\0\x02"), Column::Null];
    let data = change(b'U', &[(b'N', &NEW)]);
    assert!(matches!(
        PgOutput::decode(&data),
        Ok(PgOutput::Update { old: None, .. })
    ));
    let data = change(b'U', &[(b'K', &key), (b'N', &NEW)]);
    let Ok(PgOutput::Update {
        old: Some(Old::Key(old)),
        new,
        ..
    }) = PgOutput::decode(&data)
    else {
        panic!("no old key")
    };
    assert_eq!(old.iter().collect::<Vec<_>>(), key);
    assert_eq!(new.len(), 4);
    let data = change(b'D', &[(b'O', &NEW)]);
    assert!(matches!(
        PgOutput::decode(&data),
        Ok(PgOutput::Delete {
            old: Old::Full(_),
            ..
        })
    ));
}

#[test]
fn a_relation_lists_its_columns() {
    let mut data = vec![b'R'];
    data.put_u32(7);
    data.put_slice(b"public\0t\0d\0\x02");
    for (flags, name) in [(1, "id"), (0, "v")] {
        data.put_u8(flags);
        data.put_slice(name.as_bytes());
        data.put_u8(0);
        data.put_u32(23);
        data.put_i32(-1);
    }
    let Ok(PgOutput::Relation(relation)) = PgOutput::decode(&data) else {
        panic!("not Relation")
    };
    assert_eq!(
        (relation.namespace, relation.name),
        (&b"public"[..], &b"t"[..])
    );
    assert_eq!(relation.replica_identity, b'd');
    let names: Vec<_> = relation
        .columns()
        .map(|column| (column.is_key, column.name))
        .collect();
    assert_eq!(names, [(true, &b"id"[..]), (false, &b"v"[..])]);
}

#[test]
fn transaction_frames_carry_positions() {
    let mut data = vec![b'B'];
    data.put_u64(100);
    data.put_i64(5);
    data.put_u32(77);
    let expected = PgOutput::Begin {
        final_lsn: Lsn(100),
        commit_time: PgMicros(5),
        xid: Xid32(77),
    };
    assert_eq!(PgOutput::decode(&data), Ok(expected));
    let mut data = vec![b'C', 0];
    data.put_u64(100);
    data.put_u64(140);
    data.put_i64(5);
    let expected = PgOutput::Commit {
        lsn: Lsn(100),
        end_lsn: Lsn(140),
        commit_time: PgMicros(5),
    };
    assert_eq!(PgOutput::decode(&data), Ok(expected));
}

#[test]
fn truncations_and_messages_are_read() {
    let mut data = vec![b'T'];
    data.put_u32(2);
    data.put_u8(3);
    data.put_u32(7);
    data.put_u32(8);
    let Ok(PgOutput::Truncate {
        cascade: true,
        restart_identity: true,
        tables,
    }) = PgOutput::decode(&data)
    else {
        panic!("not Truncate")
    };
    assert_eq!(
        tables.iter().collect::<Vec<_>>(),
        [TableOid(7), TableOid(8)]
    );
    let mut data = vec![b'M', 0];
    data.put_u64(9);
    data.put_slice(b"ripen\0\0\0\0\x02hi");
    let expected = PgOutput::Message {
        transactional: false,
        lsn: Lsn(9),
        prefix: b"ripen",
        content: b"hi",
    };
    assert_eq!(PgOutput::decode(&data), Ok(expected));
}

#[test]
fn unknown_or_overlong_messages_are_errors() {
    assert_eq!(PgOutput::decode(b"S123"), Err(WireError::BackendType(b'S')));
    let mut data = change(b'I', &[(b'N', &NEW)]);
    data.push(0);
    assert_eq!(PgOutput::decode(&data), Err(WireError::Format));
    assert_eq!(PgOutput::decode(b""), Err(WireError::Short));
}

fn walk(message: PgOutput<'_>) {
    match message {
        PgOutput::Relation(relation) => assert!(relation.columns().count() < 1 << 16),
        PgOutput::Insert { new, .. } => assert_eq!(new.iter().count(), new.len()),
        PgOutput::Update { old, new, .. } => {
            assert_eq!(new.iter().count(), new.len());
            assert!(old.is_none_or(|old| old.data().iter().count() == old.data().len()));
        }
        PgOutput::Delete { old, .. } => assert_eq!(old.data().iter().count(), old.data().len()),
        PgOutput::Truncate { tables, .. } => assert!(tables.iter().count() < 1 << 16),
        _ => {}
    }
}

proptest! {
    #[test]
    fn random_bytes_never_panic(
        tag in prop::sample::select(b"BCORYIUDTMx".to_vec()),
        wild in prop::collection::vec(any::<u8>(), 0..60),
        tame in prop::collection::vec(prop::sample::select(b"\0\0\0\0\x01\x02NKOntub".to_vec()), 0..60),
    ) {
        for body in [wild, tame] {
            let data = [&[tag], &body[..]].concat();
            if let Ok(message) = PgOutput::decode(&data) {
                walk(message);
            }
        }
    }

    #[test]
    fn cutting_a_change_short_is_an_error(cut in 0usize..60) {
        let data = change(b'U', &[(b'K', &NEW), (b'N', &NEW)]);
        if cut < data.len() {
            prop_assert!(PgOutput::decode(&data[..cut]).is_err());
        }
    }
}
