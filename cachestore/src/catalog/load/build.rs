//! Turns the rows of the catalog queries into a [`Catalog`]. Never asks Postgres: what a row does not say is taken for the worst.

mod index;
mod sequence;

use super::graph::{self, Relations, acts_as};
use crate::catalog::*;
use crate::error::StoreError;
use index::Index;
use ripen_pg::ids::{TableOid, TypeOid};
use ripen_pg::value;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use tokio_postgres::Row;

/// From version 14 on: whoever acts as this role may read every table.
const PG_READ_ALL_DATA: RoleOid = RoleOid(6181);
/// And this one may write every table.
const PG_WRITE_ALL_DATA: RoleOid = RoleOid(6182);

type Result<T> = std::result::Result<T, StoreError>;

/// A catalog in the making.
pub struct Builder {
    catalog: Catalog,
    relations: BTreeMap<TableOid, Relation>,
    graph: Relations,
    owner: RoleOid,
    encoding: String,
    default_collation: Collation,
    /// Columns that index expressions (by index) and generated columns (by relation) compute with.
    computed_from: HashMap<u32, BTreeSet<usize>>,
}

impl Builder {
    /// Starts with the row of [`super::sql::DATABASE`].
    pub fn new(epoch: Epoch, fingerprint: String, row: &Row) -> Result<Builder> {
        let foreign: Vec<String> = row.try_get(7)?;
        let collation: &str = row.try_get(3)?;
        Ok(Builder {
            catalog: Catalog {
                epoch,
                fingerprint,
                server_version: row.try_get::<_, i32>(0)? as u32,
                database: row.try_get(1)?,
                event_triggers: row.try_get(5)?,
                untrusted_operators: row.try_get(6)?,
                foreign_operators: foreign.into_iter().collect(),
                asks_sequences: row.try_get(8)?,
                ..Catalog::default()
            },
            relations: BTreeMap::new(),
            graph: Relations::default(),
            owner: RoleOid(row.try_get(4)?),
            encoding: row.try_get(2)?,
            default_collation: collation_of(collation, Collation::Deterministic),
            computed_from: HashMap::new(),
        })
    }

    /// The server's version.
    pub fn version(&self) -> u32 {
        self.catalog.server_version
    }

    pub fn namespaces(&mut self, rows: &[Row]) -> Result<()> {
        for row in rows {
            let mut usage: BTreeSet<RoleOid> = role_set(row.try_get(2)?);
            if self.version() >= 140_000 {
                usage.extend([PG_READ_ALL_DATA, PG_WRITE_ALL_DATA]);
            }
            let oid = NamespaceOid(row.try_get(0)?);
            let namespace = Namespace { oid, usage };
            self.catalog.namespaces.insert(row.try_get(1)?, namespace);
        }
        Ok(())
    }

    pub fn roles(&mut self, roles: &[Row], members: &[Row]) -> Result<()> {
        let members = members
            .iter()
            .map(|row| {
                let (member, role) = (RoleOid(row.try_get(0)?), RoleOid(row.try_get(1)?));
                Ok((member, role, row.try_get(2)?))
            })
            .collect::<Result<Vec<_>>>()?;
        let inherits = roles
            .iter()
            .map(|row| Ok((RoleOid(row.try_get(0)?), row.try_get(4)?)))
            .collect::<Result<BTreeMap<_, bool>>>()?;
        for row in roles {
            let oid = RoleOid(row.try_get(0)?);
            let role = Role {
                oid,
                superuser: row.try_get(2)?,
                bypass_rls: row.try_get(3)?,
                acts_as: acts_as(&members, &inherits, self.owner, oid),
            };
            self.catalog.roles.insert(row.try_get(1)?, role);
        }
        Ok(())
    }

    pub fn functions(&mut self, rows: &[Row]) -> Result<()> {
        for row in rows {
            let function = Function {
                namespace: NamespaceOid(row.try_get(0)?),
                builtin: row.try_get(2)?,
                volatility: match row.try_get::<_, i32>(3)? {
                    0 => Volatility::Immutable,
                    1 => Volatility::Stable,
                    _ => Volatility::Volatile,
                },
            };
            let same_name = self.catalog.functions.entry(row.try_get(1)?).or_default();
            same_name.push(function);
        }
        Ok(())
    }

