//! An INSERT, UPDATE or DELETE by key that Postgres cannot refuse unless its outcome, computed here, says so. Holds and compiles the form; `eval::write` runs it.
//!
//! Invariant (P5): whatever could make Postgres refuse the write later (constraints on other rows, triggers, row size, rights) is either excluded here or checked when it runs.

mod change;
mod insert;
mod lines;
mod parents;

pub(super) use insert::assigned_key;
pub(super) use lines::plain_values;

use super::compile::{Compiled, Compiler, Draw, refuse};
use super::facts::Mode;
use super::names::Names;
use super::output::outputs;
use super::parse::{NodeEnum, params_max, parse_expression, pb};
use super::pass::PassPlan;
use super::ranges;
use super::read::{prelude, template};
use super::relation::{appendable, cacheable, speak_of};
use super::rights::{self, Right};
use crate::eval::Field;
use crate::eval::each::Each;
use crate::eval::expr::{Expr, Node};
use crate::eval::keys::{KeyColumn, KeyTemplate};
use crate::eval::render::Output;
use change::change;
use insert::insert_action;
pub(crate) use parents::Parents;
use parents::parents;
use ripen_cachestore::catalog::{Catalog, Relation};
use ripen_pg::ids::TypeOid;
use ripen_pg::value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Bytes that a row's columns may take together so that it surely fits a page of 8 kB once its long values are in TOAST.
const ROW_BYTES_MAX: usize = 7_000;

/// See the module.
#[derive(Debug)]
pub struct WritePlan {
    /// The one table.
    pub table: Arc<Relation>,
    /// Parameter types, as Postgres would infer them.
    pub params: Vec<TypeOid>,
    /// The output columns of RETURNING; `None` when there is no RETURNING.
    pub returning: Option<Vec<Field>>,
    /// Values to be drawn by whoever carries it out, which follow the client's parameters, in binary form; see also [`WritePlan::to_draw`].
    pub draws: Vec<Draw>,
    /// What to do instead when it cannot be queued.
    pub fallback: Arc<PassPlan>,
    /// The text it was made of, for whoever decides it elsewhere.
    pub source: Source,
    pub(crate) query: WriteQuery,
}

impl WritePlan {
    /// What a client was told of it: table, types of the parameters and of RETURNING's columns; and what was drawn for it. By another catalog it may be another.
    pub fn shape(&self) -> Vec<u32> {
        let params = self.params.iter().map(|oid| oid.0);
        let fields = self.returning.iter().flatten();
        let fields = fields.map(|field| field.type_oid.0);
        let drawn = self.draws.iter().map(|draw| draw.source().0);
        let counted = [
            self.table.oid.0,
            self.params.len() as u32,
            self.draws.len() as u32,
        ];
        let counted = counted.into_iter();
        counted.chain(params).chain(drawn).chain(fields).collect()
    }
}

/// A text and what was said of it.
#[derive(Debug)]
pub struct Source {
    /// The text.
    pub sql: String,
    /// Parameter types of the Parse message.
    pub declared: Vec<TypeOid>,
}

impl Source {
    /// A copy of both.
    pub fn new(sql: &str, declared: &[TypeOid]) -> Source {
        Source {
            sql: sql.to_owned(),
            declared: declared.to_vec(),
        }
    }
}

/// The compiled form.
#[derive(Debug)]
pub(crate) struct WriteQuery {
    pub keys: Arc<KeyTemplate>,
    pub action: Action,
    /// The arrays that the one row of an INSERT is repeated for.
    pub each: Option<Each>,
    /// Rows of other tables that must be in Postgres.
    pub parents: Vec<Parents>,
    /// CHECK constraints on the new row.
    pub checks: Vec<Expr>,
    /// Positions that must not be NULL.
    pub not_null: Vec<usize>,
    /// Key columns with the types of their canonical form. None, where the rows have their keys from a draw.
    pub key_columns: Vec<(usize, TypeOid)>,
    pub returning: Option<Vec<Output>>,
    pub prelude: Vec<Expr>,
}

/// What is done to the rows.
#[derive(Debug)]
pub(crate) enum Action {
    /// Rows by position of each live column.
    Insert {
        rows: Vec<BTreeMap<usize, Expr>>,
        conflict: Conflict,
    },
    /// Changes the rows that satisfy the filter.
    Update(Change),
    /// Deletes the rows that satisfy the filter.
    Delete { filter: Vec<Expr> },
}

/// ON CONFLICT.
#[derive(Debug)]
pub(crate) enum Conflict {
    /// Postgres raises the error.
    Error,
    /// DO NOTHING.
    Nothing,
    /// DO UPDATE.
    Update(Change),
}

/// Assignments, and which rows they hold for.
#[derive(Debug)]
pub(crate) struct Change {
    pub filter: Vec<Expr>,
    pub set: Vec<Assignment>,
}

