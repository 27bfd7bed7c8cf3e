//! Counts of a shard by table. Reading counts with relaxed atomics of the shard itself, so that threads meet no more than at the shard's lock.

use super::TableBounds;
use super::age::Expiry;
use ripen_pg::ids::TableOid;
use std::collections::BTreeMap;
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
    /// Bytes of rows that cannot be given up now (counted for all tables together).
    pub pinned_bytes: u64,
    /// Rows given up for others (counted for all tables together).
    pub evictions: u64,
    /// Bytes of other nodes' rows (counted for all tables together).
    pub near_bytes: u64,
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
    /// See [`TableBounds`].
    pub expiry: Option<Expiry>,
    bytes: u64,
    share: f64,
    hits: AtomicU64,
    misses: AtomicU64,
}

impl Table {
    fn new() -> Table {
        Table {
            rows: 0,
            expiry: None,
            bytes: 0,
            share: 1.0,
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
        }
    }

    pub fn weigh(&mut self, before: u32, after: u32) {
        self.bytes = self.bytes - u64::from(before) + u64::from(after);
    }

    pub fn bound(&mut self, bounds: &TableBounds) {
        self.share = bounds.memory_share;
        self.expiry = bounds.expiry.map(Expiry::after);
    }

    fn counters(&self) -> Counters {
        Counters {
            rows: self.rows,
            bytes: self.bytes,
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
            pinned_bytes: 0,
            evictions: 0,
            near_bytes: 0,
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

    /// The table, if the shard has ever held a row of it or it has bounds.
    pub fn get(&self, table: TableOid) -> Option<&Table> {
        self.at(table).ok().map(|at| &self.tables[at].1)
    }

    /// Counts a read. `table`: as [`Tables::get`] gave it.
    pub fn read(&self, table: Option<&Table>, hit: bool) {
        let counter = match (table, hit) {
            (Some(table), true) => &table.hits,
            (Some(table), false) => &table.misses,
            (None, _) => &self.misses_elsewhere,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// These tables have bounds, and no others.
    pub fn bound(&mut self, bounds: &BTreeMap<TableOid, TableBounds>) {
        for (table, known) in &mut self.tables {
            if !bounds.contains_key(table) {
                known.bound(&TableBounds::default());
            }
        }
        for (table, bounds) in bounds {
            self.entry(*table).bound(bounds);
        }
    }

    /// Whether rows of any table expire.
    pub fn any_expires(&self) -> bool {
        let mut tables = self.tables.iter();
        tables.any(|(_, table)| table.expiry.is_some())
    }

    /// Whether a table has more than its share of so many bytes.
    pub fn over(&self, table: TableOid, bytes_max: u64) -> bool {
        let over = |table: &Table| table.bytes as f64 > table.share * bytes_max as f64;
        self.get(table).is_some_and(over)
    }

    /// Misses of tables that [`Tables::get`] does not know.
    pub fn misses_elsewhere(&self) -> u64 {
        self.misses_elsewhere.load(Ordering::Relaxed)
    }

    pub fn for_each(&self, mut visit: impl FnMut(TableOid, Counters)) {
        for (table, counted) in &self.tables {
            visit(*table, counted.counters());
        }
    }
}
