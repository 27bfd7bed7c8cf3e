//! Several logs on one node: each applies to the same rows, and what it saves, restores and forgets is its own.

use super::*;
use crate::change::{FlushSeq, Shape};
use crate::feed::Feed;
use crate::fences::Fences;
use crate::marks::Marks;
use crate::rows::slot::Confirms;
use crate::rows::{Found, Moment};
use ripen_pg::ids::{Lsn, Xid};
use ripen_pg::key::Key;
use ripen_pg::tuple::{Datum, Tuple};

const A: TableOid = TableOid(1);
const B: TableOid = TableOid(2);

fn shared(rows: &Arc<Rows>) -> (GridMachine, Arc<Schedule>) {
    let schedule = Arc::new(Schedule::default());
    let machine = GridMachine {
        sole: false,
        rows: rows.clone(),
        schedule: schedule.clone(),
        leader: Arc::default(),
        applied: watch::Sender::new(Proposal(0)),
        live: Arc::new(AtomicBool::new(true)),
        confirms: Arc::new(|_| Confirms::Stream),
        requests: Arc::default(),
        ownership: Ownership {
            rows: rows.clone(),
            fences: Arc::new(Fences::default()),
            feed: Arc::new(Feed::default()),
            marks: Arc::new(Marks::new(1)),
        },
        home: Arc::default(),
        catalog_changes: Arc::new(watch::Sender::new(0)),
    };
    (machine, schedule)
}

fn rows() -> Arc<Rows> {
    Arc::new(Rows::new(1 << 20, Arc::new(|| 0)))
}

fn row(table: TableOid) -> RowId {
    RowId {
        table,
        key: Key::from_bytes(b"k"),
    }
}

fn put(table: TableOid, value: &[u8]) -> Command {
    let image: Tuple = [Datum::Value(value)].into_iter().collect();
    let change = Change::Insert { image };
    Command::Group(CommitGroup {
        rows: vec![RowChange {
            row: row(table),
            change,
        }],
    })
}

fn apply(machine: &mut GridMachine, index: u64, command: Command) {
    let entry = Entry {
        at_ms: index,
        term: 1,
        commands: vec![command],
    };
    machine.apply(LogIndex(index), entry);
}

fn value(rows: &Rows, table: TableOid) -> Option<Vec<u8>> {
    let read = |found: Found<'_>| match found.tuple()?.get(0) {
        Datum::Value(value) => Some(value.to_vec()),
        _ => None,
    };
    rows.read_one(&row(table), || false, read).flatten()
}

#[test]
fn what_a_log_saves_and_restores_is_its_own_in_any_order() {
    let before = rows();
    let ((mut one, _), (mut other, _)) = (shared(&before), shared(&before));
    apply(&mut one, 1, put(A, b"a"));
    apply(&mut other, 1, put(B, b"b"));
    apply(&mut other, 2, Command::FlushStart(start(1, 2)));
    let saved = [one.snapshot(), other.snapshot()];
    for order in [[0, 1], [1, 0]] {
        let after = rows();
        let mut machines = [shared(&after), shared(&after)];
        for at in order {
            let restored = machines[at].0.restore(LogIndex(2), &saved[at]);
            restored.expect("what was saved can be read");
        }
        assert_eq!(value(&after, A).as_deref(), Some(&b"a"[..]));
        assert_eq!(value(&after, B).as_deref(), Some(&b"b"[..]));
        let pending = machines.each_ref().map(|(_, schedule)| schedule.stats());
        assert_eq!(pending.map(|stats| stats.pending_rows), [1, 0]);
        assert_eq!(pending.map(|stats| stats.flushing_rows), [0, 1]);
        // A second time, over what there is.
        let restored = machines[0].0.restore(LogIndex(2), &saved[0]);
        restored.expect("what was saved can be read");
        assert_eq!(value(&after, B).as_deref(), Some(&b"b"[..]));
        apply(&mut machines[0].0, 3, put(A, b"c"));
        assert_eq!(value(&after, A).as_deref(), Some(&b"c"[..]));
    }
}

fn start(seq: u64, cutoff_ms: u64) -> FlushStart {
    FlushStart {
        seq: FlushSeq(seq),
        cutoff_ms,
        scope: FlushScope::All,
        rows_max: 10,
    }
}

#[test]
fn a_table_that_has_left_is_not_confirmed_by_a_flush_of_the_log_that_it_left() {
    let rows = rows();
    let ((mut one, schedule), (mut other, others)) = (shared(&rows), shared(&rows));
    let (ticket, _) = rows.begin_load(&[row(A)]);
    let moment = Moment {
        snapshot: "10:10:".parse().expect("a snapshot"),
        wal: Lsn(0),
    };
    rows.finish_load(ticket, &Arc::new(moment), |_| None);
    apply(&mut one, 1, Command::Shape(A, Shape::default()));
    apply(&mut one, 2, put(A, b"a"));
    apply(&mut one, 3, Command::FlushStart(start(1, 3)));
    apply(&mut one, 4, Command::FlushXid(FlushSeq(1), Xid(20)));
    let end = FlushEnd {
        seq: FlushSeq(1),
        applied: true,
        dead: Vec::new(),
    };
    apply(&mut one, 5, Command::FlushEnd(end));
    assert_eq!(schedule.stats().unconfirmed_rows, 1);
    assert!(schedule.has_shape(A));
    apply(&mut one, 6, Command::Left(vec![A]));
    assert!(!schedule.has_shape(A));
    assert_eq!(value(&rows, A), None, "it is to be loaded");
    // The same number means another flush there.
    apply(&mut other, 1, put(A, b"b"));
    apply(&mut other, 2, Command::FlushStart(start(1, 2)));
    assert_eq!(schedule.confirm(FlushSeq(1)), []);
    assert_eq!(others.confirm(FlushSeq(1)), [row(A)]);
    assert_eq!(value(&rows, A).as_deref(), Some(&b"b"[..]));
}
