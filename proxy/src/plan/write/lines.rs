//! What an INSERT inserts, line by line: VALUES, and a SELECT that is as good as VALUES, as ORMs and drivers make of a batch: of constants, from a list of values, or from
//! arrays. Never accepts a SELECT that could give other lines than the text names, or in another order.

use crate::eval::each::Each;
use crate::eval::expr::{Expr, Node};
use crate::plan::compile::{Compiled, Compiler, Listed, Piece, refuse};
use crate::plan::parse::{NodeEnum, inner, integer_constant, items, pb, strings};
use crate::plan::reason::Reason;
use ripen_pg::value::oid;
use std::collections::BTreeMap;

/// The lines, or the one that is repeated for each place of some arrays.
pub(super) struct Lines<'s> {
    pub lines: Vec<Line<'s>>,
    pub each: Option<Each>,
}

/// One line.
pub(super) struct Line<'s> {
    /// Its values, for the INSERT's columns in order.
    pub values: Vec<Given<'s>>,
    /// What they may name.
    pub listed: Option<Listed>,
}

/// A value of a line.
#[derive(Clone)]
pub(super) enum Given<'s> {
    /// As it stands in the text.
    Node(&'s NodeEnum),
    /// The element of an array.
    Element(Expr),
}

/// The lines of VALUES or of such a SELECT. `params`: how many of the client's the text names. To be asked before anything is drawn.
pub(super) fn lines<'s>(
    compiler: &Compiler<'_>,
    select: &'s pb::SelectStmt,
    params: usize,
) -> Compiled<Lines<'s>> {
    if let Ok(rows) = plain_values(select) {
        let line = |row: &'s [pb::Node]| Line {
            values: items(row).map(Given::Node).collect(),
            listed: None,
        };
        let lines = rows.map(line).collect();
        return Ok(Lines { lines, each: None });
    }
    let plain = pb::SelectStmt {
        limit_option: select.limit_option,
        op: pb::SetOperation::SetopNone as i32,
        target_list: select.target_list.clone(),
        from_clause: select.from_clause.clone(),
        sort_clause: select.sort_clause.clone(),
        ..Default::default()
    };
    if *select != plain {
        return refuse("insert-select", "inserts the result of a query");
    }
    let outputs = outputs(select)?;
    match &select.from_clause[..] {
        [] => unnested(compiler, select, outputs, params),
        [pb::Node { node: Some(from) }] => match from {
            NodeEnum::RangeFunction(function) => {
                of_arrays(compiler, select, function, outputs, params)
            }
            from => {
                let list = List::of(from)?;
                let order = list.order(&select.sort_clause, &outputs)?;
                let listed = list.compiled(compiler, order)?;
                let line = |listed| Line {
                    values: outputs.iter().copied().map(Given::Node).collect(),
                    listed: Some(listed),
                };
                let lines = listed.into_iter().map(line).collect();
                Ok(Lines { lines, each: None })
            }
        },
        _ => refuse("insert-select", "inserts the result of a join"),
    }
}

/// `SELECT unnest(…), 1`: without FROM. Arrays of the list are taken side by side; without any it is one line.
fn unnested<'s>(
    compiler: &Compiler<'_>,
    select: &pb::SelectStmt,
    outputs: Vec<&'s NodeEnum>,
    params: usize,
) -> Compiled<Lines<'s>> {
    if !select.sort_clause.is_empty() {
        return refuse("insert-select", "sorts what it inserts");
    }
    let mut arrays = Vec::new();
    for output in &outputs {
        if let Some(args) = unnest(compiler, output) {
            match args {
                [pb::Node { node: Some(arg) }] => arrays.push(arg),
                _ => return refuse("insert-select", "unnests several arrays in one column"),
            }
        }
    }
    if arrays.is_empty() {
        let values = outputs.into_iter().map(Given::Node).collect();
        let listed = None;
        let lines = vec![Line { values, listed }];
        return Ok(Lines { lines, each: None });
    }
    let (each, elements) = elements(compiler, &arrays, params)?;
    let mut elements = elements.into_iter();
    let value = |output| match unnest(compiler, output) {
        Some(_) => elements.next().map(Given::Element),
        None => Some(Given::Node(output)),
    };
    let values: Option<Vec<Given<'_>>> = outputs.into_iter().map(value).collect();
    Ok(Lines {
        lines: vec![Line {
            values: values.unwrap_or_default(),
            listed: None,
        }],
        each: Some(each),
    })
}

