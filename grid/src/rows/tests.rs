//! One fact each, by hand; `tests/rows_model.rs` mixes them all at random.

use super::*;
use crate::change::{Increment, RowChange};
use layer::Stage;
use ripen_pg::ids::TypeOid;
use ripen_pg::key::Key;
use ripen_pg::tuple::Datum;
use std::sync::atomic::AtomicU64;

const TABLE: TableOid = TableOid(1);
const INT8: TypeOid = TypeOid(20);
const SEQ: FlushSeq = FlushSeq(1);

fn row(key: u8) -> RowId {
    RowId {
        table: TABLE,
        key: Key::from_bytes(&[key]),
    }
}

/// A row of two columns.
fn tuple(a: i64, b: i64) -> Tuple {
    let columns = [a.to_be_bytes(), b.to_be_bytes()];
    columns.iter().map(|bytes| Datum::Value(bytes)).collect()
}

fn moment(snapshot: &str, wal: u64) -> Arc<Moment> {
    Arc::new(Moment {
        snapshot: snapshot.parse().unwrap(),
        wal: Lsn(wal),
    })
}

fn snapshot(text: &str) -> Arc<Moment> {
    moment(text, 0)
}

fn everything() -> Lsn {
    Lsn(u64::MAX)
}

fn small(memory_max_bytes: u64) -> Rows {
    Rows::new(memory_max_bytes, Arc::new(|| 0))
}

fn rows() -> Rows {
    let rows = small(1 << 30);
    rows.note_xid(Xid(5));
    rows
}

fn load(rows: &Rows, key: u8, seen: &str, found: Option<Tuple>) {
    let (ticket, _) = rows.begin_load(&[row(key)]);
    rows.finish_load(ticket, &snapshot(seen), |_| found.clone());
}

/// `None`: unknown.
fn known(rows: &Rows, key: u8) -> Option<Option<(i64, i64)>> {
    let int8 = |datum: Datum<'_>| i64::from_be_bytes(datum.value().unwrap().try_into().unwrap());
    rows.read_one(
        &row(key),
        || false,
        |found| match found {
            Found::Row(tuple) => Some(Some((int8(tuple.get(0)), int8(tuple.get(1))))),
            Found::Absent => Some(None),
            Found::Unknown => None,
        },
    )
    .unwrap()
}

fn group(changes: impl IntoIterator<Item = (u8, Change)>) -> CommitGroup {
    let change = |(key, change)| RowChange {
        row: row(key),
        change,
    };
    CommitGroup {
        rows: changes.into_iter().map(change).collect(),
    }
}

fn set_a(a: i64, b: i64) -> Change {
    Change::Update {
        image: tuple(a, b),
        set: vec![0],
        add: vec![],
    }
}

fn add_a(amount: i64, a: i64, b: i64) -> Change {
    let amount = amount.to_be_bytes().to_vec().into();
    Change::Update {
        image: tuple(a, b),
        set: vec![],
        add: vec![Increment {
            position: 0,
            type_oid: INT8,
            amount,
        }],
    }
}

fn commit(rows: &Rows, key: u8, change: Change) {
    rows.apply_group(&group([(key, change)]), LogIndex(1));
}

fn outside(rows: &Rows, xid: u32, lsn: u64, key: u8, image: Option<Tuple>) -> Vec<RowId> {
    let change = WalChange {
        row: row(key),
        image,
    };
    rows.wal_transaction(Xid32(xid), Lsn(lsn), &[change])
}

/// The stages of a row's layers.
fn stages(rows: &Rows, key: u8) -> Vec<Stage> {
    let mut stages = Vec::new();
    rows.for_each_layered(|id, slot| {
        if *id == row(key) {
            stages.extend(slot.layers().iter().map(|layer| layer.stage));
        }
    });
    stages
}

#[test]
fn outside_update_beats_older_load() {
    let rows = rows();
    let (ticket, _) = rows.begin_load(&[row(1)]);
    outside(&rows, 10, 100, 1, Some(tuple(2, 2)));
    rows.finish_load(ticket, &snapshot("10:11:10"), |_| Some(tuple(1, 1)));
    assert_eq!(known(&rows, 1), Some(Some((2, 2))));
}

#[test]
fn newer_load_beats_outside_update_that_it_saw() {
    let rows = rows();
    let (ticket, _) = rows.begin_load(&[row(1)]);
    outside(&rows, 10, 100, 1, Some(tuple(2, 2)));
    rows.finish_load(ticket, &snapshot("12:12:"), |_| Some(tuple(3, 3)));
    assert_eq!(known(&rows, 1), Some(Some((3, 3))));
}

#[test]
fn a_load_does_not_miss_a_change_that_passed_before_it_began_and_was_not_visible_yet() {
    let rows = rows();
    outside(&rows, 10, 100, 1, Some(tuple(2, 2)));
    load(&rows, 1, "10:11:10", Some(tuple(1, 1)));
    assert_eq!(known(&rows, 1), Some(Some((2, 2))));
}

#[test]
fn a_load_before_an_invalidated_transaction_is_not_kept() {
    let rows = rows();
    rows.wal_invalidate(Xid32(10), Lsn(100), &[TABLE]);
    load(&rows, 1, "10:11:10", Some(tuple(1, 1)));
    assert_eq!(known(&rows, 1), None);
    load(&rows, 1, "11:11:", Some(tuple(2, 2)));
    assert_eq!(known(&rows, 1), Some(Some((2, 2))));
}

#[test]
fn a_stream_that_repeats_itself_changes_nothing() {
    let rows = rows();
    load(&rows, 1, "10:10:", Some(tuple(1, 1)));
    outside(&rows, 10, 100, 1, Some(tuple(2, 2)));
    outside(&rows, 11, 200, 1, Some(tuple(3, 3)));
    outside(&rows, 10, 100, 1, Some(tuple(2, 2)));
    assert_eq!(known(&rows, 1), Some(Some((3, 3))));
}

