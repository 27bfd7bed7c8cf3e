//! What the bytes of a table's changes mean: which types its columns had, and which of them were its key. The log says it once per table and change of
//! the schema, not per row. Never asks Postgres; the flush compares it with what Postgres has.

use super::codec::{Malformed, Reader, put_count, put_many, put_u32};
use crate::catalog::{Catalog, Relation};
use ripen_pg::ids::{TableOid, TypeOid};
use std::collections::BTreeMap;
use std::sync::Arc;

/// See the module. Positions are `attnum - 1`; Postgres never gives one twice, so a column that was dropped does no harm.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    /// Positions of the primary key, in index order.
    pub key: Vec<u16>,
    /// Types below all domains, by position.
    pub types: BTreeMap<u16, TypeOid>,
}

/// Shapes by table. Of a table that is not in it nothing is known (an older Ripen wrote the log): its bytes are taken for what the catalog says.
pub type Shapes = BTreeMap<TableOid, Arc<Shape>>;

impl Shape {
    /// A relation's, under its catalog.
    pub fn of(catalog: &Catalog, relation: &Relation) -> Shape {
        let key = relation.primary_key.iter().map(|at| *at as u16);
        let types = relation.columns.iter().map(|column| {
            let base = catalog.base_type(column.type_oid);
            (column.position as u16, base)
        });
        Shape {
            key: key.collect(),
            types: types.collect(),
        }
    }

    /// Whether rows of both mean the same wherever both know a column.
    pub fn agrees(&self, other: &Shape) -> bool {
        let same = |(at, type_oid): (&u16, &TypeOid)| {
            other.types.get(at).is_none_or(|known| known == type_oid)
        };
        self.key == other.key && self.types.iter().all(same)
    }

    /// Columns of both. They must agree.
    pub fn with(&self, other: &Shape) -> Shape {
        let mut both = self.clone();
        both.types.extend(&other.types);
        both
    }
}

/// Appends shapes.
pub fn encode_shapes(out: &mut Vec<u8>, shapes: &Shapes) {
    put_count(out, shapes.len());
    for (table, shape) in shapes {
        encode_shape(out, *table, shape);
    }
}

/// Reads what [`encode_shapes`] wrote.
pub fn decode_shapes(reader: &mut Reader<'_>) -> Result<Shapes, Malformed> {
    let shapes = reader.many(decode_shape)?.into_iter();
    Ok(shapes
        .map(|(table, shape)| (table, Arc::new(shape)))
        .collect())
}

/// Appends a table's shape.
pub fn encode_shape(out: &mut Vec<u8>, table: TableOid, shape: &Shape) {
    put_u32(out, table.0);
    put_many(out, &shape.key, |out, at| out.extend(at.to_le_bytes()));
    put_count(out, shape.types.len());
    for (at, type_oid) in &shape.types {
        out.extend(at.to_le_bytes());
        put_u32(out, type_oid.0);
    }
}

/// Reads what [`encode_shape`] wrote.
pub fn decode_shape(reader: &mut Reader<'_>) -> Result<(TableOid, Shape), Malformed> {
    let table = TableOid(reader.u32()?);
    let key = reader.many(Reader::u16)?;
    let types = reader.many(|reader| Ok((reader.u16()?, TypeOid(reader.u32()?))))?;
    let types = types.into_iter().collect();
    Ok((table, Shape { key, types }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(key: &[u16], types: &[(u16, u32)]) -> Shape {
        let types = types.iter().map(|(at, oid)| (*at, TypeOid(*oid)));
        Shape {
            key: key.to_vec(),
            types: types.collect(),
        }
    }

    #[test]
    fn columns_that_come_and_go_agree_and_others_do_not() {
        let old = shape(&[0], &[(0, 23), (1, 25)]);
        let added = shape(&[0], &[(0, 23), (2, 25)]);
        assert!(old.agrees(&added) && added.agrees(&old));
        assert_eq!(old.with(&added), shape(&[0], &[(0, 23), (1, 25), (2, 25)]));
        assert!(!old.agrees(&shape(&[0], &[(0, 20), (1, 25)])));
        assert!(!old.agrees(&shape(&[1], &[(0, 23), (1, 25)])));
    }

    #[test]
    fn shapes_come_back_as_they_went_in() {
        let shapes: Shapes = [
            (TableOid(7), Arc::new(shape(&[1, 0], &[(0, 23), (1, 25)]))),
            (TableOid(9), Arc::default()),
        ]
        .into();
        let mut out = Vec::new();
        encode_shapes(&mut out, &shapes);
        let mut reader = Reader::new(&out);
        assert_eq!(decode_shapes(&mut reader), Ok(shapes));
        assert_eq!(reader.end(), Ok(()));
    }
}
