//! The simulated system of record, server side: transactions with row locks that get into the WAL when they commit and become visible some time after, in whatever
//! order; the progress row; connections that die and leave their transactions behind; and a standby that may take its place and lack the last commits. Knows no nodes,
//! only backends.

use crate::chance::Chance;
use crate::data::{Row, SHARED_ROWS, all_rows, name, shared};
use crate::mistake::Mistake;
use ripen_cachestore::change::{CommitGroup, FlushSeq, RowId};
use ripen_cachestore::home::Server;
use ripen_cachestore::progress::LogIdentity;
use ripen_pg::ids::{Lsn, Snapshot, Xid};
use std::collections::{BTreeMap, BTreeSet};

/// Where transaction ids begin.
const FIRST_XID: u64 = 1000;

pub struct Postgres {
    chance: Chance,
    mistake: Option<Mistake>,
    now_ms: u64,
    pub up: bool,
    pub wal: Vec<Entry>,
    pub running: BTreeMap<u64, Txn>,
    next_xid: u64,
    /// The newest committed rows, visible or not.
    pub rows: BTreeMap<RowId, Row>,
    pub progress: Option<Progress>,
    /// Who has moved the progress row and is not over yet.
    pub progress_lock: Option<u64>,
    pub backends: BTreeSet<i32>,
    leaving: BTreeSet<(u64, i32)>,
    last_backend: i32,
    /// Numbers of what others write.
    next_outside: u32,
    pub outside: bool,
    /// Told by [`Postgres::step`], for the trace.
    pub news: Vec<String>,
    /// Counts its ends: a connection of before is lost.
    pub life: u64,
    /// Another one after each start; a standby that was promoted has another timeline.
    pub server: Server,
    standby: Standby,
    slot: Option<Slot>,
    /// Flushes that it has lost by failing over.
    pub lost_flushes: u64,
    /// Writes that it has lost by failing over, whoever may still know them.
    pub lost_writes: BTreeSet<(RowId, u32)>,
}

/// The cluster's replication slot.
#[derive(Clone, Copy, Debug)]
struct Slot {
    /// Up to where it was acknowledged.
    confirmed: Lsn,
    reader: i32,
}

/// The server that follows this one, and takes its place when it fails.
#[derive(Debug, Default)]
struct Standby {
    /// How much of the WAL it has.
    has: usize,
    /// When it gets more.
    next_ms: u64,
    /// It gets nothing for the time being.
    frozen: bool,
}

#[derive(Clone, Debug)]
pub struct Progress {
    pub identity: LogIdentity,
    pub epoch: u64,
    pub applied: FlushSeq,
}

#[derive(Clone, Debug)]
pub enum Entry {
    Commit(Commit),
    Mark(u64, Lsn),
}

#[derive(Clone, Debug)]
pub struct Commit {
    pub xid: Xid,
    pub lsn: Lsn,
    pub flush: Option<FlushSeq>,
    pub written: Vec<(RowId, Row)>,
    progress: Option<Progress>,
    buried: Vec<RowId>,
    pub visible: bool,
    visible_at: u64,
}

#[derive(Debug, Default)]
pub struct Txn {
    pub rows: BTreeSet<RowId>,
    pub written: Vec<(RowId, Row)>,
    pub progress: Option<Progress>,
    pub flush: Option<FlushSeq>,
    /// Rows that were refused.
    pub buried: Vec<RowId>,
    /// COMMIT arrives then.
    pub commit_at: Option<u64>,
    /// Its connection is known to be dead then.
    dies_at: Option<u64>,
}

impl Progress {
    /// As it is told.
    pub fn told(&self) -> ripen_cachestore::progress::Progress {
        ripen_cachestore::progress::Progress {
            applied: self.applied,
            epoch: self.epoch,
        }
    }
}

/// What became of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Running,
    /// In the WAL, and not visible yet.
    Committed,
    Visible,
    Gone,
}

/// What is there before anybody writes.
fn beginning() -> BTreeMap<RowId, Row> {
    let rows = (0..SHARED_ROWS).map(|key| (shared(key), Row::default()));
    rows.collect()
}

impl Postgres {
    pub fn new(chance: Chance, mistake: Option<Mistake>) -> Postgres {
        Postgres {
            chance,
            mistake,
            now_ms: 0,
            up: true,
            wal: Vec::new(),
            running: BTreeMap::new(),
            next_xid: FIRST_XID,
            rows: beginning(),
            progress: None,
            progress_lock: None,
            backends: BTreeSet::new(),
            leaving: BTreeSet::new(),
            last_backend: 0,
            next_outside: 1,
            outside: true,
            news: Vec::new(),
            life: 0,
            server: Server {
                started: 1,
                timeline: 1,
            },
            standby: Standby::default(),
            slot: None,
            lost_flushes: 0,
            lost_writes: BTreeSet::new(),
        }
    }

