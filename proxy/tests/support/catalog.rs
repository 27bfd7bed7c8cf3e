//! A catalog written by hand, one object a line, for golden scripts and differential tests. Never asks a server.
//!
//! ```text
//! table accounts | aid int4 notnull; name varchar(20) default='x' | pk=aid mode=wb
//! view rich | aid int4 | reads=accounts
//! function f volatile
//! fact temp_possible
//! ```

use ripen_cachestore::catalog::{
    Catalog, Check, Collation, Column, ForeignKey, Function, Grants, Namespace, NamespaceOid,
    Relation, Role, RoleOid, Sequence, TypeDef, TypeKind, Volatility,
};
use ripen_pg::ids::{TableOid, TypeOid};
use ripen_proxy::plan::{Mode, SessionFacts};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

const SUPERUSER: RoleOid = RoleOid(10);
const APP: RoleOid = RoleOid(100);
const GUEST: RoleOid = RoleOid(101);
const PG_CATALOG: NamespaceOid = NamespaceOid(11);

/// Name in statements, SQL name, OID, length.
const TYPES: &[(&str, &str, u32, i16)] = &[
    ("bool", "boolean", 16, 1),
    ("bytea", "bytea", 17, -1),
    ("int8", "bigint", 20, 8),
    ("int2", "smallint", 21, 2),
    ("int4", "integer", 23, 4),
    ("text", "text", 25, -1),
    ("json", "json", 114, -1),
    ("float4", "real", 700, 4),
    ("float8", "double precision", 701, 8),
    ("bpchar", "character", 1042, -1),
    ("varchar", "character varying", 1043, -1),
    ("date", "date", 1082, 4),
    ("timestamp", "timestamp without time zone", 1114, 8),
    ("timestamptz", "timestamp with time zone", 1184, 8),
    ("interval", "interval", 1186, 16),
    ("numeric", "numeric", 1700, -1),
    ("uuid", "uuid", 2950, 16),
    ("jsonb", "jsonb", 3802, -1),
    ("point", "point", 600, 16),
];

const BUILTIN_FUNCTIONS: &[&str] = &[
    "abs",
    "count",
    "sum",
    "avg",
    "min",
    "max",
    "now",
    "lower",
    "upper",
    "length",
    "round",
    "currval",
    "gen_random_uuid",
    "lastval",
    "nextval",
    "setval",
    "set_config",
    "pg_sleep",
    "random",
    "generate_series",
    "row_number",
    "pg_advisory_lock",
    "pg_export_snapshot",
    "query_to_xml",
    "current_setting",
    "jsonb_build_object",
    "date_trunc",
    "unnest",
    "bernoulli",
    "mod",
    "floor",
    "statement_timestamp",
    "transaction_timestamp",
    "clock_timestamp",
    "substring",
    "timezone",
    "char_length",
    "sign",
    "ceil",
    "trunc",
];

fn array_of(element: TypeOid) -> TypeOid {
    match element.0 {
        23 => TypeOid(1007),
        25 => TypeOid(1009),
        20 => TypeOid(1016),
        other => panic!("no array of {other} here"),
    }
}

/// A catalog with what belongs to it.
pub struct World {
    pub catalog: Arc<Catalog>,
    pub modes: HashMap<TableOid, Mode>,
    pub facts: SessionFacts,
}

/// Reads the description.
pub fn world(text: &str) -> World {
    let mut builder = Builder::new();
    for line in text.lines().map(str::trim) {
        if !line.is_empty() && !line.starts_with('#') {
            builder.line(line);
        }
    }
    builder.finish()
}

struct Builder {
    catalog: Catalog,
    relations: BTreeMap<TableOid, Relation>,
    modes: HashMap<TableOid, Mode>,
    facts: SessionFacts,
}

impl Builder {
    fn new() -> Builder {
        let mut builder = Builder {
            catalog: Catalog {
                server_version: 150_000,
                database: "db".to_owned(),
                ..Catalog::default()
            },
            relations: BTreeMap::new(),
            modes: HashMap::new(),
            facts: SessionFacts {
                user: "app".to_owned(),
                search_path: vec!["public".to_owned()],
                temp_possible: false,
                temp_opaque: false,
                row_security: true,
                standard_conforming_strings: true,
                plain_settings: true,
            },
        };
        builder.namespace("pg_catalog", PG_CATALOG, &[RoleOid(0)]);
        builder.namespace("public", NamespaceOid(2200), &[RoleOid(0)]);
        builder.namespace("private", NamespaceOid(2201), &[SUPERUSER]);
        builder.role("postgres", SUPERUSER, true);
        builder.role("app", APP, false);
        builder.role("guest", GUEST, false);
        for (_, sql_name, oid, length) in TYPES {
            builder.add_type(*oid, sql_name, *length, TypeKind::Base);
        }
        for name in BUILTIN_FUNCTIONS {
            builder.function(name, true, Volatility::Stable);
        }
        builder
    }

