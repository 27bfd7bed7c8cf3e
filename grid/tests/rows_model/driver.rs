//! Carries out random steps on the real rows and on the model side by side, and compares.

use crate::postgres::{Committed, Postgres, Row, Written};
use parking_lot::Mutex;
use ripen_cachestore::home::Server;
use ripen_grid::change::{Change, CommitGroup, FlushSeq, Increment, RowChange, RowId};
use ripen_grid::leader::{Leader, Proposal};
use ripen_grid::log::{Command, Entry, FlushEnd, FlushScope, FlushStart, LogIndex, Machine};
use ripen_grid::machine::GridMachine;
use ripen_grid::marks::Marks;
use ripen_grid::ownership::Ownership;
use ripen_grid::rows::layer::Stage;
use ripen_grid::rows::sets::{SetColumns, SetIds};
use ripen_grid::rows::slot::Confirms;
use ripen_grid::rows::{Found, LoadTicket, Moment, Rows, SetLoad, SetRead, SetTicket, WalChange};
use ripen_grid::schedule::Schedule;
use ripen_grid::scope::Scope;
use ripen_pg::ids::{Lsn, TableOid, TypeOid, Xid};
use ripen_pg::key::Key;
use ripen_pg::tuple::Tuple;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::watch;

pub const KINDS: u8 = 42;
/// Few, so that things meet.
const ROWS: u8 = 3;
const FOLLOWED: TableOid = TableOid(1);
const EXCLUSIVE: TableOid = TableOid(2);
const INT8: TypeOid = TypeOid(20);

/// An acknowledged change as the client meant it.
#[derive(Clone, Debug)]
enum Raw {
    Insert(Row),
    Put(Row),
    Update { a: Raws, b: Raws, t: Option<i64> },
    Delete,
}

#[derive(Clone, Copy, Debug)]
enum Raws {
    Keep,
    Set(i64),
    Add(i64),
}

impl Raws {
    fn of(self, old: i64) -> i64 {
        match self {
            Raws::Keep => old,
            Raws::Set(value) => value,
            Raws::Add(amount) => old + amount,
        }
    }
}

/// The row after a change; `Err` when an outside delete took the row from under an update, where anything may be shown until it is in the dead letters.
fn apply(row: Option<Row>, raw: &Raw) -> Result<Option<Row>, ()> {
    Ok(match (raw, row) {
        (Raw::Insert(new) | Raw::Put(new), _) => Some(new.clone()),
        (Raw::Delete, _) => None,
        (Raw::Update { a, b, t }, Some(old)) => Some(Row {
            a: a.of(old.a),
            b: b.of(old.b),
            t: t.unwrap_or(old.t),
        }),
        (Raw::Update { .. }, None) => return Err(()),
    })
}

fn apply_all<'a>(
    row: Option<Row>,
    raws: impl IntoIterator<Item = &'a Raw>,
) -> Result<Option<Row>, ()> {
    let mut row = Ok(row);
    for raw in raws {
        row = match (row, raw) {
            // A later whole row ends the doubt.
            (Err(()), Raw::Update { .. }) => Err(()),
            (Err(()), raw) => apply(None, raw),
            (Ok(row), raw) => apply(row, raw),
        };
    }
    row
}

struct Load {
    ticket: LoadTicket,
    seen: Option<(Arc<Moment>, HashMap<RowId, Row>)>,
}

struct SettingLoad {
    ticket: SetTicket,
    seen: Option<SeenSet>,
}

type SeenSet = (Arc<Moment>, Vec<(Key, Row)>);

#[derive(Clone, Debug)]
struct Attempt {
    xid: Xid,
    committed: bool,
    dead: Vec<RowId>,
}

pub struct Driver {
    memory_max: u64,
    /// Whether it is known that the stream confirms flushes.
    sight: Arc<AtomicBool>,
    pg: Postgres,
    machine: GridMachine,
    rows: Arc<Rows>,
    schedule: Arc<Schedule>,
    loads: Vec<Load>,
    set_loads: Vec<SettingLoad>,
    /// As of when sets were loaded.
    moments: Vec<Arc<Moment>>,
    /// Sets that memory could tell.
    pub sets_told: std::cell::Cell<u64>,
    /// Position in the WAL that the stream tells next, and the furthest it ever was.
    next: usize,
    told: usize,
    repeat_from: usize,
    /// Rows of acknowledged transactions, which must reach Postgres together.
    ties: Vec<BTreeSet<RowId>>,
    flushing_ties: Vec<BTreeSet<RowId>>,
    /// When rows first became pending.
    clocks: BTreeMap<RowId, u64>,
    flushing_clocks: BTreeMap<RowId, u64>,
    /// Acknowledged and in no flush transaction that committed.
    pending: BTreeMap<RowId, Vec<Raw>>,
    /// Taken by the open flush.
    flushing: BTreeMap<RowId, Vec<Raw>>,
    /// What committed flushes carried, for values as of before them.
    flushed: BTreeMap<FlushSeq, BTreeMap<RowId, Vec<Raw>>>,
    attempt: Option<Attempt>,
    /// Behind a flush that nobody will tell, and that has not ended: until then nobody can know what came after it. Where it stands itself, if triggers have made more of it.
    skipped: Option<usize>,
    log: Vec<Entry>,
    saved: Option<(usize, Vec<u8>)>,
    clock_ms: u64,
    unique: i64,
    timeline: u32,
}

/// The driver leads in it.
const TERM: u64 = 1;

