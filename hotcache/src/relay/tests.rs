//! Single facts, then a model: nodes that lead in turn, hear late, in part, twice or not at all, with a slot that may run ahead of them. Whoever claims to have taken something has
//! taken it, and in the end all have everything.

use super::hub::Bounds;
use super::*;
use crate::event::{Outcome, OwnFlush, RowOutcome, Transaction};
use crate::limits::RELAY_HOLD;
use crate::publication::Author;
use crate::shape::ShapeStamp;
use proptest::prelude::*;
use ripen_cachestore::change::{FlushSeq, RowId};
use ripen_pg::ids::{TableOid, Xid32};
use ripen_pg::key::Key;
use ripen_pg::replication::PgMicros;
use ripen_pg::tuple::{Datum, Tuple};
use std::collections::BTreeSet;

const SMALL: Bounds = Bounds {
    events: 6,
    bytes: 1 << 20,
    answer_bytes: 60,
};

fn connected(resumed: bool, same_history: bool, timeline: u32, position: u64) -> Event {
    Event::Connected {
        resumed,
        same_history,
        system_id: 7,
        timeline,
        position: Lsn(position),
    }
}

fn mark(id: u64, position: u64) -> Event {
    Event::Mark {
        id,
        position: Lsn(position),
    }
}

fn gone() -> Event {
    Event::Disconnected {
        reason: "test".to_owned(),
    }
}

fn transaction() -> Transaction {
    let row = |key: &[u8]| RowId {
        table: TableOid(5),
        key: Key::from_bytes(key),
    };
    let image: Tuple = [Datum::Value(b"v"), Datum::Null, Datum::Missing]
        .into_iter()
        .collect();
    let told = |key: &[u8], outcome| RowOutcome {
        row: row(key),
        outcome,
    };
    Transaction {
        xid: Xid32(9),
        commit: Lsn(100),
        commit_time: PgMicros(-3),
        own_flush: Some(OwnFlush {
            log: 0,
            seq: FlushSeq(4),
        }),
        rows: vec![
            told(b"a", Outcome::Put(image)),
            told(b"b", Outcome::Delete),
            told(b"c", Outcome::Unknown),
        ],
        truncated: vec![TableOid(6)],
        invalidated: vec![TableOid(7), TableOid(8)],
        schema_changed: vec![TableOid(9)],
        shapes: vec![(TableOid(5), ShapeStamp(11))],
    }
}

/// What a node hears until there is nothing more, every event taken.
fn hear(hub: &mut Hub, taker: &mut Taker) -> Vec<Event> {
    let mut heard = Vec::new();
    loop {
        let Some(reply) = hub.ask(&taker.ask(2, true), 0) else {
            return heard;
        };
        let reply = decode_reply(&encode_reply(&reply)).unwrap();
        let (events, then) = taker.take(reply).unwrap();
        for event in events {
            taker.taken(Trace::of(&event));
            heard.push(event);
        }
        let done = taker.done(then);
        if let Some(event) = done.event {
            taker.taken(Trace::of(&event));
            heard.push(event);
        }
    }
}

/// Numbers that nobody has drawn before.
fn draw() -> impl FnMut() -> u64 {
    use std::sync::atomic::{AtomicU64, Ordering};
    static LAST: AtomicU64 = AtomicU64::new(1);
    || LAST.fetch_add(1, Ordering::Relaxed)
}

fn hub(claim: Option<Claim>, events: &[Event]) -> Hub {
    let mut hub = Hub::new(draw()(), claim).bounded(SMALL);
    events.iter().for_each(|event| hub.tell(event, draw()));
    hub
}