    fn end_of_wal(&self) -> Lsn {
        Lsn(100 * (self.wal.len() as u64 + 1))
    }

    pub fn position(&self) -> Lsn {
        Lsn(100 * self.wal.len() as u64)
    }

    pub fn commits(&self) -> impl DoubleEndedIterator<Item = &Commit> {
        self.wal.iter().filter_map(|entry| match entry {
            Entry::Commit(commit) => Some(commit),
            Entry::Mark(..) => None,
        })
    }

    /// Up to where the slot was acknowledged, if there is one.
    pub fn slot(&self) -> Option<Lsn> {
        self.slot.map(|slot| slot.confirmed)
    }

    /// Who reads it.
    pub fn slot_reader(&self) -> Option<i32> {
        let reader = self.slot.map(|slot| slot.reader);
        reader.filter(|reader| self.backends.contains(reader))
    }

    pub fn reads_slot(&self, backend: i32) -> bool {
        self.slot_reader() == Some(backend)
    }

    /// A connection reads the slot, which is made if there is none, and acknowledges it up to there.
    pub fn read_slot(&mut self, confirmed: Lsn, backend: i32) {
        let before = self.slot.map_or(confirmed, |slot| slot.confirmed);
        self.slot = Some(Slot {
            confirmed: before.max(confirmed),
            reader: backend,
        });
    }

    /// Somebody has its connection ended.
    pub fn end_backend(&mut self, backend: i32) {
        self.backends.remove(&backend);
    }

    /// How far the standby has the WAL, as it has said.
    pub fn standby_position(&self) -> Lsn {
        Lsn(100 * self.standby.has as u64)
    }

    /// Rows that a flush had to leave out.
    pub fn buried(&self, seq: FlushSeq) -> Vec<RowId> {
        let flush = self
            .commits()
            .rev()
            .find(|commit| commit.flush == Some(seq));
        flush.map(|flush| flush.buried.clone()).unwrap_or_default()
    }

    /// Whether nobody need have that write in that row any more: a server that nobody had named has taken this one's place and lacked it, or refused what was built on it.
    pub fn may_have_lost(&self, write: u32, row: &RowId) -> bool {
        self.lost_writes.contains(&(row.clone(), write))
            || self.commits().any(|commit| commit.buried.contains(row))
    }

    /// Whether a transaction of that life may still be carried out or become visible.
    pub fn is_under_way(&self, life: u64, xid: u64) -> bool {
        life == self.life && matches!(self.fate(xid), Fate::Running | Fate::Committed)
    }

    pub fn connect(&mut self) -> i32 {
        self.last_backend += 1;
        self.backends.insert(self.last_backend);
        self.last_backend
    }

    /// The connection ends; the server finds out then.
    pub fn disconnect(&mut self, backend: i32, after_ms: u64) {
        self.leaving.insert((self.now_ms + after_ms, backend));
    }

    pub fn begin(&mut self) -> u64 {
        let xid = self.next_xid;
        self.next_xid += 1;
        self.running.insert(xid, Txn::default());
        xid
    }

    pub fn fate(&self, xid: u64) -> Fate {
        if self.running.contains_key(&xid) {
            return Fate::Running;
        }
        match self.commits().rev().find(|commit| commit.xid.0 == xid) {
            Some(commit) if commit.visible => Fate::Visible,
            Some(_) => Fate::Committed,
            None => Fate::Gone,
        }
    }

    /// Whether somebody else has the row.
    fn is_locked(&self, row: &RowId, xid: u64) -> bool {
        let running = |(other, txn): (&u64, &Txn)| *other != xid && txn.rows.contains(row);
        let committing = |commit: &Commit| {
            !commit.visible && commit.written.iter().any(|(written, _)| written == row)
        };
        self.running.iter().any(running) || self.commits().rev().take(64).any(committing)
    }

    /// Locks the row, unless somebody else has it.
    pub fn lock(&mut self, row: &RowId, xid: u64) -> bool {
        if self.is_locked(row, xid) {
            return false;
        }
        if let Some(txn) = self.running.get_mut(&xid) {
            txn.rows.insert(row.clone());
        }
        true
    }

    /// Locks the progress row, unless somebody else has it.
    pub fn lock_progress(&mut self, xid: u64) -> bool {
        if self.progress_lock.is_some_and(|holder| holder != xid) {
            return false;
        }
        self.progress_lock = Some(xid);
        true
    }

    /// What a transaction sees of a row that it has locked.
    pub fn row(&self, row: &RowId, xid: u64) -> Option<Row> {
        let own = self.running.get(&xid).and_then(|txn| {
            let written = txn.written.iter().rev();
            written.clone().find(|(written, _)| written == row)
        });
        own.map(|(_, row)| row.clone())
            .or_else(|| self.rows.get(row).cloned())
    }