fn machine(
    memory_max: u64,
    live: bool,
    sight: Arc<AtomicBool>,
) -> (GridMachine, Arc<Rows>, Arc<Schedule>) {
    let (rows, schedule) = (
        Arc::new(Rows::new(memory_max, Arc::new(|| 0))),
        Arc::new(Schedule::default()),
    );
    let mut leader = Leader::default();
    // What is replayed was not proposed by this process.
    leader.lead(live.then_some(TERM));
    let machine = GridMachine {
        sole: true,
        home: Arc::default(),
        rows: rows.clone(),
        schedule: schedule.clone(),
        leader: Arc::new(Mutex::new(leader)),
        applied: watch::channel(Proposal(0)).0,
        live: Arc::new(AtomicBool::new(live)),
        confirms: Arc::new(move |table| match (table, sight.load(Ordering::Relaxed)) {
            (EXCLUSIVE, _) => Confirms::Nobody,
            (_, true) => Confirms::Stream,
            (_, false) => Confirms::Unknown,
        }),
        requests: Arc::default(),
        ownership: Ownership {
            rows: rows.clone(),
            fences: Arc::default(),
            feed: Arc::default(),
            marks: Arc::new(Marks::new(1)),
        },
        catalog_changes: Arc::new(watch::Sender::new(0)),
    };
    (machine, rows, schedule)
}

fn row_id(pick: u8) -> RowId {
    let key = Key::from_bytes(&[pick % ROWS]);
    let table = if pick % ROWS < 2 { FOLLOWED } else { EXCLUSIVE };
    RowId { table, key }
}

fn all_rows() -> Vec<RowId> {
    (0..ROWS).map(row_id).collect()
}

fn sets(table: TableOid, position: usize, values: impl IntoIterator<Item = i64>) -> SetIds {
    let key = |value: i64| {
        let mut key = Key::new();
        key.push_fixed(&value.to_be_bytes());
        key
    };
    let values = values.into_iter().map(key).collect();
    SetIds::new(table, SetColumns::new([(position, INT8)]), values)
}

/// Of sets, see [`Driver::sets`].
const SORTS: [u8; 7] = [0, 1, 2, 3, 4, 5, 192];

fn is_in(row: &Row, sets: &SetIds) -> bool {
    matches!(sets.value_of(&row.tuple()), Ok(Some(_)))
}

impl Driver {
    pub fn new(first_xid: u64, memory_max: u64) -> Driver {
        let sight = Arc::new(AtomicBool::new(true));
        let (machine, rows, schedule) = machine(memory_max, true, sight.clone());
        rows.note_xid(Xid(first_xid));
        Driver {
            memory_max,
            sight,
            pg: Postgres::new(first_xid),
            machine,
            rows,
            schedule,
            loads: Vec::new(),
            set_loads: Vec::new(),
            moments: Vec::new(),
            sets_told: std::cell::Cell::new(0),
            next: 0,
            told: 0,
            repeat_from: 0,
            ties: Vec::new(),
            flushing_ties: Vec::new(),
            clocks: BTreeMap::new(),
            flushing_clocks: BTreeMap::new(),
            pending: BTreeMap::new(),
            flushing: BTreeMap::new(),
            flushed: BTreeMap::new(),
            attempt: None,
            skipped: None,
            log: Vec::new(),
            saved: None,
            clock_ms: 1_000,
            unique: 0,
            timeline: 1,
        }
    }

    pub fn step(&mut self, (kind, x, y, z): (u8, u8, u8, u8)) {
        match kind {
            0..=2 => self.begin_load(x, y),
            3 | 4 => self.take_snapshot(x),
            5..=7 => self.finish_load(x),
            8 => self.fail_load(x),
            9..=13 => self.grid_write(x, y, z),
            14 => drop(self.outside_begin(x, y)),
            15 | 16 => self.outside_commit(x, y, z),
            17 => self.outside_begin_and_commit(x, y, z),
            18 | 19 => self.become_visible(x),
            20..=22 => self.tell(x),
            23..=26 => self.flush_onward(x),
            27 => self.flush_fail(x),
            28 => self.stream_again(x, y),
            29 => self.rows.drop_rows(&[row_id(x)]),
            30 => self.save(x),
            31 => self.much_time_passes(),
            32 => self.settle_loads(),
            33 => self.standbys_have(x),
            34 => self.fail_over(x),
            35 => drop(self.sight.fetch_not(Ordering::Relaxed)),
            37 | 38 => self.begin_set_load(x, y),
            39 => self.take_set_snapshot(x),
            40 | 41 => self.finish_set_load(x),
            _ => self.restart(x, y),
        }
    }

    fn begin_load(&mut self, x: u8, y: u8) {
        let (ticket, _) = self.rows.begin_load(&[row_id(x), row_id(y)]);
        if !ticket.is_empty() {
            self.loads.push(Load { ticket, seen: None });
        }
    }

    fn take_snapshot(&mut self, x: u8) {
        let count = self.loads.len().max(1);
        let load = self.loads.get_mut(usize::from(x) % count);
        if let Some(load) = load.filter(|load| load.seen.is_none()) {
            let rows = load.ticket.rows().iter();
            let found = rows.filter_map(|row| Some((row.clone(), self.pg.visible(row)?)));
            load.seen = Some((self.pg.moment(), found.collect()));
        }
    }

    fn finish_load(&mut self, x: u8) {
        if self.loads.is_empty() {
            return;
        }
        let at = usize::from(x) % self.loads.len();
        self.take_snapshot(at as u8);
        let Load { ticket, seen } = self.loads.remove(at);
        let (moment, found) = seen.expect("just taken");
        self.rows
            .finish_load(ticket, &moment, |row| found.get(row).map(Row::tuple));
    }

