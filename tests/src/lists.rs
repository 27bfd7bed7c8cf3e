//! Lists that transactions append to and read, and whether what they saw is what their isolation level allows. Decides only; tests run the transactions.
//!
//! After Elle (Kingsbury and Alvaro, 2020): each value is appended once, so a list says who wrote to it, in which order, and whom a reader came before.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// One transaction, as its client saw it.
#[derive(Clone, Debug)]
pub struct Seen {
    /// What it did, in order.
    pub steps: Vec<Step>,
    /// How it ended.
    pub end: End,
    /// When its end was known to its client, in microseconds of the test.
    pub ended_us: u64,
    /// Its level.
    pub level: Level,
}

/// What a transaction did.
#[derive(Clone, Debug)]
pub struct Step {
    /// When the client asked for it, in microseconds of the test.
    pub asked_us: u64,
    /// Which list.
    pub key: u32,
    /// What.
    pub what: What,
}

/// See [`Step`].
#[derive(Clone, Debug)]
pub enum What {
    /// Appended this value, which no other transaction appends.
    Append(u64),
    /// Saw these.
    Read(Vec<u64>),
}

/// See [`Seen`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// COMMIT was acknowledged.
    Committed,
    /// It cannot have been committed.
    RolledBack,
    /// Nobody told its client.
    Unknown,
}

/// What a transaction was promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Each statement sees what was committed before it.
    ReadCommitted,
    /// All statements see one snapshot, and who is overtaken fails: Postgres's REPEATABLE READ.
    Snapshot,
    /// As if one after the other.
    Serializable,
}

/// The transactions and the lists that they left.
pub struct History {
    all: Vec<Seen>,
    last: BTreeMap<u32, Vec<u64>>,
    writers: BTreeMap<u64, usize>,
}

/// Who must come before whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Order {
    /// Its value stands before the other's.
    Write,
    /// The other has seen its value.
    Read,
    /// It has not seen the other's value.
    Missed,
}

impl History {
    /// `last`: the lists in the end.
    pub fn new(all: Vec<Seen>, last: BTreeMap<u32, Vec<u64>>) -> History {
        let mut writers = BTreeMap::new();
        for (index, seen) in all.iter().enumerate() {
            for step in &seen.steps {
                if let What::Append(value) = step.what {
                    writers.insert(value, index);
                }
            }
        }
        History { all, last, writers }
    }

    /// How many were committed that did more than one thing.
    pub fn committed(&self) -> usize {
        let several = |seen: &&Seen| seen.end == End::Committed && seen.steps.len() > 1;
        self.all.iter().filter(several).count()
    }

    /// Everything that their levels do not allow, in words.
    pub fn violations(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        self.check_last(&mut wrong);
        for (index, seen) in self.all.iter().enumerate() {
            self.check_reads(index, seen, &mut wrong);
        }
        if wrong.is_empty() {
            self.check_cycles(&mut wrong);
        }
        wrong
    }

    /// What was committed is there once and whole; what was rolled back is not.
    fn check_last(&self, wrong: &mut Vec<String>) {
        let mut there = BTreeSet::new();
        for (key, values) in &self.last {
            for value in values {
                match self.writers.get(value) {
                    None => wrong.push(format!("list {key} holds {value}, which nobody appended")),
                    Some(_) if !there.insert(*value) => {
                        wrong.push(format!("list {key} holds {value} twice"));
                    }
                    Some(_) => {}
                }
            }
        }
        for (index, seen) in self.all.iter().enumerate() {
            let appended: Vec<u64> = seen.appended().map(|(_, value)| value).collect();
            let found = appended
                .iter()
                .filter(|value| there.contains(value))
                .count();
            let right = match seen.end {
                End::Committed => found == appended.len(),
                End::RolledBack => found == 0,
                End::Unknown => found == 0 || found == appended.len(),
            };
            if !right {
                let many = appended.len();
                wrong.push(format!(
                    "{found} of {many} values are there of {index}: {seen}"
                ));
            }
        }
    }

