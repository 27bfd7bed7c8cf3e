//! What memory knows of one row, and how loads, WAL changes, commits and flushes change it. Decides only; never locks, never counts bytes of others.
//!
//! Invariants, checked by `Busy::check` after each change:
//! - `image` is `base` with all layers on it; without a base it is known only if a layer gives the whole row;
//! - layers are oldest first; at most one is pending, and it is the last;
//! - a base is known or a load is under way, never both;
//! - with neither, no layer is flushed: Postgres has it for certain, so whoever loads from now on sees it.

use super::layer::{self, Carrier, Flight, Layer, Stage};
use super::load::Moment;
use super::passed::{MustSee, Passed};
use crate::change::{Change, FlushSeq};
use crate::limits;
use crate::log::LogIndex;
use ripen_pg::ids::{Lsn, Snapshot, Xid};
use ripen_pg::tuple::{Datum, Tuple};
use std::sync::Arc;

/// Where a flush was committed that no stream confirms.
const UNFOLLOWED: Lsn = Lsn(0);

/// Which WAL changes a row already contains.
#[derive(Clone, Debug)]
pub enum Seen {
    /// Loaded: those that the load's snapshot saw.
    Loaded(Arc<Moment>),
    /// Set by a WAL change: everything committed up to there.
    Lsn(Lsn),
    /// The same in the memory of another node, whose stream may be ahead of this one's.
    Told(Lsn),
}

/// What a row contains that the stream may not have told yet.
#[derive(Clone, Copy, Debug)]
pub enum Ahead<'a> {
    /// All that a load saw.
    Loaded(&'a Arc<Moment>),
    /// Everything committed up to there.
    Told(Lsn),
}

impl Ahead<'_> {
    /// When the stream has passed this, it has told all of it.
    pub fn wal(&self) -> Lsn {
        match self {
            Ahead::Loaded(moment) => moment.wal,
            Ahead::Told(lsn) => *lsn,
        }
    }

    /// Where another node was told what Postgres may not show yet; 0: nowhere.
    pub fn told(&self) -> Lsn {
        match self {
            Ahead::Loaded(_) => Lsn(0),
            Ahead::Told(lsn) => *lsn,
        }
    }

    /// Whether both contain the same.
    pub fn same(&self, other: &Ahead<'_>) -> bool {
        match (self, other) {
            (Ahead::Loaded(mine), Ahead::Loaded(others)) => Arc::ptr_eq(mine, others),
            (Ahead::Told(mine), Ahead::Told(others)) => mine == others,
            _ => false,
        }
    }
}

impl Seen {
    fn contains(&self, xid: Xid, commit: Lsn) -> bool {
        match self {
            Seen::Loaded(moment) => moment.snapshot.saw_full(xid),
            Seen::Lsn(lsn) | Seen::Told(lsn) => commit <= *lsn,
        }
    }
}

/// A row as Postgres has it.
#[derive(Clone, Debug)]
pub struct Base {
    /// `None`: known not to exist.
    pub row: Option<Tuple>,
    /// As of when.
    pub seen: Seen,
}

/// What taking in a WAL change did to a base.
enum Took {
    Nothing,
    Changed,
    /// Part of the new row is not in the WAL and not known here.
    Lost,
}

impl Base {
    fn take(&mut self, event: WalEvent) -> Took {
        if self.seen.contains(event.xid, event.commit) {
            return Took::Nothing;
        }
        self.seen = Seen::Lsn(event.commit);
        self.row = match (event.after, &self.row) {
            (After::Unknown, _) => return Took::Lost,
            (After::Absent, _) => None,
            (After::Row(row), _) if !has_missing(&row) => Some(row),
            (After::Row(row), Some(old)) => Some(fill(&row, old)),
            (After::Row(_), None) => return Took::Lost,
        };
        Took::Changed
    }

    /// A flush of ours. At [`UNFOLLOWED`], nobody tells where it was committed.
    fn add(&mut self, change: &Change, xid: Xid, commit: Lsn) {
        if commit == UNFOLLOWED {
            self.row = layer::apply(change, self.row.as_ref());
        } else if !self.seen.contains(xid, commit) {
            self.row = layer::apply(change, self.row.as_ref());
            self.seen = Seen::Lsn(commit);
        }
    }
}

fn has_missing(row: &Tuple) -> bool {
    row.iter().any(|column| column == Datum::Missing)
}

