//! Sequences, and which columns draw from them. Never asks Postgres for a value.

use super::{Builder, PG_READ_ALL_DATA, PG_WRITE_ALL_DATA, Result, role_set};
use crate::catalog::Sequence;
use ripen_pg::ids::TableOid;
use std::sync::Arc;
use tokio_postgres::Row;

impl Builder {
    pub fn sequences(&mut self, rows: &[Row]) -> Result<()> {
        for row in rows {
            let mut sequence = Sequence {
                oid: TableOid(row.try_get(0)?),
                storage: row.try_get(1)?,
                version: row.try_get(2)?,
                increment: row.try_get(3)?,
                limit: row.try_get(4)?,
                plain: row.try_get(5)?,
                draw: role_set(row.try_get(6)?),
                ask: role_set(row.try_get(7)?),
            };
            if self.version() >= 140_000 {
                sequence.draw.insert(PG_WRITE_ALL_DATA);
                sequence.ask.insert(PG_READ_ALL_DATA);
            }
            let sequences = &mut self.catalog.sequences;
            sequences.insert(sequence.oid, Arc::new(sequence));
        }
        Ok(())
    }

    pub fn column_sequences(&mut self, rows: &[Row]) -> Result<()> {
        for row in rows {
            let position = row.try_get::<_, i16>(1)? as usize - 1;
            let sequence = TableOid(row.try_get(2)?);
            let Some(relation) = self.relation_at(row, 0)? else {
                continue;
            };
            let mut columns = relation.columns.iter_mut();
            if let Some(column) = columns.find(|column| column.position == position) {
                column.sequence = Some(sequence);
            }
        }
        Ok(())
    }
}
