//! What a node must have been told before its memory may stand for Postgres in another's load. Decides only.
//!
//! A load from Postgres sees everything that was visible when it began. A row out of another node's memory is as good only if that node has been told at least what the asking
//! one had been told when its load began: WAL and log. What comes later the asking node's load records, as ever, and what the row says of itself (`Seen`) tells which of that
//! it contains. See `docs/ARCHITECTURE.md`, "A row from another node".

use crate::log::LogIndex;
use ripen_pg::ids::Lsn;

/// Up to where a node has been told. Of one that asks: anything of which it may be seen in its memory. Of one that answers: anything that is wholly in its memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    /// The log.
    pub log: LogIndex,
    /// Postgres's WAL.
    pub wal: Lsn,
    /// Which past that WAL is of: Postgres's system identifier and timeline, as one number.
    pub history: u64,
    /// Whether the stream stands.
    pub live: bool,
}

/// Why a node must not answer for Postgres.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Short {
    /// It has not been told enough yet.
    Behind,
    /// It may be of another past: positions in the WAL cannot be compared.
    Elsewhere,
}

impl Told {
    /// Whether a node that has been told this much may answer one that asks and has been told `asked`.
    ///
    /// # Errors
    /// Why not.
    pub fn answers(&self, asked: &Told) -> Result<(), Short> {
        // A stream that is away may have missed that Postgres goes on from another past under the same name; who asks would know, if its own stands.
        if self.history != asked.history || (asked.live && !self.live) {
            return Err(Short::Elsewhere);
        }
        if self.log < asked.log || self.wal < asked.wal {
            return Err(Short::Behind);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(log: u64, wal: u64, history: u64, live: bool) -> Told {
        let (log, wal) = (LogIndex(log), Lsn(wal));
        Told {
            log,
            wal,
            history,
            live,
        }
    }

    #[test]
    fn who_knows_less_does_not_answer() {
        let asked = told(5, 50, 1, true);
        let answers = |answering: Told| answering.answers(&asked);
        assert_eq!(answers(told(5, 50, 1, true)), Ok(()));
        assert_eq!(answers(told(6, 60, 1, true)), Ok(()));
        assert_eq!(answers(told(4, 60, 1, true)), Err(Short::Behind));
        assert_eq!(answers(told(6, 49, 1, true)), Err(Short::Behind));
    }

    #[test]
    fn another_past_is_not_compared() {
        let asked = told(5, 50, 1, true);
        let other = told(6, 60, 2, true).answers(&asked);
        assert_eq!(other, Err(Short::Elsewhere));
        let away = told(6, 60, 1, false).answers(&asked);
        assert_eq!(away, Err(Short::Elsewhere));
        let both_away = told(6, 60, 1, false).answers(&told(5, 50, 1, false));
        assert_eq!(both_away, Ok(()));
    }
}