/// `column = expression`.
#[derive(Debug)]
pub(crate) struct Assignment {
    pub position: usize,
    pub expr: Expr,
    /// Set when it is `column = column ± amount`.
    pub increment: Option<Increment>,
}

/// The amount of `column = column ± amount`, fixed for the statement.
#[derive(Debug)]
pub(crate) struct Increment {
    pub amount: Expr,
    pub negative: bool,
    pub type_oid: TypeOid,
    pub type_modifier: i32,
}

/// What compiles before the fallback is known.
pub(super) struct Draft {
    pub table: Arc<Relation>,
    pub params: Vec<TypeOid>,
    pub draws: Vec<Draw>,
    pub query: WriteQuery,
}

impl Draft {
    pub fn finish(self, fallback: Arc<PassPlan>, source: Source) -> WritePlan {
        let fields = |outputs: &Vec<Output>| {
            let fields = outputs.iter().map(|output| output.field.clone());
            fields.collect()
        };
        WritePlan {
            table: self.table,
            params: self.params,
            draws: self.draws,
            returning: self.query.returning.as_ref().map(fields),
            fallback,
            source,
            query: self.query,
        }
    }
}

/// Compiles an INSERT, UPDATE or DELETE, or says why not.
pub(super) fn compile(
    names: Names<'_>,
    statement: &NodeEnum,
    declared: &[TypeOid],
    mode: &dyn Fn(&Relation) -> Mode,
    sql: &str,
) -> Compiled<Draft> {
    let (var, with) = match statement {
        NodeEnum::InsertStmt(insert) => (&insert.relation, &insert.with_clause),
        NodeEnum::UpdateStmt(update) => (&update.relation, &update.with_clause),
        NodeEnum::DeleteStmt(delete) => (&delete.relation, &delete.with_clause),
        _ => return refuse("merge", "this kind of statement goes to Postgres"),
    };
    let Some(var) = var else {
        return refuse("shape", "has no target");
    };
    if with.is_some() {
        return refuse("with", "has a WITH clause");
    }
    let (table, how) = match statement {
        NodeEnum::InsertStmt(_) => appendable(names, var, mode)?,
        _ => cacheable(names, var, mode)?,
    };
    if how != Mode::WriteBehind {
        return refuse("read-through", "writes to the table are synchronous");
    }
    eligible(names.catalog, &table)?;
    let mut compiler = Compiler::new(names, declared);
    speak_of(&mut compiler, &table, var)?;
    let mut each = None;
    let (action, columns, returning) = match statement {
        NodeEnum::InsertStmt(insert) => {
            insert_action(&mut compiler, &table, insert, params_max(sql), &mut each)?
        }
        NodeEnum::UpdateStmt(update) => update_action(&compiler, &table, update)?,
        NodeEnum::DeleteStmt(delete) => delete_action(&compiler, &table, delete)?,
        _ => return refuse("merge", "this kind of statement goes to Postgres"),
    };
    let referred = parents(&compiler, &table, &action, mode)?;
    let returning = returning_outputs(&compiler, returning)?;
    may_select(&compiler, &table, &action)?;
    let (mut params, decoded) = compiler.params()?;
    let draws = compiler.draws();
    params.truncate(match &each {
        Some(each) => each.sent,
        None => params.len() - draws.len(),
    });
    let keys = match columns {
        KeyRows::One(columns) => template(decoded, columns, returning.is_some()),
        KeyRows::Many(rows) => KeyTemplate {
            params: decoded.into_iter().map(Some).collect(),
            rows,
            distinct: true,
            ordered: false,
        },
    };
    let checks = match action {
        Action::Delete { .. } => Vec::new(),
        Action::Insert { .. } | Action::Update(_) => checks(names, &table)?,
    };
    let query = WriteQuery {
        keys: Arc::new(keys),
        parents: referred,
        prelude: prelude(
            action
                .expressions()
                .into_iter()
                .chain(returning.iter().flatten().map(|output| &output.expr)),
        ),
        action,
        each,
        checks,
        not_null: not_null(&table),
        key_columns: key_columns(names.catalog, &table)?,
        returning,
    };
    drop(compiler);
    Ok(Draft {
        table,
        params,
        draws,
        query,
    })
}

enum KeyRows {
    One(Vec<KeyColumn>),
    Many(Vec<Vec<KeyColumn>>),
}

type Compiling<'s> = Compiled<(Action, KeyRows, &'s Option<pb::ReturningClause>)>;

impl Action {
    /// Every expression in it.
    fn expressions(&self) -> Vec<&Expr> {
        match self {
            Action::Insert { rows, conflict } => {
                let mut all: Vec<&Expr> = rows.iter().flat_map(BTreeMap::values).collect();
                if let Conflict::Update(change) = conflict {
                    all.extend(change.expressions());
                }
                all
            }
            Action::Update(change) => change.expressions(),
            Action::Delete { filter } => filter.iter().collect(),
        }
    }
}

