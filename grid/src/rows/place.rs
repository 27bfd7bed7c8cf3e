//! Where a row is looked for: its identity, borrowed, with its hash computed once. Never owns a key.

use crate::change::RowId;
use crate::hashing::Seeded;
use crate::limits;
use ripen_pg::ids::TableOid;
use ripen_pg::key::Key;
use std::hash::{BuildHasher, Hasher};

/// A row's identity and its hash.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    pub hash: u64,
    pub table: TableOid,
    key: &'a [u8],
}

impl<'a> Place<'a> {
    pub fn new(hasher: &Seeded, table: TableOid, key: &'a [u8]) -> Place<'a> {
        let mut state = hasher.build_hasher();
        state.write_u32(table.0);
        state.write(key);
        Place {
            hash: state.finish(),
            table,
            key,
        }
    }

    /// The number of the shard. From bits that the map inside the shard does not use: it takes the lowest and the highest.
    pub fn shard(&self) -> usize {
        (self.hash >> 40) as usize % limits::SHARDS
    }

    pub fn is(&self, row: &RowId) -> bool {
        row.table == self.table && row.key.as_bytes() == self.key
    }

    pub fn row(&self) -> RowId {
        RowId {
            table: self.table,
            key: Key::from_bytes(self.key),
        }
    }
}

/// The hasher of a map that is only asked by hashes known already.
#[derive(Clone, Copy, Default)]
pub struct KeepsHash;

impl BuildHasher for KeepsHash {
    type Hasher = NoHasher;

    fn build_hasher(&self) -> NoHasher {
        unreachable!("rows are found by the hash of their place")
    }
}

/// Never made.
pub enum NoHasher {}

impl Hasher for NoHasher {
    fn finish(&self) -> u64 {
        match *self {}
    }

    fn write(&mut self, _: &[u8]) {
        match *self {}
    }
}
