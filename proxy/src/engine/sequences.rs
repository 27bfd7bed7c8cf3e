//! Values of sequences for inserts that are queued: drawn from Postgres in blocks, ahead of time, given one by one. What is left at the end of the process is a gap.
//! Does; `sequences/block.rs` decides.
//!
//! Invariant: no value is given that was drawn before the sequence was changed through Ripen: ALTER SEQUENCE makes another version of it in the catalog, and
//! what else changes one (`setval`, RESTART IDENTITY, code of users) does so behind a fence around everything.

mod block;

use super::{Engine, now_us, passed, refused};
use crate::eval::{Drawn, EvalError, Params};
use crate::limits::{
    SEQUENCE_BLOCK_MAX, SEQUENCE_BLOCKS_LEFT_MIN, SEQUENCE_FETCH_MAX, SEQUENCE_WAIT, SEQUENCES_MAX,
};
use crate::plan::{Draw, WritePlan};
use crate::session::answerer::{Asker, Refusal};
use block::{Block, Refill};
use parking_lot::Mutex;
use ripen_cachestore::Store;
use ripen_cachestore::catalog::{Relation, Sequence};
use ripen_grid::fences::Fences;
use ripen_grid::grid::GridError;
use ripen_pg::ids::TableOid;
use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

/// All blocks of this node.
pub struct Sequences {
    blocks: Mutex<HashMap<TableOid, Block>>,
    /// One at a time of each sequence at most.
    refills: mpsc::UnboundedSender<Refill>,
    /// Some refill has ended.
    ended: Notify,
}

/// Refills that are to be made: see [`Sequences::run`].
pub type Refills = mpsc::UnboundedReceiver<Refill>;

impl Sequences {
    /// Without a value, and what is to be given to [`Sequences::run`].
    pub fn new() -> (Sequences, Refills) {
        let (refills, to_make) = mpsc::unbounded_channel();
        let sequences = Sequences {
            blocks: Mutex::default(),
            refills,
            ended: Notify::new(),
        };
        (sequences, to_make)
    }

    /// Makes refills until stopped. One after the other: each is one statement, and they are rare.
    pub async fn run(&self, store: Store, mut refills: Refills, stop: CancellationToken) {
        loop {
            let refill = tokio::select! {
                () = stop.cancelled() => return,
                refill = refills.recv() => refill,
            };
            let Some(refill) = refill else { return };
            let values = fetch(&store, &refill).await;
            if let Some(block) = self.blocks.lock().get_mut(&refill.sequence.oid) {
                block.refilled(&refill, values, Instant::now());
            }
            self.ended.notify_waiters();
        }
    }

    /// So many values, in order. `None`: there are none to be had now. Cancel safe.
    async fn draw(
        &self,
        fences: &Fences,
        sequence: &Arc<Sequence>,
        count: usize,
    ) -> Option<Vec<i64>> {
        let waiting = async {
            loop {
                let mut ended = pin!(self.ended.notified());
                ended.as_mut().enable();
                match self.take(fences, sequence, count) {
                    Taken::Values(values) => return Some(values),
                    Taken::Soon => ended.await,
                    Taken::Never => return None,
                }
            }
        };
        tokio::time::timeout(SEQUENCE_WAIT, waiting).await.ok()?
    }

    fn take(&self, fences: &Fences, sequence: &Arc<Sequence>, count: usize) -> Taken {
        let changes = fences.wide_changes();
        if fences.has_table(sequence.oid) {
            return Taken::Never;
        }
        let mut blocks = self.blocks.lock();
        if blocks.len() >= SEQUENCES_MAX {
            blocks.clear();
        }
        let block = blocks
            .entry(sequence.oid)
            .and_modify(|block| {
                if !block.is_of(sequence, changes) {
                    *block = Block::new(sequence.clone(), changes);
                }
            })
            .or_insert_with(|| Block::new(sequence.clone(), changes));
        let taken = block.take(count);
        let wanted = if taken.is_some() { 1 } else { count };
        if let Some(refill) = block.wants(wanted, Instant::now()) {
            // Nobody takes orders any more: the process ends.
            let _ = self.refills.send(refill);
        }
        match taken {
            Some(values) => Taken::Values(values),
            None if block.is_refilling() => Taken::Soon,
            None => Taken::Never,
        }
    }
}

/// What Postgres gives; nothing when it gives an error, or no answer in time.
async fn fetch(store: &Store, refill: &Refill) -> Vec<i64> {
    let left_min = SEQUENCE_BLOCKS_LEFT_MIN.saturating_mul(SEQUENCE_BLOCK_MAX as i64);
    let drawing = store.draw_block(&refill.sequence, refill.count, left_min);
    let sequence = refill.sequence.oid.0;
    match tokio::time::timeout(SEQUENCE_FETCH_MAX, drawing).await {
        Ok(Ok(values)) => values,
        Ok(Err(error)) => {
            tracing::debug!(%error, sequence, "no values could be drawn in advance; inserts that need them pass through");
            Vec::new()
        }
        Err(_) => Vec::new(),
    }
}

