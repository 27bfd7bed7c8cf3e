//! A SELECT whose rows are named by primary key, or as sets, and whose output (of each row, or of all together) can be computed exactly. Holds and compiles the form; `eval::read` runs it.

use super::compile::{Compiled, Compiler, Piece, refuse};
use super::exists;
use super::facts::Mode;
use super::joins::{self, Join};
use super::keyed::{self, Conditions};
use super::names::Names;
use super::output::outputs;
use super::parse::{NodeEnum, inner, integer_constant, items, pb, strings};
use super::pass::PassPlan;
use super::ranges;
use super::relation::{cacheable, speak_of};
use super::rights::{self, Right};
use super::write::Source;
use crate::eval::Field;
use crate::eval::aggregates::Aggregate;
use crate::eval::bind::ParamType;
use crate::eval::expr::{Comparison, Expr, Node};
use crate::eval::keys::{KeyColumn, KeyTemplate};
use crate::eval::render::Output;
use ripen_cachestore::catalog::Relation;
use ripen_grid::rows::sets::SetColumns;
use ripen_pg::ids::TypeOid;
use ripen_pg::value::oid;
use ripen_pg::value::ops::CastKind;
use std::sync::Arc;

/// See the module.
#[derive(Debug)]
pub struct ReadPlan {
    /// The table whose rows are named.
    pub table: Arc<Relation>,
    /// Those whose rows are joined to its, in this order.
    pub joined: Vec<Join>,
    /// Parameter types, as Postgres would infer them.
    pub params: Vec<TypeOid>,
    /// The output columns.
    pub fields: Vec<Field>,
    /// What to do instead when memory cannot answer ([`crate::eval::EvalError::PassThrough`], a fence, a table bypassed).
    pub fallback: Arc<PassPlan>,
    /// How it locks the rows that it answers, if it does. Only a transaction block can be answered such a one: the locks last until its end.
    pub lock: Option<RowLock>,
    /// The columns whose values name sets of rows. `None`: rows are named by their keys.
    pub set: Option<SetColumns>,
    /// The text it was made of, for whoever answers it elsewhere.
    pub source: Source,
    pub(crate) query: ReadQuery,
}

impl ReadPlan {
    /// All its tables; one may be there several times.
    pub fn tables(&self) -> impl Iterator<Item = &Arc<Relation>> {
        let joined = self.joined.iter().map(|join| &join.table);
        std::iter::once(&self.table).chain(joined)
    }

    /// What a client was told of it: table, types of the parameters and of the columns, and how it locks. By another catalog it may be another.
    pub fn shape(&self) -> Vec<u32> {
        let params = self.params.iter().map(|oid| oid.0);
        let fields = self.fields.iter().map(|field| field.type_oid.0);
        let counted = [
            self.table.oid.0,
            self.params.len() as u32,
            u32::from(self.lock.is_some()),
        ];
        let joined = self.joined.iter();
        let joined = joined.flat_map(|join| [join.table.oid.0, u32::from(join.needed)]);
        let all = counted.into_iter().chain(params).chain(fields);
        all.chain(joined).collect()
    }
}

/// FOR UPDATE and its kin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowLock {
    /// Which of them.
    pub strength: Strength,
    /// What about rows that others have locked.
    pub meets: Meets,
}

/// What stands after FOR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strength {
    /// KEY SHARE
    KeyShare,
    /// SHARE
    Share,
    /// NO KEY UPDATE
    NoKeyUpdate,
    /// UPDATE
    Update,
}

/// What is to be done about rows that others have locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meets {
    /// Nothing is said.
    Wait,
    /// NOWAIT
    NoWait,
    /// SKIP LOCKED
    SkipLocked,
}

/// The compiled form.
#[derive(Debug)]
pub(crate) struct ReadQuery {
    /// Of the rows, or of the set.
    pub keys: Arc<KeyTemplate>,
    /// Conjuncts that a row must satisfy beside its key.
    pub filter: Vec<Expr>,
    pub outputs: Vec<Output>,
    pub shape: Shape,
    pub order_by: Vec<SortKey>,
    pub limit: Option<Expr>,
    pub offset: Option<Expr>,
    /// Parts that are the same for all rows and may fail: Postgres evaluates them even when there is no row.
    pub prelude: Vec<Expr>,
}

