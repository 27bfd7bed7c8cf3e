//! The dead letters as `SHOW ripen.dead_letters` lists them. Reads the system of record; changes nothing.

use super::{Engine, errors};
use crate::metrics::Answer;
use ripen_pg::sqlstate::ErrorFields;

/// Columns of the list.
pub const COLUMNS: [&str; 5] = ["id", "at", "sqlstate", "message", "changes"];

impl Engine {
    /// Open dead letters, oldest first, one page.
    pub async fn dead_letters(&self) -> Result<Answer, ErrorFields> {
        let letters = self
            .keeper
            .store()
            .dead_letters(0, false)
            .await
            .map_err(|error| errors::of_store(&error))?;
        let row = |letter: ripen_cachestore::dead_letter::DeadLetter| {
            vec![
                letter.id.to_string(),
                letter.at,
                letter.sqlstate,
                letter.message,
                letter.changes,
            ]
        };
        Ok(Answer::new(&COLUMNS, letters.into_iter().map(row)))
    }
}