    pub fn write(&mut self, row: &RowId, new: Row, xid: u64) {
        if let Some(txn) = self.running.get_mut(&xid) {
            txn.written.retain(|(written, _)| written != row);
            txn.written.push((row.clone(), new));
        }
    }

    /// Carries out the groups of a flush whose rows are locked. Answers which of them are refused, now or before.
    pub fn carry_out(
        &mut self,
        groups: &[CommitGroup],
        refused: impl Fn(&CommitGroup) -> bool,
        xid: u64,
    ) -> Vec<usize> {
        let mut dead = Vec::new();
        for (at, group) in groups.iter().enumerate() {
            if refused(group) {
                dead.push(at);
                continue;
            }
            let mut written = Vec::new();
            for change in &group.rows {
                let old = self.row(&change.row, xid);
                match Row::after(old.as_ref(), &change.change) {
                    Some(Some(new)) => written.push((change.row.clone(), new)),
                    Some(None) => {}
                    None => {
                        dead.push(at);
                        written.clear();
                        break;
                    }
                }
            }
            for (row, new) in written {
                self.write(&row, new, xid);
            }
        }
        dead
    }

    pub fn abort(&mut self, xid: u64) {
        self.running.remove(&xid);
        self.free_progress(xid);
    }

    fn free_progress(&mut self, xid: u64) {
        if self.progress_lock == Some(xid) {
            self.progress_lock = None;
        }
    }

    /// The connection is lost: the server finds out then.
    pub fn orphan(&mut self, xid: u64, after_ms: u64) {
        let at = self.now_ms + after_ms;
        if let Some(txn) = self.running.get_mut(&xid)
            && txn.commit_at.is_none()
        {
            txn.dies_at = Some(at);
        }
    }

    /// Whether it has yet to find out that a connection is lost.
    pub fn has_orphans(&self) -> bool {
        self.running.values().any(|txn| txn.dies_at.is_some())
    }

    pub fn commit_at(&mut self, xid: u64, after_ms: u64) {
        let at = self.now_ms + after_ms;
        if let Some(txn) = self.running.get_mut(&xid) {
            txn.commit_at = Some(at);
        }
    }

    fn commit(&mut self, xid: u64) {
        let Some(mut txn) = self.running.remove(&xid) else {
            return;
        };
        if self.mistake == Some(Mistake::TornFlush) && txn.flush.is_some() && txn.written.len() > 1
        {
            txn.written.pop();
        }
        if let Some(progress) = &txn.progress {
            self.progress = Some(progress.clone());
        }
        for (row, new) in &txn.written {
            self.rows.insert(row.clone(), new.clone());
        }
        let told =
            |(row, new): &(RowId, Row)| format!("{} {}/{}", name(row), new.list.len(), new.count);
        let rows: Vec<String> = txn.written.iter().map(told).collect();
        let flush = txn.flush.map(|seq| seq.0);
        self.news
            .push(format!("pg commits {xid} flush {flush:?} {rows:?}"));
        let visible_at = self.now_ms + self.chance.pick(&[0, 0, 1, 3, 10, 30]);
        self.wal.push(Entry::Commit(Commit {
            xid: Xid(xid),
            lsn: self.end_of_wal(),
            flush: txn.flush,
            written: txn.written,
            progress: txn.progress,
            buried: txn.buried,
            visible: false,
            visible_at,
        }));
    }

    pub fn mark(&mut self, id: u64) {
        let lsn = self.end_of_wal();
        self.wal.push(Entry::Mark(id, lsn));
    }

    pub fn snapshot(&self) -> Snapshot {
        let committing = self.commits().filter(|commit| !commit.visible);
        let mut running: Vec<Xid> = self.running.keys().map(|xid| Xid(*xid)).collect();
        running.extend(committing.map(|commit| commit.xid));
        running.sort_unstable();
        let xmax = Xid(self.next_xid);
        Snapshot {
            xmin: running.first().copied().unwrap_or(xmax),
            xmax,
            running: running.into(),
        }
    }

    /// The row as of all that is visible.
    pub fn visible(&self, row: &RowId) -> Option<Row> {
        let seen = self.commits().rev().filter(|commit| commit.visible);
        let mut written = seen.flat_map(|commit| commit.written.iter().rev());
        let found = written.find(|(written, _)| written == row);
        match found {
            Some((_, row)) => Some(row.clone()),
            None => all_rows()
                .iter()
                .any(|known| known == row && known.table == crate::data::SHARED)
                .then(Row::default),
        }
    }

