//! INSERT … VALUES: rows with their defaults, and ON CONFLICT on the primary key. Never accepts a row whose key is not known before it is run.

use super::change::change;
use super::{Action, Compiling, Conflict, KeyRows};
use crate::eval::expr::{Expr, Node, Repr};
use crate::eval::keys::{KeyColumn, Operand};
use crate::plan::compile::{Compiled, Compiler, refuse};
use crate::plan::names::Names;
use crate::plan::parse::{NodeEnum, inner, items, parse_expression, pb};
use crate::plan::reason::Reason;
use crate::plan::rights::{self, Right};
use ripen_cachestore::catalog::{Column, Relation};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

pub(super) fn insert_action<'s>(
    compiler: &mut Compiler<'_>,
    table: &Relation,
    insert: &'s pb::InsertStmt,
) -> Compiling<'s> {
    insertable(table, insert)?;
    let columns = insert_columns(table, &insert.cols)?;
    let Some(NodeEnum::SelectStmt(values)) = inner(&insert.select_stmt) else {
        return refuse("default-values", "inserts only defaults");
    };
    let rows = plain_values(values)?;
    let rows = rows
        .map(|row| insert_row(compiler, table, &columns, row))
        .collect::<Compiled<Vec<_>>>()?;
    if rows.is_empty() {
        return refuse("shape", "inserts no row");
    }
    let all: BTreeSet<usize> = columns.iter().map(|column| column.position).collect();
    rights::check(compiler.names, table, Right::Insert, &all)?;
    let conflict = conflict(compiler, table, &insert.on_conflict_clause)?;
    let keys = rows
        .iter()
        .map(|row| key_row(table, row))
        .collect::<Compiled<Vec<_>>>()?;
    let action = Action::Insert { rows, conflict };
    Ok((action, KeyRows::Many(keys), &insert.returning_clause))
}

fn insertable(table: &Relation, insert: &pb::InsertStmt) -> Compiled<()> {
    if insert.r#override != pb::OverridingKind::OverridingNotSet as i32 {
        return refuse("identity", "overrides an identity column");
    }
    if !table.unique_columns.is_empty() {
        return refuse("unique", "the table has another unique constraint");
    }
    if !table.foreign_key_columns.is_empty() || !table.parents.is_empty() {
        return refuse("foreign-key", "the table refers to others");
    }
    if !table.expression_columns.is_empty() {
        return refuse("index-expression", "an index computes with columns");
    }
    if table.columns.iter().any(|column| column.identity != '\0') {
        return refuse("identity", "the table has an identity column");
    }
    Ok(())
}

fn insert_columns<'t>(table: &'t Relation, names: &[pb::Node]) -> Compiled<Vec<&'t Column>> {
    if names.is_empty() {
        return Ok(table.columns.iter().collect());
    }
    let mut seen = BTreeSet::new();
    items(names)
        .map(|node| match node {
            NodeEnum::ResTarget(target) if target.indirection.is_empty() => {
                let column = table.column_named(&target.name);
                column
                    .filter(|column| seen.insert(column.position))
                    .ok_or_else(|| Reason::new("column", "names no column, or one twice"))
            }
            _ => refuse("column", "assigns a part of a column"),
        })
        .collect()
}

/// The rows of a plain VALUES.
pub(in crate::plan) fn plain_values(
    select: &pb::SelectStmt,
) -> Compiled<impl Iterator<Item = &[pb::Node]>> {
    let plain = pb::SelectStmt {
        limit_option: select.limit_option,
        op: pb::SetOperation::SetopNone as i32,
        values_lists: select.values_lists.clone(),
        ..Default::default()
    };
    if *select != plain || select.values_lists.is_empty() {
        return refuse("insert-select", "inserts the result of a query");
    }
    Ok(items(&select.values_lists).map(|row| match row {
        NodeEnum::List(row) => &row.items[..],
        _ => &[],
    }))
}

/// All live columns of one row: what the statement gives, else the default.
fn insert_row(
    compiler: &Compiler<'_>,
    table: &Relation,
    columns: &[&Column],
    row: &[pb::Node],
) -> Compiled<BTreeMap<usize, Expr>> {
    if row.is_empty() || row.len() > columns.len() {
        return refuse("shape", "has more values than columns");
    }
    let mut values = BTreeMap::new();
    for (column, node) in columns.iter().zip(items(row)) {
        values.insert(column.position, assigned(compiler, column, node)?);
    }
    for column in &table.columns {
        if let Entry::Vacant(entry) = values.entry(column.position) {
            entry.insert(default(compiler.names, column)?);
        }
    }
    if values.values().any(|value| !value.is_fixed()) {
        return refuse("shape", "VALUES names a column");
    }
    Ok(values)
}