#[test]
fn absence_is_known_until_somebody_inserts() {
    let rows = rows();
    load(&rows, 1, "10:10:", None);
    assert_eq!(known(&rows, 1), Some(None));
    outside(&rows, 10, 100, 1, Some(tuple(2, 2)));
    assert_eq!(known(&rows, 1), Some(Some((2, 2))));
    outside(&rows, 11, 200, 1, None);
    assert_eq!(known(&rows, 1), Some(None));
}

#[test]
fn what_nobody_knows_stays_unknown() {
    let rows = rows();
    outside(&rows, 10, 100, 1, Some(tuple(2, 2)));
    assert_eq!(known(&rows, 1), None);
    assert_eq!(rows.stats().rows, 0);
}

#[test]
fn unchanged_large_values_are_kept_and_unknown_ones_forget_the_row() {
    let rows = rows();
    let partial: Tuple = [Datum::Value(&9i64.to_be_bytes()), Datum::Missing]
        .into_iter()
        .collect();
    load(&rows, 1, "10:10:", Some(tuple(1, 7)));
    outside(&rows, 10, 100, 1, Some(partial.clone()));
    assert_eq!(known(&rows, 1), Some(Some((9, 7))));
    load(&rows, 2, "10:10:", None);
    outside(&rows, 10, 100, 2, Some(partial));
    assert_eq!(known(&rows, 2), None);
}

#[test]
fn a_poisoned_load_is_not_kept_and_the_next_is() {
    let rows = rows();
    let (ticket, _) = rows.begin_load(&[row(1)]);
    rows.drop_rows(&[row(1)]);
    rows.finish_load(ticket, &snapshot("10:10:"), |_| Some(tuple(1, 1)));
    assert_eq!(known(&rows, 1), None);
    load(&rows, 1, "10:10:", Some(tuple(2, 2)));
    assert_eq!(known(&rows, 1), Some(Some((2, 2))));
}

#[test]
fn too_many_changes_during_a_load_poison_it() {
    let rows = rows();
    let (ticket, _) = rows.begin_load(&[row(1)]);
    for at in 0..=limits::LOAD_EVENTS_MAX as u32 {
        outside(&rows, 10 + at, 100 + u64::from(at), 1, Some(tuple(2, 2)));
    }
    rows.finish_load(ticket, &snapshot("10:11:10"), |_| Some(tuple(1, 1)));
    assert_eq!(known(&rows, 1), None);
}

#[tokio::test]
async fn one_loads_and_the_others_wait() {
    let rows = rows();
    let (mine, nobody) = rows.begin_load(&[row(1), row(2)]);
    assert!(nobody.is_empty());
    let (theirs, wait) = rows.begin_load(&[row(2), row(3)]);
    assert_eq!((mine.rows().len(), theirs.rows()), (2, &[row(3)][..]));
    rows.fail_load(mine);
    wait.ended().await;
    // A ticket that is dropped without a word fails its load too.
    drop(theirs);
    let (again, wait) = rows.begin_load(&[row(3)]);
    assert!(wait.is_empty());
    assert_eq!(again.rows(), [row(3)]);
}

#[test]
fn load_that_saw_the_flush_does_not_add_twice() {
    let rows = rows();
    load(&rows, 1, "10:10:", Some(tuple(1, 1)));
    commit(&rows, 1, add_a(10, 11, 1));
    rows.begin_flush(SEQ, &[row(1)], true);
    rows.flush_xid(SEQ, Xid(10), &[row(1)]);
    rows.drop_rows(&[row(1)]);
    let (ticket, _) = rows.begin_load(&[row(1)]);
    assert_eq!(rows.flushed(SEQ, &[row(1)], |_| Confirms::Stream), [row(1)]);
    rows.finish_load(ticket, &snapshot("11:11:"), |_| Some(tuple(11, 1)));
    assert_eq!(known(&rows, 1), Some(Some((11, 1))));
    rows.confirm(SEQ, Xid32(10), Lsn(100), &[row(1)]);
    assert_eq!(known(&rows, 1), Some(Some((11, 1))));
}

#[test]
fn load_that_did_not_see_the_flush_has_it_added() {
    let rows = rows();
    load(&rows, 1, "10:10:", Some(tuple(1, 1)));
    commit(&rows, 1, add_a(10, 11, 1));
    rows.begin_flush(SEQ, &[row(1)], true);
    rows.drop_rows(&[row(1)]);
    let (ticket, _) = rows.begin_load(&[row(1)]);
    rows.flush_xid(SEQ, Xid(10), &[row(1)]);
    rows.flushed(SEQ, &[row(1)], |_| Confirms::Stream);
    rows.confirm(SEQ, Xid32(10), Lsn(100), &[row(1)]);
    rows.finish_load(ticket, &snapshot("10:11:10"), |_| Some(tuple(1, 1)));
    assert_eq!(known(&rows, 1), Some(Some((11, 1))));
    assert_eq!(stages(&rows, 1), []);
}

#[test]
fn a_load_that_cannot_tell_whether_a_flush_committed_is_not_kept() {
    let rows = rows();
    load(&rows, 1, "10:10:", Some(tuple(1, 1)));
    commit(&rows, 1, add_a(10, 11, 1));
    rows.begin_flush(SEQ, &[row(1)], true);
    rows.flush_xid(SEQ, Xid(10), &[row(1)]);
    rows.drop_rows(&[row(1)]);
    // The transaction has ended: committed, or failed without anybody here knowing yet.
    load(&rows, 1, "11:11:", Some(tuple(1, 1)));
    assert_eq!(known(&rows, 1), None);
    // It had failed; the next attempt has another number.
    rows.flush_retry(SEQ, &[row(1)]);
    load(&rows, 1, "11:11:", Some(tuple(1, 1)));
    assert_eq!(known(&rows, 1), Some(Some((11, 1))));
}