    /// A millisecond.
    pub fn step(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
        if !self.up {
            return;
        }
        self.replicate();
        let due = |at: Option<u64>| at.is_some_and(|at| at <= now_ms);
        // What others write is committed synchronously: it is not Ripen's to keep.
        let waits =
            |txn: &Txn| self.standby.frozen && txn.flush.is_none() && !txn.written.is_empty();
        let commits: Vec<u64> = (self.running.iter())
            .filter(|(_, txn)| due(txn.commit_at) && !waits(txn))
            .map(|(xid, _)| *xid)
            .collect();
        commits.into_iter().for_each(|xid| self.commit(xid));
        let dying: Vec<u64> = (self.running.iter())
            .filter(|(_, txn)| due(txn.dies_at))
            .map(|(xid, _)| *xid)
            .collect();
        dying.into_iter().for_each(|xid| self.abort(xid));
        while self.leaving.first().is_some_and(|(at, _)| *at <= now_ms) {
            let (_, backend) = self.leaving.pop_first().expect("just seen");
            self.backends.remove(&backend);
        }
        let mut over = Vec::new();
        for entry in self.wal.iter_mut().rev().take(64) {
            if let Entry::Commit(commit) = entry
                && !commit.visible
                && commit.visible_at <= now_ms
            {
                commit.visible = true;
                over.push(commit.xid.0);
            }
        }
        over.into_iter().for_each(|xid| self.free_progress(xid));
        if self.outside && !self.standby.frozen && self.chance.one_in(40) {
            self.write_outside();
        }
    }

    /// Somebody else changes a row.
    fn write_outside(&mut self) {
        let row = shared(self.chance.below(SHARED_ROWS));
        if self.is_locked(&row, 0) {
            return;
        }
        let xid = self.begin();
        self.lock(&row, xid);
        let mut new = self.row(&row, xid).unwrap_or_default();
        new.list.push(self.next_outside);
        self.next_outside += 1;
        self.write(&row, new, xid);
        let takes = self.chance.pick(&[1, 2, 5, 20, 80]);
        self.commit_at(xid, takes);
    }

    fn replicate(&mut self) {
        if self.standby.frozen || self.now_ms < self.standby.next_ms {
            return;
        }
        self.standby.has = self.wal.len();
        self.standby.next_ms = self.now_ms + self.chance.pick(&[1, 1, 2, 10, 50]);
    }

    /// The standby gets nothing more, or again all that there is. Until then nobody but the nodes commits anything: their flushes do not wait for it.
    pub fn freeze(&mut self, frozen: bool) {
        if frozen && !self.standby.frozen {
            self.standby.has = self.wal.len();
        }
        self.standby.frozen = frozen;
    }

    pub fn is_frozen(&self) -> bool {
        self.standby.frozen
    }

    /// The server is lost. When one starts again, it is the standby, with what it has: what was committed after that never happened there, and other transactions get
    /// the same ids and places in the WAL.
    pub fn fail_over(&mut self) {
        self.stop();
        self.standby.frozen = false;
        self.server.timeline += 1;
        let lost = self.wal.split_off(self.standby.has.min(self.wal.len()));
        let flushes = lost.iter().filter(|entry| {
            let flush = |commit: &Commit| commit.flush.is_some();
            matches!(entry, Entry::Commit(commit) if flush(commit))
        });
        self.lost_flushes += flushes.count() as u64;
        let before = std::mem::replace(&mut self.rows, beginning());
        // Slots are not on the standby.
        self.slot = None;
        self.progress = None;
        self.next_xid = FIRST_XID;
        for entry in &self.wal {
            let Entry::Commit(commit) = entry else {
                continue;
            };
            self.rows.extend(commit.written.iter().cloned());
            if let Some(progress) = &commit.progress {
                self.progress = Some(progress.clone());
            }
            self.next_xid = self.next_xid.max(commit.xid.0 + 1);
        }
        for (row, had) in before {
            let has = self.rows.get(&row).map_or(&[][..], |row| &row.list[..]);
            let lost = had.list.into_iter().filter(|write| !has.contains(write));
            self.lost_writes
                .extend(lost.map(|write| (row.clone(), write)));
        }
        self.news.push(format!(
            "pg fails over to timeline {} at {:?}, has lost {} flushes in all",
            self.server.timeline,
            self.position(),
            self.lost_flushes
        ));
    }

    /// It is there again.
    pub fn start(&mut self) {
        if !self.up {
            self.up = true;
            self.server.started += 1;
        }
    }

    /// It ends, and all that was not committed with it.
    pub fn stop(&mut self) {
        self.up = false;
        self.life += 1;
        self.running.clear();
        self.progress_lock = None;
        self.backends.clear();
        for entry in &mut self.wal {
            if let Entry::Commit(commit) = entry {
                commit.visible = true;
            }
        }
    }
}
