//! Short ways to write rows, keys and changes in tests.

use crate::server::Database;
use bytes::Bytes;
use ripen_cachestore::catalog::{Catalog, Epoch, Relation};
use ripen_cachestore::change::{Change, CommitGroup, FlushSeq, Increment, RowChange, RowId};
use ripen_cachestore::flush::{FlushBatch, FlushOutcome};
use ripen_cachestore::progress::{LogIdentity, LogKey, Taker};
use ripen_cachestore::{Store, StoreError};
use ripen_pg::ids::TypeOid;
use ripen_pg::key::Key;
use ripen_pg::tuple::{Datum, Tuple};
use ripen_pg::value::key;
use std::sync::Arc;

/// A value in binary form; `None` is NULL.
pub type V = Option<Vec<u8>>;

pub fn int(number: i32) -> V {
    Some(number.to_be_bytes().to_vec())
}

pub fn big(number: i64) -> V {
    Some(number.to_be_bytes().to_vec())
}

pub fn text(text: &str) -> V {
    Some(text.as_bytes().to_vec())
}

pub fn tuple(values: &[V]) -> Tuple {
    values
        .iter()
        .map(|value| value.as_deref().map_or(Datum::Null, Datum::Value))
        .collect()
}

/// The log that flushes.
pub const LOG: LogKey = LogKey {
    number: 0,
    identity: LogIdentity(u64::MAX - 6),
};

/// That log's leader in an epoch.
pub fn taker(epoch: u64) -> Taker<'static> {
    Taker {
        log: LOG,
        epoch,
        holder: "a test",
        has_flushed: false,
        formers: &[],
    }
}

/// A database with its catalog, ready to flush.
pub struct Bench {
    pub database: Database,
    pub catalog: Catalog,
    pub seq: u64,
}

impl Bench {
    pub async fn new(setup: &str) -> Bench {
        let database = crate::server::database(setup).await;
        let catalog = database.store.load_catalog(Epoch(1)).await.unwrap();
        database.store.take_over(taker(1)).await.unwrap();
        Bench {
            database,
            catalog,
            seq: 0,
        }
    }

    pub fn store(&self) -> &Store {
        &self.database.store
    }

    pub fn table(&self, name: &str) -> Arc<Relation> {
        let namespace = self.catalog.namespaces["public"].oid;
        let oid = self.catalog.names[&(namespace, name.to_owned())];
        self.catalog.relations[&oid].clone()
    }

    pub fn key(&self, table: &str, values: &[V]) -> Key {
        let types = self.catalog.key_types(&self.table(table));
        let mut key = Key::new();
        for (type_oid, value) in types.iter().zip(values) {
            key::append(*type_oid, value.as_deref().unwrap(), &mut key).unwrap();
        }
        key
    }

    fn row(&self, table: &str, key: &[V], change: Change) -> RowChange {
        let row = RowId {
            table: self.table(table).oid,
            key: self.key(table, key),
        };
        RowChange { row, change }
    }

    /// The key is taken from the image.
    pub fn insert(&self, table: &str, values: &[V]) -> RowChange {
        let image = tuple(values);
        self.row(table, &self.key_of(table, values), Change::Insert { image })
    }

    pub fn put(&self, table: &str, values: &[V]) -> RowChange {
        let image = tuple(values);
        self.row(table, &self.key_of(table, values), Change::Put { image })
    }

    pub fn update(&self, table: &str, values: &[V], set: &[u16]) -> RowChange {
        self.add(table, values, set, &[])
    }

    pub fn add(&self, table: &str, values: &[V], set: &[u16], add: &[(u16, u32, V)]) -> RowChange {
        let add = add.iter().map(|(position, type_oid, amount)| Increment {
            position: *position,
            type_oid: TypeOid(*type_oid),
            amount: Bytes::from(amount.clone().unwrap()),
        });
        let change = Change::Update {
            image: tuple(values),
            set: set.to_vec(),
            add: add.collect(),
        };
        self.row(table, &self.key_of(table, values), change)
    }

    pub fn delete(&self, table: &str, key: &[V]) -> RowChange {
        self.row(table, key, Change::Delete)
    }

    fn key_of(&self, table: &str, values: &[V]) -> Vec<V> {
        let relation = self.table(table);
        let key = relation.primary_key.iter();
        key.map(|position| values[*position].clone()).collect()
    }

    pub fn batch(&self, groups: Vec<Vec<RowChange>>) -> FlushBatch {
        let groups = groups.into_iter().map(|rows| CommitGroup { rows });
        FlushBatch {
            log: LOG,
            epoch: 1,
            seq: FlushSeq(self.seq + 1),
            groups: groups.collect(),
            shapes: Default::default(),
            guards: Default::default(),
            catalog_is_new: true,
        }
    }

    pub async fn try_flush(
        &mut self,
        groups: Vec<Vec<RowChange>>,
    ) -> Result<FlushOutcome, StoreError> {
        let batch = self.batch(groups);
        let outcome = self.store().flush(&self.catalog, &batch, |_| {}).await?;
        self.seq += 1;
        Ok(outcome)
    }

    /// A flush in which nothing may be refused.
    pub async fn flush(&mut self, groups: Vec<Vec<RowChange>>) -> FlushOutcome {
        let outcome = self.try_flush(groups).await.unwrap();
        let reasons: Vec<_> = outcome.dead.iter().map(|dead| &dead.message).collect();
        assert!(reasons.is_empty(), "{reasons:?}");
        outcome
    }

    /// All rows of a query as one text, `|` between columns and `;` between rows.
    pub async fn rows(&self, query: &str) -> String {
        let sql = format!(
            "SELECT coalesce(string_agg(concat_ws('|', VARIADIC ARRAY(SELECT coalesce(value, 'NULL') FROM json_each_text(row_to_json(q)))), ';'), '') FROM ({query}) q"
        );
        self.database.sql.query_one(&sql, &[]).await.unwrap().get(0)
    }
}