#[test]
fn a_flush_of_an_earlier_process_is_asked_for_before_its_rows_are_loaded() {
    let rows = rows();
    commit(&rows, 1, add_a(10, 11, 1));
    rows.begin_flush(SEQ, &[row(1)], false);
    load(&rows, 1, "11:11:", Some(tuple(11, 1)));
    assert_eq!(known(&rows, 1), None);
    assert_eq!(rows.flushed(SEQ, &[row(1)], |_| Confirms::Stream), []);
    load(&rows, 1, "11:11:", Some(tuple(11, 1)));
    assert_eq!(known(&rows, 1), Some(Some((11, 1))));
}

#[test]
fn an_exclusive_row_is_clean_at_the_end_of_its_flush_even_under_a_load() {
    let rows = rows();
    commit(&rows, 1, set_a(5, 1));
    rows.begin_flush(SEQ, &[row(1)], true);
    let (ticket, _) = rows.begin_load(&[row(1)]);
    rows.flush_xid(SEQ, Xid(10), &[row(1)]);
    assert_eq!(rows.flushed(SEQ, &[row(1)], |_| Confirms::Nobody), []);
    rows.finish_load(ticket, &snapshot("10:11:10"), |_| Some(tuple(1, 1)));
    assert_eq!(known(&rows, 1), Some(Some((5, 1))));
    assert_eq!(stages(&rows, 1), []);
}

#[test]
fn a_flush_of_which_the_stream_has_lost_sight_is_not_undone_by_what_it_tells_later() {
    let rows = rows();
    load(&rows, 1, "9:9:", Some(tuple(1, 1)));
    commit(&rows, 1, add_a(10, 11, 1));
    rows.begin_flush(SEQ, &[row(1)], true);
    rows.flush_xid(SEQ, Xid(10), &[row(1)]);
    assert_eq!(rows.flushed(SEQ, &[row(1)], |_| Confirms::Unknown), []);
    assert_eq!(known(&rows, 1), None);
    // Committed before the flush, told after it.
    outside(&rows, 9, 50, 1, Some(tuple(1, 8)));
    assert_eq!(known(&rows, 1), None);
    load(&rows, 1, "11:11:", Some(tuple(11, 8)));
    assert_eq!(known(&rows, 1), Some(Some((11, 8))));
}

#[test]
fn assigned_columns_keep_the_pending_value_and_the_others_take_the_outside_one() {
    let rows = rows();
    load(&rows, 1, "10:10:", Some(tuple(1, 1)));
    commit(&rows, 1, set_a(5, 1));
    assert_eq!(outside(&rows, 10, 100, 1, Some(tuple(7, 8))), [row(1)]);
    assert_eq!(known(&rows, 1), Some(Some((5, 8))));
    assert_eq!(rows.stats().merges, 1);
}

#[test]
fn increments_are_added_to_the_outside_value() {
    let rows = rows();
    load(&rows, 1, "10:10:", Some(tuple(1, 1)));
    commit(&rows, 1, add_a(10, 11, 1));
    outside(&rows, 10, 100, 1, Some(tuple(100, 1)));
    assert_eq!(known(&rows, 1), Some(Some((110, 1))));
    rows.begin_flush(SEQ, &[row(1)], true);
    rows.flush_xid(SEQ, Xid(11), &[row(1)]);
    rows.confirm(SEQ, Xid32(11), Lsn(200), &[row(1)]);
    rows.flushed(SEQ, &[row(1)], |_| Confirms::Stream);
    outside(&rows, 12, 300, 1, Some(tuple(111, 1)));
    assert_eq!(known(&rows, 1), Some(Some((111, 1))));
}

#[test]
fn an_update_shows_its_image_when_the_row_is_deleted_outside() {
    let rows = rows();
    load(&rows, 1, "10:10:", Some(tuple(1, 1)));
    commit(&rows, 1, set_a(5, 1));
    outside(&rows, 10, 100, 1, None);
    assert_eq!(known(&rows, 1), Some(Some((5, 1))));
}

#[test]
fn without_the_row_in_postgres_a_whole_row_is_known_and_an_update_is_not() {
    let rows = rows();
    commit(&rows, 1, Change::Put { image: tuple(1, 1) });
    commit(&rows, 2, set_a(5, 1));
    commit(&rows, 3, Change::Delete);
    assert_eq!(known(&rows, 1), Some(Some((1, 1))));
    assert_eq!(known(&rows, 2), None);
    assert_eq!(known(&rows, 3), Some(None));
    assert_eq!(rows.without_base(10, |_| true).len(), 3);
    load(&rows, 2, "10:10:", Some(tuple(1, 9)));
    assert_eq!(known(&rows, 2), Some(Some((5, 9))));
}

/// Rows of a table without a primary key: nobody has ever looked for them in Postgres, and nobody can.
#[test]
fn a_row_that_is_only_appended_leaves_nothing_behind() {
    let (appended, image) = ([row(1)], tuple(1, 1));
    for told_first in [false, true] {
        let rows = rows();
        commit(
            &rows,
            1,
            Change::Insert {
                image: image.clone(),
            },
        );
        assert_eq!(rows.without_base(10, |row| row.table != TABLE), []);
        rows.begin_flush(SEQ, &appended, true);
        rows.flush_xid(SEQ, Xid(11), &appended);
        // The attempt fails, and the next one is another flush.
        assert_eq!(rows.unflushed(SEQ, &appended), appended);
        let next = FlushSeq(2);
        let written = rows.begin_flush(next, &appended, true);
        let insert = Change::Insert {
            image: image.clone(),
        };
        assert_eq!(written, [(row(1), insert)]);
        rows.flush_xid(next, Xid(12), &appended);
        if told_first {
            rows.confirm(next, Xid32(12), Lsn(200), &appended);
        }
        let waiting = rows.flushed(next, &appended, |_| Confirms::Unknown);
        assert_eq!(waiting, []);
        rows.confirm(next, Xid32(12), Lsn(200), &appended);
        assert_eq!((known(&rows, 1), rows.stats().rows), (None, 0));
    }
    // A flush that an earlier process has left, and of which the log says in the end that it is in Postgres.
    let rows = rows();
    commit(&rows, 1, Change::Insert { image });
    rows.begin_flush(SEQ, &appended, false);
    rows.flushed(SEQ, &appended, |_| Confirms::Unknown);
    assert_eq!(rows.stats().rows, 0);
}

