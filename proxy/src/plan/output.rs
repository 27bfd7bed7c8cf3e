//! What a target list or RETURNING puts out: names, types and expressions of the columns. Never evaluates.

use super::compile::{Compiled, Compiler, refuse};
use super::names::Names;
use super::parse::{NodeEnum, inner, items, pb, strings};
use crate::eval::Field;
use crate::eval::expr::{Expr, Node, Repr};
use crate::eval::render::Output;
use ripen_cachestore::catalog::Relation;
use ripen_pg::value::{self, oid};

/// Compiles a target list.
pub fn outputs(compiler: &Compiler<'_>, targets: &[pb::Node]) -> Compiled<Vec<Output>> {
    let mut outputs = Vec::new();
    for target in items(targets) {
        let NodeEnum::ResTarget(target) = target else {
            return refuse("expression", "the target list is not understood");
        };
        let Some(node) = inner(&target.val) else {
            return refuse("expression", "the target list is not understood");
        };
        if let Some(relations) = starred(compiler, node) {
            for (place, relation) in relations {
                for column in &relation.columns {
                    let expr = compiler.column_of(place, column)?;
                    outputs.push(output(compiler, column.name.clone(), expr)?);
                }
            }
            continue;
        }
        let name = match target.name.as_str() {
            "" => column_name(node).0,
            alias => alias.to_owned(),
        };
        outputs.push(output(compiler, name, compiler.output(node)?)?);
    }
    Ok(outputs)
}

/// The relations whose columns `*` or `t.*` means. `None`: it is something else.
fn starred<'a>(compiler: &Compiler<'a>, node: &NodeEnum) -> Option<Vec<(usize, &'a Relation)>> {
    let NodeEnum::ColumnRef(column) = node else {
        return None;
    };
    let Some(NodeEnum::AStar(_)) = column.fields.last().and_then(|last| last.node.as_ref()) else {
        return None;
    };
    let relations = match strings(&column.fields)[..] {
        [] => compiler.starred(None),
        [qualifier] => compiler.starred(Some(qualifier)),
        _ => Vec::new(),
    };
    Some(relations).filter(|relations| !relations.is_empty())
}

fn output(compiler: &Compiler<'_>, name: String, expr: Expr) -> Compiled<Output> {
    let origin = match &expr.node {
        Node::Column(position) => compiler.origin(*position),
        _ => None,
    };
    let mut output = computed(compiler.names, name, expr)?;
    if let Some((relation, position)) = origin {
        output.field.table = relation.oid.0;
        output.field.attnum = position as i16 + 1;
    }
    Ok(output)
}

/// An output that is no column of a table.
pub fn computed(names: Names<'_>, name: String, expr: Expr) -> Compiled<Output> {
    let catalog = names.catalog;
    let rendered = match expr.repr {
        Repr::Enum(_) => value::ENUM_AS,
        Repr::Typed | Repr::Raw => expr.type_oid,
    };
    let length = match catalog.types.get(&expr.type_oid) {
        Some(known) => known.length,
        None if oid::array_element(expr.type_oid).is_some() => -1,
        None => return refuse("type", "the length of a type is not known"),
    };
    let field = Field {
        name,
        table: 0,
        attnum: 0,
        type_oid: expr.type_oid,
        length,
        type_modifier: expr.type_modifier,
    };
    Ok(Output {
        field,
        rendered,
        expr,
    })
}

/// The name that Postgres gives to an unnamed output column, and how sure it is of it (`FigureColname`).
fn column_name(node: &NodeEnum) -> (String, u8) {
    let unnamed = || ("?column?".to_owned(), 0);
    match node {
        NodeEnum::ColumnRef(column) => match strings(&column.fields).last() {
            Some(name) => ((*name).to_owned(), 2),
            None => unnamed(),
        },
        NodeEnum::FuncCall(call) => match strings(&call.funcname).last() {
            Some(name) => ((*name).to_owned(), 2),
            None => unnamed(),
        },
        NodeEnum::AExpr(expr) if expr.kind == pb::AExprKind::AexprNullif as i32 => {
            ("nullif".to_owned(), 2)
        }
        NodeEnum::TypeCast(cast) => type_cast_name(cast),
        NodeEnum::CaseExpr(case) => match inner(&case.defresult).map(column_name) {
            Some((name, sure)) if sure > 1 => (name, sure),
            _ => ("case".to_owned(), 1),
        },
        NodeEnum::CoalesceExpr(_) => ("coalesce".to_owned(), 2),
        NodeEnum::MinMaxExpr(expr) => match expr.op == pb::MinMaxOp::IsGreatest as i32 {
            true => ("greatest".to_owned(), 2),
            false => ("least".to_owned(), 2),
        },
        NodeEnum::SqlvalueFunction(_) => ("current_timestamp".to_owned(), 2),
        _ => unnamed(),
    }
}

fn type_cast_name(cast: &pb::TypeCast) -> (String, u8) {
    let (name, sure) = inner(&cast.arg).map_or((String::new(), 0), column_name);
    if sure > 1 {
        return (name, sure);
    }
    let type_name = cast
        .type_name
        .as_ref()
        .and_then(|name| strings(&name.names).pop().map(str::to_owned));
    match type_name {
        Some(name) => (name, 1),
        None => ("?column?".to_owned(), 0),
    }
}
