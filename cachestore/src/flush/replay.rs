//! Replays a dead letter: its changes and its resolution in one transaction, so that they happen once or not at all, whoever dies meanwhile.
//! Never waits for the queue: the caller keeps it away from the rows.

use super::commit;
use super::write::Write;
use super::written::Written;
use crate::catalog::Catalog;
use crate::change::Letter;
use crate::error::StoreError;
use crate::failpoint;
use crate::store::Store;

const RESOLVE: &str = "UPDATE ripen.dead_letter SET resolution = 'replayed', resolved_at = now() WHERE id = $1 AND resolution IS NULL RETURNING payload";

impl Store {
    /// Writes the changes of an open dead letter to Postgres; false when there is no such letter. After an error nothing is written and the letter is open,
    /// but for [`StoreError::UnknownOutcome`]: then ask [`Store::is_open`]. Not cancel safe: a dropped future leaves the outcome unknown.
    pub async fn replay(&self, catalog: &Catalog, id: i64) -> Result<bool, StoreError> {
        let transaction = self.borrow().await?;
        let client = transaction.client();
        // As in a flush: groups were consistent at their end, not at every statement.
        let begin = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SET CONSTRAINTS ALL DEFERRED";
        client.batch_execute(begin).await?;
        self.check_home(client).await?;
        let Some(row) = client.query_opt(RESOLVE, &[&id]).await? else {
            return Ok(false);
        };
        let letter = Letter::decode(row.try_get(0)?)
            .ok_or_else(|| StoreError::Unexpected(format!("payload of dead letter {id}")))?;
        if !letter.fits(catalog) {
            return Err(StoreError::Change {
                sqlstate: "42804",
                message: "its tables are not what they were".to_owned(),
            });
        }
        let shapes = &letter.shapes;
        let written = Written { catalog, shapes };
        let groups = std::slice::from_ref(&letter.group);
        Write { client, written }.groups(groups).await?;
        failpoint::reach_on("replay-written", client).await?;
        commit(client, ["replay-before-commit", "replay-committed"]).await?;
        transaction.give_back();
        Ok(true)
    }

    /// Whether a dead letter still waits for a decision. Waits for a replay that is under way, so the answer is final.
    pub async fn is_open(&self, id: i64) -> Result<bool, StoreError> {
        let sql = "SELECT resolution IS NULL FROM ripen.dead_letter WHERE id = $1 FOR UPDATE";
        let row = self.client().await?.query_opt(sql, &[&id]).await?;
        row.map_or(Ok(false), |row| Ok(row.try_get(0)?))
    }
}
