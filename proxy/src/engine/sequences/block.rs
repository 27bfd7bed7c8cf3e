//! The values that this node has of one sequence, and when it wants more. Decides; `sequences.rs` fetches them.

use crate::limits::{SEQUENCE_BLOCK_MAX, SEQUENCE_BLOCK_MIN, SEQUENCE_PAUSE};
use ripen_cachestore::catalog::Sequence;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

/// See the module.
#[derive(Debug)]
pub struct Block {
    of: Arc<Sequence>,
    /// The fences around everything when it was made: under one, somebody may have changed the sequence.
    changes: u64,
    values: VecDeque<i64>,
    /// How many are fetched at once.
    size: usize,
    refilling: bool,
    /// Nothing came: not to be tried again before.
    paused_until: Option<Instant>,
}

/// A refill to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refill {
    /// Of which sequence.
    pub sequence: Arc<Sequence>,
    /// So many values.
    pub count: usize,
    changes: u64,
}

impl Block {
    /// One without values.
    pub fn new(of: Arc<Sequence>, changes: u64) -> Block {
        Block {
            of,
            changes,
            values: VecDeque::new(),
            size: SEQUENCE_BLOCK_MIN,
            refilling: false,
            paused_until: None,
        }
    }

    /// Whether its values are of the sequence as it is now.
    pub fn is_of(&self, sequence: &Sequence, changes: u64) -> bool {
        *self.of == *sequence && self.changes == changes
    }

    /// So many values, if they are there.
    pub fn take(&mut self, count: usize) -> Option<Vec<i64>> {
        (self.values.len() >= count).then(|| self.values.drain(..count).collect())
    }

    /// The refill that is to be made now, so that `count` values are there and some are left; it counts as begun. Each refill while values are wanted is twice
    /// as large as the one before.
    pub fn wants(&mut self, count: usize, now: Instant) -> Option<Refill> {
        let paused = self.paused_until.is_some_and(|until| now < until);
        if self.refilling || paused || self.values.len() >= count + self.size / 2 {
            return None;
        }
        self.refilling = true;
        let asked = self.size.max(count);
        self.size = (self.size * 2).min(SEQUENCE_BLOCK_MAX);
        Some(Refill {
            sequence: self.of.clone(),
            count: asked,
            changes: self.changes,
        })
    }

    /// Whether values are on their way.
    pub fn is_refilling(&self) -> bool {
        self.refilling
    }

    /// A refill has ended. Values of another version of the sequence are lost.
    pub fn refilled(&mut self, refill: &Refill, values: Vec<i64>, now: Instant) {
        if !self.is_of(&refill.sequence, refill.changes) {
            return;
        }
        self.refilling = false;
        if values.is_empty() {
            self.paused_until = Some(now + SEQUENCE_PAUSE);
        }
        self.values.extend(values);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ripen_pg::ids::TableOid;

    fn sequence(storage: u32) -> Arc<Sequence> {
        Arc::new(Sequence {
            oid: TableOid(1),
            storage,
            version: String::new(),
            increment: 1,
            limit: i64::MAX,
            plain: true,
            draw: [].into(),
            ask: [].into(),
        })
    }

    #[test]
    fn values_are_given_once_and_in_order() {
        let now = Instant::now();
        let mut block = Block::new(sequence(1), 0);
        assert_eq!(block.take(1), None);
        let refill = block.wants(1, now).unwrap();
        assert_eq!(refill.count, SEQUENCE_BLOCK_MIN);
        assert_eq!(block.wants(1, now), None);
        block.refilled(&refill, vec![1, 2, 4], now);
        assert_eq!(block.take(2), Some(vec![1, 2]));
        assert_eq!(block.take(2), None);
        assert_eq!(block.take(1), Some(vec![4]));
    }

    #[test]
    fn more_is_wanted_before_it_runs_out_and_more_each_time() {
        let now = Instant::now();
        let mut block = Block::new(sequence(1), 0);
        let mut counts = Vec::new();
        for _ in 0..9 {
            let refill = block.wants(1, now).unwrap();
            counts.push(refill.count);
            block.refilled(&refill, (0..refill.count as i64).collect(), now);
            block.take(refill.count).unwrap();
        }
        assert_eq!(counts[..3], [32, 64, 128]);
        assert_eq!(counts.last(), Some(&SEQUENCE_BLOCK_MAX));
        let refill = block.wants(1, now).unwrap();
        block.refilled(&refill, (0..refill.count as i64).collect(), now);
        block.take(SEQUENCE_BLOCK_MAX / 2 - 1).unwrap();
        assert_eq!(block.wants(1, now), None);
        block.take(1).unwrap();
        assert!(block.wants(1, now).is_some());
    }

    #[test]
    fn a_large_batch_is_fetched_whole() {
        let mut block = Block::new(sequence(1), 0);
        assert_eq!(block.wants(900, Instant::now()).unwrap().count, 900);
    }

    #[test]
    fn values_from_before_a_change_are_lost() {
        let now = Instant::now();
        let mut before = Block::new(sequence(1), 0);
        let refill = before.wants(1, now).unwrap();
        assert!(before.is_of(&sequence(1), 0));
        assert!(!before.is_of(&sequence(2), 0));
        assert!(!before.is_of(&sequence(1), 1));
        for mut after in [Block::new(sequence(2), 0), Block::new(sequence(1), 1)] {
            after.refilled(&refill, vec![1, 2, 3], now);
            assert_eq!(after.take(1), None);
        }
    }

    #[test]
    fn what_gives_nothing_is_not_asked_for_a_while() {
        let now = Instant::now();
        let mut block = Block::new(sequence(1), 0);
        let refill = block.wants(1, now).unwrap();
        block.refilled(&refill, vec![], now);
        assert!(!block.is_refilling());
        assert_eq!(block.wants(1, now), None);
        assert!(block.wants(1, now + SEQUENCE_PAUSE).is_some());
    }
}
