//! How the columns of a table in the stream lie in the rows that the grid keeps. Decides; never trusts a table whose columns are not exactly those of the catalog.

use crate::shape::ShapeStamp;
use ripen_cachestore::catalog::{Catalog, Collation, Column, Epoch, Relation, TypeKind};
use ripen_cachestore::change::RowId;
use ripen_pg::ids::{TableOid, TypeOid};
use ripen_pg::key::Key;
use ripen_pg::replication::pgoutput::{self, Old, RelationMessage, TupleData};
use ripen_pg::tuple::{Datum, Tuple};
use ripen_pg::value::{ENUM_AS, key};
use smallvec::SmallVec;
use std::sync::Arc;

/// `relreplident` when the primary key (or nothing) identifies rows.
const IDENTITY_DEFAULT: u8 = b'd';
/// `relreplident` when the whole row does.
const IDENTITY_FULL: u8 = b'f';

/// A table as the stream described it last.
#[derive(Debug)]
pub(crate) struct Table {
    identity: u8,
    columns: Vec<WalColumn>,
    shape: Box<[u8]>,
    mapping: Option<(Epoch, Option<Arc<Mapping>>)>,
}

#[derive(Debug)]
struct WalColumn {
    name: Box<[u8]>,
    type_oid: TypeOid,
}

/// Where each column of the stream goes, under one catalog.
#[derive(Debug)]
pub(crate) struct Mapping {
    relation: Arc<Relation>,
    positions: Vec<usize>,
    key: Vec<KeyColumn>,
    generated: bool,
    identity: u8,
    stamp: ShapeStamp,
}

#[derive(Debug)]
struct KeyColumn {
    index: usize,
    type_oid: TypeOid,
}

/// A row of the stream, understood.
#[derive(Debug)]
pub(crate) struct WalRow {
    pub row: RowId,
    /// `None`: the stream does not say what the row is now.
    pub image: Option<Tuple>,
}

impl Table {
    pub fn new(message: &RelationMessage<'_>) -> Table {
        let columns = message.columns().map(|column| WalColumn {
            name: column.name.into(),
            type_oid: column.type_oid,
        });
        Table {
            identity: message.replica_identity,
            columns: columns.collect(),
            shape: message.shape().into(),
            mapping: None,
        }
    }

    /// Whether the columns are still described by the same bytes.
    pub fn same_shape(&self, message: &RelationMessage<'_>) -> bool {
        *self.shape == *message.shape() && self.identity == message.replica_identity
    }

    /// The mapping under this catalog, and whether it was just found that there is none. `None`: columns, key or identity are not what the catalog says.
    pub fn mapping(
        &mut self,
        catalog: &Catalog,
        relation: Option<&Arc<Relation>>,
    ) -> (Option<Arc<Mapping>>, bool) {
        match &self.mapping {
            Some((epoch, mapping)) if *epoch == catalog.epoch => (mapping.clone(), false),
            _ => {
                let mapping = relation.and_then(|relation| self.map(catalog, relation));
                let mapping = mapping.map(Arc::new);
                self.mapping = Some((catalog.epoch, mapping.clone()));
                let lost = mapping.is_none();
                (mapping, lost)
            }
        }
    }

    /// Columns must agree in order, name and type: equal names alone would let a dropped and re-added column pass.
    fn map(&self, catalog: &Catalog, relation: &Arc<Relation>) -> Option<Mapping> {
        let published: Vec<&Column> = relation
            .columns
            .iter()
            .filter(|column| column.generated == '\0')
            .collect();
        let same = published.len() == self.columns.len()
            && published.iter().zip(&self.columns).all(|(known, sent)| {
                known.name.as_bytes() == &*sent.name && known.type_oid == sent.type_oid
            });
        let identified = matches!(self.identity, IDENTITY_DEFAULT | IDENTITY_FULL);
        if !same || !identified || relation.primary_key.is_empty() {
            return None;
        }
        let key_column = |position: &usize| {
            let index = published.iter().position(|c| c.position == *position)?;
            let type_oid = key_type(catalog, published[index])?;
            Some(KeyColumn { index, type_oid })
        };
        Some(Mapping {
            positions: published.iter().map(|column| column.position).collect(),
            key: relation
                .primary_key
                .iter()
                .map(key_column)
                .collect::<Option<_>>()?,
            generated: published.len() != relation.columns.len(),
            identity: self.identity,
            stamp: ShapeStamp::of(catalog, relation),
            relation: relation.clone(),
        })
    }
}

