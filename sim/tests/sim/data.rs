//! Rows as the simulation has them: a key, the numbers of all writes that ever came to it, and how many those are, counted by increments. So each row tells its whole
//! past, and a write that is lost, doubled or late is seen in it.

use bytes::Bytes;
use ripen_cachestore::catalog::{
    Catalog, Collation, Column, Epoch, Grants, NamespaceOid, Relation, RoleOid,
};
use ripen_cachestore::change::{Change, Increment, RowId};
use ripen_hotcache::shape::ShapeStamp;
use ripen_pg::ids::{TableOid, TypeOid};
use ripen_pg::key::Key;
use ripen_pg::tuple::{Datum, Tuple};
use std::collections::BTreeSet;
use std::sync::Arc;

pub const INT8: TypeOid = TypeOid(20);
const BYTEA: TypeOid = TypeOid(17);

/// Written by clients of the nodes only.
pub const OURS: TableOid = TableOid(101);
/// Its list is written by others, behind the nodes' backs; clients only count.
pub const SHARED: TableOid = TableOid(102);

pub const OUR_ROWS: u64 = 4;
pub const SHARED_ROWS: u64 = 2;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Row {
    pub list: Vec<u32>,
    pub count: i64,
}

pub fn row_id(table: TableOid, key: u64) -> RowId {
    let mut canonical = Key::new();
    canonical.push_fixed(&key.to_be_bytes());
    RowId {
        table,
        key: canonical,
    }
}

pub fn ours(key: u64) -> RowId {
    row_id(OURS, key)
}

pub fn shared(key: u64) -> RowId {
    row_id(SHARED, key)
}

pub fn all_rows() -> Vec<RowId> {
    let ours = (0..OUR_ROWS).map(ours);
    ours.chain((0..SHARED_ROWS).map(shared)).collect()
}

/// For traces.
pub fn name(row: &RowId) -> String {
    let key = row.key.as_bytes().last().copied().unwrap_or_default();
    let table = if row.table == OURS { 'o' } else { 's' };
    format!("{table}{key}")
}

impl Row {
    pub fn with(&self, write: u32) -> Row {
        let mut list = self.list.clone();
        list.push(write);
        Row {
            list,
            count: self.count + 1,
        }
    }

    pub fn tuple(&self, row: &RowId) -> Tuple {
        let list: Vec<u8> = self.list.iter().flat_map(|id| id.to_be_bytes()).collect();
        let count = self.count.to_be_bytes();
        let columns = [row.key.as_bytes(), &list[..], &count[..]];
        columns.into_iter().map(Datum::Value).collect()
    }

    pub fn of(tuple: &Tuple) -> Row {
        let column = |at| tuple.get(at).value().expect("no column is missing");
        Row {
            list: column(1)
                .chunks_exact(4)
                .map(|id| u32::from_be_bytes(id.try_into().expect("four bytes")))
                .collect(),
            count: int8(column(2)),
        }
    }

    /// As Postgres carries a change out. `None`: it refuses.
    pub fn after(old: Option<&Row>, change: &Change) -> Option<Option<Row>> {
        match (change, old) {
            (Change::Insert { .. }, Some(_)) | (Change::Update { .. }, None) => None,
            (Change::Insert { image } | Change::Put { image }, _) => Some(Some(Row::of(image))),
            (Change::Delete, _) => Some(None),
            (Change::Update { image, set, add }, Some(old)) => {
                let (mut new, image) = (old.clone(), Row::of(image));
                for position in set {
                    match position {
                        1 => new.list.clone_from(&image.list),
                        _ => new.count = image.count,
                    }
                }
                new.count += add.iter().map(|add| int8(&add.amount)).sum::<i64>();
                Some(Some(new))
            }
        }
    }
}

fn int8(bytes: &[u8]) -> i64 {
    i64::from_be_bytes(bytes.try_into().expect("an int8 has eight bytes"))
}

/// `count = count + 1`.
pub fn one_more() -> Vec<Increment> {
    vec![Increment {
        position: 2,
        type_oid: INT8,
        amount: Bytes::copy_from_slice(&1i64.to_be_bytes()),
    }]
}

/// What the bytes of these rows mean, of each of their tables.
pub fn row_shapes<'a>(
    catalog: &Catalog,
    rows: impl Iterator<Item = &'a RowId>,
) -> Vec<(TableOid, ShapeStamp)> {
    let tables: BTreeSet<TableOid> = rows.map(|row| row.table).collect();
    let stamp = |table: TableOid| {
        Some((
            table,
            ShapeStamp::of(catalog, catalog.relations.get(&table)?),
        ))
    };
    tables.into_iter().filter_map(stamp).collect()
}

pub fn catalog(epoch: Epoch) -> Catalog {
    let relations = [(OURS, "ours"), (SHARED, "shared")];
    Catalog {
        epoch,
        fingerprint: "one".to_owned(),
        server_version: 170_000,
        relations: relations
            .map(|(oid, name)| (oid, Arc::new(relation(oid, name))))
            .into(),
        ..Catalog::default()
    }
}

fn relation(oid: TableOid, name: &str) -> Relation {
    let column = |position, name: &str, type_oid| Column {
        position,
        name: name.to_owned(),
        type_oid,
        type_modifier: -1,
        not_null: true,
        collation: Collation::None,
        collated: false,
        default: None,
        generated: '\0',
        identity: '\0',
        sequence: None,
        grants: Grants::default(),
    };
    Relation {
        oid,
        namespace: NamespaceOid(2200),
        schema: "public".to_owned(),
        name: name.to_owned(),
        kind: 'r',
        persistence: 'p',
        storage: 0,
        columns: vec![
            column(0, "key", INT8),
            column(1, "list", BYTEA),
            column(2, "count", INT8),
        ],
        width: 3,
        primary_key: vec![0],
        primary_key_name: "t_pkey".to_owned(),
        checks: Vec::new(),
        unique_columns: Default::default(),
        indexed_columns: Default::default(),
        indexes: Default::default(),
        expression_columns: Default::default(),
        replica_identity: 'd',
        foreign_keys: Vec::new(),
        foreign_key_columns: Default::default(),
        referenced_columns: Default::default(),
        parents: Default::default(),
        children: Default::default(),
        deferred: Default::default(),
        write_obstacles: Vec::new(),
        read_obstacles: Vec::new(),
        opaque_read: false,
        opaque_write: false,
        read_closure: Default::default(),
        write_closure: Default::default(),
        row_security: false,
        owner: RoleOid(10),
        grants: Grants::default(),
    }
}
