//! What clients asked for and what they were told, in order; and whether that can be true. An acknowledged write is there for ever, one that failed may be.
//!
//! Each row lists the writes that it has seen. So there is one order of the writes of a row, the one in which it lists them at the end, and every read must show a
//! beginning of that list which contains all that was acknowledged, or seen by anybody, before the read began.

use crate::data::{OURS, Row, name};
use crate::postgres::{Commit, Postgres};
use ripen_cachestore::change::RowId;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Default)]
pub struct History {
    /// Counts what happens: whatever has a smaller number came before.
    moments: u64,
    writes: BTreeMap<u32, Write>,
    reads: Vec<Read>,
    /// Increments of shared rows.
    adds: Vec<Add>,
    pub last_write: u32,
    pub counts: Counts,
}

/// What happened how often, so that a simulation in which nothing happens is not taken for one in which all is well.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub writes: u64,
    pub unknown: u64,
    pub direct: u64,
    pub memory_reads: u64,
    pub postgres_reads: u64,
    pub failed_reads: u64,
    pub adds: u64,
}

struct Write {
    rows: Vec<RowId>,
    begun: u64,
    /// When it was acknowledged.
    done: Option<u64>,
    at_ms: u64,
}

struct Read {
    rows: Vec<(RowId, Option<Row>)>,
    begun: u64,
    done: u64,
    by: String,
    at_ms: u64,
}

struct Add {
    row: RowId,
    begun: u64,
    done: Option<u64>,
}

impl History {
    pub fn moment(&mut self) -> u64 {
        self.moments += 1;
        self.moments
    }

    /// A client asks for a write. Answers its number.
    pub fn write(&mut self, rows: &[RowId], at_ms: u64) -> u32 {
        self.last_write += 1;
        let begun = self.moment();
        let write = Write {
            rows: rows.to_vec(),
            begun,
            done: None,
            at_ms,
        };
        self.writes.insert(self.last_write, write);
        self.last_write
    }

    pub fn written(&mut self, write: u32) {
        let now = self.moment();
        self.counts.writes += 1;
        if let Some(write) = self.writes.get_mut(&write) {
            write.done = Some(now);
        }
    }

    pub fn read(&mut self, rows: Vec<(RowId, Option<Row>)>, begun: u64, by: String, at_ms: u64) {
        let done = self.moment();
        self.reads.push(Read {
            rows,
            begun,
            done,
            by,
            at_ms,
        });
    }

    pub fn add(&mut self, row: &RowId) -> usize {
        let begun = self.moment();
        self.adds.push(Add {
            row: row.clone(),
            begun,
            done: None,
        });
        self.adds.len() - 1
    }

    pub fn added(&mut self, add: usize) {
        self.counts.adds += 1;
        self.adds[add].done = Some(self.moment());
    }

    /// Writes acknowledged before that time.
    pub fn acknowledged_before(&self, at_ms: u64) -> Vec<(u32, Vec<RowId>)> {
        let old = self.writes.iter().filter(|(_, write)| write.done.is_some());
        let old = old.filter(|(_, write)| write.at_ms < at_ms);
        old.map(|(id, write)| (*id, write.rows.clone())).collect()
    }

    /// Whether all that was told can be true, given what Postgres has in the end, nothing being pending any more.
    pub fn judge(&self, pg: &Postgres) -> Result<(), String> {
        self.judge_end(&pg.rows)?;
        self.judge_past(pg)?;
        self.judge_order(&pg.rows)?;
        self.judge_shared(&pg.rows)
    }

    /// The same where nobody had named the server that took Postgres's place: what it lacked may be lost, and what was built on that may be in the dead letters.
    pub fn judge_with_loss(&self, pg: &Postgres) -> Result<(), String> {
        // Increments are not among the writes.
        if pg.lost_writes.is_empty() && pg.lost_flushes == 0 {
            return self.judge(pg);
        }
        for (row, end) in Self::ours(&pg.rows) {
            Self::judge_once(row, end)?;
        }
        let done = self.writes.iter().filter(|(_, write)| write.done.is_some());
        for (id, write) in done {
            let lost = |row: &&RowId| {
                let there = pg.rows.get(*row).is_some_and(|row| row.list.contains(id));
                !there && !pg.may_have_lost(*id, row)
            };
            if let Some(row) = write.rows.iter().find(lost) {
                return Err(format!(
                    "write {id} was acknowledged at {} ms, and is lost in {}, although Postgres had not lost it",
                    write.at_ms,
                    name(row)
                ));
            }
        }
        Ok(())
    }