/// Unchanged TOAST values are missing in the WAL: they are what they were.
fn fill(row: &Tuple, old: &Tuple) -> Tuple {
    let column = |position: usize| match row.get(position) {
        Datum::Missing => old.get(position),
        known => known,
    };
    (0..row.len().max(old.len())).map(column).collect()
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

/// The parts of a slot that is more than clean.
#[derive(Debug, Default)]
pub struct Busy {
    base: Option<Base>,
    loading: Option<Loading>,
    layers: Vec<Layer>,
    image: Option<Option<Tuple>>,
    /// Where the log changed the row last.
    changed: LogIndex,
    /// Somebody changed the row before or after a flush of which nobody knows yet whether it committed.
    shaken: bool,
    /// On an unknown base, readers see the row as its oldest change was decided.
    as_decided: bool,
}

#[derive(Debug)]
struct Loading {
    load: u64,
    /// What another node had told of the row before Postgres may show it: the stream must have passed this when the load comes back.
    ahead: Lsn,
    events: Vec<WalEvent>,
    must_see: Arc<MustSee>,
    poisoned: bool,
}

/// An outside change of one row in the WAL.
#[derive(Clone, Debug)]
pub struct WalEvent {
    /// By which transaction.
    pub xid: Xid,
    /// Committed where.
    pub commit: Lsn,
    /// The row afterwards.
    pub after: After,
}

/// A row after an outside transaction.
#[derive(Clone, Debug)]
pub enum After {
    /// It is this. Columns that the WAL did not repeat are missing.
    Row(Tuple),
    /// It is gone.
    Absent,
    /// It changed, and the WAL does not say to what.
    Unknown,
}

impl After {
    /// Bytes of memory.
    pub fn weight(&self) -> usize {
        match self {
            After::Row(row) => row.weight(),
            After::Absent | After::Unknown => 0,
        }
    }
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
            Slot::Busy(busy) => busy.image.as_ref().map(Option::as_ref),
        }
    }

    /// What the row may contain before the stream tells it: the load that memory has it from, if no WAL change has touched it since.
    pub fn ahead(&self) -> Option<Ahead<'_>> {
        let base = match self {
            Slot::Gone => None,
            Slot::Clean(base) => Some(base),
            Slot::Busy(busy) => busy.base.as_ref(),
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
            Slot::Busy(busy) => busy.loading.as_ref().map(|loading| loading.load),
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
            Slot::Busy(busy) => &busy.layers,
            _ => &[],
        }
    }

    /// Where the log changed the row last; 0 for a row that is the same as in Postgres.
    pub fn changed(&self) -> LogIndex {
        match self {
            Slot::Busy(busy) => busy.changed,
            _ => LogIndex(0),
        }
    }

    /// Bytes of the row and its layers, the slot itself and its place in the map included.
    pub fn weight(&self) -> usize {
        limits::SLOT_OVERHEAD_BYTES
            + match self {
                Slot::Gone => 0,
                Slot::Clean(base) => base_weight(base),
                Slot::Busy(busy) => busy.weight(),
            }
    }

    /// Turns the slot into its busy form, changes it and brings it back to its simplest form.
    pub fn change<R>(&mut self, change: impl FnOnce(&mut Busy) -> R) -> R {
        let mut busy = match std::mem::take(self) {
            Slot::Gone => Box::<Busy>::default(),
            Slot::Clean(base) => Box::new(Busy {
                base: Some(base),
                ..Busy::default()
            }),
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
        self.change_busy(|busy| {
            let flights = busy.layers.iter_mut();
            flights
                .filter_map(|layer| layer.stage.flight_mut())
                .for_each(Flight::lose_sight);
        });
    }

    /// Whether readers may see a row whose base is unknown as it was when its changes were decided: nobody can say what it is in Postgres now.
    pub fn show_as_decided(&mut self, show: bool) {
        self.change_busy(|busy| busy.as_decided = show);
    }

    /// What was known of Postgres's row is no longer sure; a load under way is not kept.
    pub fn forget(&mut self) {
        match self {
            Slot::Busy(_) => self.change(Busy::forget),
            _ => *self = Slot::Gone,
        }
    }
}

fn base_weight(base: &Base) -> usize {
    let seen = match &base.seen {
        Seen::Loaded(moment) => limits::SNAPSHOT_BYTES + 8 * moment.snapshot.running.len(),
        Seen::Lsn(_) | Seen::Told(_) => 0,
    };
    seen + base.row.as_ref().map_or(0, Tuple::weight)
}

