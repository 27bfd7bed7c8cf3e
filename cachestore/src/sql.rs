//! The words that loads and flushes are made of: quoted names, types of parameters. Never puts a value into a text.

use crate::catalog::{Catalog, Column, Relation, TypeKind};
use ripen_pg::ids::TypeOid;

/// An identifier, always quoted.
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Schema and name.
pub fn qualified(relation: &Relation) -> String {
    format!("{}.{}", quoted(&relation.schema), quoted(&relation.name))
}

/// A parameter's type, domains resolved.
pub struct ParamType<'a> {
    /// The type's OID.
    pub oid: TypeOid,
    /// Its name for `::`.
    pub name: &'a str,
    /// Whether many of its values fit into one array parameter: an array of arrays would lose its inner bounds.
    pub unnests: bool,
}

/// The type under which values travel; `None` for a type that the catalog does not know.
pub fn param_type(catalog: &Catalog, type_oid: TypeOid) -> Option<ParamType<'_>> {
    let oid = catalog.base_type(type_oid);
    let known = catalog.types.get(&oid)?;
    Some(ParamType {
        oid,
        name: &known.sql_name,
        unnests: !matches!(known.kind, TypeKind::Array(_)),
    })
}

/// The columns of the primary key, in index order.
pub fn key_columns(relation: &Relation) -> impl Iterator<Item = &Column> {
    relation
        .primary_key
        .iter()
        .filter_map(|position| relation.column(*position))
}