#[test]
fn changes_of_a_pending_row_become_one() {
    let insert = |a| Change::Insert { image: tuple(a, 0) };
    let put = |a| Change::Put { image: tuple(a, 0) };
    let set_b = Change::Update {
        image: tuple(1, 9),
        set: vec![1],
        add: vec![],
    };
    let both = Change::Update {
        image: tuple(1, 9),
        set: vec![0, 1],
        add: vec![],
    };
    let cases = [
        (insert(1), set_a(2, 0), Some(insert(2))),
        (insert(1), Change::Delete, None),
        (set_a(1, 0), set_b.clone(), Some(both)),
        (add_a(1, 2, 0), add_a(2, 4, 0), Some(add_a(3, 4, 0))),
        (add_a(1, 2, 0), set_a(9, 0), Some(set_a(9, 0))),
        (set_a(9, 0), add_a(1, 10, 0), Some(set_a(10, 0))),
        (set_a(1, 0), Change::Delete, Some(Change::Delete)),
        (Change::Delete, insert(3), Some(put(3))),
        (put(1), set_a(2, 0), Some(put(2))),
        (put(1), Change::Delete, Some(Change::Delete)),
        // The sum of the amounts is no int8, the row's value is.
        (
            add_a(i64::MAX, 0, 0),
            add_a(i64::MAX, 7, 0),
            Some(set_a(7, 0)),
        ),
    ];
    for (first, then, expected) in cases {
        let both = layer::coalesce(first.clone(), then.clone());
        assert_eq!(both, expected, "{first:?} and {then:?}");
    }
}

#[test]
fn a_failed_flush_goes_below_what_came_since() {
    let rows = rows();
    load(&rows, 1, "10:10:", None);
    commit(&rows, 1, Change::Insert { image: tuple(1, 1) });
    rows.begin_flush(SEQ, &[row(1)], true);
    commit(&rows, 1, set_a(2, 1));
    assert_eq!(rows.unflushed(SEQ, &[row(1)]), [row(1)]);
    let taken = rows.begin_flush(SEQ, &[row(1)], true);
    assert_eq!(taken, [(row(1), Change::Insert { image: tuple(2, 1) })]);
    commit(&rows, 1, Change::Delete);
    assert_eq!(rows.unflushed(SEQ, &[row(1)]), []);
    assert_eq!(known(&rows, 1), Some(None));
}

#[test]
fn a_dead_row_is_read_anew() {
    let rows = rows();
    load(&rows, 1, "10:10:", Some(tuple(1, 1)));
    commit(&rows, 1, set_a(2, 1));
    rows.begin_flush(SEQ, &[row(1)], true);
    let (ticket, _) = rows.begin_load(&[row(1)]);
    assert!(ticket.is_empty());
    rows.dead(SEQ, &[row(1)], LogIndex(2));
    assert_eq!(known(&rows, 1), None);
    assert_eq!(rows.stats().rows, 0);
}

#[test]
fn a_confirmed_flush_pins_its_row_until_it_has_ended() {
    let rows = small(0);
    load(&rows, 1, "10:10:", Some(tuple(1, 1)));
    commit(&rows, 1, Change::Put { image: tuple(2, 2) });
    rows.begin_flush(SEQ, &[row(1)], true);
    rows.flush_xid(SEQ, Xid(10), &[row(1)]);
    rows.confirm(SEQ, Xid32(10), Lsn(100), &[row(1)]);
    // In the WAL, but no load sees it yet.
    assert_eq!(known(&rows, 1), Some(Some((2, 2))));
    rows.flushed(SEQ, &[row(1)], |_| Confirms::Stream);
    rows.sweep();
    commit(&rows, 1, set_a(3, 2));
    rows.drop_where(|_| true);
    assert_eq!(stages(&rows, 1), [Stage::Pending]);
}

#[test]
fn old_snapshots_are_compared_right_after_billions_of_transactions() {
    let rows = rows();
    load(&rows, 1, "10:10:", Some(tuple(1, 1)));
    let now = (1u64 << 31) + 100;
    rows.note_xid(Xid(1 << 30));
    rows.note_xid(Xid(now));
    outside(&rows, now as u32, 100, 1, Some(tuple(2, 2)));
    assert_eq!(known(&rows, 1), Some(Some((2, 2))));
}

#[test]
fn truncated_tables_are_empty_at_once() {
    let rows = rows();
    load(&rows, 1, "10:10:", Some(tuple(1, 1)));
    load(&rows, 2, "10:10:", Some(tuple(1, 1)));
    commit(&rows, 2, Change::Put { image: tuple(5, 5) });
    rows.wal_truncate(Xid32(10), Lsn(100), &[TABLE]);
    assert_eq!(known(&rows, 1), Some(None));
    assert_eq!(known(&rows, 2), Some(Some((5, 5))));
}

#[test]
fn a_fence_hides_rows_from_readers() {
    let rows = rows();
    load(&rows, 1, "10:10:", Some(tuple(1, 1)));
    let asked = [row(1), row(2)];
    let read = |fenced: bool| rows.read(&asked, || fenced, everything, |found| found.len());
    assert_eq!(read(true), Read::Fenced);
    assert_eq!(read(false), Read::Done(2));
}

