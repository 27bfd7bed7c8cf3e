//! What the system of record's catalog says, as one immutable value per epoch. Loaded by `catalog/load.rs`; never asks Postgres itself.
//!
//! Invariant: a planner that holds an `Arc<Catalog>` sees one consistent schema; plans carry the epoch they were made under.

mod load;
mod remembered;

use ripen_pg::ids::{TableOid, TypeOid};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// Counts the versions of the catalog seen by this process. A plan of another epoch must be made anew.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Epoch(pub u64);

/// OID of a schema (`pg_namespace.oid`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NamespaceOid(pub u32);

/// OID of a role (`pg_authid.oid`); 0 stands for PUBLIC in grants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RoleOid(pub u32);

/// Everything the planner, the loader and the flusher need to know about the schema.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Catalog {
    /// Which version this is.
    pub epoch: Epoch,
    /// What `Store::catalog_fingerprint` said when it was loaded: another answer means that the schema has changed.
    pub fingerprint: String,
    /// `server_version_num`.
    pub server_version: u32,
    /// `current_database()`.
    pub database: String,
    /// Relations by OID.
    pub relations: HashMap<TableOid, Arc<Relation>>,
    /// OID by schema and name.
    #[serde(skip)]
    pub names: HashMap<(NamespaceOid, String), TableOid>,
    /// Schemas by name.
    pub namespaces: HashMap<String, Namespace>,
    /// Roles by name.
    pub roles: HashMap<String, Role>,
    /// Functions by name; each entry sums up all overloads of that (schema, name).
    pub functions: HashMap<String, Vec<Function>>,
    /// Types by OID: those that columns use, and the built-in ones.
    pub types: HashMap<TypeOid, TypeDef>,
    /// Whether operators or casts outside `pg_catalog` run SQL or PL code, so that any expression may read tables.
    pub untrusted_operators: bool,
    /// Operators made outside `pg_catalog` (name only): a statement using one of these names is not computed here.
    pub foreign_operators: BTreeSet<String>,
    /// Whether any event trigger is enabled (`pg_event_trigger.evtenabled <> 'D'`): then every DDL statement runs user code.
    pub event_triggers: bool,
    /// Sequences that may be drawn from in blocks, and those that may not.
    #[serde(default)]
    pub sequences: HashMap<TableOid, Arc<Sequence>>,
    /// Whether code of users or a view speaks of `currval` or `lastval`: then what a session has drawn matters to statements that do not say so.
    #[serde(default)]
    pub asks_sequences: bool,
    /// Whether it comes from an earlier process, Postgres not having been asked yet: see [`Catalog::recall`].
    #[serde(skip)]
    pub remembered: bool,
    /// Tables that are to be in memory as a whole. Not read from Postgres: whoever uses the catalog says which.
    #[serde(skip)]
    pub residents: BTreeSet<TableOid>,
}

/// A schema.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Namespace {
    /// Its OID.
    pub oid: NamespaceOid,
    /// Roles with USAGE, as granted (0 = PUBLIC, owner included).
    pub usage: BTreeSet<RoleOid>,
}

/// A role and what it inherits.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Role {
    /// Its OID.
    pub oid: RoleOid,
    /// Superusers bypass all checks.
    pub superuser: bool,
    /// BYPASSRLS.
    pub bypass_rls: bool,
    /// Itself and every role whose privileges it has by inheritance (transitively).
    pub acts_as: BTreeSet<RoleOid>,
}

/// All overloads of one function name in one schema.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Function {
    /// The schema.
    pub namespace: NamespaceOid,
    /// Whether the schema is `pg_catalog` and the language internal or C, for all overloads.
    pub builtin: bool,
    /// The worst volatility among the overloads.
    pub volatility: Volatility,
}

/// `pg_proc.provolatile`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Volatility {
    /// `i`
    Immutable,
    /// `s`
    Stable,
    /// `v`
    Volatile,
}

/// A data type.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TypeDef {
    /// Its OID.
    pub oid: TypeOid,
    /// Its name, quoted as needed with schema unless built in; usable after `::`.
    pub sql_name: String,
    /// `typlen`, for RowDescription.
    pub length: i16,
    /// What the values are, domains resolved.
    pub kind: TypeKind,
}

/// `pg_type.typtype`, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TypeKind {
    /// A base type that `ripen_pg::value` may know by OID.
    Base,
    /// An enum: its binary form is its label; the labels in sort order.
    Enum(Vec<String>),
    /// A domain over a base; checks or NOT NULL on it make `constrained` true.
    Domain {
        /// The type below all domains.
        base: TypeOid,
        /// Whether any domain on the way has a CHECK or NOT NULL.
        constrained: bool,
    },
    /// An array of the element type.
    Array(TypeOid),
    /// Composite, range, pseudo and so on: never computed here.
    Other,
}

