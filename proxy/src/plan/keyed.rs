//! Which rows a WHERE clause names: by full primary key, or as a set, by the leading columns of an index, or of a resident table all (by ranges: `ranges.rs`). Never weakens it: what does not name them stays a filter.

use super::compile::{Compiled, Compiler, Piece, refuse};
use super::parse::{NodeEnum, inner, items, operator, pb};
use crate::eval::expr::{Comparison, Expr, Repr};
use crate::eval::keys::{KeyColumn, Operand};
use ripen_cachestore::catalog::Relation;
use ripen_pg::ids::TypeOid;
use ripen_pg::value::{self, oid};
use std::collections::{BTreeMap, BTreeSet};

/// A WHERE clause taken apart.
pub struct Conditions<'a> {
    /// In index order.
    pub columns: Vec<KeyColumn>,
    /// Everything else.
    pub rest: Vec<&'a NodeEnum>,
}

/// Finds the full key in a WHERE clause. All but the key is left as it is, uncompiled.
pub fn conditions<'a>(
    compiler: &Compiler<'_>,
    relation: &Relation,
    clause: &'a Option<Box<pb::Node>>,
) -> Compiled<Conditions<'a>> {
    conditions_of(compiler, relation, conjuncts(clause))
}

/// The same in what all must be true.
pub fn conditions_of<'a>(
    compiler: &Compiler<'_>,
    relation: &Relation,
    conjuncts: Vec<&'a NodeEnum>,
) -> Compiled<Conditions<'a>> {
    if relation.primary_key.is_empty() {
        return refuse("no-key", "the table has no primary key");
    }
    let mut found: Vec<Option<KeyColumn>> = vec![None; relation.primary_key.len()];
    let mut rest = Vec::new();
    for conjunct in conjuncts {
        match key_place(compiler, relation, conjunct)? {
            Some((place, column)) if found[place].is_none() => found[place] = Some(column),
            _ => rest.push(conjunct),
        }
    }
    match found.into_iter().collect::<Option<Vec<_>>>() {
        Some(columns) => Ok(Conditions { columns, rest }),
        None => refuse("no-key", "does not name rows by the full primary key"),
    }
}

/// What names a column of the primary key: its place in the key, and the values.
pub(super) fn key_place(
    compiler: &Compiler<'_>,
    relation: &Relation,
    conjunct: &NodeEnum,
) -> Compiled<Option<(usize, KeyColumn)>> {
    let names = |position: usize| relation.primary_key.contains(&position);
    let place = |at: usize| relation.primary_key.iter().position(|key| *key == at);
    let column = key_column(compiler, relation, names, conjunct)?;
    Ok(column.and_then(|(position, column)| Some((place(position)?, column))))
}

/// Finds the sets in a WHERE clause that names no full key: one value for each of the leading columns of an index, as many as there are; else several values for the first of them. Answers
/// their positions, in the order of the columns. `None`: it names none.
pub fn gathered<'a>(
    compiler: &Compiler<'_>,
    relation: &Relation,
    clause: &'a Option<Box<pb::Node>>,
) -> Compiled<Option<(Vec<usize>, Conditions<'a>)>> {
    gathered_of(compiler, relation, conjuncts(clause))
}

