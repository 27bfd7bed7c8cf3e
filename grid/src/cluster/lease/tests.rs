use super::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

fn at(index: u64) -> LogIndex {
    LogIndex(index)
}

#[test]
fn a_commit_waits_for_holders_and_not_for_others() {
    let mut lessor = Lessor::new(0, at(0));
    let now_ms = 1_000;
    assert!(lessor.grant(2, at(5), now_ms, now_ms).is_some());
    lessor.report(3, at(1));
    assert_eq!(lessor.acknowledge(at(9), now_ms), Some(at(5)));
    lessor.report(2, at(8));
    assert_eq!(lessor.acknowledge(at(9), now_ms), Some(at(8)));
    let over_ms = lessor.next_ms(now_ms).unwrap();
    assert_eq!(lessor.acknowledge(at(9), over_ms - 1), Some(at(8)));
    assert_eq!(lessor.acknowledge(at(9), over_ms), Some(at(9)));
}

#[test]
fn a_new_leader_waits_for_the_leases_of_the_old_one() {
    let mut lessor = Lessor::new(1_000, at(0));
    assert_eq!(lessor.acknowledge(at(9), 1_000 + LEASE_MS), None);
    let over_ms = lessor.next_ms(1_000).unwrap();
    assert_eq!(lessor.acknowledge(at(9), over_ms), Some(at(9)));
}

#[test]
fn a_leader_that_nobody_confirms_grants_nothing() {
    let mut lessor = Lessor::new(0, at(0));
    let short = lessor.grant(2, at(1), 1_000, 1_000 + LEASE_MS - 1).unwrap();
    assert_eq!(short.length_ms, 1);
    assert_eq!(lessor.grant(2, at(1), 1_000, 1_000 + LEASE_MS), None);
}

#[test]
fn who_lacks_much_must_catch_up_first() {
    let mut lessor = Lessor::new(0, at(0));
    assert_eq!(lessor.acknowledge(at(100), 1_000), Some(at(100)));
    assert_eq!(lessor.grant(2, at(10), 1_000, 1_000), None);
    let grant = lessor.grant(2, at(90), 1_000, 1_000).unwrap();
    let mut lease = Lease::default();
    lease.granted(grant, 5_000);
    assert!(!lease.holds(at(99), 5_000));
    assert!(lease.holds(at(100), 5_000));
    assert!(!lease.holds(at(100), 5_000 + LEASE_MS));
}

#[test]
fn who_is_stuck_does_not_hold_up_the_others_for_ever() {
    let mut lessor = Lessor::new(0, at(0));
    lessor.acknowledge(at(5), 1_000);
    assert!(lessor.grant(2, at(4), 1_000, 1_000).is_some());
    lessor.acknowledge(at(5), 1_000 + LACKING_MS);
    let stuck_ms = 1_000 + LACKING_MS;
    assert_eq!(lessor.grant(2, at(4), stuck_ms, stuck_ms), None);
    assert!(lessor.grant(2, at(5), stuck_ms, stuck_ms).is_some());
}

/// Nodes with clocks of their own, a log that grows, leaders that are replaced while they believe to lead, messages that take as long as they like.
struct Model {
    rng: StdRng,
    /// True time in microseconds, which nobody knows.
    now_us: u64,
    /// Each node's clock: offset in milliseconds, and speed in millionths.
    clocks: Vec<(u64, u64)>,
    committed: u64,
    applied: Vec<u64>,
    leases: Vec<Lease>,
    leaders: Vec<Leader>,
    /// When a leader was last confirmed, in true microseconds.
    confirmed_us: u64,
    /// (when it arrives, at whom, what).
    messages: Vec<(u64, usize, Message)>,
    acknowledged: u64,
}

struct Leader {
    node: usize,
    lessor: Lessor,
    /// By its own clock.
    confirmed_ms: u64,
}

#[derive(Clone, Copy)]
enum Message {
    /// To a leader: who asks, how far it is, when by its clock.
    Ask(usize, u64, u64),
    Answer(Grant, u64),
    Report(usize, u64),
}

impl Model {
    fn new(seed: u64) -> Model {
        let mut rng = StdRng::seed_from_u64(seed);
        let nodes = 4;
        let clocks = (0..nodes).map(|_| {
            let speed = rng.random_range(995_500..1_004_500);
            (rng.random_range(0..1_000_000), speed)
        });
        let clocks = clocks.collect();
        let mut model = Model {
            rng,
            now_us: 0,
            clocks,
            committed: 0,
            applied: vec![0; nodes],
            leases: vec![Lease::default(); nodes],
            leaders: Vec::new(),
            confirmed_us: 0,
            messages: Vec::new(),
            acknowledged: 0,
        };
        model.elect();
        model
    }

    fn clock(&self, node: usize) -> u64 {
        let (offset_ms, speed) = self.clocks[node];
        offset_ms + self.now_us * speed / 1_000_000 / 1_000
    }

