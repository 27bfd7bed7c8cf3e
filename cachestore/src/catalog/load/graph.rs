//! What follows from what: transitive closures over relations and roles. Pure functions; never asks Postgres.

use crate::catalog::{Relation, RoleOid};
use ripen_pg::ids::TableOid;
use std::collections::{BTreeMap, BTreeSet};

/// Who leads to whom.
pub type Edges<T> = BTreeMap<T, BTreeSet<T>>;

/// Everything that can be reached from `start`, itself included.
pub fn reach<T: Ord + Copy>(edges: &Edges<T>, start: T) -> BTreeSet<T> {
    let (mut seen, mut open) = (BTreeSet::from([start]), vec![start]);
    while let Some(node) = open.pop() {
        for next in edges.get(&node).into_iter().flatten() {
            if seen.insert(*next) {
                open.push(*next);
            }
        }
    }
    seen
}

/// Roles whose privileges each role has. `members`: member, role, and from version 16 on whether this very membership inherits;
/// before, the member's own INHERIT says so. `owner`: the database's owner, who has `pg_database_owner` (OID 6171).
pub fn acts_as(
    members: &[(RoleOid, RoleOid, Option<bool>)],
    inherits: &BTreeMap<RoleOid, bool>,
    owner: RoleOid,
    role: RoleOid,
) -> BTreeSet<RoleOid> {
    let mut edges = Edges::new();
    for (member, group, option) in members {
        if option.unwrap_or_else(|| inherits.get(member).copied().unwrap_or(true)) {
            edges.entry(*member).or_default().insert(*group);
        }
    }
    edges.entry(owner).or_default().insert(RoleOid(6171));
    reach(&edges, role)
}

/// How relations lead to each other.
#[derive(Default)]
pub struct Relations {
    /// View or policy → what it reads.
    pub reads: Edges<TableOid>,
    /// Parent → children: partitions and inheritance.
    pub contains: Edges<TableOid>,
    /// Referenced → referencing table, where the foreign key writes (CASCADE, SET NULL, SET DEFAULT).
    pub cascades: Edges<TableOid>,
}

/// Fills closures, and spreads `opaque_*` along them.
pub fn close(relations: &mut BTreeMap<TableOid, Relation>, graph: &Relations) {
    let (reading, writing) = (reading(relations, graph), writing(relations, graph));
    let opaque = |pick: fn(&Relation) -> bool| -> BTreeSet<TableOid> {
        let found = relations.values().filter(|relation| pick(relation));
        found.map(|relation| relation.oid).collect()
    };
    let opaque_read = opaque(|relation| relation.opaque_read);
    let opaque_write = opaque(|relation| relation.opaque_write);
    for relation in relations.values_mut() {
        relation.read_closure = reach(&reading, relation.oid);
        relation.write_closure = reach(&writing, relation.oid);
        relation.opaque_read |= !relation.read_closure.is_disjoint(&opaque_read);
        relation.opaque_write |= !relation.write_closure.is_disjoint(&opaque_write);
        relation.write_closure.remove(&relation.oid);
    }
}

fn reading(relations: &BTreeMap<TableOid, Relation>, graph: &Relations) -> Edges<TableOid> {
    let mut edges = graph.contains.clone();
    for (from, to) in &graph.reads {
        // A materialized view is read from its own storage.
        if relations.get(from).is_some_and(|found| found.kind != 'm') {
            edges.entry(*from).or_default().extend(to);
        }
    }
    edges
}

fn writing(relations: &BTreeMap<TableOid, Relation>, graph: &Relations) -> Edges<TableOid> {
    let mut edges = graph.contains.clone();
    for (from, to) in &graph.cascades {
        edges.entry(*from).or_default().extend(to);
    }
    for (from, to) in &graph.reads {
        if relations.get(from).is_some_and(|found| found.kind == 'v') {
            edges.entry(*from).or_default().extend(to);
        }
    }
    // A write to a partition is one to its parent, for whoever watches the parent.
    for (parent, children) in &graph.contains {
        for child in children {
            edges.entry(*child).or_default().insert(*parent);
        }
    }
    edges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reach_survives_cycles() {
        let edges: Edges<u32> = [(1, [2].into()), (2, [3, 1].into()), (4, [1].into())].into();
        assert_eq!(reach(&edges, 1), [1, 2, 3].into());
        assert_eq!(reach(&edges, 9), [9].into());
    }

    #[test]
    fn membership_is_followed_as_the_version_says() {
        let role = RoleOid;
        let (a, b, c) = (role(1), role(2), role(3));
        let inherits = [(a, true), (b, false), (c, true)].into();
        // Before 16: b does not inherit, so a reaches b but not c.
        let old = [(a, b, None), (b, c, None)];
        assert_eq!(acts_as(&old, &inherits, c, a), [a, b].into());
        // From 16: each membership says it.
        let new = [(a, b, Some(true)), (b, c, Some(true)), (a, c, Some(false))];
        assert_eq!(acts_as(&new, &inherits, role(9), a), [a, b, c].into());
        assert_eq!(acts_as(&new, &inherits, c, a), [a, b, c, role(6171)].into());
    }
}
