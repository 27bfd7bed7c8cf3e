//! Flushes that Postgres has and that are kept all the same, until its standbys have them, too: should one of those take its place, it may lack them, and they are written again from here.
//! Replicated with the schedule. Pure; who has what is found out elsewhere.
//!
//! Invariant: the numbers follow each other without a gap, and the last is that of the last flush that ended.

use crate::change::{CommitGroup, FlushSeq, RowId, Shapes};
use crate::schedule::{OpenFlush, earliest};
use ripen_cachestore::change::codec::{self, Malformed, Reader};
use ripen_cachestore::change::shape;
use ripen_pg::tuple::Tuple;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// One of them: all that it takes to write it again.
#[derive(Clone, Debug, PartialEq)]
pub struct KeptFlush {
    /// Its number.
    pub seq: FlushSeq,
    /// When it ended, by the log's clock.
    pub at_ms: u64,
    /// What it wrote.
    pub groups: Vec<CommitGroup>,
    /// Rows that had to be what they were.
    pub guards: BTreeMap<RowId, Option<Tuple>>,
    /// What the groups' bytes mean.
    pub shapes: Shapes,
    /// Rows that Postgres refused.
    pub refused: BTreeSet<RowId>,
    /// Bytes of its rows.
    pub bytes: u64,
}

impl KeptFlush {
    /// A flush that has ended.
    pub fn of(open: &OpenFlush, refused: &[RowId], shapes: &Shapes, at_ms: u64) -> KeptFlush {
        let rows = open.groups.iter().flat_map(|group| &group.rows);
        let tables: BTreeSet<_> = rows.map(|change| change.row.table).collect();
        let shapes = shapes.iter().filter(|(table, _)| tables.contains(table));
        KeptFlush {
            seq: open.seq,
            at_ms,
            groups: open.groups.clone(),
            guards: open.guards(),
            shapes: shapes
                .map(|(table, shape)| (*table, shape.clone()))
                .collect(),
            refused: refused.iter().cloned().collect(),
            bytes: open.bytes,
        }
    }

    /// How many rows it wrote.
    pub fn rows(&self) -> usize {
        self.groups.iter().map(|group| group.rows.len()).sum()
    }
}

/// See the module.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Kept {
    flushes: VecDeque<Arc<KeptFlush>>,
    bytes: u64,
}

/// Numbers for status and metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeptStats {
    /// Flushes.
    pub flushes: u64,
    /// Rows that they wrote.
    pub rows: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// When the oldest ended (unix milliseconds).
    pub oldest_ms: Option<u64>,
}

impl KeptStats {
    /// The numbers of two logs together.
    pub fn and(self, other: KeptStats) -> KeptStats {
        KeptStats {
            flushes: self.flushes + other.flushes,
            rows: self.rows + other.rows,
            bytes: self.bytes + other.bytes,
            oldest_ms: earliest(self.oldest_ms, other.oldest_ms),
        }
    }
}

impl Kept {
    /// A flush has ended that is to be kept.
    pub fn keep(&mut self, flush: KeptFlush) {
        let last = self.flushes.back().map(|last| last.seq.0);
        assert!(
            last.is_none_or(|last| last + 1 == flush.seq.0),
            "a gap between kept flushes"
        );
        self.bytes += flush.bytes;
        self.flushes.push_back(Arc::new(flush));
    }

    /// A flush has ended that is not: with a gap, those before are of no use.
    pub fn clear(&mut self) {
        *self = Kept::default();
    }

    /// All that are to take over have everything up to there.
    pub fn release(&mut self, safe: FlushSeq) {
        while let Some(first) = self.flushes.pop_front_if(|first| first.seq <= safe) {
            self.bytes -= first.bytes;
        }
    }

    /// Postgres counts otherwise than the log, whose last flush is `last`: flushes are counted on from there. What is kept comes behind it under new numbers, if it is more than Postgres has.
    /// Answers the last number then.
    pub fn count_on(&mut self, applied: FlushSeq, last: FlushSeq) -> FlushSeq {
        if applied > last {
            // It was written, and more that is not known here: what is kept may be older than that.
            self.clear();
        }
        let mut next = applied;
        for flush in &mut self.flushes {
            next.0 += 1;
            Arc::make_mut(flush).seq = next;
        }
        next
    }

    /// The first number.
    pub fn first(&self) -> Option<FlushSeq> {
        self.flushes.front().map(|first| first.seq)
    }

    /// The flush of that number.
    pub fn get(&self, seq: FlushSeq) -> Option<Arc<KeptFlush>> {
        let at = seq.0.checked_sub(self.first()?.0)?;
        self.flushes.get(usize::try_from(at).ok()?).cloned()
    }

    /// Bytes of their rows.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Numbers now.
    pub fn stats(&self) -> KeptStats {
        KeptStats {
            flushes: self.flushes.len() as u64,
            rows: self.flushes.iter().map(|flush| flush.rows() as u64).sum(),
            bytes: self.bytes,
            oldest_ms: self.flushes.front().map(|first| first.at_ms),
        }
    }

