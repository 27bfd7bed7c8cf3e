//! Reads rows by primary key together with the snapshot that saw them. Never caches; the grid does.

use crate::catalog::{Catalog, Column, Relation};
use crate::error::StoreError;
use crate::home::{Home, SERVER};
use crate::limits::LOADED_ROW_BYTES;
use crate::raw::{RawParam, RawValue, array, dynamic};
use crate::sql::{ParamType, key_columns, param_type, qualified, quoted};
use crate::standing::read_server;
use crate::store::{Connection, Store};
use ripen_pg::ids::{Lsn, Snapshot, TypeOid};
use ripen_pg::key::Key;
use ripen_pg::tuple::{Datum, Tuple};
use ripen_pg::value;
use std::collections::HashSet;
use tokio_postgres::{Row, Statement};

/// What one load statement saw.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    /// The statement's snapshot: all rows, and the absence of the others, are as of it.
    pub snapshot: Snapshot,
    /// How far the WAL had been written by then: everything that the snapshot saw was committed before.
    pub wal: Lsn,
    /// The rows found, in no order. A key asked for and not here does not exist.
    pub rows: Vec<(Key, Tuple)>,
}

impl Store {
    /// Loads rows of one table in one statement. Keys must be distinct canonical ones of the relation's primary key, at most [`crate::limits::LOAD_KEYS`].
    /// Columns whose type has no exact renderer come as `Missing`. Cancel safe.
    ///
    /// Errors: `Change` (class `Schema`) when the table is not what the catalog says: load the catalog anew. `Strange` when the server that answered is not the one that the log says.
    pub async fn load_rows(
        &self,
        catalog: &Catalog,
        relation: &Relation,
        keys: &[Key],
    ) -> Result<Loaded, StoreError> {
        let query = Query::new(catalog, relation, keys)?;
        self.loaded(&query, relation).await
    }
}

/// The rows that have one of some values in some columns.
#[derive(Clone, Copy, Debug)]
pub struct Gathering<'a> {
    /// Positions of the columns; none: it is all rows.
    pub columns: &'a [usize],
    /// The values, distinct, canonical by the columns' value types.
    pub values: &'a [Key],
    /// One row more than these is read at most.
    pub rows_max: usize,
}

impl Store {
    /// Loads the rows that have one of some values in some columns, in one statement. Errors and columns as [`Store::load_rows`]. Cancel safe.
    pub async fn load_sets(
        &self,
        catalog: &Catalog,
        relation: &Relation,
        sets: Gathering<'_>,
    ) -> Result<Loaded, StoreError> {
        let query = Query::of_sets(catalog, relation, sets)?;
        self.loaded(&query, relation).await
    }

    async fn loaded(&self, query: &Query<'_>, relation: &Relation) -> Result<Loaded, StoreError> {
        let client = self.client().await?;
        let home = self.home();
        match query.run(&client, home).await {
            // "cached plan must not change result type": the table was altered since this connection prepared the statement.
            Err(error) if error.sqlstate() == "0A000" => {
                client.statement_cache.clear();
                query.run(&client, home).await
            }
            other => other,
        }
        .map_err(|error| explain(error, relation))
    }
}

/// Reads rows in the caller's transaction as they are now, waits for whoever is changing them, and locks them until it ends. Keys as for [`Store::load_rows`].
pub(crate) async fn lock_rows(
    client: &Connection,
    catalog: &Catalog,
    relation: &Relation,
    keys: &[Key],
) -> Result<Vec<(Key, Tuple)>, StoreError> {
    let query = Query::new(catalog, relation, keys)?;
    // Lets others refer to the rows by foreign keys.
    query.now(client, "FOR NO KEY UPDATE OF t").await
}

/// Which rows of these exist and are locked by others against `lock` (`FOR UPDATE` or `FOR NO KEY UPDATE`). Locks the others until the caller's transaction, or its
/// savepoint, is rolled back. Keys as for [`Store::load_rows`].
pub(crate) async fn locked_rows(
    client: &Connection,
    catalog: &Catalog,
    relation: &Relation,
    keys: &[Key],
    lock: &str,
) -> Result<Vec<Key>, StoreError> {
    let mut query = Query::new(catalog, relation, keys)?;
    let key = &relation.primary_key;
    query
        .selected
        .retain(|(column, _)| key.contains(&column.position));
    let there = query.now(client, "").await?;
    let free = query
        .now(client, &format!("{lock} OF t SKIP LOCKED"))
        .await?;
    let free: HashSet<Key> = free.into_iter().map(|(key, _)| key).collect();
    let there = there.into_iter().map(|(key, _)| key);
    Ok(there.filter(|key| !free.contains(key)).collect())
}

/// One load statement, and how to read its answer.
struct Query<'a> {
    relation: &'a Relation,
    condition: String,
    params: Vec<RawParam>,
    /// What is selected after the snapshot: the column and the type it comes as.
    selected: Vec<(&'a Column, TypeOid)>,
    key_types: Vec<TypeOid>,
}

