//! Which rows are pending, since when, and which of them a flush takes. Pure and deterministic: replicas that apply the same entries choose the same rows.
//!
//! Invariants: a row's clock starts when it *first* becomes pending and is not reset by later changes; a flush takes whole commit groups, that is,
//! every pending row that shares a group with a row it takes, transitively. What a group ties together stays tied until it is taken.

use crate::change::{Before, RowId};
use crate::hashing::Seeded;
use crate::mistake::Mistake;
use crate::scope::Scope;
use ripen_pg::ids::TableOid;
use std::collections::{BTreeMap, HashMap};

/// Where a row stands in the order of ripening: first pending time in milliseconds, then order of arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Turn {
    /// When it first became pending (unix milliseconds, the log's clock).
    pub first_ms: u64,
    order: u64,
}

#[derive(Debug)]
struct Pending {
    turn: Turn,
    bytes: u64,
    before: Before,
    bond: Option<u64>,
}

/// The schedule. See the module.
#[derive(Debug, Default)]
pub struct Ripening {
    rows: HashMap<RowId, Pending, Seeded>,
    turns: BTreeMap<TableOid, BTreeMap<Turn, RowId>>,
    /// Pending rows that commit groups tie together, directly or over others. At least two each; the numbers mean nothing.
    bonds: HashMap<u64, Vec<RowId>, Seeded>,
    order: u64,
    last_bond: u64,
    bytes: u64,
}

/// A row that a flush took.
#[derive(Clone, Debug, PartialEq)]
pub struct Taken {
    /// Which.
    pub row: RowId,
    /// Its clock, in case the flush fails.
    pub first_ms: u64,
    /// Its bytes.
    pub bytes: u64,
    /// What it was when it first became pending.
    pub before: Before,
}

impl Ripening {
    /// Rows of one commit group changed (each row once), with their bytes and what they were before; each becomes pending now unless it is already.
    pub fn note(&mut self, at_ms: u64, rows: impl IntoIterator<Item = (RowId, u64, Before)>) {
        let mut group = Vec::new();
        for (row, bytes, before) in rows {
            match self.rows.get_mut(&row) {
                Some(_) if Mistake::ResetRipening.is_made() => {
                    let bond = self.remove(&row).and_then(|pending| pending.bond);
                    self.insert(row.clone(), at_ms, bytes, before);
                    self.rows.get_mut(&row).expect("just inserted").bond = bond;
                }
                Some(pending) => {
                    self.bytes = self.bytes - pending.bytes + bytes;
                    pending.bytes = bytes;
                }
                None => self.insert(row.clone(), at_ms, bytes, before),
            }
            group.push(row);
        }
        self.tie(group);
    }

    /// A flush failed: its rows are pending again, tied together as they were, with their old clocks.
    pub fn put_back(&mut self, group: &[Taken]) {
        for taken in group {
            let newer = self.remove(&taken.row);
            let first_ms = newer.as_ref().map_or(taken.first_ms, |newer| {
                newer.turn.first_ms.min(taken.first_ms)
            });
            self.insert(
                taken.row.clone(),
                first_ms,
                taken.bytes,
                taken.before.clone(),
            );
            if let Some(pending) = self.rows.get_mut(&taken.row) {
                pending.bond = newer.and_then(|newer| newer.bond);
            }
        }
        self.tie(group.iter().map(|taken| taken.row.clone()).collect());
    }

    fn insert(&mut self, row: RowId, first_ms: u64, bytes: u64, before: Before) {
        self.order += 1;
        let turn = Turn {
            first_ms,
            order: self.order,
        };
        let turns = self.turns.entry(row.table).or_default();
        turns.insert(turn, row.clone());
        self.bytes += bytes;
        let pending = Pending {
            turn,
            bytes,
            before,
            bond: None,
        };
        self.rows.insert(row, pending);
    }

    /// Ties rows together, and with them all that each was tied to: the smaller bond joins the larger, so a row moves seldom.
    pub fn tie(&mut self, rows: Vec<RowId>) {
        if rows.len() < 2 {
            return;
        }
        let mut one: Option<u64> = None;
        for row in rows {
            let pending = self.rows.get_mut(&row).expect("only pending rows are tied");
            one = Some(match (one, pending.bond) {
                (None, Some(bond)) => bond,
                (None, None) => {
                    self.last_bond += 1;
                    pending.bond = Some(self.last_bond);
                    self.bonds.insert(self.last_bond, vec![row]);
                    self.last_bond
                }
                (Some(one), None) => {
                    pending.bond = Some(one);
                    self.bonds.get_mut(&one).expect("a bond has rows").push(row);
                    one
                }
                (Some(one), Some(other)) => self.join(one, other),
            });
        }
    }

