//! What a node does with what its leader tells: which events it takes, when the stream counts as standing, what to ask next. Decides only.
//!
//! Events that come while it catches up are taken at once, but the stream stands only when it has caught up: what is older must not look fresh.

use super::codec::decode_event;
use super::{Ask, Begin, Reply, State, Taken, Trace};
use crate::event::Event;
use bytes::Bytes;
use ripen_cachestore::change::codec::Malformed;

/// See the module.
#[derive(Debug, Default)]
pub struct Taker {
    stream: u64,
    next: u64,
    /// Catching up: below this number it only matters how it ends.
    until: Option<(u64, bool)>,
    taken: Taken,
    /// Whether the stream stands, as far as the sink has been told.
    live: bool,
}

/// What a reply comes to when its events have been taken, each followed by [`Taker::taken`]: for [`Taker::done`].
#[derive(Debug)]
pub struct Then(After);

#[derive(Debug)]
enum After {
    Nothing,
    Began(Begin),
    Came { next: u64, more: bool },
}

/// What follows from a reply.
#[derive(Debug, Default, PartialEq)]
pub struct Done {
    /// For the sink.
    pub event: Option<Event>,
    /// Whether there is nothing more to hear at the moment.
    pub idle: bool,
}

impl Taker {
    /// One that has taken that much before, from whomever. `live`: whether the sink believes that the stream stands.
    pub fn new(taken: Taken, live: bool) -> Taker {
        Taker {
            taken,
            live,
            ..Taker::default()
        }
    }

    /// What has been taken.
    pub fn progress(&self) -> Taken {
        self.taken
    }

    /// What to ask now.
    pub fn ask(&self, node: u64, wait: bool) -> Ask {
        Ask {
            node,
            stream: self.stream,
            next: self.next,
            claim: self.taken.claim(),
            wait: wait && self.until.is_none(),
        }
    }

    /// There was no answer, or there is no stream. From now on the asker must say what it has.
    pub fn away(&mut self, reason: &str) -> Option<Event> {
        (self.stream, self.next, self.until) = (0, 0, None);
        let reason = reason.to_owned();
        self.live.then_some(Event::Disconnected { reason })
    }

    /// What a reply means: events for the sink, in order. Nothing counts as taken yet.
    ///
    /// # Errors
    /// When an event cannot be read: then the node begins anew.
    pub fn take(&mut self, reply: Reply) -> Result<(Vec<Event>, Then), Malformed> {
        let (events, after) = match reply {
            Reply::Away => {
                let gone = self.away("no node reads the stream yet");
                (gone.into_iter().collect(), After::Nothing)
            }
            Reply::Begin(begin) => (self.begin(&begin.state), After::Began(begin)),
            Reply::Events { next, more, events } => {
                let events = self.read(&events).inspect_err(|_| self.taken.forget())?;
                (events, After::Came { next, more })
            }
        };
        Ok((events, Then(after)))
    }

    fn begin(&mut self, state: &State) -> Vec<Event> {
        match state {
            State::Unavailable(why) => vec![Event::Unavailable(why.clone())],
            State::Follows { resumed: true, .. } => Vec::new(),
            State::Follows { claim, .. } => {
                let known = self.taken.claim();
                // What it knew is gone with this event.
                self.taken.forget();
                vec![Event::Connected {
                    resumed: false,
                    same_history: known.is_none_or(|known| known.history == claim.history),
                    system_id: claim.system_id,
                    timeline: claim.timeline,
                    position: claim.complete,
                }]
            }
        }
    }

    fn read(&mut self, events: &[Bytes]) -> Result<Vec<Event>, Malformed> {
        let events = events.iter().map(|bytes| decode_event(bytes));
        let mut events = events.collect::<Result<Vec<Event>, Malformed>>()?;
        if let Some((_, live)) = &mut self.until {
            // Only how it ends matters.
            events.retain(|event| match event {
                Event::Connected { .. } => {
                    *live = true;
                    false
                }
                Event::Disconnected { .. } => {
                    *live = false;
                    false
                }
                _ => true,
            });
        }
        Ok(events)
    }

    /// The sink has taken the event of that trace.
    pub fn taken(&mut self, trace: Trace) {
        self.taken.take(trace);
        self.live = trace.stands.unwrap_or(self.live);
    }

    /// All events of a reply have been taken.
    pub fn done(&mut self, then: Then) -> Done {
        match then.0 {
            After::Nothing => Done {
                event: None,
                idle: true,
            },
            After::Began(begin) => {
                (self.stream, self.next) = (begin.stream, begin.next);
                match begin.state {
                    State::Unavailable(_) => {
                        self.taken.forget();
                        self.until = None;
                    }
                    State::Follows {
                        claim,
                        live,
                        resumed,
                    } => {
                        if !resumed {
                            self.taken.begin(claim);
                        }
                        self.until = Some((begin.until, live));
                    }
                }
                self.catch_up(false)
            }
            After::Came { next, more } => {
                self.next = next;
                self.catch_up(more)
            }
        }
    }

    fn catch_up(&mut self, more: bool) -> Done {
        match self.until {
            None => Done {
                event: None,
                idle: !more,
            },
            Some((until, _)) if self.next < until || more => Done::default(),
            Some((_, live)) => {
                self.until = None;
                Done {
                    event: self.settle(live),
                    idle: true,
                }
            }
        }
    }

    fn settle(&mut self, live: bool) -> Option<Event> {
        let claim = self.taken.claim()?;
        match (self.live, live) {
            (false, true) => Some(Event::Connected {
                resumed: true,
                same_history: true,
                system_id: claim.system_id,
                timeline: claim.timeline,
                position: claim.complete,
            }),
            (true, false) => Some(Event::Disconnected {
                reason: "the leader's stream is away".to_owned(),
            }),
            _ => None,
        }
    }
}
