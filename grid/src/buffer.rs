//! What a transaction has written and nobody else may see yet: per row the image after its own writes, and the change that COMMIT will append to the log. Savepoints are
//! levels of it. Decides; knows no locks and no other transaction.
//!
//! Invariants: each level holds a row once, as the change from what the levels below it make of the row; a change that came to nothing still hides the row as it was.

use crate::change::{Change, CommitGroup, RowChange, RowId};
use crate::rows::layer;
use ripen_pg::ids::TableOid;
use ripen_pg::key::Key;
use ripen_pg::tuple::Tuple;
use std::collections::BTreeMap;

/// What a transaction has made of a row.
#[derive(Clone, Debug, PartialEq)]
struct Written {
    /// `None`: what it inserted it has deleted again.
    change: Option<Change>,
    /// The row as the transaction sees it.
    image: Option<Tuple>,
    /// The row as it was committed when the transaction first wrote to it.
    base: Option<Tuple>,
}

/// What came after a savepoint, and before the next.
#[derive(Clone, Debug, Default, PartialEq)]
struct Level {
    /// Of the savepoint that it began with; the lowest has none.
    name: Vec<u8>,
    /// How many locks the transaction had then.
    locks: usize,
    rows: BTreeMap<RowId, Written>,
}

/// See the module.
#[derive(Clone, Debug, PartialEq)]
pub struct Buffer {
    /// Never empty.
    levels: Vec<Level>,
    rows: usize,
    bytes: usize,
}

/// A savepoint and what was written after it; the first has no name and comes before all savepoints.
#[derive(Clone, Debug, PartialEq)]
pub struct Stretch {
    /// The savepoint's name.
    pub savepoint: Option<Vec<u8>>,
    /// What was written after it.
    pub group: CommitGroup,
}

/// A change beside the row that it was made to.
#[derive(Clone, Debug, PartialEq)]
pub struct Based {
    /// What became of the row.
    pub change: RowChange,
    /// The row as it was committed when the transaction first wrote to it.
    pub base: Option<Tuple>,
}

impl Default for Buffer {
    fn default() -> Buffer {
        Buffer {
            levels: vec![Level::default()],
            rows: 0,
            bytes: 0,
        }
    }
}

impl Buffer {
    /// Whether there is nothing that COMMIT would have to write.
    pub fn is_empty(&self) -> bool {
        self.levels.iter().all(|level| level.rows.is_empty())
    }

    /// Rows in all levels.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Bytes of their images.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The row as the transaction sees it, if it has written to it. `Some(None)`: it is gone.
    pub fn image(&self, row: &RowId) -> Option<Option<&Tuple>> {
        self.find(row).map(|written| written.image.as_ref())
    }

    /// The rows of a table as the transaction sees them, of those that it has written to. `None`: it is gone.
    pub fn images_of(&self, table: TableOid) -> BTreeMap<Key, Option<Tuple>> {
        let rows = self.levels.iter().flat_map(|level| &level.rows);
        let rows = rows.filter(|(row, _)| row.table == table);
        // What a higher level says comes later, and counts.
        rows.map(|(row, written)| (row.key.clone(), written.image.clone()))
            .collect()
    }

    /// The row as it was committed when the transaction first wrote to it, if it has.
    pub fn base(&self, row: &RowId) -> Option<Option<&Tuple>> {
        self.find(row).map(|written| written.base.as_ref())
    }

    fn find(&self, row: &RowId) -> Option<&Written> {
        let mut levels = self.levels.iter().rev();
        levels.find_map(|level| level.rows.get(row))
    }

    /// Notes what a statement has decided, by the images that [`Buffer::image`] told. `base`: the row as it is committed, where nothing was told.
    pub fn note(&mut self, change: RowChange, base: Option<Tuple>) {
        let base = match self.find(&change.row) {
            Some(known) => known.base.clone(),
            None => base,
        };
        let image = change.change.image().cloned();
        let level = self.levels.last_mut().expect("there is always a level");
        let before = level.rows.remove(&change.row);
        self.rows -= usize::from(before.is_some());
        self.bytes -= before.as_ref().map_or(0, Written::weight);
        let change_now = match before.map(|written| written.change) {
            None | Some(None) => Some(change.change),
            Some(Some(first)) => layer::coalesce(first, change.change),
        };
        let written = Written {
            change: change_now,
            image,
            base,
        };
        self.rows += 1;
        self.bytes += written.weight();
        level.rows.insert(change.row, written);
    }