    pub fn types(&mut self, rows: &[Row]) -> Result<()> {
        let mut domains = HashMap::new();
        for row in rows {
            let oid = TypeOid(row.try_get(0)?);
            let element: u32 = row.try_get(6)?;
            let kind = match row.try_get::<_, &str>(3)? {
                "d" => {
                    let base = TypeOid(row.try_get(4)?);
                    domains.insert(oid, (base, row.try_get::<_, bool>(5)?));
                    TypeKind::Other
                }
                "e" => TypeKind::Enum(row.try_get(7)?),
                "b" if element != 0 => TypeKind::Array(TypeOid(element)),
                "b" => TypeKind::Base,
                _ => TypeKind::Other,
            };
            let known = TypeDef {
                oid,
                sql_name: row.try_get(1)?,
                length: row.try_get(2)?,
                kind,
            };
            self.catalog.types.insert(oid, known);
        }
        for oid in domains.keys() {
            let (mut base, mut constrained) = (*oid, false);
            while let Some((below, checks)) = domains.get(&base) {
                (base, constrained) = (*below, constrained || *checks);
            }
            if let Some(domain) = self.catalog.types.get_mut(oid) {
                domain.kind = TypeKind::Domain { base, constrained };
            }
        }
        Ok(())
    }

    pub fn relations(&mut self, rows: &[Row]) -> Result<()> {
        for row in rows {
            let relation = self.relation(row)?;
            self.relations.insert(relation.oid, relation);
        }
        Ok(())
    }

    fn relation(&self, row: &Row) -> Result<Relation> {
        let oid = TableOid(row.try_get(0)?);
        let schema: String = row.try_get(2)?;
        let (kind, persistence) = (char_at(row, 4)?, char_at(row, 5)?);
        let row_security: bool = row.try_get(8)?;
        let (partition, system): (bool, bool) = (row.try_get(9)?, row.try_get(11)?);
        let obstacles = [
            (system, "system catalog"),
            (schema == "ripen", "belongs to Ripen"),
            (kind == 'v', "is a view"),
            (kind == 'm', "is a materialized view"),
            (kind == 'f', "is a foreign table"),
            (kind == 'S', "is a sequence"),
            (kind == 'p', "is partitioned"),
            (partition, "is a partition"),
            (persistence == 'u', "is unlogged"),
            (persistence == 't', "is temporary"),
            (row_security, "row security is enabled"),
            (self.encoding != "UTF8", "database encoding is not UTF8"),
        ];
        let obstacles: Vec<&'static str> = obstacles
            .into_iter()
            .filter_map(|(applies, name)| applies.then_some(name))
            .collect();
        Ok(Relation {
            oid,
            namespace: NamespaceOid(row.try_get(1)?),
            schema,
            name: row.try_get(3)?,
            kind,
            persistence,
            columns: Vec::new(),
            storage: row.try_get(12)?,
            width: row.try_get::<_, i16>(6)? as usize,
            primary_key: Vec::new(),
            primary_key_name: String::new(),
            checks: Vec::new(),
            unique_columns: BTreeSet::new(),
            indexed_columns: BTreeSet::new(),
            indexes: BTreeSet::new(),
            expression_columns: BTreeSet::new(),
            replica_identity: char_at(row, 10)?,
            foreign_keys: Vec::new(),
            foreign_key_columns: BTreeSet::new(),
            referenced_columns: BTreeSet::new(),
            parents: BTreeSet::new(),
            children: BTreeSet::new(),
            deferred: BTreeSet::new(),
            write_obstacles: obstacles.clone(),
            read_obstacles: obstacles,
            opaque_read: false,
            opaque_write: false,
            read_closure: BTreeSet::new(),
            write_closure: BTreeSet::new(),
            row_security,
            owner: RoleOid(row.try_get(7)?),
            grants: Grants::default(),
        })
    }

    pub fn columns(&mut self, rows: &[Row]) -> Result<()> {
        for row in rows {
            let column = self.column(row)?;
            if let Some(relation) = self.relation_at(row, 0)? {
                relation.columns.push(column);
            }
        }
        Ok(())
    }

    fn column(&self, row: &Row) -> Result<Column> {
        Ok(Column {
            position: row.try_get::<_, i16>(1)? as usize - 1,
            name: row.try_get(2)?,
            type_oid: TypeOid(row.try_get(3)?),
            type_modifier: row.try_get(4)?,
            not_null: row.try_get(5)?,
            collation: collation_of(row.try_get(6)?, self.default_collation),
            default: row.try_get(7)?,
            generated: char_at(row, 8)?,
            identity: char_at(row, 9)?,
            collated: row.try_get(10)?,
            sequence: None,
            grants: Grants::default(),
        })
    }

