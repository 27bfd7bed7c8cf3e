//! One stream for all nodes of a cluster: who leads reads it and tells the others. Decides only; the proxy's `server/relay.rs` asks and answers.
//!
//! ```text
//! Postgres ── slot ──► leader: Event ──► Hub (numbers, keeps the last ones) ◄── Ask ── Taker ──► Event: another node
//!    ▲                                    │                                     ▲
//!    └──── acknowledged: what all readers have taken          Reply ────────────┘
//! ```
//! Invariants:
//! - Who has taken a lineage up to a position has taken every event of it that lies there or before. Within a lineage Postgres tells one and the same sequence, whoever reads it.
//! - So a node goes on with another leader only in the same lineage, and only if that leader can still tell everything behind the node's position. Else it begins anew, as after
//!   a lost slot: what it had of followed tables goes first.
//! - Whether something was missed never depends on what has been acknowledged to Postgres; that only decides how much must be told again or dropped.

mod codec;
mod hearing;
mod hub;
mod taker;

pub use codec::{decode_ask, decode_reply, encode_ask, encode_reply};
pub use hearing::hear;
pub use hub::Hub;
pub use taker::{Done, Taker, Then};

use crate::error::Unavailable;
use crate::event::Event;
use bytes::Bytes;
use ripen_cachestore::home::Home;
use ripen_pg::ids::Lsn;

/// What a node has taken of the stream, as it can be compared with what another one has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Drawn when a stream began that could not resume.
    pub lineage: u64,
    /// Drawn when Postgres's past turned out to be another one, or nobody knew of an earlier one.
    pub history: u64,
    /// Postgres's `systemid`.
    pub system_id: u64,
    /// Its timeline.
    pub timeline: u32,
    /// Every event at this position or before has been taken.
    pub complete: Lsn,
}

/// How far a node has come in the stream. Several events may lie at one position, so only a later one says that a position is complete.
#[derive(Clone, Copy, Debug, Default)]
pub struct Taken {
    claim: Option<Claim>,
    last: Lsn,
}

impl Taken {
    /// What may be claimed. `None`: nothing yet.
    pub fn claim(&self) -> Option<Claim> {
        self.claim
    }

    /// From now on that is claimed.
    pub fn begin(&mut self, claim: Claim) {
        self.last = claim.complete;
        self.claim = Some(claim);
    }

    /// Nothing can be claimed any more.
    pub fn forget(&mut self) {
        *self = Taken::default();
    }

    /// What left that trace has been taken.
    pub fn take(&mut self, trace: Trace) {
        let (Some(claim), Some((position, whole))) = (&mut self.claim, trace.place) else {
            return;
        };
        if position > self.last {
            claim.complete = self.last;
            self.last = position;
        }
        if whole && position == self.last {
            claim.complete = position;
        }
    }
}

/// What is left of an event when it has been taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trace {
    /// Where it lay, and whether it said that everything there had been told.
    place: Option<(Lsn, bool)>,
    /// Whether the stream stands since.
    stands: Option<bool>,
}

impl Trace {
    /// Of that event.
    pub fn of(event: &Event) -> Trace {
        let place = match event {
            Event::Transaction(transaction) => Some((transaction.commit, false)),
            Event::Mark { position, .. } | Event::Withdrawn { position, .. } => {
                Some((*position, false))
            }
            Event::Position(position) => Some((*position, true)),
            Event::Connected { .. } | Event::Disconnected { .. } | Event::Unavailable(_) => None,
        };
        let stands = match event {
            Event::Connected { .. } => Some(true),
            Event::Disconnected { .. } | Event::Unavailable(_) => Some(false),
            _ => None,
        };
        Trace { place, stands }
    }
}

/// What a node asks of who leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// Who asks.
    pub node: u64,
    /// The stream whose numbers it counts by; 0: none.
    pub stream: u64,
    /// The number it wants to hear next.
    pub next: u64,
    /// What it has taken so far.
    pub claim: Option<Claim>,
    /// Whether the answer may wait until there is something to tell.
    pub wait: bool,
}

/// What it is told.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// There is no stream here: the node does not lead, or its stream has not stood yet.
    Away,
    /// The asker counts by another stream, or wants what is not kept any more: it begins.
    Begin(Begin),
    /// It goes on.
    Events {
        /// What to ask for next.
        next: u64,
        /// Whether there is more already.
        more: bool,
        /// The events, as [`Hub`] keeps them.
        events: Vec<Bytes>,
    },
}

impl Reply {
    /// There is nothing more for who asked that.
    pub fn nothing(ask: &Ask) -> Reply {
        Reply::Events {
            next: ask.next,
            more: false,
            events: Vec::new(),
        }
    }

    /// Refuses a stream of another timeline than the system of record's: one of the two nodes has not heard yet that another server has taken over.
    ///
    /// # Errors
    /// The reason, for the log.
    pub fn of_home(self, home: &Home) -> Result<Reply, String> {
        let told = match &self {
            Reply::Begin(Begin {
                state: State::Follows { claim, .. },
                ..
            }) => Some(claim.timeline),
            _ => None,
        };
        match (told, home.now()) {
            (Some(told), Some(server)) if home.guarded() && told != server.timeline => {
                Err("the leader's stream is of another server".to_owned())
            }
            _ => Ok(self),
        }
    }
}

/// How a node begins to count by a stream.
#[derive(Clone, Debug, PartialEq)]
pub struct Begin {
    /// The stream.
    pub stream: u64,
    /// What to ask for next.
    pub next: u64,
    /// The state below is that before this number.
    pub until: u64,
    /// How the stream is.
    pub state: State,
}

/// How the leader's stream is.
#[derive(Clone, Debug, PartialEq)]
pub enum State {
    /// It stands, or is away and comes back by itself.
    Follows {
        /// What the asker may claim; its own, or, if it must begin anew, everything told so far.
        claim: Claim,
        /// Whether nothing is missed.
        resumed: bool,
        /// Whether it stands.
        live: bool,
    },
    /// There can be none until somebody changes something in Postgres.
    Unavailable(Unavailable),
}

#[cfg(test)]
mod tests;
