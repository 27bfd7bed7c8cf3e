//! Defects that seeds have found, each as a script that says what happens instead of drawing it; and with it the mistake that brings the defect back. Decides nothing.

use crate::faults::Fault;
use crate::mistake::Mistake;
use ripen_grid::mistake::Mistake as Inner;

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Script {
    /// A leader that stands still for longer than its lease, and not for as long as it takes to replace it, must not forget what it is asked in the first milliseconds after: openraft
    /// takes nothing from it until it has heard of the others.
    StoppedLeader,
    /// A node that has just begun, and does not lead, may not refuse a write that another node asks it for: it does not know whether it was carried out before.
    NewNodeIsAsked,
    /// A write that was refused, and that its session has had Postgres do, comes again when it could be carried out.
    RefusedWriteComesAgain,
}

impl Script {
    pub const ALL: [Script; 3] = [
        Script::StoppedLeader,
        Script::NewNodeIsAsked,
        Script::RefusedWriteComesAgain,
    ];

    pub fn named(name: &str) -> Option<Script> {
        let mut all = Script::ALL.into_iter();
        all.find(|script| format!("{script:?}") == name)
    }

    /// What it must find.
    pub fn mistake(self) -> Mistake {
        Mistake::Grid(match self {
            Script::StoppedLeader => Inner::ForgottenProposal,
            Script::NewNodeIsAsked => Inner::EagerRefusal,
            Script::RefusedWriteComesAgain => Inner::LateCopy,
        })
    }

    /// What happens, and when; node 1 leads. Nothing: the run does it itself.
    pub fn faults(self) -> Vec<(u64, Fault)> {
        let stop = |at_ms| {
            let (node, for_ms) = (1, 450);
            (at_ms, Fault::Stop { node, for_ms })
        };
        match self {
            Script::StoppedLeader => vec![stop(1600), stop(2600), stop(3600), stop(4600)],
            Script::NewNodeIsAsked | Script::RefusedWriteComesAgain => Vec::new(),
        }
    }
}