#[test]
fn an_outside_transaction_is_not_read_half() {
    let rows = rows();
    load(&rows, 1, "10:10:", Some(tuple(1, 1)));
    // Transaction 10 changes both rows. The load of row 2 sees it; the stream has told nobody yet.
    let (ticket, _) = rows.begin_load(&[row(2)]);
    rows.finish_load(ticket, &moment("11:11:", 100), |_| Some(tuple(2, 2)));
    let read = |keys: &[u8], followed: u64| {
        let asked: Vec<RowId> = keys.iter().map(|key| row(*key)).collect();
        rows.read(&asked, || false, || Lsn(followed), |found| found.len())
    };
    assert_eq!(read(&[1, 2], 50), Read::Apart);
    assert_eq!(read(&[2], 50), Read::Done(1));
    outside(&rows, 10, 60, 1, Some(tuple(2, 2)));
    assert_eq!(read(&[1, 2], 99), Read::Apart);
    assert_eq!(read(&[1, 2], 100), Read::Done(2));
    // Rows of one load agree, however far the stream is.
    let (ticket, _) = rows.begin_load(&[row(3), row(4)]);
    rows.finish_load(ticket, &moment("20:20:", 200), |_| Some(tuple(2, 2)));
    assert_eq!(read(&[3, 4], 100), Read::Done(2));
    assert_eq!(read(&[2, 3], 100), Read::Apart);
}

#[test]
fn memory_is_bounded_and_pending_rows_stay() {
    let rows = small(limits::SHARDS as u64 * 1_000);
    for key in 0..=255u8 {
        load(&rows, key, "10:10:", Some(tuple(1, 1)));
        if key < 10 {
            commit(&rows, key, set_a(7, 1));
        }
    }
    let stats = rows.stats();
    assert!(stats.evictions > 0, "{stats:?}");
    for key in 0..10 {
        assert_eq!(known(&rows, key), Some(Some((7, 1))));
    }
    rows.clear(LogIndex(3));
    assert_eq!((rows.stats().rows, rows.stats().bytes), (0, 0));
}

#[test]
fn a_lowered_bound_gives_up_clean_rows_at_once_and_no_pending_one() {
    let rows = rows();
    for key in 0..=255u8 {
        load(&rows, key, "10:10:", Some(tuple(1, 1)));
        if key < 10 {
            commit(&rows, key, set_a(7, 1));
        }
    }
    let before = rows.stats();
    assert!(before.pinned_bytes > 0 && before.pinned_bytes < before.bytes / 4);
    while rows.shed(0) > 0 {}
    let after = rows.stats();
    assert_eq!((after.rows, after.bytes_max), (10, 0));
    assert_eq!(
        (after.bytes, after.pinned_bytes),
        (before.pinned_bytes, before.pinned_bytes)
    );
    // It stays the bound, and what is read is spared first.
    rows.shed(1 << 30);
    load(&rows, 20, "10:10:", Some(tuple(1, 1)));
    assert!(known(&rows, 20).is_some());
    rows.clear(LogIndex(3));
    assert_eq!(rows.stats().pinned_bytes, 0);
}

#[test]
fn a_table_keeps_to_its_share() {
    let rows = rows();
    let nothing = TableBounds {
        memory_share: 0.0,
        ..TableBounds::default()
    };
    rows.bound_tables(&[(TABLE, nothing)].into());
    for key in 0..100 {
        load(&rows, key, "10:10:", Some(tuple(1, 1)));
    }
    assert_eq!(rows.stats().rows, 0);
}

#[test]
fn a_flush_that_a_lost_stream_never_confirms_hides_no_later_change() {
    let rows = rows();
    commit(&rows, 1, Change::Put { image: tuple(5, 5) });
    rows.begin_flush(SEQ, &[row(1)], true);
    rows.flush_xid(SEQ, Xid(20), &[row(1)]);
    // It commits; the stream is lost before it tells so, and begins anew behind it.
    rows.stream_lost(|_| true);
    assert_eq!(known(&rows, 1), Some(Some((5, 5))));
    outside(&rows, 21, 200, 1, Some(tuple(6, 6)));
    assert_eq!(known(&rows, 1), None);
    rows.flushed(SEQ, &[row(1)], |_| Confirms::Stream);
    load(&rows, 1, "22:22:", Some(tuple(6, 6)));
    assert_eq!(known(&rows, 1), Some(Some((6, 6))));
}

#[test]
fn what_another_history_told_is_not_applied_to_loads_of_this_one() {
    let rows = rows();
    // Told by a primary that is gone, before anybody had seen it. Its successor has never heard of it.
    outside(&rows, 10, 100, 1, Some(tuple(1, 1)));
    rows.wal_invalidate(Xid32(11), Lsn(110), &[TABLE]);
    rows.history_lost();
    rows.stream_lost(|_| true);
    load(&rows, 1, "10:10:", Some(tuple(0, 0)));
    assert_eq!(known(&rows, 1), Some(Some((0, 0))));
}

#[test]
fn a_load_that_the_stream_has_passed_is_forgotten_and_nothing_is_applied_twice() {
    let rows = rows();
    // Saw transaction 10, which is at 100 in the WAL, not 9, which is at 90.
    let (ticket, _) = rows.begin_load(&[row(1)]);
    rows.finish_load(ticket, &moment("9:11:9", 100), |_| Some(tuple(1, 1)));
    let heavy = rows.stats().bytes;
    rows.settle_loads(|| Lsn(99), |_| true);
    assert_eq!(rows.stats().bytes, heavy);
    outside(&rows, 9, 90, 1, Some(tuple(9, 1)));
    rows.settle_loads(|| Lsn(100), |_| false);
    let (ticket, _) = rows.begin_load(&[row(2)]);
    rows.finish_load(ticket, &moment("11:11:", 100), |_| Some(tuple(2, 2)));
    rows.settle_loads(|| Lsn(100), |_| true);
    // The stream repeats itself.
    outside(&rows, 10, 100, 2, Some(tuple(1, 1)));
    assert_eq!(known(&rows, 2), Some(Some((2, 2))));
    outside(&rows, 11, 110, 2, Some(tuple(3, 3)));
    assert_eq!(known(&rows, 2), Some(Some((3, 3))));
    assert_eq!(known(&rows, 1), Some(Some((9, 1))));
    assert!(rows.stats().bytes < 2 * heavy);
}