#[test]
fn what_is_told_comes_back_as_it_went_in() {
    let claim = Claim {
        lineage: 1,
        history: 2,
        system_id: 3,
        timeline: 4,
        complete: Lsn(5),
    };
    for claim in [None, Some(claim)] {
        let ask = Ask {
            node: 1,
            stream: 2,
            next: 3,
            claim,
            wait: true,
        };
        assert_eq!(decode_ask(&encode_ask(&ask)), Ok(ask));
    }
    let unavailable = Unavailable {
        message: "m".to_owned(),
        hint: "h".to_owned(),
    };
    let begin = |state| {
        Reply::Begin(Begin {
            stream: 1,
            next: 2,
            until: 3,
            state,
        })
    };
    for reply in [
        Reply::Away,
        begin(State::Unavailable(unavailable.clone())),
        begin(State::Follows {
            claim,
            resumed: true,
            live: false,
        }),
        Reply::Events {
            next: 4,
            more: true,
            events: vec![Bytes::from_static(b"a"), Bytes::new()],
        },
    ] {
        assert_eq!(decode_reply(&encode_reply(&reply)), Ok(reply));
    }
    for event in [
        connected(false, true, 3, 4),
        gone(),
        Event::Unavailable(unavailable),
        Event::Transaction(transaction()),
        mark(3, 4),
        Event::Withdrawn {
            author: Author(5),
            tables: vec![TableOid(1)],
            position: Lsn(6),
        },
        Event::Position(Lsn(7)),
    ] {
        assert_eq!(codec::decode_event(&codec::encode_event(&event)), Ok(event));
    }
    let mut other = encode_ask(&Taker::default().ask(1, true)).to_vec();
    other[0] += 1;
    assert!(decode_ask(&other).is_err(), "another version is refused");
}

#[test]
fn a_newcomer_begins_anew_and_hears_what_comes() {
    let mut hub = hub(None, &[connected(false, true, 1, 10), mark(1, 20)]);
    let mut taker = Taker::default();
    let heard = hear(&mut hub, &mut taker);
    assert_eq!(heard, [connected(false, true, 1, 10)]);
    hub.tell(&mark(2, 30), draw());
    hub.tell(&Event::Position(Lsn(40)), draw());
    hub.tell(&Event::Position(Lsn(50)), draw());
    let heard = hear(&mut hub, &mut taker);
    assert_eq!(
        heard,
        [mark(2, 30), Event::Position(Lsn(50))],
        "the last position is enough"
    );
    assert_eq!(taker.progress().claim(), hub.claim());
}

#[test]
fn a_short_gap_is_filled_and_a_long_one_begins_anew() {
    let mut hub = hub(None, &[connected(false, true, 1, 10)]);
    let mut taker = Taker::default();
    hear(&mut hub, &mut taker);
    hub.tell(&mark(1, 20), draw());
    hear(&mut hub, &mut taker);
    assert_eq!(taker.away("test"), Some(gone()));
    taker.taken(Trace::of(&gone()));
    (2..5).for_each(|id| hub.tell(&mark(id, id * 10 + 10), draw()));
    let heard = hear(&mut hub, &mut taker);
    // The position is not known to be whole, so what lies there is told again.
    let mut expected: Vec<Event> = (1..5).map(|id| mark(id, id * 10 + 10)).collect();
    expected.push(connected(true, true, 1, 40));
    assert_eq!(heard, expected, "it stands only when nothing is missing");
    (5..20).for_each(|id| hub.tell(&mark(id, id * 10 + 10), draw()));
    let heard = hear(&mut hub, &mut taker);
    assert_eq!(heard, [connected(false, true, 1, 190)]);
}

#[test]
fn who_hears_late_how_the_stream_is_believes_the_newest() {
    let mut hub = hub(None, &[connected(false, true, 1, 10)]);
    let mut taker = Taker::default();
    hear(&mut hub, &mut taker);
    taker.away("test");
    taker.taken(Trace::of(&gone()));
    hub.tell(&mark(1, 20), draw());
    let begun = hub.ask(&taker.ask(2, true), 0).unwrap();
    let (events, then) = taker.take(begun).unwrap();
    assert!(events.is_empty());
    assert_eq!(taker.done(then), Done::default());
    hub.tell(&gone(), draw());
    assert_eq!(hear(&mut hub, &mut taker), [mark(1, 20)]);
    hub.tell(&connected(true, true, 1, 20), draw());
    assert_eq!(hear(&mut hub, &mut taker), [connected(true, true, 1, 20)]);
}