    pub fn grants(&mut self, rows: &[Row]) -> Result<()> {
        for row in rows {
            let position = row.try_get::<_, i16>(1)? as usize;
            let role = RoleOid(row.try_get(3)?);
            let Some(relation) = self.relation_at(row, 0)? else {
                continue;
            };
            let grants = match position {
                0 => Some(&mut relation.grants),
                _ => {
                    let mut columns = relation.columns.iter_mut();
                    let column = columns.find(|column| column.position + 1 == position);
                    column.map(|column| &mut column.grants)
                }
            };
            if let Some(roles) = grants.and_then(|grants| privilege(grants, row.try_get(2).ok()?)) {
                roles.insert(role);
            }
        }
        if self.version() >= 140_000 {
            self.grant_predefined();
        }
        Ok(())
    }

    /// `pg_read_all_data` and `pg_write_all_data` need no grant.
    fn grant_predefined(&mut self) {
        for relation in self.relations.values_mut() {
            relation.grants.select.insert(PG_READ_ALL_DATA);
            for roles in [
                &mut relation.grants.insert,
                &mut relation.grants.update,
                &mut relation.grants.delete,
            ] {
                roles.insert(PG_WRITE_ALL_DATA);
            }
        }
    }

    pub fn computed_from(&mut self, rows: &[Row]) -> Result<()> {
        for row in rows {
            let position = row.try_get::<_, i32>(1)? as usize - 1;
            let object: u32 = row.try_get(0)?;
            self.computed_from
                .entry(object)
                .or_default()
                .insert(position);
            // A relation's OID: generated columns. Indexes have other OIDs.
            if let Some(relation) = self.relations.get_mut(&TableOid(object)) {
                relation.expression_columns.insert(position);
            }
        }
        Ok(())
    }

    pub fn indexes(&mut self, rows: &[Row]) -> Result<()> {
        for row in rows {
            let index = Index::read(row, &self.computed_from)?;
            if let Some(relation) = self.relation_at(row, 0)? {
                index.note(relation);
            }
        }
        Ok(())
    }