    fn namespace(&mut self, name: &str, oid: NamespaceOid, usage: &[RoleOid]) {
        let usage = usage.iter().copied().collect();
        self.catalog
            .namespaces
            .insert(name.to_owned(), Namespace { oid, usage });
    }

    fn role(&mut self, name: &str, oid: RoleOid, superuser: bool) {
        let role = Role {
            oid,
            superuser,
            bypass_rls: superuser,
            acts_as: [oid].into(),
        };
        self.catalog.roles.insert(name.to_owned(), role);
    }

    fn add_type(&mut self, oid: u32, sql_name: &str, length: i16, kind: TypeKind) {
        let known = TypeDef {
            oid: TypeOid(oid),
            sql_name: sql_name.to_owned(),
            length,
            kind,
        };
        self.catalog.types.insert(TypeOid(oid), known);
    }

    fn function(&mut self, name: &str, builtin: bool, volatility: Volatility) {
        let namespace = if builtin {
            PG_CATALOG
        } else {
            NamespaceOid(2200)
        };
        let function = Function {
            namespace,
            builtin,
            volatility,
        };
        let all = self.catalog.functions.entry(name.to_owned()).or_default();
        all.push(function);
    }

    fn line(&mut self, line: &str) {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "table" => self.relation('r', rest),
            "view" => self.relation('v', rest),
            "sequence" => self.sequence(rest),
            "partitioned" => self.relation('p', rest),
            "enum" => {
                let (name, labels) = rest.split_once(' ').unwrap();
                let labels = labels.split(',').map(str::to_owned).collect();
                self.new_type(name, 4, TypeKind::Enum(labels));
            }
            "domain" => {
                let words: Vec<&str> = rest.split(' ').collect();
                let base = self.type_of(words[1]).0;
                let constrained = words.get(2) == Some(&"constrained");
                self.new_type(words[0], -1, TypeKind::Domain { base, constrained });
            }
            "function" => {
                let (name, volatility) = rest.split_once(' ').unwrap();
                let volatility = match volatility {
                    "volatile" => Volatility::Volatile,
                    "stable" => Volatility::Stable,
                    _ => Volatility::Immutable,
                };
                self.function(name, false, volatility);
            }
            "fact" => self.fact(rest),
            "catalog" => match rest {
                "event_triggers" => self.catalog.event_triggers = true,
                "asks_sequences" => self.catalog.asks_sequences = true,
                "untrusted_operators" => self.catalog.untrusted_operators = true,
                operator => drop(self.catalog.foreign_operators.insert(operator.to_owned())),
            },
            other => panic!("unknown word {other}"),
        }
    }

    fn new_type(&mut self, name: &str, length: i16, kind: TypeKind) {
        let oid = 50_000 + self.catalog.types.len() as u32;
        self.add_type(oid, name, length, kind);
    }

    fn fact(&mut self, fact: &str) {
        match fact.split_once('=') {
            Some(("user", user)) => self.facts.user = user.to_owned(),
            Some(("path", path)) => {
                self.facts.search_path = path.split(',').map(str::to_owned).collect();
            }
            _ => match fact {
                "temp_possible" => self.facts.temp_possible = true,
                "temp_opaque" => self.facts.temp_opaque = true,
                "nonstandard_strings" => self.facts.standard_conforming_strings = false,
                "odd_settings" => self.facts.plain_settings = false,
                other => panic!("unknown fact {other}"),
            },
        }
    }

    fn type_of(&self, text: &str) -> (TypeOid, i32) {
        let (name, modifier) = match text.trim_end_matches(')').split_once('(') {
            Some((name, numbers)) => {
                let numbers: Vec<i32> = numbers.split(',').map(|n| n.parse().unwrap()).collect();
                let modifier = match (name, &numbers[..]) {
                    ("numeric", [precision]) => precision << 16,
                    ("numeric", [precision, scale]) => (precision << 16) | scale,
                    (_, numbers) => numbers[0],
                };
                (name, modifier + 4)
            }
            None => (text, -1),
        };
        let array = name.strip_suffix("[]");
        let plain = array.unwrap_or(name);
        let found = TYPES.iter().find(|known| known.0 == plain);
        let oid = match found {
            Some(known) => TypeOid(known.2),
            None => {
                let mut known = self.catalog.types.values();
                known.find(|known| known.sql_name == plain).unwrap().oid
            }
        };
        match array {
            Some(_) => (array_of(oid), modifier),
            None => (oid, modifier),
        }
    }

    /// `name`, then `mode=wb`, `cyclic`, `private` (only the superuser may draw from it or ask for it).
    fn sequence(&mut self, text: &str) {
        let (name, options) = text.split_once(' ').unwrap_or((text, ""));
        let mode = if options.contains("mode=wb") {
            "mode=wb"
        } else {
            ""
        };
        self.relation('S', &format!("{name} | last_value int8 | {mode}"));
        let mut roles: BTreeSet<RoleOid> = [SUPERUSER].into();
        if !options.contains("private") {
            roles.insert(APP);
        }
        let sequence = Sequence {
            oid: self.oid(name),
            storage: 1,
            version: "1".to_owned(),
            increment: 1,
            limit: i64::MAX,
            plain: !options.contains("cyclic"),
            draw: roles.clone(),
            ask: roles,
        };
        let sequences = &mut self.catalog.sequences;
        sequences.insert(sequence.oid, Arc::new(sequence));
    }

    fn relation(&mut self, kind: char, text: &str) {
        let parts: Vec<&str> = text.split('|').map(str::trim).collect();
        let (schema, name) = parts[0].split_once('.').unwrap_or(("public", parts[0]));
        let oid = TableOid(1000 + self.relations.len() as u32);
        let columns: Vec<Column> = parts[1]
            .split(';')
            .map(str::trim)
            .enumerate()
            .map(|(position, text)| self.column(position, text))
            .collect();
        let everyone: BTreeSet<RoleOid> = [SUPERUSER, APP].into();
        let mut relation = Relation {
            oid,
            namespace: self.catalog.namespaces[schema].oid,
            schema: schema.to_owned(),
            name: name.to_owned(),
            kind,
            persistence: 'p',
            storage: 0,
            width: columns.len(),
            columns,
            primary_key: Vec::new(),
            primary_key_name: format!("{name}_pkey"),
            checks: Vec::new(),
            unique_columns: BTreeSet::new(),
            indexed_columns: BTreeSet::new(),
            indexes: BTreeSet::new(),
            expression_columns: BTreeSet::new(),
            replica_identity: 'd',
            foreign_keys: Vec::new(),
            foreign_key_columns: BTreeSet::new(),
            referenced_columns: BTreeSet::new(),
            parents: BTreeSet::new(),
            children: BTreeSet::new(),
            deferred: BTreeSet::new(),
            write_obstacles: Vec::new(),
            read_obstacles: Vec::new(),
            opaque_read: false,
            opaque_write: false,
            read_closure: [oid].into(),
            write_closure: BTreeSet::new(),
            row_security: false,
            owner: SUPERUSER,
            grants: Grants {
                select: everyone.clone(),
                insert: everyone.clone(),
                update: everyone.clone(),
                delete: everyone,
            },
        };
        for option in parts.get(2).into_iter().flat_map(|text| text.split(' ')) {
            self.option(&mut relation, option);
        }
        if let Some(checks) = parts.get(3) {
            for check in checks.split(';').map(str::trim) {
                relation.checks.push(Check {
                    name: format!("{name}_check"),
                    expression: check.to_owned(),
                    columns: BTreeSet::new(),
                });
            }
        }
        if relation.primary_key.is_empty() {
            relation.read_obstacles.push("no primary key");
        }
        self.catalog
            .names
            .insert((relation.namespace, name.to_owned()), oid);
        self.relations.insert(oid, relation);
    }

    fn column(&self, position: usize, text: &str) -> Column {
        let words: Vec<&str> = text.splitn(3, ' ').collect();
        let (type_oid, type_modifier) = self.type_of(words[1]);
        let rest = words.get(2).copied().unwrap_or_default();
        let collatable = [25, 1042, 1043].contains(&self.catalog.base_type(type_oid).0);
        Column {
            position,
            name: words[0].to_owned(),
            type_oid,
            type_modifier,
            not_null: rest.contains("notnull"),
            collation: match () {
                () if !collatable => Collation::None,
                () if rest.contains("nondeterministic") => Collation::Nondeterministic,
                () if rest.contains("collate_c") => Collation::C,
                () => Collation::Deterministic,
            },
            collated: rest.contains("collate"),
            default: rest.split_once("default=").map(|(_, text)| text.to_owned()),
            generated: if rest.contains("generated") {
                's'
            } else {
                '\0'
            },
            identity: match () {
                () if rest.contains("identity_always") => 'a',
                () if rest.contains("identity") => 'd',
                () => '\0',
            },
            sequence: rest
                .split(' ')
                .find_map(|word| word.strip_prefix("sequence="))
                .map(|name| self.oid(name)),
            grants: match rest.contains("guest") {
                true => Grants {
                    select: [GUEST].into(),
                    ..Grants::default()
                },
                false => Grants::default(),
            },
        }
    }

    fn option(&mut self, relation: &mut Relation, option: &str) {
        let (name, value) = option.split_once('=').unwrap_or((option, ""));
        let positions = |names: &str| -> Vec<usize> {
            names
                .split(',')
                .map(|name| relation.column_named(name).unwrap().position)
                .collect()
        };
        match name {
            "pk" => {
                relation.primary_key = positions(value);
                relation.indexes.insert(relation.primary_key.clone());
            }
            "index" => drop(relation.indexes.insert(positions(value))),
            "mode" => {
                let mode = match value {
                    "off" => Mode::Off,
                    "rt" => Mode::ReadThrough,
                    _ => Mode::WriteBehind,
                };
                self.modes.insert(relation.oid, mode);
            }
            "resident" => drop(self.catalog.residents.insert(relation.oid)),
            "unique" => relation.unique_columns = positions(value).into_iter().collect(),
            "parent" => self.parent(relation, value),
            "deferred" => {
                relation.deferred = value.split(',').map(|name| self.oid(name)).collect();
            }
            "unique_at_commit" => {
                relation.unique_columns = positions(value).into_iter().collect();
                relation.deferred.insert(relation.oid);
            }
            "refers_to_itself_by" => {
                let columns = positions(value);
                relation.foreign_key_columns.extend(&columns);
                relation.referenced_columns.extend(&relation.primary_key);
                relation.parents.insert(relation.oid);
                relation.children.insert(relation.oid);
                relation.foreign_keys.push(ForeignKey {
                    columns,
                    parent: relation.oid,
                    referenced: relation.primary_key.clone(),
                    simple: true,
                });
            }
            "reads" => {
                for other in value.split(',') {
                    let below = &self.relations[&self.oid(other)];
                    relation.read_closure.extend(&below.read_closure);
                    relation.write_closure.extend(&below.read_closure);
                }
            }
            "partition_of" => {
                let parent = self.oid(value);
                relation.write_closure.insert(parent);
                let parent = self.relations.get_mut(&parent).unwrap();
                parent.read_closure.insert(relation.oid);
                parent.write_closure.insert(relation.oid);
            }
            "opaque_read" => relation.opaque_read = true,
            "opaque_write" => {
                relation.opaque_write = true;
                relation.write_obstacles.push("has triggers");
            }
            "rls" => {
                relation.row_security = true;
                relation.read_obstacles.push("row security is enabled");
                relation.write_obstacles.push("row security is enabled");
            }
            "" => {}
            other => panic!("unknown option {other}"),
        }
    }

    /// `column>table(column)`, cascading.
    fn parent(&mut self, relation: &mut Relation, text: &str) {
        let (column, rest) = text.split_once('>').unwrap();
        let (parent, referenced) = rest.trim_end_matches(')').split_once('(').unwrap();
        let parent = self.oid(parent);
        let position = relation.column_named(column).unwrap().position;
        relation.foreign_key_columns.insert(position);
        relation.parents.insert(parent);
        let parent = self.relations.get_mut(&parent).unwrap();
        let child = position;
        let position = parent.column_named(referenced).unwrap().position;
        relation.foreign_keys.push(ForeignKey {
            columns: vec![child],
            parent: parent.oid,
            referenced: vec![position],
            simple: true,
        });
        parent.referenced_columns.insert(position);
        parent.children.insert(relation.oid);
        parent.write_closure.insert(relation.oid);
    }

    fn oid(&self, name: &str) -> TableOid {
        let found = self.relations.values().find(|known| known.name == name);
        found.unwrap_or_else(|| panic!("no table {name}")).oid
    }

    fn finish(mut self) -> World {
        for (oid, relation) in self.relations {
            self.catalog.relations.insert(oid, Arc::new(relation));
        }
        World {
            catalog: Arc::new(self.catalog),
            modes: self.modes,
            facts: self.facts,
        }
    }
}

impl World {
    /// The mode of a table: read-through unless said.
    pub fn mode(&self, relation: &Relation) -> Mode {
        let known = self.modes.get(&relation.oid).copied();
        known.unwrap_or(Mode::ReadThrough)
    }
}