#[test]
fn a_node_goes_on_with_the_next_leader() {
    let mut first = hub(None, &[connected(false, true, 1, 10)]);
    let (mut heir, mut other) = (Taker::default(), Taker::default());
    hear(&mut first, &mut heir);
    hear(&mut first, &mut other);
    first.tell(&mark(1, 20), draw());
    first.tell(&Event::Position(Lsn(20)), draw());
    hear(&mut first, &mut other);
    first.tell(&mark(2, 30), draw());
    first.tell(&Event::Position(Lsn(30)), draw());
    hear(&mut first, &mut heir);
    // The slot is where both are.
    let resumed = connected(true, true, 1, 20);
    let mut second = hub(heir.progress().claim(), &[resumed.clone(), mark(2, 30)]);
    let heard = hear(&mut second, &mut other);
    assert_eq!(heard, [mark(2, 30)]);
    // It has run ahead of one of them.
    let resumed = connected(true, true, 1, 25);
    let mut third = hub(heir.progress().claim(), &[resumed, mark(2, 30)]);
    let mut behind = Taker::new(other.progress(), true);
    assert_eq!(
        hear(&mut third, &mut behind),
        [connected(false, true, 1, 25)]
    );
}

#[test]
fn postgres_is_told_what_all_have_taken_for_as_long_as_they_ask() {
    let mut hub = hub(None, &[connected(false, true, 1, 10)]);
    assert_eq!(hub.taken_by_all(0), Lsn(u64::MAX));
    hub.expect([2], 0);
    assert_eq!(hub.taken_by_all(0), Lsn(10));
    let mut taker = Taker::default();
    hear(&mut hub, &mut taker);
    hub.tell(&mark(1, 20), draw());
    hub.tell(&Event::Position(Lsn(30)), draw());
    assert_eq!(hub.taken_by_all(0), Lsn(10));
    hear(&mut hub, &mut taker);
    assert_eq!(hub.taken_by_all(0), Lsn(30));
    let hold_ms = RELAY_HOLD.as_millis() as u64;
    assert_eq!(hub.taken_by_all(hold_ms), Lsn(30));
    assert_eq!(hub.taken_by_all(hold_ms + 1), Lsn(u64::MAX));
}

#[test]
fn there_is_no_stream_until_somebody_changes_something_in_postgres() {
    let why = Unavailable {
        message: "m".to_owned(),
        hint: "h".to_owned(),
    };
    let mut hub = hub(None, &[connected(false, true, 1, 10)]);
    let mut taker = Taker::default();
    hear(&mut hub, &mut taker);
    hub.tell(&Event::Unavailable(why.clone()), draw());
    assert_eq!(hear(&mut hub, &mut taker), [Event::Unavailable(why)]);
    hub.tell(&connected(false, true, 1, 50), draw());
    assert_eq!(hear(&mut hub, &mut taker), [connected(false, true, 1, 50)]);
}

#[test]
fn a_huge_transaction_is_told_by_its_tables() {
    let mut hub = hub(None, &[connected(false, true, 1, 10)]);
    let mut taker = Taker::default();
    hear(&mut hub, &mut taker);
    let long = vec![7; crate::limits::RELAY_EVENT_BYTES_MAX];
    let mut huge = transaction();
    huge.rows[0].outcome = Outcome::Put([Datum::Value(&long)].into_iter().collect());
    hub.tell(&Event::Transaction(huge.clone()), draw());
    let heard = hear(&mut hub, &mut taker);
    huge.rows.clear();
    huge.shapes.clear();
    huge.invalidated = vec![TableOid(5), TableOid(7), TableOid(8)];
    assert_eq!(heard, [Event::Transaction(huge)]);
}