    /// Half of all transaction ids are used up. Nothing of before is still under way.
    fn much_time_passes(&mut self) {
        let quiet = self.pg.running.is_empty() && self.pg.wal.iter().all(|tx| tx.visible);
        if quiet && self.next == self.pg.wal.len() {
            self.pg.next_xid += (1 << 31) - 10;
            self.rows.note_xid(Xid(self.pg.next_xid));
            self.repeat_from = self.next;
        }
    }

    fn fail_load(&mut self, x: u8) {
        if !self.loads.is_empty() {
            let load = self.loads.remove(usize::from(x) % self.loads.len());
            if x.is_multiple_of(2) {
                self.rows.fail_load(load.ticket);
            }
        }
    }

    fn known(&self, row: &RowId) -> Option<Option<Row>> {
        self.rows.read_one(
            row,
            || false,
            |found| match found {
                Found::Row(tuple) => Some(Some(Row::of(tuple))),
                Found::Absent => Some(None),
                Found::Unknown => None,
            },
        )?
    }

    fn grid_write(&mut self, x: u8, y: u8, z: u8) {
        let rows: BTreeSet<RowId> = if z.is_multiple_of(3) {
            [row_id(x), row_id(y)].into()
        } else {
            [row_id(x)].into()
        };
        let mut group = CommitGroup { rows: Vec::new() };
        let mut raws = Vec::new();
        for row in rows {
            let Some(old) = self.known(&row) else { return };
            let Some((raw, change)) = self.decide(old, y.wrapping_add(z)) else {
                return;
            };
            group.rows.push(RowChange {
                row: row.clone(),
                change,
            });
            raws.push((row, raw));
        }
        self.ties
            .push(raws.iter().map(|(row, _)| row.clone()).collect());
        for (row, _) in &raws {
            self.clocks.entry(row.clone()).or_insert(self.clock_ms);
        }
        self.apply(Command::Group(group));
        for (row, raw) in raws {
            let pending = self.pending.entry(row.clone()).or_default();
            if matches!((pending.first(), &raw), (Some(Raw::Insert(_)), Raw::Delete)) {
                self.pending.remove(&row);
                self.untie(&row);
            } else {
                pending.push(raw);
            }
        }
    }

    fn decide(&mut self, old: Option<Row>, how: u8) -> Option<(Raw, Change)> {
        self.unique += 1;
        let fresh = Row {
            a: self.unique * 1000,
            b: self.unique * 1000 + 1,
            t: -self.unique,
        };
        let Some(old) = old else {
            return Some((
                Raw::Insert(fresh.clone()),
                Change::Insert {
                    image: fresh.tuple(),
                },
            ));
        };
        let add = i64::from(how % 7) + 1;
        let (a, b, t) = match how % 8 {
            0 => return Some((Raw::Delete, Change::Delete)),
            1 => {
                return Some((
                    Raw::Put(fresh.clone()),
                    Change::Put {
                        image: fresh.tuple(),
                    },
                ));
            }
            2 => (Raws::Set(fresh.a), Raws::Keep, None),
            3 => (Raws::Keep, Raws::Set(fresh.b), Some(fresh.t)),
            4 | 5 => (Raws::Add(add), Raws::Keep, None),
            6 => (Raws::Set(fresh.a), Raws::Add(add), None),
            _ => (Raws::Add(add), Raws::Add(-add), Some(fresh.t)),
        };
        let raw = Raw::Update { a, b, t };
        let image = apply(Some(old), &raw).ok()??.tuple();
        let (mut set, mut increments) = (Vec::new(), Vec::new());
        for (position, column) in [(1, a), (2, b)] {
            match column {
                Raws::Keep => {}
                Raws::Set(_) => set.push(position),
                Raws::Add(amount) => increments.push(Increment {
                    position,
                    type_oid: INT8,
                    amount: amount.to_be_bytes().to_vec().into(),
                }),
            }
        }
        set.extend(t.iter().flat_map(|_| [3, 4]));
        Some((
            raw,
            Change::Update {
                image,
                set,
                add: increments,
            },
        ))
    }

    fn apply(&mut self, command: Command) {
        let entry = Entry {
            at_ms: self.clock_ms,
            term: TERM,
            commands: vec![command],
        };
        self.clock_ms += 1;
        self.log.push(entry.clone());
        if let Command::Group(group) = &entry.commands[0] {
            self.machine.leader.lock().propose(group);
        }
        self.machine.apply(LogIndex(self.log.len() as u64), entry);
    }

    fn outside_begin(&mut self, x: u8, y: u8) -> Option<Xid> {
        let rows: BTreeSet<RowId> = [row_id(x), row_id(y)]
            .into_iter()
            .filter(|row| row.table == FOLLOWED)
            .collect();
        self.pg.begin(rows)
    }

    fn outside_begin_and_commit(&mut self, x: u8, y: u8, z: u8) {
        if self.outside_begin(x, y).is_some() {
            self.outside_commit(u8::MAX, y, z);
        }
    }

    /// The newest running transaction (`x` is 255) or any of them commits; or it fails, now and then.
    fn outside_commit(&mut self, x: u8, y: u8, z: u8) {
        let ours = self.attempt.as_ref().map(|attempt| attempt.xid);
        let running: Vec<_> = self
            .pg
            .running
            .iter()
            .filter(|tx| Some(tx.xid) != ours)
            .cloned()
            .collect();
        if running.is_empty() {
            return;
        }
        let at = if x == u8::MAX {
            running.len() - 1
        } else {
            usize::from(x) % running.len()
        };
        let tx = &running[at];
        if z.is_multiple_of(11) {
            return self.pg.abort(tx.xid);
        }
        let written = tx
            .rows
            .iter()
            .map(|row| self.outside_write(row, y.wrapping_add(z)))
            .collect();
        self.pg.commit(tx.xid, None, written);
    }

