//! The simulated system of record, server side: transactions with row locks that get into the WAL when they commit and become visible some time after, in whatever
//! order; the progress row; connections that die and leave their transactions behind. Knows no nodes, only backends.

use crate::chance::Chance;
use crate::data::{Row, SHARED_ROWS, all_rows, name, shared};
use crate::mistake::Mistake;
use ripen_cachestore::change::{CommitGroup, FlushSeq, RowId};
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
    pub dead: BTreeMap<FlushSeq, Vec<RowId>>,
    pub backends: BTreeSet<i32>,
    leaving: BTreeSet<(u64, i32)>,
    last_backend: i32,
    /// Numbers of what others write.
    next_outside: u32,
    pub outside: bool,
    /// Told by [`Postgres::step`], for the trace.
    pub news: Vec<String>,
    /// Counts its restarts: a connection of before is lost.
    pub life: u64,
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
    pub visible: bool,
    visible_at: u64,
}

#[derive(Debug, Default)]
pub struct Txn {
    pub rows: BTreeSet<RowId>,
    pub written: Vec<(RowId, Row)>,
    pub progress: Option<Progress>,
    pub flush: Option<FlushSeq>,
    /// COMMIT arrives then.
    pub commit_at: Option<u64>,
    /// Its connection is known to be dead then.
    dies_at: Option<u64>,
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

impl Postgres {
    pub fn new(chance: Chance, mistake: Option<Mistake>) -> Postgres {
        let shared = (0..SHARED_ROWS).map(|key| (shared(key), Row::default()));
        Postgres {
            chance,
            mistake,
            now_ms: 0,
            up: true,
            wal: Vec::new(),
            running: BTreeMap::new(),
            next_xid: FIRST_XID,
            rows: shared.collect(),
            progress: None,
            progress_lock: None,
            dead: BTreeMap::new(),
            backends: BTreeSet::new(),
            leaving: BTreeSet::new(),
            last_backend: 0,
            next_outside: 1,
            outside: true,
            news: Vec::new(),
            life: 0,
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

    /// Carries out the groups of a flush whose rows are locked. Answers the rows of those that are refused.
    pub fn carry_out(&mut self, groups: &[CommitGroup], xid: u64) -> Vec<usize> {
        let mut dead = Vec::new();
        for (at, group) in groups.iter().enumerate() {
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
        let due = |at: Option<u64>| at.is_some_and(|at| at <= now_ms);
        let commits: Vec<u64> = (self.running.iter())
            .filter(|(_, txn)| due(txn.commit_at))
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
        if self.outside && self.chance.one_in(40) {
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