// ---- the model

/// What one node believes and really has.
#[derive(Default)]
struct Node {
    taker: Taker,
    hub: Option<Hub>,
    /// Of a leader: what it has taken itself.
    own: Taken,
    /// How far its client has told, on that timeline; `None`: nothing can be gone on with.
    read: Option<(u32, u64)>,
    /// Whether that is what another leader told, so that all of it is told again.
    inherited: bool,
    /// Up to where its hub has told everything.
    told: u64,
    /// Ids of events that it has taken since it began.
    has: BTreeSet<u64>,
    /// Events with lower ids are in what it has loaded.
    begun: u64,
    live: bool,
}

struct World {
    /// Position and id of each event; several at one position.
    wal: Vec<(u64, u64)>,
    next_id: u64,
    timeline: u32,
    confirmed: u64,
    nodes: Vec<Node>,
    leader: Option<usize>,
    now_ms: u64,
}

#[derive(Clone, Debug)]
enum Step {
    /// Postgres commits: so many events at the next position.
    Write(u8),
    /// The leader reads up to so many events.
    Read(u8),
    /// The leader hears that nothing else is there.
    Idle,
    /// A node asks; of what it is told it takes so many events before it is broken off.
    Ask(u8, u8),
    /// A node's question or answer is lost.
    Lose(u8),
    /// The leader acknowledges.
    Acknowledge,
    /// Postgres forgets what it was not allowed to forget.
    Forget,
    /// The leader's connection breaks and is made anew.
    Reconnect,
    /// Another leads from now on, or nobody.
    Lead(u8),
    /// A node's process ends, and another begins.
    Restart(u8),
    Time(u16),
    /// Postgres goes on from an earlier past.
    Failover(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let node = 0..3_u8;
    prop_oneof![
        6 => (1..4_u8).prop_map(Step::Write),
        6 => (1..6_u8).prop_map(Step::Read),
        3 => Just(Step::Idle),
        12 => (node.clone(), any::<u8>()).prop_map(|(node, many)| Step::Ask(node, many)),
        2 => node.clone().prop_map(Step::Lose),
        3 => Just(Step::Acknowledge),
        1 => Just(Step::Forget),
        1 => Just(Step::Reconnect),
        2 => (0..4_u8).prop_map(Step::Lead),
        1 => node.prop_map(Step::Restart),
        1 => (0..7000_u16).prop_map(Step::Time),
        1 => (0..6_u8).prop_map(Step::Failover),
    ]
}

impl World {
    fn new() -> World {
        World {
            wal: Vec::new(),
            next_id: 1,
            timeline: 1,
            confirmed: 0,
            nodes: (0..3).map(|_| Node::default()).collect(),
            leader: None,
            now_ms: 0,
        }
    }

    fn end(&self) -> u64 {
        self.wal.last().map_or(0, |(position, _)| *position)
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Write(count) => self.write(count),
            Step::Read(count) => self.read(usize::from(count)),
            Step::Idle => self.idle(),
            Step::Ask(node, many) => self.ask(usize::from(node), usize::from(many)),
            Step::Lose(node) => self.lose(usize::from(node)),
            Step::Acknowledge => self.acknowledge(),
            Step::Forget => self.confirmed = self.end(),
            Step::Reconnect => self.connect(),
            Step::Lead(node) => self.lead(Some(usize::from(node)).filter(|node| *node < 3)),
            Step::Restart(node) => self.restart(usize::from(node)),
            Step::Time(ms) => self.now_ms += u64::from(ms),
            Step::Failover(lost) => self.fail_over(usize::from(lost)),
        }
        self.check();
    }

    fn write(&mut self, count: u8) {
        let position = self.end() + 10;
        for _ in 0..count {
            self.wal.push((position, self.next_id));
            self.next_id += 1;
        }
    }

