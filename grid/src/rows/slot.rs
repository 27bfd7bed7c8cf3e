//! What memory knows of one row, and how loads, WAL changes, commits and flushes change it. Decides only; never locks, never counts bytes of others.
//!
//! `base` is the row as Postgres has it, `busy` what a load and changes on top make of it.

mod base;
mod busy;

pub use base::{After, Ahead, Base, Confirms, Seen, WalEvent};
pub use busy::Busy;

use super::layer::Layer;
use super::passed::Passed;
use crate::change::FlushSeq;
use crate::limits;
use crate::log::LogIndex;
use base::Took;
use ripen_pg::ids::Lsn;
use ripen_pg::tuple::Tuple;

/// See the module.
#[derive(Debug, Default)]
pub enum Slot {
    /// Nothing is known: the slot is to be removed.
    #[default]
    Gone,
    /// Same as Postgres.
    Clean(Base),
    /// A load is under way, or changes lie on top.
    Busy(Box<Busy>),
}

/// What memory has for another node that loads a row.
#[derive(Clone, Debug)]
pub enum Lend {
    /// Postgres's row, below what only the log has.
    Base(Base),
    /// Nothing: it would have to be loaded.
    Unknown,
    /// Nothing that the other could use now.
    Withheld,
}

/// What became of a row that another node has lent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TookLent {
    /// It is known now.
    Kept,
    /// Only Postgres can tell; the load goes on.
    Refused,
    /// The load has ended, one way or another.
    #[default]
    Over,
}

impl Slot {
    /// A row of which nothing is known but that somebody begins to load.
    pub fn loading(load: u64, passed: Passed, ahead: Lsn) -> Slot {
        let mut busy = Busy::default();
        busy.begin_load(load, passed, ahead);
        Slot::Busy(Box::new(busy))
    }

    /// What readers see; `None`: unknown.
    pub fn image(&self) -> Option<Option<&Tuple>> {
        match self {
            Slot::Gone => None,
            Slot::Clean(base) => Some(base.row.as_ref()),
            Slot::Busy(busy) => busy.image(),
        }
    }

    /// What the row may contain before the stream tells it: the load that memory has it from, if no WAL change has touched it since.
    pub fn ahead(&self) -> Option<Ahead<'_>> {
        let base = match self {
            Slot::Gone => None,
            Slot::Clean(base) => Some(base),
            Slot::Busy(busy) => busy.base(),
        };
        match &base?.seen {
            Seen::Loaded(moment) => Some(Ahead::Loaded(moment)),
            Seen::Told(lsn) => Some(Ahead::Told(*lsn)),
            Seen::Lsn(_) => None,
        }
    }

    /// The stream has handed over everything up to `followed`: what a clean row's load saw, and more, so the load need not be remembered.
    /// (With changes on top it must be: a flush that the stream has passed may still have to be added.)
    pub fn settle_load(&mut self, followed: Lsn) {
        let told = self.ahead().is_some_and(|ahead| ahead.wal() <= followed);
        if let Slot::Clean(base) = self
            && told
        {
            base.seen = Seen::Lsn(followed);
        }
    }

    /// What is to be told to a node that loads the row.
    pub fn lend(&self) -> Lend {
        match self {
            Slot::Gone => Lend::Unknown,
            Slot::Clean(base) => Lend::Base(base.clone()),
            Slot::Busy(busy) => busy.lend(),
        }
    }

    /// Whether the row must stay in memory.
    pub fn pinned(&self) -> bool {
        matches!(self, Slot::Busy(_))
    }

    /// The load under way, if there is one.
    pub fn load(&self) -> Option<u64> {
        match self {
            Slot::Busy(busy) => busy.load(),
            _ => None,
        }
    }

    /// Whether Postgres's row is unknown and nobody is loading it.
    pub fn wants_load(&self) -> bool {
        match self {
            Slot::Gone => true,
            Slot::Clean(_) => false,
            Slot::Busy(busy) => busy.wants_load(),
        }
    }

    /// Layers, oldest first.
    pub fn layers(&self) -> &[Layer] {
        match self {
            Slot::Busy(busy) => busy.layers(),
            _ => &[],
        }
    }

    /// Where the log changed the row last; 0 for a row that is the same as in Postgres.
    pub fn changed(&self) -> LogIndex {
        match self {
            Slot::Busy(busy) => busy.changed(),
            _ => LogIndex(0),
        }
    }

    /// Bytes of the row and its layers, the slot itself and its place in the map included.
    pub fn weight(&self) -> usize {
        limits::SLOT_OVERHEAD_BYTES
            + match self {
                Slot::Gone => 0,
                Slot::Clean(base) => base.weight(),
                Slot::Busy(busy) => busy.weight(),
            }
    }

    /// Turns the slot into its busy form, changes it and brings it back to its simplest form.
    pub fn change<R>(&mut self, change: impl FnOnce(&mut Busy) -> R) -> R {
        let mut busy = match std::mem::take(self) {
            Slot::Gone => Box::<Busy>::default(),
            Slot::Clean(base) => Box::new(Busy::on(base)),
            Slot::Busy(busy) => busy,
        };
        let answer = change(&mut busy);
        *self = busy.settle();
        answer
    }

    /// [`Slot::change`] where a slot that is merely clean stays as it is.
    pub fn change_busy<R: Default>(&mut self, change: impl FnOnce(&mut Busy) -> R) -> R {
        match self {
            Slot::Busy(_) => self.change(change),
            _ => R::default(),
        }
    }

    /// An outside change in the WAL. Answers whether it met a change of the grid on its way to Postgres.
    pub fn wal(&mut self, event: WalEvent) -> bool {
        match self {
            Slot::Gone => false,
            Slot::Clean(base) => {
                if let Took::Lost = base.take(event) {
                    *self = Slot::Gone;
                }
                false
            }
            Slot::Busy(_) => self.change(|busy| busy.wal(event)),
        }
    }

    /// Postgres refused the change for good: it is in the dead letters, and the row must be read anew. It may be clean by now, if the stream passed
    /// the flush (of other rows) before it ended here.
    pub fn dead(&mut self, seq: FlushSeq) {
        self.change_busy(|busy| busy.dead(seq));
        self.forget();
    }

    /// [`Slot::forget`], and the stream will not confirm a flush that may have committed by now: what it tells from here on may come before or after it.
    pub fn stream_lost(&mut self) {
        self.forget();
        self.change_busy(Busy::lose_sight);
    }

    /// Whether readers may see a row whose base is unknown as it was when its changes were decided: nobody can say what it is in Postgres now.
    pub fn show_as_decided(&mut self, show: bool) {
        self.change_busy(|busy| busy.show_as_decided(show));
    }

    /// What was known of Postgres's row is no longer sure; a load under way is not kept.
    pub fn forget(&mut self) {
        match self {
            Slot::Busy(_) => self.change(Busy::forget),
            _ => *self = Slot::Gone,
        }
    }
}