    fn outside_write(&mut self, row: &RowId, how: u8) -> Written {
        self.unique += 1;
        let old = self.pg.rows.get(row).cloned();
        let t_changed = old.is_none() || how.is_multiple_of(3);
        let after = match (old, how % 6) {
            (Some(_), 0) => None,
            (Some(old), how) => Some(Row {
                a: if how < 3 {
                    self.unique * 1000 + 500
                } else {
                    old.a
                },
                b: if how > 1 { old.b + 100_000 } else { old.b },
                t: if t_changed { self.unique * 7 } else { old.t },
            }),
            (None, _) => Some(Row {
                a: self.unique * 1000 + 500,
                b: 0,
                t: self.unique * 7,
            }),
        };
        Written {
            row: row.clone(),
            after,
            t_changed,
        }
    }

    /// A committed transaction becomes visible.
    fn become_visible(&mut self, x: u8) {
        let mut hidden: Vec<_> = self.pg.wal.iter_mut().filter(|tx| !tx.visible).collect();
        if !hidden.is_empty() {
            let at = usize::from(x) % hidden.len();
            hidden[at].visible = true;
        }
    }

    /// The stream tells the next transaction. Now and then it cannot say what a row is now.
    fn tell(&mut self, x: u8) {
        let Some(mut tx) = self.pg.wal.get(self.next).cloned() else {
            return;
        };
        self.next += 1;
        self.told = self.told.max(self.next);
        if let Some(seq) = tx.flush {
            let rows = self.schedule.confirm(seq);
            if tx.fired {
                self.rows.overrule(seq, tx.xid.low(), tx.lsn, &rows);
            }
            self.rows.confirm(seq, tx.xid.low(), tx.lsn, &rows);
            if !tx.fired {
                return;
            }
            let told = |row: &RowId| row.table == FOLLOWED && !rows.contains(row);
            tx.written.retain(|written| told(&written.row));
        }
        if x.is_multiple_of(9) {
            let tables = [FOLLOWED];
            return (self.rows).wal_invalidate(tx.xid.low(), tx.lsn, &tables);
        }
        let untold = |at: usize| x.is_multiple_of(5) && at == 0;
        let (mut changes, mut unknown) = (Vec::new(), Vec::new());
        for (at, written) in tx.written.iter().enumerate() {
            if untold(at) {
                unknown.push(written.row.clone());
                continue;
            }
            let image = written.after.as_ref().map(|row| {
                if written.t_changed {
                    row.tuple()
                } else {
                    row.tuple_without_t()
                }
            });
            changes.push(WalChange {
                row: written.row.clone(),
                image,
            });
        }
        self.rows.wal_unknown(tx.xid.low(), tx.lsn, &unknown);
        self.rows.wal_transaction(tx.xid.low(), tx.lsn, &changes);
    }

    /// Whatever comes next in the life of a flush.
    fn flush_onward(&mut self, x: u8) {
        match &self.attempt {
            _ if self.schedule.open().is_none() => self.flush_start(x),
            None => self.flush_attempt(),
            Some(attempt) if attempt.committed => self.flush_end(),
            Some(_) => self.flush_commit(x),
        }
    }

    fn flush_start(&mut self, x: u8) {
        if self.schedule.open().is_some() {
            return;
        }
        let scope = match x % 4 {
            0 => FlushScope::Rows(vec![row_id(x / 4)]),
            1 => FlushScope::Tables(vec![FOLLOWED]),
            _ => FlushScope::All,
        };
        let cutoff_ms = self.clock_ms.saturating_sub(u64::from(x / 16));
        let start = FlushStart {
            seq: self.schedule.next_seq(),
            cutoff_ms,
            scope,
            rows_max: 1 + u32::from(x % 5),
        };
        self.apply(Command::FlushStart(start));
        self.flushing_clocks = std::mem::take(&mut self.clocks);
        self.clocks = (self.flushing_clocks)
            .extract_if(.., |row, _| {
                self.schedule
                    .ask(|ripening| ripening.first_ms(row).is_some())
            })
            .collect();
        let Some(open) = self.schedule.open() else {
            return;
        };
        for row in open.rows() {
            let raws = self.pending.remove(&row);
            let raws = raws.expect("a flush takes what is pending");
            self.flushing.insert(row, raws);
        }
        // A row whose changes cancelled out has no clock to come back to.
        self.flushing_clocks
            .retain(|row, _| self.flushing.contains_key(row));
        for group in &open.groups {
            let rows: BTreeSet<RowId> =
                group.rows.iter().map(|change| change.row.clone()).collect();
            let tied: Vec<_> = (self.ties)
                .extract_if(.., |tie| !tie.is_disjoint(&rows))
                .collect();
            for tie in &tied {
                let split = tie.iter().any(|row| {
                    self.pending.contains_key(row)
                        || self.flushing.contains_key(row) && !rows.contains(row)
                });
                assert!(!split, "{tie:?} is split by {open:?}");
            }
            self.flushing_ties.extend(tied);
        }
    }

    /// The flush's transaction begins in Postgres, if no row is locked.
    fn flush_attempt(&mut self) {
        let Some(open) = self.schedule.open().filter(|_| self.attempt.is_none()) else {
            return;
        };
        let rows = open.rows();
        self.rows.flush_retry(open.seq, &rows);
        if let Some(xid) = self.pg.begin(rows.iter().cloned().collect()) {
            self.rows.flush_xid(open.seq, xid, &rows);
            self.attempt = Some(Attempt {
                xid,
                committed: false,
                dead: Vec::new(),
            });
        }
    }

