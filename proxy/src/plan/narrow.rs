//! The rows that a passed-through statement names by key, so that its scopes need not be whole tables. Never narrows where another row could be touched.

use super::compile::{Compiled, Compiler, refuse};
use super::keyed;
use super::names::{Named, Names};
use super::parse::{NodeEnum, inner, items, mentions, pb};
use super::relation::speak_of;
use super::write::{assigned_key, plain_values};
use crate::eval::keys::{KeyColumn, KeyTemplate};
use ripen_cachestore::catalog::Relation;
use ripen_pg::ids::{TableOid, TypeOid};
use std::collections::BTreeSet;
use std::sync::Arc;

/// The rows that a statement names, if it touches nothing but this table and that once.
#[derive(Clone, Debug)]
pub struct Narrow {
    /// Of this table.
    pub table: TableOid,
    /// These.
    pub keys: Arc<KeyTemplate>,
    /// Whether it reads no other row of it.
    pub reads: bool,
    /// Whether it writes no other row of it.
    pub writes: bool,
}

impl Narrow {
    /// Reads and writes these rows only.
    pub fn both(table: TableOid, keys: Arc<KeyTemplate>) -> Narrow {
        Narrow {
            table,
            keys,
            reads: true,
            writes: true,
        }
    }
}

/// Finds out which rows a statement names, if that is sure.
pub fn of(
    names: Names<'_>,
    statement: &NodeEnum,
    declared: &[TypeOid],
    sql: &str,
) -> Option<Narrow> {
    let found = match statement {
        NodeEnum::SelectStmt(select) => of_select(names, select, declared, sql),
        NodeEnum::UpdateStmt(update) => of_update(names, update, declared, sql),
        NodeEnum::DeleteStmt(delete) => of_delete(names, delete, declared, sql),
        NodeEnum::InsertStmt(insert) => of_insert(names, insert, declared, sql),
        _ => return None,
    };
    found.ok()
}

fn of_select(
    names: Names<'_>,
    select: &pb::SelectStmt,
    declared: &[TypeOid],
    sql: &str,
) -> Compiled<Narrow> {
    let [
        pb::Node {
            node: Some(NodeEnum::RangeVar(var)),
        },
    ] = &select.from_clause[..]
    else {
        return refuse("join", "reads more than one table");
    };
    if select.with_clause.is_some() {
        return refuse("with", "has a WITH clause");
    }
    by_where(names, var, &select.where_clause, declared, sql)
}

fn of_update(
    names: Names<'_>,
    update: &pb::UpdateStmt,
    declared: &[TypeOid],
    sql: &str,
) -> Compiled<Narrow> {
    let Some(var) = &update.relation else {
        return refuse("shape", "has no target");
    };
    let relation = known(names, var)?;
    let mut set = BTreeSet::new();
    for target in items(&update.target_list) {
        let column = match target {
            NodeEnum::ResTarget(target) => relation.column_named(&target.name),
            _ => None,
        };
        let Some(column) = column else {
            return refuse("column", "assigns something that is not a plain column");
        };
        set.insert(column.position);
    }
    let moves = relation
        .primary_key
        .iter()
        .any(|position| set.contains(position));
    if moves || !update.from_clause.is_empty() || update.with_clause.is_some() {
        return refuse("shape", "may touch other rows");
    }
    let narrow = by_where(names, var, &update.where_clause, declared, sql)?;
    Ok(Narrow {
        reads: set.is_disjoint(&relation.unique_columns),
        ..narrow
    })
}

fn of_delete(
    names: Names<'_>,
    delete: &pb::DeleteStmt,
    declared: &[TypeOid],
    sql: &str,
) -> Compiled<Narrow> {
    let Some(var) = &delete.relation else {
        return refuse("shape", "has no target");
    };
    if !delete.using_clause.is_empty() || delete.with_clause.is_some() {
        return refuse("shape", "may touch other rows");
    }
    by_where(names, var, &delete.where_clause, declared, sql)
}

fn of_insert(
    names: Names<'_>,
    insert: &pb::InsertStmt,
    declared: &[TypeOid],
    sql: &str,
) -> Compiled<Narrow> {
    let Some(var) = &insert.relation else {
        return refuse("shape", "has no target");
    };
    let relation = known(names, var)?;
    let other_unique = !relation.unique_columns.is_empty();
    if insert.with_clause.is_some() || other_unique && insert.on_conflict_clause.is_some() {
        return refuse("shape", "may touch other rows");
    }
    let Some(NodeEnum::SelectStmt(values)) = inner(&insert.select_stmt) else {
        return refuse("default-values", "inserts only defaults");
    };
    let compiler = Compiler::new(names, declared);
    let rows = plain_values(values)?
        .map(|row| assigned_key(&compiler, &relation, &insert.cols, row))
        .collect::<Compiled<Vec<_>>>()?;
    Ok(Narrow {
        reads: !other_unique,
        ..narrow(&compiler, &relation, rows, sql)?
    })
}

fn known(names: Names<'_>, var: &pb::RangeVar) -> Compiled<Arc<Relation>> {
    match names.relation(var) {
        Named::Known {
            relation,
            sure: true,
        } if relation.kind == 'r' && !relation.primary_key.is_empty() => Ok(relation),
        _ => refuse("unknown-table", "the table is not known"),
    }
}

fn by_where(
    names: Names<'_>,
    var: &pb::RangeVar,
    clause: &Option<Box<pb::Node>>,
    declared: &[TypeOid],
    sql: &str,
) -> Compiled<Narrow> {
    let relation = known(names, var)?;
    let mut compiler = Compiler::new(names, declared);
    speak_of(&mut compiler, &relation, var)?;
    let columns = keyed::conditions(&compiler, &relation, clause)?.columns;
    narrow(&compiler, &relation, vec![columns], sql)
}

fn narrow(
    compiler: &Compiler<'_>,
    relation: &Relation,
    rows: Vec<Vec<KeyColumn>>,
    sql: &str,
) -> Compiled<Narrow> {
    // Another mention of the parameter could give it another type than its use as a key.
    let params = compiler.key_params(|number| mentions(sql, number) == 1)?;
    let keys = KeyTemplate {
        params,
        rows,
        distinct: false,
        ordered: false,
    };
    Ok(Narrow::both(relation.oid, Arc::new(keys)))
}
