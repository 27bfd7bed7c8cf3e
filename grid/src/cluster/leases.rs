//! A node's leases: asks its leader for one, gives them where it leads, and lets commits be acknowledged. Does; what is right, `lease` decides.

use super::lease::{Grant, LEASE_MS, Lease, Lessor};
use super::limits::{LEASE_HOPE, LEASES_APART, LEASES_ASKED_MAX, RENEW_PERIOD};
use crate::log::{Log, LogIndex};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use parking_lot::Mutex;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

/// See the module.
pub(crate) struct Leases {
    /// Where this node's clock begins. It does not go back, and goes on while the process is stopped.
    begun: Instant,
    state: Mutex<State>,
    /// Somebody reported or asked.
    changed: Notify,
    /// When this node was last seen to have a lease.
    last_ms: AtomicU64,
}

#[derive(Default)]
struct State {
    /// What is held of another node.
    held: Lease,
    /// The term that this node leads in, and what it has granted in it.
    leads: Option<(u64, Lessor)>,
}

impl Leases {
    pub(crate) fn new() -> Leases {
        Leases {
            begun: Instant::now(),
            state: Mutex::default(),
            changed: Notify::new(),
            last_ms: AtomicU64::new(0),
        }
    }

    fn now_ms(&self) -> u64 {
        self.begun.elapsed().as_millis() as u64
    }

    /// Whether a read that begins now may be answered from memory.
    pub(crate) fn may_read(&self, log: &Log) -> bool {
        let now_ms = self.now_ms();
        let state = self.state.lock();
        match &state.leads {
            // Who leads lacks nothing, as long as nobody else can have been elected.
            Some(_) => self
                .confirmed_ms(log, now_ms)
                .is_some_and(|ms| now_ms < ms + LEASE_MS),
            None => state.held.holds(log.applied(), now_ms),
        }
    }

    /// Whether a lease that is not there is soon to be: this node had one, or was started, not longer ago than finding a leader takes.
    pub(crate) fn may_read_soon(&self) -> bool {
        let last = Duration::from_millis(self.last_ms.load(Ordering::Relaxed));
        self.begun.elapsed().saturating_sub(last) < LEASE_HOPE
    }

    /// A node that has applied the log up to there asks.
    pub(crate) fn grant(&self, log: &Log, node: u64, applied: LogIndex) -> Option<Grant> {
        let now_ms = self.now_ms();
        let confirmed_ms = self.confirmed_ms(log, now_ms)?;
        let mut state = self.state.lock();
        let (_, lessor) = state.leads.as_mut()?;
        let grant = lessor.grant(node, applied, confirmed_ms, now_ms);
        self.changed.notify_one();
        grant
    }

    /// When this node sent what a majority last confirmed.
    fn confirmed_ms(&self, log: &Log, now_ms: u64) -> Option<u64> {
        if log.votes_alone() {
            return Some(now_ms);
        }
        // Rounded away from now.
        log.confirmed()
            .map(|ago| now_ms.saturating_sub(ago.as_millis() as u64 + 1))
    }

    /// Until when an earlier leader may have been confirmed, where this node leads in that term since just now.
    fn others_confirmed_ms(&self, log: &Log, term: u64) -> u64 {
        let until = log.others_confirmed_until(term, Instant::now());
        // Rounded to later.
        until.saturating_duration_since(self.begun).as_millis() as u64 + 1
    }

    /// Follows who leads, and lets commits be acknowledged. Never ends.
    pub(crate) async fn acknowledge(&self, log: &Log) {
        let (mut leadership, mut applied) = (log.leadership(), log.watch_applied());
        loop {
            let leads = *leadership.borrow_and_update();
            let upto = {
                let now_ms = self.now_ms();
                let mut state = self.state.lock();
                state.lead(leads.here.then_some(leads.term), |term| {
                    Lessor::new(self.others_confirmed_ms(log, term), log.end())
                });
                let applied = *applied.borrow_and_update();
                let leads = state.leads.as_mut();
                leads.map(|(_, lessor)| {
                    (lessor.acknowledge(applied, now_ms), lessor.next_ms(now_ms))
                })
            };
            let (upto, next_ms) = upto.unwrap_or_default();
            if let Some(upto) = upto {
                log.acknowledge(upto);
            }
            let next = next_ms.map_or(RENEW_PERIOD, |next| {
                Duration::from_millis(next.saturating_sub(self.now_ms()))
            });
            tokio::select! {
                // A log that has ended tells nothing any more, at once and for ever: then only the others count.
                Ok(()) = leadership.changed() => {}
                Ok(()) = applied.changed() => {}
                () = self.changed.notified() => {}
                () = sleep(next.min(RENEW_PERIOD)) => {}
            }
        }
    }

    /// Asks for a lease, again and again, and at once when something has been applied: the leader waits for that, so it is told while earlier questions are on their way.
    /// `returned` is told, before anything is answered under a new lease, that this node had none: it may have stood still. Never ends.
    pub(crate) async fn renew<F>(&self, log: &Log, ask: impl Fn(LogIndex) -> F, returned: impl Fn())
    where
        F: Future<Output = Option<(Grant, LogIndex)>>,
    {
        let mut applied = log.watch_applied();
        let mut asked = FuturesUnordered::new();
        loop {
            if self.may_read(log) {
                self.last_ms.store(self.now_ms(), Ordering::Relaxed);
            }
            let upto = *applied.borrow_and_update();
            if !log.leadership().borrow().here {
                let (asked_ms, answer) = (self.now_ms(), ask(upto));
                asked.push(async move { (asked_ms, answer.await) });
            }
            let (soon, later) = (sleep(LEASES_APART), sleep(RENEW_PERIOD));
            tokio::pin!(soon, later);
            loop {
                let room = asked.len() < LEASES_ASKED_MAX;
                let due = asked.is_empty() || (room && soon.is_elapsed());
                tokio::select! {
                    Some((asked_ms, answer)) = asked.next() => self.answered(log, asked_ms, answer, &returned),
                    Ok(()) = applied.changed(), if due => break,
                    () = &mut soon, if !soon.is_elapsed() => {}
                    () = &mut later, if room => break,
                }
            }
        }
    }

    fn answered(
        &self,
        log: &Log,
        asked_ms: u64,
        answer: Option<(Grant, LogIndex)>,
        returned: impl Fn(),
    ) {
        if let Some((grant, acknowledged)) = answer {
            let mut state = self.state.lock();
            if state.held.is_over(self.now_ms()) {
                returned();
            }
            state.held.granted(grant, asked_ms);
            drop(state);
            log.acknowledge(acknowledged);
        }
    }
}

impl State {
    fn lead(&mut self, term: Option<u64>, lessor: impl FnOnce(u64) -> Lessor) {
        let known = self.leads.as_ref().map(|(term, _)| *term);
        if known != term {
            self.leads = term.map(|term| (term, lessor(term)));
        }
    }
}
