//! Scripts of messages in, events out.

use super::*;
use ripen_cachestore::catalog::{
    Collation, Column as CatalogColumn, Epoch, Grants, NamespaceOid, Relation, RoleOid,
};
use ripen_cachestore::progress::LogIdentity;
use ripen_pg::ids::TypeOid;
use ripen_pg::tuple::{Datum, Tuple};
use ripen_pg::value::oid::{INT4, TEXT};
use std::sync::Arc;

/// Its identity has the sign bit in Postgres.
const LOG: LogKey = LogKey {
    number: 1,
    identity: LogIdentity(u64::MAX - 4),
};
const T: TableOid = TableOid(100);
const PROGRESS: TableOid = TableOid(50);
const XID: Xid32 = Xid32(7);

fn column(position: usize, name: &str, type_oid: TypeOid) -> CatalogColumn {
    CatalogColumn {
        position,
        name: name.into(),
        type_oid,
        type_modifier: -1,
        not_null: false,
        collation: Collation::None,
        collated: false,
        default: None,
        generated: '\0',
        identity: '\0',
        sequence: None,
        grants: Grants::default(),
    }
}

/// `t(id int4 primary key, <dropped>, v text, w text)`.
fn catalog(epoch: u64) -> Catalog {
    let relation = Relation {
        oid: T,
        namespace: NamespaceOid(1),
        schema: "public".into(),
        name: "t".into(),
        kind: 'r',
        persistence: 'p',
        storage: 0,
        columns: vec![
            column(0, "id", INT4),
            column(2, "v", TEXT),
            column(3, "w", TEXT),
        ],
        width: 4,
        primary_key: vec![0],
        primary_key_name: "t_pkey".to_owned(),
        checks: vec![],
        unique_columns: BTreeSet::new(),
        indexed_columns: BTreeSet::new(),
        indexes: BTreeSet::new(),
        expression_columns: BTreeSet::new(),
        replica_identity: 'd',
        foreign_keys: Vec::new(),
        foreign_key_columns: BTreeSet::new(),
        referenced_columns: BTreeSet::new(),
        parents: BTreeSet::new(),
        children: BTreeSet::new(),
        deferred: BTreeSet::new(),
        write_obstacles: vec![],
        read_obstacles: vec![],
        opaque_read: false,
        opaque_write: false,
        read_closure: BTreeSet::new(),
        write_closure: BTreeSet::new(),
        row_security: false,
        owner: RoleOid(10),
        grants: Grants::default(),
    };
    Catalog {
        epoch: Epoch(epoch),
        relations: [(T, Arc::new(relation))].into_iter().collect(),
        ..Catalog::default()
    }
}

