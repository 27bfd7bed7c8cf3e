//! Which rows belong to the database at the moment: cached reads and grid writes of a fenced row go to Postgres.
//!
//! Readers ask while they hold the row's shard lock. Who puts up a fence passes through every shard lock once before it relies on it
//! ([`crate::rows::Rows::pass_through_shards`]), so no reader is between its question and its row. Never waits for anything itself.

use crate::change::RowId;
use crate::hashing::Seeded;
use crate::scope::Scope;
use parking_lot::RwLock;
use ripen_pg::ids::TableOid;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// All fences that stand. Shared by every reader and writer of a node.
#[derive(Debug, Default)]
pub struct Fences {
    standing: AtomicUsize,
    raised: AtomicU64,
    wide: AtomicU64,
    counts: RwLock<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    everything: usize,
    tables: HashMap<TableOid, usize, Seeded>,
    rows: HashMap<RowId, usize, Seeded>,
    /// Tables of those rows.
    of_rows: HashMap<TableOid, usize, Seeded>,
}

impl Fences {
    /// Puts up a fence around the scope. Fences add up: each is taken down on its own.
    pub fn raise(&self, scope: &Scope) {
        let mut counts = self.counts.write();
        counts.change(scope, 1);
        self.note_wide(scope);
        self.raised.fetch_add(1, Ordering::Relaxed);
        self.standing.fetch_add(1, Ordering::SeqCst);
    }

    /// Takes down a fence that was raised with the same scope.
    pub fn lower(&self, scope: &Scope) {
        let mut counts = self.counts.write();
        counts.change(scope, -1);
        self.note_wide(scope);
        self.standing.fetch_sub(1, Ordering::SeqCst);
    }

    /// Whether the row is behind a fence.
    pub fn has(&self, row: &RowId) -> bool {
        if self.standing.load(Ordering::SeqCst) == 0 {
            return false;
        }
        let counts = self.counts.read();
        counts.everything > 0
            || counts.tables.contains_key(&row.table)
            || counts.rows.contains_key(row)
    }

    /// Whether the whole table is behind a fence.
    pub fn has_table(&self, table: TableOid) -> bool {
        if self.standing.load(Ordering::SeqCst) == 0 {
            return false;
        }
        let counts = self.counts.read();
        counts.everything > 0 || counts.tables.contains_key(&table)
    }

    /// Whether any row of the table is behind a fence, or may be: which rows have a value, nobody can say then.
    pub fn has_any_of(&self, table: TableOid) -> bool {
        if self.standing.load(Ordering::SeqCst) == 0 {
            return false;
        }
        let counts = self.counts.read();
        counts.everything > 0
            || counts.tables.contains_key(&table)
            || counts.of_rows.contains_key(&table)
    }

    /// How often fences around everything were put up or taken down: what is not a row and was known before may be another one since.
    pub fn wide_changes(&self) -> u64 {
        self.wide.load(Ordering::SeqCst)
    }

    fn note_wide(&self, scope: &Scope) {
        if matches!(scope, Scope::Everything) {
            self.wide.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Number of fences that were ever put up.
    pub fn raised(&self) -> u64 {
        self.raised.load(Ordering::Relaxed)
    }

    /// Number of fences that stand.
    pub fn standing(&self) -> usize {
        self.standing.load(Ordering::SeqCst)
    }
}

impl Counts {
    fn change(&mut self, scope: &Scope, by: isize) {
        match scope {
            Scope::Nothing => {}
            Scope::Rows(rows) => rows.iter().for_each(|row| {
                count(&mut self.rows, row.clone(), by);
                count(&mut self.of_rows, row.table, by);
            }),
            Scope::Tables(tables) => tables
                .iter()
                .for_each(|table| count(&mut self.tables, *table, by)),
            Scope::Everything => {
                self.everything = self
                    .everything
                    .checked_add_signed(by)
                    .expect("a fence is lowered once")
            }
        }
    }
}

fn count<K: std::hash::Hash + Eq>(map: &mut HashMap<K, usize, Seeded>, key: K, by: isize) {
    use std::collections::hash_map::Entry;
    match map.entry(key) {
        Entry::Occupied(mut entry) => {
            let now = entry
                .get()
                .checked_add_signed(by)
                .expect("a fence is lowered once");
            if now == 0 {
                entry.remove();
            } else {
                *entry.get_mut() = now;
            }
        }
        Entry::Vacant(entry) => {
            assert!(by > 0, "a fence is lowered once");
            entry.insert(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ripen_pg::key::Key;

    #[test]
    fn a_row_stays_fenced_until_the_last_fence_is_down() {
        let row = RowId {
            table: TableOid(1),
            key: Key::from_bytes(b"k"),
        };
        let (narrow, wide) = (
            Scope::rows(vec![row.clone()]),
            Scope::Tables([TableOid(1)].into()),
        );
        let fences = Fences::default();
        fences.raise(&narrow);
        fences.raise(&wide);
        fences.lower(&narrow);
        assert!(fences.has(&row));
        assert!(fences.has_any_of(TableOid(1)));
        fences.lower(&wide);
        assert!(!fences.has(&row) && !fences.has_any_of(TableOid(1)));
        fences.raise(&narrow);
        assert!(fences.has_any_of(TableOid(1)) && !fences.has_any_of(TableOid(2)));
        assert!(!fences.has_table(TableOid(1)));
        fences.lower(&narrow);
        assert!(!fences.has_any_of(TableOid(1)));
        assert_eq!(fences.wide_changes(), 0);
        fences.raise(&Scope::Everything);
        assert!(fences.has(&row));
        fences.lower(&Scope::Everything);
        assert_eq!(fences.wide_changes(), 2);
    }
}