/// `SELECT … FROM unnest(…) AS alias (columns…)`.
fn of_arrays<'s>(
    compiler: &Compiler<'_>,
    select: &pb::SelectStmt,
    function: &pb::RangeFunction,
    outputs: Vec<&'s NodeEnum>,
    params: usize,
) -> Compiled<Lines<'s>> {
    let other = || Reason::new("insert-select", "inserts what a function gives");
    let call = match &function.functions[..] {
        [
            pb::Node {
                node: Some(NodeEnum::List(of)),
            },
        ] => of.items.first().and_then(|node| node.node.as_ref()),
        _ => None,
    };
    let args = call.and_then(|call| unnest(compiler, call));
    let args = args.ok_or_else(other)?;
    let odd = function.lateral
        || function.ordinality
        || function.is_rowsfrom
        || !function.coldeflist.is_empty()
        || !select.sort_clause.is_empty();
    if odd {
        return Err(other());
    }
    let arrays: Vec<&NodeEnum> = items(args).collect();
    let (each, elements) = elements(compiler, &arrays, params)?;
    if let [NodeEnum::ColumnRef(all)] = outputs[..]
        && let [
            pb::Node {
                node: Some(NodeEnum::AStar(_)),
            },
        ] = all.fields[..]
    {
        let values = elements.into_iter().map(Given::Element).collect();
        let listed = None;
        return Ok(Lines {
            lines: vec![Line { values, listed }],
            each: Some(each),
        });
    }
    let alias = function.alias.as_ref().ok_or_else(other)?;
    let mut names = strings(&alias.colnames);
    if names.is_empty() && elements.len() == 1 {
        // Of a function with one column, it has the function's alias.
        names.push(&alias.aliasname);
    }
    if names.len() != elements.len() || has_twice(&names) {
        return Err(other());
    }
    let names = names.into_iter().map(str::to_owned);
    let listed = Listed {
        alias: alias.aliasname.clone(),
        columns: names.zip(elements).collect(),
    };
    Ok(Lines {
        lines: vec![Line {
            values: outputs.into_iter().map(Given::Node).collect(),
            listed: Some(listed),
        }],
        each: Some(each),
    })
}

/// The arguments of a call of the built-in `unnest`.
fn unnest<'s>(compiler: &Compiler<'_>, node: &'s NodeEnum) -> Option<&'s [pb::Node]> {
    let NodeEnum::FuncCall(call) = node else {
        return None;
    };
    let (name, args) = compiler.names.builtin_call(call)?;
    (name == "unnest").then_some(args)
}

/// An element of each of the arrays, which must be parameters, and what is to be done for each.
fn elements(
    compiler: &Compiler<'_>,
    arrays: &[&NodeEnum],
    params: usize,
) -> Compiled<(Each, Vec<Expr>)> {
    let (mut places, mut types) = (Vec::new(), Vec::new());
    for array in arrays {
        let array = match compiler.piece(array, 0)? {
            Piece::Typed(expr) => expr,
            Piece::Literal(_) | Piece::Open(_) => {
                return refuse("insert-select", "the type of an array is not known");
            }
        };
        match (&array.node, oid::array_element(array.type_oid)) {
            (Node::Param(index), Some(element)) => {
                places.push((*index, array.type_oid));
                types.push(element);
            }
            _ => return refuse("insert-select", "unnests what is no parameter"),
        }
    }
    let (sent, elements) = compiler.elements(params, &types)?;
    let arrays = places;
    Ok((Each { arrays, sent }, elements))
}

fn has_twice<T: Ord>(names: &[T]) -> bool {
    let mut sorted: Vec<&T> = names.iter().collect();
    sorted.sort();
    sorted.windows(2).any(|pair| pair[0] == pair[1])
}

/// The rows of a plain VALUES.
pub(in crate::plan) fn plain_values(
    select: &pb::SelectStmt,
) -> Compiled<impl Iterator<Item = &[pb::Node]>> {
    let plain = pb::SelectStmt {
        limit_option: select.limit_option,
        op: pb::SetOperation::SetopNone as i32,
        values_lists: select.values_lists.clone(),
        ..Default::default()
    };
    if *select != plain || select.values_lists.is_empty() {
        return refuse("insert-select", "inserts the result of a query");
    }
    Ok(items(&select.values_lists).map(|row| match row {
        NodeEnum::List(row) => &row.items[..],
        _ => &[],
    }))
}

/// The expressions of a target list without names of their own, which ORDER BY could mean.
fn outputs(select: &pb::SelectStmt) -> Compiled<Vec<&NodeEnum>> {
    let mut outputs = Vec::with_capacity(select.target_list.len());
    for node in items(&select.target_list) {
        match node {
            NodeEnum::ResTarget(target)
                if target.name.is_empty() || select.sort_clause.is_empty() =>
            {
                match inner(&target.val) {
                    Some(NodeEnum::SetToDefault(_)) | None => {
                        return refuse("shape", "DEFAULT is not allowed here");
                    }
                    Some(output) => outputs.push(output),
                }
            }
            _ => return refuse("insert-select", "names what it sorts by"),
        }
    }
    Ok(outputs)
}