    fn join(&mut self, one: u64, other: u64) -> u64 {
        if one == other {
            return one;
        }
        let size = |bond: &u64| self.bonds[bond].len();
        let (keep, go) = if size(&one) >= size(&other) {
            (one, other)
        } else {
            (other, one)
        };
        let rows = self.bonds.remove(&go).expect("a bond has rows");
        for row in &rows {
            let pending = self.rows.get_mut(row).expect("a bond's rows are pending");
            pending.bond = Some(keep);
        }
        self.bonds
            .get_mut(&keep)
            .expect("a bond has rows")
            .extend(rows);
        keep
    }

    /// Takes rows of the scope that became pending at or before `cutoff_ms`, oldest first, at most about `rows_max` of them (a commit group is never split).
    /// Answers connected groups of rows.
    pub fn take(&mut self, scope: &Scope, cutoff_ms: u64, rows_max: usize) -> Vec<Vec<Taken>> {
        let candidates: Vec<RowId> = match scope {
            Scope::Rows(rows) => {
                let due = |row: &&RowId| {
                    self.rows
                        .get(row)
                        .is_some_and(|pending| pending.turn.first_ms <= cutoff_ms)
                };
                rows.iter().filter(due).cloned().collect()
            }
            _ => self.oldest(scope, cutoff_ms, rows_max),
        };
        let (mut taken, mut count) = (Vec::new(), 0);
        for row in candidates {
            if count >= rows_max {
                break;
            }
            let group = self.take_group(&row);
            count += group.len();
            if !group.is_empty() {
                taken.push(group);
            }
        }
        taken
    }

    fn oldest(&self, scope: &Scope, cutoff_ms: u64, most: usize) -> Vec<RowId> {
        let after = Turn {
            first_ms: cutoff_ms.saturating_add(1),
            order: 0,
        };
        let tables = self
            .turns
            .iter()
            .filter(|(table, _)| scope.has_table(**table));
        let mut due: Vec<_> = tables
            .flat_map(|(_, turns)| turns.range(..after).take(most))
            .collect();
        due.sort_unstable_by_key(|(turn, _)| **turn);
        due.into_iter()
            .take(most)
            .map(|(_, row)| row.clone())
            .collect()
    }

    fn take_group(&mut self, row: &RowId) -> Vec<Taken> {
        let Some(pending) = self.rows.get(row) else {
            return Vec::new();
        };
        let bond = pending.bond.and_then(|bond| self.bonds.remove(&bond));
        let rows = bond.unwrap_or_else(|| vec![row.clone()]);
        rows.into_iter().map(|row| self.take_row(row)).collect()
    }

    fn take_row(&mut self, row: RowId) -> Taken {
        let pending = self.remove(&row).expect("a bond's rows are pending");
        Taken {
            row,
            first_ms: pending.turn.first_ms,
            bytes: pending.bytes,
            before: pending.before,
        }
    }

    fn remove(&mut self, row: &RowId) -> Option<Pending> {
        let pending = self.rows.remove(row)?;
        let turns = self
            .turns
            .get_mut(&row.table)
            .expect("a pending row has its turn");
        turns.remove(&pending.turn);
        if turns.is_empty() {
            self.turns.remove(&row.table);
        }
        self.bytes -= pending.bytes;
        Some(pending)
    }

    /// Whether any row of the scope is pending.
    pub fn has(&self, scope: &Scope) -> bool {
        match scope {
            Scope::Nothing => false,
            Scope::Everything => !self.rows.is_empty(),
            Scope::Rows(rows) => rows.iter().any(|row| self.rows.contains_key(row)),
            Scope::Tables(tables) => tables.iter().any(|table| self.turns.contains_key(table)),
        }
    }

    /// Whether a flush of the scope with this cutoff would still take something.
    pub fn has_due(&self, scope: &Scope, cutoff_ms: u64) -> bool {
        let due = |turn: &Turn| turn.first_ms <= cutoff_ms;
        match scope {
            Scope::Rows(rows) => rows
                .iter()
                .filter_map(|row| self.rows.get(row))
                .any(|pending| due(&pending.turn)),
            _ => self
                .turns
                .iter()
                .filter(|(table, _)| scope.has_table(**table))
                .any(|(_, turns)| turns.keys().next().is_some_and(due)),
        }
    }