impl Busy {
    /// Begins a load of a row whose base is unknown. `passed`: what went by in the WAL and may not be visible to the load yet. `ahead`: up to where another node may have told of the row.
    pub fn begin_load(&mut self, load: u64, passed: Passed, ahead: Lsn) {
        assert!(self.base.is_none(), "a known row is not loaded");
        self.loading = Some(Loading {
            load,
            ahead,
            events: passed.events,
            must_see: passed.must_see,
            poisoned: false,
        });
    }

    /// The load came back. It is not kept when it was poisoned, or when it cannot be told whether it contains a flush. `followed`: the stream had handed over
    /// everything up to there before.
    pub fn finish_load(
        &mut self,
        load: u64,
        moment: &Arc<Moment>,
        followed: Lsn,
        row: Option<Tuple>,
    ) {
        let snapshot = &moment.snapshot;
        let Some(loading) = self.loading.take_if(|loading| loading.load == load) else {
            return;
        };
        let doubtful = self.layers.iter().any(|layer| doubtful(layer, snapshot));
        // Postgres may not show yet what another node's stream told before this one's: a row must not go back.
        let behind = followed < loading.ahead;
        if loading.poisoned || doubtful || behind || !loading.must_see.seen_by(snapshot) {
            return;
        }
        self.layers
            .retain(|layer| !layer.stage.xid().is_some_and(|xid| snapshot.saw_full(xid)));
        self.base = Some(Base {
            row,
            seen: Seen::Loaded(moment.clone()),
        });
        let mut events = loading.events;
        events.sort_by_key(|event| event.commit);
        for event in events {
            self.wal(event);
        }
        self.fold_settled();
    }

    /// What is to be told to a node that loads the row.
    pub(super) fn lend(&self) -> Lend {
        match &self.base {
            // A flush that the base may contain or not, the other node cannot tell.
            _ if !self.layers.iter().all(Layer::is_only_logged) => Lend::Withheld,
            Some(base) => Lend::Base(base.clone()),
            None => Lend::Unknown,
        }
    }

    /// Another node's memory has answered instead of Postgres. It must have been told what this node had been told when the load began.
    pub(super) fn take_lent(&mut self, load: u64, base: Base) -> TookLent {
        let Some(loading) = self.loading.take_if(|loading| loading.load == load) else {
            return TookLent::Over;
        };
        if loading.poisoned {
            return TookLent::Over;
        }
        // What a flush carries may be in the base or not. Postgres's snapshot would say.
        if !self.layers.iter().all(Layer::is_only_logged) {
            self.loading = Some(loading);
            return TookLent::Refused;
        }
        self.base = Some(base);
        let mut events = loading.events;
        events.sort_by_key(|event| event.commit);
        for event in events {
            self.wal(event);
        }
        self.fold_settled();
        TookLent::Kept
    }

    /// Whether it is known what Postgres has.
    pub fn knows_base(&self) -> bool {
        self.base.is_some()
    }

    /// The load failed; those who wait try again or pass.
    pub fn fail_load(&mut self, load: u64) {
        self.loading.take_if(|loading| loading.load == load);
    }

    fn wal(&mut self, event: WalEvent) -> bool {
        if self.base.is_none() {
            self.wal_without_base(event);
            return false;
        }
        self.fold_before(event.commit);
        let Some(base) = &mut self.base else {
            return false;
        };
        match base.take(event) {
            Took::Nothing => return false,
            Took::Changed => {}
            Took::Lost => self.base = None,
        }
        self.layers.iter().any(|layer| !layer.stage.committed())
    }

    /// Without a base nobody can tell whether this change is new (streams repeat themselves). A load under way will; one that begins later finds
    /// the change among what passed.
    fn wal_without_base(&mut self, event: WalEvent) {
        let layers = self.layers.len();
        self.layers
            .retain(|layer| !layer.confirmed_before(event.commit));
        self.shaken = true;
        let Some(loading) = &mut self.loading else {
            return;
        };
        if self.layers.len() < layers {
            // The load may be of before the flush, and the change does not tell all that the flush did.
            loading.poison();
        }
        loading.record(event);
    }

    /// Postgres has made something else of a flush: its layer does not say what the row is.
    pub fn overrule(&mut self, seq: FlushSeq) {
        if let Some(flight) = self.flight_mut(seq) {
            flight.overruled = true;
        }
    }

