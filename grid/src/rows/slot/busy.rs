//! A row that is loaded, or has changes on top of what Postgres has. Decides only.
//!
//! Invariants, checked by `Busy::check` after each change:
//! - `image` is `base` with all layers on it; without a base it is known only if a layer gives the whole row;
//! - layers are oldest first; at most one is pending, and it is the last;
//! - a base is known or a load is under way, never both;
//! - with neither, no layer is flushed: Postgres has it for certain, so whoever loads from now on sees it.

use super::super::layer::{self, Carrier, Flight, Layer, Stage};
use super::super::load::Moment;
use super::super::passed::{MustSee, Passed};
use super::base::{Base, Confirms, Seen, Took, UNFOLLOWED, WalEvent};
use super::{Lend, Slot, TookLent};
use crate::change::{Change, FlushSeq};
use crate::limits;
use crate::log::LogIndex;
use ripen_pg::ids::{Lsn, Snapshot, Xid};
use ripen_pg::tuple::Tuple;
use std::sync::Arc;

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

impl Busy {
    /// A row that is the same as in Postgres, and is about to change.
    pub(super) fn on(base: Base) -> Busy {
        Busy {
            base: Some(base),
            ..Busy::default()
        }
    }

    pub(super) fn base(&self) -> Option<&Base> {
        self.base.as_ref()
    }

    pub(super) fn image(&self) -> Option<Option<&Tuple>> {
        self.image.as_ref().map(Option::as_ref)
    }

    pub(super) fn load(&self) -> Option<u64> {
        self.loading.as_ref().map(|loading| loading.load)
    }

    /// Oldest first.
    pub(super) fn layers(&self) -> &[Layer] {
        &self.layers
    }

    pub(super) fn changed(&self) -> LogIndex {
        self.changed
    }

    pub(super) fn show_as_decided(&mut self, show: bool) {
        self.as_decided = show;
    }

    /// The stream will not confirm what is on its way to Postgres.
    pub(super) fn lose_sight(&mut self) {
        let flights = self.layers.iter_mut();
        flights
            .filter_map(|layer| layer.stage.flight_mut())
            .for_each(Flight::lose_sight);
    }

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
    pub(in crate::rows) fn lend(&self) -> Lend {
        match &self.base {
            // A flush that the base may contain or not, the other node cannot tell.
            _ if !self.layers.iter().all(Layer::is_only_logged) => Lend::Withheld,
            Some(base) => Lend::Base(base.clone()),
            None => Lend::Unknown,
        }
    }

    /// Another node's memory has answered instead of Postgres. It must have been told what this node had been told when the load began.
    pub(in crate::rows) fn take_lent(&mut self, load: u64, base: Base) -> TookLent {
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

    pub(super) fn wal(&mut self, event: WalEvent) -> bool {
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

    /// The flush committed. If nobody need confirm it, this is the confirmation. Answers whether it is still to be confirmed.
    pub fn flushed(&mut self, seq: FlushSeq, confirms: Confirms) -> bool {
        let Some(at) = self.at(seq) else { return false };
        let Stage::Flushing(mut flight) = self.layers[at].stage else {
            return false;
        };
        let untold = confirms == Confirms::Unknown && flight.confirmed.is_none();
        if flight.xid().is_none() || untold {
            // Nobody can tell which loads have seen it, or which changes of others came before it. Loads that begin from now on see all of that.
            self.layers.remove(at);
            self.forget();
            return false;
        }
        if confirms == Confirms::Nobody {
            flight.confirmed.get_or_insert(UNFOLLOWED);
        }
        self.layers[at].stage = Stage::Flushed(flight);
        self.fold_settled();
        flight.confirmed.is_none() && !self.wants_load()
    }

    pub(super) fn wants_load(&self) -> bool {
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

    pub(super) fn dead(&mut self, seq: FlushSeq) {
        if let Some(at) = self.at(seq) {
            self.layers.remove(at);
        }
    }

    pub(super) fn forget(&mut self) {
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

    pub(super) fn weight(&self) -> usize {
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
            + self.base.as_ref().map_or(0, Base::weight)
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
    pub(super) fn settle(mut self: Box<Self>) -> Slot {
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
