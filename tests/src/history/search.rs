//! The search for an order (Wing and Gong 1993, with Lowe's memory of what was tried). Decides; knows neither keys nor clients.

use super::{Did, Operation, Value};
use std::collections::{HashMap, HashSet};
use std::time::Duration;

/// What came of a search.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// There is an order.
    Linear,
    /// There is none.
    Broken,
    /// Too many orders.
    Undecided,
}

/// States remembered for one key; some hundred bytes each. Beyond it the search ends undecided: the history is too long, or too much of it is unknown on a key that is both
/// added to and overwritten.
const STATES_MAX: usize = 200_000;

pub(super) fn judge(begins_with: Value, operations: &[Operation]) -> Verdict {
    Search::new(begins_with, operations).run()
}

/// Calls and returns in the order of time, as a list from which operations are taken out and put back.
struct Search {
    state: Value,
    operations: Vec<Candidate>,
    events: Vec<Event>,
    /// Of each event; the last of them is the beginning of the list.
    next: Vec<usize>,
    before: Vec<usize>,
    done: Vec<u64>,
    /// Returns still in the list.
    open: usize,
    seen: HashSet<(Box<[u64]>, Value)>,
    /// Operations taken, and the state before each.
    taken: Vec<(usize, Value)>,
    /// Of each value that somebody was told: by how many still to come, and from how many still to come. Empty where things are added: any sum may come again.
    told: HashMap<Value, Told>,
}

#[derive(Clone, Copy, Default)]
struct Told {
    readers: usize,
    writers: usize,
}

struct Candidate {
    did: Did,
    call: usize,
    returns: Option<usize>,
    /// An unknown one just like this, called before: it goes first. So unknown ones are counted, not permuted.
    after: Option<usize>,
}

#[derive(Clone, Copy)]
enum Event {
    Call(usize),
    Return(usize),
}

impl Search {
    fn new(begins_with: Value, operations: &[Operation]) -> Search {
        let candidates = candidates(operations);
        let mut events: Vec<(Duration, bool, Event)> = Vec::new();
        for (index, (operation, _)) in candidates.iter().enumerate() {
            events.push((operation.called, false, Event::Call(index)));
            if let Some(returned) = operation.returned {
                events.push((returned, true, Event::Return(index)));
            }
        }
        // At one moment calls come first: who returns and who calls then may have overlapped.
        events.sort_by_key(|(at, returns, _)| (*at, *returns));
        let count = events.len();
        let mut search = Search {
            state: begins_with,
            done: vec![0; candidates.len().div_ceil(64)],
            open: count - candidates.len(),
            operations: candidates
                .into_iter()
                .map(|(_, candidate)| candidate)
                .collect(),
            events: events.into_iter().map(|(_, _, event)| event).collect(),
            next: (1..count + 1).chain([0]).collect(),
            before: [count].into_iter().chain(0..count).collect(),
            seen: HashSet::new(),
            taken: Vec::new(),
            told: HashMap::new(),
        };
        search.count_told();
        for (at, event) in search.events.iter().enumerate() {
            match event {
                Event::Call(index) => search.operations[*index].call = at,
                Event::Return(index) => search.operations[*index].returns = Some(at),
            }
        }
        search
    }

    fn run(mut self) -> Verdict {
        let head = self.events.len();
        let mut at = self.next[head];
        while self.open > 0 {
            if self.seen.len() > STATES_MAX {
                return Verdict::Undecided;
            }
            // Until all have returned, a return is met before the end.
            let event = self.events[at];
            match event {
                Event::Call(index) if self.take(index) => at = self.next[head],
                Event::Call(_) => at = self.next[at],
                Event::Return(_) => match self.put_back() {
                    Some(index) => at = self.next[self.operations[index].call],
                    None => return Verdict::Broken,
                },
            }
        }
        Verdict::Linear
    }

    fn count_told(&mut self) {
        if self.operations.iter().any(|operation| adds(operation.did)) {
            return;
        }
        for operation in &self.operations {
            if let Did::Read(value) = operation.did {
                self.told.entry(value).or_default().readers += 1;
            }
        }
        for operation in &self.operations {
            if let Some(told) = written(operation.did).and_then(|value| self.told.get_mut(&value)) {
                told.writers += 1;
            }
        }
    }

    /// Whether somebody is still to be told a value that would be gone for good.
    fn misses(&self, state: Value) -> bool {
        let told = self.told.get(&self.state);
        state != self.state && told.is_some_and(|told| told.readers > 0 && told.writers == 0)
    }

    fn note(&mut self, did: Did, taken: bool) {
        let step = |count: &mut usize| if taken { *count -= 1 } else { *count += 1 };
        if let Did::Read(value) = did {
            self.told
                .entry(value)
                .and_modify(|told| step(&mut told.readers));
        }
        if let Some(value) = written(did) {
            self.told
                .entry(value)
                .and_modify(|told| step(&mut told.writers));
        }
    }

    /// Makes it the next in the order, unless it does not fit or was tried.
    fn take(&mut self, index: usize) -> bool {
        let operation = &self.operations[index];
        if operation
            .after
            .is_some_and(|earlier| !self.is_done(earlier))
        {
            return false;
        }
        let Some(state) = step(self.state, operation.did) else {
            return false;
        };
        if self.misses(state) {
            return false;
        }
        let did = operation.did;
        self.flip(index);
        let changes = !reads(did);
        if changes && !self.seen.insert((self.done.clone().into(), state)) {
            self.flip(index);
            return false;
        }
        self.note(did, true);
        self.taken.push((index, self.state));
        self.state = state;
        let (call, returns) = (self.operations[index].call, self.operations[index].returns);
        self.unlink(call);
        if let Some(returns) = returns {
            self.unlink(returns);
            self.open -= 1;
        }
        true
    }