/// The same in what all must be true.
pub fn gathered_of<'a>(
    compiler: &Compiler<'_>,
    relation: &Relation,
    conjuncts: Vec<&'a NodeEnum>,
) -> Compiled<Option<(Vec<usize>, Conditions<'a>)>> {
    let indexed = |position: usize| {
        relation
            .indexes
            .iter()
            .any(|index| index.contains(&position))
    };
    let mut found: BTreeMap<usize, (usize, KeyColumn)> = BTreeMap::new();
    for (at, conjunct) in conjuncts.iter().enumerate() {
        let column = key_column(compiler, relation, indexed, conjunct)?;
        match column {
            // One value is better than several.
            Some((position, column)) if is_one(&column) => {
                let known = found.get(&position);
                if known.is_none_or(|(_, known)| !is_one(known)) {
                    found.insert(position, (at, column));
                }
            }
            Some((position, column)) => {
                found.entry(position).or_insert((at, column));
            }
            None => {}
        }
    }
    let leading = |several: bool| {
        let named = |(place, position): &(usize, &usize)| {
            let column = found.get(position);
            column.is_some_and(|(_, column)| is_one(column) || several && *place == 0)
        };
        let leading = move |index: &Vec<usize>| {
            let named = index.iter().enumerate().take_while(named);
            named.map(|(_, position)| *position).collect()
        };
        let longest = relation.indexes.iter().map(leading);
        let longest = longest.max_by_key(BTreeSet::<usize>::len);
        longest.filter(|positions| !positions.is_empty())
    };
    let Some(positions) = leading(false).or_else(|| leading(true)) else {
        return Ok(None);
    };
    let (used, columns): (Vec<usize>, Vec<KeyColumn>) = positions
        .iter()
        .filter_map(|position| found.remove(position))
        .unzip();
    let rest = conjuncts.into_iter().enumerate();
    let rest = rest.filter(|(at, _)| !used.contains(at));
    let rest = rest.map(|(_, conjunct)| conjunct).collect();
    let positions = positions.into_iter().collect();
    Ok(Some((positions, Conditions { columns, rest })))
}

/// All rows, each of which is to satisfy the whole clause.
pub fn whole(clause: &Option<Box<pb::Node>>) -> Conditions<'_> {
    Conditions {
        columns: Vec::new(),
        rest: conjuncts(clause),
    }
}

fn is_one(column: &KeyColumn) -> bool {
    matches!(column.operand, Operand::One(_))
}

/// What all must be true.
pub(super) fn conjuncts(clause: &Option<Box<pb::Node>>) -> Vec<&NodeEnum> {
    let mut conjuncts = Vec::new();
    if let Some(clause) = inner(clause) {
        flatten(clause, &mut conjuncts);
    }
    conjuncts
}

fn flatten<'a>(node: &'a NodeEnum, conjuncts: &mut Vec<&'a NodeEnum>) {
    match node {
        NodeEnum::BoolExpr(expr) if expr.boolop == pb::BoolExprType::AndExpr as i32 => {
            items(&expr.args).for_each(|arg| flatten(arg, conjuncts));
        }
        other => conjuncts.push(other),
    }
}

/// `column = fixed`, `column IN (fixed, …)`, `column = ANY (fixed)` for one of these columns: its position, and the values.
fn key_column(
    compiler: &Compiler<'_>,
    relation: &Relation,
    names: impl Fn(usize) -> bool,
    node: &NodeEnum,
) -> Compiled<Option<(usize, KeyColumn)>> {
    let NodeEnum::AExpr(expr) = node else {
        return Ok(None);
    };
    if operator(expr) != Some("=") {
        return Ok(None);
    }
    let left = position(compiler, &expr.lexpr).filter(|position| names(*position));
    let right = position(compiler, &expr.rexpr).filter(|position| names(*position));
    let (place, other) = match (pb::AExprKind::try_from(expr.kind), left, right) {
        (Ok(pb::AExprKind::AexprOp), Some(place), _) if is_fixed(inner(&expr.rexpr)) => {
            (place, &expr.rexpr)
        }
        (Ok(pb::AExprKind::AexprOp), _, Some(place)) if is_fixed(inner(&expr.lexpr)) => {
            (place, &expr.lexpr)
        }
        (Ok(pb::AExprKind::AexprIn), Some(place), _) if is_fixed(inner(&expr.rexpr)) => {
            return listed(compiler, relation, place, inner(&expr.rexpr));
        }
        (Ok(pb::AExprKind::AexprOpAny), Some(place), _) if is_fixed(inner(&expr.rexpr)) => {
            return any_of(compiler, relation, place, &expr.rexpr);
        }
        _ => return Ok(None),
    };
    let column = key_expression(compiler, relation, place)?;
    let other = compiler.child(other, 0)?;
    let test = compiler.compare(Comparison::Eq, Piece::Typed(column.clone()), other)?;
    let operand = test
        .children()
        .into_iter()
        .find(|side| side.is_fixed())
        .cloned();
    let Some(operand) = operand.filter(|operand| exact(&column, operand.type_oid)) else {
        return Ok(None);
    };
    Ok(Some((place, key(&column, Operand::One(operand)))))
}