    fn judge_once(row: &RowId, end: &Row) -> Result<(), String> {
        let once: BTreeSet<u32> = end.list.iter().copied().collect();
        match once.len() == end.list.len() {
            true => Ok(()),
            false => Err(format!("{} has a write twice: {:?}", name(row), end.list)),
        }
    }

    fn ours(rows: &BTreeMap<RowId, Row>) -> impl Iterator<Item = (&RowId, &Row)> {
        rows.iter().filter(|(row, _)| row.table == OURS)
    }

    fn judge_end(&self, rows: &BTreeMap<RowId, Row>) -> Result<(), String> {
        for (row, end) in Self::ours(rows) {
            Self::judge_once(row, end)?;
            if end.count != end.list.len() as i64 {
                return Err(format!("{} was counted wrong: {end:?}", name(row)));
            }
        }
        let has = |row: &RowId, id| rows.get(row).is_some_and(|row| row.list.contains(id));
        for (id, write) in &self.writes {
            let there = write.rows.iter().filter(|row| has(row, id)).count();
            if there != 0 && there != write.rows.len() {
                return Err(format!("write {id} is there in part"));
            }
            if there == 0 && write.done.is_some() {
                return Err(format!(
                    "write {id} was acknowledged at {} ms, and is lost",
                    write.at_ms
                ));
            }
        }
        Ok(())
    }

    /// Postgres never showed what did not exist: whole transactions, and of each row a beginning.
    fn judge_past(&self, pg: &Postgres) -> Result<(), String> {
        let mut shown: BTreeMap<&RowId, &Row> = BTreeMap::new();
        for commit in pg.commits() {
            shown.extend(commit.written.iter().map(|(row, new)| (row, new)));
            let written = commit.written.iter().filter(|(row, _)| row.table == OURS);
            for (row, new) in written {
                self.judge_beginning(row, new, &pg.rows, "Postgres")?;
                self.judge_whole(commit, row, new, &shown)?;
            }
        }
        Ok(())
    }

    fn judge_beginning(
        &self,
        row: &RowId,
        seen: &Row,
        end: &BTreeMap<RowId, Row>,
        by: &str,
    ) -> Result<(), String> {
        let none = Row::default();
        let end = end.get(row).unwrap_or(&none);
        if !end.list.starts_with(&seen.list) {
            return Err(format!(
                "{by} had {} as {:?}, which is no beginning of {:?}",
                name(row),
                seen.list,
                end.list
            ));
        }
        if seen.count != seen.list.len() as i64 {
            return Err(format!("{by} had {} counted wrong: {seen:?}", name(row)));
        }
        Ok(())
    }

    fn judge_whole(
        &self,
        commit: &Commit,
        row: &RowId,
        new: &Row,
        shown: &BTreeMap<&RowId, &Row>,
    ) -> Result<(), String> {
        // Older ones were there before.
        for id in new.list.iter().rev().take(12) {
            let Some(write) = self.writes.get(id) else {
                return Err(format!(
                    "{} has a write that nobody asked for: {id}",
                    name(row)
                ));
            };
            let has = |row: &RowId| shown.get(row).is_some_and(|shown| shown.list.contains(id));
            if let Some(other) = write.rows.iter().find(|row| !has(row)) {
                return Err(format!(
                    "Postgres showed write {id} in {} and not in {} ({:?})",
                    name(row),
                    name(other),
                    commit.xid
                ));
            }
        }
        Ok(())
    }

