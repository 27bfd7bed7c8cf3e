//! What a node's voice promises: who has confirmed a leader gives no other its voice until the leases that rest on this are over. openraft keeps that promise (a voter's own
//! lease, `ELECTION_MS.end`), but forgets it when the process ends, when a leader hands over, and on a leader that steps down, whose own voice counted, too. Decides only.
//!
//! With it, whoever is elected although nobody handed over to it knows that the leases of all earlier leaders are over, and need not wait for them.

use super::limits::PROMISE_MS;
use crate::mistake::Mistake;
use parking_lot::Mutex;
use std::time::Duration;
use tokio::time::Instant;

const PROMISE: Duration = Duration::from_millis(PROMISE_MS);

/// See the module.
#[derive(Debug)]
pub(crate) struct Ballots {
    state: Mutex<State>,
}

#[derive(Clone, Copy, Debug)]
struct State {
    /// Until when this node may have confirmed a leader without openraft remembering it.
    forgotten: Instant,
    /// The last term that this node led in, and when others last confirmed it then.
    led: Option<(u64, Instant)>,
    /// The last term in which this node wanted to lead because another handed over to it: voices are given for that whatever they have promised.
    handed_over: Option<u64>,
}

impl Ballots {
    /// Of a process that begins now.
    pub(crate) fn new(now: Instant) -> Ballots {
        Ballots {
            state: Mutex::new(State {
                forgotten: now,
                led: None,
                handed_over: None,
            }),
        }
    }

    /// This node is told by its leader to forget what it has confirmed.
    pub(crate) fn forget(&self, now: Instant) {
        self.state.lock().forgotten = now;
    }

    /// Another node has answered to what this one told it as the leader of that term.
    pub(crate) fn confirmed(&self, term: u64, now: Instant) {
        let mut state = self.state.lock();
        if let Some((_, at)) = state.led.filter(|(led, _)| *led != term) {
            state.forgotten = state.forgotten.max(at);
        }
        state.led = Some((term, now));
    }

    /// This node asks for voices.
    pub(crate) fn stand(&self, term: u64, handed_over: bool) {
        if handed_over {
            self.state.lock().handed_over = Some(term);
        }
    }

    /// Whether this node may give its voice to another that nobody hands over to.
    pub(crate) fn may_vote(&self, now: Instant) -> bool {
        let state = *self.state.lock();
        let last = state
            .led
            .map_or(state.forgotten, |(_, at)| at.max(state.forgotten));
        now >= last + PROMISE || Mistake::BrokenPromise.is_made()
    }

    /// Until when an earlier leader may have been confirmed by a majority, if this node is elected now, in that term.
    pub(crate) fn confirmed_until(&self, term: u64, now: Instant) -> Instant {
        let state = *self.state.lock();
        if state.handed_over == Some(term) {
            return now;
        }
        let before = state.led.filter(|(led, _)| *led != term);
        let forgotten = before.map_or(state.forgotten, |(_, at)| at.max(state.forgotten));
        // Those who voted had not confirmed anybody for so long.
        now.checked_sub(PROMISE)
            .map_or(forgotten, |then| then.max(forgotten))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(1);

    #[test]
    fn a_voice_is_not_given_while_what_it_confirmed_may_count() {
        let start = Instant::now();
        let ballots = Ballots::new(start);
        assert!(!ballots.may_vote(start + PROMISE - SHORT));
        assert!(ballots.may_vote(start + PROMISE));
        ballots.forget(start + PROMISE);
        assert!(!ballots.may_vote(start + PROMISE + SHORT));
        assert!(ballots.may_vote(start + 2 * PROMISE));
    }

    #[test]
    fn a_leader_that_steps_down_has_confirmed_itself() {
        let start = Instant::now();
        let ballots = Ballots::new(start);
        let led = start + 5 * PROMISE;
        ballots.confirmed(7, led);
        assert!(!ballots.may_vote(led + PROMISE - SHORT));
        assert!(ballots.may_vote(led + PROMISE));
        let again = led + SHORT;
        assert_eq!(
            ballots.confirmed_until(7, again),
            again - PROMISE,
            "its own term"
        );
        assert_eq!(ballots.confirmed_until(9, again), led);
        ballots.confirmed(9, again + SHORT);
        assert_eq!(ballots.confirmed_until(9, again + SHORT), led);
    }

    #[test]
    fn who_is_elected_knows_when_the_last_leader_was_confirmed() {
        let start = Instant::now();
        let ballots = Ballots::new(start);
        let soon = start + SHORT;
        assert_eq!(ballots.confirmed_until(2, soon), start, "its own voice");
        let later = start + 3 * PROMISE;
        assert_eq!(ballots.confirmed_until(2, later), later - PROMISE);
        ballots.stand(3, false);
        assert_eq!(ballots.confirmed_until(3, later), later - PROMISE);
        ballots.stand(4, true);
        assert_eq!(ballots.confirmed_until(4, later), later);
        assert_eq!(ballots.confirmed_until(5, later), later - PROMISE);
    }
}
