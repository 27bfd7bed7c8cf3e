//! A SELECT whose rows are named by primary key and whose output can be computed exactly. Holds and compiles the form; `eval::read` runs it.

use super::compile::{Compiled, Compiler, Piece, refuse};
use super::facts::Mode;
use super::keyed;
use super::names::Names;
use super::output::outputs;
use super::parse::{NodeEnum, inner, integer_constant, items, pb, strings};
use super::pass::PassPlan;
use super::relation::{cacheable, speak_of};
use super::rights::{self, Right};
use crate::eval::Field;
use crate::eval::bind::ParamType;
use crate::eval::expr::{Comparison, Expr, Node};
use crate::eval::keys::{KeyColumn, KeyTemplate};
use crate::eval::render::Output;
use ripen_cachestore::catalog::Relation;
use ripen_pg::ids::TypeOid;
use ripen_pg::value::oid;
use ripen_pg::value::ops::CastKind;
use std::sync::Arc;

/// See the module.
#[derive(Debug)]
pub struct ReadPlan {
    /// The one table.
    pub table: Arc<Relation>,
    /// Parameter types, as Postgres would infer them.
    pub params: Vec<TypeOid>,
    /// The output columns.
    pub fields: Vec<Field>,
    /// What to do instead when memory cannot answer ([`crate::eval::EvalError::PassThrough`], a fence, a table bypassed).
    pub fallback: Arc<PassPlan>,
    pub(crate) query: ReadQuery,
}

/// The compiled form.
#[derive(Debug)]
pub(crate) struct ReadQuery {
    pub keys: Arc<KeyTemplate>,
    /// Conjuncts that a row must satisfy beside its key.
    pub filter: Vec<Expr>,
    pub outputs: Vec<Output>,
    pub order_by: Vec<SortKey>,
    pub limit: Option<Expr>,
    pub offset: Option<Expr>,
    /// Parts that are the same for all rows and may fail: Postgres evaluates them even when there is no row.
    pub prelude: Vec<Expr>,
    /// Every output is a column, and nothing is filtered, sorted or cut off.
    pub is_plain: bool,
}

/// One ORDER BY item.
#[derive(Clone, Debug)]
pub(crate) struct SortKey {
    pub expr: Expr,
    pub descending: bool,
    pub nulls_first: bool,
}

/// What compiles before the fallback is known.
pub(super) struct Draft {
    pub table: Arc<Relation>,
    pub params: Vec<TypeOid>,
    pub query: ReadQuery,
}

impl Draft {
    pub fn finish(self, fallback: Arc<PassPlan>) -> ReadPlan {
        let outputs = &self.query.outputs;
        ReadPlan {
            table: self.table,
            params: self.params,
            fields: outputs.iter().map(|output| output.field.clone()).collect(),
            fallback,
            query: self.query,
        }
    }
}

/// Compiles a SELECT, or says why not.
pub(super) fn compile(
    names: Names<'_>,
    select: &pb::SelectStmt,
    declared: &[TypeOid],
    mode: &dyn Fn(&Relation) -> Mode,
) -> Compiled<Draft> {
    let var = only_table(select)?;
    let (table, _) = cacheable(names, var, mode)?;
    let mut compiler = Compiler::new(names, declared);
    speak_of(&mut compiler, &table, var)?;
    let conditions = keyed::conditions(&compiler, &table, &select.where_clause)?;
    let filter = conditions
        .rest
        .iter()
        .map(|node| compiler.condition(node))
        .collect::<Compiled<Vec<_>>>()?;
    let outputs = outputs(&compiler, &select.target_list)?;
    let order_by = order_by(&compiler, &select.sort_clause, &outputs)?;
    let limit = limit_value(&compiler, &select.limit_count)?;
    let offset = limit_value(&compiler, &select.limit_offset)?;
    rights::check(names, &table, Right::Select, &compiler.used.borrow())?;
    let (params, decoded) = compiler.params()?;
    let all = filter
        .iter()
        .chain(outputs.iter().map(|output| &output.expr))
        .chain(order_by.iter().map(|key| &key.expr))
        .chain(&limit)
        .chain(&offset);
    if all.clone().any(Expr::needs_now) {
        return refuse("time", "reads the time");
    }
    let prelude = prelude(all);
    let columns_only = outputs
        .iter()
        .all(|output| matches!(output.expr.node, Node::Column(_)));
    let is_plain = columns_only
        && filter.is_empty()
        && order_by.is_empty()
        && limit.is_none()
        && offset.is_none();
    let query = ReadQuery {
        keys: Arc::new(template(decoded, conditions.columns, order_by.is_empty())),
        filter,
        outputs,
        order_by,
        limit,
        offset,
        prelude,
        is_plain,
    };
    drop(compiler);
    Ok(Draft {
        table,
        params,
        query,
    })
}