    /// Each read is a beginning of the list, with the transaction's own values behind it; nothing of others in the middle of their work, and all that had been acknowledged.
    fn check_reads(&self, index: usize, seen: &Seen, wrong: &mut Vec<String>) {
        let mut own: BTreeMap<u32, Vec<u64>> = BTreeMap::new();
        let began_us = seen.steps.first().map_or(0, |step| step.asked_us);
        for step in &seen.steps {
            let values = match &step.what {
                What::Append(value) => {
                    own.entry(step.key).or_default().push(*value);
                    continue;
                }
                What::Read(values) => values,
            };
            let mine = own.get(&step.key).map_or(&[][..], Vec::as_slice);
            let Some(others) = values.strip_suffix(mine) else {
                wrong.push(format!("{index} does not see its own {mine:?}: {seen}"));
                continue;
            };
            let list = self.last.get(&step.key).map_or(&[][..], Vec::as_slice);
            if !list.starts_with(others) {
                let key = step.key;
                wrong.push(format!("{index} saw what list {key} never was: {seen}"));
                continue;
            }
            if let (Some(last), Some(next)) = (others.last(), list.get(others.len()))
                && self.writers.get(last) == self.writers.get(next)
            {
                wrong.push(format!("{index} saw a half of {last}: {seen}"));
            }
            let since_us = match seen.level {
                Level::ReadCommitted => step.asked_us,
                Level::Snapshot | Level::Serializable => began_us,
            };
            let missed = list[others.len()..].iter().find(|value| {
                let writer = self.writers.get(value).map(|writer| &self.all[*writer]);
                writer.is_some_and(|writer| {
                    writer.end == End::Committed && writer.ended_us < since_us
                })
            });
            if let Some(missed) = missed {
                wrong.push(format!(
                    "{index} missed {missed}, acknowledged before: {seen}"
                ));
            }
        }
    }

    /// No order of the transactions explains what they saw.
    fn check_cycles(&self, wrong: &mut Vec<String>) {
        let edges = self.orders();
        let count = self.all.len();
        let level = |index: usize| self.all[index].level;
        let known = |kinds: &[Order], strict: Option<Level>| {
            let edges = edges.iter().filter(|(from, to, order)| {
                let levels =
                    strict.is_none_or(|strict| level(*from) == strict && level(*to) == strict);
                kinds.contains(order) && levels
            });
            edges.copied().collect::<Vec<_>>()
        };
        // Whoever was seen or overwritten was committed before, at every level.
        let plain = known(&[Order::Write, Order::Read], None);
        let plain = plain.iter().map(|(from, to, _)| (*from, *to));
        self.tell(
            "each saw or overwrote the next",
            &circle(count, plain),
            1,
            wrong,
        );
        // Without two misses in a row, no snapshots explain it. A transaction stands twice: as reached by a miss, and otherwise.
        let snapshots: Vec<_> = edges
            .iter()
            .filter(|(from, to, _)| {
                level(*from) != Level::ReadCommitted || level(*to) != Level::ReadCommitted
            })
            .filter(|(from, _, order)| {
                *order != Order::Missed || level(*from) != Level::ReadCommitted
            })
            .flat_map(|(from, to, order)| match order {
                Order::Missed => vec![(2 * from, 2 * to + 1)],
                _ => vec![(2 * from, 2 * to), (2 * from + 1, 2 * to)],
            })
            .collect();
        let circle_of = circle(2 * count, snapshots.into_iter());
        self.tell("no snapshots explain", &circle_of, 2, wrong);
        let all = [Order::Write, Order::Read, Order::Missed];
        let serial = known(&all, Some(Level::Serializable));
        let serial = serial.iter().map(|(from, to, _)| (*from, *to));
        self.tell("no order explains", &circle(count, serial), 1, wrong);
    }

    fn tell(&self, what: &str, circle: &[usize], each: usize, wrong: &mut Vec<String>) {
        if !circle.is_empty() {
            let of: BTreeSet<usize> = circle.iter().map(|place| place / each).collect();
            let of: Vec<String> = of
                .into_iter()
                .take(8)
                .map(|index| format!("  {index}: {}", self.all[index]))
                .collect();
            wrong.push(format!("{what}:\n{}", of.join("\n")));
        }
    }

