//! Blocks of values of sequences: drawn by Ripen's role, to be given to clients one by one. What is not given is a gap, as Postgres's own CACHE would leave.

use crate::catalog::Sequence;
use crate::error::StoreError;
use crate::store::Store;

/// `nextval` cannot be taken back, so near its end nothing is drawn: whoever draws one by one gets the last values, and Postgres's error.
/// Before the first draw Postgres tells no last value.
const DRAW: &str = "SELECT nextval($1::oid::regclass) FROM generate_series(1, $2::int4), \
    (SELECT abs($3::int8::numeric - coalesce(pg_sequence_last_value($1::oid::regclass), seqstart)) > $4::int8::numeric AS room \
     FROM pg_sequence WHERE seqrelid = $1::oid AND NOT seqcycle AND seqcache = 1) found WHERE room";

impl Store {
    /// Draws so many values, in order. None when the sequence has fewer than `left_min` left. They need not follow each other: others draw, too.
    /// Durable in Postgres when this returns; dropped before, they may be drawn and lost.
    ///
    /// # Errors
    /// What Postgres says: Ripen's role may not draw, the sequence is gone.
    pub async fn draw_block(
        &self,
        sequence: &Sequence,
        count: usize,
        left_min: i64,
    ) -> Result<Vec<i64>, StoreError> {
        let client = self.client().await?;
        let statement = client.prepare_cached(DRAW).await?;
        let count = i32::try_from(count).unwrap_or(i32::MAX);
        let distance = left_min.saturating_mul(sequence.increment.saturating_abs());
        let params: [&(dyn tokio_postgres::types::ToSql + Sync); 4] =
            [&sequence.oid.0, &count, &sequence.limit, &distance];
        let rows = client.query(&statement, &params).await?;
        rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
    }
}
