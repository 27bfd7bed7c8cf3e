//! What one index says about its table: the primary key, uniqueness, and what assigning a column may run into. Never asks Postgres.

use super::{FOREIGN_IDENTITY, Result, obstacle, positions};
use crate::catalog::Relation;
use std::collections::{BTreeSet, HashMap};
use tokio_postgres::Row;

/// A row of `sql::INDEXES`.
pub struct Index {
    primary: bool,
    unique: bool,
    usable: bool,
    key: Vec<usize>,
    /// Key columns and INCLUDE columns.
    stored: BTreeSet<usize>,
    replica_identity: bool,
    computed: bool,
    whole_row: bool,
    unusual: bool,
    computed_from: BTreeSet<usize>,
    deferrable: bool,
}

impl Index {
    pub fn read(row: &Row, computed_from: &HashMap<u32, BTreeSet<usize>>) -> Result<Index> {
        let keys = row.try_get::<_, i16>(6)? as usize;
        let columns: Vec<i16> = row.try_get(7)?;
        let oid: u32 = row.try_get(1)?;
        Ok(Index {
            primary: row.try_get(2)?,
            unique: row.try_get::<_, bool>(3)? || row.try_get::<_, bool>(4)?,
            usable: row.try_get(5)?,
            key: positions(columns.iter().take(keys).copied().collect()),
            stored: positions(columns).into_iter().collect(),
            replica_identity: row.try_get(8)?,
            computed: row.try_get(9)?,
            whole_row: row.try_get(10)?,
            unusual: row.try_get(11)?,
            computed_from: computed_from.get(&oid).cloned().unwrap_or_default(),
            deferrable: row.try_get(12)?,
        })
    }

    pub fn note(&self, relation: &mut Relation) {
        relation.indexed_columns.extend(&self.stored);
        let computed = self.computed_columns(relation);
        relation.expression_columns.extend(&computed);
        if self.unusual {
            relation.expression_columns.extend(&self.stored);
        }
        if self.primary && self.usable {
            relation.primary_key = self.key.clone();
        } else if self.unique {
            relation.unique_columns.extend(&self.key);
            relation.unique_columns.extend(&computed);
        }
        if self.deferrable {
            relation.deferred.insert(relation.oid);
        }
        if self.replica_identity && !(self.primary && self.usable) {
            obstacle(&mut relation.read_obstacles, FOREIGN_IDENTITY);
        }
    }

    /// What expressions and predicate use; all columns when that is not known.
    fn computed_columns(&self, relation: &Relation) -> BTreeSet<usize> {
        if self.computed && (self.whole_row || self.computed_from.is_empty()) {
            return relation
                .columns
                .iter()
                .map(|column| column.position)
                .collect();
        }
        self.computed_from.clone()
    }
}
