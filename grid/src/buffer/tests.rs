//! Random transactions with savepoints, beside a model that keeps a whole copy of the rows for each savepoint.

use super::*;
use crate::change::Increment;
use bytes::Bytes;
use proptest::prelude::*;
use ripen_pg::ids::TableOid;
use ripen_pg::key::Key;
use ripen_pg::tuple::Datum;
use ripen_pg::value::oid;

fn row(key: u8) -> RowId {
    RowId {
        table: TableOid(1),
        key: Key::from_bytes(&[key]),
    }
}

/// A row of a counter (int4) and another number.
fn tuple(counter: i32, other: i32) -> Tuple {
    let (counter, other) = (counter.to_be_bytes(), other.to_be_bytes());
    [Datum::Value(&counter), Datum::Value(&other)]
        .into_iter()
        .collect()
}

fn numbers(tuple: &Tuple) -> (i32, i32) {
    let number = |at| match tuple.get(at) {
        Datum::Value(bytes) => i32::from_be_bytes(bytes.try_into().expect("four bytes")),
        _ => panic!("no number"),
    };
    (number(0), number(1))
}

fn update(image: Tuple, set: &[u16], amount: Option<i32>) -> Change {
    let add = amount.map(|amount| Increment {
        position: 0,
        type_oid: oid::INT4,
        amount: Bytes::copy_from_slice(&amount.to_be_bytes()),
    });
    Change::Update {
        image,
        set: set.to_vec(),
        add: add.into_iter().collect(),
    }
}

fn note(buffer: &mut Buffer, key: u8, change: Change, base: Option<Tuple>) {
    let row = row(key);
    buffer.note(RowChange { row, change }, base);
}

#[test]
fn writes_to_one_row_are_one_change() {
    let mut buffer = Buffer::default();
    let base = Some(tuple(10, 0));
    note(&mut buffer, 1, update(tuple(11, 0), &[], Some(1)), base);
    note(&mut buffer, 1, update(tuple(13, 0), &[], Some(2)), None);
    note(&mut buffer, 1, update(tuple(13, 5), &[1], None), None);
    let merged = buffer.merged();
    assert_eq!(merged.len(), 1);
    assert_eq!(merged[0].base, Some(tuple(10, 0)));
    assert_eq!(
        merged[0].change.change,
        update(tuple(13, 5), &[1], Some(3)),
        "an increment stays one"
    );
}

#[test]
fn what_is_inserted_and_deleted_again_is_nothing_but_hides_the_row() {
    let mut buffer = Buffer::default();
    let image = tuple(1, 1);
    note(&mut buffer, 1, Change::Insert { image }, None);
    note(&mut buffer, 1, Change::Delete, None);
    assert_eq!(buffer.image(&row(1)), Some(None));
    assert_eq!(buffer.merged(), []);
    let image = tuple(2, 2);
    note(
        &mut buffer,
        1,
        Change::Insert {
            image: image.clone(),
        },
        None,
    );
    assert_eq!(buffer.merged()[0].change.change, Change::Insert { image });
}

#[test]
fn the_last_savepoint_of_a_name_counts() {
    let mut buffer = Buffer::default();
    buffer.savepoint(b"a", 1);
    note(&mut buffer, 1, update(tuple(1, 0), &[0], None), None);
    buffer.savepoint(b"a", 2);
    note(&mut buffer, 1, update(tuple(2, 0), &[0], None), None);
    assert_eq!(buffer.back_to(b"a"), Some(2));
    assert_eq!(buffer.image(&row(1)), Some(Some(&tuple(1, 0))));
    assert!(buffer.release(b"a"));
    assert_eq!(buffer.back_to(b"a"), Some(1));
    assert_eq!(buffer.image(&row(1)), None);
    assert_eq!(buffer.back_to(b"b"), None);
    assert!(!buffer.release(b"b"));
    assert_eq!(buffer.savepoints(), 1);
    assert_eq!((buffer.rows(), buffer.bytes()), (0, 0));
}