#[test]
fn reads_are_counted_by_table() {
    let rows = rows();
    known(&rows, 1);
    load(&rows, 1, "10:10:", Some(tuple(1, 1)));
    known(&rows, 1);
    known(&rows, 1);
    let stats = rows.stats();
    assert_eq!((stats.hits, stats.misses, stats.rows), (2, 1, 1));
    assert_eq!(rows.table_stats()[&TABLE].hits, 2);
}

#[test]
fn group_is_never_seen_half() {
    let rows = rows();
    let ids: Vec<RowId> = (0..4).map(row).collect();
    let write = |n: i64| {
        let put = |key| (key, Change::Put { image: tuple(n, n) });
        rows.apply_group(&group((0..4).map(put)), LogIndex(1));
    };
    write(0);
    let first = |found: &[Found<'_>]| -> Vec<Vec<u8>> {
        let bytes = |found: &Found<'_>| found.tuple().unwrap().as_bytes().to_vec();
        found.iter().map(bytes).collect()
    };
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            for _ in 0..20_000 {
                let seen = rows.read(&ids, || false, everything, first);
                let Read::Done(seen) = seen else {
                    panic!("{seen:?}");
                };
                assert!(seen.windows(2).all(|pair| pair[0] == pair[1]));
            }
        });
        let mut n = 0;
        while !reader.is_finished() {
            n += 1;
            write(n);
        }
    });
}

/// Rows of which those of `TABLE` expire after a second, and the clock they go by.
fn expiring() -> (Rows, Arc<AtomicU64>) {
    let clock = Arc::new(AtomicU64::new(0));
    let shown = clock.clone();
    let rows = Rows::new(1 << 30, Arc::new(move || shown.load(Ordering::Relaxed)));
    rows.note_xid(Xid(5));
    let second = TableBounds {
        expiry: Some(Duration::from_secs(1)),
        ..TableBounds::default()
    };
    rows.bound_tables(&[(TABLE, second)].into());
    (rows, clock)
}

