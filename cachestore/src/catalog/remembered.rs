//! The catalog as bytes, so that the next process can serve what is pending when it finds Postgres away. Never written to Postgres, never trusted for a flush.

use super::Catalog;
use serde::{Deserialize, Deserializer};
use std::collections::BTreeSet;
use std::sync::Mutex;

impl Catalog {
    /// As bytes for [`Catalog::recall`].
    pub fn remember(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a catalog holds nothing that JSON cannot say")
    }

    /// The catalog that an earlier process has left. `None`: the bytes are damaged, or those of another version of Ripen.
    pub fn recall(bytes: &[u8]) -> Option<Catalog> {
        let mut catalog: Catalog = serde_json::from_slice(bytes).ok()?;
        catalog.remembered = true;
        catalog.names = catalog
            .relations
            .values()
            .map(|relation| ((relation.namespace, relation.name.clone()), relation.oid))
            .collect();
        Some(catalog)
    }
}

/// The reasons are texts of the program; each that is read back is kept once for the life of the process.
pub(super) fn obstacles<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<&'static str>, D::Error> {
    static KNOWN: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());
    let texts = Vec::<String>::deserialize(deserializer)?;
    let mut known = KNOWN
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut keep = |text: String| match known.get(text.as_str()) {
        Some(text) => text,
        None => {
            let text: &'static str = text.leak();
            known.insert(text);
            text
        }
    };
    Ok(texts.into_iter().map(&mut keep).collect())
}