    /// The stream has passed a flush. Its layer stays until the flush has ended in the log too: by then it is visible to all who load,
    /// so that the row may be given up.
    pub fn confirm(&mut self, seq: FlushSeq, commit: Lsn) {
        if let Some(flight) = self.flight_mut(seq) {
            flight.confirmed = Some(commit);
            self.fold_settled();
        }
    }

    /// Takes layers into the base whose flush has ended and been passed.
    fn fold_settled(&mut self) {
        self.fold_while(|stage| match stage {
            Stage::Flushed(flight) => flight.confirmed,
            Stage::Pending | Stage::Flushing(_) => None,
        });
    }

    /// Takes layers into the base that are before a later change of the same row. That change waited until they were visible.
    fn fold_before(&mut self, commit: Lsn) {
        self.fold_while(|stage| stage.flight()?.confirmed.filter(|at| *at < commit));
    }

    fn fold_while(&mut self, ready: impl Fn(&Stage) -> Option<Lsn>) {
        while let Some(base) = &mut self.base
            && let Some(layer) = self.layers.first()
            && let Some(commit) = ready(&layer.stage)
        {
            match layer.stage.xid() {
                Some(xid) => base.add(&layer.change, xid, commit),
                // It cannot be told whether the base has it already.
                None => self.base = None,
            }
            self.layers.remove(0);
        }
    }

    /// A commit of the log changed the row. Answers whether it became pending by this (and was not before).
    pub fn commit(&mut self, change: Change, index: LogIndex) -> bool {
        self.changed = index;
        match self.layers.pop_if(|layer| layer.stage == Stage::Pending) {
            Some(top) => {
                let both = layer::coalesce(top.change, change);
                self.layers.extend(both.map(Layer::pending));
                false
            }
            None => {
                self.layers.push(Layer::pending(change));
                true
            }
        }
    }

    /// The pending layer goes into a flush; answers what is to be written. `known`: this process carries the flush and will tell its transaction;
    /// a flush found in the log after a restart may have been carried by anything.
    pub fn begin_flush(&mut self, seq: FlushSeq, known: bool) -> Option<Change> {
        let top = self
            .layers
            .last_mut()
            .filter(|layer| layer.stage == Stage::Pending)?;
        top.stage = Stage::Flushing(Flight::new(seq, known));
        let change = top.change.clone();
        if !known {
            self.forget();
        }
        Some(change)
    }

    /// The flush has its transaction id (`None`: the attempt failed for certain, and another one will follow).
    pub fn flush_xid(&mut self, seq: FlushSeq, xid: Option<Xid>) {
        if let Some(flight) = self.flight_mut(seq) {
            flight.carrier = xid.map_or(Carrier::None, Carrier::Xid);
        }
    }

    /// The flush committed. `followed`: the stream will confirm it; else this is the confirmation. Answers whether it is still to be confirmed.
    pub fn flushed(&mut self, seq: FlushSeq, followed: bool) -> bool {
        let Some(at) = self.at(seq) else { return false };
        let Stage::Flushing(mut flight) = self.layers[at].stage else {
            return false;
        };
        if flight.xid().is_none() {
            // Nobody can tell which loads have seen it. Those that begin from now on do.
            self.layers.remove(at);
            self.forget();
            return false;
        }
        if !followed {
            flight.confirmed.get_or_insert(UNFOLLOWED);
        }
        self.layers[at].stage = Stage::Flushed(flight);
        self.fold_settled();
        flight.confirmed.is_none() && !self.wants_load()
    }

    fn wants_load(&self) -> bool {
        self.base.is_none() && self.loading.is_none()
    }

    /// The flush did not commit: its layer is pending again, below whatever came since. Answers whether the row is pending now.
    pub fn unflushed(&mut self, seq: FlushSeq) -> bool {
        let Some(at) = self.at(seq) else { return false };
        let first = self.layers.remove(at);
        let then = self
            .layers
            .pop_if(|layer| layer.stage == Stage::Pending)
            .map(|then| then.change);
        assert_eq!(at, self.layers.len(), "flushes end in their order");
        let change = match then {
            None => Some(first.change),
            Some(then) => layer::coalesce(first.change, then),
        };
        self.layers.extend(change.map(Layer::pending));
        self.layers.len() > at
    }

    fn dead(&mut self, seq: FlushSeq) {
        if let Some(at) = self.at(seq) {
            self.layers.remove(at);
        }
    }

