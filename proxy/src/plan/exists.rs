//! `SELECT EXISTS (SELECT …)`: a SELECT of which only matters whether it yields a row. Holds the form; `read` compiles what is inside.

use super::compile::{Compiled, refuse};
use super::names::Names;
use super::output;
use super::parse::{NodeEnum, inner, pb};
use super::read::{Draft, Shape};
use crate::eval::expr::{Expr, Node, Repr};
use ripen_pg::value::oid;

/// What is asked about, and the name of the only output. `None`: it is another kind of SELECT.
pub fn asked(select: &pb::SelectStmt) -> Option<(&pb::SelectStmt, &str)> {
    let [target] = &select.target_list[..] else {
        return None;
    };
    let Some(NodeEnum::ResTarget(target)) = &target.node else {
        return None;
    };
    let Some(NodeEnum::SubLink(link)) = inner(&target.val) else {
        return None;
    };
    let Some(NodeEnum::SelectStmt(asked)) = inner(&link.subselect) else {
        return None;
    };
    let name = match target.name.as_str() {
        "" => "exists",
        alias => alias,
    };
    let exists = link.sub_link_type == pb::SubLinkType::ExistsSublink as i32;
    (exists && is_bare(select)).then_some((asked, name))
}

/// Nothing but a target list.
fn is_bare(select: &pb::SelectStmt) -> bool {
    let rest = pb::SelectStmt {
        target_list: Vec::new(),
        limit_option: 0,
        op: 0,
        ..select.clone()
    };
    rest == pb::SelectStmt::default()
}

/// Whether there is a row, instead of the rows.
///
/// Postgres computes no outputs then, or the first only: so nothing may stand there that could fail.
pub(super) fn whether(names: Names<'_>, draft: Draft, name: &str) -> Compiled<Draft> {
    let mut draft = draft;
    let query = &mut draft.query;
    if draft.lock.is_some() || matches!(query.shape, Shape::Together(_)) {
        return refuse(
            "shape",
            "asks whether rows exist that are locked or summed up",
        );
    }
    let cannot_fail = |expr: &Expr| matches!(expr.node, Node::Column(_)) || expr.is_fixed();
    let outputs = query.outputs.iter().map(|output| &output.expr);
    let mut computed = outputs.chain(query.order_by.iter().map(|key| &key.expr));
    if !computed.all(cannot_fail) {
        return refuse(
            "shape",
            "computes something of rows of which only matters whether they exist",
        );
    }
    let expr = Expr {
        type_oid: oid::BOOL,
        type_modifier: -1,
        repr: Repr::Typed,
        order: None,
        node: Node::Column(0),
    };
    query.outputs = vec![output::computed(names, name.to_owned(), expr)?];
    query.order_by = Vec::new();
    query.shape = Shape::Whether;
    Ok(draft)
}