    /// When the next row is ripe, given each table's write delay and the rows that do not count.
    pub fn ripe_at(
        &self,
        delay_ms: impl Fn(TableOid) -> u64,
        spared: impl Fn(&RowId) -> bool,
    ) -> Option<u64> {
        let first = |turns: &BTreeMap<Turn, RowId>| {
            let mut turns = turns.iter();
            let first = turns.find(|(_, row)| !spared(row));
            first.map(|(turn, _)| turn.first_ms)
        };
        self.turns
            .iter()
            .filter_map(|(table, turns)| Some(first(turns)?.saturating_add(delay_ms(*table))))
            .min()
    }

    /// Rows at least as old as their table's `age_ms` demands, for a flush whose tables differ in that.
    pub fn older_than(
        &self,
        now_ms: u64,
        age_ms: impl Fn(TableOid) -> u64,
        most: usize,
    ) -> Vec<RowId> {
        let old = |table: TableOid| Turn {
            first_ms: (now_ms + 1).saturating_sub(age_ms(table)),
            order: 0,
        };
        let mut due: Vec<_> = self
            .turns
            .iter()
            .flat_map(|(table, turns)| turns.range(..old(*table)).take(most))
            .collect();
        due.sort_unstable_by_key(|(turn, _)| **turn);
        due.into_iter()
            .take(most)
            .map(|(_, row)| row.clone())
            .collect()
    }

    /// Rows of the scope that became pending at or before `cutoff_ms`, oldest first, without those that are spared.
    pub fn due(
        &self,
        scope: &Scope,
        cutoff_ms: u64,
        spared: impl Fn(&RowId) -> bool,
        most: usize,
    ) -> Vec<RowId> {
        let mut rows = self.oldest(scope, cutoff_ms, usize::MAX);
        rows.retain(|row| scope.has(row) && !spared(row));
        rows.truncate(most);
        rows
    }

    /// Tables with pending rows.
    pub fn tables(&self) -> impl Iterator<Item = (TableOid, usize)> {
        self.turns
            .iter()
            .map(|(table, turns)| (*table, turns.len()))
    }

    /// When a row first became pending.
    pub fn first_ms(&self, row: &RowId) -> Option<u64> {
        self.rows.get(row).map(|pending| pending.turn.first_ms)
    }

    /// All pending rows in the order of their turns, for a snapshot. [`Ripening::put_back`] one by one restores them.
    pub fn in_order(&self) -> Vec<Taken> {
        let mut turns: Vec<_> = self.turns.values().flatten().collect();
        turns.sort_unstable_by_key(|(turn, _)| **turn);
        let taken = |(turn, row): (&Turn, &RowId)| Taken {
            row: row.clone(),
            first_ms: turn.first_ms,
            bytes: self.rows[row].bytes,
            before: self.rows[row].before.clone(),
        };
        turns.into_iter().map(taken).collect()
    }

    /// Rows that commit groups tie together, for a snapshot; ascending by their first rows. [`Ripening::tie`] restores them.
    pub fn tied(&self) -> Vec<&Vec<RowId>> {
        let mut bonds: Vec<&Vec<RowId>> = self.bonds.values().collect();
        bonds.sort_unstable();
        bonds
    }

    /// When the oldest pending row became pending.
    pub fn oldest_ms(&self) -> Option<u64> {
        self.ripe_at(|_| 0, |_| false)
    }

    /// When the youngest pending row became pending; 0 when nothing is.
    pub fn newest_ms(&self) -> u64 {
        let last =
            |turns: &BTreeMap<Turn, RowId>| turns.keys().next_back().map(|turn| turn.first_ms);
        self.turns.values().filter_map(last).max().unwrap_or(0)
    }

    /// Number of pending rows.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether nothing is pending.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Bytes of pending rows.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ripen_pg::ids::TableOid;
    use ripen_pg::key::Key;
    use ripen_pg::tuple::{Datum, Tuple};

    fn row(key: u8) -> RowId {
        RowId {
            table: TableOid(u32::from(key / 100)),
            key: Key::from_bytes(&[key]),
        }
    }

    fn note(ripening: &mut Ripening, at_ms: u64, keys: &[u8]) {
        ripening.note(at_ms, keys.iter().map(|key| (row(*key), 10, Before::Any)));
    }

