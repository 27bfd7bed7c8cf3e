//! Ranges of an integer primary key: `id BETWEEN 10 AND 20`, `id >= 10 AND id < 20`. They name every key between, there or not, as a list of them would. Never weakens a clause: what
//! does not bound the key stays a filter.

use super::compile::{Compiled, Compiler, Piece};
use super::keyed::{self, Conditions};
use super::parse::{NodeEnum, inner, items, operator, pb};
use crate::eval::expr::{Comparison, Expr};
use crate::eval::keys::{Bound, KeyColumn, Operand, Range};
use ripen_cachestore::catalog::Relation;
use ripen_pg::value::oid;

/// By full key, with a range in place of one of its columns if need be.
pub fn conditions<'a>(
    compiler: &Compiler<'_>,
    relation: &Relation,
    clause: &'a Option<Box<pb::Node>>,
) -> Compiled<Conditions<'a>> {
    keyed::conditions(compiler, relation, clause).or_else(|reason| {
        let ranged = ranged(compiler, relation, clause)?;
        ranged.ok_or(reason)
    })
}

/// The key's columns by equality, but for one that is an integer between two bounds. `None`: that is not what the clause says.
pub fn ranged<'a>(
    compiler: &Compiler<'_>,
    relation: &Relation,
    clause: &'a Option<Box<pb::Node>>,
) -> Compiled<Option<Conditions<'a>>> {
    let mut columns: Vec<Option<KeyColumn>> = vec![None; relation.primary_key.len()];
    let mut open = Vec::new();
    for conjunct in keyed::conjuncts(clause) {
        match keyed::key_place(compiler, relation, conjunct)? {
            Some((place, column)) if columns[place].is_none() => columns[place] = Some(column),
            _ => open.push(conjunct),
        }
    }
    let mut missing = (0..columns.len()).filter(|place| columns[*place].is_none());
    let (Some(place), None) = (missing.next(), missing.next()) else {
        return Ok(None);
    };
    let column = keyed::key_expression(compiler, relation, relation.primary_key[place])?;
    if !is_integer(&column) {
        return Ok(None);
    }
    let (mut low, mut high, mut rest) = (None, None, Vec::new());
    for conjunct in open {
        let found = bounds(compiler, relation.primary_key[place], &column, conjunct)?;
        match found {
            Found::Both(from, to) if low.is_none() && high.is_none() => {
                (low, high) = (Some(from), Some(to));
            }
            Found::Low(from) if low.is_none() => low = Some(from),
            Found::High(to) if high.is_none() => high = Some(to),
            _ => rest.push(conjunct),
        }
    }
    let (Some(low), Some(high)) = (low, high) else {
        return Ok(None);
    };
    let range = Operand::Range(Box::new(Range { low, high }));
    columns[place] = Some(keyed::key(&column, range));
    Ok(Some(Conditions {
        columns: columns.into_iter().flatten().collect(),
        rest,
    }))
}

enum Found {
    Nothing,
    Low(Bound),
    High(Bound),
    Both(Bound, Bound),
}

fn is_integer(expr: &Expr) -> bool {
    matches!(expr.type_oid, oid::INT2 | oid::INT4 | oid::INT8)
}

/// What a conjunct says of the column.
fn bounds(
    compiler: &Compiler<'_>,
    position: usize,
    column: &Expr,
    node: &NodeEnum,
) -> Compiled<Found> {
    let NodeEnum::AExpr(expr) = node else {
        return Ok(Found::Nothing);
    };
    let is_column = |node: &_| keyed::position(compiler, node) == Some(position);
    let (left, right) = (is_column(&expr.lexpr), is_column(&expr.rexpr));
    match pb::AExprKind::try_from(expr.kind) {
        Ok(pb::AExprKind::AexprBetween) if left => {
            let Some(NodeEnum::List(list)) = inner(&expr.rexpr) else {
                return Ok(Found::Nothing);
            };
            let [from, to] = &items(&list.items).collect::<Vec<_>>()[..] else {
                return Ok(Found::Nothing);
            };
            let from = bound(compiler, column, (Comparison::Ge, from))?;
            let to = bound(compiler, column, (Comparison::Le, to))?;
            Ok(from
                .zip(to)
                .map_or(Found::Nothing, |(from, to)| Found::Both(from, to)))
        }
        Ok(pb::AExprKind::AexprOp) => {
            let other = if left { &expr.rexpr } else { &expr.lexpr };
            let Some(other) = inner(other).filter(|_| left != right) else {
                return Ok(Found::Nothing);
            };
            let comparison = match (operator(expr), left) {
                (Some("<"), true) | (Some(">"), false) => Comparison::Lt,
                (Some("<="), true) | (Some(">="), false) => Comparison::Le,
                (Some(">"), true) | (Some("<"), false) => Comparison::Gt,
                (Some(">="), true) | (Some("<="), false) => Comparison::Ge,
                _ => return Ok(Found::Nothing),
            };
            let bound = bound(compiler, column, (comparison, other))?;
            Ok(match (bound, comparison) {
                (None, _) => Found::Nothing,
                (Some(bound), Comparison::Lt | Comparison::Le) => Found::High(bound),
                (Some(bound), _) => Found::Low(bound),
            })
        }
        _ => Ok(Found::Nothing),
    }
}

/// The other side of a comparison with the column, if it is an integer that no row has a say in.
fn bound(
    compiler: &Compiler<'_>,
    column: &Expr,
    (comparison, other): (Comparison, &NodeEnum),
) -> Compiled<Option<Bound>> {
    if !keyed::is_fixed(Some(other)) {
        return Ok(None);
    }
    let other = compiler.piece(other, 0)?;
    let test = compiler.compare(comparison, Piece::Typed(column.clone()), other)?;
    let sides = test.children();
    let fixed = sides.into_iter().find(|side| side.is_fixed()).cloned();
    let inclusive = matches!(comparison, Comparison::Le | Comparison::Ge);
    Ok(fixed
        .filter(is_integer)
        .map(|expr| Bound { expr, inclusive }))
}