#[derive(Clone, Debug)]
enum Event {
    Write(u8, u8, i32),
    Savepoint(u8),
    Release(u8),
    BackTo(u8),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => (0..4u8, 0..4u8, -9..9i32).prop_map(|(key, kind, n)| Event::Write(key, kind, n)),
        1 => (0..3u8).prop_map(Event::Savepoint),
        1 => (0..3u8).prop_map(Event::Release),
        1 => (0..3u8).prop_map(Event::BackTo),
    ]
}

type Rows = BTreeMap<u8, (i32, i32)>;

fn committed() -> Rows {
    [(0, (100, 0)), (1, (200, 0))].into()
}

/// Decides a write as a statement would, on the row as the transaction sees it.
fn write(rows: &mut Rows, buffer: &mut Buffer, key: u8, kind: u8, n: i32) {
    let base = committed()
        .get(&key)
        .map(|(counter, other)| tuple(*counter, *other));
    let change = match (rows.get(&key).copied(), kind) {
        (None, 0 | 1) => {
            rows.insert(key, (n, n));
            Change::Insert { image: tuple(n, n) }
        }
        (None, _) => return,
        (Some((counter, other)), 0) => {
            rows.insert(key, (counter + n, other));
            update(tuple(counter + n, other), &[], Some(n))
        }
        (Some((counter, _)), 1) => {
            rows.insert(key, (counter, n));
            update(tuple(counter, n), &[1], None)
        }
        (Some((_, other)), 2) => {
            rows.insert(key, (n, other));
            update(tuple(n, other), &[0], None)
        }
        (Some(_), _) => {
            rows.remove(&key);
            Change::Delete
        }
    };
    note(buffer, key, change, base);
}

/// The committed rows with a group on them, strictly: an insert finds no row, the others find one.
fn carry_out(rows: &mut Rows, group: impl Iterator<Item = RowChange>) {
    for change in group {
        let key = change.row.key.as_bytes()[0];
        let before = rows
            .get(&key)
            .map(|(counter, other)| tuple(*counter, *other));
        match &change.change {
            Change::Insert { .. } => assert!(before.is_none(), "inserted twice"),
            Change::Put { .. } => {}
            Change::Update { .. } | Change::Delete => assert!(before.is_some(), "not found"),
        }
        match layer::apply(&change.change, before.as_ref()) {
            Some(after) => rows.insert(key, numbers(&after)),
            None => rows.remove(&key),
        };
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn a_buffer_is_what_its_statements_have_made(events in prop::collection::vec(event(), 1..40)) {
        let mut buffer = Buffer::default();
        let mut rows = committed();
        let mut savepoints: Vec<(u8, Rows)> = Vec::new();
        let place = |savepoints: &Vec<(u8, Rows)>, name| savepoints.iter().rposition(|(known, _)| *known == name);
        for event in events {
            match event {
                Event::Write(key, kind, n) => write(&mut rows, &mut buffer, key, kind, n),
                Event::Savepoint(name) => {
                    buffer.savepoint(&[name], 0);
                    savepoints.push((name, rows.clone()));
                }
                Event::Release(name) => {
                    let found = place(&savepoints, name);
                    prop_assert_eq!(buffer.release(&[name]), found.is_some());
                    savepoints.truncate(found.unwrap_or(savepoints.len()));
                }
                Event::BackTo(name) => {
                    let found = place(&savepoints, name);
                    prop_assert_eq!(buffer.back_to(&[name]).is_some(), found.is_some());
                    if let Some(found) = found {
                        savepoints.truncate(found + 1);
                        rows = savepoints[found].1.clone();
                    }
                }
            }
            for key in 0..4 {
                let seen = match buffer.image(&row(key)) {
                    Some(image) => image.map(numbers),
                    None => committed().get(&key).copied(),
                };
                prop_assert_eq!(seen, rows.get(&key).copied());
            }
        }
        let mut at_once = committed();
        carry_out(&mut at_once, buffer.merged().into_iter().map(|based| based.change));
        prop_assert_eq!(&at_once, &rows);
        let mut in_stretches = committed();
        for stretch in buffer.stretches() {
            carry_out(&mut in_stretches, stretch.group.rows.into_iter());
        }
        prop_assert_eq!(&in_stretches, &rows);
    }
}