/// Keys of a statement that names rows by one WHERE clause.
pub(super) fn template(
    params: Vec<ParamType>,
    columns: Vec<KeyColumn>,
    ordered: bool,
) -> KeyTemplate {
    KeyTemplate {
        params: params.into_iter().map(Some).collect(),
        rows: vec![columns],
        distinct: false,
        ordered,
    }
}

fn only_table(select: &pb::SelectStmt) -> Compiled<&pb::RangeVar> {
    let plain = select.distinct_clause.is_empty()
        && select.into_clause.is_none()
        && select.group_clause.is_empty()
        && select.having_clause.is_none()
        && select.window_clause.is_empty()
        && select.values_lists.is_empty()
        && select.with_clause.is_none()
        && select.op == pb::SetOperation::SetopNone as i32
        && select.limit_option != pb::LimitOption::WithTies as i32;
    if !select.locking_clause.is_empty() {
        return refuse("row-locks", "locks rows");
    }
    if !plain {
        return refuse("shape", "is more than rows of one table by key");
    }
    match &select.from_clause[..] {
        [
            pb::Node {
                node: Some(NodeEnum::RangeVar(var)),
            },
        ] => Ok(var),
        [] => refuse("no-table", "reads no table"),
        _ => refuse("join", "reads more than one table"),
    }
}

/// Parts that do not depend on the row and could fail: evaluated before all rows, as Postgres does when it plans.
pub(super) fn prelude<'a>(expressions: impl Iterator<Item = &'a Expr>) -> Vec<Expr> {
    let mut found = Vec::new();
    expressions.for_each(|expr| fixed_parts(expr, &mut found));
    found
}

fn fixed_parts(expr: &Expr, found: &mut Vec<Expr>) {
    match &expr.node {
        Node::Const(_) | Node::Param(_) => {}
        _ if expr.is_fixed() && !expr.needs_now() => found.push(expr.clone()),
        _ => expr
            .children()
            .into_iter()
            .for_each(|child| fixed_parts(child, found)),
    }
}

fn order_by(
    compiler: &Compiler<'_>,
    clause: &[pb::Node],
    outputs: &[Output],
) -> Compiled<Vec<SortKey>> {
    items(clause)
        .map(|node| {
            let NodeEnum::SortBy(sort) = node else {
                return refuse("order", "the order is not understood");
            };
            if !sort.use_op.is_empty() {
                return refuse("order", "names an operator to sort by");
            }
            let expr = sort_expression(compiler, inner(&sort.node), outputs)?;
            compiler.trusted("<")?;
            compiler.trusted(">")?;
            compiler.comparable(Comparison::Lt, &expr, &expr)?;
            let descending = sort.sortby_dir == pb::SortByDir::SortbyDesc as i32;
            let nulls_first = match pb::SortByNulls::try_from(sort.sortby_nulls) {
                Ok(pb::SortByNulls::SortbyNullsFirst) => true,
                Ok(pb::SortByNulls::SortbyNullsLast) => false,
                _ => descending,
            };
            Ok(SortKey {
                expr,
                descending,
                nulls_first,
            })
        })
        .collect()
}

/// An output column's name or number, else an expression over the table's columns.
fn sort_expression(
    compiler: &Compiler<'_>,
    node: Option<&NodeEnum>,
    outputs: &[Output],
) -> Compiled<Expr> {
    let unknown = || super::Reason::new("order", "the order is not understood");
    let node = node.ok_or_else(unknown)?;
    if let NodeEnum::ColumnRef(column) = node
        && let [name] = strings(&column.fields)[..]
    {
        let mut named = outputs.iter().filter(|output| output.field.name == name);
        match (named.next(), named.next()) {
            (Some(output), None) => return Ok(output.expr.clone()),
            (Some(_), Some(_)) => return Err(unknown()),
            (None, _) => {}
        }
    }
    if let NodeEnum::AConst(_) = node {
        let number = integer_constant(node).ok_or_else(unknown)?;
        let index = usize::try_from(number - 1).map_err(|_| unknown())?;
        return Ok(outputs.get(index).ok_or_else(unknown)?.expr.clone());
    }
    match compiler.piece(node, 0)? {
        Piece::Typed(expr) => Ok(expr),
        _ => Err(unknown()),
    }
}

/// LIMIT and OFFSET are bigint.
fn limit_value(compiler: &Compiler<'_>, node: &Option<Box<pb::Node>>) -> Compiled<Option<Expr>> {
    if node.is_none() {
        return Ok(None);
    }
    let piece = compiler.child(node, 0)?;
    let expr = compiler.settle(piece, oid::INT8)?;
    if !expr.is_fixed() {
        return refuse("limit", "LIMIT is not fixed");
    }
    match expr.type_oid {
        oid::INT8 => Ok(Some(expr)),
        oid::INT2 | oid::INT4 => compiler
            .converted(expr, oid::INT8, -1, CastKind::Assignment)
            .map(Some),
        _ => refuse("limit", "LIMIT is not an integer"),
    }
}
