//! The walk over expressions: functions, casts, subqueries. Never evaluates; a node that it does not know must hold nothing that could run code.

use super::Touch;
use crate::plan::parse::{NodeEnum, inner, items, pb, strings};
use crate::plan::sequences::SequenceUse;
use crate::plan::types;
use serde_json::Value;

impl Touch<'_> {
    pub(in crate::plan) fn optional(&mut self, node: &Option<Box<pb::Node>>) {
        if let Some(node) = inner(node) {
            self.expression(node);
        }
    }

    pub(in crate::plan) fn expressions(&mut self, nodes: &[pb::Node]) {
        items(nodes).for_each(|node| self.expression(node));
    }

    /// One expression, or a part of one.
    pub(in crate::plan) fn expression(&mut self, node: &NodeEnum) {
        match node {
            NodeEnum::AConst(_)
            | NodeEnum::ParamRef(_)
            | NodeEnum::AStar(_)
            | NodeEnum::String(_)
            | NodeEnum::Integer(_)
            | NodeEnum::Float(_)
            | NodeEnum::Boolean(_)
            | NodeEnum::BitString(_)
            | NodeEnum::SqlvalueFunction(_)
            | NodeEnum::CurrentOfExpr(_)
            | NodeEnum::MergeSupportFunc(_) => {}
            // Of any column; perhaps `nextval`.
            NodeEnum::SetToDefault(_) => {
                self.effects.sequences = self.effects.sequences.max(SequenceUse::Moves);
            }
            NodeEnum::ColumnRef(column) => self.column(column),
            NodeEnum::AExpr(expr) => {
                self.optional(&expr.lexpr);
                self.optional(&expr.rexpr);
            }
            NodeEnum::BoolExpr(expr) => self.expressions(&expr.args),
            NodeEnum::NullTest(test) => self.optional(&test.arg),
            NodeEnum::BooleanTest(test) => self.optional(&test.arg),
            NodeEnum::CaseExpr(case) => {
                self.optional(&case.arg);
                self.expressions(&case.args);
                self.optional(&case.defresult);
            }
            NodeEnum::CaseWhen(when) => {
                self.optional(&when.expr);
                self.optional(&when.result);
            }
            NodeEnum::CoalesceExpr(expr) => self.expressions(&expr.args),
            NodeEnum::MinMaxExpr(expr) => self.expressions(&expr.args),
            NodeEnum::TypeCast(cast) => {
                self.optional(&cast.arg);
                self.type_name(&cast.type_name);
            }
            NodeEnum::FuncCall(call) => self.call(call),
            NodeEnum::SubLink(link) => {
                self.optional(&link.testexpr);
                match inner(&link.subselect) {
                    Some(query) if self.statement(query) => {}
                    _ => self.everything("holds a subquery that is not understood"),
                }
            }
            NodeEnum::AArrayExpr(array) => self.expressions(&array.elements),
            NodeEnum::RowExpr(row) => self.expressions(&row.args),
            NodeEnum::AIndirection(indirection) => {
                self.optional(&indirection.arg);
                self.indirection(&indirection.indirection);
            }
            NodeEnum::AIndices(indices) => {
                self.optional(&indices.lidx);
                self.optional(&indices.uidx);
            }
            NodeEnum::CollateClause(collate) => self.optional(&collate.arg),
            NodeEnum::SortBy(sort) => self.optional(&sort.node),
            NodeEnum::WindowDef(window) => self.window(window),
            NodeEnum::ResTarget(target) => {
                self.optional(&target.val);
                self.indirection(&target.indirection);
            }
            NodeEnum::IndexElem(element) => self.optional(&element.expr),
            NodeEnum::List(list) => self.expressions(&list.items),
            NodeEnum::GroupingSet(set) => self.expressions(&set.content),
            NodeEnum::GroupingFunc(function) => self.expressions(&function.args),
            NodeEnum::MultiAssignRef(assign) => self.optional(&assign.source),
            NodeEnum::NamedArgExpr(argument) => self.optional(&argument.arg),
            other => self.unknown(other),
        }
    }

    fn call(&mut self, call: &pb::FuncCall) {
        self.function(&strings(&call.funcname));
        self.expressions(&call.args);
        self.expressions(&call.agg_order);
        self.optional(&call.agg_filter);
        if let Some(window) = &call.over {
            self.window(window);
        }
    }

    fn window(&mut self, window: &pb::WindowDef) {
        self.expressions(&window.partition_clause);
        self.expressions(&window.order_clause);
        self.optional(&window.start_offset);
        self.optional(&window.end_offset);
    }

    /// `t.x` is a column when every relation that `t` may mean has one, else perhaps a call of `x(t)`.
    fn column(&mut self, column: &pb::ColumnRef) {
        let parts = strings(&column.fields);
        let [.., qualifier, name] = &parts[..] else {
            return;
        };
        let is_column = self.aliases.get(*qualifier).is_some_and(|relations| {
            relations.iter().all(|relation| {
                relation
                    .as_ref()
                    .is_some_and(|relation| relation.column_named(name).is_some())
            })
        });
        if !is_column {
            self.attribute(name);
        }
    }

    fn indirection(&mut self, steps: &[pb::Node]) {
        for step in items(steps) {
            match step {
                NodeEnum::String(name) => self.attribute(&name.sval),
                other => self.expression(other),
            }
        }
    }

    /// A cast to a constrained domain runs its checks; to an unknown type, who knows.
    pub(in crate::plan) fn type_name(&mut self, name: &Option<pb::TypeName>) {
        let Some(name) = name else { return };
        let parts = strings(&name.names);
        if let ["pg_catalog", _] = parts[..] {
            return;
        }
        let Some(last) = parts.last() else { return };
        let mut known = types::of_name(self.names.catalog, last).peekable();
        let named = types::builtin(last).is_some() || known.peek().is_some();
        let trusted = named && known.all(|known| types::is_plain(&known.kind));
        if !trusted {
            self.read_everything("casts to a type that may run user code");
        }
    }

    pub(super) fn column_definitions(&mut self, definitions: &[pb::Node]) {
        for definition in items(definitions) {
            match definition {
                NodeEnum::ColumnDef(column) => self.type_name(&column.type_name),
                other => self.unknown(other),
            }
        }
    }

    /// Nodes too rare to walk one by one (SQL/JSON, XML): harmless when nothing named below them could run code.
    pub(super) fn unknown(&mut self, node: &NodeEnum) {
        match serde_json::to_value(node) {
            Ok(tree) => self.unknown_tree(&tree),
            Err(_) => self.user_code("holds an expression that is not understood"),
        }
    }

    fn unknown_tree(&mut self, tree: &Value) {
        match tree {
            Value::Object(fields) => {
                for (name, below) in fields.iter().filter(|(_, below)| !below.is_null()) {
                    if NAMING.contains(&name.as_str()) {
                        self.user_code("holds an expression that is not understood");
                    } else if name == "ColumnRef" {
                        self.unknown_column(below);
                    } else {
                        self.unknown_tree(below);
                    }
                }
            }
            Value::Array(values) => values.iter().for_each(|value| self.unknown_tree(value)),
            _ => {}
        }
    }

    fn unknown_column(&mut self, column: &Value) {
        let fields = column["fields"].as_array().map_or(&[][..], Vec::as_slice);
        if let [_, .., last] = fields
            && let Some(name) = last["node"]["String"]["sval"].as_str()
        {
            self.attribute(name);
        }
    }
}

/// Nodes below an unknown one that make it more than a computation over columns.
const NAMING: &[&str] = &[
    "RangeVar",
    "FuncCall",
    "SubLink",
    "SelectStmt",
    "InsertStmt",
    "UpdateStmt",
    "DeleteStmt",
    "MergeStmt",
    "AIndirection",
    "TypeCast",
    "type_name",
];