/// A relation: table, view, sequence…
#[derive(Debug, Serialize, Deserialize)]
pub struct Relation {
    /// `pg_class.oid`.
    pub oid: TableOid,
    /// Schema OID and name.
    pub namespace: NamespaceOid,
    /// Schema name.
    pub schema: String,
    /// Relation name.
    pub name: String,
    /// `pg_class.relkind`: r, p, v, m, f, S, t, c, i.
    pub kind: char,
    /// `pg_class.relpersistence`: p, u, t.
    pub persistence: char,
    /// `pg_class.relfilenode`: another one when the table was rewritten, and its values with it, which nothing else may tell.
    pub storage: u32,
    /// Live columns in attnum order.
    pub columns: Vec<Column>,
    /// `max(attnum)`, dropped ones included: the length of a [`ripen_pg::tuple::Tuple`] of this table.
    pub width: usize,
    /// Positions (`attnum - 1`) of the primary key, in index order; empty when there is none (or it is deferrable).
    pub primary_key: Vec<usize>,
    /// Name of that constraint; empty when there is none, or an earlier version has remembered the catalog.
    #[serde(default)]
    pub primary_key_name: String,
    /// CHECK constraints.
    pub checks: Vec<Check>,
    /// Positions in any unique or exclusion constraint or unique index other than the primary key, including those used in its predicates and expressions.
    pub unique_columns: BTreeSet<usize>,
    /// Positions in any index (primary key and unique ones included): Postgres refuses values that make an index row too large (about 2700 bytes for btree).
    pub indexed_columns: BTreeSet<usize>,
    /// Leading columns of each b-tree index that is valid and not partial, up to the first expression: by these, rows are found cheaply.
    #[serde(default)]
    pub indexes: BTreeSet<Vec<usize>>,
    /// Positions that index expressions, index predicates, unusual index types or generated columns compute with: assigning them may fail in that computation.
    pub expression_columns: BTreeSet<usize>,
    /// `pg_class.relreplident`: d, n, f, i.
    pub replica_identity: char,
    /// Outgoing foreign keys.
    #[serde(default)]
    pub foreign_keys: Vec<ForeignKey>,
    /// Positions in outgoing foreign keys.
    pub foreign_key_columns: BTreeSet<usize>,
    /// Positions that other tables' foreign keys refer to.
    pub referenced_columns: BTreeSet<usize>,
    /// Tables that this one's foreign keys refer to (read when rows are inserted or those columns updated).
    pub parents: BTreeSet<TableOid>,
    /// Tables whose foreign keys refer to this one (read, or written by cascades, on delete and key update).
    pub children: BTreeSet<TableOid>,
    /// Tables (perhaps itself) that deferrable constraints of this one may look at no sooner than at COMMIT, on either side of a foreign key.
    pub deferred: BTreeSet<TableOid>,
    /// Why no write may be queued, whatever it says ("has triggers", "row security is enabled", …). Empty: none.
    #[serde(deserialize_with = "remembered::obstacles")]
    pub write_obstacles: Vec<&'static str>,
    /// Why no row may be cached ("partitioned", "row security", "no primary key", "unlogged", …). Empty: none.
    #[serde(deserialize_with = "remembered::obstacles")]
    pub read_obstacles: Vec<&'static str>,
    /// Reading may run user code (view, rule, row security policy with functions), or writing may (trigger, rule, default or check or index with user functions).
    pub opaque_read: bool,
    /// See `opaque_read`.
    pub opaque_write: bool,
    /// Everything a read of this relation reads: itself, what a view refers to (transitively), partitions and inheritance children.
    pub read_closure: BTreeSet<TableOid>,
    /// Everything a write to it may write beside itself: partitions, parents of a partition, cascades (transitively), view targets.
    pub write_closure: BTreeSet<TableOid>,
    /// Whether row security is enabled or forced.
    pub row_security: bool,
    /// Owner.
    pub owner: RoleOid,
    /// Table privileges as granted, owner's included.
    pub grants: Grants,
}

/// A sequence, as far as its values may be given by somebody who has drawn them in advance. Another value in any field means that it was changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sequence {
    /// `pg_class.oid`.
    pub oid: TableOid,
    /// `pg_class.relfilenode`: another one after ALTER SEQUENCE … RESTART and TRUNCATE … RESTART IDENTITY.
    pub storage: u32,
    /// `pg_sequence.xmin`: another one after each ALTER SEQUENCE.
    pub version: String,
    /// INCREMENT.
    pub increment: i64,
    /// The last value that it can give: MAXVALUE, or MINVALUE of one that descends.
    pub limit: i64,
    /// Whether it ascends or descends by the book: permanent, CACHE 1, NO CYCLE.
    pub plain: bool,
    /// Roles that may draw from it (USAGE or UPDATE), owner included.
    pub draw: BTreeSet<RoleOid>,
    /// Roles that may ask for `currval` of it (USAGE or SELECT), owner included.
    pub ask: BTreeSet<RoleOid>,
}

/// Who may do what. A role has a privilege when any role of its `acts_as`, or PUBLIC (0), is listed; superusers always.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Grants {
    /// SELECT.
    pub select: BTreeSet<RoleOid>,
    /// INSERT.
    pub insert: BTreeSet<RoleOid>,
    /// UPDATE.
    pub update: BTreeSet<RoleOid>,
    /// DELETE.
    pub delete: BTreeSet<RoleOid>,
}

