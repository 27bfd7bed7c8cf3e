//! Writes refused groups into `ripen.dead_letter`, readable for people and exact for replay. Never judges who is guilty; the flush does.

use super::written::Written;
use super::{Answer, Command, DeadGroup, FlushBatch, pipeline::pipeline};
use crate::catalog::{Column, Relation};
use crate::change::{Change, Letter, RowChange};
use crate::error::StoreError;
use crate::progress::signed;
use crate::store::Connection;
use bytes::BytesMut;
use ripen_pg::tuple::{Datum, Tuple};
use ripen_pg::value::{self, Settings};
use serde_json::{Map, Value, json};
use std::fmt::Write;

const INSERT: &str = "INSERT INTO ripen.dead_letter (log, identity, flush, sqlstate, message, changes, payload) VALUES ($1, $2, $3, $4, $5, $6::text::jsonb, $7)";

/// One letter per group, in the flush's own transaction.
pub async fn write(
    client: &Connection,
    written: Written<'_>,
    batch: &FlushBatch,
    dead: &[DeadGroup],
) -> Result<(), StoreError> {
    if dead.is_empty() {
        return Ok(());
    }
    let statement = client.prepare_cached(INSERT).await?;
    let letters = dead.iter().map(|dead| -> Command<'_> {
        let statement = &statement;
        let rows = dead.group.rows.iter().map(|row| describe(written, row));
        let changes = Value::Array(rows.collect()).to_string();
        let payload = Letter::new(dead.group.clone(), written.shapes).encode();
        Box::pin(async move {
            let (log, identity) = (batch.log.number, batch.log.identity.stored());
            let seq = signed(batch.seq.0);
            let (sqlstate, message) = (&dead.sqlstate, without_nul(&dead.message));
            client
                .execute(
                    statement,
                    &[
                        &log, &identity, &seq, sqlstate, &message, &changes, &payload,
                    ],
                )
                .await
                .map(Answer::Count)
        })
    });
    pipeline(letters.collect()).await?;
    Ok(())
}

/// One row's change as JSON.
fn describe(written: Written<'_>, row: &RowChange) -> Value {
    let operation = match &row.change {
        Change::Insert { .. } => "insert",
        Change::Put { .. } => "put",
        Change::Update { .. } => "update",
        Change::Delete => "delete",
    };
    let Some(relation) = written.catalog.relations.get(&row.row.table) else {
        return json!({"table": row.row.table.0, "key": hex(row.row.key.as_bytes()), "operation": operation});
    };
    json!({
        "table": format!("{}.{}", relation.schema, relation.name),
        "key": key(written, relation, row),
        "operation": operation,
        "columns": columns(written, relation, &row.change),
    })
}

/// By which the row is found in Postgres; null for one that nothing names there.
fn key(written: Written<'_>, relation: &Relation, row: &RowChange) -> Value {
    if written.appends(relation, row) {
        return Value::Null;
    }
    let Some(values) = written.key_values(relation, row) else {
        return hex(row.row.key.as_bytes()).into();
    };
    let columns = crate::sql::key_columns(relation).zip(values);
    let columns = columns.map(|(column, bytes)| {
        let value = text(written.value_type(relation, column), bytes);
        (column.name.clone(), value.into())
    });
    Value::Object(columns.collect())
}

/// What the change writes: all columns of an image, assigned ones of an update, increments with their sign.
fn columns(written: Written<'_>, relation: &Relation, change: &Change) -> Value {
    let mut columns = Map::new();
    let mut show = |image: &Tuple, column: &Column| match image.get(column.position) {
        Datum::Missing => {}
        Datum::Null => drop(columns.insert(column.name.clone(), Value::Null)),
        Datum::Value(bytes) => {
            let value = text(written.value_type(relation, column), bytes);
            columns.insert(column.name.clone(), value.into());
        }
    };
    match change {
        Change::Delete => {}
        Change::Insert { image } | Change::Put { image } => {
            relation
                .columns
                .iter()
                .for_each(|column| show(image, column));
        }
        Change::Update { image, set, add } => {
            let assigned = set
                .iter()
                .filter_map(|position| relation.column(usize::from(*position)));
            assigned.for_each(|column| show(image, column));
            for increment in add {
                let Some(column) = relation.column(usize::from(increment.position)) else {
                    continue;
                };
                let amount = text(increment.type_oid, &increment.amount);
                let sign = if amount.starts_with('-') { "" } else { "+" };
                columns.insert(column.name.clone(), format!("{sign}{amount}").into());
            }
        }
    }
    Value::Object(columns)
}

/// The text form, or hexadecimal digits where there is none: a letter must be written whatever the value.
fn text(type_oid: ripen_pg::ids::TypeOid, bytes: &[u8]) -> String {
    let mut out = BytesMut::new();
    let rendered = value::render_text(type_oid, bytes, &Settings::default(), &mut out);
    match (rendered, String::from_utf8(out.to_vec())) {
        (Ok(()), Ok(text)) => without_nul(&text),
        _ => hex(bytes),
    }
}

/// Neither text nor jsonb can hold it.
fn without_nul(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold("\\x".to_owned(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