impl<'a> Query<'a> {
    fn new(
        catalog: &Catalog,
        relation: &'a Relation,
        keys: &[Key],
    ) -> Result<Query<'a>, StoreError> {
        let key_types = catalog.key_types(relation);
        let columns: Vec<&Column> = key_columns(relation).collect();
        let (condition, params) = condition(catalog, relation, &columns, &key_types, keys)?;
        Ok(Query::whole(
            catalog, relation, key_types, condition, params,
        ))
    }

    fn of_sets(
        catalog: &Catalog,
        relation: &'a Relation,
        sets: Gathering<'_>,
    ) -> Result<Query<'a>, StoreError> {
        let columns = sets
            .columns
            .iter()
            .map(|position| relation.column(*position));
        let columns: Option<Vec<&Column>> = columns.collect();
        let columns = columns.ok_or_else(|| changed(relation))?;
        let types = columns.iter();
        let types: Vec<_> = types
            .map(|column| catalog.value_type(column.type_oid))
            .collect();
        let (condition, params) = match columns.is_empty() {
            true => Default::default(),
            false => condition(catalog, relation, &columns, &types, sets.values)?,
        };
        let condition = format!("{condition} LIMIT {}", sets.rows_max + 1);
        let key_types = catalog.key_types(relation);
        Ok(Query::whole(
            catalog, relation, key_types, condition, params,
        ))
    }

    /// Whole rows, as far as their values can be told.
    fn whole(
        catalog: &Catalog,
        relation: &'a Relation,
        key_types: Vec<TypeOid>,
        condition: String,
        params: Vec<RawParam>,
    ) -> Query<'a> {
        let key = &relation.primary_key;
        let wanted = relation.columns.iter().filter(|column| {
            key.contains(&column.position) || value::supports(catalog.value_type(column.type_oid))
        });
        let selected: Vec<_> = wanted
            .map(|column| (column, catalog.base_type(column.type_oid)))
            .collect();
        Query {
            relation,
            condition,
            params,
            selected,
            key_types,
        }
    }

    async fn run(&self, client: &Connection, home: &Home) -> Result<Loaded, StoreError> {
        let sql = select(self.relation, &self.selected, &self.condition, home);
        let statement = client.prepare_cached(&sql).await?;
        self.check(&statement)?;
        let rows = client.query(&statement, &dynamic(&self.params)).await?;
        let (mut moment, mut found) = (None, Vec::with_capacity(rows.len()));
        for row in &rows {
            match row.try_get::<_, Option<&str>>(0)? {
                Some(text) => moment = Some(self.moment(text, home)?),
                None => found.push(self.row(row)?),
            }
        }
        let (snapshot, wal) = moment.ok_or_else(|| StoreError::Unexpected("no snapshot".into()))?;
        Ok(Loaded {
            snapshot,
            wal,
            rows: found,
        })
    }

    /// The same rows without a snapshot, in the caller's transaction, with a locking clause.
    async fn now(&self, client: &Connection, lock: &str) -> Result<Vec<(Key, Tuple)>, StoreError> {
        let sql = now(self.relation, &self.selected, &self.condition, lock);
        let statement = client.prepare_cached(&sql).await?;
        self.check(&statement)?;
        let rows = client.query(&statement, &dynamic(&self.params)).await?;
        rows.iter().map(|row| self.row(row)).collect()
    }

    /// The columns must have the types that the catalog says, or their bytes would be taken for something else.
    fn check(&self, statement: &Statement) -> Result<(), StoreError> {
        let found = statement.columns().iter().skip(1);
        let found = found.map(|column| column.type_().oid());
        let known = self.selected.iter().map(|(_, type_oid)| type_oid.0);
        if found.eq(known) {
            return Ok(());
        }
        Err(changed(self.relation))
    }

    /// The text is the snapshot, the end of the WAL, then the OID that the table's name stands for, then the server, where it matters.
    fn moment(&self, text: &str, home: &Home) -> Result<(Snapshot, Lsn), StoreError> {
        let unexpected = || StoreError::Unexpected(format!("snapshot {text}"));
        let mut parts = text.splitn(4, ' ');
        let mut next = || parts.next().ok_or_else(unexpected);
        let (snapshot, wal, oid) = (next()?, next()?, next()?);
        if oid != self.relation.oid.0.to_string() {
            return Err(changed(self.relation));
        }
        if home.guarded() {
            let server = read_server(next()?)?;
            if !home.is(Some(server)) {
                home.doubt();
                return Err(StoreError::Strange(server));
            }
        }
        let snapshot = snapshot.parse().map_err(|_| unexpected())?;
        Ok((snapshot, wal.parse().map_err(|_| unexpected())?))
    }

    fn row(&self, row: &Row) -> Result<(Key, Tuple), StoreError> {
        let mut columns = vec![Datum::Missing; self.relation.width];
        let mut bytes = 0;
        for (index, (column, _)) in self.selected.iter().enumerate() {
            let RawValue(value) = row.try_get(index + 1)?;
            bytes += value.map_or(0, <[u8]>::len);
            if bytes > LOADED_ROW_BYTES && !self.relation.primary_key.contains(&column.position) {
                continue;
            }
            columns[column.position] = value.map_or(Datum::Null, Datum::Value);
        }
        let mut key = Key::new();
        for (position, type_oid) in self.relation.primary_key.iter().zip(&self.key_types) {
            let bytes = columns[*position].value();
            bytes
                .and_then(|bytes| value::key::append(*type_oid, bytes, &mut key).ok())
                .ok_or_else(|| StoreError::Unexpected("a primary key without value".into()))?;
        }
        Ok((key, columns.into_iter().collect()))
    }
}