    /// The leader's connection to Postgres begins, as `HotCache` does it.
    fn connect(&mut self) {
        let Some(leader) = self.leader else { return };
        let (timeline, confirmed) = (self.timeline, self.confirmed);
        let (end, next_id) = (self.end(), self.next_id);
        let first = self.first_behind(confirmed);
        let node = &mut self.nodes[leader];
        let continues = node.read.is_none_or(|(of, at)| of == timeline && at <= end);
        let read = node.read.filter(|(_, at)| continues && confirmed <= *at);
        let resumed = read.is_some();
        let start = match read {
            Some((_, at)) if !node.inherited => at,
            _ => confirmed,
        };
        let event = connected(resumed, continues, timeline, start);
        let hub = node.hub.as_mut().expect("who leads has one");
        hub.tell(&event, draw());
        (node.read, node.inherited) = (Some((timeline, start)), false);
        node.told = if resumed { node.told.max(start) } else { start };
        node.live = true;
        if !resumed {
            node.own.begin(hub.claim().expect("it has begun"));
            node.has.clear();
            node.begun = first.unwrap_or(next_id);
        }
    }

    /// The id of the first event behind a position.
    fn first_behind(&self, position: u64) -> Option<u64> {
        let event = self.wal.iter().find(|(at, _)| *at > position);
        event.map(|(_, id)| *id)
    }

    fn lead(&mut self, node: Option<usize>) {
        if let Some(before) = self.leader.take() {
            let node = &mut self.nodes[before];
            node.hub = None;
            node.taker = Taker::new(node.own, true);
            node.lose();
        }
        self.leader = node;
        let Some(node) = node.map(|node| &mut self.nodes[node]) else {
            return;
        };
        (node.own, node.told) = (node.taker.progress(), 0);
        let claim = node.own.claim();
        node.read = claim.map(|claim| (claim.timeline, claim.complete.0));
        node.inherited = claim.is_some();
        node.hub = Some(Hub::new(draw()(), node.own.claim()).bounded(SMALL));
        self.connect();
    }

    fn read(&mut self, count: usize) {
        let Some(leader) = self.leader else { return };
        let node = &mut self.nodes[leader];
        let Some((timeline, read)) = node.read else {
            return;
        };
        let unread = self.wal.iter().filter(|(position, _)| *position > read);
        let mut unread = unread.copied().take(count).collect::<Vec<_>>();
        // A message of Postgres tells all events of a position.
        if let Some((last, _)) = unread.last().copied() {
            unread.retain(|(position, _)| *position < last);
            unread.extend(self.wal.iter().filter(|(position, _)| *position == last));
        }
        for (position, id) in unread {
            node.tell(&mark(id, position));
            node.read = Some((timeline, position));
            node.told = node.told.max(position);
        }
    }

    fn idle(&mut self) {
        self.read(usize::MAX);
        let Some(leader) = self.leader else { return };
        let position = self.end();
        self.nodes[leader].tell(&Event::Position(Lsn(position)));
    }

    fn ask(&mut self, asker: usize, many: usize) {
        if self.leader == Some(asker) {
            return;
        }
        let now_ms = self.now_ms;
        let ask = self.nodes[asker].taker.ask(asker as u64, true);
        let reply = match self.leader {
            None => Some(Reply::Away),
            Some(leader) => self.nodes[leader].hub.as_mut().unwrap().ask(&ask, now_ms),
        };
        let Some(reply) = reply else { return };
        let next_id = self.next_id;
        let told = self.leader.map(|leader| self.nodes[leader].told);
        let begun = told.and_then(|told| self.first_behind(told));
        let node = &mut self.nodes[asker];
        let (events, then) = node.taker.take(reply).expect("nothing is damaged");
        let whole = events.len() <= many;
        for event in events.into_iter().take(many) {
            node.take(&event, begun.unwrap_or(next_id));
        }
        if whole && let Some(event) = node.taker.done(then).event {
            node.take(&event, 0);
        }
    }

