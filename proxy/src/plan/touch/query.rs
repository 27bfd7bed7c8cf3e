//! The walk over SELECT, INSERT, UPDATE, DELETE and MERGE: WITH scoping, FROM items, row locks. Never looks inside a relation; `relation` does.

use super::Touch;
use super::relation::Access;
use crate::plan::parse::{NodeEnum, inner, items, pb};
use std::collections::BTreeSet;

impl Touch<'_> {
    pub(super) fn select(&mut self, select: &pb::SelectStmt) {
        let outer = self.ctes.len();
        self.with(&select.with_clause);
        for side in [&select.larg, &select.rarg].into_iter().flatten() {
            self.select(side);
        }
        if let Some(into) = &select.into_clause {
            self.made_by_into(into);
        }
        let access = if select.locking_clause.is_empty() {
            Access::Read
        } else {
            self.effects.row_locks = true;
            Access::Lock
        };
        for item in items(&select.from_clause) {
            self.item_of_from(item, &access);
        }
        let lists = [
            &select.target_list,
            &select.distinct_clause,
            &select.group_clause,
            &select.window_clause,
            &select.values_lists,
            &select.sort_clause,
        ];
        lists.into_iter().for_each(|list| self.expressions(list));
        let single = [
            &select.where_clause,
            &select.having_clause,
            &select.limit_offset,
            &select.limit_count,
        ];
        single.into_iter().for_each(|node| self.optional(node));
        self.ctes.truncate(outer);
    }

    /// SELECT INTO and CREATE TABLE AS make the table they name.
    pub(in crate::plan) fn made_by_into(&mut self, into: &pb::IntoClause) {
        self.effects.ddl = true;
        match &into.rel {
            Some(rel) if rel.relpersistence == "t" || rel.schemaname.starts_with("pg_temp") => {
                self.effects.temp_tables = true;
            }
            _ => self.effects.meanings = true,
        }
    }

    fn with(&mut self, clause: &Option<pb::WithClause>) {
        let Some(clause) = clause else { return };
        let ctes: Vec<&pb::CommonTableExpr> = items(&clause.ctes)
            .filter_map(|node| match node {
                NodeEnum::CommonTableExpr(cte) => Some(&**cte),
                _ => None,
            })
            .collect();
        if clause.recursive {
            self.ctes.extend(ctes.iter().map(|cte| cte.ctename.clone()));
        }
        for cte in ctes {
            match inner(&cte.ctequery) {
                Some(query) if self.statement(query) => {}
                _ => self.everything("holds a WITH query that is not understood"),
            }
            if let Some(cycle) = &cte.cycle_clause {
                self.optional(&cycle.cycle_mark_value);
                self.optional(&cycle.cycle_mark_default);
            }
            self.ctes.push(cte.ctename.clone());
        }
    }

    pub(super) fn item_of_from(&mut self, node: &NodeEnum, access: &Access) {
        match node {
            NodeEnum::RangeVar(var) => self.table_of_from(var, access),
            NodeEnum::JoinExpr(join) => {
                for side in [&join.larg, &join.rarg] {
                    if let Some(side) = inner(side) {
                        self.item_of_from(side, access);
                    }
                }
                self.optional(&join.quals);
            }
            NodeEnum::RangeSubselect(sub) => self.subselect_of_from(sub, access),
            NodeEnum::RangeFunction(function) => {
                self.expressions(&function.functions);
                self.column_definitions(&function.coldeflist);
            }
            NodeEnum::RangeTableSample(sample) => {
                if let Some(relation) = inner(&sample.relation) {
                    self.item_of_from(relation, access);
                }
                self.function(&crate::plan::parse::strings(&sample.method));
                self.expressions(&sample.args);
                self.optional(&sample.repeatable);
            }
            other => self.unknown(other),
        }
    }

    fn table_of_from(&mut self, var: &pb::RangeVar, access: &Access) {
        let name = match &var.alias {
            Some(alias) => alias.aliasname.clone(),
            None => var.relname.clone(),
        };
        let is_cte = var.schemaname.is_empty() && self.ctes.contains(&var.relname);
        let relation = if is_cte {
            None
        } else {
            self.touch(var, access)
        };
        let renamed = var
            .alias
            .as_ref()
            .is_some_and(|alias| !alias.colnames.is_empty());
        let relation = relation.filter(|_| !renamed);
        self.aliases.entry(name).or_default().push(relation);
    }

    fn subselect_of_from(&mut self, sub: &pb::RangeSubselect, access: &Access) {
        match inner(&sub.subquery) {
            // FOR UPDATE reaches into subqueries.
            Some(NodeEnum::SelectStmt(select)) if *access == Access::Lock => {
                let mut locked = (**select).clone();
                locked.locking_clause.push(pb::Node { node: None });
                self.select(&locked);
            }
            Some(query) if self.statement(query) => {}
            _ => self.everything("holds a subquery that is not understood"),
        }
        if let Some(alias) = &sub.alias {
            self.aliases
                .entry(alias.aliasname.clone())
                .or_default()
                .push(None);
        }
    }

    fn target(&mut self, var: &Option<pb::RangeVar>, accesses: &[Access]) {
        let Some(var) = var else {
            return self.everything("has no target");
        };
        let mut relation = None;
        for access in accesses {
            relation = self.touch(var, access);
        }
        // One mention, however many kinds of access.
        self.references -= if relation.is_some() {
            accesses.len() - 1
        } else {
            0
        };
        let name = match &var.alias {
            Some(alias) => alias.aliasname.clone(),
            None => var.relname.clone(),
        };
        for name in [name.as_str(), "excluded", "old", "new"] {
            self.aliases
                .entry(name.to_owned())
                .or_default()
                .push(relation.clone());
        }
    }

    /// Positions that a SET list assigns; `None` when the table or a column is not known.
    fn assigned(
        &self,
        var: &Option<pb::RangeVar>,
        targets: &[pb::Node],
    ) -> Option<BTreeSet<usize>> {
        let crate::plan::names::Named::Known { relation, .. } = self.names.relation(var.as_ref()?)
        else {
            return None;
        };
        items(targets)
            .map(|node| match node {
                NodeEnum::ResTarget(target) => Some(relation.column_named(&target.name)?.position),
                _ => None,
            })
            .collect()
    }

    fn returning(&mut self, clause: &Option<pb::ReturningClause>) {
        if let Some(clause) = clause {
            self.expressions(&clause.exprs);
        }
    }

    pub(super) fn insert(&mut self, insert: &pb::InsertStmt) {
        let outer = self.ctes.len();
        self.with(&insert.with_clause);
        let mut accesses = vec![Access::Insert];
        if let Some(conflict) = &insert.on_conflict_clause {
            let columns = self.assigned(&insert.relation, &conflict.target_list);
            if conflict.action == pb::OnConflictAction::OnconflictUpdate as i32 {
                accesses.push(Access::Update(columns));
            }
        }
        self.target(&insert.relation, &accesses);
        self.expressions(&insert.cols);
        if let Some(source) = inner(&insert.select_stmt)
            && !self.statement(source)
        {
            self.everything("inserts from something that is not understood");
        }
        if let Some(conflict) = &insert.on_conflict_clause {
            self.expressions(&conflict.target_list);
            self.optional(&conflict.where_clause);
            if let Some(infer) = &conflict.infer {
                self.expressions(&infer.index_elems);
                self.optional(&infer.where_clause);
            }
        }
        self.returning(&insert.returning_clause);
        self.ctes.truncate(outer);
    }

    pub(super) fn update(&mut self, update: &pb::UpdateStmt) {
        let outer = self.ctes.len();
        self.with(&update.with_clause);
        let columns = self.assigned(&update.relation, &update.target_list);
        self.target(&update.relation, &[Access::Update(columns)]);
        for item in items(&update.from_clause) {
            self.item_of_from(item, &Access::Read);
        }
        self.expressions(&update.target_list);
        self.optional(&update.where_clause);
        self.returning(&update.returning_clause);
        self.ctes.truncate(outer);
    }

    pub(super) fn delete(&mut self, delete: &pb::DeleteStmt) {
        let outer = self.ctes.len();
        self.with(&delete.with_clause);
        self.target(&delete.relation, &[Access::Delete]);
        for item in items(&delete.using_clause) {
            self.item_of_from(item, &Access::Read);
        }
        self.optional(&delete.where_clause);
        self.returning(&delete.returning_clause);
        self.ctes.truncate(outer);
    }

    pub(super) fn merge(&mut self, merge: &pb::MergeStmt) {
        let outer = self.ctes.len();
        self.with(&merge.with_clause);
        self.target(&merge.relation, &[Access::All]);
        if let Some(source) = inner(&merge.source_relation) {
            self.item_of_from(source, &Access::Read);
        }
        self.optional(&merge.join_condition);
        for clause in items(&merge.merge_when_clauses) {
            match clause {
                NodeEnum::MergeWhenClause(when) => {
                    self.optional(&when.condition);
                    self.expressions(&when.target_list);
                    self.expressions(&when.values);
                }
                other => self.unknown(other),
            }
        }
        self.returning(&merge.returning_clause);
        self.ctes.truncate(outer);
    }
}