fn listed(
    compiler: &Compiler<'_>,
    relation: &Relation,
    place: usize,
    list: Option<&NodeEnum>,
) -> Compiled<Option<(usize, KeyColumn)>> {
    let Some(NodeEnum::List(list)) = list else {
        return Ok(None);
    };
    let column = key_expression(compiler, relation, place)?;
    let pieces = compiler.pieces(&list.items, 0)?;
    let test = compiler.in_list(Piece::Typed(column.clone()), pieces, false)?;
    let operands: Vec<Expr> = test
        .children()
        .into_iter()
        .flat_map(|test| {
            test.children()
                .into_iter()
                .filter(|side| side.is_fixed())
                .cloned()
        })
        .collect();
    let fits = operands.len() == list.items.len()
        && operands
            .iter()
            .all(|operand| exact(&column, operand.type_oid));
    Ok(fits.then(|| (place, key(&column, Operand::List(operands)))))
}

fn any_of(
    compiler: &Compiler<'_>,
    relation: &Relation,
    place: usize,
    array: &Option<Box<pb::Node>>,
) -> Compiled<Option<(usize, KeyColumn)>> {
    let column = key_expression(compiler, relation, place)?;
    if let Some(elements) = compiler.array_elements(array, 0)? {
        compiler.any_element(&column, elements.clone(), false)?;
        let fits = elements
            .iter()
            .all(|element| exact(&column, element.type_oid));
        return Ok(fits.then(|| (place, key(&column, Operand::List(elements)))));
    }
    let array = compiler.array_operand(&column, array, 0)?;
    let fits = oid::array_element(array.type_oid).is_some_and(|element| exact(&column, element));
    Ok(fits.then(|| (place, key(&column, Operand::Any(array)))))
}

/// The position of the column that a node names.
pub(super) fn position(compiler: &Compiler<'_>, node: &Option<Box<pb::Node>>) -> Option<usize> {
    let NodeEnum::ColumnRef(reference) = inner(node)? else {
        return None;
    };
    compiler.position(reference)
}

pub(super) fn key_expression(
    compiler: &Compiler<'_>,
    relation: &Relation,
    place: usize,
) -> Compiled<Expr> {
    match relation.column(place) {
        Some(column) => compiler.column(column),
        None => refuse("no-key", "a key column is gone"),
    }
}

pub(super) fn key(column: &Expr, operand: Operand) -> KeyColumn {
    KeyColumn {
        type_oid: column.type_oid,
        repr: column.repr.clone(),
        order: column.order,
        operand,
    }
}

/// No column is named below. (Subqueries do not compile anyway.)
pub(super) fn is_fixed(node: Option<&NodeEnum>) -> bool {
    match node {
        None | Some(NodeEnum::ColumnRef(_)) => false,
        Some(NodeEnum::ParamRef(_) | NodeEnum::AConst(_)) => true,
        Some(NodeEnum::TypeCast(cast)) => is_fixed(inner(&cast.arg)),
        Some(NodeEnum::List(list)) => items(&list.items).all(|item| is_fixed(Some(item))),
        Some(NodeEnum::AArrayExpr(array)) => {
            items(&array.elements).all(|item| is_fixed(Some(item)))
        }
        Some(NodeEnum::AExpr(expr)) => {
            (expr.lexpr.is_none() || is_fixed(inner(&expr.lexpr))) && is_fixed(inner(&expr.rexpr))
        }
        Some(_) => false,
    }
}

/// Whether equality of the column with a value of that type can be turned into one key of the column's type.
pub fn exact(column: &Expr, operand: TypeOid) -> bool {
    let exact_number = |oid| matches!(oid, oid::INT2 | oid::INT4 | oid::INT8 | oid::NUMERIC);
    let text = |oid| matches!(oid, oid::TEXT | oid::VARCHAR);
    let keyable = match column.repr {
        Repr::Enum(_) => true,
        Repr::Typed | Repr::Raw => value::key::keyable(column.type_oid),
    };
    keyable
        && (column.type_oid == operand
            || exact_number(column.type_oid) && exact_number(operand)
            || text(column.type_oid) && text(operand))
}