#[test]
fn a_row_past_its_expiry_is_not_served_whether_it_was_swept_or_not() {
    let (rows, clock) = expiring();
    load(&rows, 1, "10:10:", Some(tuple(1, 1)));
    clock.store(900, Ordering::Relaxed);
    load(&rows, 2, "10:10:", None);
    assert_eq!(known(&rows, 1), Some(Some((1, 1))));
    clock.store(1000, Ordering::Relaxed);
    assert_eq!((known(&rows, 1), known(&rows, 2)), (None, Some(None)));
    let together = |keys: &[u8]| {
        let asked: Vec<RowId> = keys.iter().map(|key| row(*key)).collect();
        let unknown = |found: &[Found<'_>]| found.contains(&Found::Unknown);
        rows.read(&asked, || false, everything, unknown)
    };
    assert_eq!(together(&[1, 2]), Read::Done(true));
    assert_eq!(together(&[2, 2]), Read::Done(false));
    // Whoever misses it loads it, and it is young again.
    load(&rows, 1, "11:11:", Some(tuple(2, 2)));
    assert_eq!(known(&rows, 1), Some(Some((2, 2))));
    assert_eq!((rows.stats().rows, rows.stats().evictions), (2, 1));
    clock.store(1950, Ordering::Relaxed);
    rows.sweep();
    assert_eq!((rows.stats().rows, rows.stats().evictions), (1, 2));
    assert_eq!(known(&rows, 1), Some(Some((2, 2))));
}

#[test]
fn pending_rows_do_not_expire_before_postgres_has_them() {
    let (rows, clock) = expiring();
    load(&rows, 1, "10:10:", Some(tuple(1, 1)));
    commit(&rows, 1, set_a(3, 1));
    clock.store(10_000, Ordering::Relaxed);
    rows.sweep();
    assert_eq!(known(&rows, 1), Some(Some((3, 1))));
    rows.begin_flush(SEQ, &[row(1)], true);
    rows.flush_xid(SEQ, Xid(20), &[row(1)]);
    rows.flushed(SEQ, &[row(1)], |_| Confirms::Nobody);
    assert_eq!(known(&rows, 1), None);
}

#[test]
fn expiry_that_comes_later_holds_for_rows_that_are_there() {
    let (rows, clock) = expiring();
    rows.bound_tables(&BTreeMap::new());
    load(&rows, 1, "10:10:", Some(tuple(1, 1)));
    clock.store(5000, Ordering::Relaxed);
    assert_eq!(known(&rows, 1), Some(Some((1, 1))));
    let second = TableBounds {
        expiry: Some(Duration::from_secs(1)),
        ..TableBounds::default()
    };
    rows.bound_tables(&[(TABLE, second)].into());
    assert_eq!(known(&rows, 1), None);
}

#[test]
fn a_row_on_an_unknown_base_is_shown_as_decided_only_while_nobody_can_be_asked() {
    let rows = rows();
    commit(&rows, 1, set_a(3, 7));
    commit(&rows, 1, add_a(2, 5, 7));
    assert_eq!(known(&rows, 1), None);
    rows.show_as_decided(true);
    assert_eq!(known(&rows, 1), Some(Some((5, 7))));
    commit(&rows, 1, add_a(10, 15, 7));
    assert_eq!(known(&rows, 1), Some(Some((15, 7))));
    rows.show_as_decided(false);
    assert_eq!(known(&rows, 1), None);
    // Somebody has changed the other column meanwhile.
    load(&rows, 1, "10:10:", Some(tuple(1, 8)));
    assert_eq!(known(&rows, 1), Some(Some((15, 8))));
}

fn lent(a: i64, seen: slot::Seen) -> slot::Base {
    slot::Base {
        row: Some(tuple(a, 0)),
        seen,
    }
}

fn told(lsn: u64) -> slot::Seen {
    slot::Seen::Told(Lsn(lsn))
}

fn take(rows: &Rows, mut ticket: LoadTicket, base: slot::Base) -> LoadTicket {
    rows.take_lent(&mut ticket, |_| Some(base.clone()));
    ticket
}

fn add_one() -> Change {
    Change::Update {
        image: tuple(1, 0),
        set: vec![],
        add: vec![Increment {
            position: 0,
            type_oid: INT8,
            amount: 1i64.to_be_bytes().to_vec().into(),
        }],
    }
}

#[test]
fn a_lent_row_gets_the_changes_that_it_does_not_contain() {
    for (seen, shown) in [(told(90), 3), (told(100), 3), (told(200), 1)] {
        let rows = rows();
        let (ticket, _) = rows.begin_load(&[row(1)]);
        outside(&rows, 10, 100, 1, Some(tuple(2, 0)));
        outside(&rows, 11, 200, 1, Some(tuple(3, 0)));
        assert!(take(&rows, ticket, lent(1, seen)).is_empty());
        assert_eq!(known(&rows, 1), Some(Some((shown, 0))));
    }
    let rows = rows();
    let (ticket, _) = rows.begin_load(&[row(1)]);
    outside(&rows, 10, 100, 1, Some(tuple(2, 0)));
    let seen = slot::Seen::Loaded(moment("11:11:", 150));
    assert!(take(&rows, ticket, lent(1, seen)).is_empty());
    assert_eq!(known(&rows, 1), Some(Some((1, 0))));
}

#[test]
fn a_lent_row_is_taken_below_what_only_the_log_has_and_not_below_a_flush() {
    let rows = rows();
    let (ticket, _) = rows.begin_load(&[row(1)]);
    rows.apply_group(&group([(1, add_one())]), LogIndex(1));
    assert!(take(&rows, ticket, lent(5, told(100))).is_empty());
    assert_eq!(known(&rows, 1), Some(Some((6, 0))));

    // Whoever is named the transaction cannot tell whether the other had it already: without a lease it would not be named, and the increment count twice.
    let rows = self::rows();
    let (ticket, _) = rows.begin_load(&[row(1)]);
    rows.apply_group(&group([(1, add_one())]), LogIndex(1));
    rows.begin_flush(SEQ, &[row(1)], true);
    rows.flush_xid(SEQ, Xid(10), &[row(1)]);
    let left = take(&rows, ticket, lent(6, told(100)));
    assert_eq!(left.rows(), [row(1)], "Postgres can tell");
    rows.finish_load(left, &moment("11:11:", 150), |_| Some(tuple(6, 0)));
    assert_eq!(
        known(&rows, 1),
        None,
        "not before somebody has said that it committed"
    );
}

#[test]
fn a_lent_row_is_not_taken_after_a_fence() {
    let rows = rows();
    let (ticket, _) = rows.begin_load(&[row(1)]);
    rows.drop_rows(&[row(1)]);
    assert!(take(&rows, ticket, lent(1, told(100))).is_empty());
    assert_eq!(known(&rows, 1), None);
    let (again, _) = rows.begin_load(&[row(1)]);
    assert!(!again.is_empty(), "nobody loads it any more");
}

#[test]
fn a_row_under_way_to_postgres_is_not_lent() {
    let rows = rows();
    load(&rows, 1, "5:5:", Some(tuple(1, 0)));
    let lends = |rows: &Rows| rows.lend(&row(1), || false);
    assert!(matches!(lends(&rows), Some(slot::Lend::Base(_))));
    assert!(rows.lend(&row(1), || true).is_none(), "fenced");
    assert!(matches!(
        rows.lend(&row(2), || false),
        Some(slot::Lend::Unknown)
    ));
    rows.apply_group(&group([(1, add_one())]), LogIndex(1));
    let Some(slot::Lend::Base(base)) = lends(&rows) else {
        panic!("what only the log has is no obstacle");
    };
    assert_eq!(base.row, Some(tuple(1, 0)), "but is not lent");
    rows.begin_flush(SEQ, &[row(1)], true);
    rows.flush_xid(SEQ, Xid(10), &[row(1)]);
    assert!(matches!(lends(&rows), Some(slot::Lend::Withheld)));
    rows.flushed(SEQ, &[row(1)], |_| Confirms::Stream);
    assert!(matches!(lends(&rows), Some(slot::Lend::Withheld)));
    rows.confirm(SEQ, Xid32(10), Lsn(100), &[row(1)]);
    let Some(slot::Lend::Base(base)) = lends(&rows) else {
        panic!("it is clean");
    };
    assert_eq!(base.row, Some(tuple(2, 0)));
}

#[test]
fn rows_of_streams_that_are_ahead_are_not_told_together() {
    let rows = rows();
    load(&rows, 2, "5:5:", Some(tuple(2, 0)));
    let (ticket, _) = rows.begin_load(&[row(1)]);
    take(&rows, ticket, lent(1, told(100)));
    let both = [row(1), row(2)];
    let read = |followed| rows.read(&both, || false, || Lsn(followed), |found| found.len());
    assert_eq!(read(99), Read::Apart);
    assert_eq!(read(100), Read::Done(2));
}

/// Postgres shows a commit later than the WAL tells it.
#[test]
fn a_row_that_another_stream_told_does_not_go_back_to_what_postgres_shows() {
    let (rows, followed) = (rows(), Arc::<AtomicU64>::default());
    rows.measure_by(followed.clone());
    let (ticket, _) = rows.begin_load(&[row(1)]);
    take(&rows, ticket, lent(7, told(100)));
    rows.drop_rows(&[row(1)]);
    assert_eq!(rows.may_have_shown(&[row(1)]), Lsn(100));
    load(&rows, 1, "10:12:10", Some(tuple(6, 0)));
    assert_eq!(known(&rows, 1), None, "10 is not visible yet");
    let (ticket, _) = rows.begin_load(&[row(1)]);
    outside(&rows, 10, 100, 1, Some(tuple(7, 0)));
    followed.store(100, Ordering::SeqCst);
    rows.finish_load(ticket, &snapshot("10:12:10"), |_| Some(tuple(6, 0)));
    assert_eq!(known(&rows, 1), Some(Some((7, 0))));
}

#[test]
fn near_copies_keep_to_their_share_and_go_first() {
    let (all, each) = (64 * 2_000, 300);
    let rows = small(all);
    rows.share_near(0.25);
    let load = |key: u16, near: bool| {
        let key = Key::from_bytes(&key.to_be_bytes());
        let row = RowId { table: TABLE, key };
        let (ticket, _) = rows.begin_load(std::slice::from_ref(&row));
        let found = |_: &RowId| Some(tuple(1, 1));
        rows.finish_load(ticket.near(near), &snapshot("5:5:"), found);
    };
    (0..each).for_each(|key| load(key, true));
    let stats = rows.stats();
    // One row more in each shard: what was just loaded is about to be read.
    assert_eq!(stats.near_bytes, stats.bytes);
    assert!(stats.near_bytes <= all / 4 + 64 * 250, "{stats:?}");
    (each..10 * each).for_each(|key| load(key, false));
    let stats = rows.stats();
    assert_eq!(stats.near_bytes, 0, "own rows need the room");
    rows.mark_near(|_, _| true);
    let stats = rows.stats();
    assert_eq!(stats.near_bytes, stats.bytes);
    rows.mark_near(|_, near| !near);
    assert_eq!(rows.stats().near_bytes, 0);
}

#[test]
fn sets_of_different_moments_are_told_together_when_the_stream_has_passed_the_later_one() {
    let rows = rows();
    let sets = |values: &[i64]| {
        let key = |value: &i64| {
            let mut key = Key::new();
            key.push_fixed(&value.to_be_bytes());
            key
        };
        let columns = sets::SetColumns::new([(1, INT8)]);
        sets::SetIds::new(TABLE, columns, values.iter().map(key).collect())
    };
    let load = |value: i64, moment: &Arc<Moment>, found: Vec<(Key, Tuple)>| {
        let SetLoad::Mine(ticket) = rows.begin_set_load(&sets(&[value])) else {
            panic!("nobody else loads it");
        };
        rows.finish_set_load(ticket, moment, Some(found), |_| false);
    };
    load(7, &moment("10:10:", 100), vec![(row(1).key, tuple(1, 7))]);
    // By then a transaction that the stream has not told of has changed row 1, and taken all rows out of the other set: nothing but the moment says so.
    load(8, &moment("11:11:", 200), vec![]);
    let told = |values: &[i64], followed: u64| {
        let none = BTreeMap::new();
        let count = |rows: &[&Tuple]| rows.len();
        rows.read_sets(&sets(values), &none, || false, || Lsn(followed), count)
    };
    assert_eq!(told(&[7], 150), SetRead::Done(1));
    assert_eq!(told(&[8], 150), SetRead::Done(0));
    assert_eq!(told(&[7, 8], 150), SetRead::Apart);
    assert_eq!(told(&[7, 8], 200), SetRead::Done(1));
}

#[test]
fn a_table_held_whole_is_read_and_known_not_to_have_other_rows() {
    let (rows, count) = (rows(), limits::SET_TOUCHED_MAX as u16 + 1_000);
    let bounds = TableBounds {
        resident_rows_max: Some(usize::from(count)),
        ..TableBounds::default()
    };
    rows.bound_tables(&BTreeMap::from([(TABLE, bounds)]));
    let id = |n: u16| RowId {
        table: TABLE,
        key: Key::from_bytes(&n.to_be_bytes()),
    };
    let whole = sets::SetIds::whole(TABLE);
    assert_eq!(rows.lacks_of_whole(TABLE), SetRead::Missing(whole.clone()));
    assert!(!rows.is_absent(&id(count), Lsn(100)));
    let SetLoad::Mine(ticket) = rows.begin_set_load(&whole) else {
        panic!("nobody else loads it");
    };
    assert_eq!(ticket.rows_max(), usize::from(count));
    let found = (0..count).map(|n| (id(n).key, tuple(i64::from(n), 1)));
    rows.finish_set_load(
        ticket,
        &moment("10:10:", 100),
        Some(found.collect()),
        |_| false,
    );
    let read = |followed: u64| {
        let (none, count) = (BTreeMap::new(), |rows: &[&Tuple]| rows.len());
        rows.read_sets(&whole, &none, || false, || Lsn(followed), count)
    };
    assert_eq!(read(50), SetRead::Done(usize::from(count)));
    assert_eq!(rows.lacks_of_whole(TABLE), SetRead::Done(()));
    assert!(rows.is_absent(&id(count), Lsn(100)));
    assert!(!rows.is_absent(&id(3), Lsn(100)));
    rows.drop_rows(&[id(3), id(count)]);
    let unknown = vec![id(3), id(count)];
    assert_eq!(rows.lacks_of_whole(TABLE), SetRead::Unknown(unknown));
    assert!(!rows.is_absent(&id(count), Lsn(100)), "it may be any");
}
