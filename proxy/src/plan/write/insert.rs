//! INSERT: rows with their defaults, and ON CONFLICT on the primary key. Never accepts a row whose key is not known before it is run.

use super::change::change;
use super::lines::{Given, lines};
use super::{Action, Compiling, Conflict, KeyRows};
use crate::eval::each::Each;
use crate::eval::expr::{Expr, Node, Repr};
use crate::eval::keys::{KeyColumn, Operand};
use crate::plan::compile::{Compiled, Compiler, Draw, Piece, refuse};
use crate::plan::parse::{NodeEnum, inner, items, parse_expression, pb, strings};
use crate::plan::reason::Reason;
use crate::plan::rights::{self, Right};
use crate::plan::sequences;
use ripen_cachestore::catalog::{Column, Relation};
use ripen_pg::value::oid;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

pub(super) fn insert_action<'s>(
    compiler: &mut Compiler<'_>,
    table: &Relation,
    insert: &'s pb::InsertStmt,
    params: usize,
    each: &mut Option<Each>,
) -> Compiling<'s> {
    insertable(table, insert)?;
    let lines = match inner(&insert.select_stmt) {
        Some(NodeEnum::SelectStmt(select)) => Some(lines(compiler, select, params)?),
        _ => None,
    };
    compiler.allow_draws(params);
    let (columns, rows) = match lines {
        Some(lines) => {
            *each = lines.each;
            let columns = insert_columns(table, &insert.cols)?;
            let mut rows = Vec::new();
            for line in lines.lines {
                compiler.listed = line.listed;
                rows.push(insert_row(compiler, table, &columns, &line.values)?);
            }
            compiler.listed = None;
            (columns, rows)
        }
        // DEFAULT VALUES.
        None => (
            Vec::new(),
            vec![with_defaults(compiler, table, BTreeMap::new())?],
        ),
    };
    let place = match table.appends() {
        true => Some(compiler.draw(Draw::Place)?),
        false => None,
    };
    compiler.end_draws();
    if insert.returning_clause.is_none() && compiler.draws_sequence() {
        // Who does not let it be returned may ask by `currval`, in a statement that is Postgres's.
        return refuse("sequence", "draws from a sequence and has no RETURNING");
    }
    if rows.is_empty() {
        return refuse("shape", "inserts no row");
    }
    let all: BTreeSet<usize> = columns.iter().map(|column| column.position).collect();
    rights::check(compiler.names, table, Right::Insert, &all)?;
    let conflict = conflict(compiler, table, &insert.on_conflict_clause)?;
    let keys = match place {
        Some(place) => (0..rows.len())
            .map(|index| appended(&place, index))
            .collect(),
        None => rows
            .iter()
            .map(|row| key_row(table, row))
            .collect::<Compiled<Vec<_>>>()?,
    };
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
    if !table.expression_columns.is_empty() {
        return refuse("index-expression", "an index computes with columns");
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

/// All live columns of one row: what the statement gives, else the default.
fn insert_row(
    compiler: &Compiler<'_>,
    table: &Relation,
    columns: &[&Column],
    row: &[Given<'_>],
) -> Compiled<BTreeMap<usize, Expr>> {
    if row.is_empty() || row.len() > columns.len() {
        return refuse("shape", "has more values than columns");
    }
    let mut values = BTreeMap::new();
    for (column, given) in columns.iter().zip(row) {
        if column.identity == 'a' && !matches!(given, Given::Node(NodeEnum::SetToDefault(_))) {
            return refuse("identity", "the column takes generated values only");
        }
        let value = match given {
            Given::Node(node) => assigned(compiler, column, node)?,
            Given::Element(element) => compiler.assigned(Piece::Typed(element.clone()), column)?,
        };
        values.insert(column.position, value);
    }
    with_defaults(compiler, table, values)
}

/// The row, with a default for each column that has no value yet.
fn with_defaults(
    compiler: &Compiler<'_>,
    table: &Relation,
    mut values: BTreeMap<usize, Expr>,
) -> Compiled<BTreeMap<usize, Expr>> {
    for column in &table.columns {
        if let Entry::Vacant(entry) = values.entry(column.position) {
            entry.insert(default(compiler, column)?);
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
            values.insert(*position, default(compiler, column)?);
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
        return default(compiler, column);
    }
    let piece = match sequences::next(compiler.names, node) {
        Some(sequence) => Piece::Typed(compiler.draw_from(sequence, true)?),
        None => compiler.piece(node, 0)?,
    };
    compiler.assigned(piece, column)
}

/// The column's default. It is compiled without any column in sight.
fn default(compiler: &Compiler<'_>, column: &Column) -> Compiled<Expr> {
    let unknown = || Reason::new("default", "a default is not computed here");
    if column.identity != '\0' {
        let sequence = column.sequence.ok_or_else(unknown)?;
        let drawn = compiler.draw_from(sequence, false)?;
        return compiler.assigned(Piece::Typed(drawn), column);
    }
    let names = compiler.names;
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
    if let Some(drawn) = drawn(compiler, column, &node)? {
        return compiler.assigned(Piece::Typed(drawn), column);
    }
    let alone = Compiler::new(names, &[]);
    let piece = alone.piece(&node, 0).map_err(|_| unknown())?;
    let expr = alone.assigned(piece, column).map_err(|_| unknown())?;
    match alone.params()?.0.is_empty() {
        true => Ok(expr),
        false => Err(unknown()),
    }
}

/// A default that is drawn: `nextval` of the one sequence that the default depends on, or a random UUID.
fn drawn(compiler: &Compiler<'_>, column: &Column, node: &NodeEnum) -> Compiled<Option<Expr>> {
    let NodeEnum::FuncCall(call) = node else {
        return Ok(None);
    };
    let builtin = |name: &str| {
        let candidates = compiler.names.functions(&[name]);
        !candidates.is_empty() && candidates.iter().all(|known| known.builtin)
    };
    match (
        &strings(&call.funcname)[..],
        &call.args[..],
        column.sequence,
    ) {
        (["nextval"], [_], Some(sequence)) if builtin("nextval") => {
            compiler.draw_from(sequence, true).map(Some)
        }
        (["gen_random_uuid"], [], _) if builtin("gen_random_uuid") => {
            compiler.draw(Draw::Uuid).map(Some)
        }
        _ => Ok(None),
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

/// The key of a row that has none: the statement's place, and the row's number in it.
fn appended(place: &Expr, index: usize) -> Vec<KeyColumn> {
    let number = Expr {
        type_oid: oid::INT8,
        node: Node::Const(Some((index as i64).to_be_bytes().to_vec())),
        ..place.clone()
    };
    let column = |expr: Expr| KeyColumn {
        type_oid: expr.type_oid,
        repr: expr.repr.clone(),
        order: None,
        operand: Operand::One(expr),
    };
    vec![column(place.clone()), column(number)]
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

/// Whether the conflict target is exactly the primary key, by column names or as a constraint.
fn is_primary_key(
    compiler: &Compiler<'_>,
    table: &Relation,
    infer: &pb::InferClause,
) -> Compiled<()> {
    if !infer.conname.is_empty() {
        return match infer.conname == table.primary_key_name {
            true => Ok(()),
            false => refuse("conflict", "the conflict target is not the primary key"),
        };
    }
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
    match infer.where_clause.is_none() && named == key {
        true => Ok(()),
        false => refuse("conflict", "the conflict target is not the primary key"),
    }
}
