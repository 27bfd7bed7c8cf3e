//! Rows that Postgres refused because Ripen's role lacks a right, and who waits for them. They stay pending, since a GRANT heals it, and are left out of flushes for a
//! while, so that nobody else waits behind them. Decides only; a restart forgets it and learns it again.

use super::FlushRequest;
use crate::change::RowId;
use crate::limits::DENIED_PAUSE;
use std::collections::HashSet;
use std::time::Instant;

/// See the module.
#[derive(Default)]
pub struct Denied {
    rows: HashSet<RowId>,
    until: Option<Instant>,
    waiting: Vec<FlushRequest>,
}

impl Denied {
    /// Whole groups were refused.
    pub fn add(&mut self, rows: Vec<RowId>, now: Instant) {
        self.rows.extend(rows);
        self.until.get_or_insert(now + DENIED_PAUSE);
    }

    /// Whether nothing is left out.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Whether the row is left out.
    pub fn has(&self, row: &RowId) -> bool {
        self.rows.contains(row)
    }

    /// A request has had its flush. Answered unless it asked for something that was left out: then it waits for the next try.
    pub fn answer(&mut self, request: FlushRequest) {
        if self.rows.iter().any(|row| request.scope.has(row)) {
            self.waiting.push(request);
        } else {
            // Whoever gave up waiting does not hear it.
            let _ = request.done.send(());
        }
    }

    /// The pause is over: everything is tried again. Answers who waits for it still.
    pub fn try_again(&mut self, now: Instant) -> Vec<FlushRequest> {
        if self.until.is_none_or(|until| now < until) {
            return Vec::new();
        }
        self.rows.clear();
        self.until = None;
        let mut waiting = std::mem::take(&mut self.waiting);
        waiting.retain(|request| !request.done.is_closed());
        waiting
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scope::Scope;
    use ripen_pg::ids::TableOid;
    use ripen_pg::key::Key;
    use tokio::sync::oneshot;

    fn row(key: u8) -> RowId {
        RowId {
            table: TableOid(1),
            key: Key::from_bytes(&[key]),
        }
    }

    #[test]
    fn only_who_asked_for_denied_rows_waits_for_the_next_try() {
        let now = Instant::now();
        let mut denied = Denied::default();
        denied.add(vec![row(1)], now);
        let mut heard = Vec::new();
        for key in [1, 2, 1] {
            let (done, hears) = oneshot::channel();
            denied.answer(FlushRequest {
                scope: Scope::rows(vec![row(key)]),
                cutoff_ms: 0,
                done,
            });
            heard.push(hears);
        }
        assert!(heard[0].try_recv().is_err() && heard[1].try_recv().is_ok());
        drop(heard.pop());
        assert!(denied.try_again(now).is_empty() && denied.has(&row(1)));
        assert_eq!(denied.try_again(now + DENIED_PAUSE).len(), 1);
        assert!(denied.is_empty());
    }
}
