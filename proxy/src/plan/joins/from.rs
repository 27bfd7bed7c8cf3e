//! The tables of a FROM clause, and all conditions on their rows, in ON and in WHERE. Reads the tree only; what can be made of it, `joins` decides.

use super::TABLES_MAX;
use crate::plan::compile::{Compiled, column_among, refuse};
use crate::plan::facts::Mode;
use crate::plan::keyed::{conjuncts, is_fixed};
use crate::plan::names::Names;
use crate::plan::parse::{NodeEnum, inner, operator, pb};
use crate::plan::relation::cacheable;
use ripen_cachestore::catalog::{Column, Relation};
use std::sync::Arc;

/// See the module.
pub(super) struct From<'s> {
    /// In the order in which they are named.
    pub sources: Vec<Source<'s>>,
    pub conditions: Vec<Condition<'s>>,
}

/// A table in FROM.
pub(super) struct Source<'s> {
    pub relation: Arc<Relation>,
    /// By what its columns may be qualified.
    pub qualifier: &'s str,
    /// On the right of a LEFT JOIN.
    pub outer: bool,
}

/// One of those that all must be true.
pub(super) struct Condition<'s> {
    pub node: &'s NodeEnum,
    /// The source whose LEFT JOIN it belongs to.
    pub outer: Option<usize>,
    /// How many sources it may name.
    pub visible: usize,
    /// If it says that columns of two sources are equal.
    pub equality: Option<Equality>,
}

/// A column of a source: which source, and its position there.
pub(super) type Place = (usize, usize);

/// Columns of two sources.
#[derive(Clone, Copy)]
pub(super) struct Equality {
    pub left: Place,
    pub right: Place,
}