    /// SAVEPOINT. `locks`: how many the transaction has, for [`Buffer::back_to`].
    pub fn savepoint(&mut self, name: &[u8], locks: usize) {
        self.levels.push(Level {
            name: name.to_vec(),
            locks,
            rows: BTreeMap::new(),
        });
    }

    /// How many savepoints stand.
    pub fn savepoints(&self) -> usize {
        self.levels.len() - 1
    }

    /// Where the last savepoint of that name is.
    fn place(&self, name: &[u8]) -> Option<usize> {
        let named = |(_, level): &(usize, &Level)| level.name == name;
        let mut levels = self.levels.iter().enumerate().skip(1);
        levels.rfind(named).map(|(place, _)| place)
    }

    /// RELEASE: the savepoint and all after it are gone, what came after it stays. False: there is none of that name.
    pub fn release(&mut self, name: &[u8]) -> bool {
        let Some(place) = self.place(name) else {
            return false;
        };
        for level in self.levels.split_off(place) {
            self.settle(level);
        }
        true
    }

    /// ROLLBACK TO: what came after the savepoint is gone, itself stays. Answers how many locks the transaction had then; `None`: there is none of that name.
    pub fn back_to(&mut self, name: &[u8]) -> Option<usize> {
        let place = self.place(name)?;
        for level in self.levels.split_off(place + 1) {
            self.forget(level.rows);
        }
        let level = self.levels.last_mut()?;
        let (rows, locks) = (std::mem::take(&mut level.rows), level.locks);
        self.forget(rows);
        Some(locks)
    }

    fn forget(&mut self, rows: BTreeMap<RowId, Written>) {
        self.rows -= rows.len();
        self.bytes -= rows.values().map(Written::weight).sum::<usize>();
    }

    /// Puts what a level has onto the one that is the last now.
    fn settle(&mut self, level: Level) {
        let below = self.levels.last_mut().expect("there is always a level");
        for (row, above) in level.rows {
            let Some(known) = below.rows.get_mut(&row) else {
                below.rows.insert(row, above);
                continue;
            };
            self.rows -= 1;
            self.bytes -= known.weight() + above.weight();
            known.change = match (known.change.take(), above.change) {
                (first, None) => first,
                (None, then) => then,
                (Some(first), Some(then)) => layer::coalesce(first, then),
            };
            known.image = above.image;
            self.bytes += known.weight();
        }
    }

    /// All of it as one group, each change beside what it was made to.
    pub fn merged(&self) -> Vec<Based> {
        let mut all = self.clone();
        while all.levels.len() > 1 {
            let level = all.levels.pop().expect("there are two");
            all.settle(level);
        }
        let rows = all.levels.remove(0).rows.into_iter();
        rows.filter_map(|(row, written)| {
            let change = written.change?;
            Some(Based {
                change: RowChange { row, change },
                base: written.base,
            })
        })
        .collect()
    }

    /// All of it, savepoint by savepoint.
    pub fn stretches(&self) -> Vec<Stretch> {
        let stretch = |(place, level): (usize, &Level)| {
            let rows = level.rows.iter().filter_map(|(row, written)| {
                let (row, change) = (row.clone(), written.change.clone()?);
                Some(RowChange { row, change })
            });
            Stretch {
                savepoint: (place > 0).then(|| level.name.clone()),
                group: CommitGroup {
                    rows: rows.collect(),
                },
            }
        };
        self.levels.iter().enumerate().map(stretch).collect()
    }
}

impl Written {
    fn weight(&self) -> usize {
        let weigh = |image: &Option<Tuple>| image.as_ref().map_or(0, Tuple::weight);
        weigh(&self.image) + weigh(&self.base)
    }
}

#[cfg(test)]
mod tests;