    fn forget(&mut self) {
        self.base = None;
        self.layers
            .retain(|layer| !matches!(layer.stage, Stage::Flushed(_)));
        if let Some(loading) = &mut self.loading {
            loading.poison();
        }
    }

    /// Whether nothing is on its way to Postgres.
    pub fn is_settled(&self) -> bool {
        self.layers.is_empty()
    }

    /// Restores a layer from a snapshot of the state machine.
    pub fn restore(&mut self, layer: Layer) {
        self.layers.push(layer);
    }

    fn at(&self, seq: FlushSeq) -> Option<usize> {
        self.layers
            .iter()
            .position(|layer| layer.stage.flush() == Some(seq))
    }

    fn flight_mut(&mut self, seq: FlushSeq) -> Option<&mut Flight> {
        let at = self.at(seq)?;
        self.layers[at].stage.flight_mut()
    }

    fn weight(&self) -> usize {
        let layers = self.layers.iter().map(|layer| {
            layer.change.image().map_or(0, Tuple::weight) + limits::LAYER_OVERHEAD_BYTES
        });
        let image = self
            .image
            .iter()
            .flatten()
            .map(|image| self.own_weight(image));
        let events = self.loading.iter().flat_map(|loading| &loading.events);
        let events = events.map(|event| event.after.weight() + limits::EVENT_OVERHEAD_BYTES);
        limits::BUSY_OVERHEAD_BYTES
            + self.base.as_ref().map_or(0, base_weight)
            + layers.chain(image).chain(events).sum::<usize>()
    }

    /// The weight of an image that is not just the base's or the top layer's tuple once more.
    fn own_weight(&self, image: &Tuple) -> usize {
        let base = self.base.as_ref().and_then(|base| base.row.as_ref());
        let top = self.layers.last().and_then(|layer| layer.change.image());
        let same = |other: &Tuple| std::ptr::eq(other.as_bytes(), image.as_bytes());
        let shared = base.is_some_and(same) || top.is_some_and(same);
        if shared { 0 } else { image.weight() }
    }

    /// The simplest form after a change.
    fn settle(mut self: Box<Self>) -> Slot {
        if self.wants_load() {
            self.layers
                .retain(|layer| !matches!(layer.stage, Stage::Flushed(_)));
        }
        if self.layers.is_empty() && self.loading.is_none() {
            return self.base.map_or(Slot::Gone, Slot::Clean);
        }
        self.shaken &= self.layers.iter().any(Layer::unknown);
        self.image = self.shown();
        self.check();
        Slot::Busy(self)
    }

    fn shown(&self) -> Option<Option<Tuple>> {
        if self.shaken {
            return None;
        }
        let whole = || self.layers.iter().rposition(Layer::whole);
        let (start, from) = match (&self.base, whole()) {
            (Some(base), _) => (base.row.clone(), 0),
            (None, Some(at)) if self.layers[at..].iter().any(Layer::overruled) => return None,
            (None, Some(at)) => (None, at),
            (None, None) if self.as_decided => (self.layers.first()?.change.image().cloned(), 1),
            (None, None) => return None,
        };
        Some(self.layers[from..].iter().fold(start, |row, layer| {
            layer::apply(&layer.change, row.as_ref())
        }))
    }

    fn check(&self) {
        let below_top = self.layers.split_last().map_or(&[][..], |(_, below)| below);
        assert!(
            below_top.iter().all(|layer| layer.stage != Stage::Pending),
            "only the top is pending"
        );
        assert!(
            self.base.is_none() || self.loading.is_none(),
            "a known row is not loaded"
        );
    }
}

/// Whether a load cannot tell if it contains the layer: its flush has ended in the load's eyes, but nobody has said yet whether it committed.
fn doubtful(layer: &Layer, snapshot: &Snapshot) -> bool {
    match layer.stage {
        Stage::Flushing(flight) => match flight.carrier {
            Carrier::None => false,
            Carrier::Xid(xid) => flight.confirmed.is_none() && snapshot.saw_full(xid),
            Carrier::Unknown => true,
        },
        Stage::Pending | Stage::Flushed(_) => false,
    }
}

impl Loading {
    fn record(&mut self, event: WalEvent) {
        if self.events.len() == limits::LOAD_EVENTS_MAX {
            self.poison();
        } else if !self.poisoned {
            self.events.push(event);
        }
    }

    fn poison(&mut self) {
        self.poisoned = true;
        self.events = Vec::new();
    }
}