/// `(VALUES …) AS alias (columns…)`.
struct List<'s> {
    alias: &'s str,
    columns: Vec<String>,
    rows: Vec<Vec<&'s NodeEnum>>,
}

impl<'s> List<'s> {
    fn of(from: &'s NodeEnum) -> Compiled<List<'s>> {
        let other = || refuse("insert-select", "inserts the result of a query");
        let NodeEnum::RangeSubselect(sub) = from else {
            return other();
        };
        let (Some(NodeEnum::SelectStmt(select)), Some(alias)) = (inner(&sub.subquery), &sub.alias)
        else {
            return other();
        };
        let rows: Vec<Vec<&NodeEnum>> = plain_values(select)?
            .map(|row| items(row).collect())
            .collect();
        let width = rows[0].len();
        if rows.iter().any(|row| row.len() != width) {
            return refuse("shape", "VALUES lists are of different lengths");
        }
        let mut columns: Vec<String> = strings(&alias.colnames)
            .into_iter()
            .map(str::to_owned)
            .collect();
        if columns.len() > width {
            return refuse("shape", "VALUES has fewer columns than names");
        }
        columns.extend((columns.len()..width).map(|at| format!("column{}", at + 1)));
        if has_twice(&columns) {
            return refuse("column", "two columns have one name");
        }
        Ok(List {
            alias: &alias.aliasname,
            columns,
            rows,
        })
    }

    /// The column that the lines are sorted by, if any. They are in that order already, and nothing else goes by its name.
    fn order(&self, sort: &[pb::Node], outputs: &[&NodeEnum]) -> Compiled<Option<usize>> {
        let other = || refuse("insert-select", "sorts what it inserts");
        if sort.is_empty() {
            return Ok(None);
        }
        let [
            pb::Node {
                node: Some(NodeEnum::SortBy(by)),
            },
        ] = sort
        else {
            return other();
        };
        let ascending = [
            pb::SortByDir::SortbyDefault as i32,
            pb::SortByDir::SortbyAsc as i32,
        ];
        let Some(NodeEnum::ColumnRef(reference)) = inner(&by.node) else {
            return other();
        };
        let name = match strings(&reference.fields)[..] {
            [name] | [_, name] if reference.fields.len() <= 2 => name,
            _ => return other(),
        };
        let column = self.columns.iter().position(|column| column == name);
        let (true, Some(column)) = (ascending.contains(&by.sortby_dir), column) else {
            return other();
        };
        let numbers: Option<Vec<i64>> = self
            .rows
            .iter()
            .map(|row| integer_constant(row[column]))
            .collect();
        let sorted = numbers.is_some_and(|numbers| numbers.is_sorted_by(|a, b| a < b));
        let named_else = outputs
            .iter()
            .any(|output| !matches!(output_name(output), Some(known) if known != name));
        match sorted && !named_else {
            true => Ok(Some(column)),
            false => other(),
        }
    }

    /// What each line's expressions may name: the list's columns, but for the one that it is sorted by. Their types are those that each column's values have together.
    fn compiled(&self, compiler: &Compiler<'_>, order: Option<usize>) -> Compiled<Vec<Listed>> {
        let listed = |_| Listed {
            alias: self.alias.to_owned(),
            columns: BTreeMap::new(),
        };
        let mut all: Vec<Listed> = self.rows.iter().map(listed).collect();
        for (at, name) in self.columns.iter().enumerate() {
            if order == Some(at) {
                continue;
            }
            let pieces: Vec<Piece> = self
                .rows
                .iter()
                .map(|row| compiler.piece(row[at], 0))
                .collect::<Compiled<_>>()?;
            let values: Vec<Expr> = compiler.unified(pieces)?;
            if values.iter().any(|value| !value.is_fixed()) {
                return refuse("shape", "VALUES names a column");
            }
            for (line, value) in all.iter_mut().zip(values) {
                line.columns.insert(name.clone(), value);
            }
        }
        Ok(all)
    }
}

/// By which name an output goes that has none of its own; `None`: not known here.
fn output_name(node: &NodeEnum) -> Option<&str> {
    match node {
        NodeEnum::ColumnRef(reference) => strings(&reference.fields).pop(),
        NodeEnum::FuncCall(call) => strings(&call.funcname).pop(),
        NodeEnum::TypeCast(cast) => output_name(inner(&cast.arg)?),
        _ => None,
    }
}
