//! What Postgres's count of a log's flushes means when a leader begins. Decides; `flusher.rs` asks and proposes.
//!
//! The start of each flush is on disk before the flush is in Postgres, so the log knows of every flush that Postgres counts, and the count decides about the
//! one that is open. A count that the log cannot have led to is Postgres's or the log's loss. What Postgres lacks and the log has kept is written again; what it has not kept is lost, and only counted
//! on from. Where the log lacks flushes, its pending rows may be in Postgres already, and nobody knows which.

use crate::change::FlushSeq;

/// What the log says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// The flush that it started and did not end.
    pub open: Option<FlushSeq>,
    /// The last that it ended as applied.
    pub last: FlushSeq,
    /// The first that it has kept, and with it all up to the last. `None`: none.
    pub kept_from: Option<FlushSeq>,
    /// Rows that are pending, those of the open flush too.
    pub pending_rows: u64,
}

/// How to go on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settlement {
    /// How the open flush ended: applied or given back.
    pub open: Option<(FlushSeq, bool)>,
    /// Postgres counts otherwise: count on from there.
    pub count_on: Option<FlushSeq>,
    /// Postgres lacks these flushes, from the first to the last, that it had committed, and nobody has them.
    pub lost: Option<(FlushSeq, FlushSeq)>,
    /// Postgres lacks all from this one, by the numbers of after `count_on`, that it had committed: they are kept, and to be written again.
    pub again: Option<FlushSeq>,
}

/// The log lacks flushes that Postgres has, and has rows pending that they may have carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "Postgres has flush {} of this log, whose data folder knows only of {}: the folder is an old copy, or its disk has lost what it had synced. \
     {} acknowledged rows in it may be in Postgres already or be older than what is there, so nothing is written; \
     put the newest folder back, or, to give these rows up, move the folder away and start with an empty one",
    .applied.0, .last.0, .pending_rows
)]
pub struct SetBack {
    /// The last flush in Postgres.
    pub applied: FlushSeq,
    /// The last that the log knows.
    pub last: FlushSeq,
    /// Rows in doubt.
    pub pending_rows: u64,
}

/// Decides. `applied` is the last flush of this log that Postgres has.
pub fn settle(known: Known, applied: FlushSeq) -> Result<Settlement, SetBack> {
    let newest = known.open.unwrap_or(known.last);
    if applied > newest && known.pending_rows > 0 {
        return Err(SetBack {
            applied,
            last: newest,
            pending_rows: known.pending_rows,
        });
    }
    let open = known.open.map(|seq| (seq, applied == seq));
    let last = match open {
        Some((seq, true)) => seq,
        _ => known.last,
    };
    let next = FlushSeq(applied.0 + 1);
    // An open flush that was applied is kept only from its end on, and nothing is lost then.
    let again = known.kept_from.filter(|_| applied < last);
    let lost_to = again.map_or(last.0, |kept_from| kept_from.0 - 1);
    let lost = (lost_to >= next.0).then_some((next, FlushSeq(lost_to)));
    Ok(Settlement {
        open,
        count_on: (applied > last || lost.is_some()).then_some(applied),
        lost,
        again: again.map(|_| next),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(open: Option<u64>, last: u64, pending_rows: u64) -> Known {
        Known {
            open: open.map(FlushSeq),
            last: FlushSeq(last),
            kept_from: None,
            pending_rows,
        }
    }

    fn kept(open: Option<u64>, from: u64, last: u64) -> Known {
        Known {
            kept_from: Some(FlushSeq(from)),
            ..known(open, last, 0)
        }
    }

    #[test]
    fn what_postgres_lacks_and_is_kept_is_written_again() {
        let again = Settlement {
            again: Some(FlushSeq(4)),
            ..Settlement::default()
        };
        assert_eq!(settled(kept(None, 3, 6), 3), again);
        assert_eq!(settled(kept(None, 4, 6), 3), again);
        let open = Some((FlushSeq(7), false));
        assert_eq!(
            settled(kept(Some(7), 4, 6), 3),
            Settlement { open, ..again }
        );
        assert_eq!(settled(kept(None, 4, 6), 6), Settlement::default());
        let open = Some((FlushSeq(7), true));
        let applied = Settlement {
            open,
            ..Settlement::default()
        };
        assert_eq!(settled(kept(Some(7), 4, 6), 7), applied);
    }

    #[test]
    fn what_is_kept_comes_behind_what_is_lost() {
        let settled = settled(kept(None, 5, 6), 2);
        assert_eq!(settled.lost, Some((FlushSeq(3), FlushSeq(4))));
        assert_eq!(settled.count_on, Some(FlushSeq(2)));
        assert_eq!(settled.again, Some(FlushSeq(3)));
    }

    /// Every flush is there once, or named as lost; none comes before one that was there before it.
    #[test]
    fn every_flush_is_in_postgres_or_is_written_again_or_named() {
        for (applied, safe, last) in (0..6).flat_map(|applied| {
            (0..6).flat_map(move |safe| (safe..6).map(move |last| (applied, safe, last)))
        }) {
            let known = Known {
                kept_from: (safe < last).then_some(FlushSeq(safe + 1)),
                ..known(None, last, 0)
            };
            let found = settled(known, applied);
            let lost = found.lost.map_or(0, |(first, to)| to.0 + 1 - first.0);
            let again = match found.again {
                Some(_) => last - applied - lost,
                None => 0,
            };
            if applied <= last {
                assert_eq!(applied + lost + again, last, "{applied} {safe} {last}");
                assert_eq!(
                    lost,
                    safe.saturating_sub(applied),
                    "{applied} {safe} {last}"
                );
                assert_eq!(found.count_on.is_some(), lost > 0);
            } else {
                assert_eq!((found.count_on, lost), (Some(FlushSeq(applied)), 0));
            }
        }
    }

    fn settled(known: Known, applied: u64) -> Settlement {
        settle(known, FlushSeq(applied)).unwrap()
    }

    #[test]
    fn the_count_tells_what_became_of_the_open_flush() {
        for (applied, committed) in [(5, true), (4, false)] {
            let expected = Settlement {
                open: Some((FlushSeq(5), committed)),
                ..Settlement::default()
            };
            assert_eq!(settled(known(Some(5), 4, 1), applied), expected);
        }
        assert_eq!(settled(known(None, 4, 9), 4), Settlement::default());
    }

    #[test]
    fn what_postgres_has_lost_is_counted_on_from() {
        let lost = Settlement {
            open: Some((FlushSeq(5), false)),
            count_on: Some(FlushSeq(2)),
            lost: Some((FlushSeq(3), FlushSeq(4))),
            again: None,
        };
        assert_eq!(settled(known(Some(5), 4, 1), 2), lost);
        assert_eq!(
            settled(known(None, 4, 0), 2),
            Settlement { open: None, ..lost }
        );
    }

    #[test]
    fn rows_of_a_log_that_was_set_back_are_in_doubt() {
        let doubt = settle(known(None, 4, 3), FlushSeq(5)).unwrap_err();
        assert_eq!(doubt.pending_rows, 3);
        assert!(settle(known(Some(5), 4, 1), FlushSeq(6)).is_err());
    }

    #[test]
    fn without_pending_rows_nothing_is_in_doubt() {
        let expected = Settlement {
            count_on: Some(FlushSeq(5)),
            ..Settlement::default()
        };
        assert_eq!(settled(known(None, 4, 0), 5), expected);
    }
}
