//! Acknowledged transactions that Postgres refused, kept whole in `ripen.dead_letter`. Never writes to any other table; `flush/replay.rs` does.

use crate::change::{FlushSeq, Letter, RowId};
use crate::error::StoreError;
use crate::limits::DEAD_LETTER_PAGE;
use crate::progress::{LogKey, signed, unsigned};
use crate::store::Store;
use tokio_postgres::Row;

/// One refused transaction.
#[derive(Clone, Debug, PartialEq)]
pub struct DeadLetter {
    /// Its number.
    pub id: i64,
    /// The log it came from.
    pub log: i32,
    /// The flush that it was refused in.
    pub flush: FlushSeq,
    /// When, as Postgres prints it (UTC).
    pub at: String,
    /// Postgres's reason.
    pub sqlstate: String,
    /// See `sqlstate`.
    pub message: String,
    /// JSON array, one object per row: `table`, `key`, `operation`, `columns`. For people.
    pub changes: String,
    /// `replayed`, `discarded` or nothing yet.
    pub resolution: Option<String>,
}

impl Store {
    /// Dead letters with `id > after`, ascending, at most [`DEAD_LETTER_PAGE`]; resolved ones too if wanted.
    pub async fn dead_letters(
        &self,
        after: i64,
        resolved: bool,
    ) -> Result<Vec<DeadLetter>, StoreError> {
        let client = self.client().await?;
        let sql = "SELECT id, log, flush, at::text, sqlstate, message, changes::text, resolution FROM ripen.dead_letter \
             WHERE id > $1 AND ($2 OR resolution IS NULL) ORDER BY id LIMIT $3";
        let rows = client
            .query(sql, &[&after, &resolved, &DEAD_LETTER_PAGE])
            .await?;
        rows.iter().map(dead_letter).collect()
    }

    /// How many wait for a decision.
    pub async fn dead_letters_open(&self) -> Result<u64, StoreError> {
        let client = self.client().await?;
        let sql = "SELECT count(*) FROM ripen.dead_letter WHERE resolution IS NULL";
        unsigned(client.query_one(sql, &[]).await?.try_get(0)?)
    }

    /// Rows of the groups that one flush sent to the dead letters: what a flush whose answer was lost would have reported.
    pub async fn dead_rows(&self, log: LogKey, flush: FlushSeq) -> Result<Vec<RowId>, StoreError> {
        let client = self.client().await?;
        let sql = "SELECT id, payload FROM ripen.dead_letter WHERE log = $1 AND identity = $2 AND flush = $3";
        let (number, identity) = (log.number, log.identity.stored());
        let mut dead = Vec::new();
        let rows = client
            .query(sql, &[&number, &identity, &signed(flush.0)])
            .await?;
        for row in rows {
            let (id, payload): (i64, &[u8]) = (row.try_get(0)?, row.try_get(1)?);
            let letter = Letter::decode(payload)
                .ok_or_else(|| StoreError::Unexpected(format!("payload of dead letter {id}")))?;
            dead.extend(letter.group.rows.into_iter().map(|change| change.row));
        }
        Ok(dead)
    }

    /// Marks a dead letter as given up; it stays readable. False when there is no such open letter.
    pub async fn discard(&self, id: i64) -> Result<bool, StoreError> {
        let sql = "UPDATE ripen.dead_letter SET resolution = 'discarded', resolved_at = now() WHERE id = $1 AND resolution IS NULL";
        Ok(self.client().await?.execute(sql, &[&id]).await? == 1)
    }
}

fn dead_letter(row: &Row) -> Result<DeadLetter, StoreError> {
    Ok(DeadLetter {
        id: row.try_get(0)?,
        log: row.try_get(1)?,
        flush: FlushSeq(unsigned(row.try_get(2)?)?),
        at: row.try_get(3)?,
        sqlstate: row.try_get(4)?,
        message: row.try_get(5)?,
        changes: row.try_get(6)?,
        resolution: row.try_get(7)?,
    })
}
