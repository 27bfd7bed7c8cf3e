//! Mistakes that are put in on purpose, one at a time: the simulation must find each.

use ripen_grid::mistake::Mistake as Inner;

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mistake {
    /// The disk says that it has synced, and has not.
    LyingDisk,
    /// A disk that was lost comes back empty under its old number.
    ForgottenDisk,
    /// A flush does not look at the epoch.
    NoFencing,
    /// A flush does not look at the number of the one before it, and what became of a COMMIT is asked while it may still be on its way.
    NoCounting,
    /// A take-over does not raise the epoch.
    EpochStays,
    /// A COMMIT that was not answered counts as not done.
    UnknownIsLost,
    /// A COMMIT that was not answered counts as done.
    UnknownIsDone,
    /// A flush transaction lacks its last row.
    TornFlush,
    /// The nodes are not told which transaction carries a flush.
    UntoldFlush,
    /// A load says that it saw more than it did.
    LateSnapshot,
    /// The stream leaves out a transaction now and then.
    LossyStream,
    /// The stream does not tell of rows that are being loaded.
    DeafLoads,
    /// Transactions are told as soon as their flush is known to somebody, not here.
    HastyStream,
    /// Nodes read from memory without a lease.
    NoLease,
    /// What was read is told although others may still have what was before.
    UnsettledRead,
    /// Reads do not look at fences.
    NoFence,
    /// A write of which nobody knows is told to be done.
    HastyAnswer,
    /// A write that was not answered is asked for under another number.
    AnotherNumber,
    /// A statement that passes through does not wait for the flush.
    NoBarrier,
    /// A transaction in Postgres writes without owning its rows.
    NoHold,
    /// A hold is given back before its transaction has committed.
    EarlyRelease,
    /// A hold is given back as if nothing had changed.
    QuietRelease,
    /// Rows of a statement are read one after the other.
    TornRead,
    /// The standby is said to have the WAL that Postgres has: what is kept for it is let go at once.
    BoastfulStandby,
    /// What is loaded from another server than the system of record is kept.
    StrangeLoad,
    /// Statements pass through to whatever server there is.
    StrangeSession,
    /// A flush goes to whatever server there is.
    StrangeFlush,
    /// A flush that is written again is only counted.
    EmptyAgain,
    /// Clocks of some nodes go at less than half the speed of others.
    WildClocks,
    /// A stream that has left something out is taken for one that goes on.
    KeptMemory,
    /// One of the grid's own.
    Grid(Inner),
}

impl Mistake {
    /// Those that a few seeds find.
    pub const PLAIN: [Mistake; 29] = [
        Mistake::LyingDisk,
        Mistake::UnknownIsLost,
        Mistake::UnknownIsDone,
        Mistake::TornFlush,
        Mistake::UntoldFlush,
        Mistake::LateSnapshot,
        Mistake::LossyStream,
        Mistake::NoLease,
        Mistake::NoFence,
        Mistake::HastyAnswer,
        Mistake::AnotherNumber,
        Mistake::NoBarrier,
        Mistake::NoHold,
        Mistake::EarlyRelease,
        Mistake::QuietRelease,
        Mistake::Grid(Inner::ResetRipening),
        Mistake::Grid(Inner::EarlyAck),
        Mistake::Grid(Inner::EndlessLease),
        Mistake::Grid(Inner::UndrainedHold),
        Mistake::TornRead,
        Mistake::BoastfulStandby,
        Mistake::StrangeSession,
        Mistake::EmptyAgain,
        Mistake::WildClocks,
        Mistake::KeptMemory,
        Mistake::StrangeLoad,
        Mistake::NoCounting,
        Mistake::EpochStays,
        Mistake::UnsettledRead,
    ];

    /// Those that take many seeds, most of them because something else keeps the promise as well.
    pub const RARE: [Mistake; 13] = [
        Mistake::ForgottenDisk,
        Mistake::NoFencing,
        Mistake::DeafLoads,
        Mistake::Grid(Inner::BrokenPromise),
        Mistake::Grid(Inner::StaleOverlay),
        Mistake::Grid(Inner::StaleDecision),
        Mistake::Grid(Inner::LooseLoad),
        Mistake::Grid(Inner::ForgottenProposal),
        Mistake::Grid(Inner::EagerRefusal),
        Mistake::Grid(Inner::TwiceDone),
        Mistake::Grid(Inner::LateCopy),
        // The count of flushes in Postgres tells of the other server, too: the one is noticed as soon as the other.
        Mistake::StrangeFlush,
        // The others hear the stream from the leader, whose log they have heard before.
        Mistake::HastyStream,
    ];

    pub fn named(name: &str) -> Option<Mistake> {
        let mut all = Mistake::PLAIN.into_iter().chain(Mistake::RARE);
        all.find(|mistake| format!("{mistake:?}") == name)
    }
}
