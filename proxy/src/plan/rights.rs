//! Privileges of the effective role, from the catalog (P7). Never grants what Postgres might not: an unknown role has no rights.

use super::names::Names;
use super::reason::Reason;
use ripen_cachestore::catalog::{Grants, Relation, Role, RoleOid};
use std::collections::BTreeSet;

/// A privilege on a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right {
    /// SELECT on these columns.
    Select,
    /// INSERT into these columns.
    Insert,
    /// UPDATE of these columns.
    Update,
    /// DELETE.
    Delete,
}

/// Whether the session's role has the right on all these columns, by the table's grants or the columns' own.
pub fn check(
    names: Names<'_>,
    relation: &Relation,
    right: Right,
    columns: &BTreeSet<usize>,
) -> Result<(), Reason> {
    let denied = || Reason::new("privilege", "the role may lack a privilege");
    let role = names
        .catalog
        .roles
        .get(&names.facts.user)
        .ok_or_else(denied)?;
    if role.superuser {
        return Ok(());
    }
    let namespace = names
        .catalog
        .namespaces
        .get(&relation.schema)
        .ok_or_else(denied)?;
    if !listed(role, &namespace.usage) {
        return Err(denied());
    }
    if listed(role, granted(&relation.grants, right)) {
        return Ok(());
    }
    let by_column = right != Right::Delete
        && !columns.is_empty()
        && columns.iter().all(|position| {
            relation
                .column(*position)
                .is_some_and(|column| listed(role, granted(&column.grants, right)))
        });
    if by_column { Ok(()) } else { Err(denied()) }
}

fn granted(grants: &Grants, right: Right) -> &BTreeSet<RoleOid> {
    match right {
        Right::Select => &grants.select,
        Right::Insert => &grants.insert,
        Right::Update => &grants.update,
        Right::Delete => &grants.delete,
    }
}

fn listed(role: &Role, grantees: &BTreeSet<RoleOid>) -> bool {
    grantees.contains(&RoleOid(0)) || role.acts_as.iter().any(|oid| grantees.contains(oid))
}
