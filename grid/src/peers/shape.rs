//! What a table is, as one number: its rows are the same on two nodes only under the same one. A table that was rewritten is another one. Decides only.

use super::owners::Mixer;
use ripen_cachestore::catalog::{Catalog, Relation};
use ripen_pg::value;

/// The number of a relation under its catalog.
pub(crate) fn shape(catalog: &Catalog, relation: &Relation) -> u64 {
    let mut mixer = Mixer::new(u64::from(relation.oid.0));
    mixer.number(relation.width as u64);
    mixer.number(u64::from(relation.storage));
    relation
        .primary_key
        .iter()
        .for_each(|at| mixer.number(*at as u64));
    for column in &relation.columns {
        mixer.number(column.position as u64);
        mixer.number(u64::from(catalog.base_type(column.type_oid).0));
        // A node of another version may keep columns that this one does not.
        let value_type = catalog.value_type(column.type_oid);
        mixer.number(u64::from(value_type.0));
        mixer.number(u64::from(value::supports(value_type)));
    }
    mixer.0
}
