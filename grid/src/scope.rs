//! What a statement may touch: the unit of barriers, holds and fences. Widening is always allowed, narrowing never.

use crate::change::RowId;
use ripen_pg::ids::TableOid;
use std::collections::BTreeSet;

/// Rows that a statement names, tables where it does not, everything where nobody knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Touches nothing that is cached.
    Nothing,
    /// Exactly these rows, ascending, each once.
    Rows(Vec<RowId>),
    /// Any row of these tables.
    Tables(BTreeSet<TableOid>),
    /// Anything.
    Everything,
}

impl Scope {
    /// Rows in the order that this type promises.
    pub fn rows(mut rows: Vec<RowId>) -> Scope {
        rows.sort();
        rows.dedup();
        if rows.is_empty() {
            Scope::Nothing
        } else {
            Scope::Rows(rows)
        }
    }

    /// Whether there is nothing in it.
    pub fn is_nothing(&self) -> bool {
        matches!(self, Scope::Nothing)
    }

    /// Whether every row of `other` is in `self`.
    pub fn covers(&self, other: &Scope) -> bool {
        match (self, other) {
            (_, Scope::Nothing) | (Scope::Everything, _) => true,
            (Scope::Rows(mine), Scope::Rows(others)) => {
                others.iter().all(|row| mine.binary_search(row).is_ok())
            }
            (Scope::Tables(mine), Scope::Rows(others)) => {
                others.iter().all(|row| mine.contains(&row.table))
            }
            (Scope::Tables(mine), Scope::Tables(others)) => others.is_subset(mine),
            _ => false,
        }
    }

    /// Whether this row is in it.
    pub fn has(&self, row: &RowId) -> bool {
        match self {
            Scope::Nothing => false,
            Scope::Rows(rows) => rows.binary_search(row).is_ok(),
            Scope::Tables(tables) => tables.contains(&row.table),
            Scope::Everything => true,
        }
    }

    /// Whether any row of the table may be in it.
    pub fn has_table(&self, table: TableOid) -> bool {
        match self {
            Scope::Nothing => false,
            Scope::Rows(rows) => rows.iter().any(|row| row.table == table),
            Scope::Tables(tables) => tables.contains(&table),
            Scope::Everything => true,
        }
    }

    /// The smallest scope of this type that covers both.
    pub fn union(self, other: Scope) -> Scope {
        match (self, other) {
            (Scope::Everything, _) | (_, Scope::Everything) => Scope::Everything,
            (Scope::Nothing, scope) | (scope, Scope::Nothing) => scope,
            (Scope::Rows(mut mine), Scope::Rows(others)) => {
                mine.extend(others);
                Scope::rows(mine)
            }
            (Scope::Tables(mut mine), Scope::Tables(others)) => {
                mine.extend(others);
                Scope::Tables(mine)
            }
            (Scope::Tables(mut tables), Scope::Rows(rows))
            | (Scope::Rows(rows), Scope::Tables(mut tables)) => {
                tables.extend(rows.into_iter().map(|row| row.table));
                Scope::Tables(tables)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ripen_pg::key::Key;

    fn row(table: u32, key: u8) -> RowId {
        RowId {
            table: TableOid(table),
            key: Key::from_bytes(&[key]),
        }
    }

    fn tables(oids: &[u32]) -> Scope {
        Scope::Tables(oids.iter().copied().map(TableOid).collect())
    }

    #[test]
    fn union_covers_both_sides() {
        let scopes = [
            Scope::Nothing,
            Scope::rows(vec![row(1, 1), row(1, 2)]),
            Scope::rows(vec![row(2, 1)]),
            tables(&[1]),
            tables(&[2, 3]),
            Scope::Everything,
        ];
        for left in &scopes {
            for right in &scopes {
                let both = left.clone().union(right.clone());
                assert!(
                    both.covers(left) && both.covers(right),
                    "{left:?} {right:?} {both:?}"
                );
            }
        }
    }

    #[test]
    fn rows_do_not_cover_their_table() {
        assert!(!Scope::rows(vec![row(1, 1)]).covers(&tables(&[1])));
        assert!(tables(&[1]).covers(&Scope::rows(vec![row(1, 1)])));
        assert!(!tables(&[1]).covers(&Scope::Everything));
    }
}
