//! Changes on top of what Postgres is known to hold, and how they add up. Pure; `slot` decides when they come and go.

use crate::change::{Change, FlushSeq, Increment};
use ripen_pg::ids::{Lsn, Xid};
use ripen_pg::tuple::{Datum, Tuple};
use ripen_pg::value;

/// One change not yet known to be in the base.
#[derive(Clone, Debug, PartialEq)]
pub struct Layer {
    /// What changed.
    pub change: Change,
    /// Where it is on its way to Postgres.
    pub stage: Stage,
}

impl Layer {
    /// A change that just came from the log.
    pub fn pending(change: Change) -> Layer {
        Layer {
            change,
            stage: Stage::Pending,
        }
    }

    /// Whether the stream has passed its flush before that position.
    pub fn confirmed_before(&self, commit: Lsn) -> bool {
        let confirmed = self.stage.flight().and_then(|flight| flight.confirmed);
        confirmed.is_some_and(|at| at < commit)
    }

    /// Whether an earlier process may have flushed it.
    pub fn unknown(&self) -> bool {
        let flight = self.stage.flight();
        flight.is_some_and(|flight| flight.carrier == Carrier::Unknown)
    }

    /// Whether no transaction in Postgres can have carried it so far.
    pub fn is_only_logged(&self) -> bool {
        self.stage
            .flight()
            .is_none_or(|flight| flight.carrier == Carrier::None && flight.confirmed.is_none())
    }

    /// Whether Postgres has made something else of it.
    pub fn overruled(&self) -> bool {
        self.stage.flight().is_some_and(|flight| flight.overruled)
    }

    /// Whether it gives the whole row, whatever lies below.
    pub fn whole(&self) -> bool {
        !matches!(self.change, Change::Update { .. })
    }
}

/// The way of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// In the log only. Later changes of the row add to it.
    Pending,
    /// In a flush that has not ended.
    Flushing(Flight),
    /// In Postgres, visible to whoever loads from now on; the stream has not passed it yet.
    Flushed(Flight),
}

/// A layer's flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flight {
    /// Its number.
    pub seq: FlushSeq,
    /// Its transaction.
    pub carrier: Carrier,
    /// Where it was committed, once the stream has passed it.
    pub confirmed: Option<Lsn>,
    /// Postgres has made something else of it.
    pub overruled: bool,
}

/// Which transaction carries a flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// None so far that could have committed: it is known before COMMIT is sent.
    None,
    /// This one. It may also have failed without anybody knowing yet.
    Xid(Xid),
    /// Perhaps one of an earlier process, nobody knows which; or one that a lost stream may have passed without telling.
    Unknown,
}

impl Flight {
    /// A flush that begins here (`known`), or that was found in the log.
    pub fn new(seq: FlushSeq, known: bool) -> Flight {
        Flight {
            seq,
            carrier: if known {
                Carrier::None
            } else {
                Carrier::Unknown
            },
            confirmed: None,
            overruled: false,
        }
    }

    /// Nobody will tell whether the transaction has committed before the flush itself ends.
    pub(super) fn lose_sight(&mut self) {
        if self.confirmed.is_none() && self.carrier != Carrier::None {
            self.carrier = Carrier::Unknown;
        }
    }

    /// The transaction, if it is known.
    pub fn xid(self) -> Option<Xid> {
        match self.carrier {
            Carrier::Xid(xid) => Some(xid),
            Carrier::None | Carrier::Unknown => None,
        }
    }
}

impl Stage {
    /// The flush that carries it.
    pub fn flight(self) -> Option<Flight> {
        match self {
            Stage::Pending => None,
            Stage::Flushing(flight) | Stage::Flushed(flight) => Some(flight),
        }
    }

    pub(super) fn flight_mut(&mut self) -> Option<&mut Flight> {
        match self {
            Stage::Pending => None,
            Stage::Flushing(flight) | Stage::Flushed(flight) => Some(flight),
        }
    }