    pub fn constraints(&mut self, rows: &[Row]) -> Result<()> {
        for row in rows {
            let valid: bool = row.try_get(8)?;
            match row.try_get::<_, &str>(2)? {
                "f" => self.foreign_key(row)?,
                _ => {
                    let check = check(row)?;
                    if let Some(relation) = self.relation_at(row, 0)? {
                        relation.checks.push(check);
                        if !valid {
                            obstacle(
                                &mut relation.write_obstacles,
                                "has a constraint that is not valid",
                            );
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn foreign_key(&mut self, row: &Row) -> Result<()> {
        let (child, parent) = (TableOid(row.try_get(0)?), TableOid(row.try_get(4)?));
        let deferrable: bool = row.try_get(10)?;
        let deferred = |other| deferrable.then_some(other);
        if let Some(relation) = self.relations.get_mut(&child) {
            relation.deferred.extend(deferred(parent));
            relation
                .foreign_key_columns
                .extend(positions(row.try_get(3)?));
            relation.parents.insert(parent);
            relation.foreign_keys.push(ForeignKey {
                columns: positions(row.try_get(3)?),
                parent,
                referenced: positions(row.try_get(5)?),
                simple: row.try_get(11)?,
            });
        }
        if let Some(relation) = self.relations.get_mut(&parent) {
            relation.deferred.extend(deferred(child));
            relation
                .referenced_columns
                .extend(positions(row.try_get(5)?));
            relation.children.insert(child);
        }
        let writes = |action: &str| matches!(action, "c" | "n" | "d");
        if writes(row.try_get(6)?) || writes(row.try_get(7)?) {
            self.graph.cascades.entry(parent).or_default().insert(child);
        }
        Ok(())
    }

    pub fn edges(&mut self, rows: &[Row]) -> Result<()> {
        for row in rows {
            let (from, to) = (TableOid(row.try_get(0)?), TableOid(row.try_get(1)?));
            if !self.relations.contains_key(&from) || !self.relations.contains_key(&to) {
                continue;
            }
            if row.try_get::<_, &str>(2)? == "r" {
                self.graph.reads.entry(from).or_default().insert(to);
                continue;
            }
            self.graph.contains.entry(from).or_default().insert(to);
            self.forbid(from, "has inheritance children", |relation| {
                relation.kind != 'p'
            });
            self.forbid(to, "has an inheritance parent", |relation| {
                !relation.write_obstacles.contains(&"is a partition")
            });
        }
        Ok(())
    }

    fn forbid(&mut self, oid: TableOid, why: &'static str, when: impl Fn(&Relation) -> bool) {
        if let Some(relation) = self.relations.get_mut(&oid).filter(|found| when(found)) {
            obstacle(&mut relation.read_obstacles, why);
            obstacle(&mut relation.write_obstacles, why);
        }
    }

    pub fn hooks(&mut self, rows: &[Row]) -> Result<()> {
        for row in rows {
            let why = match row.try_get::<_, &str>(1)? {
                "t" => "has triggers",
                _ => "has rules",
            };
            if let Some(relation) = self.relation_at(row, 0)? {
                obstacle(&mut relation.write_obstacles, why);
                relation.opaque_write = true;
            }
        }
        Ok(())
    }

    pub fn opaque(&mut self, rows: &[Row]) -> Result<()> {
        for row in rows {
            let reads = row.try_get::<_, &str>(1)? == "r";
            if let Some(relation) = self.relation_at(row, 0)? {
                relation.opaque_read |= reads;
                // What runs when a view or a protected table is read runs when it is written, too.
                relation.opaque_write = true;
            }
        }
        Ok(())
    }

    /// Draws the conclusions that need everything.
    pub fn finish(mut self) -> Catalog {
        graph::close(&mut self.relations, &self.graph);
        for relation in self.relations.values_mut() {
            for why in key_obstacles(&self.catalog, relation) {
                obstacle(&mut relation.read_obstacles, why);
                if !relation.primary_key.is_empty() {
                    obstacle(&mut relation.write_obstacles, why);
                }
            }
        }
        for (oid, relation) in self.relations {
            let name = (relation.namespace, relation.name.clone());
            self.catalog.names.insert(name, oid);
            self.catalog.relations.insert(oid, Arc::new(relation));
        }
        self.catalog
    }

    fn relation_at(&mut self, row: &Row, column: usize) -> Result<Option<&mut Relation>> {
        Ok(self.relations.get_mut(&TableOid(row.try_get(column)?)))
    }
}

/// Why the primary key does not name rows here. Where there is none, inserts need no names.
fn key_obstacles(catalog: &Catalog, relation: &Relation) -> Vec<&'static str> {
    let mut found = Vec::new();
    if relation.primary_key.is_empty() && matches!(relation.kind, 'r' | 'p') {
        found.push(KEYLESS);
    }
    let key = relation.primary_key.iter();
    for column in key.filter_map(|position| relation.column(*position)) {
        if !value::key::keyable(catalog.value_type(column.type_oid)) {
            found.push("type of a primary key column has no canonical form");
        }
        if column.collation == Collation::Nondeterministic {
            found.push("collation of a primary key column is not deterministic");
        }
    }
    if relation.replica_identity == 'n' && relation.kind == 'r' {
        found.push(FOREIGN_IDENTITY);
    }
    found
}

fn check(row: &Row) -> Result<Check> {
    let columns: Vec<i16> = row.try_get(3)?;
    // 0 is the whole row, negative ones are system columns: unknown.
    let known = columns.iter().all(|number| *number > 0);
    Ok(Check {
        name: row.try_get(1)?,
        expression: row.try_get::<_, Option<String>>(9)?.unwrap_or_default(),
        columns: if known {
            positions(columns).into_iter().collect()
        } else {
            BTreeSet::new()
        },
    })
}

fn obstacle(list: &mut Vec<&'static str>, why: &'static str) {
    if !list.contains(&why) {
        list.push(why);
    }
}

/// Column numbers as positions, without 0 (an expression) and system columns.
fn positions(numbers: Vec<i16>) -> Vec<usize> {
    numbers
        .into_iter()
        .filter_map(|number| usize::try_from(number).ok()?.checked_sub(1))
        .collect()
}

fn privilege<'a>(grants: &'a mut Grants, name: &str) -> Option<&'a mut BTreeSet<RoleOid>> {
    Some(match name {
        "SELECT" => &mut grants.select,
        "INSERT" => &mut grants.insert,
        "UPDATE" => &mut grants.update,
        "DELETE" => &mut grants.delete,
        _ => return None,
    })
}

fn role_set(oids: Vec<u32>) -> BTreeSet<RoleOid> {
    oids.into_iter().map(RoleOid).collect()
}

fn collation_of(text: &str, default: Collation) -> Collation {
    match text {
        "-" => Collation::None,
        "C" => Collation::C,
        "d" => Collation::Deterministic,
        "*" => default,
        _ => Collation::Nondeterministic,
    }
}

/// A "char" cast to text; empty for '\0'.
fn char_at(row: &Row, column: usize) -> Result<char> {
    Ok(row
        .try_get::<_, &str>(column)?
        .chars()
        .next()
        .unwrap_or('\0'))
}
