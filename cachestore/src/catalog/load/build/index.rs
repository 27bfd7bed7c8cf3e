//! What one index says about its table: the primary key, uniqueness, and what assigning a column may run into. Never asks Postgres.

use super::{FOREIGN_IDENTITY, Result, obstacle, positions};
use crate::catalog::Relation;
use std::collections::{BTreeSet, HashMap};
use tokio_postgres::Row;

/// A row of `sql::INDEXES`.
pub struct Index {
    name: String,
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
    /// Columns by which it finds rows.
    leading: Vec<usize>,
}

impl Index {
    pub fn read(row: &Row, computed_from: &HashMap<u32, BTreeSet<usize>>) -> Result<Index> {
        let keys = row.try_get::<_, i16>(6)? as usize;
        let columns: Vec<i16> = row.try_get(7)?;
        let oid: u32 = row.try_get(1)?;
        let finds: bool = row.try_get(14)?;
        // 0 stands for an expression.
        let leading = columns.iter().take(keys).take_while(|column| **column > 0);
        let leading = leading.filter(|_| finds).copied().collect();
        Ok(Index {
            name: row.try_get(13)?,
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
            leading: positions(leading),
        })
    }

    pub fn note(&self, relation: &mut Relation) {
        relation.indexed_columns.extend(&self.stored);
        if !self.leading.is_empty() {
            relation.indexes.insert(self.leading.clone());
        }
        let computed = self.computed_columns(relation);
        relation.expression_columns.extend(&computed);
        if self.unusual {
            relation.expression_columns.extend(&self.stored);
        }
        if self.primary && self.usable {
            relation.primary_key = self.key.clone();
            // The constraint has the same name always.
            relation.primary_key_name.clone_from(&self.name);
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