    fn lose(&mut self, node: usize) {
        if self.leader != Some(node) {
            self.nodes[node].lose();
        }
    }

    fn acknowledge(&mut self) {
        let Some(leader) = self.leader else { return };
        let node = &mut self.nodes[leader];
        let taken = node.hub.as_mut().unwrap().taken_by_all(self.now_ms).0;
        let read = node.read.map_or(0, |(_, read)| read);
        self.confirmed = self.confirmed.max(taken.min(read));
    }

    fn restart(&mut self, node: usize) {
        let leads = self.leader == Some(node);
        if leads {
            self.lead(None);
        }
        self.nodes[node] = Node::default();
    }

    fn fail_over(&mut self, lost: usize) {
        self.timeline += 1;
        let kept = self.wal.len().saturating_sub(lost);
        self.wal.truncate(kept);
        // Positions go on where they were, or come a second time.
        self.write(1);
        self.confirmed = self.end();
        self.connect();
    }

    /// Who claims something has it.
    fn check(&self) {
        for (number, node) in self.nodes.iter().enumerate() {
            let taken = match self.leader == Some(number) {
                true => node.own,
                false => node.taker.progress(),
            };
            let Some(claim) = taken
                .claim()
                .filter(|claim| claim.timeline == self.timeline)
            else {
                continue;
            };
            for (position, id) in &self.wal {
                let claimed = *position <= claim.complete.0 && *id >= node.begun;
                assert!(
                    !claimed || node.has.contains(id),
                    "node {number} claims {claim:?} and lacks event {id} at {position}"
                );
            }
        }
    }

    /// Once nothing fails any more, all have everything, and know it.
    fn heal(&mut self) {
        let leader = self.leader.unwrap_or(0);
        if self.leader.is_none() {
            self.lead(Some(leader));
        }
        self.idle();
        for node in 0..3 {
            for _ in 0..200 {
                self.ask(node, usize::MAX);
                self.check();
            }
        }
        let expected = self.nodes[leader].hub.as_ref().unwrap().claim();
        for (number, node) in self.nodes.iter().enumerate() {
            let missing = |(_, id): &&(u64, u64)| *id >= node.begun && !node.has.contains(id);
            let missing: Vec<_> = self.wal.iter().filter(missing).collect();
            assert!(missing.is_empty(), "node {number} lacks {missing:?}");
            if number != leader {
                assert!(
                    node.live,
                    "node {number} does not know that the stream stands"
                );
                assert_eq!(node.taker.progress().claim(), expected, "node {number}");
            }
        }
    }
}

impl Node {
    fn tell(&mut self, event: &Event) {
        self.hub
            .as_mut()
            .expect("who leads has one")
            .tell(event, draw());
        if let Event::Mark { id, .. } = event {
            self.has.insert(*id);
        }
        self.own.take(Trace::of(event));
    }

    fn take(&mut self, event: &Event, begun: u64) {
        match event {
            Event::Connected { resumed, .. } => {
                self.live = true;
                if !resumed {
                    self.has.clear();
                    self.begun = begun;
                }
            }
            Event::Disconnected { .. } => self.live = false,
            Event::Mark { id, .. } => {
                self.has.insert(*id);
            }
            _ => {}
        }
        self.taker.taken(Trace::of(event));
    }

    fn lose(&mut self) {
        if let Some(event) = self.taker.away("lost") {
            self.take(&event, 0);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn nobody_misses_what_it_claims_and_all_have_everything_in_the_end(
        steps in prop::collection::vec(step(), 1..80)
    ) {
        let mut world = World::new();
        steps.iter().for_each(|step| world.step(step));
        world.heal();
    }

    #[test]
    fn arbitrary_bytes_do_no_harm(bytes: Vec<u8>) {
        let _ = decode_ask(&bytes);
        let _ = codec::decode_event(&bytes);
        let _ = decode_reply(&Bytes::from(bytes));
    }
}