impl<'s> From<'s> {
    pub fn of(
        names: Names<'_>,
        select: &'s pb::SelectStmt,
        mode: &dyn Fn(&Relation) -> Mode,
    ) -> Compiled<From<'s>> {
        let mut from = From {
            sources: Vec::new(),
            conditions: Vec::new(),
        };
        let alone = select.from_clause.len() == 1;
        for item in &select.from_clause {
            match &item.node {
                Some(NodeEnum::RangeVar(var)) => from.table(names, var, mode, false)?,
                // What stands before a comma is not seen in ON.
                Some(NodeEnum::JoinExpr(join)) if alone => from.join(names, join, mode)?,
                _ => return refuse("join", "joins something else than tables"),
            }
        }
        let all = from.sources.len();
        from.conditions(conjuncts(&select.where_clause), None, all);
        for at in 0..from.conditions.len() {
            from.conditions[at].equality = from.equality(&from.conditions[at]);
        }
        Ok(from)
    }

    fn table(
        &mut self,
        names: Names<'_>,
        var: &'s pb::RangeVar,
        mode: &dyn Fn(&Relation) -> Mode,
        outer: bool,
    ) -> Compiled<()> {
        if self.sources.len() >= TABLES_MAX {
            return refuse("join", "joins too many tables");
        }
        let (relation, _) = cacheable(names, var, mode)?;
        let qualifier = match &var.alias {
            Some(alias) if !alias.colnames.is_empty() => {
                return refuse("alias", "renames columns");
            }
            Some(alias) => &*alias.aliasname,
            None => &*var.relname,
        };
        if self
            .sources
            .iter()
            .any(|known| known.qualifier == qualifier)
        {
            return refuse("join", "two tables have the same name");
        }
        self.sources.push(Source {
            relation,
            qualifier,
            outer,
        });
        Ok(())
    }

    fn join(
        &mut self,
        names: Names<'_>,
        join: &'s pb::JoinExpr,
        mode: &dyn Fn(&Relation) -> Mode,
    ) -> Compiled<()> {
        if join.is_natural || !join.using_clause.is_empty() {
            return refuse("join", "joins by names of columns");
        }
        if join.alias.is_some() || join.join_using_alias.is_some() {
            return refuse("join", "names a join");
        }
        let outer = match pb::JoinType::try_from(join.jointype) {
            Ok(pb::JoinType::JoinInner) => false,
            Ok(pb::JoinType::JoinLeft) => true,
            _ => return refuse("join", "joins in another way than INNER and LEFT"),
        };
        match inner(&join.larg) {
            Some(NodeEnum::RangeVar(var)) => self.table(names, var, mode, false)?,
            Some(NodeEnum::JoinExpr(join)) => self.join(names, join, mode)?,
            _ => return refuse("join", "joins something else than tables"),
        }
        match inner(&join.rarg) {
            Some(NodeEnum::RangeVar(var)) => self.table(names, var, mode, outer)?,
            _ => return refuse("join", "joins something else than tables"),
        }
        let visible = self.sources.len();
        let outer = outer.then_some(visible - 1);
        self.conditions(conjuncts(&join.quals), outer, visible);
        Ok(())
    }

    fn conditions(&mut self, nodes: Vec<&'s NodeEnum>, outer: Option<usize>, visible: usize) {
        let conditions = nodes.into_iter().map(|node| Condition {
            node,
            outer,
            visible,
            equality: None,
        });
        self.conditions.extend(conditions);
    }

    fn equality(&self, condition: &Condition<'_>) -> Option<Equality> {
        let NodeEnum::AExpr(expr) = condition.node else {
            return None;
        };
        let plain = expr.kind == pb::AExprKind::AexprOp as i32 && operator(expr) == Some("=");
        if !plain {
            return None;
        }
        let (left, right) = (self.column(&expr.lexpr)?, self.column(&expr.rexpr)?);
        let seen = left.0.max(right.0) < condition.visible;
        (left.0 != right.0 && seen).then_some(Equality { left, right })
    }

    /// Source and position of the column that a node names.
    fn column(&self, node: &Option<Box<pb::Node>>) -> Option<Place> {
        let NodeEnum::ColumnRef(reference) = inner(node)? else {
            return None;
        };
        let sources = self.sources.iter().enumerate();
        let relations = sources.map(|(at, source)| (at, (&*source.relation, source.qualifier)));
        let (at, column) = column_among(relations, reference)?;
        Some((at, column.position))
    }

    fn known(&self, (source, position): Place) -> Option<&Column> {
        self.sources[source].relation.column(position)
    }

    /// Whether the column has a collation of its own.
    pub fn collated(&self, column: Place) -> bool {
        self.known(column).is_some_and(|column| column.collated)
    }

    /// Whether what is equal to one of these is equal to the other, in the same operator.
    pub fn alike(&self, left: Place, right: Place) -> bool {
        match (self.known(left), self.known(right)) {
            (Some(left), Some(right)) => left.type_oid == right.type_oid,
            _ => false,
        }
    }

    /// `from = fixed`, `from IN (…)`, `from = ANY (…)` said of another column.
    pub fn moved(&self, node: &NodeEnum, from: Place, to: Place) -> Option<NodeEnum> {
        let NodeEnum::AExpr(expr) = node else {
            return None;
        };
        if operator(expr) != Some("=") {
            return None;
        }
        let to = Some(Box::new(self.reference(to)?));
        let (left, right) = (self.column(&expr.lexpr), self.column(&expr.rexpr));
        let mut moved = expr.clone();
        match (left, right) {
            (Some(left), None) if left == from && is_fixed(inner(&expr.rexpr)) => {
                moved.lexpr = to;
            }
            (None, Some(right)) if right == from && is_fixed(inner(&expr.lexpr)) => {
                moved.rexpr = to;
            }
            _ => return None,
        }
        Some(NodeEnum::AExpr(moved))
    }

    fn reference(&self, column: Place) -> Option<pb::Node> {
        let name = |name: &str| pb::Node {
            node: Some(NodeEnum::String(pb::String {
                sval: name.to_owned(),
            })),
        };
        let qualifier = self.sources[column.0].qualifier;
        let fields = vec![name(qualifier), name(&self.known(column)?.name)];
        Some(pb::Node {
            node: Some(NodeEnum::ColumnRef(pb::ColumnRef {
                fields,
                location: 0,
            })),
        })
    }
}