    fn elect(&mut self) {
        let node = self.rng.random_range(0..self.clocks.len());
        // It has everything that was committed, and applies it before it acknowledges more.
        self.applied[node] = self.committed;
        // Either somebody hands over, or those who vote keep what they have promised, each by its own clock.
        let confirmed_ms = if self.rng.random() {
            self.clock(node)
        } else {
            let (_, speed) = self.clocks[self.rng.random_range(0..self.clocks.len())];
            let promise_us = PROMISE_MS * 1_000 * 1_000_000 / speed;
            self.now_us = self.now_us.max(self.confirmed_us + promise_us + 1);
            self.clock(node).saturating_sub(PROMISE_MS)
        };
        self.leaders.push(Leader {
            node,
            lessor: Lessor::new(confirmed_ms, at(self.committed)),
            confirmed_ms: self.clock(node),
        });
        self.confirmed_us = self.now_us;
    }

    fn send(&mut self, to: usize, message: Message) {
        let slow = if self.rng.random_ratio(1, 10) {
            1_000_000
        } else {
            3_000
        };
        let arrives = self.now_us + self.rng.random_range(100..slow);
        self.messages.push((arrives, to, message));
    }

    fn step(&mut self) {
        self.now_us += self.rng.random_range(10..20_000);
        let newest = self.leaders.len() - 1;
        match self.rng.random_range(0..12) {
            0..=2 => self.committed += self.rng.random_range(0..5),
            3..=5 => {
                let node = self.rng.random_range(0..self.clocks.len());
                let upto = self.rng.random_range(self.applied[node]..=self.committed);
                self.applied[node] = upto;
                let to = self.rng.random_range(0..=newest);
                self.send(to, Message::Report(node, upto));
            }
            6..=8 => {
                let node = self.rng.random_range(0..self.clocks.len());
                let to = self.rng.random_range(newest.saturating_sub(1)..=newest);
                let ask = Message::Ask(node, self.applied[node], self.clock(node));
                self.send(to, ask);
            }
            // Only the newest leader is confirmed: a majority has turned away from the others.
            9 => {
                self.leaders[newest].confirmed_ms = self.clock(self.leaders[newest].node);
                self.confirmed_us = self.now_us;
            }
            10 if self.rng.random_ratio(1, 20) => self.elect(),
            _ => {}
        }
        self.deliver();
        let newest = self.leaders.len() - 1;
        let node = self.leaders[newest].node;
        let (applied, now_ms) = (self.applied[node], self.clock(node));
        let lessor = &mut self.leaders[newest].lessor;
        let upto = lessor.acknowledge(at(applied), now_ms);
        self.acknowledged = self.acknowledged.max(upto.map_or(0, |upto| upto.0));
    }

    fn deliver(&mut self) {
        let now_us = self.now_us;
        let (arrived, on_the_way) = std::mem::take(&mut self.messages)
            .into_iter()
            .partition(|(arrives, ..)| *arrives <= now_us);
        self.messages = on_the_way;
        let arrived: Vec<(u64, usize, Message)> = arrived;
        for (_, to, message) in arrived {
            match message {
                Message::Ask(node, applied, asked_ms) => {
                    let now_ms = self.clock(self.leaders[to].node);
                    let leader = &mut self.leaders[to];
                    let confirmed_ms = leader.confirmed_ms;
                    let grant = leader
                        .lessor
                        .grant(node as u64, at(applied), confirmed_ms, now_ms);
                    if let Some(grant) = grant {
                        self.send(node, Message::Answer(grant, asked_ms));
                    }
                }
                Message::Answer(grant, asked_ms) => self.leases[to].granted(grant, asked_ms),
                Message::Report(node, applied) => {
                    self.leaders[to].lessor.report(node as u64, at(applied));
                }
            }
        }
    }

    /// Whoever may answer from memory has everything that was ever acknowledged. Answers how many may.
    fn check(&self) -> usize {
        let holding = (0..self.clocks.len())
            .filter(|node| self.leases[*node].holds(at(self.applied[*node]), self.clock(*node)));
        let holding = holding.inspect(|node| {
            let applied = self.applied[*node];
            assert!(
                applied >= self.acknowledged,
                "node {node} lacks {applied}..{}",
                self.acknowledged
            );
        });
        holding.count()
    }
}

#[test]
fn no_holder_ever_lacks_what_was_acknowledged() {
    let (mut held, mut acknowledged) = (0, 0);
    for seed in 0..300 {
        println!("seed {seed}");
        let mut model = Model::new(seed);
        for _ in 0..2_000 {
            model.step();
            held += model.check();
        }
        acknowledged += model.acknowledged;
    }
    assert!(
        held > 100_000 && acknowledged > 10_000,
        "{held} {acknowledged}: nothing was tried"
    );
}