/// A live column.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Column {
    /// `attnum - 1`.
    pub position: usize,
    /// Its name.
    pub name: String,
    /// Declared type (may be a domain).
    pub type_oid: TypeOid,
    /// `atttypmod`.
    pub type_modifier: i32,
    /// NOT NULL.
    pub not_null: bool,
    /// Collation facts, for collatable types.
    pub collation: Collation,
    /// Whether it is another one than the database's.
    #[serde(default = "collated_unknown")]
    pub collated: bool,
    /// The default, as `pg_get_expr` prints it.
    pub default: Option<String>,
    /// Generated (stored) or identity: `attgenerated`, `attidentity`; '\0' when neither.
    pub generated: char,
    /// See `generated`.
    pub identity: char,
    /// The sequence that an identity column, or the one `nextval` in the default, draws from.
    #[serde(default)]
    pub sequence: Option<TableOid>,
    /// Column privileges as granted (beside the table's).
    pub grants: Grants,
}

/// Of a catalog that was kept by a version that did not ask.
fn collated_unknown() -> bool {
    true
}

/// What equality and order of a text column mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Collation {
    /// Not collatable.
    None,
    /// `C`/`POSIX`: bytes for equality and for order.
    C,
    /// Deterministic: bytes for equality, unknown order.
    Deterministic,
    /// Equality is unknown: never computed here.
    Nondeterministic,
}

/// A foreign key, as the referring table has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForeignKey {
    /// Positions of the referring columns, in the constraint's order.
    pub columns: Vec<usize>,
    /// The table referred to.
    pub parent: TableOid,
    /// Positions of the columns referred to, in the same order.
    pub referenced: Vec<usize>,
    /// Whether it is MATCH SIMPLE and looks for equal values by the columns' own operators: a NULL in any column then needs no parent.
    pub simple: bool,
}

/// A CHECK constraint.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Check {
    /// Its name, for the error.
    pub name: String,
    /// The expression, as `pg_get_constraintdef` prints it without `CHECK`.
    pub expression: String,
    /// Positions that it refers to; empty = unknown or whole row.
    pub columns: BTreeSet<usize>,
}

/// A read obstacle: rows have no names.
pub const KEYLESS: &str = "no primary key";
/// A read obstacle: the stream names rows otherwise than memory does, or not at all.
pub const FOREIGN_IDENTITY: &str = "replica identity is not the primary key";

impl Relation {
    /// Whether rows of it may be queued although nothing names them: each INSERT makes new ones, whatever else there is. Never more than that, and nothing of it is ever cached.
    /// (What speaks against queueing them is among the obstacles to writes, as for any table.)
    pub fn appends(&self) -> bool {
        let only_nameless = |why: &&str| [KEYLESS, FOREIGN_IDENTITY].contains(why);
        self.kind == 'r'
            && self.read_obstacles.contains(&KEYLESS)
            && self.read_obstacles.iter().all(only_nameless)
    }

    /// The live column at a position.
    pub fn column(&self, position: usize) -> Option<&Column> {
        self.columns
            .iter()
            .find(|column| column.position == position)
    }

    /// The live column of that name.
    pub fn column_named(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }

    /// Declared types by position, for checking that rows still mean what they meant.
    pub fn shape(&self) -> BTreeMap<usize, TypeOid> {
        self.columns
            .iter()
            .map(|column| (column.position, column.type_oid))
            .collect()
    }
}

impl Catalog {
    /// Whether this process has read it from Postgres. The empty catalog before the first reading says nothing about what exists, and a remembered one
    /// nothing about what exists now.
    pub fn is_loaded(&self) -> bool {
        self.server_version > 0 && !self.remembered
    }

    /// Whether rows of the table are queued without a name in Postgres: see [`Relation::appends`].
    pub fn appends(&self, table: TableOid) -> bool {
        let relation = self.relations.get(&table);
        relation.is_some_and(|relation| relation.appends())
    }

    /// The type below all domains.
    pub fn base_type(&self, oid: TypeOid) -> TypeOid {
        match self.types.get(&oid).map(|known| &known.kind) {
            Some(TypeKind::Domain { base, .. }) => *base,
            _ => oid,
        }
    }

    /// The type under which `ripen_pg::value` knows the values: domains resolved, enums as [`ripen_pg::value::ENUM_AS`].
    pub fn value_type(&self, oid: TypeOid) -> TypeOid {
        let base = self.base_type(oid);
        match self.types.get(&base).map(|known| &known.kind) {
            Some(TypeKind::Enum(_)) => ripen_pg::value::ENUM_AS,
            _ => base,
        }
    }

    /// The value types of a relation's primary key, in index order, as `ripen_pg::value::key` wants them.
    pub fn key_types(&self, relation: &Relation) -> Vec<TypeOid> {
        let key = relation.primary_key.iter();
        key.filter_map(|position| relation.column(*position))
            .map(|column| self.value_type(column.type_oid))
            .collect()
    }
}
