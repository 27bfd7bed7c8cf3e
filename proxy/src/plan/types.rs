//! Type names in SQL, and what casting to them may run. Never converts a value.

use ripen_cachestore::catalog::{Catalog, TypeDef, TypeKind};
use ripen_pg::ids::TypeOid;

/// Built-in types that statements name, as the grammar or a user spells them (after `pg_catalog.`, if said).
const BUILTIN: &[(&str, u32)] = &[
    ("bool", 16),
    ("bytea", 17),
    ("char", 18),
    ("name", 19),
    ("int8", 20),
    ("int2", 21),
    ("int4", 23),
    ("regproc", 24),
    ("text", 25),
    ("oid", 26),
    ("tid", 27),
    ("xid", 28),
    ("cid", 29),
    ("json", 114),
    ("xml", 142),
    ("pg_lsn", 3220),
    ("point", 600),
    ("lseg", 601),
    ("path", 602),
    ("box", 603),
    ("polygon", 604),
    ("line", 628),
    ("cidr", 650),
    ("float4", 700),
    ("float8", 701),
    ("circle", 718),
    ("macaddr8", 774),
    ("money", 790),
    ("macaddr", 829),
    ("inet", 869),
    ("bpchar", 1042),
    ("varchar", 1043),
    ("date", 1082),
    ("time", 1083),
    ("timestamp", 1114),
    ("timestamptz", 1184),
    ("interval", 1186),
    ("timetz", 1266),
    ("bit", 1560),
    ("varbit", 1562),
    ("numeric", 1700),
    ("regprocedure", 2202),
    ("regoper", 2203),
    ("regoperator", 2204),
    ("regclass", 2205),
    ("regtype", 2206),
    ("uuid", 2950),
    ("tsvector", 3614),
    ("tsquery", 3615),
    ("regconfig", 3734),
    ("regdictionary", 3769),
    ("jsonb", 3802),
    ("int4range", 3904),
    ("numrange", 3906),
    ("tsrange", 3908),
    ("tstzrange", 3910),
    ("daterange", 3912),
    ("int8range", 3926),
    ("jsonpath", 4072),
    ("regnamespace", 4089),
    ("regrole", 4096),
    ("regcollation", 4191),
    ("xid8", 5069),
];

/// The built-in type of this name.
pub fn builtin(name: &str) -> Option<TypeOid> {
    BUILTIN
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, oid)| TypeOid(*oid))
}

/// The catalog's types whose last name part is this. Built-in ones may be listed under their SQL names only; see [`builtin`].
pub fn of_name<'a>(catalog: &'a Catalog, name: &'a str) -> impl Iterator<Item = &'a TypeDef> {
    catalog.types.values().filter(move |known| {
        let last = known.sql_name.rsplit('.').next().unwrap_or_default();
        last.trim_matches('"') == name
    })
}

/// Whether input and casts of such a type run no user code.
pub fn is_plain(kind: &TypeKind) -> bool {
    match kind {
        TypeKind::Base | TypeKind::Enum(_) | TypeKind::Array(_) => true,
        TypeKind::Domain { constrained, .. } => !constrained,
        TypeKind::Other => false,
    }
}
