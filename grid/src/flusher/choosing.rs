//! When the next flush starts, and what it takes: what is ripe, and what somebody waits for. Waits; which rows are ripe, `ripening` decides.

use super::{FlushRequest, Flusher};
use crate::change::RowId;
use crate::limits;
use crate::log::FlushScope;
use crate::scope::Scope;
use std::time::Duration;
use tokio::time::Instant;

impl Flusher {
    /// Waits for the next reason to flush.
    pub(super) async fn next(&mut self) -> Option<(FlushScope, u64, Vec<FlushRequest>)> {
        loop {
            let mut again = self.held_up.try_again(Instant::now());
            if !again.is_empty() {
                again.extend(self.asked());
                let now = self.schedule.clock_ms();
                let (scope, _) = work(FlushScope::Rows(Vec::new()), 0, &again);
                return Some((scope, now, again));
            }
            let ripe = self.schedule.ask(|ripening| {
                let delay_ms = |table| (self.pace)(table).write_delay_ms;
                ripening.ripe_at(delay_ms, |row| self.held_up.has(row))
            });
            let (wall, log) = ((self.clock)(), self.schedule.clock_ms());
            let now = self.time.now_ms(wall, log, Instant::now().into_std());
            if ripe.is_some_and(|ripe| ripe <= now) {
                // Who asks goes along: there may always be something ripe.
                let requests = self.asked();
                let (scope, cutoff_ms) = work(self.ripe_scope(now), now, &requests);
                return Some((scope, cutoff_ms, requests));
            }
            let sleep = Duration::from_millis(
                ripe.map_or(u64::MAX / 2, |ripe| ripe - now)
                    .min(limits::FLUSHER_NAP_MS),
            );
            tokio::select! {
                request = self.requests.recv() => {
                    let mut requests = vec![request?];
                    requests.extend(self.asked());
                    let (scope, cutoff_ms) = work(FlushScope::Rows(Vec::new()), 0, &requests);
                    return Some((scope, cutoff_ms, requests));
                }
                () = self.schedule.changed() => {}
                () = tokio::time::sleep(sleep) => {}
            }
        }
    }

    fn asked(&mut self) -> Vec<FlushRequest> {
        std::iter::from_fn(|| self.requests.try_recv().ok()).collect()
    }

    /// What a flush that starts now takes. When all tables flush whole, that is everything; else the rows are named, so that replicas need no configuration.
    fn ripe_scope(&self, now_ms: u64) -> FlushScope {
        self.schedule.ask(|ripening| {
            if ripening
                .tables()
                .all(|(table, _)| (self.pace)(table).batch_factor >= 1.0)
            {
                return FlushScope::All;
            }
            let age_ms = |table| {
                let pace = (self.pace)(table);
                ((1.0 - pace.batch_factor) * pace.write_delay_ms as f64) as u64
            };
            FlushScope::Rows(ripening.older_than(now_ms, age_ms, limits::FLUSH_ROWS_NAMED_MAX))
        })
    }

    /// The scope without what is left out for a while.
    pub(super) fn allowed(&self, scope: &FlushScope, cutoff_ms: u64) -> FlushScope {
        if self.held_up.is_empty() {
            return scope.clone();
        }
        let scope = crate::machine::scope(scope.clone());
        let held_up = |row: &RowId| self.held_up.has(row);
        FlushScope::Rows(
            self.schedule.ask(|ripening| {
                ripening.due(&scope, cutoff_ms, held_up, limits::FLUSH_ROWS_NAMED_MAX)
            }),
        )
    }
}

/// What is ripe and what is asked for, as one: its scope and its cutoff.
fn work(ripe: FlushScope, now_ms: u64, requests: &[FlushRequest]) -> (FlushScope, u64) {
    if requests.is_empty() {
        return (ripe, now_ms);
    }
    let scope = requests
        .iter()
        .fold(crate::machine::scope(ripe), |all, request| {
            all.union(request.scope.clone())
        });
    let cutoffs = requests.iter().map(|request| request.cutoff_ms);
    (flush_scope(scope), cutoffs.fold(now_ms, u64::max))
}

fn flush_scope(scope: Scope) -> FlushScope {
    match scope {
        Scope::Everything => FlushScope::All,
        Scope::Tables(tables) => FlushScope::Tables(tables.into_iter().collect()),
        Scope::Rows(rows) => FlushScope::Rows(rows),
        Scope::Nothing => FlushScope::Rows(Vec::new()),
    }
}
