//! What the bytes of a table's rows mean under a catalog, as one number that nodes can compare. Decides nothing; two shapes with one stamp would need a collision of 64 bits.

use crate::table::key_type;
use ripen_cachestore::catalog::{Catalog, Relation};

/// See the module. The same for the same columns and key, on every node and in every process of this version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ShapeStamp(pub u64);

impl ShapeStamp {
    /// Of that table: places, names and types of its columns, and the key by which its rows are known.
    pub fn of(catalog: &Catalog, relation: &Relation) -> ShapeStamp {
        let mut hash = Fnv::new();
        hash.number(relation.columns.len() as u64);
        for column in &relation.columns {
            hash.number(column.position as u64);
            hash.number(u64::from(column.type_oid.0));
            hash.number(u64::from(u32::from(column.generated)));
            hash.bytes(column.name.as_bytes());
        }
        for position in &relation.primary_key {
            let mut columns = relation.columns.iter();
            let column = columns.find(|column| column.position == *position);
            let key = column.and_then(|column| key_type(catalog, column));
            hash.number(*position as u64);
            hash.number(key.map_or(0, |oid| u64::from(oid.0)));
        }
        ShapeStamp(hash.0)
    }
}

/// FNV-1a: the same everywhere, which hashes for maps are not meant to be.
struct Fnv(u64);

impl Fnv {
    fn new() -> Fnv {
        Fnv(0xcbf2_9ce4_8422_2325)
    }

    fn number(&mut self, number: u64) {
        self.plain(&number.to_le_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.plain(bytes);
    }

    fn plain(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}
