//! The canonical form of a primary key: equal keys, and only they, have equal bytes. Built by `value::key`, compared and hashed here and there as bytes.

use smallvec::SmallVec;
use std::borrow::Borrow;
use std::fmt;

/// A primary key in canonical bytes: for each key column, in index order, the canonical value (length-prefixed where its length varies).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(SmallVec<[u8; 24]>);

impl Key {
    /// An empty key to be filled column by column.
    pub fn new() -> Key {
        Key(SmallVec::new())
    }

    /// A key from bytes that were a key before (the log, snapshots).
    pub fn from_bytes(bytes: &[u8]) -> Key {
        Key(SmallVec::from_slice(bytes))
    }

    /// Appends a column whose canonical form always has the same length.
    pub fn push_fixed(&mut self, canonical: &[u8]) {
        self.0.extend_from_slice(canonical);
    }

    /// Appends a column whose canonical form varies in length.
    pub fn push_varying(&mut self, canonical: &[u8]) {
        let length = u32::try_from(canonical.len()).expect("a Postgres value is below 1 GB");
        self.0.extend_from_slice(&length.to_be_bytes());
        self.0.extend_from_slice(canonical);
    }

    /// The canonical bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Bytes of memory beyond the key's own size.
    pub fn heap_weight(&self) -> usize {
        if self.0.spilled() {
            self.0.capacity()
        } else {
            0
        }
    }
}

impl Default for Key {
    fn default() -> Key {
        Key::new()
    }
}

impl Borrow<[u8]> for Key {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
