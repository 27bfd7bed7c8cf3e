//! What the log has been told of tables' shapes by the leader, proposals included. Decides when it must be told again; never compares rows.
//!
//! Invariant: everything of a table that is on its way to Postgres has the shape last told.

use crate::change::{Shape, Shapes};
use ripen_cachestore::catalog::{Catalog, Relation};
use ripen_pg::ids::TableOid;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// See the module.
#[derive(Debug, Default)]
pub struct Told {
    tables: HashMap<TableOid, Known>,
}

#[derive(Debug)]
struct Known {
    shape: Arc<Shape>,
    /// The relation that it was last compared with.
    relation: Arc<Relation>,
}

/// Changes of another shape are on their way.
#[derive(Debug, PartialEq, Eq)]
pub struct Undrained;

impl Told {
    /// A change of the table was decided under this catalog. Answers what the log must be told before it.
    /// `logged`: what it knows, if nothing was told yet; `drained`: whether nothing of the table is on its way.
    pub fn tell(
        &mut self,
        catalog: &Catalog,
        table: TableOid,
        logged: impl FnOnce() -> Option<Arc<Shape>>,
        drained: impl FnOnce() -> bool,
    ) -> Result<Option<Shape>, Undrained> {
        let Some(relation) = catalog.relations.get(&table) else {
            return Err(Undrained);
        };
        let known = self.tables.get(&table);
        if known.is_some_and(|known| Arc::ptr_eq(&known.relation, relation)) {
            return Ok(None);
        }
        let told = known.map(|known| known.shape.clone()).or_else(logged);
        let now = Shape::of(catalog, relation);
        let next = match &told {
            Some(told) if told.agrees(&now) => told.with(&now),
            Some(_) if !drained() => return Err(Undrained),
            _ => now,
        };
        let news = (told.as_deref() != Some(&next)).then(|| next.clone());
        let known = Known {
            shape: Arc::new(next),
            relation: relation.clone(),
        };
        self.tables.insert(table, known);
        Ok(news)
    }

    /// Whether the log was told of the table.
    pub fn has(&self, table: TableOid) -> bool {
        self.tables.contains_key(&table)
    }

    /// The log has forgotten the table.
    pub fn forget(&mut self, table: TableOid) {
        self.tables.remove(&table);
    }

    /// Tables of whose rows the bytes mean something else under `new`: those of the log (`logged`) and those that `changed` since `old`.
    pub fn retyped(
        &self,
        mut logged: Shapes,
        old: &Catalog,
        new: &Catalog,
        changed: &HashSet<TableOid>,
    ) -> Vec<TableOid> {
        let shape = |catalog: &Catalog, table: &TableOid| {
            let relation = catalog.relations.get(table)?;
            Some(Arc::new(Shape::of(catalog, relation)))
        };
        let changed = changed
            .iter()
            .filter_map(|table| Some((*table, shape(old, table)?)));
        let told = self.tables.iter();
        let told = told.map(|(table, known)| (*table, known.shape.clone()));
        let mut before: Vec<(TableOid, Arc<Shape>)> = changed.chain(told.clone()).collect();
        // What was told is newer than what the log has applied.
        told.for_each(|(table, _)| drop(logged.remove(&table)));
        before.extend(logged);
        before.retain(|(table, was)| shape(new, table).is_some_and(|now| !was.agrees(&now)));
        let mut tables: Vec<_> = before.into_iter().map(|(table, _)| table).collect();
        tables.sort_unstable();
        tables.dedup();
        tables
    }
}
