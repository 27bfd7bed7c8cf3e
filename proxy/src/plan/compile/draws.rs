//! Values that are drawn once for an execution, before anything is looked up: of sequences, and random ones. They stand behind the client's parameters, as if it had
//! sent them. Never draws one itself.

use super::{Compiled, Compiler, Slot, refuse};
use crate::eval::expr::Expr;
use crate::limits::DRAWS_MAX;
use crate::plan::reason::Reason;
use crate::plan::rights;
use ripen_cachestore::catalog::Sequence;
use ripen_pg::ids::{TableOid, TypeOid};
use ripen_pg::value::oid;
use std::sync::Arc;

/// A value to be drawn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Draw {
    /// The next value of a sequence: bigint.
    Sequence(Arc<Sequence>),
    /// `gen_random_uuid()`.
    Uuid,
    /// A place that no other statement has, for rows that nothing else names: see [`ripen_cachestore::catalog::Relation::appends`]. Never shown to anybody.
    Place,
}

impl Draw {
    /// The type of its values.
    pub fn type_oid(&self) -> TypeOid {
        match self {
            Draw::Sequence(_) => oid::INT8,
            Draw::Uuid | Draw::Place => oid::UUID,
        }
    }

    /// The sequence, or what no sequence is: what two nodes must agree on.
    pub fn source(&self) -> TableOid {
        match self {
            Draw::Sequence(sequence) => sequence.oid,
            Draw::Uuid => TableOid(0),
            Draw::Place => TableOid(1),
        }
    }
}

/// Those of a statement.
#[derive(Debug, Default)]
pub(super) struct Draws {
    /// How many parameters the client sends; `None`: nothing may be drawn here, because the expression may run several times, or never.
    after: Option<usize>,
    all: Vec<Draw>,
}

impl Compiler<'_> {
    /// From now on values may be drawn. The client has so many parameters at most: `$n` with a higher number does not appear in the text.
    pub fn allow_draws(&self, params: usize) {
        let declared = self.params.borrow().len();
        self.draws.borrow_mut().after = Some(params.max(declared));
    }

    /// Values of these types that each row has of its own, behind the client's parameters; how many those are, too. To be asked for before anything is drawn.
    pub fn elements(&self, params: usize, types: &[TypeOid]) -> Compiled<(usize, Vec<Expr>)> {
        let mut slots = self.params.borrow_mut();
        let sent = params.max(slots.len());
        slots.resize(sent, Slot::default());
        slots.extend(types.iter().map(|type_oid| Slot {
            declared: Some(*type_oid),
            inferred: None,
            used: true,
        }));
        drop(slots);
        let element = |(at, type_oid): (usize, &TypeOid)| self.typed_param(sent + at, *type_oid);
        let elements = types.iter().enumerate().map(element);
        Ok((sent, elements.collect::<Compiled<_>>()?))
    }

    /// No more of them.
    pub fn end_draws(&self) {
        self.draws.borrow_mut().after = None;
    }

    /// What is to be drawn, in the order of the parameters that follow the client's.
    pub fn draws(&self) -> Vec<Draw> {
        self.draws.borrow().all.clone()
    }

    /// Whether a sequence is among them.
    pub fn draws_sequence(&self) -> bool {
        let draws = self.draws.borrow();
        let mut all = draws.all.iter();
        all.any(|draw| matches!(draw, Draw::Sequence(_)))
    }

    /// A value of its own for this place.
    pub fn draw(&self, draw: Draw) -> Compiled<Expr> {
        let mut draws = self.draws.borrow_mut();
        let Some(after) = draws.after else {
            return refuse("default", "a value cannot be drawn here");
        };
        if draws.all.len() >= DRAWS_MAX {
            return refuse("default", "draws too many values");
        }
        let index = after + draws.all.len();
        let mut slots = self.params.borrow_mut();
        if slots.len() <= index {
            slots.resize(index + 1, Slot::default());
        }
        slots[index] = Slot {
            declared: Some(draw.type_oid()),
            inferred: None,
            used: true,
        };
        drop(slots);
        let type_oid = draw.type_oid();
        draws.all.push(draw);
        drop(draws);
        self.typed_param(index, type_oid)
    }

    /// The next value of a sequence. `named`: the statement or a default calls `nextval`, which asks for the caller's right; an identity column does not.
    pub fn draw_from(&self, sequence: TableOid, named: bool) -> Compiled<Expr> {
        let unknown = || Reason::new("sequence", "the sequence is not known");
        let catalog = self.names.catalog;
        let sequence = catalog.sequences.get(&sequence).ok_or_else(unknown)?;
        if !sequence.plain {
            return refuse(
                "sequence",
                "the sequence is temporary, cyclic, or has a CACHE of its own",
            );
        }
        if catalog.asks_sequences {
            return refuse(
                "sequence",
                "code of the database may ask what the session has drawn",
            );
        }
        if named && !rights::may_draw(self.names, sequence) {
            return refuse("privilege", "the role may not draw from the sequence");
        }
        self.draw(Draw::Sequence(sequence.clone()))
    }
}