enum Taken {
    Values(Vec<i64>),
    Soon,
    Never,
}

impl Engine {
    /// Draws what a write needs before it is decided.
    pub(super) async fn draw(
        &self,
        asker: Asker<'_>,
        plan: &WritePlan,
        params: &Params<'_>,
    ) -> Result<Drawn, Refusal> {
        let draws = plan
            .to_draw(params, asker.settings)
            .map_err(|EvalError::PassThrough(why)| passed("not-computed", why))?;
        let mut counts: HashMap<TableOid, (&Arc<Sequence>, usize)> = HashMap::new();
        for draw in &*draws {
            if let Draw::Sequence(sequence) = draw {
                counts.entry(sequence.oid).or_insert((sequence, 0)).1 += 1;
            }
        }
        if !counts.is_empty() && !asker.given.may_give() {
            let why = "the session has asked Postgres for its last values of sequences";
            return Err(passed("sequence-asked", why));
        }
        // What is drawn for a write that passes through all the same is lost.
        if !counts.is_empty() {
            self.may_queue(&plan.table)?;
        }
        let mut values = HashMap::with_capacity(counts.len());
        for (oid, (sequence, count)) in counts {
            let drawn = self.values(sequence, count).await;
            let drawn = drawn
                .ok_or_else(|| passed("sequence-empty", "no values of the sequence are at hand"))?;
            values.insert(oid, drawn.into_iter());
        }
        let mut drawn = Drawn::default();
        for draw in &*draws {
            match draw {
                Draw::Uuid => drawn.values.push(random_uuid(rand::random()).to_vec()),
                Draw::Place => drawn.values.push(place(now_us(), rand::random()).to_vec()),
                Draw::Sequence(sequence) => {
                    let next = values.get_mut(&sequence.oid).and_then(Iterator::next);
                    let value = next.expect("as many were drawn as there are places");
                    drawn.values.push(value.to_be_bytes().to_vec());
                    drawn.given.push((sequence.oid, value));
                }
            }
        }
        Ok(drawn)
    }

    /// Whether writes of the table are queued now, as far as that can be told without its rows.
    fn may_queue(&self, table: &Relation) -> Result<(), Refusal> {
        self.followed(table)?;
        match self.grid.fences.has_table(table.oid) {
            true => Err(refused(GridError::Owned)),
            false => Ok(()),
        }
    }

    /// So many values of a sequence, as it is in the newest catalog.
    async fn values(&self, sequence: &Arc<Sequence>, count: usize) -> Option<Vec<i64>> {
        let catalog = self.keeper.catalog();
        let known = catalog.sequences.get(&sequence.oid);
        if catalog.remembered || known != Some(sequence) || !self.keeper.is_fresh() {
            return None;
        }
        let fences = &self.grid.fences;
        self.sequences.draw(fences, sequence, count).await
    }

    /// See [`crate::session::answerer::Answerer::next_value`].
    pub(super) async fn give_next(
        &self,
        asker: Asker<'_>,
        sequence: &Arc<Sequence>,
    ) -> Option<i64> {
        if !asker.given.may_give() {
            return None;
        }
        let value = *self.values(sequence, 1).await?.first()?;
        asker.given.give(&[(sequence.oid, value)]);
        Some(value)
    }
}

/// As `gen_random_uuid()` makes them: version 4 of RFC 9562.
fn random_uuid(random: u128) -> [u8; 16] {
    let mut bytes = random.to_be_bytes();
    bytes[6] = (bytes[6] & 0x0f) | 0x40;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    bytes
}

/// The time first: a flush writes rows in the order of their keys, so those without a primary key lie in Postgres about as they came. What is random keeps them apart.
fn place(now_us: i64, random: u64) -> [u8; 16] {
    let mut bytes = [0; 16];
    let (time, chance) = bytes.split_at_mut(8);
    time.copy_from_slice(&now_us.to_be_bytes());
    chance.copy_from_slice(&random.to_be_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_in_the_order_of_their_time() {
        assert!(place(1, u64::MAX) < place(2, 0));
        assert_ne!(place(1, 0), place(1, 1));
    }

    #[test]
    fn a_uuid_says_that_it_is_random() {
        let text = |random| {
            let number = u128::from_be_bytes(random_uuid(random));
            format!("{number:032x}")
        };
        assert_eq!(text(0), "00000000000040008000000000000000");
        assert_eq!(text(u128::MAX), "ffffffffffff4fffbfffffffffffffff");
    }
}