    fn flush_commit(&mut self, x: u8) {
        let Some(attempt) = self.attempt.as_mut().filter(|attempt| !attempt.committed) else {
            return;
        };
        let open = self.schedule.open().expect("an attempt has its flush");
        let (xid, seq) = (attempt.xid, open.seq);
        let (mut written, dead) = self.pg.flush(&open.groups);
        let mut carried = BTreeMap::new();
        for (row, raws) in std::mem::take(&mut self.flushing) {
            if dead.contains(&row) {
                continue;
            }
            let meant = apply_all(self.pg.rows.get(&row).cloned(), &raws);
            let got = written
                .iter()
                .find(|written| written.row == row)
                .expect("each row is written or dead");
            assert_eq!(
                meant,
                Ok(got.after.clone()),
                "the flush writes what was acknowledged: {row:?} {raws:?}"
            );
            carried.insert(row, raws);
        }
        attempt.committed = true;
        attempt.dead = dead;
        self.flushed.insert(seq, carried);
        let fired = x.is_multiple_of(3);
        if fired {
            self.fire(x, &mut written);
        }
        self.pg.commit(xid, Some(seq), written);
        self.pg.wal.last_mut().expect("just committed").fired = fired;
    }

    /// Triggers that came behind our back change rows of the flush, and others.
    fn fire(&mut self, x: u8, written: &mut Vec<Written>) {
        let changed = written.iter_mut().skip(usize::from(x % 2));
        let changed = changed.filter(|written| written.row.table == FOLLOWED);
        for row in changed.filter_map(|written| written.after.as_mut()) {
            row.b += 1_000_000;
        }
        let other = row_id(x / 3);
        let carried = written.iter().any(|written| written.row == other);
        let open = self
            .schedule
            .open()
            .is_some_and(|open| open.rows().contains(&other));
        if other.table == FOLLOWED && !carried && !open && !self.pg.locked(&other) {
            written.push(self.outside_write(&other, x));
        }
    }

    /// Postgres's answer to COMMIT arrives: the transaction is visible by then.
    fn flush_end(&mut self) {
        let Some(attempt) = self.attempt.take_if(|attempt| attempt.committed) else {
            return;
        };
        let tx = self
            .pg
            .wal
            .iter_mut()
            .find(|tx| tx.xid == attempt.xid)
            .expect("it committed");
        tx.visible = true;
        let seq = tx.flush.expect("it is a flush");
        self.flushing_ties.clear();
        self.flushing_clocks.clear();
        self.skipped = None;
        self.apply(Command::FlushKept(FlushEnd {
            seq,
            applied: true,
            dead: attempt.dead,
        }));
    }

    /// The attempt fails; then it is tried again (the flush stays open) or given back.
    fn flush_fail(&mut self, x: u8) {
        let Some(open) = self.schedule.open() else {
            return;
        };
        if self
            .attempt
            .as_ref()
            .is_some_and(|attempt| attempt.committed)
        {
            return;
        }
        if let Some(attempt) = self.attempt.take() {
            self.pg.abort(attempt.xid);
        }
        if x.is_multiple_of(2) {
            return;
        }
        self.apply(Command::FlushEnd(FlushEnd {
            seq: open.seq,
            applied: false,
            dead: Vec::new(),
        }));
        self.give_back();
    }

    fn give_back(&mut self) {
        self.ties.append(&mut self.flushing_ties);
        let mut clocks = std::mem::take(&mut self.flushing_clocks);
        for (row, mut raws) in std::mem::take(&mut self.flushing) {
            let newer = self.pending.remove(&row).unwrap_or_default();
            let cancels = matches!(
                (raws.first(), newer.as_slice()),
                (Some(Raw::Insert(_)), [.., Raw::Delete])
            );
            raws.extend(newer);
            let clock = clocks.remove(&row).expect("what is pending has its clock");
            if cancels {
                self.untie(&row);
            } else {
                let newer = self.clocks.entry(row.clone()).or_insert(clock);
                *newer = clock.min(*newer);
                self.pending.insert(row, raws);
            }
        }
    }

    /// What transactions did to the row has come to nothing: there is nothing of it that must reach Postgres with the rest.
    fn untie(&mut self, row: &RowId) {
        for tie in &mut self.ties {
            tie.remove(row);
        }
    }

    /// The stream reconnects and repeats itself; or, if it can, starts anew with nothing known before it.
    fn stream_again(&mut self, x: u8, y: u8) {
        if !y.is_multiple_of(4) {
            self.repeat(x);
        } else if self.pg.wal.iter().all(|tx| tx.visible) {
            let open = self.schedule.open().map(|open| open.seq);
            let mut missed = self.pg.wal[self.next..].iter();
            let missed = missed.position(|tx: &Committed| open.is_some() && tx.flush == open);
            let missed = missed.map(|at| self.next + at);
            // As after a restart: until it ends, its rows are shown as it leaves them.
            let skipped = missed.map(|at| at + usize::from(!self.pg.wal[at].fired));
            self.skipped = self.skipped.or(skipped);
            self.next = self.pg.wal.len();
            self.told = self.next;
            self.repeat_from = self.next;
            self.rows.stream_lost(|row| row.table == FOLLOWED);
            self.schedule.forget_unconfirmed();
        }
    }

    fn repeat(&mut self, x: u8) {
        self.next -= usize::from(x) % (self.next - self.repeat_from + 1);
    }

    fn kept(&self) -> std::ops::Range<u64> {
        let end = self.schedule.next_seq().0;
        let first = self.schedule.ask_kept(|kept| kept.first());
        first.map_or(end, |first| first.0)..end
    }

    fn standbys_have(&mut self, x: u8) {
        let kept = self.kept();
        let safe = kept.start + u64::from(x) % (kept.end - kept.start + 1);
        self.apply(Command::Safe(FlushSeq(safe.saturating_sub(1))));
        assert_eq!(self.kept(), safe.max(1)..kept.end);
    }

