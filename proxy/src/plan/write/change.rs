//! SET lists of UPDATE and ON CONFLICT DO UPDATE. Never assigns a column that Postgres checks against other rows.

use super::insert::assigned;
use super::{Assignment, Change, Increment};
use crate::eval::expr::{Expr, Node};
use crate::plan::compile::{Compiled, Compiler, refuse};
use crate::plan::parse::{NodeEnum, inner, items, pb};
use crate::plan::rights::{self, Right};
use ripen_cachestore::catalog::{Column, Relation};
use ripen_pg::value::oid;
use ripen_pg::value::ops::Arithmetic;
use std::collections::BTreeSet;

/// Columns that an UPDATE may assign without Postgres looking at other rows, but for those that a foreign key refers to (`parents.rs`).
fn assignable(table: &Relation, column: &Column) -> Compiled<()> {
    let position = column.position;
    if table.primary_key.contains(&position) {
        return refuse("key-update", "changes the primary key");
    }
    if table.unique_columns.contains(&position) {
        return refuse("unique", "changes a column with another unique constraint");
    }
    if table.referenced_columns.contains(&position) {
        return refuse("foreign-key", "changes a column that other tables refer to");
    }
    if table.expression_columns.contains(&position) {
        return refuse(
            "index-expression",
            "changes a column that an index computes with",
        );
    }
    if column.identity != '\0' {
        return refuse("identity", "changes an identity column");
    }
    Ok(())
}

/// Compiles a SET list with its condition.
pub(super) fn change(
    compiler: &Compiler<'_>,
    table: &Relation,
    targets: &[pb::Node],
    filter: Option<&NodeEnum>,
) -> Compiled<Change> {
    let mut set: Vec<Assignment> = Vec::new();
    for target in items(targets) {
        let assignment = assignment(compiler, table, target)?;
        if set
            .iter()
            .any(|other| other.position == assignment.position)
        {
            return refuse("column", "assigns a column twice");
        }
        set.push(assignment);
    }
    let positions: BTreeSet<usize> = set.iter().map(|assignment| assignment.position).collect();
    rights::check(compiler.names, table, Right::Update, &positions)?;
    set.sort_by_key(|assignment| assignment.position);
    let filter = filter
        .map(|node| compiler.condition(node))
        .transpose()?
        .into_iter()
        .collect();
    Ok(Change { filter, set })
}

fn assignment(compiler: &Compiler<'_>, table: &Relation, node: &NodeEnum) -> Compiled<Assignment> {
    let NodeEnum::ResTarget(target) = node else {
        return refuse("shape", "the SET list is not understood");
    };
    let column = table.column_named(&target.name);
    let value = match inner(&target.val) {
        Some(NodeEnum::MultiAssignRef(part)) => row_item(part),
        other => other,
    };
    let (Some(column), true, Some(node)) = (column, target.indirection.is_empty(), value) else {
        return refuse("column", "assigns something that is not a plain column");
    };
    assignable(table, column)?;
    let expr = assigned(compiler, column, node)?;
    Ok(Assignment {
        position: column.position,
        increment: increment(column, &expr),
        expr,
    })
}

/// What one column gets in `(a, b) = (x, y)`; `None` where that is not a row of as many values.
fn row_item(part: &pb::MultiAssignRef) -> Option<&NodeEnum> {
    let Some(NodeEnum::RowExpr(row)) = inner(&part.source) else {
        return None;
    };
    let fits = usize::try_from(part.ncolumns) == Ok(row.args.len());
    let at = usize::try_from(part.colno).ok()?.checked_sub(1)?;
    row.args.get(at)?.node.as_ref().filter(|_| fits)
}

/// Recognises `column ± amount` where repeating it on another base means the same.
fn increment(column: &Column, expr: &Expr) -> Option<Increment> {
    let sum = match &expr.node {
        // `int2 + int4` is cast back, `numeric + numeric` gets the column's scale.
        Node::Cast(sum, _) | Node::Modify(sum, _) => sum,
        _ => expr,
    };
    let Node::Arithmetic(op, left, right) = &sum.node else {
        return None;
    };
    let is_column = |side: &Expr| matches!(side.node, Node::Column(at) if at == column.position);
    let (base, amount, negative) = match op {
        Arithmetic::Add if is_column(left) => (left, right, false),
        Arithmetic::Add if is_column(right) => (right, left, false),
        Arithmetic::Sub if is_column(left) => (left, right, true),
        _ => return None,
    };
    let integer = |oid| matches!(oid, oid::INT2 | oid::INT4 | oid::INT8);
    let whole = integer(base.type_oid) && integer(amount.type_oid);
    let decimal = base.type_oid == oid::NUMERIC
        && (integer(amount.type_oid) || amount.type_oid == oid::NUMERIC);
    (amount.is_fixed() && (whole || decimal)).then(|| Increment {
        amount: (**amount).clone(),
        negative,
        type_oid: base.type_oid,
        type_modifier: column.type_modifier,
    })
}