/// One row with the snapshot, then the rows found: the snapshot comes even when there is none, and only once.
fn select(
    relation: &Relation,
    selected: &[(&Column, TypeOid)],
    condition: &str,
    home: &Home,
) -> String {
    let server = match home.guarded() {
        true => format!(", {SERVER}"),
        false => String::new(),
    };
    let name = qualified(relation);
    let literal = name.replace('\'', "''");
    let columns = selected
        .iter()
        .map(|(column, _)| format!(", t.{}", quoted(&column.name)));
    format!(
        "SELECT concat_ws(' ', pg_current_snapshot(), pg_current_wal_insert_lsn(), to_regclass('{literal}')::oid{server}){} \
         UNION ALL (SELECT NULL{} FROM {name} AS t {condition})",
        ", NULL".repeat(selected.len()),
        columns.collect::<String>(),
    )
}

fn now(
    relation: &Relation,
    selected: &[(&Column, TypeOid)],
    condition: &str,
    lock: &str,
) -> String {
    let columns = selected
        .iter()
        .map(|(column, _)| format!(", t.{}", quoted(&column.name)));
    format!(
        "SELECT NULL{} FROM {} AS t {condition} {lock}",
        columns.collect::<String>(),
        qualified(relation),
    )
}

/// How the keys are named, and their parameters: equality for one, an array for many, arrays side by side for keys of several columns.
fn condition(
    catalog: &Catalog,
    relation: &Relation,
    named: &[&Column],
    key_types: &[TypeOid],
    keys: &[Key],
) -> Result<(String, Vec<RawParam>), StoreError> {
    let columns: Vec<(String, ParamType<'_>)> = named
        .iter()
        .filter_map(|column| Some((quoted(&column.name), param_type(catalog, column.type_oid)?)))
        .collect();
    let split = |key| value::key::split(key_types, key);
    let split: Option<Vec<Vec<&[u8]>>> = keys.iter().map(split).collect();
    let split = split
        .filter(|_| !columns.is_empty())
        .ok_or_else(|| changed(relation))?;
    if let [only] = &split[..] {
        let params = only.iter().map(|bytes| RawParam(Some(bytes.to_vec())));
        let equal = columns
            .iter()
            .enumerate()
            .map(|(index, (name, typed))| format!("t.{name} = ${}::{}", index + 1, typed.name));
        let equal = equal.collect::<Vec<_>>().join(" AND ");
        return Ok((format!("WHERE {equal}"), params.collect()));
    }
    let params = columns.iter().enumerate().map(|(index, (_, typed))| {
        let values = split.iter().map(|key| Some(key[index]));
        RawParam(Some(array(typed.oid, values)))
    });
    let params = params.collect();
    if let [(name, typed)] = &columns[..] {
        return Ok((
            format!("WHERE t.{name} = ANY($1::{}[])", typed.name),
            params,
        ));
    }
    let list = |item: fn(usize, &str, &str) -> String, separator: &str| {
        let items = columns.iter().enumerate();
        let items = items.map(|(index, (name, typed))| item(index, name, typed.name));
        items.collect::<Vec<_>>().join(separator)
    };
    let arrays = list(|index, _, typed| format!("${}::{typed}[]", index + 1), ", ");
    let names = list(|index, _, _| format!("k{index}"), ", ");
    let equal = list(|index, name, _| format!("t.{name} = u.k{index}"), " AND ");
    let join = format!("JOIN unnest({arrays}) AS u({names}) ON {equal}");
    Ok((join, params))
}

fn changed(relation: &Relation) -> StoreError {
    StoreError::Change {
        sqlstate: "0A000",
        message: format!("table {} is not what the catalog says", qualified(relation)),
    }
}

fn explain(error: StoreError, relation: &Relation) -> StoreError {
    match error.sqlstate() {
        "42501" => StoreError::Privilege(format!("SELECT on {} ({error})", qualified(relation))),
        _ => error,
    }
}
