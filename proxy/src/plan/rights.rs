//! Privileges of the effective role, from the catalog (P7). Never grants what Postgres might not: an unknown role has no rights.

use super::names::Names;
use super::reason::Reason;
use ripen_cachestore::catalog::{Catalog, Grants, Relation, Role, RoleOid, Sequence};
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

/// Whether the session's role may call `nextval` of the sequence.
pub fn may_draw(names: Names<'_>, sequence: &Sequence) -> bool {
    holds(names, &sequence.draw)
}

/// Whether it may call `currval` of it.
pub fn may_ask(names: Names<'_>, sequence: &Sequence) -> bool {
    holds(names, &sequence.ask)
}

fn holds(names: Names<'_>, grantees: &BTreeSet<RoleOid>) -> bool {
    let role = names.catalog.roles.get(&names.facts.user);
    role.is_some_and(|role| role.superuser || listed(role, grantees))
}

/// Whether Postgres's look for the row that a foreign key refers to is allowed: it selects for update as the owner of that table, who may have given up the right.
pub fn owner_may_look(names: Names<'_>, parent: &Relation) -> bool {
    let mut roles = names.catalog.roles.values();
    let Some(owner) = roles.find(|role| role.oid == parent.owner) else {
        return false;
    };
    let usage = names.catalog.namespaces.get(&parent.schema);
    let usage = usage.is_some_and(|namespace| listed(owner, &namespace.usage));
    let rights = [Right::Select, Right::Update];
    let granted = |right| listed(owner, granted(&parent.grants, right));
    owner.superuser || usage && rights.into_iter().all(granted)
}

/// Whether a role may see what a user's sessions do and from where, as `pg_stat_activity` decides: superusers, who has the user's privileges, and members of
/// `pg_read_all_stats`. `role`: `None` when it is not known for certain.
pub fn may_watch(catalog: &Catalog, role: Option<&str>, user: &str) -> bool {
    let Some(role) = role.and_then(|role| catalog.roles.get(role)) else {
        return false;
    };
    let acts_as = |name: &str| {
        let other = catalog.roles.get(name);
        other.is_some_and(|other| role.acts_as.contains(&other.oid))
    };
    role.superuser || acts_as(user) || acts_as("pg_read_all_stats")
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

#[cfg(test)]
mod tests {
    use super::*;

    fn catalog() -> Catalog {
        let role = |oid: u32, superuser, also: &[u32]| Role {
            oid: RoleOid(oid),
            superuser,
            bypass_rls: false,
            acts_as: also.iter().chain([&oid]).copied().map(RoleOid).collect(),
        };
        let roles = [
            ("root", role(10, true, &[])),
            ("pg_read_all_stats", role(3375, false, &[])),
            ("watcher", role(20, false, &[3375])),
            ("alice", role(21, false, &[])),
            ("alices_boss", role(22, false, &[21])),
        ];
        Catalog {
            roles: roles.map(|(name, role)| (name.into(), role)).into(),
            ..Catalog::default()
        }
    }

    #[test]
    fn sessions_are_watched_by_superusers_by_their_own_and_by_who_may_read_all_stats() {
        let catalog = catalog();
        let may = |role, user| may_watch(&catalog, role, user);
        for role in ["root", "watcher", "alice", "alices_boss"] {
            assert!(may(Some(role), "alice"), "{role}");
        }
        assert!(may(Some("root"), "nobody we know") && may(Some("watcher"), "root"));
        assert!(!may(Some("alice"), "root") && !may(Some("alice"), "alices_boss"));
        assert!(!may(Some("alice"), "nobody we know"));
    }

    #[test]
    fn an_unknown_role_watches_nobody() {
        assert!(!may_watch(&catalog(), None, "alice"));
        assert!(!may_watch(&catalog(), Some("stranger"), "stranger"));
        assert!(!may_watch(&Catalog::default(), Some("root"), "root"));
    }
}
