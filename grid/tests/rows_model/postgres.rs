//! A model of Postgres, as far as rows in memory depend on it: transactions hold row locks, get into the WAL when they commit, and become visible
//! to snapshots some time after that; a transaction that waits for a row's lock goes on only when its holder is visible or gone.

use ripen_cachestore::change::{Change, CommitGroup, FlushSeq, RowId};
use ripen_grid::rows::Moment;
use ripen_pg::ids::{Lsn, Snapshot, Xid};
use ripen_pg::tuple::{Datum, Tuple};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A row of every table here: key, a, b, t (large: the WAL does not repeat it when it is unchanged), and [`Row::group`], by which rows are gathered.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Row {
    pub a: i64,
    pub b: i64,
    pub t: i64,
}

impl Row {
    pub fn group(&self) -> i64 {
        self.t.rem_euclid(2)
    }

    pub fn tuple(&self) -> Tuple {
        let columns = [
            &0i64.to_be_bytes(),
            &self.a.to_be_bytes(),
            &self.b.to_be_bytes(),
            &self.t.to_be_bytes(),
            &self.group().to_be_bytes(),
        ];
        columns
            .into_iter()
            .map(|bytes| Datum::Value(bytes))
            .collect()
    }

    pub fn tuple_without_t(&self) -> Tuple {
        let tuple = self.tuple();
        let column = |at| {
            if at == 3 {
                Datum::Missing
            } else {
                tuple.get(at)
            }
        };
        (0..5).map(column).collect()
    }

    pub fn of(tuple: &Tuple) -> Row {
        let column = |at| int8(tuple.get(at).value().expect("no column is missing"));
        Row {
            a: column(1),
            b: column(2),
            t: column(3),
        }
    }
}

fn int8(bytes: &[u8]) -> i64 {
    i64::from_be_bytes(bytes.try_into().expect("an int8 has 8 bytes"))
}

/// What became of a row, and whether the WAL carries its column t.
#[derive(Clone, Debug)]
pub struct Written {
    pub row: RowId,
    pub after: Option<Row>,
    pub t_changed: bool,
}

#[derive(Clone, Debug)]
pub struct Committed {
    pub xid: Xid,
    pub lsn: Lsn,
    pub flush: Option<FlushSeq>,
    /// Triggers have made more of a flush than it carried, or something else.
    pub fired: bool,
    pub written: Vec<Written>,
    pub visible: bool,
}

#[derive(Clone, Debug)]
pub struct Running {
    pub xid: Xid,
    pub rows: BTreeSet<RowId>,
}

#[derive(Debug)]
pub struct Postgres {
    pub wal: Vec<Committed>,
    pub running: Vec<Running>,
    pub next_xid: u64,
    pub rows: BTreeMap<RowId, Row>,
}

impl Postgres {
    pub fn new(first_xid: u64) -> Postgres {
        Postgres {
            wal: Vec::new(),
            running: Vec::new(),
            next_xid: first_xid,
            rows: BTreeMap::new(),
        }
    }

    pub fn locked(&self, row: &RowId) -> bool {
        let committing = self
            .wal
            .iter()
            .filter(|tx| !tx.visible)
            .flat_map(|tx| &tx.written);
        self.running.iter().any(|tx| tx.rows.contains(row))
            || committing.into_iter().any(|written| &written.row == row)
    }

    /// Begins a transaction that locks these rows, unless one is locked.
    pub fn begin(&mut self, rows: BTreeSet<RowId>) -> Option<Xid> {
        if rows.iter().any(|row| self.locked(row)) {
            return None;
        }
        let xid = Xid(self.next_xid);
        self.next_xid += 1;
        self.running.push(Running { xid, rows });
        Some(xid)
    }

    pub fn abort(&mut self, xid: Xid) {
        self.running.retain(|tx| tx.xid != xid);
    }