/// Values of a row as a script writes them.
#[derive(Clone, Copy)]
enum V<'a> {
    Int(i32),
    Long(i64),
    Text(&'a str),
    Same,
    Null,
    Raw(&'a str),
}
use V::{Int, Long, Null, Raw, Same};

fn own(seq: u64) -> OwnFlush {
    OwnFlush {
        log: LOG.number,
        seq: FlushSeq(seq),
    }
}

fn data(values: &[V<'_>]) -> Vec<u8> {
    let mut out = Vec::from(u16::try_from(values.len()).unwrap().to_be_bytes());
    let mut put = |kind: u8, bytes: &[u8]| {
        out.push(kind);
        if matches!(kind, b'b' | b't') {
            out.extend(u32::try_from(bytes.len()).unwrap().to_be_bytes());
            out.extend(bytes);
        }
    };
    for value in values {
        match value {
            Int(number) => put(b'b', &number.to_be_bytes()),
            Long(number) => put(b'b', &number.to_be_bytes()),
            V::Text(text) => put(b'b', text.as_bytes()),
            Raw(text) => put(b't', text.as_bytes()),
            Same => put(b'u', b""),
            Null => put(b'n', b""),
        }
    }
    out
}

fn change(tag: u8, table: TableOid, parts: &[(u8, &[V<'_>])]) -> Vec<u8> {
    let mut out = vec![tag];
    out.extend(table.0.to_be_bytes());
    for (kind, values) in parts {
        out.push(*kind);
        out.extend(data(values));
    }
    out
}

fn insert(values: &[V<'_>]) -> Vec<u8> {
    change(b'I', T, &[(b'N', values)])
}

fn update(values: &[V<'_>]) -> Vec<u8> {
    change(b'U', T, &[(b'N', values)])
}

fn update_key(old: i32, values: &[V<'_>]) -> Vec<u8> {
    change(b'U', T, &[(b'K', &[Int(old), Null, Null]), (b'N', values)])
}

fn delete(id: i32) -> Vec<u8> {
    change(b'D', T, &[(b'K', &[Int(id), Null, Null])])
}

fn truncate() -> Vec<u8> {
    [&[b'T', 0, 0, 0, 1, 0][..], &T.0.to_be_bytes()].concat()
}

fn relation(table: TableOid, name: &str, identity: u8, columns: &[(&str, TypeOid)]) -> Vec<u8> {
    let mut out = vec![b'R'];
    out.extend(table.0.to_be_bytes());
    out.extend(name.replace('.', "\0").as_bytes());
    out.extend([0, identity]);
    out.extend(u16::try_from(columns.len()).unwrap().to_be_bytes());
    for (name, type_oid) in columns {
        out.push(0);
        out.extend(name.as_bytes());
        out.push(0);
        out.extend(type_oid.0.to_be_bytes());
        out.extend((-1i32).to_be_bytes());
    }
    out
}

fn table() -> Vec<u8> {
    relation(
        T,
        "public.t",
        b'd',
        &[("id", INT4), ("v", TEXT), ("w", TEXT)],
    )
}

fn progress_table(identity: u8) -> Vec<u8> {
    let columns = [
        ("log", INT4),
        ("epoch", TypeOid(20)),
        ("applied", TypeOid(20)),
        ("at", TypeOid(1184)),
        ("identity", TypeOid(20)),
    ];
    relation(PROGRESS, "ripen.progress", identity, &columns)
}

fn progress(log: i32, before: i64, after: i64) -> Vec<u8> {
    progress_of(log, LOG.identity, before, after)
}

fn progress_of(log: i32, identity: LogIdentity, before: i64, after: i64) -> Vec<u8> {
    let row = |applied| {
        let (at, identity) = (Long(0), Long(identity.stored()));
        [Int(log), Long(1), Long(applied), at, identity]
    };
    let (old, new) = (row(before), row(after));
    change(b'U', PROGRESS, &[(b'O', &old), (b'N', &new)])
}

fn mark_message(transactional: bool, id: &str) -> Vec<u8> {
    message(transactional, b"ripen\0", id.as_bytes())
}

/// The prefix ends in a zero.
fn message(transactional: bool, prefix: &[u8], content: &[u8]) -> Vec<u8> {
    let length = u32::try_from(content.len()).unwrap();
    let lsn = 90u64.to_be_bytes();
    [
        &[b'M', u8::from(transactional)][..],
        &lsn,
        prefix,
        &length.to_be_bytes(),
        content,
    ]
    .concat()
}

fn begin() -> Vec<u8> {
    [
        &[b'B'][..],
        &90u64.to_be_bytes(),
        &5i64.to_be_bytes(),
        &XID.0.to_be_bytes(),
    ]
    .concat()
}

fn commit() -> Vec<u8> {
    [
        &[b'C', 0][..],
        &90u64.to_be_bytes(),
        &100u64.to_be_bytes(),
        &5i64.to_be_bytes(),
    ]
    .concat()
}

fn feed(stream: &mut Stream, catalog: &Catalog, messages: &[Vec<u8>]) -> Vec<Event> {
    let mut told = Vec::new();
    for message in messages {
        let message = PgOutput::decode(message).unwrap();
        stream
            .handle(message, catalog, &mut |event| told.push(event))
            .unwrap();
    }
    told
}

/// What one transaction with these changes tells.
fn transaction(changes: &[Vec<u8>]) -> Transaction {
    let mut stream = Stream::new(&[LOG]);
    let messages = [&[begin(), table()], changes, &[commit()]].concat();
    match feed(&mut stream, &catalog(1), &messages).as_slice() {
        [Event::Transaction(transaction)] => transaction.clone(),
        other => panic!("not one transaction: {other:?}"),
    }
}

fn row(id: i32) -> RowId {
    let mut key = ripen_pg::key::Key::new();
    key.push_fixed(&id.to_be_bytes());
    RowId { table: T, key }
}

fn image(id: i32, v: Option<&str>, w: Option<&str>) -> Tuple {
    let id = id.to_be_bytes();
    let text = |text: Option<&'static str>| {
        text.map_or(Datum::Missing, |text| Datum::Value(text.as_bytes()))
    };
    let leak = |text: Option<&str>| text.map(|text| &*String::from(text).leak());
    [
        Datum::Value(&id),
        Datum::Missing,
        text(leak(v)),
        text(leak(w)),
    ]
    .into_iter()
    .collect()
}

fn put(id: i32, v: Option<&str>, w: Option<&str>) -> RowOutcome {
    RowOutcome {
        row: row(id),
        outcome: Outcome::Put(image(id, v, w)),
    }
}

fn outcome(id: i32, outcome: Outcome) -> RowOutcome {
    RowOutcome {
        row: row(id),
        outcome,
    }
}

#[test]
fn columns_land_at_their_positions() {
    let told = transaction(&[insert(&[Int(1), V::Text("a"), V::Text("b")])]);
    assert_eq!(told.rows, [put(1, Some("a"), Some("b"))]);
    assert_eq!(
        (told.xid, told.commit, told.own_flush),
        (XID, Lsn(100), None)
    );
    assert!(told.schema_changed.is_empty());
}

#[test]
fn who_has_another_catalog_takes_the_tables_for_changed() {
    let told = transaction(&[insert(&[Int(1), V::Text("a"), V::Text("b")])]);
    let mut same = told.clone();
    same.fit(&catalog(7));
    assert_eq!(same, told);
    let other = |change: fn(&mut Relation)| {
        let mut catalog = catalog(1);
        let relation = catalog.relations.get_mut(&T).unwrap();
        change(Arc::get_mut(relation).unwrap());
        catalog
    };
    for other in [
        other(|relation| relation.columns[1].type_oid = INT4),
        other(|relation| relation.columns[1].name = "x".into()),
        other(|relation| drop(relation.columns.pop())),
        other(|relation| relation.primary_key = vec![2]),
        Catalog::default(),
    ] {
        let mut unfit = told.clone();
        unfit.fit(&other);
        assert!(unfit.rows.is_empty() && unfit.shapes.is_empty());
        assert_eq!(
            (unfit.invalidated, unfit.schema_changed),
            (vec![T], vec![T])
        );
    }
}

#[test]
fn unchanged_values_are_missing_until_the_transaction_has_told_them() {
    let told = transaction(&[update(&[Int(1), V::Text("a"), Same])]);
    assert_eq!(told.rows, [put(1, Some("a"), None)]);
    let told = transaction(&[
        insert(&[Int(1), V::Text("a"), V::Text("b")]),
        update(&[Int(1), V::Text("c"), Same]),
    ]);
    assert_eq!(told.rows, [put(1, Some("c"), Some("b"))]);
}

#[test]
fn a_row_is_told_once_as_it_is_at_the_end() {
    let told = transaction(&[
        update(&[Int(1), V::Text("a"), V::Text("b")]),
        delete(2),
        delete(1),
        insert(&[Int(1), V::Text("c"), V::Text("d")]),
    ]);
    let expected = [put(1, Some("c"), Some("d")), outcome(2, Outcome::Delete)];
    assert_eq!(told.rows, expected);
}

#[test]
fn a_new_key_is_a_delete_and_a_row() {
    let told = transaction(&[update_key(1, &[Int(2), V::Text("a"), V::Text("b")])]);
    let expected = [outcome(1, Outcome::Delete), put(2, Some("a"), Some("b"))];
    assert_eq!(told.rows, expected);
}

#[test]
fn unchanged_values_do_not_stay_behind_at_the_old_key() {
    let told = transaction(&[update_key(1, &[Int(2), V::Text("a"), Same])]);
    let expected = [outcome(1, Outcome::Delete), outcome(2, Outcome::Unknown)];
    assert_eq!(told.rows, expected);
    let told = transaction(&[
        insert(&[Int(1), V::Text("a"), V::Text("b")]),
        update_key(1, &[Int(2), V::Text("c"), Same]),
    ]);
    let expected = [outcome(1, Outcome::Delete), put(2, Some("c"), Some("b"))];
    assert_eq!(told.rows, expected);
}

#[test]
fn values_without_binary_form_are_not_guessed() {
    let told = transaction(&[insert(&[Int(1), Raw("a"), V::Text("b")])]);
    assert_eq!(told.rows, [outcome(1, Outcome::Unknown)]);
}

#[test]
fn full_identity_tells_unchanged_values() {
    let mut stream = Stream::new(&[LOG]);
    let columns = [("id", INT4), ("v", TEXT), ("w", TEXT)];
    let old = [Int(1), V::Text("a"), V::Text("long")];
    let new = [Int(1), V::Text("c"), Same];
    let messages = [
        begin(),
        relation(T, "public.t", b'f', &columns),
        change(b'U', T, &[(b'O', &old), (b'N', &new)]),
        change(b'D', T, &[(b'O', &[Int(2), Null, Null])]),
        commit(),
    ];
    let told = feed(&mut stream, &catalog(1), &messages);
    let [Event::Transaction(told)] = told.as_slice() else {
        panic!("{told:?}")
    };
    assert_eq!(
        told.rows,
        [put(1, Some("c"), Some("long")), outcome(2, Outcome::Delete)]
    );
}

#[test]
fn an_index_as_identity_invalidates_the_table() {
    let mut stream = Stream::new(&[LOG]);
    let columns = [("id", INT4), ("v", TEXT), ("w", TEXT)];
    let messages = [
        begin(),
        relation(T, "public.t", b'i', &columns),
        delete(1),
        commit(),
    ];
    let told = feed(&mut stream, &catalog(1), &messages);
    let [Event::Transaction(told)] = told.as_slice() else {
        panic!("{told:?}")
    };
    assert!(told.rows.is_empty());
    assert_eq!(told.invalidated, [T]);
}

#[test]
fn truncate_ends_what_came_before_and_rows_after_it_invalidate() {
    let told = transaction(&[insert(&[Int(1), Null, Null]), truncate()]);
    assert_eq!((told.rows.len(), told.truncated.as_slice()), (0, &[T][..]));
    let told = transaction(&[truncate(), insert(&[Int(1), Null, Null])]);
    assert_eq!((told.rows.len(), told.truncated.len()), (0, 0));
    assert_eq!(told.invalidated, [T]);
}

#[test]
fn own_flush_is_confirmed_and_its_rows_are_skipped() {
    let told = transaction(&[
        insert(&[Int(9), Null, Null]),
        progress_table(b'f'),
        progress(1, 41, 42),
        insert(&[Int(1), Null, Null]),
        truncate(),
    ]);
    assert_eq!(told.own_flush, Some(own(42)));
    assert!(told.rows.is_empty() && told.truncated.is_empty() && told.invalidated.is_empty());
}

#[test]
fn a_flush_that_may_have_changed_more_tells_its_rows() {
    let tell = message(true, b"ripen.tell\0", b"");
    let told = transaction(&[
        progress_table(b'f'),
        progress(1, 41, 42),
        tell,
        insert(&[Int(1), Null, Null]),
        delete(2),
    ]);
    assert_eq!(told.own_flush, Some(own(42)));
    assert_eq!(told.rows.len(), 2);
}

#[test]
fn take_over_and_other_logs_are_no_flush() {
    let catalog = catalog(1);
    let mut stream = Stream::new(&[LOG]);
    let told = feed(
        &mut stream,
        &catalog,
        &[begin(), progress_table(b'f'), progress(1, 42, 42), commit()],
    );
    assert_eq!(told, [Event::Position(Lsn(100))]);
    let told = feed(
        &mut stream,
        &catalog,
        &[begin(), table(), progress(2, 1, 2), delete(1), commit()],
    );
    let [Event::Transaction(told)] = told.as_slice() else {
        panic!("{told:?}")
    };
    assert_eq!((told.own_flush, told.rows.len()), (None, 1));
    let another = LogIdentity(LOG.identity.0 - 1);
    let told = feed(
        &mut stream,
        &catalog,
        &[
            begin(),
            progress_of(1, another, 42, 43),
            delete(1),
            commit(),
        ],
    );
    let [Event::Transaction(told)] = told.as_slice() else {
        panic!("{told:?}")
    };
    assert_eq!((told.own_flush, told.rows.len()), (None, 1));
}

#[test]
fn wal_from_before_logs_had_identities_is_of_the_one_log_there_was() {
    let columns = [("log", INT4), ("applied", TypeOid(20))];
    let old_table = relation(PROGRESS, "ripen.progress", b'f', &columns);
    let moved = [(b'O', &[Int(1), Long(41)][..]), (b'N', &[Int(1), Long(42)])];
    let told = transaction(&[
        old_table,
        change(b'U', PROGRESS, &moved),
        insert(&[Int(1), Null, Null]),
    ]);
    assert_eq!((told.own_flush, told.rows.len()), (Some(own(42)), 0));
}

#[test]
fn without_old_values_the_last_flush_tells_a_take_over() {
    let (mut stream, catalog) = (Stream::new(&[LOG]), catalog(1));
    let new = [
        Int(1),
        Long(1),
        Long(42),
        Long(0),
        Long(LOG.identity.stored()),
    ];
    let touch = change(b'U', PROGRESS, &[(b'N', &new)]);
    let told = feed(
        &mut stream,
        &catalog,
        &[begin(), progress_table(b'd'), touch.clone(), commit()],
    );
    assert!(matches!(told.as_slice(), [Event::Transaction(t)] if t.own_flush == Some(own(42))));
    let told = feed(&mut stream, &catalog, &[begin(), touch, commit()]);
    assert_eq!(told, [Event::Position(Lsn(100))]);
}

#[test]
fn withdrawn_tables_are_told_behind_what_was_told_of_them() {
    let mut stream = Stream::new(&[LOG]);
    let messages = [
        begin(),
        table(),
        message(true, b"ripen.withdrawn\0", b"1f 7,8"),
        message(true, b"ripen.withdrawn\0", b"of somebody else"),
        mark_message(true, "4"),
        delete(1),
        commit(),
    ];
    let told = feed(&mut stream, &catalog(1), &messages);
    let [Event::Transaction(_), withdrawn, Event::Mark { id: 4, .. }] = told.as_slice() else {
        panic!("{told:?}")
    };
    let expected = Event::Withdrawn {
        author: Author(31),
        tables: vec![TableOid(7), TableOid(8)],
        position: Lsn(100),
    };
    assert_eq!(*withdrawn, expected);
}

#[test]
fn marks_follow_their_transaction_and_foreign_messages_are_ignored() {
    let mut stream = Stream::new(&[LOG]);
    let told = feed(
        &mut stream,
        &catalog(1),
        &[
            mark_message(false, "3"),
            begin(),
            table(),
            mark_message(true, "4"),
            mark_message(true, "not a number"),
            delete(1),
            commit(),
        ],
    );
    assert!(matches!(
        told.as_slice(),
        [
            Event::Mark {
                id: 3,
                position: Lsn(90)
            },
            Event::Transaction(_),
            Event::Mark {
                id: 4,
                position: Lsn(100)
            }
        ]
    ));
}

#[test]
fn other_columns_than_the_catalogs_invalidate_and_report_once_per_epoch() {
    let mut stream = Stream::new(&[LOG]);
    let swapped = relation(
        T,
        "public.t",
        b'd',
        &[("id", INT4), ("w", TEXT), ("v", TEXT)],
    );
    let messages = [begin(), swapped, delete(1), commit()];
    let told = feed(&mut stream, &catalog(1), &messages);
    let [Event::Transaction(first)] = told.as_slice() else {
        panic!("{told:?}")
    };
    assert_eq!(
        (
            first.invalidated.as_slice(),
            first.schema_changed.as_slice()
        ),
        (&[T][..], &[T][..])
    );
    let told = feed(&mut stream, &catalog(1), &[begin(), delete(1), commit()]);
    let [Event::Transaction(second)] = told.as_slice() else {
        panic!("{told:?}")
    };
    assert_eq!(
        (second.invalidated.len(), second.schema_changed.len()),
        (1, 0)
    );
    let told = feed(&mut stream, &catalog(2), &[begin(), delete(1), commit()]);
    let [Event::Transaction(third)] = told.as_slice() else {
        panic!("{told:?}")
    };
    assert_eq!(third.schema_changed, [T]);
}

#[test]
fn a_new_description_that_fits_the_new_catalog_is_followed() {
    let mut stream = Stream::new(&[LOG]);
    let before = relation(T, "public.t", b'd', &[("id", INT4)]);
    feed(&mut stream, &catalog(1), &[begin(), before, commit()]);
    let told = feed(
        &mut stream,
        &catalog(2),
        &[begin(), table(), delete(1), commit()],
    );
    let [Event::Transaction(told)] = told.as_slice() else {
        panic!("{told:?}")
    };
    assert_eq!(told.rows, [outcome(1, Outcome::Delete)]);
    assert_eq!(
        told.schema_changed,
        [T],
        "the columns are no longer what they were"
    );
}

#[test]
fn a_huge_transaction_is_told_by_its_tables() {
    let mut stream = Stream::new(&[LOG]);
    stream.bytes_max = 10_000;
    let rows = (0..1_000).map(|id| insert(&[Int(id), V::Text("some text"), Null]));
    let messages: Vec<_> = [begin(), table()]
        .into_iter()
        .chain(rows)
        .chain([commit()])
        .collect();
    let told = feed(&mut stream, &catalog(1), &messages);
    let [Event::Transaction(told)] = told.as_slice() else {
        panic!("{told:?}")
    };
    assert_eq!(
        (told.rows.len(), told.invalidated.as_slice()),
        (0, &[T][..])
    );
}

#[test]
fn changing_one_row_over_and_over_takes_no_more_memory() {
    let mut stream = Stream::new(&[LOG]);
    stream.bytes_max = 10_000;
    let rows = (0..1_000).map(|_| insert(&[Int(1), V::Text("some text"), Null]));
    let messages: Vec<_> = [begin(), table()]
        .into_iter()
        .chain(rows)
        .chain([commit()])
        .collect();
    let told = feed(&mut stream, &catalog(1), &messages);
    let [Event::Transaction(told)] = told.as_slice() else {
        panic!("{told:?}")
    };
    assert_eq!(told.rows.len(), 1);
}

#[test]
fn a_row_too_large_to_read_invalidates_its_table() {
    let mut stream = Stream::new(&[LOG]);
    feed(&mut stream, &catalog(1), &[begin(), table(), delete(1)]);
    stream.oversized(T).unwrap();
    let told = feed(&mut stream, &catalog(1), &[delete(2), commit()]);
    let [Event::Transaction(told)] = told.as_slice() else {
        panic!("{told:?}")
    };
    assert_eq!(
        (told.rows.len(), told.invalidated.as_slice()),
        (0, &[T][..])
    );
}

#[test]
fn position_does_not_run_ahead_of_an_open_transaction() {
    let mut stream = Stream::new(&[LOG]);
    let mut told = Vec::new();
    stream.keepalive(Lsn(50), &mut |event| told.push(event));
    feed(&mut stream, &catalog(1), &[begin(), table(), delete(1)]);
    stream.keepalive(Lsn(95), &mut |event| told.push(event));
    assert_eq!(stream.passed(), Lsn(50));
    feed(&mut stream, &catalog(1), &[commit()]);
    stream.keepalive(Lsn(99), &mut |event| told.push(event));
    assert_eq!(stream.passed(), Lsn(100), "it never goes back");
    assert_eq!(
        told,
        [
            Event::Position(Lsn(50)),
            Event::Position(Lsn(50)),
            Event::Position(Lsn(100))
        ]
    );
}

#[test]
fn a_restart_forgets_what_was_half_told() {
    let mut stream = Stream::new(&[LOG]);
    feed(&mut stream, &catalog(1), &[begin(), table(), delete(1)]);
    stream.restart(Lsn(10));
    let told = feed(&mut stream, &catalog(1), &[begin(), delete(2), commit()]);
    let [Event::Transaction(told)] = told.as_slice() else {
        panic!("{told:?}")
    };
    assert_eq!(told.rows, [outcome(2, Outcome::Delete)]);
}

#[test]
fn impossible_orders_are_errors() {
    let catalog = catalog(1);
    let fails = |messages: &[Vec<u8>]| {
        let mut stream = Stream::new(&[LOG]);
        let handle = |message: &Vec<u8>| {
            stream
                .handle(PgOutput::decode(message).unwrap(), &catalog, &mut |_| ())
                .err()
        };
        messages.iter().filter_map(handle).last()
    };
    assert!(fails(&[commit()]).is_some());
    assert!(fails(&[begin(), begin()]).is_some());
    assert!(fails(&[delete(1)]).is_some());
    assert_eq!(
        fails(&[begin(), delete(1)]),
        Some(StreamError::Undescribed(T))
    );
}
