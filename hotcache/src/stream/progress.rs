//! Recognises our own flushes by the row of `ripen.progress` that they move. Never takes a take-over by a new leader, or another log's flush, for one.

use super::StreamError;
use crate::event::OwnFlush;
use ripen_cachestore::change::FlushSeq;
use ripen_cachestore::progress::LogKey;
use ripen_pg::replication::pgoutput::{Column, Old, RelationMessage, TupleData};

/// Where its columns lie in the rows of the table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Progress {
    log: usize,
    /// `None`: WAL from before the table said whose flushes it counts. There was one row then, ours.
    identity: Option<usize>,
    applied: usize,
}

/// What a change of the table means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The transaction is this flush of ours.
    Flush(OwnFlush),
    /// Nothing of ours: another log, a take-over, a first row.
    Other,
}

impl Progress {
    /// The table's layout, if it is the one.
    pub fn recognise(message: &RelationMessage<'_>) -> Result<Option<Progress>, StreamError> {
        if message.namespace != b"ripen" || message.name != b"progress" {
            return Ok(None);
        }
        let find = |name: &[u8]| message.columns().position(|column| column.name == name);
        let at = |name| find(name).ok_or(StreamError::Progress);
        Ok(Some(Progress {
            log: at(b"log")?,
            identity: find(b"identity"),
            applied: at(b"applied")?,
        }))
    }

    /// Judges a new image. A flush moves `applied`; the old image tells where it was (the table's replica identity is full), else the last flush seen does. `logs`: ours, with
    /// the last flush seen of each.
    pub fn judge(
        self,
        logs: &[(LogKey, Option<FlushSeq>)],
        new: TupleData<'_>,
        old: Option<Old<'_>>,
    ) -> Result<Verdict, StreamError> {
        let mut ours = None;
        for (log, last) in logs {
            if self.is_of(*log, new)? {
                ours = Some((log.number, *last));
            }
        }
        let Some((log, last)) = ours else {
            return Ok(Verdict::Other);
        };
        let applied = self.applied(new)?;
        let before = match old {
            Some(Old::Full(old)) => Some(self.applied(old)?),
            _ => last,
        };
        let moved = before != Some(applied) && applied != FlushSeq(0);
        Ok(if moved {
            Verdict::Flush(OwnFlush { log, seq: applied })
        } else {
            Verdict::Other
        })
    }

    fn is_of(self, log: LogKey, row: TupleData<'_>) -> Result<bool, StreamError> {
        let identity = self.identity.map(|at| integer(row, at)).transpose()?;
        let ours = identity.is_none_or(|identity| identity == log.identity.stored());
        Ok(ours && integer(row, self.log)? == i64::from(log.number))
    }

    fn applied(self, row: TupleData<'_>) -> Result<FlushSeq, StreamError> {
        let applied = integer(row, self.applied)?;
        let applied = u64::try_from(applied).map_err(|_| StreamError::Progress)?;
        Ok(FlushSeq(applied))
    }
}

fn integer(row: TupleData<'_>, index: usize) -> Result<i64, StreamError> {
    let bytes = match row.iter().nth(index) {
        Some(Column::Binary(bytes)) => bytes,
        _ => return Err(StreamError::Progress),
    };
    match bytes.len() {
        4 => bytes
            .try_into()
            .map(|bytes| i64::from(i32::from_be_bytes(bytes))),
        _ => bytes.try_into().map(i64::from_be_bytes),
    }
    .map_err(|_| StreamError::Progress)
}
