//! What the leader tells the others: numbers the events of its stream, keeps the last of them, and knows how far each reader is. Decides; time and chance are arguments.
//!
//! Invariants: numbers rise; positions of kept events never fall; of the lineage everything behind `floor` is kept.

use super::codec::encode_event;
use super::{Ask, Begin, Claim, Reply, State, Taken, Trace};
use crate::error::Unavailable;
use crate::event::{Event, RowOutcome};
use crate::limits::{
    RELAY_ANSWER_BYTES, RELAY_EVENT_BYTES_MAX, RELAY_HOLD, RELAY_TAIL_BYTES_MAX,
    RELAY_TAIL_EVENTS_MAX,
};
use bytes::Bytes;
use ripen_pg::ids::{Lsn, TableOid};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// See the module. One for each time that a node begins to read the stream.
#[derive(Debug)]
pub struct Hub {
    stream: u64,
    /// The number of the next event.
    next: u64,
    /// Numbers below are not kept any more.
    first: u64,
    /// Everything of the lineage behind this position is kept.
    floor: Lsn,
    kept: VecDeque<Kept>,
    bytes: usize,
    /// What has been told in this stream.
    told: Taken,
    state: Standing,
    readers: BTreeMap<u64, Reader>,
    bounds: Bounds,
}

/// How much is kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub events: usize,
    pub bytes: usize,
    pub answer_bytes: usize,
}

#[derive(Debug)]
struct Kept {
    number: u64,
    position: Lsn,
    /// Nothing but a position: of several in a row the last is enough.
    bare: bool,
    bytes: Bytes,
}

#[derive(Debug, PartialEq)]
enum Standing {
    /// It has not stood yet.
    Never,
    Follows {
        live: bool,
    },
    Unavailable(Unavailable),
}

#[derive(Clone, Copy, Debug)]
struct Reader {
    complete: Lsn,
    heard_ms: u64,
}

impl Hub {
    /// Of a node that has taken so much of the stream, as another one told it or it read itself. `stream`: drawn, not 0.
    pub fn new(stream: u64, claim: Option<Claim>) -> Hub {
        let mut told = Taken::default();
        if let Some(claim) = claim {
            told.begin(claim);
        }
        Hub {
            stream,
            next: 1,
            first: 1,
            floor: Lsn(0),
            kept: VecDeque::new(),
            bytes: 0,
            told,
            state: Standing::Never,
            readers: BTreeMap::new(),
            bounds: Bounds {
                events: RELAY_TAIL_EVENTS_MAX,
                bytes: RELAY_TAIL_BYTES_MAX,
                answer_bytes: RELAY_ANSWER_BYTES,
            },
        }
    }

    #[cfg(test)]
    pub(super) fn bounded(mut self, bounds: Bounds) -> Hub {
        self.bounds = bounds;
        self
    }

    /// What may be claimed by whoever has taken all that was told here.
    pub fn claim(&self) -> Option<Claim> {
        self.told.claim()
    }

    /// Readers that have asked of late.
    pub fn readers(&self) -> usize {
        self.readers.len()
    }

    /// Tells one event to all. `chance`: numbers that nobody has drawn before.
    pub fn tell(&mut self, event: &Event, chance: impl FnMut() -> u64) {
        match event {
            Event::Connected { .. } => self.connected(event, chance),
            Event::Disconnected { .. } => {
                if let Standing::Follows { live } = &mut self.state {
                    *live = false;
                    self.push(event, self.told.last, false);
                }
            }
            Event::Unavailable(why) => {
                self.told.forget();
                self.begin_anew(Lsn(0));
                self.state = Standing::Unavailable(why.clone());
            }
            _ => self.tell_of_wal(event),
        }
    }

    fn connected(&mut self, event: &Event, mut chance: impl FnMut() -> u64) {
        let Event::Connected {
            resumed,
            same_history,
            system_id,
            timeline,
            position,
        } = event
        else {
            return;
        };
        let known = self.told.claim();
        match known.filter(|_| *resumed) {
            // The first connection of this stream may tell again what this node has heard from another one.
            Some(claim) if !matches!(self.state, Standing::Follows { .. }) => {
                let complete = claim.complete.min(*position);
                self.told.begin(Claim { complete, ..claim });
                self.begin_anew(complete);
            }
            Some(_) => self.push(event, self.told.last, false),
            None => {
                let lineage = chance();
                let kept = known.filter(|_| *same_history);
                let history = kept.map_or_else(chance, |claim| claim.history);
                self.told.begin(Claim {
                    lineage,
                    history,
                    system_id: *system_id,
                    timeline: *timeline,
                    complete: *position,
                });
                self.begin_anew(*position);
            }
        }
        self.state = Standing::Follows { live: true };
    }

    /// Whoever counts by numbers given out before must say what it has.
    fn begin_anew(&mut self, floor: Lsn) {
        // A number is used up, so that nobody who waits for it takes what comes for more of the same.
        self.next += 1;
        self.first = self.next;
        self.floor = floor;
        self.kept.clear();
        self.bytes = 0;
    }