    /// For a snapshot.
    pub fn save(&self, out: &mut Vec<u8>) {
        codec::put_count(out, self.flushes.len());
        self.flushes.iter().for_each(|flush| save(out, flush));
    }

    /// Reads what [`Kept::save`] wrote.
    pub fn load(reader: &mut Reader<'_>) -> Result<Kept, Malformed> {
        let mut kept = Kept::default();
        for flush in reader.many(load)? {
            kept.keep(flush);
        }
        Ok(kept)
    }
}

fn save(out: &mut Vec<u8>, flush: &KeptFlush) {
    codec::put_u64(out, flush.seq.0);
    codec::put_u64(out, flush.at_ms);
    codec::put_many(out, &flush.groups, codec::encode_group);
    let guards: Vec<_> = flush.guards.iter().collect();
    codec::put_many(out, &guards, |out, (row, before)| {
        codec::encode_row_id(out, row);
        out.push(u8::from(before.is_some()));
        before.iter().for_each(|row| codec::encode_tuple(out, row));
    });
    shape::encode_shapes(out, &flush.shapes);
    let refused: Vec<_> = flush.refused.iter().collect();
    codec::put_many(out, &refused, |out, row| codec::encode_row_id(out, row));
    codec::put_u64(out, flush.bytes);
}

fn load(reader: &mut Reader<'_>) -> Result<KeptFlush, Malformed> {
    let guard = |reader: &mut Reader<'_>| {
        let row = codec::decode_row_id(reader)?;
        let before = match reader.bool()? {
            true => Some(codec::decode_tuple(reader)?),
            false => None,
        };
        Ok((row, before))
    };
    Ok(KeptFlush {
        seq: FlushSeq(reader.u64()?),
        at_ms: reader.u64()?,
        groups: reader.many(codec::decode_group)?,
        guards: reader.many(guard)?.into_iter().collect(),
        shapes: shape::decode_shapes(reader)?,
        refused: reader.many(codec::decode_row_id)?.into_iter().collect(),
        bytes: reader.u64()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use ripen_cachestore::change::{Change, RowChange};
    use ripen_pg::ids::TableOid;
    use ripen_pg::key::Key;
    use ripen_pg::tuple::Datum;

    fn flush(seq: u64) -> KeptFlush {
        let row = RowId {
            table: TableOid(1),
            key: Key::from_bytes(&[seq as u8]),
        };
        let image = Tuple::from_iter([Datum::Value(b"x")]);
        KeptFlush {
            seq: FlushSeq(seq),
            at_ms: seq * 10,
            groups: vec![CommitGroup {
                rows: vec![RowChange {
                    row: row.clone(),
                    change: Change::Insert {
                        image: image.clone(),
                    },
                }],
            }],
            guards: [(row.clone(), Some(image))].into(),
            shapes: Shapes::default(),
            refused: [row].into(),
            bytes: seq,
        }
    }

    fn kept(flushes: impl IntoIterator<Item = u64>) -> Kept {
        let mut kept = Kept::default();
        flushes.into_iter().for_each(|seq| kept.keep(flush(seq)));
        kept
    }

    #[test]
    fn what_standbys_have_is_let_go() {
        let mut kept = kept(3..=6);
        kept.release(FlushSeq(2));
        assert_eq!(kept.stats().flushes, 4);
        kept.release(FlushSeq(4));
        assert_eq!((kept.first(), kept.bytes()), (Some(FlushSeq(5)), 11));
        assert_eq!(kept.stats().oldest_ms, Some(50));
        assert!(kept.get(FlushSeq(4)).is_none() && kept.get(FlushSeq(7)).is_none());
        assert_eq!(kept.get(FlushSeq(6)).map(|found| found.bytes), Some(6));
        kept.release(FlushSeq(9));
        assert_eq!(kept, Kept::default());
    }

    #[test]
    fn behind_a_gap_flushes_get_new_numbers() {
        let mut behind = kept(5..=7);
        assert_eq!(behind.count_on(FlushSeq(2), FlushSeq(7)), FlushSeq(5));
        assert_eq!(behind.first(), Some(FlushSeq(3)));
        assert_eq!(behind.get(FlushSeq(5)).map(|last| last.bytes), Some(7));
        let mut none = Kept::default();
        assert_eq!(none.count_on(FlushSeq(2), FlushSeq(7)), FlushSeq(2));
        let mut ahead = kept(5..=7);
        assert_eq!(ahead.count_on(FlushSeq(9), FlushSeq(7)), FlushSeq(9));
        assert_eq!(ahead, Kept::default());
    }

    proptest! {
        #[test]
        fn a_snapshot_has_all(first in 1u64..100, count in 0u64..9, safe in 0u64..120) {
            let mut kept = kept(first..first + count);
            kept.release(FlushSeq(safe));
            let mut bytes = Vec::new();
            kept.save(&mut bytes);
            let mut reader = Reader::new(&bytes);
            prop_assert_eq!(Kept::load(&mut reader).unwrap(), kept);
            prop_assert!(reader.end().is_ok());
        }
    }
}