    /// Reads and writes can have been done one after the other, each between its beginning and its end.
    fn judge_order(&self, end: &BTreeMap<RowId, Row>) -> Result<(), String> {
        let none = Row::default();
        let mut place: BTreeMap<(&RowId, u32), usize> = BTreeMap::new();
        for (row, end) in Self::ours(end) {
            for (at, id) in end.list.iter().enumerate() {
                place.insert((row, *id), at + 1);
            }
        }
        // (moment, row, is an end, how long its list is)
        let mut ends: Vec<(u64, &RowId, usize)> = Vec::new();
        let mut begins: Vec<(u64, &RowId, usize, String)> = Vec::new();
        for (id, write) in &self.writes {
            for row in &write.rows {
                let Some(at) = place.get(&(row, *id)) else {
                    continue;
                };
                ends.extend(write.done.map(|done| (done, row, *at)));
                // It comes behind all that was there when it began.
                begins.push((write.begun, row, *at, format!("write {id}")));
            }
        }
        for read in self.reads.iter() {
            self.judge_read(read, end)?;
            for (row, seen) in read.rows.iter().filter(|(row, _)| row.table == OURS) {
                let length = seen.as_ref().unwrap_or(&none).list.len();
                ends.push((read.done, row, length));
                let what = format!("a read by {} at {} ms", read.by, read.at_ms);
                begins.push((read.begun, row, length, what));
            }
        }
        ends.sort();
        begins.sort();
        let (mut known, mut ended): (BTreeMap<&RowId, usize>, _) =
            (BTreeMap::new(), ends.into_iter().peekable());
        for (begun, row, length, what) in begins {
            while let Some((_, row, length)) = ended.next_if(|(done, _, _)| *done < begun) {
                let known = known.entry(row).or_default();
                *known = (*known).max(length);
            }
            let least = known.get(row).copied().unwrap_or_default();
            if length < least {
                return Err(format!(
                    "{what} had {} with {length} writes when {least} were known",
                    name(row)
                ));
            }
        }
        Ok(())
    }

    fn judge_read(&self, read: &Read, end: &BTreeMap<RowId, Row>) -> Result<(), String> {
        let by = format!("a read by {} at {} ms", read.by, read.at_ms);
        let none = Row::default();
        let seen = |row: &RowId| {
            let found = read.rows.iter().find(|(seen, _)| seen == row);
            found.map(|(_, found)| found.as_ref().unwrap_or(&none))
        };
        for (row, found) in read.rows.iter().filter(|(row, _)| row.table == OURS) {
            let found = found.as_ref().unwrap_or(&none);
            self.judge_beginning(row, found, end, &by)?;
            for id in &found.list {
                let Some(write) = self.writes.get(id) else {
                    return Err(format!("{by} shows a write that nobody asked for: {id}"));
                };
                let others = write.rows.iter().filter_map(|row| Some((row, seen(row)?)));
                for (other, found) in others {
                    if !found.list.contains(id) {
                        return Err(format!(
                            "{by} shows write {id} in {} and not in {}",
                            name(row),
                            name(other)
                        ));
                    }
                }
            }
        }
        Ok(())
    }

    /// Each increment counts once; of what others write, each read shows a beginning.
    fn judge_shared(&self, end: &BTreeMap<RowId, Row>) -> Result<(), String> {
        for (row, end) in end.iter().filter(|(row, _)| row.table != OURS) {
            let adds: Vec<&Add> = self.adds.iter().filter(|add| add.row == *row).collect();
            let done = adds.iter().filter(|add| add.done.is_some()).count() as i64;
            if end.count < done || end.count > adds.len() as i64 {
                return Err(format!(
                    "{} was counted {} times in the end, {done} to {} times by clients",
                    name(row),
                    end.count,
                    adds.len()
                ));
            }
            for read in &self.reads {
                let Some((_, found)) = read.rows.iter().find(|(seen, _)| seen == row) else {
                    continue;
                };
                let by = format!("a read by {} at {} ms", read.by, read.at_ms);
                let Some(found) = found else {
                    return Err(format!("{by} did not find {}", name(row)));
                };
                if !end.list.starts_with(&found.list) {
                    return Err(format!(
                        "{by} had {} as {:?}, which is no beginning of {:?}",
                        name(row),
                        found.list,
                        end.list
                    ));
                }
                let before = |add: &&&Add| add.done.is_some_and(|done| done < read.begun);
                let least = adds.iter().filter(before).count() as i64;
                let most = adds.iter().filter(|add| add.begun < read.done).count() as i64;
                if found.count < least || found.count > most {
                    return Err(format!(
                        "{by} had {} counted {} times: between {least} and {most} is possible",
                        name(row),
                        found.count
                    ));
                }
            }
        }
        Ok(())
    }
}