    fn take(ripening: &mut Ripening, scope: &Scope, cutoff_ms: u64, most: usize) -> Vec<Vec<u8>> {
        let groups = ripening.take(scope, cutoff_ms, most);
        let keys = |group: Vec<Taken>| {
            let mut keys: Vec<u8> = group
                .iter()
                .map(|taken| taken.row.key.as_bytes()[0])
                .collect();
            keys.sort();
            keys
        };
        groups.into_iter().map(keys).collect()
    }

    #[test]
    fn later_changes_do_not_reset_the_clock() {
        let mut ripening = Ripening::default();
        note(&mut ripening, 100, &[1]);
        note(&mut ripening, 900, &[1]);
        assert_eq!(ripening.ripe_at(|_| 1_000, |_| false), Some(1_100));
        assert_eq!((ripening.len(), ripening.bytes()), (1, 10));
    }

    #[test]
    fn a_flush_takes_the_rows_up_to_the_cutoff_and_what_shares_a_group_with_them() {
        let mut ripening = Ripening::default();
        note(&mut ripening, 100, &[1]);
        note(&mut ripening, 200, &[2, 3]);
        note(&mut ripening, 300, &[3, 4]);
        note(&mut ripening, 400, &[5]);
        assert_eq!(
            take(&mut ripening, &Scope::Everything, 200, 100),
            [vec![1], vec![2, 3, 4]]
        );
        assert_eq!(ripening.len(), 1);
    }

    #[test]
    fn a_bound_splits_between_groups_only() {
        let mut ripening = Ripening::default();
        note(&mut ripening, 1, &[1, 2, 3]);
        note(&mut ripening, 2, &[4]);
        assert_eq!(
            take(&mut ripening, &Scope::Everything, 9, 2),
            [vec![1, 2, 3]]
        );
        assert_eq!(take(&mut ripening, &Scope::Everything, 9, 2), [vec![4]]);
    }

    #[test]
    fn a_failed_flush_gives_its_rows_their_old_clocks_back() {
        let mut ripening = Ripening::default();
        note(&mut ripening, 100, &[1, 2]);
        let taken = ripening.take(&Scope::Everything, 100, 10).remove(0);
        note(&mut ripening, 500, &[1]);
        ripening.put_back(&taken);
        assert_eq!(ripening.oldest_ms(), Some(100));
        assert_eq!(
            take(&mut ripening, &Scope::rows(vec![row(1)]), 500, 10),
            [vec![1, 2]]
        );
        assert_eq!(ripening.bytes(), 0);
    }

    #[test]
    fn what_a_row_was_is_what_it_was_before_its_first_change() {
        let mut ripening = Ripening::default();
        let was = |values: &[u8]| Before::Row(Tuple::from_iter([Datum::Value(values)]));
        ripening.note(1, [(row(1), 10, was(b"first"))]);
        ripening.note(2, [(row(1), 10, was(b"second"))]);
        let taken = ripening.take(&Scope::Everything, 9, 9).remove(0);
        assert_eq!(taken[0].before, was(b"first"));
        ripening.note(3, [(row(1), 10, was(b"third"))]);
        // The flush failed: what comes next writes both.
        ripening.put_back(&taken);
        let taken = ripening.take(&Scope::Everything, 9, 9).remove(0);
        assert_eq!(taken[0].before, was(b"first"));
    }

    #[test]
    fn what_is_due_is_what_a_flush_would_take() {
        let mut ripening = Ripening::default();
        note(&mut ripening, 100, &[1]);
        note(&mut ripening, 200, &[101]);
        let (table, rows) = (
            Scope::Tables([TableOid(1)].into()),
            Scope::rows(vec![row(2), row(101)]),
        );
        for scope in [&table, &rows] {
            assert!(!ripening.has_due(scope, 199));
            assert!(ripening.has_due(scope, 200));
        }
        assert!(ripening.has_due(&Scope::Everything, 100));
        assert!(!ripening.has_due(&Scope::Everything, 99));
        ripening.take(&Scope::Everything, 200, 9);
        assert!(!ripening.has_due(&Scope::Everything, 200));
    }

    #[test]
    fn a_scope_leaves_other_tables_alone() {
        let mut ripening = Ripening::default();
        note(&mut ripening, 1, &[1]);
        note(&mut ripening, 1, &[101]);
        let scope = Scope::Tables([TableOid(1)].into());
        assert!(ripening.has(&scope));
        assert_eq!(take(&mut ripening, &scope, 9, 10), [vec![101]]);
        assert!(!ripening.has(&scope));
        assert_eq!(ripening.len(), 1);
    }
}