/// The type under which a key column's bytes are canonical; `None` when there is no such form.
pub(crate) fn key_type(catalog: &Catalog, column: &Column) -> Option<TypeOid> {
    let base = catalog.base_type(column.type_oid);
    let is_enum = |oid| {
        matches!(
            catalog.types.get(&oid).map(|known| &known.kind),
            Some(TypeKind::Enum(_))
        )
    };
    let type_oid = if is_enum(base) { ENUM_AS } else { base };
    (column.collation != Collation::Nondeterministic && key::keyable(type_oid)).then_some(type_oid)
}

type Columns<'a> = SmallVec<[pgoutput::Column<'a>; 16]>;

impl Mapping {
    /// The table.
    pub fn table(&self) -> TableOid {
        self.relation.oid
    }

    /// What rows under this mapping mean.
    pub fn stamp(&self) -> ShapeStamp {
        self.stamp
    }

    /// A row as it is after an insert or update; `None` when not even its key is known.
    pub fn put(&self, new: TupleData<'_>, old: Option<Old<'_>>) -> Option<WalRow> {
        let columns = self.completed(new, old)?;
        let row = self.row_id(&columns)?;
        let textual = |column: &pgoutput::Column<'_>| matches!(column, pgoutput::Column::Text(_));
        let told = !self.generated && !columns.iter().any(textual);
        let image = told.then(|| self.image(&columns));
        Some(WalRow { row, image })
    }

    /// The identity of a row that was; `None` when the stream does not tell.
    pub fn old_row(&self, old: Old<'_>) -> Option<RowId> {
        let expected = match old {
            Old::Key(_) => IDENTITY_DEFAULT,
            Old::Full(_) => IDENTITY_FULL,
        };
        let columns = self.columns(old.data())?;
        (self.identity == expected).then(|| self.row_id(&columns))?
    }

    fn columns<'a>(&self, data: TupleData<'a>) -> Option<Columns<'a>> {
        (data.len() == self.positions.len()).then(|| data.iter().collect())
    }

    /// Unchanged values come from the old row where it carries them: all of them with a full identity, the key otherwise (a key value out of line is repeated there).
    fn completed<'a>(&self, new: TupleData<'a>, old: Option<Old<'a>>) -> Option<Columns<'a>> {
        let mut columns = self.columns(new)?;
        let Some(old) = old else { return Some(columns) };
        let is_key = |index| self.key.iter().any(|column| column.index == index);
        for (index, was) in self.columns(old.data())?.into_iter().enumerate() {
            let carried = matches!(old, Old::Full(_)) || is_key(index);
            if carried && columns[index] == pgoutput::Column::Unchanged {
                columns[index] = was;
            }
        }
        Some(columns)
    }

    fn row_id(&self, columns: &Columns<'_>) -> Option<RowId> {
        let mut canonical = Key::new();
        for column in &self.key {
            let pgoutput::Column::Binary(value) = columns[column.index] else {
                return None;
            };
            key::append(column.type_oid, value, &mut canonical).ok()?;
        }
        Some(RowId {
            table: self.relation.oid,
            key: canonical,
        })
    }

    fn image(&self, columns: &Columns<'_>) -> Tuple {
        let mut image: SmallVec<[Datum<'_>; 16]> =
            SmallVec::from_elem(Datum::Missing, self.relation.width);
        for (position, column) in self.positions.iter().zip(columns) {
            image[*position] = match column {
                pgoutput::Column::Null => Datum::Null,
                pgoutput::Column::Binary(value) => Datum::Value(value),
                pgoutput::Column::Unchanged | pgoutput::Column::Text(_) => Datum::Missing,
            };
        }
        image.into_iter().collect()
    }
}

/// Whether some live column's value is not in the image.
pub(crate) fn is_incomplete(mapping: &Mapping, image: &Tuple) -> bool {
    let missing = |position: &usize| image.get(*position) == Datum::Missing;
    mapping.positions.iter().any(missing)
}

/// `image` with its missing columns taken from what the row was before.
pub(crate) fn fill(image: &Tuple, before: &Tuple) -> Tuple {
    let column = |position| match image.get(position) {
        Datum::Missing => before.get(position),
        known => known,
    };
    (0..image.len()).map(column).collect()
}
