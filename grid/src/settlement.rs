//! What Postgres's count of a log's flushes means when a leader begins. Decides; `flusher.rs` asks and proposes.
//!
//! The start of each flush is on disk before the flush is in Postgres, so the log knows of every flush that Postgres counts, and the count decides about the
//! one that is open. A count that the log cannot have led to is Postgres's or the log's loss: of Postgres's nothing can be told, it is only counted on from; where the
//! log lacks flushes, its pending rows may be in Postgres already, and nobody knows which.

use crate::change::FlushSeq;

/// What the log says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// The flush that it started and did not end.
    pub open: Option<FlushSeq>,
    /// The last that it ended as applied.
    pub last: FlushSeq,
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
    /// Postgres lacks flushes that it had committed.
    pub lost: bool,
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
    Ok(Settlement {
        open,
        count_on: (applied != last).then_some(applied),
        lost: applied < last,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(open: Option<u64>, last: u64, pending_rows: u64) -> Known {
        Known {
            open: open.map(FlushSeq),
            last: FlushSeq(last),
            pending_rows,
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
            lost: true,
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
