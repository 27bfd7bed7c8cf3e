//! Mistakes that a simulation puts in to see that it finds them, one at a time. Only in builds with debug assertions, and only when a test has asked for one: a release
//! has none of it. Decides nothing.

use std::sync::atomic::{AtomicU8, Ordering};

/// What is done wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Mistake {
    /// A row's clock begins anew with each change.
    ResetRipening = 1,
    /// Commits are acknowledged although holders of leases lack them.
    EarlyAck,
    /// A voter gives its voice although leases may rest on what it has confirmed.
    BrokenPromise,
    /// A lease is taken to last for ever.
    EndlessLease,
    /// Decisions build on what was proposed in earlier terms.
    StaleOverlay,
    /// What was decided in another term counts.
    StaleDecision,
    /// What was loaded without a lease is kept.
    LooseLoad,
    /// A leader that has not heard of a majority for a while forgets what was proposed.
    ForgottenProposal,
    /// A node that does not lead refuses writes.
    EagerRefusal,
    /// A request that comes again is carried out again.
    TwiceDone,
    /// A copy of a request that was refused is carried out.
    LateCopy,
    /// A hold does not wait for what is pending.
    UndrainedHold,
}

static MADE: AtomicU8 = AtomicU8::new(0);

impl Mistake {
    /// It is made from now on, everywhere in this process; in a release, never.
    pub fn make(self) {
        MADE.store(self as u8, Ordering::Relaxed);
    }

    /// Whether it is to be made.
    #[inline]
    pub(crate) fn is_made(self) -> bool {
        cfg!(debug_assertions) && MADE.load(Ordering::Relaxed) == self as u8
    }
}
