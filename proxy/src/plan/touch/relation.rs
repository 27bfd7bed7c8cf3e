//! What touching one relation drags along: views, partitions, foreign keys, triggers. Never looks at expressions.

use super::Touch;
use crate::plan::names::Named;
use crate::plan::parse::pb;
use crate::plan::sequences::SequenceUse;
use ripen_cachestore::catalog::{Column, Relation};
use ripen_pg::ids::TableOid;
use std::collections::BTreeSet;
use std::sync::Arc;

/// What is done to a relation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// SELECT and its kin.
    Read,
    /// Rows come in.
    Insert,
    /// These columns change; `None` when unknown.
    Update(Option<BTreeSet<usize>>),
    /// Rows go.
    Delete,
    /// Rows or the table are locked: whoever relies on that must find every writer in Postgres.
    Lock,
    /// Rules of all kinds above, or the relation itself changes.
    All,
}

impl Touch<'_> {
    /// Touches the relation that a RangeVar names. Gives it back when the catalog knows it.
    pub fn touch(&mut self, var: &pb::RangeVar, access: &Access) -> Option<Arc<Relation>> {
        self.touch_named(self.names.relation(var), access)
    }

    /// See [`Touch::touch`].
    pub fn touch_named(&mut self, named: Named, access: &Access) -> Option<Arc<Relation>> {
        match named {
            Named::Known { relation, sure } => {
                self.references += 1;
                if !sure && self.names.facts.temp_opaque {
                    self.user_code("the name may mean a temporary view");
                }
                self.touch_relation(&relation, access);
                Some(relation)
            }
            Named::Temporary => {
                self.unresolved += 1;
                if self.names.facts.temp_opaque {
                    self.user_code("the name may mean a temporary view");
                }
                None
            }
            Named::System => {
                if *access != Access::Read && *access != Access::Lock {
                    self.everything("writes to system catalogs");
                    self.effects.ddl = true;
                    self.effects.meanings = true;
                    self.effects.rewires = true;
                    self.effects.grants = true;
                }
                None
            }
            Named::Nowhere => None,
            Named::Unknown => {
                self.unresolved += 1;
                self.user_code("the relation is not known yet");
                None
            }
        }
    }

    /// Touches a relation of the catalog.
    pub fn touch_relation(&mut self, relation: &Relation, access: &Access) {
        self.read(relation);
        match access {
            Access::Read => {}
            Access::Lock => self.lock(relation),
            Access::Insert => {
                self.draw(relation);
                self.write(relation, false);
                self.defer(relation);
                self.reads.tables.extend(&relation.parents);
            }
            Access::Update(columns) => {
                let keys = touches(columns, &relation.referenced_columns);
                self.write(relation, keys);
                if touches(columns, &relation.foreign_key_columns) {
                    self.reads.tables.extend(&relation.parents);
                }
                if keys {
                    self.reads.tables.extend(&relation.children);
                }
                let constrained = [&relation.foreign_key_columns, &relation.unique_columns];
                if keys || constrained.iter().any(|those| touches(columns, those)) {
                    self.defer(relation);
                }
            }
            Access::Delete => {
                self.write(relation, true);
                self.defer(relation);
                self.reads.tables.extend(&relation.children);
            }
            Access::All => {
                self.draw(relation);
                self.write(relation, true);
                self.defer(relation);
                self.reads.tables.extend(&relation.parents);
                self.reads.tables.extend(&relation.children);
            }
        }
    }

    /// New rows may take values of sequences.
    fn draw(&mut self, relation: &Relation) {
        let draws = |column: &Column| {
            let named = |text: &String| text.contains("nextval");
            column.sequence.is_some() || column.default.as_ref().is_some_and(named)
        };
        if relation.kind != 'r' || relation.columns.iter().any(draws) {
            self.effects.sequences = self.effects.sequences.max(SequenceUse::Moves);
        }
    }

    fn read(&mut self, relation: &Relation) {
        self.reads.tables.insert(relation.oid);
        self.reads.tables.extend(&relation.read_closure);
        let opaque_below = self
            .known(&relation.read_closure)
            .any(|below| below.opaque_read);
        if relation.opaque_read || opaque_below {
            self.user_code("reading it runs user code");
        }
        // What is behind it may be this very database.
        if self
            .known(&relation.read_closure)
            .any(|below| below.kind == 'f')
        {
            self.read_everything("reads a foreign table");
        }
    }

    fn lock(&mut self, relation: &Relation) {
        self.writes.tables.insert(relation.oid);
        self.writes.tables.extend(&relation.read_closure);
    }

    /// Writes reach partitions, inheritance children, view targets and, when rows go or keys change, whatever cascades reach.
    fn write(&mut self, relation: &Relation, cascades: bool) {
        let cascaded = self.cascaded(relation);
        self.beyond_keys |= cascades && relation.children.contains(&relation.oid);
        let mut reached: BTreeSet<TableOid> = relation.write_closure.clone();
        if !cascades && relation.kind == 'r' {
            reached.retain(|oid| !cascaded.contains(oid) || relation.read_closure.contains(oid));
        }
        reached.insert(relation.oid);
        let below: Vec<Arc<Relation>> = self.known(&reached).collect();
        for other in &below {
            if other.opaque_write {
                self.user_code("writing it runs user code");
            }
            if other.kind == 'f' {
                self.everything("writes a foreign table");
            }
            if other.oid != relation.oid {
                self.defer(other);
                self.reads.tables.extend(&other.parents);
                self.reads.tables.extend(&other.children);
                self.reads.tables.extend(&other.read_closure);
            }
        }
        self.reads.tables.extend(&reached);
        self.writes.tables.extend(reached);
    }

    /// What is checked at COMMIT must be in Postgres then: from now on others write it there, too.
    fn defer(&mut self, relation: &Relation) {
        self.reads.tables.extend(&relation.deferred);
        self.writes.tables.extend(&relation.deferred);
        self.beyond_keys |= relation.deferred.contains(&relation.oid);
    }

    /// Tables that a chain of foreign keys leads to from here, itself left out.
    fn cascaded(&self, relation: &Relation) -> BTreeSet<TableOid> {
        let mut found = BTreeSet::new();
        let mut open: Vec<TableOid> = relation.children.iter().copied().collect();
        while let Some(oid) = open.pop() {
            if oid == relation.oid || !found.insert(oid) {
                continue;
            }
            if let Some(child) = self.names.catalog.relations.get(&oid) {
                open.extend(&child.children);
            }
        }
        found
    }

    fn known<'b>(
        &'b self,
        oids: &'b BTreeSet<TableOid>,
    ) -> impl Iterator<Item = Arc<Relation>> + 'b {
        oids.iter()
            .filter_map(|oid| self.names.catalog.relations.get(oid).cloned())
    }

    /// Every table that TRUNCATE CASCADE, or a lock on all it refers to, would reach.
    pub fn truncate(&mut self, relation: &Relation, cascade: bool) {
        let mut reached = relation.read_closure.clone();
        if cascade {
            reached.extend(self.cascaded(relation));
        }
        reached.insert(relation.oid);
        for table in self.known(&reached.clone()).collect::<Vec<_>>() {
            self.touch_relation(&table, &Access::All);
        }
    }
}

/// Whether a change of these columns (`None`: unknown) may change one of those.
fn touches(columns: &Option<BTreeSet<usize>>, those: &BTreeSet<usize>) -> bool {
    match columns {
        Some(columns) => !columns.is_disjoint(those),
        None => !those.is_empty(),
    }
}