    /// Writes the commit into the WAL. Nobody's snapshot sees it yet.
    pub fn commit(&mut self, xid: Xid, flush: Option<FlushSeq>, written: Vec<Written>) {
        self.running.retain(|tx| tx.xid != xid);
        for write in &written {
            match &write.after {
                Some(row) => drop(self.rows.insert(write.row.clone(), row.clone())),
                None => drop(self.rows.remove(&write.row)),
            }
        }
        let lsn = Lsn(100 * (self.wal.len() as u64 + 1));
        self.wal.push(Committed {
            xid,
            lsn,
            flush,
            fired: false,
            written,
            visible: false,
        });
    }

    /// A standby goes on that has only so many of the commits; all that ran has ended. Answers the others.
    pub fn fail_over(&mut self, has: usize) -> Vec<Committed> {
        let lost = self.wal.split_off(has);
        self.running.clear();
        self.rows.clear();
        for written in self.wal.iter_mut().flat_map(|tx| {
            tx.visible = true;
            &tx.written
        }) {
            match &written.after {
                Some(row) => drop(self.rows.insert(written.row.clone(), row.clone())),
                None => drop(self.rows.remove(&written.row)),
            }
        }
        // It gives ids anew that were given to what is lost.
        let last = self.wal.iter().map(|tx| tx.xid.0).max();
        let near = last
            .map(|last| last + 1)
            .filter(|next| self.next_xid - next < 1_000_000);
        self.next_xid = near.unwrap_or(self.next_xid);
        lost
    }

    pub fn snapshot(&self) -> Snapshot {
        let committing = self.wal.iter().filter(|tx| !tx.visible).map(|tx| tx.xid);
        let mut running: Vec<Xid> = self
            .running
            .iter()
            .map(|tx| tx.xid)
            .chain(committing)
            .collect();
        running.sort();
        let xmax = Xid(self.next_xid);
        Snapshot {
            xmin: running.first().copied().unwrap_or(xmax),
            xmax,
            running: running.into(),
        }
    }

    /// As of when a load that runs now reads.
    pub fn moment(&self) -> Arc<Moment> {
        let snapshot = self.snapshot();
        let wal = self.wal.last().map_or(Lsn(0), |tx| tx.lsn);
        Arc::new(Moment { snapshot, wal })
    }

    /// The row as of all that is visible.
    pub fn visible(&self, row: &RowId) -> Option<Row> {
        self.at(row, |tx| tx.visible)
    }

    /// The row as of the transactions chosen.
    pub fn at(&self, row: &RowId, chosen: impl Fn(&Committed) -> bool) -> Option<Row> {
        let written = self
            .wal
            .iter()
            .filter(|tx| chosen(tx))
            .flat_map(|tx| &tx.written);
        written
            .filter(|written| &written.row == row)
            .last()
            .and_then(|written| written.after.clone())
    }

    /// What a flush of these groups writes, and which groups it refuses.
    pub fn flush(&self, groups: &[CommitGroup]) -> (Vec<Written>, Vec<RowId>) {
        let (mut written, mut dead) = (Vec::new(), Vec::new());
        for group in groups {
            let outcomes: Option<Vec<Written>> = group
                .rows
                .iter()
                .map(|change| self.write(&change.row, &change.change))
                .collect();
            match outcomes {
                Some(outcomes) => written.extend(outcomes),
                None => dead.extend(group.rows.iter().map(|change| change.row.clone())),
            }
        }
        (written, dead)
    }

    fn write(&self, row: &RowId, change: &Change) -> Option<Written> {
        let old = self.rows.get(row);
        let after = match (change, old) {
            (Change::Insert { .. }, Some(_)) | (Change::Update { .. }, None) => return None,
            (Change::Insert { image } | Change::Put { image }, _) => Some(Row::of(image)),
            (Change::Delete, _) => None,
            (Change::Update { image, set, add }, Some(old)) => {
                let (mut new, image) = (old.clone(), Row::of(image));
                for position in set {
                    match position {
                        1 => new.a = image.a,
                        2 => new.b = image.b,
                        _ => new.t = image.t,
                    }
                }
                for increment in add {
                    let amount = int8(&increment.amount);
                    match increment.position {
                        1 => new.a += amount,
                        _ => new.b += amount,
                    }
                }
                Some(new)
            }
        };
        Some(Written {
            row: row.clone(),
            after,
            t_changed: true,
        })
    }
}