/// The key columns' values in one row of VALUES.
pub(in crate::plan) fn assigned_key(
    compiler: &Compiler<'_>,
    table: &Relation,
    names: &[pb::Node],
    row: &[pb::Node],
) -> Compiled<Vec<KeyColumn>> {
    let columns = insert_columns(table, names)?;
    let mut values = BTreeMap::new();
    for (column, node) in columns.iter().zip(items(row)) {
        if table.primary_key.contains(&column.position) {
            values.insert(column.position, assigned(compiler, column, node)?);
        }
    }
    for position in &table.primary_key {
        if let (Some(column), false) = (table.column(*position), values.contains_key(position)) {
            values.insert(*position, default(compiler.names, column)?);
        }
    }
    key_row(table, &values)
}

/// An expression, or DEFAULT, made to fit a column.
pub(super) fn assigned(
    compiler: &Compiler<'_>,
    column: &Column,
    node: &NodeEnum,
) -> Compiled<Expr> {
    if let NodeEnum::SetToDefault(_) = node {
        return default(compiler.names, column);
    }
    let piece = compiler.piece(node, 0)?;
    compiler.assigned(piece, column)
}

/// The column's default. It is compiled without any column in sight.
fn default(names: Names<'_>, column: &Column) -> Compiled<Expr> {
    let compiler = Compiler::new(names, &[]);
    let unknown = || Reason::new("default", "a default is not computed here");
    let Some(text) = &column.default else {
        // A domain may have a default, or a NOT NULL, of its own.
        if names.catalog.base_type(column.type_oid) != column.type_oid {
            return Err(unknown());
        }
        return Ok(Expr {
            type_oid: column.type_oid,
            type_modifier: -1,
            repr: Repr::Raw,
            order: None,
            node: Node::Const(None),
        });
    };
    let node = parse_expression(text).ok_or_else(unknown)?;
    let piece = compiler.piece(&node, 0).map_err(|_| unknown())?;
    let expr = compiler.assigned(piece, column).map_err(|_| unknown())?;
    match compiler.params()?.0.is_empty() {
        true => Ok(expr),
        false => Err(unknown()),
    }
}

fn key_row(table: &Relation, row: &BTreeMap<usize, Expr>) -> Compiled<Vec<KeyColumn>> {
    table
        .primary_key
        .iter()
        .map(|position| {
            let expr = row.get(position).filter(|expr| !expr.needs_now());
            let Some(expr) = expr else {
                return refuse("key", "the key is not known beforehand");
            };
            Ok(KeyColumn {
                type_oid: expr.type_oid,
                repr: expr.repr.clone(),
                order: None,
                operand: Operand::One(expr.clone()),
            })
        })
        .collect()
}

fn conflict(
    compiler: &mut Compiler<'_>,
    table: &Relation,
    clause: &Option<Box<pb::OnConflictClause>>,
) -> Compiled<Conflict> {
    let Some(clause) = clause else {
        return Ok(Conflict::Error);
    };
    if let Some(infer) = &clause.infer {
        is_primary_key(compiler, table, infer)?;
    }
    match pb::OnConflictAction::try_from(clause.action) {
        Ok(pb::OnConflictAction::OnconflictNothing) => Ok(Conflict::Nothing),
        // Postgres calls that ambiguous.
        Ok(pb::OnConflictAction::OnconflictUpdate) if compiler.qualifier == "excluded" => refuse(
            "conflict",
            "the table goes by the name of the row that was to be inserted",
        ),
        Ok(pb::OnConflictAction::OnconflictUpdate) if clause.infer.is_some() => {
            compiler.excluded = true;
            let change = change(
                compiler,
                table,
                &clause.target_list,
                inner(&clause.where_clause),
            );
            compiler.excluded = false;
            change.map(Conflict::Update)
        }
        _ => refuse("conflict", "the ON CONFLICT clause is not understood"),
    }
}

/// Whether the conflict target is exactly the primary key, by column names.
fn is_primary_key(
    compiler: &Compiler<'_>,
    table: &Relation,
    infer: &pb::InferClause,
) -> Compiled<()> {
    let mut named = BTreeSet::new();
    for element in items(&infer.index_elems) {
        match element {
            NodeEnum::IndexElem(element)
                if element.expr.is_none()
                    && element.collation.is_empty()
                    && element.opclass.is_empty() =>
            {
                named.extend(
                    table
                        .column_named(&element.name)
                        .map(|column| column.position),
                );
            }
            _ => return refuse("conflict", "the conflict target is not the primary key"),
        }
    }
    compiler.used.borrow_mut().extend(&named);
    let key: BTreeSet<usize> = table.primary_key.iter().copied().collect();
    match infer.where_clause.is_none() && infer.conname.is_empty() && named == key {
        true => Ok(()),
        false => refuse("conflict", "the conflict target is not the primary key"),
    }
}
