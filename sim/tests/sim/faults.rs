//! What goes wrong, and when: drawn from the seed, one after the other, several at a time. Decides; `run` carries it out.

use crate::chance::Chance;

/// Something that goes wrong, or comes right again.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    /// kill -9, and a new start after so long.
    Kill { node: u64, down_ms: u64 },
    /// The power is lost, and comes back after so long.
    PowerLoss { node: u64, down_ms: u64 },
    /// All nodes at once lose their power.
    Blackout { down_ms: u64 },
    /// Nothing happens in the process for so long.
    Stop { node: u64, for_ms: u64 },
    /// Nothing arrives in that direction for so long.
    Cut { from: u64, to: u64, for_ms: u64 },
    /// A node and all others do not hear each other.
    Isolate { node: u64, for_ms: u64 },
    /// What goes in that direction is late by up to so much.
    Slow {
        from: u64,
        to: u64,
        late_ms: u64,
        for_ms: u64,
    },
    /// Once in so many times something is lost on the way.
    Lossy { times: u64, for_ms: u64 },
    /// A disk takes its time.
    SlowDisk {
        node: u64,
        late_ms: u64,
        for_ms: u64,
    },
    /// A disk has no room for so long.
    FullDisk { node: u64, for_ms: u64 },
    /// The power is lost, and meanwhile a bit of a file has changed.
    Flip { node: u64, down_ms: u64 },
    /// The wall clock is set ahead or back.
    Clock { node: u64, ahead_ms: u64 },
    /// Postgres is away for so long.
    Outage { for_ms: u64 },
    /// A node and Postgres do not hear each other.
    NoPostgres { node: u64, for_ms: u64 },
    /// Whoever flushes next is hit between the last statement and COMMIT.
    Trap { hit: Hit },
    /// The standby of Postgres gets nothing for so long, and nothing is lost.
    Lag { for_ms: u64 },
    /// The standby of Postgres gets nothing for so long, then takes its place after so long.
    FailOver { lag_ms: u64, down_ms: u64 },
    /// A node comes to the cluster.
    Join,
    /// A node is asked to leave the cluster for good. Where few are left, another one comes.
    Leave { node: u64 },
    /// A disk is lost for good, and a new node takes its machine's place.
    LoseDisk { node: u64, down_ms: u64 },
}

/// What hits a node in a trap.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Hit {
    Stop {
        for_ms: u64,
    },
    PowerLoss {
        down_ms: u64,
    },
    /// The others hear nothing of it any more.
    Isolate {
        for_ms: u64,
    },
}

impl Fault {
    /// The same for the nodes that there are now: those that are named may have gone.
    pub fn among(mut self, nodes: &[u64]) -> Fault {
        let there = |node: &mut u64| *node = nodes[(*node as usize - 1) % nodes.len()];
        match &mut self {
            Fault::Kill { node, .. }
            | Fault::PowerLoss { node, .. }
            | Fault::Stop { node, .. }
            | Fault::Isolate { node, .. }
            | Fault::SlowDisk { node, .. }
            | Fault::FullDisk { node, .. }
            | Fault::Flip { node, .. }
            | Fault::Clock { node, .. }
            | Fault::NoPostgres { node, .. }
            | Fault::Leave { node }
            | Fault::LoseDisk { node, .. } => there(node),
            Fault::Cut { from, to, .. } | Fault::Slow { from, to, .. } => {
                there(from);
                there(to);
            }
            Fault::Blackout { .. }
            | Fault::Lossy { .. }
            | Fault::Outage { .. }
            | Fault::Lag { .. }
            | Fault::FailOver { .. }
            | Fault::Trap { .. }
            | Fault::Join => {}
        }
        self
    }
}

/// All of a run, in order of time.
pub fn plan(
    chance: &mut Chance,
    nodes: u64,
    begin_ms: u64,
    end_ms: u64,
    fails_over: bool,
) -> Vec<(u64, Fault)> {
    let kinds = if fails_over {
        KINDS + FAIL_OVERS
    } else {
        KINDS
    };
    let mut planned = Vec::new();
    let mut at = begin_ms;
    // Some runs are rough in one way, some in all.
    let favourite = chance.below(kinds);
    let often = chance.pick(&[150, 300, 600]);
    let mut lost_disks = 0;
    loop {
        at += chance.range(often / 2..often * 2);
        if at >= end_ms {
            return planned;
        }
        let kind = match chance.one_in(3) {
            true => favourite,
            false => chance.below(kinds),
        };
        let fault = draw(chance, kind, nodes);
        let loses = matches!(fault, Fault::LoseDisk { .. } | Fault::Flip { .. });
        // A minority: of three, one.
        if loses && std::mem::replace(&mut lost_disks, 1) > 0 {
            continue;
        }
        planned.push((at, fault));
    }
}

const KINDS: u64 = 24;

/// As many more, where Postgres has a standby.
const FAIL_OVERS: u64 = 6;

fn draw(chance: &mut Chance, kind: u64, nodes: u64) -> Fault {
    let node = 1 + chance.below(nodes);
    let other = 1 + (node + chance.below(nodes - 1)) % nodes;
    let for_ms = chance.pick(&[20, 100, 300, 500, 800, 1500]);
    let down_ms = chance.pick(&[1, 50, 300, 1000]);
    match kind {
        0 | 1 => Fault::Kill { node, down_ms },
        2 | 3 => Fault::PowerLoss { node, down_ms },
        4 => Fault::Blackout { down_ms },
        5 | 6 => Fault::Stop { node, for_ms },
        7 => Fault::Cut {
            from: node,
            to: other,
            for_ms,
        },
        8 | 9 => Fault::Isolate { node, for_ms },
        10 => Fault::Slow {
            from: node,
            to: other,
            late_ms: chance.pick(&[10, 100, 400]),
            for_ms,
        },
        11 => Fault::Lossy {
            times: chance.pick(&[20, 5]),
            for_ms,
        },
        12 => Fault::SlowDisk {
            node,
            late_ms: chance.pick(&[20, 100, 300]),
            for_ms,
        },
        13 => Fault::FullDisk { node, for_ms },
        14 => Fault::Flip { node, down_ms },
        15 => Fault::Clock {
            node,
            ahead_ms: chance.pick(&[0, 50, 10_000, 1_000_000]),
        },
        16 | 17 => Fault::Outage { for_ms },
        18 => Fault::NoPostgres { node, for_ms },
        19..=22 => Fault::Trap {
            hit: match chance.below(3) {
                0 => Hit::Stop {
                    for_ms: chance.pick(&[300, 800, 1200, 2000]),
                },
                1 => Hit::PowerLoss { down_ms },
                _ => Hit::Isolate {
                    for_ms: chance.pick(&[300, 800, 1500]),
                },
            },
        },
        24 => Fault::Lag { for_ms },
        25.. => Fault::FailOver {
            lag_ms: chance.pick(&[0, 50, 200, 400, 800]),
            down_ms: chance.pick(&[1, 50, 300, 1000]),
        },
        _ => match chance.below(5) {
            0 => Fault::Join,
            1 | 2 => Fault::Leave { node },
            _ => Fault::LoseDisk { node, down_ms },
        },
    }
}