    /// Who must come before whom, of those that were committed.
    fn orders(&self) -> BTreeSet<(usize, usize, Order)> {
        let mut orders = BTreeSet::new();
        let mut add = |from: Option<&usize>, to: Option<&usize>, order| {
            if let (Some(from), Some(to)) = (from, to)
                && from != to
            {
                orders.insert((*from, *to, order));
            }
        };
        for list in self.last.values() {
            for pair in list.windows(2) {
                let [one, other] = [self.writers.get(&pair[0]), self.writers.get(&pair[1])];
                add(one, other, Order::Write);
            }
        }
        for (index, seen) in self.all.iter().enumerate() {
            let there = match seen.end {
                End::Committed => true,
                End::RolledBack => false,
                End::Unknown => seen.appended().any(|(key, value)| {
                    self.last
                        .get(&key)
                        .is_some_and(|list| list.contains(&value))
                }),
            };
            if !there {
                continue;
            }
            for step in &seen.steps {
                let What::Read(values) = &step.what else {
                    continue;
                };
                let list = self.last.get(&step.key).map_or(&[][..], Vec::as_slice);
                add(
                    values.last().and_then(|value| self.writers.get(value)),
                    Some(&index),
                    Order::Read,
                );
                let next = list.get(values.len());
                add(
                    Some(&index),
                    next.and_then(|next| self.writers.get(next)),
                    Order::Missed,
                );
            }
        }
        orders
    }
}

impl Seen {
    fn appended(&self) -> impl Iterator<Item = (u32, u64)> {
        self.steps.iter().filter_map(|step| match step.what {
            What::Append(value) => Some((step.key, value)),
            What::Read(_) => None,
        })
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {:?}", self.level, self.end)?;
        for step in &self.steps {
            match &step.what {
                What::Append(value) => write!(f, " {}+{value}", step.key)?,
                What::Read(values) => {
                    // Lists grow long; who came last says enough.
                    let from = values.len().saturating_sub(4);
                    write!(f, " {}:{}..{:?}", step.key, values.len(), &values[from..])?;
                }
            }
        }
        Ok(())
    }
}

