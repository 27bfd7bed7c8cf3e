//! Rows that cannot be written for now (somebody else's lock, a right that Ripen's role lacks), and who waits for them. They stay pending and are left out of flushes
//! for a while, so that nobody else waits behind them. Decides only; a restart forgets it and learns it again.

use super::FlushRequest;
use crate::change::RowId;
use crate::limits::{HELD_UP_PAUSE_MAX, HELD_UP_PAUSE_MIN};
use std::collections::HashSet;
use std::time::Duration;
use tokio::time::Instant;

/// See the module.
#[derive(Default)]
pub struct HeldUp {
    rows: HashSet<RowId>,
    until: Option<Instant>,
    /// The last pause. `None`: what was left out last has been written since.
    pause: Option<Duration>,
    waiting: Vec<FlushRequest>,
}

impl HeldUp {
    /// Whole groups were held up. Each try in vain doubles the pause.
    pub fn add(&mut self, rows: Vec<RowId>, now: Instant) {
        self.rows.extend(rows);
        if self.until.is_none() {
            let doubled = self.pause.map_or(HELD_UP_PAUSE_MIN, |pause| pause * 2);
            let pause = doubled.min(HELD_UP_PAUSE_MAX);
            self.pause = Some(pause);
            self.until = Some(now + pause);
        }
    }

    /// A flush was written.
    pub fn written(&mut self) {
        if self.is_empty() {
            self.pause = None;
        }
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
    fn only_who_asked_for_rows_left_out_waits_for_the_next_try() {
        let now = Instant::now();
        let mut held_up = HeldUp::default();
        held_up.add(vec![row(1)], now);
        let mut heard = Vec::new();
        for key in [1, 2, 1] {
            let (done, hears) = oneshot::channel();
            held_up.answer(FlushRequest {
                scope: Scope::rows(vec![row(key)]),
                cutoff_ms: 0,
                done,
            });
            heard.push(hears);
        }
        assert!(heard[0].try_recv().is_err() && heard[1].try_recv().is_ok());
        drop(heard.pop());
        assert!(held_up.try_again(now).is_empty() && held_up.has(&row(1)));
        assert_eq!(held_up.try_again(now + HELD_UP_PAUSE_MIN).len(), 1);
        assert!(held_up.is_empty());
    }

    #[test]
    fn each_try_in_vain_doubles_the_pause_until_one_succeeds() {
        let mut now = Instant::now();
        let mut held_up = HeldUp::default();
        let mut pause = |held_up: &mut HeldUp| {
            held_up.add(vec![row(1)], now);
            held_up.written();
            let begun = now;
            while !held_up.is_empty() {
                now += HELD_UP_PAUSE_MIN;
                held_up.try_again(now);
            }
            now - begun
        };
        assert_eq!(pause(&mut held_up), HELD_UP_PAUSE_MIN);
        assert_eq!(pause(&mut held_up), HELD_UP_PAUSE_MIN * 2);
        assert!((0..9).all(|_| pause(&mut held_up) <= HELD_UP_PAUSE_MAX));
        held_up.written();
        assert_eq!(pause(&mut held_up), HELD_UP_PAUSE_MIN);
    }
}
