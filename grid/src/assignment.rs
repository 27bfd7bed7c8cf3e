//! Which log each table's changes go into. Decides only: the same configuration and catalog give the same answer on every node and after every start.
//!
//! Invariant: tables that refer to each other by foreign keys are in one log, so that one flusher writes parents before their children.

use crate::queue::LogNumber;
use ripen_pg::ids::TableOid;
use std::collections::{BTreeMap, BTreeSet};

/// What matters of a table whose writes are queued.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    /// The log that the configuration gives it to.
    pub log: Option<LogNumber>,
    /// Tables that its foreign keys refer to.
    pub parents: BTreeSet<TableOid>,
}

/// Tables connected by foreign keys are given to different logs: all of them go into the first one's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Contradiction {
    /// Whose word counts, and what it is.
    pub heeded: (TableOid, LogNumber),
    /// Whose does not.
    pub ignored: (TableOid, LogNumber),
}

/// Where tables belong.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Assignment {
    /// Each table's log.
    pub logs: BTreeMap<TableOid, LogNumber>,
    /// What could not be heeded.
    pub contradictions: Vec<Contradiction>,
}

impl Assignment {
    /// Assigns tables to so many logs.
    pub fn of(tables: &BTreeMap<TableOid, Wish>, logs: u8) -> Assignment {
        let mut assignment = Assignment::default();
        for family in families(tables) {
            let named = family
                .iter()
                .filter_map(|table| Some((*table, tables[table].log?)));
            let named: Vec<(TableOid, LogNumber)> = named.collect();
            let log = match named.first() {
                Some(heeded) => {
                    let others = named.iter().filter(|other| other.1 != heeded.1);
                    let contradictions = others.map(|ignored| Contradiction {
                        heeded: *heeded,
                        ignored: *ignored,
                    });
                    assignment.contradictions.extend(contradictions);
                    heeded.1
                }
                None => spread(family[0], logs),
            };
            let members = family.iter().map(|table| (*table, log));
            assignment.logs.extend(members);
        }
        assignment
    }
}

/// Tables that are connected, however far; in each and among each other ascending.
fn families(tables: &BTreeMap<TableOid, Wish>) -> Vec<Vec<TableOid>> {
    let mut first: BTreeMap<TableOid, TableOid> =
        tables.keys().map(|table| (*table, *table)).collect();
    for (table, wish) in tables {
        for parent in wish.parents.iter().filter(|one| tables.contains_key(one)) {
            let (one, other) = (find(&first, *table), find(&first, *parent));
            first.insert(one.max(other), one.min(other));
        }
    }
    let mut families: BTreeMap<TableOid, Vec<TableOid>> = BTreeMap::new();
    for table in tables.keys() {
        families
            .entry(find(&first, *table))
            .or_default()
            .push(*table);
    }
    families.into_values().collect()
}

fn find(first: &BTreeMap<TableOid, TableOid>, mut table: TableOid) -> TableOid {
    while first[&table] != table {
        table = first[&table];
    }
    table
}

/// Multiplied by the golden ratio, numbers that follow each other closely, as those of tables do, fall far from each other. Never another function: tables would move.
fn spread(table: TableOid, logs: u8) -> LogNumber {
    let hash = u64::from(table.0.wrapping_mul(0x9E37_79B9));
    let number = (hash * u64::from(logs.max(1))) >> 32;
    LogNumber(u8::try_from(number).expect("less than the number of logs"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(log: Option<u8>, parents: &[u32]) -> Wish {
        Wish {
            log: log.map(LogNumber),
            parents: parents.iter().copied().map(TableOid).collect(),
        }
    }

    fn tables(wishes: &[(u32, Wish)]) -> BTreeMap<TableOid, Wish> {
        let wishes = wishes.iter().cloned();
        wishes
            .map(|(table, wish)| (TableOid(table), wish))
            .collect()
    }

    fn numbers(assignment: &Assignment) -> Vec<u8> {
        assignment.logs.values().map(|log| log.0).collect()
    }

    #[test]
    fn connected_tables_share_a_log_whichever_refers_to_which() {
        let all: Vec<(u32, Wish)> = vec![
            (10, wish(None, &[])),
            (20, wish(None, &[40])),
            (30, wish(None, &[10, 10])),
            (40, wish(None, &[40, 30])),
            (50, wish(None, &[99])),
        ];
        for logs in 1..=16 {
            let assigned = Assignment::of(&tables(&all), logs);
            let found = numbers(&assigned);
            assert!(found[..4].iter().all(|log| *log == found[0]), "{found:?}");
            assert!(found.iter().all(|log| *log < logs));
        }
    }

    #[test]
    fn tables_spread_evenly_over_the_logs() {
        for step in [1, 3, 5, 6] {
            let all = (0..60).map(|n| (16_384 + n * step, wish(None, &[])));
            let all: Vec<_> = all.collect();
            let found = numbers(&Assignment::of(&tables(&all), 4));
            for log in 0..4 {
                let share = found.iter().filter(|one| **one == log).count();
                assert!((9..=21).contains(&share), "{share} of 60 by {step}");
            }
        }
    }

    #[test]
    fn what_the_configuration_says_counts_for_all_that_are_connected() {
        let all = [(10, wish(None, &[])), (20, wish(Some(3), &[10]))];
        let assigned = Assignment::of(&tables(&all), 4);
        assert_eq!(numbers(&assigned), [3, 3]);
        assert_eq!(assigned.contradictions, []);
    }

    #[test]
    fn of_two_that_contradict_each_other_the_first_is_heeded() {
        let all = [
            (10, wish(Some(1), &[])),
            (20, wish(Some(2), &[10])),
            (30, wish(Some(2), &[])),
        ];
        let assigned = Assignment::of(&tables(&all), 4);
        assert_eq!(numbers(&assigned), [1, 1, 2]);
        let contradiction = Contradiction {
            heeded: (TableOid(10), LogNumber(1)),
            ignored: (TableOid(20), LogNumber(2)),
        };
        assert_eq!(assigned.contradictions, [contradiction]);
    }

    #[test]
    fn tables_stay_where_they_are_when_others_come() {
        let few: Vec<_> = (0..9).map(|n| (16_384 + 7 * n, wish(None, &[]))).collect();
        let mut more = few.clone();
        more.push((90_000, wish(None, &[])));
        let (before, after) = (
            Assignment::of(&tables(&few), 4),
            Assignment::of(&tables(&more), 4),
        );
        assert!(
            before
                .logs
                .iter()
                .all(|(table, log)| after.logs[table] == *log)
        );
    }
}
