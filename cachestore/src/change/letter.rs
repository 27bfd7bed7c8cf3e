//! A commit group as a dead letter keeps it: with what its bytes mean, for it may be replayed long after. Versions in front; never changes what one means.

use super::codec::{Malformed, Reader, decode_group, encode_group};
use super::shape::{decode_shapes, encode_shapes};
use super::{CommitGroup, Shape, Shapes};
use crate::catalog::Catalog;

/// Version 1 did not say the shapes.
const VERSION: u8 = 2;

/// See the module.
#[derive(Clone, Debug, PartialEq)]
pub struct Letter {
    /// The group, whole.
    pub group: CommitGroup,
    /// The shapes of its tables, as far as they are known.
    pub shapes: Shapes,
}

impl Letter {
    /// A letter about that group; `shapes` may know more tables.
    pub fn new(group: CommitGroup, shapes: &Shapes) -> Letter {
        let known = group.rows.iter().filter_map(|change| {
            let table = change.row.table;
            Some((table, shapes.get(&table)?.clone()))
        });
        let shapes = known.collect();
        Letter { group, shapes }
    }

    /// Whether its bytes mean under this catalog what they meant.
    pub fn fits(&self, catalog: &Catalog) -> bool {
        self.shapes.iter().all(|(table, shape)| {
            let relation = catalog.relations.get(table);
            relation.is_some_and(|relation| shape.agrees(&Shape::of(catalog, relation)))
        })
    }

    /// The stored form. [`Letter::decode`] reads it.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        encode_group(&mut out, &self.group);
        encode_shapes(&mut out, &self.shapes);
        out
    }

    /// A letter from its stored form; `None` when it is not one, or of a version unknown here.
    pub fn decode(bytes: &[u8]) -> Option<Letter> {
        let mut reader = Reader::new(bytes);
        let letter = read(&mut reader).ok()?;
        reader.end().ok()?;
        Some(letter)
    }
}

fn read(reader: &mut Reader<'_>) -> Result<Letter, Malformed> {
    let version = reader.u8()?;
    let group = decode_group(reader)?;
    let shapes = match version {
        1 => Shapes::new(),
        VERSION => decode_shapes(reader)?,
        _ => return Err(Malformed("unknown version of a dead letter")),
    };
    Ok(Letter { group, shapes })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::{Change, Increment, RowChange, RowId, Shape};
    use bytes::Bytes;
    use ripen_pg::ids::{TableOid, TypeOid};
    use ripen_pg::key::Key;
    use ripen_pg::tuple::{Datum, Tuple};
    use std::sync::Arc;

    fn letter() -> Letter {
        let shape = Shape {
            key: vec![0],
            types: [(0, TypeOid(23))].into(),
        };
        let shapes = [17, 18].map(|table| (TableOid(table), Arc::new(shape.clone())));
        Letter::new(group(), &shapes.into())
    }

    fn group() -> CommitGroup {
        let image: Tuple = [Datum::Value(b"a"), Datum::Null, Datum::Missing]
            .into_iter()
            .collect();
        let changes = [
            Change::Insert {
                image: image.clone(),
            },
            Change::Put {
                image: image.clone(),
            },
            Change::Update {
                image,
                set: vec![0, 7],
                add: vec![Increment {
                    position: 3,
                    type_oid: TypeOid(23),
                    amount: Bytes::from_static(&[0, 0, 0, 9]),
                }],
            },
            Change::Delete,
        ];
        let rows = changes.into_iter().map(|change| RowChange {
            row: RowId {
                table: TableOid(17),
                key: Key::from_bytes(b"key"),
            },
            change,
        });
        CommitGroup {
            rows: rows.collect(),
        }
    }

    #[test]
    fn letter_comes_back_as_it_went_in() {
        let back = Letter::decode(&letter().encode());
        assert_eq!(back, Some(letter()));
        assert_eq!(letter().shapes.len(), 1);
    }

    #[test]
    fn letters_of_before_are_read() {
        let mut bytes = vec![1];
        encode_group(&mut bytes, &group());
        let old = Letter::new(group(), &Shapes::new());
        assert_eq!(Letter::decode(&bytes), Some(old));
    }

    #[test]
    fn damaged_bytes_are_refused() {
        let bytes = letter().encode();
        for length in 0..bytes.len() {
            assert_eq!(Letter::decode(&bytes[..length]), None);
        }
        assert_eq!(Letter::decode(&[3]), None);
    }
}