/// Some places that lead to each other in a circle; none, if there is no circle.
fn circle(count: usize, edges: impl Iterator<Item = (usize, usize)>) -> Vec<usize> {
    let mut next = vec![BTreeSet::new(); count];
    let mut into = vec![0_usize; count];
    for (from, to) in edges {
        if next[from].insert(to) {
            into[to] += 1;
        }
    }
    // What nothing leads to is in no circle; neither is what only such places lead to.
    let mut free: Vec<usize> = (0..count).filter(|place| into[*place] == 0).collect();
    let mut left: BTreeSet<usize> = (0..count).collect();
    while let Some(place) = free.pop() {
        left.remove(&place);
        for to in std::mem::take(&mut next[place]) {
            into[to] -= 1;
            if into[to] == 0 {
                free.push(to);
            }
        }
    }
    // From anywhere in what is left, going back ends in a circle.
    let Some(mut at) = left.first().copied() else {
        return Vec::new();
    };
    let mut way = Vec::new();
    while !way.contains(&at) {
        way.push(at);
        let before = left.iter().find(|from| next[**from].contains(&at));
        at = *before.expect("something left leads to it");
    }
    let begin = way.iter().position(|place| *place == at);
    way.split_off(begin.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn append(key: u32, value: u64) -> (u32, What) {
        (key, What::Append(value))
    }

    fn read(key: u32, values: &[u64]) -> (u32, What) {
        (key, What::Read(values.to_vec()))
    }

    /// All at once, so that nobody has to see anybody.
    fn seen(level: Level, end: End, steps: &[(u32, What)]) -> Seen {
        let step = |(key, what): &(u32, What)| Step {
            asked_us: 0,
            key: *key,
            what: what.clone(),
        };
        Seen {
            steps: steps.iter().map(step).collect(),
            end,
            ended_us: 1,
            level,
        }
    }

    fn committed(level: Level, steps: &[(u32, What)]) -> Seen {
        seen(level, End::Committed, steps)
    }

    fn wrong(all: &[Seen], last: &[(u32, &[u64])]) -> Vec<String> {
        let last = last.iter().map(|(key, values)| (*key, values.to_vec()));
        History::new(all.to_vec(), last.collect()).violations()
    }

    const LEVELS: [Level; 3] = [Level::ReadCommitted, Level::Snapshot, Level::Serializable];

    #[test]
    fn what_is_right_is_right_at_every_level() {
        for level in LEVELS {
            let all = [
                committed(level, &[append(1, 1), append(2, 2)]),
                committed(level, &[read(1, &[1]), append(1, 3), read(1, &[1, 3])]),
                seen(level, End::RolledBack, &[append(1, 9), read(1, &[1, 3, 9])]),
                seen(level, End::Unknown, &[append(2, 4), append(1, 5)]),
                seen(level, End::Unknown, &[append(2, 6), append(1, 7)]),
            ];
            assert_eq!(
                wrong(&all, &[(1, &[1, 3, 5]), (2, &[2, 4])]),
                Vec::<String>::new()
            );
        }
    }

    #[test]
    fn what_is_lost_doubled_torn_or_undone_is_found() {
        for level in LEVELS {
            let both = [append(1, 1), append(2, 2)];
            let lost = [committed(level, &both)];
            assert_eq!(wrong(&lost, &[(1, &[1]), (2, &[])]).len(), 1);
            assert_eq!(wrong(&lost, &[(1, &[1, 1]), (2, &[2])]).len(), 1);
            assert_eq!(wrong(&lost, &[(1, &[1, 8]), (2, &[2])]).len(), 1);
            let torn = [seen(level, End::Unknown, &both)];
            assert_eq!(wrong(&torn, &[(1, &[1])]).len(), 1);
            let undone = [seen(level, End::RolledBack, &both)];
            assert_eq!(wrong(&undone, &[(1, &[1]), (2, &[2])]).len(), 1);
        }
    }

    #[test]
    fn reads_of_what_never_was_are_found() {
        for level in LEVELS {
            let writers = [
                committed(level, &[append(1, 1), append(1, 2)]),
                committed(level, &[append(1, 3)]),
                seen(level, End::RolledBack, &[append(1, 4)]),
            ];
            let reads: [&[(u32, What)]; 5] = [
                &[read(1, &[2])],
                &[read(1, &[1])],
                &[read(1, &[1, 2, 3, 4])],
                &[read(1, &[1, 2, 3, 5])],
                &[append(1, 6), read(1, &[1, 2, 3])],
            ];
            for steps in reads {
                let mut all = writers.to_vec();
                all.push(seen(level, End::RolledBack, steps));
                assert_eq!(wrong(&all, &[(1, &[1, 2, 3])]).len(), 1, "{steps:?}");
            }
        }
    }

    #[test]
    fn what_was_acknowledged_before_must_be_seen() {
        let late = |level, asked_us: [u64; 2]| {
            let mut late = committed(level, &[read(2, &[]), read(1, &[])]);
            late.steps[0].asked_us = asked_us[0];
            late.steps[1].asked_us = asked_us[1];
            [committed(level, &[append(1, 1)]), late]
        };
        let last: [(u32, &[u64]); 1] = [(1, &[1])];
        assert_eq!(wrong(&late(Level::ReadCommitted, [0, 2]), &last).len(), 1);
        assert_eq!(wrong(&late(Level::ReadCommitted, [0, 1]), &last).len(), 0);
        assert_eq!(wrong(&late(Level::Snapshot, [0, 2]), &last).len(), 0);
        assert_eq!(wrong(&late(Level::Serializable, [2, 2]), &last).len(), 1);
    }

    #[test]
    fn circles_are_found_where_the_level_forbids_them() {
        // Each has seen the other.
        let seen_each = |level| {
            [
                committed(level, &[append(1, 1), read(2, &[2])]),
                committed(level, &[append(2, 2), read(1, &[1])]),
            ]
        };
        // One has seen a half of the other.
        let fractured = |level| {
            [
                committed(level, &[append(1, 1), append(2, 2)]),
                committed(level, &[read(1, &[]), read(2, &[2])]),
            ]
        };
        // Neither has seen the other.
        let skewed = |level| {
            [
                committed(level, &[read(1, &[]), append(2, 2)]),
                committed(level, &[read(2, &[]), append(1, 1)]),
            ]
        };
        // Both appended to what both had read.
        let overtaken = |level| {
            [
                committed(level, &[read(1, &[]), append(1, 1)]),
                committed(level, &[read(1, &[]), append(1, 2), append(2, 3)]),
            ]
        };
        let last: [(u32, &[u64]); 2] = [(1, &[1]), (2, &[2])];
        let found = |all: [Seen; 2]| !wrong(&all, &last).is_empty();
        assert_eq!(LEVELS.map(seen_each).map(found), [true, true, true]);
        assert_eq!(LEVELS.map(fractured).map(found), [false, true, true]);
        assert_eq!(LEVELS.map(skewed).map(found), [false, false, true]);
        let last: [(u32, &[u64]); 2] = [(1, &[1, 2]), (2, &[3])];
        let found = |all: [Seen; 2]| !wrong(&all, &last).is_empty();
        assert_eq!(LEVELS.map(overtaken).map(found), [false, true, true]);
    }
}