    /// The flush's number.
    pub fn flush(self) -> Option<FlushSeq> {
        self.flight().map(|flight| flight.seq)
    }

    /// The flush's transaction.
    pub fn xid(self) -> Option<Xid> {
        self.flight().and_then(Flight::xid)
    }

    /// Whether Postgres has it for certain.
    pub fn committed(self) -> bool {
        match self {
            Stage::Pending => false,
            Stage::Flushing(flight) => flight.confirmed.is_some(),
            Stage::Flushed(_) => true,
        }
    }
}

/// The row after a change. An update of a row that is gone (deleted outside) shows the image that was acknowledged.
pub fn apply(change: &Change, row: Option<&Tuple>) -> Option<Tuple> {
    match (change, row) {
        (Change::Delete, _) => None,
        (Change::Update { image, set, add }, Some(row)) => Some(update(image, set, add, row)),
        (Change::Insert { image } | Change::Put { image } | Change::Update { image, .. }, _) => {
            Some(image.clone())
        }
    }
}

fn update(image: &Tuple, set: &[u16], add: &[Increment], row: &Tuple) -> Tuple {
    let sums: Vec<(usize, Option<Vec<u8>>)> = add
        .iter()
        .map(|increment| (usize::from(increment.position), sum(increment, row)))
        .collect();
    let column = |position: usize| {
        if u16::try_from(position).is_ok_and(|position| set.binary_search(&position).is_ok()) {
            return image.get(position);
        }
        match sums.iter().find(|(at, _)| *at == position) {
            Some((_, Some(sum))) => Datum::Value(sum),
            // NULL stays NULL; an overflow (after an outside change) is what the flush will be refused for.
            Some((_, None)) | None => row.get(position),
        }
    };
    (0..row.len().max(image.len())).map(column).collect()
}

fn sum(increment: &Increment, row: &Tuple) -> Option<Vec<u8>> {
    let base = row.get(usize::from(increment.position)).value()?;
    value::add(increment.type_oid, base, &increment.amount).ok()
}

/// Two changes of a row as one. `None`: together they are nothing.
///
/// Looks at nothing else, so that every replica and every replay comes to the same. An insert and its delete are nothing even if somebody else
/// inserted that key meanwhile: his row is then as if it had come after the delete.
pub fn coalesce(first: Change, then: Change) -> Option<Change> {
    Some(match (first, then) {
        (Change::Insert { .. }, Change::Delete) => return None,
        (_, Change::Delete) => Change::Delete,
        (
            Change::Insert { .. },
            Change::Insert { image } | Change::Put { image } | Change::Update { image, .. },
        ) => Change::Insert { image },
        (_, Change::Insert { image } | Change::Put { image }) => Change::Put { image },
        (Change::Put { .. } | Change::Delete, Change::Update { image, .. }) => {
            Change::Put { image }
        }
        (
            Change::Update { set, add, .. },
            Change::Update {
                image,
                set: set_then,
                add: add_then,
            },
        ) => {
            let (set, add) = merge(set, add, set_then, add_then);
            Change::Update { image, set, add }
        }
    })
}

/// A column that was ever assigned is assigned the newer image's value: what was added to it before or after is in there.
fn merge(
    mut set: Vec<u16>,
    mut add: Vec<Increment>,
    set_then: Vec<u16>,
    add_then: Vec<Increment>,
) -> (Vec<u16>, Vec<Increment>) {
    set.extend(set_then);
    for more in add_then {
        match add.iter_mut().find(|known| known.position == more.position) {
            None => add.push(more),
            Some(known) => match value::sum(known.type_oid, &known.amount, &more.amount) {
                Ok(sum) => known.amount = sum.into(),
                // The sum of the amounts does not fit the type although the row's value does: then the value itself is written.
                Err(_) => set.push(more.position),
            },
        }
    }
    set.sort_unstable();
    set.dedup();
    add.retain(|increment| set.binary_search(&increment.position).is_err());
    add.sort_by_key(|increment| increment.position);
    (set, add)
}
