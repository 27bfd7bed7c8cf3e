//! Foreign keys of rows that are written: which rows of other tables must be there for Postgres to accept them. Never accepts a key that it cannot name exactly.

use super::{Action, Assignment, Conflict};
use crate::eval::expr::{Expr, Node};
use crate::eval::keys::{KeyColumn, KeyTemplate, Operand};
use crate::plan::compile::{Compiled, Compiler, refuse};
use crate::plan::facts::Mode;
use crate::plan::reason::Reason;
use crate::plan::rights;
use ripen_cachestore::catalog::{ForeignKey, Relation};
use ripen_pg::ids::TypeOid;
use ripen_pg::value::oid;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Rows of one table that must be in Postgres before the statement's are.
#[derive(Debug)]
pub(crate) struct Parents {
    pub table: Arc<Relation>,
    /// A row with NULL in the foreign key names none.
    pub keys: KeyTemplate,
}

/// Those of an action, for each of the table's foreign keys that it gives values to.
pub(super) fn parents(
    compiler: &Compiler<'_>,
    table: &Relation,
    action: &Action,
    mode: &dyn Fn(&Relation) -> Mode,
) -> Compiled<Vec<Parents>> {
    let mut found = Vec::new();
    for key in &table.foreign_keys {
        let rows = match action {
            Action::Insert { rows, conflict } => {
                if let Conflict::Update(change) = conflict {
                    repeats(key, &change.set)?;
                }
                inserted(key, rows)?
            }
            Action::Update(change) => match assigned(key, &change.set)? {
                Some(row) => vec![row],
                None => continue,
            },
            Action::Delete { .. } => continue,
        };
        found.push(of_key(compiler, table, key, &rows, mode)?);
    }
    Ok(found)
}

fn inserted<'e>(
    key: &ForeignKey,
    rows: &'e [BTreeMap<usize, Expr>],
) -> Compiled<Vec<Vec<&'e Expr>>> {
    let row = |row: &'e BTreeMap<usize, Expr>| {
        let values = key.columns.iter().map(|position| row.get(position));
        let values: Option<Vec<&Expr>> = values.collect();
        values.ok_or_else(|| Reason::new("foreign-key", "a column of a foreign key has no value"))
    };
    rows.iter().map(row).collect()
}

/// The values that a SET list gives to the key. `None`: it gives none.
fn assigned<'e>(key: &ForeignKey, set: &'e [Assignment]) -> Compiled<Option<Vec<&'e Expr>>> {
    let value = |position: &usize| {
        let found = set.iter().find(|one| one.position == *position);
        found.map(|one| &one.expr)
    };
    let values: Vec<Option<&Expr>> = key.columns.iter().map(value).collect();
    if values.iter().all(Option::is_none) {
        return Ok(None);
    }
    let values: Option<Vec<&Expr>> = values.into_iter().collect();
    match values.filter(|values| values.iter().all(|expr| expr.is_fixed())) {
        Some(values) => Ok(Some(values)),
        None => refuse(
            "foreign-key",
            "changes a foreign key by what is in the row, or a part of it",
        ),
    }
}

/// ON CONFLICT DO UPDATE may assign what was to be inserted, which has been looked at.
fn repeats(key: &ForeignKey, set: &[Assignment]) -> Compiled<()> {
    let of_key = |one: &&Assignment| key.columns.contains(&one.position);
    let excluded =
        |one: &Assignment| matches!(one.expr.node, Node::Excluded(at) if at == one.position);
    let mut those = set.iter().filter(of_key).peekable();
    if those.peek().is_none() {
        return Ok(());
    }
    let mut positions = key.columns.iter();
    let all = positions.all(|at| set.iter().any(|one| one.position == *at && excluded(one)));
    match all {
        true => Ok(()),
        false => refuse("foreign-key", "changes a column of a foreign key"),
    }
}

fn of_key(
    compiler: &Compiler<'_>,
    table: &Relation,
    key: &ForeignKey,
    rows: &[Vec<&Expr>],
    mode: &dyn Fn(&Relation) -> Mode,
) -> Compiled<Parents> {
    let catalog = compiler.names.catalog;
    let no = |why: &'static str| Reason::new("foreign-key", why);
    let parent = catalog.relations.get(&key.parent);
    let parent = parent.ok_or_else(|| no("refers to a table that is not known"))?;
    let cached =
        parent.kind == 'r' && parent.read_obstacles.is_empty() && mode(parent) != Mode::Off;
    if !cached {
        return Err(no("refers to a table that is not cached"));
    }
    if !key.simple || !rights::owner_may_look(compiler.names, parent) {
        return Err(no("a foreign key is not looked after here"));
    }
    let mut order = Vec::with_capacity(parent.primary_key.len());
    for position in &parent.primary_key {
        let at = key
            .referenced
            .iter()
            .position(|referenced| referenced == position);
        order.push(at.ok_or_else(|| no("refers to something else than a primary key"))?);
    }
    if order.len() != key.referenced.len() {
        return Err(no("refers to something else than a primary key"));
    }
    let types = catalog.key_types(parent);
    for (at, type_oid) in order.iter().zip(&types) {
        let column = table.column(key.columns[*at]);
        let column = column.map(|column| catalog.value_type(column.type_oid));
        if column.map(text_alike) != Some(text_alike(*type_oid)) {
            return Err(no("a foreign key has another type than what it refers to"));
        }
    }
    let column = |(place, at): (usize, &usize), row: &[&Expr]| -> Compiled<KeyColumn> {
        let expr = row[*at];
        if expr.needs_now() {
            return Err(no("a foreign key is not known beforehand"));
        }
        let column = parent.column(parent.primary_key[place]);
        let column = column.ok_or_else(|| no("refers to something else than a primary key"))?;
        let info = compiler.type_info(column.type_oid)?;
        Ok(KeyColumn {
            type_oid: info.type_oid,
            repr: info.repr,
            order: None,
            operand: Operand::One(expr.clone()),
        })
    };
    let row = |row: &Vec<&Expr>| {
        let columns = order.iter().enumerate();
        columns
            .map(|place| column(place, row))
            .collect::<Compiled<Vec<_>>>()
    };
    Ok(Parents {
        table: parent.clone(),
        keys: KeyTemplate {
            params: Vec::new(),
            rows: rows.iter().map(row).collect::<Compiled<Vec<_>>>()?,
            distinct: false,
            ordered: false,
        },
    })
}

fn text_alike(type_oid: TypeOid) -> TypeOid {
    match type_oid {
        oid::VARCHAR => oid::TEXT,
        other => other,
    }
}