/// What is made of the rows that satisfy everything.
#[derive(Clone, Debug)]
pub(crate) enum Shape {
    /// Every output is a column, and nothing is filtered, sorted or cut off.
    Plain,
    /// Each is put out.
    Each,
    /// One row of these, of which the outputs are made.
    Together(Vec<Aggregate>),
    /// One row that says whether there is any.
    Whether,
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
    pub lock: Option<RowLock>,
    pub set: Option<SetColumns>,
    pub joined: Vec<Join>,
    pub query: ReadQuery,
}

impl Draft {
    pub fn finish(self, fallback: Arc<PassPlan>, source: Source) -> ReadPlan {
        let outputs = &self.query.outputs;
        ReadPlan {
            table: self.table,
            joined: self.joined,
            params: self.params,
            fields: outputs.iter().map(|output| output.field.clone()).collect(),
            fallback,
            lock: self.lock,
            set: self.set,
            source,
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
    if let Some((asked, name)) = exists::asked(select) {
        let draft = compile(names, asked, declared, mode)?;
        return exists::whether(names, draft, name);
    }
    let Some(var) = only_table(select)? else {
        return joins::compile(names, select, declared, mode);
    };
    let (table, mode) = cacheable(names, var, mode)?;
    let lock = row_lock(names, select, var, (&table, mode))?;
    let mut compiler = Compiler::new(names, declared);
    speak_of(&mut compiler, &table, var)?;
    let (conditions, set) = named(names, &compiler, &table, &select.where_clause)?;
    if set.is_some() && lock.is_some() {
        return refuse("row-locks", "locks rows that are not named by key");
    }
    let (params, query) = query(&compiler, select, conditions, lock.is_some())?;
    drop(compiler);
    Ok(Draft {
        table,
        params,
        lock,
        set,
        joined: Vec::new(),
        query,
    })
}

/// Everything but by what rows are named.
pub(super) fn query(
    compiler: &Compiler<'_>,
    select: &pb::SelectStmt,
    conditions: Conditions<'_>,
    locks: bool,
) -> Compiled<(Vec<TypeOid>, ReadQuery)> {
    let filter = conditions
        .rest
        .iter()
        .map(|node| compiler.condition(node))
        .collect::<Compiled<Vec<_>>>()?;
    let (outputs, aggregates) = compiler.summing(|| outputs(compiler, &select.target_list))?;
    let order_by = order_by(compiler, &select.sort_clause, &outputs)?;
    let limit = limit_value(compiler, &select.limit_count)?;
    let offset = limit_value(compiler, &select.limit_offset)?;
    let whole = order_by.is_empty() && limit.is_none() && offset.is_none();
    if !aggregates.is_empty() && (!whole || locks) {
        return refuse("shape", "sorts, cuts off or locks what is summed up");
    }
    for (place, relation) in compiler.relations().enumerate() {
        let used = compiler.used_of(place);
        rights::check(compiler.names, relation, Right::Select, &used)?;
    }
    let (params, decoded) = compiler.params()?;
    let all = filter
        .iter()
        .chain(outputs.iter().map(|output| &output.expr))
        .chain(
            aggregates
                .iter()
                .filter_map(|aggregate| aggregate.of.as_ref()),
        )
        .chain(order_by.iter().map(|key| &key.expr))
        .chain(&limit)
        .chain(&offset);
    if all.clone().any(Expr::needs_now) {
        return refuse("time", "reads the time");
    }
    joins::one_collation(compiler, all.clone())?;
    let prelude = prelude(all);
    let ordered = order_by.is_empty();
    let columns_only = outputs
        .iter()
        .all(|output| matches!(output.expr.node, Node::Column(_)));
    let (shape, outputs) = match aggregates.is_empty() {
        true if columns_only && filter.is_empty() && whole => (Shape::Plain, outputs),
        true => (Shape::Each, outputs),
        false => (Shape::Together(aggregates), without_origin(outputs)),
    };
    let query = ReadQuery {
        keys: Arc::new(template(decoded, conditions.columns, ordered)),
        filter,
        outputs,
        shape,
        order_by,
        limit,
        offset,
        prelude,
    };
    Ok((params, query))
}

/// By what the WHERE clause names rows: by key, else as a set, else by a range of keys, else as the whole table.
fn named<'a>(
    names: Names<'_>,
    compiler: &Compiler<'_>,
    table: &Relation,
    clause: &'a Option<Box<pb::Node>>,
) -> Compiled<(Conditions<'a>, Option<SetColumns>)> {
    let reason = match keyed::conditions(compiler, table, clause) {
        Ok(conditions) => return Ok((conditions, None)),
        Err(reason) => reason,
    };
    match keyed::gathered(compiler, table, clause)? {
        Some((positions, conditions)) => {
            let types = conditions.columns.iter().map(KeyColumn::key_type);
            let columns = SetColumns::new(positions.into_iter().zip(types));
            Ok((conditions, Some(columns)))
        }
        None => match ranges::ranged(compiler, table, clause)? {
            Some(conditions) => Ok((conditions, None)),
            None if names.catalog.residents.contains(&table.oid) => {
                Ok((keyed::whole(clause), Some(SetColumns::none())))
            }
            None => Err(reason),
        },
    }
}

/// Their columns are those of aggregates, not of the table.
fn without_origin(mut outputs: Vec<Output>) -> Vec<Output> {
    for output in &mut outputs {
        (output.field.table, output.field.attnum) = (0, 0);
    }
    outputs
}

/// The locking clause. Rows are locked here where they are written here, and only as a whole: what a LIMIT leaves out is not locked, and rows that were waited for are not
/// sorted again.
fn row_lock(
    names: Names<'_>,
    select: &pb::SelectStmt,
    var: &pb::RangeVar,
    (table, mode): (&Relation, Mode),
) -> Compiled<Option<RowLock>> {
    let clause = match &select.locking_clause[..] {
        [] => return Ok(None),
        [node] => node.node.as_ref(),
        _ => None,
    };
    let Some(NodeEnum::LockingClause(clause)) = clause else {
        return refuse("row-locks", "locks rows in a way that is not understood");
    };
    let whole = select.sort_clause.is_empty()
        && select.limit_count.is_none()
        && select.limit_offset.is_none();
    if !whole {
        return refuse("row-locks", "locks rows that are sorted or cut off");
    }
    let known = match &var.alias {
        Some(alias) => &alias.aliasname,
        None => &var.relname,
    };
    let named = items(&clause.locked_rels).all(
        |node| matches!(node, NodeEnum::RangeVar(named) if named.schemaname.is_empty() && named.relname == *known),
    );
    if !named {
        return refuse("row-locks", "locks rows of something else");
    }
    if mode != Mode::WriteBehind || !table.write_obstacles.is_empty() {
        return refuse("row-locks", "locks rows that Postgres writes");
    }
    let all = table.columns.iter().map(|column| column.position).collect();
    rights::check(names, table, Right::Update, &all)?;
    let strength = match pb::LockClauseStrength::try_from(clause.strength) {
        Ok(pb::LockClauseStrength::LcsForkeyshare) => Strength::KeyShare,
        Ok(pb::LockClauseStrength::LcsForshare) => Strength::Share,
        Ok(pb::LockClauseStrength::LcsFornokeyupdate) => Strength::NoKeyUpdate,
        Ok(pb::LockClauseStrength::LcsForupdate) => Strength::Update,
        _ => return refuse("row-locks", "locks rows in a way that is not understood"),
    };
    let meets = match pb::LockWaitPolicy::try_from(clause.wait_policy) {
        Ok(pb::LockWaitPolicy::LockWaitBlock) => Meets::Wait,
        Ok(pb::LockWaitPolicy::LockWaitError) => Meets::NoWait,
        Ok(pb::LockWaitPolicy::LockWaitSkip) => Meets::SkipLocked,
        _ => return refuse("row-locks", "locks rows in a way that is not understood"),
    };
    Ok(Some(RowLock { strength, meets }))
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

/// `None`: there are several.
fn only_table(select: &pb::SelectStmt) -> Compiled<Option<&pb::RangeVar>> {
    let plain = select.distinct_clause.is_empty()
        && select.into_clause.is_none()
        && select.group_clause.is_empty()
        && select.having_clause.is_none()
        && select.window_clause.is_empty()
        && select.values_lists.is_empty()
        && select.with_clause.is_none()
        && select.op == pb::SetOperation::SetopNone as i32
        && select.limit_option != pb::LimitOption::WithTies as i32;
    if !plain {
        return refuse("shape", "is more than rows of one table by key");
    }
    match &select.from_clause[..] {
        [
            pb::Node {
                node: Some(NodeEnum::RangeVar(var)),
            },
        ] => Ok(Some(var)),
        [] => refuse("no-table", "reads no table"),
        [
            pb::Node {
                node: Some(NodeEnum::JoinExpr(_)),
            },
        ]
        | [_, _, ..] => Ok(None),
        _ => refuse("join", "reads something else than tables"),
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