impl Change {
    fn expressions(&self) -> Vec<&Expr> {
        let set = self.set.iter().map(|assignment| &assignment.expr);
        self.filter.iter().chain(set).collect()
    }
}

fn eligible(catalog: &Catalog, table: &Relation) -> Compiled<()> {
    if let Some(obstacle) = table.write_obstacles.first().copied() {
        return refuse("obstacle", obstacle);
    }
    if table.columns.iter().any(|column| column.generated != '\0') {
        return refuse("generated", "the table has generated columns");
    }
    // A value of varying length stays in the row up to 24 bytes; fixed ones are aligned.
    let bytes = |type_oid| match catalog.types.get(&type_oid).map(|known| known.length) {
        Some(length) => usize::try_from(length).map_or(24, |fixed| fixed + 7),
        None => 24,
    };
    let columns = table.columns.iter();
    if columns.map(|column| bytes(column.type_oid)).sum::<usize>() > ROW_BYTES_MAX {
        return refuse("wide", "the table has too many columns");
    }
    Ok(())
}

fn update_action<'s>(
    compiler: &Compiler<'_>,
    table: &Relation,
    update: &'s pb::UpdateStmt,
) -> Compiling<'s> {
    if !update.from_clause.is_empty() {
        return refuse("join", "reads other tables");
    }
    let conditions = ranges::conditions(compiler, table, &update.where_clause)?;
    let mut change = change(compiler, table, &update.target_list, None)?;
    for node in &conditions.rest {
        change.filter.push(compiler.condition(node)?);
    }
    Ok((
        Action::Update(change),
        KeyRows::One(conditions.columns),
        &update.returning_clause,
    ))
}

fn delete_action<'s>(
    compiler: &Compiler<'_>,
    table: &Relation,
    delete: &'s pb::DeleteStmt,
) -> Compiling<'s> {
    if !delete.using_clause.is_empty() {
        return refuse("join", "reads other tables");
    }
    if !table.children.is_empty() {
        return refuse("foreign-key", "other tables refer to the table");
    }
    rights::check(compiler.names, table, Right::Delete, &BTreeSet::new())?;
    let conditions = ranges::conditions(compiler, table, &delete.where_clause)?;
    let filter = conditions
        .rest
        .iter()
        .map(|node| compiler.condition(node))
        .collect::<Compiled<Vec<_>>>()?;
    Ok((
        Action::Delete { filter },
        KeyRows::One(conditions.columns),
        &delete.returning_clause,
    ))
}

fn returning_outputs(
    compiler: &Compiler<'_>,
    clause: &Option<pb::ReturningClause>,
) -> Compiled<Option<Vec<Output>>> {
    match clause {
        None => Ok(None),
        Some(clause) if !clause.options.is_empty() => refuse("returning", "RETURNING has options"),
        Some(clause) => outputs(compiler, &clause.exprs).map(Some),
    }
}

/// Reading columns in WHERE, SET or RETURNING needs SELECT on them.
fn may_select(compiler: &Compiler<'_>, table: &Relation, action: &Action) -> Compiled<()> {
    let mut used = compiler.used.borrow().clone();
    if let Action::Insert { conflict, .. } = action
        && !matches!(conflict, Conflict::Error)
    {
        used.extend(&table.primary_key);
    }
    match used.is_empty() {
        true => Ok(()),
        false => rights::check(compiler.names, table, Right::Select, &used),
    }
}

fn checks(names: Names<'_>, table: &Relation) -> Compiled<Vec<Expr>> {
    let unknown = || super::Reason::new("check", "a CHECK constraint is not computed here");
    let mut compiler = Compiler::new(names, &[]);
    compiler.relation = Some(table);
    compiler.qualifier = table.name.clone();
    table
        .checks
        .iter()
        .map(|check| {
            let node = parse_expression(&check.expression).ok_or_else(unknown)?;
            let expr = compiler.condition(&node).map_err(|_| unknown())?;
            let has_params = expr.any(&|node| matches!(node, Node::Param(_)));
            if has_params { Err(unknown()) } else { Ok(expr) }
        })
        .collect()
}

fn not_null(table: &Relation) -> Vec<usize> {
    let columns = table.columns.iter();
    columns
        .filter(|column| column.not_null || table.primary_key.contains(&column.position))
        .map(|column| column.position)
        .collect()
}

fn key_columns(catalog: &Catalog, table: &Relation) -> Compiled<Vec<(usize, TypeOid)>> {
    let types = catalog.key_types(table);
    match types.len() == table.primary_key.len()
        && types.iter().all(|oid| value::key::keyable(*oid))
    {
        true => Ok(table.primary_key.iter().copied().zip(types).collect()),
        false => refuse("key", "the key's type has no canonical form"),
    }
}