    /// A standby takes Postgres's place that lacks the last transactions, but none that is safe. What was flushed is written again; then memory is told.
    fn fail_over(&mut self, x: u8) {
        self.end_open();
        let kept = self.kept();
        let safe = |tx: &Committed| tx.flush.is_some_and(|seq| seq.0 < kept.start);
        let has = self.pg.wal.iter().rposition(safe).map_or(0, |at| at + 1);
        let left = self.pg.wal.len() - has;
        let lost = self.pg.fail_over(has + usize::from(x) % (left + 1));
        let lacks = lost.iter().filter_map(|tx| Some(tx.flush?.0)).min();
        for seq in lacks.map_or(kept.end, |lacks| lacks)..kept.end {
            self.write_again(FlushSeq(seq));
        }
        // Its ids will be given anew.
        self.moments.clear();
        self.timeline += 1;
        let server = Server {
            started: 1,
            timeline: self.timeline,
        };
        self.apply(Command::Home(server, true));
        self.skipped = None;
        self.next = self.pg.wal.len();
        self.told = self.next;
        self.repeat_from = self.next;
    }

    fn write_again(&mut self, seq: FlushSeq) {
        let kept = self.schedule.ask_kept(|kept| kept.get(seq));
        let kept = kept.expect("what standbys may lack is kept");
        let mut groups = kept.groups.clone();
        let refused = |change: &RowChange| kept.refused.contains(&change.row);
        groups.retain(|group| !group.rows.iter().any(refused));
        let rows = groups.iter().flat_map(|group| &group.rows);
        let rows = rows.map(|change| change.row.clone()).collect();
        let xid = self.pg.begin(rows).expect("nobody else is there");
        let (written, dead) = self.pg.flush(&groups);
        let carried = self.flushed.get_mut(&seq).expect("it was committed before");
        carried.retain(|row, _| !dead.contains(row));
        for (row, raws) in carried {
            let meant = apply_all(self.pg.rows.get(row).cloned(), raws.iter());
            let got = written.iter().find(|written| written.row == *row);
            let got = got.expect("each row is written or dead").after.clone();
            assert_eq!(meant, Ok(got), "written again: {row:?} {raws:?}");
        }
        self.pg.commit(xid, Some(seq), written);
        self.pg.wal.last_mut().expect("just committed").visible = true;
    }

    fn save(&mut self, x: u8) {
        if x.is_multiple_of(2) {
            self.saved = Some((self.log.len(), self.machine.snapshot()));
        }
    }

    /// The process ends and starts again: the last saved state, then the log, then the question to Postgres what became of the open flush.
    fn restart(&mut self, x: u8, y: u8) {
        let before = self.replicated();
        self.loads.clear();
        self.set_loads.clear();
        let (machine, rows, schedule) = machine(self.memory_max, false, self.sight.clone());
        (self.machine, self.rows, self.schedule) = (machine, rows, schedule);
        self.rows.note_xid(Xid(self.pg.next_xid));
        let from = match &self.saved {
            Some((from, bytes)) => {
                self.machine
                    .restore(LogIndex(1), bytes)
                    .expect("it was saved by the same version");
                *from
            }
            None => 0,
        };
        for (at, entry) in self.log.iter().enumerate().skip(from) {
            self.machine.apply(LogIndex(at as u64 + 1), entry.clone());
        }
        self.machine.live.store(true, Ordering::SeqCst);
        self.machine.leader.lock().lead(Some(TERM));
        assert_eq!(
            self.replicated(),
            before,
            "a restart comes to the same state"
        );
        self.pg.wal.iter_mut().for_each(|tx| tx.visible = true);
        self.repeat(x);
        // What the stream told the process before is lost with it; staleness is measured from here again. Until it is settled what became of the open flush,
        // its rows are shown as the flush leaves them, whatever came after it, or triggers made of it.
        let open = self.schedule.open().map(|open| open.seq);
        let committed =
            open.and_then(|seq| self.pg.wal.iter().position(|tx| tx.flush == Some(seq)));
        let fired = committed.filter(|at| self.pg.wal[*at].fired);
        self.skipped = fired.filter(|at| self.next > *at);
        self.told = committed.map_or(self.next, |at| self.next.min(at + 1));
        self.told = self.told.min(fired.unwrap_or(usize::MAX));
        // Loads and the stream may go on before the open flush is settled.
        for at in 0..y % 4 {
            self.begin_load(x.wrapping_add(at), y.wrapping_add(at));
            self.finish_load(0);
            self.tell(y);
            self.check();
        }
        self.end_open();
        self.told = self.told.max(self.next);
    }

    fn end_open(&mut self) {
        let Some(open) = self.schedule.open() else {
            return;
        };
        match self.attempt.take() {
            Some(attempt) if attempt.committed => {
                self.attempt = Some(attempt);
                self.flush_end();
            }
            attempt => {
                attempt
                    .into_iter()
                    .for_each(|attempt| self.pg.abort(attempt.xid));
                self.apply(Command::FlushEnd(FlushEnd {
                    seq: open.seq,
                    applied: false,
                    dead: Vec::new(),
                }));
                self.give_back();
            }
        }
    }

