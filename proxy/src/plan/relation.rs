//! Whether a table may be answered for from memory, and under which name a statement speaks of it. Never looks at expressions.

use super::compile::{Compiled, Compiler, refuse};
use super::facts::Mode;
use super::names::{Named, Names};
use super::parse::pb;
use super::reason::Reason;
use ripen_cachestore::catalog::Relation;
use std::sync::Arc;

/// The one cacheable table that a RangeVar names.
pub fn cacheable(
    names: Names<'_>,
    var: &pb::RangeVar,
    mode: &dyn Fn(&Relation) -> Mode,
) -> Compiled<(Arc<Relation>, Mode)> {
    let relation = known(names, var)?;
    let mode = mode(&relation);
    let obstacle = relation.read_obstacles.first().copied();
    match () {
        () if mode == Mode::Off => refuse("mode-off", "the table is not cached"),
        () if relation.kind != 'r' => refuse("not-a-table", "this is not a plain table"),
        () if obstacle.is_some() => {
            refuse("obstacle", obstacle.unwrap_or("the table cannot be cached"))
        }
        () if relation.primary_key.is_empty() => refuse("no-key", "the table has no primary key"),
        () => Ok((relation, mode)),
    }
}

/// The same for an INSERT: it needs no names for its rows.
pub fn appendable(
    names: Names<'_>,
    var: &pb::RangeVar,
    mode: &dyn Fn(&Relation) -> Mode,
) -> Compiled<(Arc<Relation>, Mode)> {
    let relation = known(names, var)?;
    let how = mode(&relation);
    match relation.appends() && how != Mode::Off {
        true => Ok((relation, how)),
        false => cacheable(names, var, mode),
    }
}

fn known(names: Names<'_>, var: &pb::RangeVar) -> Compiled<Arc<Relation>> {
    if !names.facts.plain_settings {
        return refuse("settings", "a setting changes how statements are read");
    }
    match names.relation(var) {
        Named::Known {
            relation,
            sure: true,
        } => Ok(relation),
        Named::Known { .. } => refuse("temporary", "a temporary table may hide the table"),
        Named::System => refuse("system-table", "reads system tables"),
        Named::Temporary => refuse("temporary", "names a temporary table"),
        Named::Nowhere | Named::Unknown => refuse("unknown-table", "the table is not known"),
    }
}

/// Points a compiler at a relation under its alias.
pub fn speak_of<'a>(
    compiler: &mut Compiler<'a>,
    relation: &'a Relation,
    var: &pb::RangeVar,
) -> Result<(), Reason> {
    compiler.relation = Some(relation);
    compiler.qualifier = match &var.alias {
        Some(alias) if !alias.colnames.is_empty() => {
            return refuse("alias", "renames columns");
        }
        Some(alias) => alias.aliasname.clone(),
        None => var.relname.clone(),
    };
    Ok(())
}