    /// Undoes the last choice. What only reads is none: where its answer fits it may as well come at once.
    fn put_back(&mut self) -> Option<usize> {
        loop {
            let index = self.put_back_one()?;
            if !reads(self.operations[index].did) {
                return Some(index);
            }
        }
    }

    fn put_back_one(&mut self) -> Option<usize> {
        let (index, state) = self.taken.pop()?;
        self.state = state;
        self.note(self.operations[index].did, false);
        self.flip(index);
        let (call, returns) = (self.operations[index].call, self.operations[index].returns);
        if let Some(returns) = returns {
            self.link(returns);
            self.open += 1;
        }
        self.link(call);
        Some(index)
    }

    fn unlink(&mut self, at: usize) {
        let (before, next) = (self.before[at], self.next[at]);
        self.next[before] = next;
        self.before[next] = before;
    }

    /// Undoes the last `unlink`.
    fn link(&mut self, at: usize) {
        let (before, next) = (self.before[at], self.next[at]);
        self.next[before] = at;
        self.before[next] = at;
    }

    fn flip(&mut self, index: usize) {
        self.done[index / 64] ^= 1 << (index % 64);
    }

    fn is_done(&self, index: usize) -> bool {
        self.done[index / 64] & (1 << (index % 64)) != 0
    }
}

fn reads(did: Did) -> bool {
    matches!(did, Did::Read(_) | Did::Found(_))
}

fn adds(did: Did) -> bool {
    matches!(did, Did::Add(_) | Did::AddTold(_, _))
}

fn written(did: Did) -> Option<Value> {
    match did {
        Did::Write(value) => Some(value),
        Did::Insert(value) => Some(Some(value)),
        Did::Delete(_) => Some(None),
        _ => None,
    }
}

/// What it makes of the key, if what it was told fits.
fn step(state: Value, did: Did) -> Option<Value> {
    match did {
        Did::Read(told) => (told == state).then_some(state),
        Did::Found(told) => (told == state.is_some()).then_some(state),
        Did::Write(value) => Some(value),
        Did::Insert(value) => state.is_none().then_some(Some(value)),
        Did::Delete(told) => (told == state.is_some()).then_some(None),
        Did::Add(n) => state.map(|v| Some(v + n)),
        Did::AddTold(n, told) => state.filter(|v| v + n == told).map(|_| Some(told)),
    }
}

/// What may be left out or taken for something simpler, with the same verdict; the fewer kinds of unknown ones, the fewer orders.
struct Simpler {
    /// Values that somebody was told.
    told: HashSet<Value>,
    /// Values matter only by being told: nothing is added to them.
    opaque: bool,
    /// There are only reads and writes of values.
    plain: bool,
}

/// Stands for all values that nobody was told.
const UNTOLD: i64 = i64::MIN;

impl Simpler {
    fn new(operations: &[Operation]) -> Simpler {
        let did = || operations.iter().map(|operation| operation.did);
        let known = operations
            .iter()
            .filter(|operation| operation.returned.is_some());
        let told = known.filter_map(|operation| match operation.did {
            Did::Read(value) => Some(value),
            _ => None,
        });
        Simpler {
            told: told.collect(),
            opaque: !did().any(adds),
            plain: did().all(|did| matches!(did, Did::Read(_) | Did::Write(_))),
        }
    }

    /// What the operation may have done; `None`: it makes no difference.
    fn did(&self, operation: &Operation) -> Option<Did> {
        if operation.returned.is_some() {
            return Some(operation.did);
        }
        let untold = |value: i64| self.opaque && !self.told.contains(&Some(value));
        match operation.did {
            Did::Read(_) | Did::Found(_) => None,
            Did::Write(value) if self.plain && !self.told.contains(&value) => None,
            Did::Write(Some(value)) if untold(value) => Some(Did::Write(Some(UNTOLD))),
            Did::Insert(value) if untold(value) => Some(Did::Insert(UNTOLD)),
            Did::AddTold(n, _) => Some(Did::Add(n)),
            Did::Delete(_) => Some(Did::Write(None)),
            did => Some(did),
        }
    }
}

/// In the order of their calls.
fn candidates(operations: &[Operation]) -> Vec<(&Operation, Candidate)> {
    let simpler = Simpler::new(operations);
    let mut sorted: Vec<&Operation> = operations.iter().collect();
    sorted.sort_by_key(|operation| operation.called);
    let mut candidates: Vec<(&Operation, Candidate)> = Vec::new();
    let mut unknown: Vec<(Did, usize)> = Vec::new();
    for operation in sorted {
        let Some(did) = simpler.did(operation) else {
            continue;
        };
        let index = candidates.len();
        let mut after = None;
        if operation.returned.is_none() {
            match unknown.iter_mut().find(|(other, _)| *other == did) {
                Some((_, last)) => after = Some(std::mem::replace(last, index)),
                None => unknown.push((did, index)),
            }
        }
        let candidate = Candidate {
            did,
            call: 0,
            returns: None,
            after,
        };
        candidates.push((operation, candidate));
    }
    candidates
}