    fn tell_of_wal(&mut self, event: &Event) {
        let trace = Trace::of(event);
        let (Some(claim), Some((position, bare))) = (self.told.claim(), trace.place) else {
            return;
        };
        // Told again after a reconnect.
        if position <= claim.complete {
            return;
        }
        self.told.take(trace);
        let position = position.max(self.told.last);
        self.push(event, position, bare);
    }

    fn push(&mut self, event: &Event, position: Lsn, bare: bool) {
        if bare && self.kept.back().is_some_and(|last| last.bare) {
            let last = self.kept.pop_back();
            self.bytes -= last.map_or(0, |last| last.bytes.len());
        }
        let bytes = encode_small(event);
        self.bytes += bytes.len();
        self.kept.push_back(Kept {
            number: self.next,
            position,
            bare,
            bytes,
        });
        self.next += 1;
        let Bounds { events, bytes, .. } = self.bounds;
        while (self.kept.len() > events || self.bytes > bytes)
            && let Some(gone) = self.kept.pop_front()
        {
            self.bytes -= gone.bytes.len();
            self.floor = self.floor.max(gone.position);
            self.first = gone.number + 1;
        }
    }

    /// These nodes may have heard what an earlier leader told, and will ask soon.
    pub fn expect(&mut self, nodes: impl IntoIterator<Item = u64>, now_ms: u64) {
        let expected = Reader {
            complete: self.floor,
            heard_ms: now_ms,
        };
        for node in nodes {
            self.readers.entry(node).or_insert(expected);
        }
    }

    /// Answers a reader. `None`: there is nothing to tell yet.
    pub fn ask(&mut self, ask: &Ask, now_ms: u64) -> Option<Reply> {
        let counts = ask.stream == self.stream && ask.next >= self.first && ask.next <= self.next;
        match &self.state {
            Standing::Never => return Some(Reply::Away),
            Standing::Unavailable(_) if counts => return None,
            Standing::Unavailable(why) => {
                let state = State::Unavailable(why.clone());
                return Some(self.begin(self.next, state));
            }
            Standing::Follows { .. } => {}
        }
        let (told, mine) = (self.told.claim()?, ask.claim);
        let mine = mine.filter(|claim| claim.lineage == told.lineage);
        if let (true, Some(claim)) = (counts, mine) {
            self.heard(ask.node, claim.complete, now_ms);
            return self.events(ask.next);
        }
        let resumable = mine.filter(|claim| claim.complete >= self.floor);
        let claim = resumable.unwrap_or(told);
        self.heard(ask.node, claim.complete, now_ms);
        let next = match resumable {
            Some(claim) => self.behind(claim.complete),
            None => self.next,
        };
        let state = State::Follows {
            claim,
            resumed: resumable.is_some(),
            live: self.state == Standing::Follows { live: true },
        };
        Some(self.begin(next, state))
    }

    fn begin(&self, next: u64, state: State) -> Reply {
        Reply::Begin(Begin {
            stream: self.stream,
            next,
            until: self.next,
            state,
        })
    }

    /// The number of the first event behind a position.
    fn behind(&self, position: Lsn) -> u64 {
        let at = self.kept.partition_point(|kept| kept.position <= position);
        self.kept.get(at).map_or(self.next, |kept| kept.number)
    }

    fn events(&self, next: u64) -> Option<Reply> {
        let at = self.kept.partition_point(|kept| kept.number < next);
        let (mut events, mut bytes, mut last) = (Vec::new(), 0, None);
        for kept in self.kept.range(at..) {
            if !events.is_empty() && bytes + kept.bytes.len() > self.bounds.answer_bytes {
                break;
            }
            bytes += kept.bytes.len();
            last = Some(kept.number);
            events.push(kept.bytes.clone());
        }
        let next = last? + 1;
        Some(Reply::Events {
            next,
            more: next < self.next,
            events,
        })
    }

    fn heard(&mut self, node: u64, complete: Lsn, heard_ms: u64) {
        let reader = Reader { complete, heard_ms };
        self.readers.insert(node, reader);
    }

    /// Up to where all readers have taken everything; who has not asked for long does not count any more. Without readers there is no bound.
    pub fn taken_by_all(&mut self, now_ms: u64) -> Lsn {
        let hold_ms = RELAY_HOLD.as_millis() as u64;
        self.readers
            .retain(|_, reader| now_ms.saturating_sub(reader.heard_ms) <= hold_ms);
        let complete = self.readers.values().map(|reader| reader.complete);
        complete.min().unwrap_or(Lsn(u64::MAX))
    }
}

/// The event as it is relayed: a huge transaction is told by its tables.
fn encode_small(event: &Event) -> Bytes {
    let Event::Transaction(transaction) = event else {
        return encode_event(event);
    };
    let rows = transaction.rows.iter();
    if rows.map(RowOutcome::weight).sum::<usize>() <= RELAY_EVENT_BYTES_MAX {
        return encode_event(event);
    }
    let rows = transaction.rows.iter();
    let tables: BTreeSet<TableOid> = rows.map(|told| told.row.table).collect();
    let mut small = transaction.clone();
    small.invalidate(&tables);
    encode_event(&Event::Transaction(small))
}