    /// What all replicas must agree on.
    fn replicated(&self) -> impl PartialEq + std::fmt::Debug + use<> {
        let mut pending = BTreeMap::new();
        self.rows.for_each_layered(|row, slot| {
            let top = slot
                .layers()
                .last()
                .filter(|layer| layer.stage == Stage::Pending);
            pending.extend(top.map(|layer| (row.clone(), layer.change.clone())));
        });
        let schedule = self.schedule.ask(|ripening| {
            (
                ripening
                    .in_order()
                    .into_iter()
                    .map(|taken| (taken.row, taken.first_ms))
                    .collect::<Vec<_>>(),
                ripening.bytes(),
            )
        });
        let tied: Vec<Vec<RowId>> = self
            .schedule
            .ask(|ripening| ripening.tied().into_iter().cloned().collect());
        (
            pending.into_iter().collect::<Vec<_>>(),
            schedule,
            tied,
            self.schedule.open(),
            self.schedule.next_seq(),
            self.schedule.ask_kept(Clone::clone),
            self.schedule.home(),
        )
    }

    /// Every row that memory knows is legal.
    pub fn check(&self) {
        for row in all_rows() {
            let Some(known) = self.known(&row) else {
                continue;
            };
            let legal = self.legal(&row);
            assert!(
                legal
                    .iter()
                    .any(|legal| legal.as_ref().is_none_or(|legal| *legal == known)),
                "{row:?} is {known:?} in memory, may be {legal:?}"
            );
        }
        self.check_sets();
        for row in self.pending.keys() {
            let clock = self.schedule.ask(|ripening| ripening.first_ms(row));
            assert_eq!(clock, self.clocks.get(row).copied(), "the clock of {row:?}");
        }
        let has_pending = self.schedule.has_pending(&Scope::Everything);
        let acknowledged = !self.pending.is_empty() || !self.flushing.is_empty();
        assert!(
            has_pending || !acknowledged,
            "nothing acknowledged is forgotten by the schedule"
        );
    }

    /// All legal values; `None`: anything.
    fn legal(&self, row: &RowId) -> Vec<Option<Option<Row>>> {
        let prefix = |upto: usize| self.value(row, |tx| tx.lsn.0 <= 100 * upto as u64);
        (self.oldest(row.table)..=self.pg.wal.len())
            .map(prefix)
            .collect()
    }

    fn oldest(&self, table: TableOid) -> usize {
        let told = self.told.min(self.skipped.unwrap_or(usize::MAX));
        if table == FOLLOWED { told } else { 0 }
    }

    /// The row when Postgres has these transactions; `None`: anything.
    fn value(&self, row: &RowId, has: impl Fn(&Committed) -> bool) -> Option<Option<Row>> {
        let attempt = self.attempt.as_ref();
        if attempt.is_some_and(|attempt| attempt.dead.contains(row)) {
            return None;
        }
        let base = self.pg.at(row, &has);
        let later = self.pg.wal.iter().filter(|tx| !has(tx));
        let later = later.filter_map(|tx| self.flushed.get(&tx.flush?)?.get(row));
        let waiting = [&self.flushing, &self.pending]
            .into_iter()
            .filter_map(|waiting| waiting.get(row));
        apply_all(base, later.flatten().chain(waiting.flatten())).ok()
    }

    fn begin_set_load(&mut self, x: u8, y: u8) {
        let sets = self.sets(x, y);
        if let SetLoad::Mine(ticket) = self.rows.begin_set_load(&sets) {
            self.set_loads.push(SettingLoad { ticket, seen: None });
        }
    }

    /// All rows of a table, by a column or by none, those of a group, those with the t that some row has, and several of these at once.
    fn sets(&self, x: u8, y: u8) -> SetIds {
        let row = row_id(x);
        let t = |row: &RowId| self.pg.rows.get(row).map_or(0, |row| row.t);
        match y % 6 {
            0 if y >= 128 => SetIds::whole(row.table),
            0 => sets(row.table, 0, [0]),
            1 | 2 => sets(row.table, 4, [i64::from(y % 6 - 1)]),
            3 => sets(row.table, 3, [t(&row)]),
            4 => sets(row.table, 4, [0, 1, 7]),
            _ => {
                let rows = all_rows().into_iter();
                let rows = rows.filter(|other| other.table == row.table);
                sets(row.table, 3, rows.map(|row| t(&row)))
            }
        }
    }

    fn take_set_snapshot(&mut self, x: u8) {
        let at = usize::from(x) % self.set_loads.len().max(1);
        let moment = self.pg.moment();
        let Some(load) = self.set_loads.get_mut(at) else {
            return;
        };
        if load.seen.is_some() {
            return;
        }
        let sets = load.ticket.sets();
        let rows = all_rows().into_iter().filter(|row| row.table == sets.table);
        let found = rows.filter_map(|row| Some((row.key.clone(), self.pg.visible(&row)?)));
        let found = found.filter(|(_, row)| is_in(row, sets)).collect();
        load.seen = Some((moment.clone(), found));
        self.moments.push(moment);
    }

    fn finish_set_load(&mut self, x: u8) {
        if self.set_loads.is_empty() {
            return;
        }
        let at = usize::from(x) % self.set_loads.len();
        if x > 240 {
            // Given up without a word.
            drop(self.set_loads.remove(at));
            return;
        }
        self.take_set_snapshot(at as u8);
        let SettingLoad { ticket, seen } = self.set_loads.remove(at);
        let (moment, found) = seen.expect("just taken");
        let found = found.into_iter().map(|(key, row)| (key, row.tuple()));
        self.rows
            .finish_set_load(ticket, &moment, Some(found.collect()), |_| false);
    }

    fn read_sets(&self, sets: &SetIds) -> SetRead<Vec<Row>> {
        let told = self.told.checked_sub(1).map(|at| self.pg.wal[at].lsn);
        let followed = match sets.table == FOLLOWED {
            true => told.unwrap_or_default(),
            false => Lsn(u64::MAX),
        };
        let rows = |tuples: &[&Tuple]| tuples.iter().map(|tuple| Row::of(tuple)).collect();
        self.rows
            .read_sets(sets, &BTreeMap::new(), || false, || followed, rows)
    }

