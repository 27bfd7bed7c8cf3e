//! Counts of a shard by table. Reading counts with relaxed atomics of the shard itself, so that threads meet no more than at the shard's lock.

use ripen_pg::ids::TableOid;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counts and sizes of all rows or of a table's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Rows known to exist or not, pending and loading ones included.
    pub rows: u64,
    /// Bytes of them, as the memory bound counts.
    pub bytes: u64,
    /// Reads that memory could answer (fenced reads not counted).
    pub hits: u64,
    /// Reads that it could not.
    pub misses: u64,
    /// Rows given up for others (counted for all tables together).
    pub evictions: u64,
}

impl Counters {
    pub(super) fn add(&mut self, other: &Counters) {
        self.rows += other.rows;
        self.bytes += other.bytes;
        self.hits += other.hits;
        self.misses += other.misses;
    }
}

/// The tables of a shard, ascending.
#[derive(Default)]
pub struct Tables {
    tables: Vec<(TableOid, Table)>,
    misses_elsewhere: AtomicU64,
}

/// One table's part of a shard.
pub struct Table {
    pub rows: u64,
    bytes: u64,
    pub bytes_max: u64,
    hits: AtomicU64,
    misses: AtomicU64,
}

impl Table {
    fn new() -> Table {
        Table {
            rows: 0,
            bytes: 0,
            bytes_max: u64::MAX,
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
        }
    }

    pub fn weigh(&mut self, before: u32, after: u32) {
        self.bytes = self.bytes - u64::from(before) + u64::from(after);
    }

    fn counters(&self) -> Counters {
        Counters {
            rows: self.rows,
            bytes: self.bytes,
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
            evictions: 0,
        }
    }
}

impl Tables {
    fn at(&self, table: TableOid) -> Result<usize, usize> {
        self.tables
            .binary_search_by_key(&table, |(known, _)| *known)
    }

    pub fn entry(&mut self, table: TableOid) -> &mut Table {
        let at = match self.at(table) {
            Ok(at) => at,
            Err(at) => {
                self.tables.insert(at, (table, Table::new()));
                at
            }
        };
        &mut self.tables[at].1
    }

    /// Counts a read.
    pub fn read(&self, table: TableOid, hit: bool) {
        let counter = match (self.at(table), hit) {
            (Ok(at), true) => &self.tables[at].1.hits,
            (Ok(at), false) => &self.tables[at].1.misses,
            (Err(_), _) => &self.misses_elsewhere,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether a table has more than its share.
    pub fn over(&self, table: TableOid) -> bool {
        self.at(table).is_ok_and(|at| {
            let table = &self.tables[at].1;
            table.bytes > table.bytes_max
        })
    }

    /// Misses of tables of which the shard never held a row.
    pub fn misses_elsewhere(&self) -> u64 {
        self.misses_elsewhere.load(Ordering::Relaxed)
    }

    pub fn for_each(&self, mut visit: impl FnMut(TableOid, Counters)) {
        for (table, counted) in &self.tables {
            visit(*table, counted.counters());
        }
    }
}