    /// All sets that memory tells together are what they are at one moment, whole.
    fn check_sets(&self) {
        for (x, y) in (0..ROWS).flat_map(|x| SORTS.map(|y| (x, y))) {
            let sets = self.sets(x, y);
            if let SetRead::Done(told) = self.read_sets(&sets) {
                self.sets_told.set(self.sets_told.get() + 1);
                let prefixes = self.oldest(sets.table)..=self.pg.wal.len();
                let mut prefixes = prefixes.map(|upto| 100 * upto as u64);
                let mut moments = self.moments.iter();
                let legal = prefixes.any(|upto| self.is_legal(&sets, &told, |tx| tx.lsn.0 <= upto))
                    || moments.any(|moment| {
                        self.is_legal(&sets, &told, |tx| moment.snapshot.saw_full(tx.xid))
                    });
                assert!(legal, "{sets:?} is {told:?} in memory");
            }
        }
    }

    fn is_legal(&self, sets: &SetIds, told: &[Row], has: impl Fn(&Committed) -> bool) -> bool {
        let (mut left, mut unsure) = (told.to_vec(), 0);
        for row in all_rows().iter().filter(|row| row.table == sets.table) {
            let Some(value) = self.value(row, &has) else {
                unsure += 1;
                continue;
            };
            if let Some(value) = value.filter(|value| is_in(value, sets)) {
                let Some(at) = left.iter().position(|told| *told == value) else {
                    return false;
                };
                left.remove(at);
            }
        }
        left.len() <= unsure
    }

    /// In the end each set can be told, and is as in Postgres.
    fn settle_sets(&mut self) {
        while !self.set_loads.is_empty() {
            self.finish_set_load(0);
            self.check();
        }
        for (x, y) in (0..6).flat_map(|y| [(0, y), (2, y)]) {
            let sets = self.sets(x, y);
            let told = self.tell_sets(&sets);
            let mut rows: Vec<Row> = self
                .pg
                .rows
                .iter()
                .filter(|(row, _)| row.table == sets.table)
                .map(|(_, row)| row.clone())
                .filter(|row| is_in(row, &sets))
                .collect();
            rows.sort();
            match told {
                Some(mut told) => {
                    told.sort();
                    assert_eq!(told, rows, "{sets:?} in the end");
                }
                None => assert_eq!(self.memory_max, 0, "{sets:?} can be told"),
            }
        }
    }

    fn tell_sets(&mut self, sets: &SetIds) -> Option<Vec<Row>> {
        for _ in 0..6 {
            match self.read_sets(sets) {
                SetRead::Done(told) => return Some(told),
                SetRead::Unknown(rows) => rows.iter().for_each(|row| self.load_now(row)),
                SetRead::Missing(missing) => {
                    if let SetLoad::Mine(ticket) = self.rows.begin_set_load(&missing) {
                        self.set_loads.push(SettingLoad { ticket, seen: None });
                        self.finish_set_load(0);
                    }
                }
                _ => {}
            }
        }
        None
    }

    /// Everything comes to its end; then memory and Postgres agree.
    pub fn settle(&mut self) {
        while !self.loads.is_empty() {
            self.finish_load(0);
            self.check();
        }
        self.end_open();
        let ours = self.attempt.take();
        assert!(ours.is_none());
        self.pg.running.clear();
        self.pg.wal.iter_mut().for_each(|tx| tx.visible = true);
        while self.schedule.has_pending(&Scope::Everything) {
            self.flush_start(254);
            self.flush_attempt();
            self.flush_commit(1);
            self.flush_end();
            self.check();
        }
        assert!(
            self.pending.is_empty() && self.flushing.is_empty(),
            "every acknowledged write reached Postgres or the dead letters"
        );
        while self.next < self.pg.wal.len() {
            self.tell(1);
            self.check();
        }
        for row in all_rows() {
            for _ in 0..3 {
                if self.known(&row).is_none() {
                    self.load_now(&row);
                }
            }
            let known = self.known(&row);
            if self.memory_max > 0 {
                assert_eq!(
                    known,
                    Some(self.pg.rows.get(&row).cloned()),
                    "{row:?} in the end"
                );
            } else if let Some(known) = known {
                assert_eq!(known, self.pg.rows.get(&row).cloned(), "{row:?} in the end");
            }
        }
        for row in self.rows.without_base(10, |_| true) {
            self.load_now(&row);
        }
        self.settle_sets();
        let mut left = Vec::new();
        self.rows
            .for_each_layered(|row, slot| left.push((row.clone(), format!("{:?}", slot.layers()))));
        assert!(left.is_empty(), "no layer is left: {left:?}");
        assert_eq!(self.rows.without_base(10, |_| true), []);
        assert_eq!(self.schedule.stats().unconfirmed_rows, 0);
        if self.memory_max == 0 {
            self.rows.drop_where(|_| true);
            self.rows.shed(0);
            assert_eq!(self.rows.stats().bytes, 0);
        }
    }

    fn settle_loads(&mut self) {
        let told = self.told.checked_sub(1).map(|at| self.pg.wal[at].lsn);
        self.rows
            .settle_loads(|| told.unwrap_or_default(), |table| table == FOLLOWED);
    }

    fn load_now(&mut self, row: &RowId) {
        let (ticket, wait) = self.rows.begin_load(std::slice::from_ref(row));
        assert!(wait.is_empty() && !ticket.is_empty(), "nobody else loads");
        let found = self.pg.visible(row).map(|row| row.tuple());
        self.rows
            .finish_load(ticket, &self.pg.moment(), |_| found.clone());
    }
}
