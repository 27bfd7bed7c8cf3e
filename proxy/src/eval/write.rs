//! Runs a [`WritePlan`]: from the rows as they are to the outcome. Never raises a constraint's error itself: such a statement passes through.

use super::bind::{Bound, bind};
use super::expr::{Env, Expr, RAISES, REFUSED, Scalar};
use super::keys::{Keys, key_of};
use super::read::holds;
use super::render::computed_row;
use super::{CommandTag, Decision, EvalError, Formats, Now, Params};
use crate::limits::WRITTEN_ROW_BYTES_MAX;
use crate::plan::WritePlan;
use crate::plan::write::{Action, Assignment, Change, Conflict, Increment};
use bytes::{Bytes, BytesMut};
use ripen_cachestore::change::{self, CommitGroup, RowChange, RowId};
use ripen_pg::ids::TypeOid;
use ripen_pg::tuple::{Datum, Tuple};
use ripen_pg::value::ops::{self, CastKind};
use ripen_pg::value::{self, Settings, oid};
use std::collections::BTreeMap;

/// Most bytes that the indexed columns of a row may have together: Postgres refuses index rows above some 2700.
const INDEXED_BYTES_MAX: usize = 2_000;

/// The outcome so far.
struct Outcome<'a> {
    changes: Vec<RowChange>,
    affected: u64,
    formats: Formats<'a>,
    out: &'a mut BytesMut,
}

/// What holds for all rows of one execution.
#[derive(Clone, Copy)]
struct Run<'a> {
    params: &'a [Option<Scalar<'a>>],
    now: Now,
    settings: &'a Settings,
}

impl<'a> Run<'a> {
    fn env(&self, row: Option<&'a Tuple>, excluded: Option<&'a Tuple>) -> Env<'a> {
        Env {
            params: self.params,
            row,
            excluded,
            settings: self.settings,
            now: Some(self.now),
        }
    }
}

impl WritePlan {
    /// The rows that the decision needs, in the order in which [`WritePlan::decide`] wants them. Empty when a key names no row.
    pub fn keys(&self, params: &Params<'_>, settings: &Settings) -> Result<Keys, EvalError> {
        let bound = self.bind(params, settings)?;
        let env = Env {
            params: &bound,
            row: None,
            excluded: None,
            settings,
            now: None,
        };
        for expr in &self.query.prelude {
            expr.eval(&env)?;
        }
        let keys = self.query.keys.resolve(&env)?;
        match &self.query.action {
            Action::Insert { rows, .. } if keys.len() != rows.len() => Err(RAISES),
            _ => Ok(keys),
        }
    }

    /// Decides the outcome. `currents` are the rows of [`WritePlan::keys`], in that order; `None` is an absent one. DataRows of RETURNING are appended to `out`,
    /// which on an error is as it was.
    pub fn decide(
        &self,
        params: &Params<'_>,
        currents: &[Option<Tuple>],
        now: Now,
        settings: &Settings,
        formats: Formats<'_>,
        out: &mut BytesMut,
    ) -> Result<Decision, EvalError> {
        let start = out.len();
        let decided = self.decide_rows(params, currents, now, settings, formats, out);
        if decided.is_err() {
            out.truncate(start);
        }
        decided
    }

    fn decide_rows(
        &self,
        params: &Params<'_>,
        currents: &[Option<Tuple>],
        now: Now,
        settings: &Settings,
        formats: Formats<'_>,
        out: &mut BytesMut,
    ) -> Result<Decision, EvalError> {
        let bound = self.bind(params, settings)?;
        let run = Run {
            params: &bound,
            now,
            settings,
        };
        let mut outcome = Outcome {
            changes: Vec::new(),
            affected: 0,
            formats,
            out,
        };
        match &self.query.action {
            Action::Insert { rows, conflict } => {
                if rows.len() != currents.len() {
                    return Err(REFUSED);
                }
                for (row, current) in rows.iter().zip(currents) {
                    self.insert(row, conflict, current.as_ref(), &run, &mut outcome)?;
                }
            }
            Action::Update(change) => {
                for current in currents.iter().flatten() {
                    self.update(change, current, None, &run, &mut outcome)?;
                }
            }
            Action::Delete { filter } => {
                for current in currents.iter().flatten() {
                    self.delete(filter, current, &run, &mut outcome)?;
                }
            }
        }
        Ok(outcome.decision(&self.query.action))
    }

    fn bind<'a>(&self, params: &Params<'a>, settings: &Settings) -> Result<Bound<'a>, EvalError> {
        if self.params.len() != params.values.len() {
            return Err(EvalError::PassThrough("the number of parameters differs"));
        }
        bind(&self.query.keys.params, params, settings)
    }

    fn insert(
        &self,
        row: &BTreeMap<usize, Expr>,
        conflict: &Conflict,
        current: Option<&Tuple>,
        run: &Run<'_>,
        outcome: &mut Outcome<'_>,
    ) -> Result<(), EvalError> {
        let env = run.env(None, None);
        let mut values: BTreeMap<usize, Option<Vec<u8>>> = BTreeMap::new();
        for (position, expr) in row {
            let value = expr.eval(&env)?;
            values.insert(*position, value.map(|scalar| scalar.to_binary()));
        }
        let image = self.image(&values, |_| Datum::Missing)?;
        // Postgres checks the proposed row before it looks for a conflict.
        self.check(&image, run)?;
        let Some(current) = current else {
            let change = change::Change::Insert {
                image: image.clone(),
            };
            return self.put(change, &image, run, outcome);
        };
        match conflict {
            Conflict::Error => Err(EvalError::PassThrough("the key exists already")),
            Conflict::Nothing => Ok(()),
            Conflict::Update(change) => self.update(change, current, Some(&image), run, outcome),
        }
    }

    fn update(
        &self,
        change: &Change,
        current: &Tuple,
        excluded: Option<&Tuple>,
        run: &Run<'_>,
        outcome: &mut Outcome<'_>,
    ) -> Result<(), EvalError> {
        let env = run.env(Some(current), excluded);
        if !holds(&change.filter, &env)? {
            return Ok(());
        }
        let mut values: BTreeMap<usize, Option<Vec<u8>>> = BTreeMap::new();
        let (mut set, mut add) = (Vec::new(), Vec::new());
        for assignment in &change.set {
            let value = assignment.expr.eval(&env)?.map(|scalar| scalar.to_binary());
            let position = column_number(assignment.position)?;
            match self.increment(assignment, current, value.is_some(), &env)? {
                Some(increment) => add.push(increment),
                None => set.push(position),
            }
            values.insert(assignment.position, value);
        }
        let image = self.image(&values, |position| current.get(position))?;
        self.check(&image, run)?;
        let change = change::Change::Update {
            image: image.clone(),
            set,
            add,
        };
        self.put(change, &image, run, outcome)
    }

    /// The row with these values, and the rest from where it was.
    fn image<'a>(
        &self,
        values: &'a BTreeMap<usize, Option<Vec<u8>>>,
        rest: impl Fn(usize) -> Datum<'a>,
    ) -> Result<Tuple, EvalError> {
        let column = |position| match values.get(&position) {
            None => rest(position),
            Some(None) => Datum::Null,
            Some(Some(bytes)) => Datum::Value(bytes),
        };
        let bytes = |position| column(position).value().map_or(0, <[u8]>::len);
        if (0..self.table.width).map(bytes).sum::<usize>() > WRITTEN_ROW_BYTES_MAX {
            return Err(EvalError::PassThrough("the row is too large to be queued"));
        }
        Ok((0..self.table.width).map(column).collect())
    }

    /// The assignment as an increment, where it is one and stays exact when repeated on another base.
    fn increment(
        &self,
        assignment: &Assignment,
        current: &Tuple,
        has_value: bool,
        env: &Env<'_>,
    ) -> Result<Option<change::Increment>, EvalError> {
        let Some(increment) = &assignment.increment else {
            return Ok(None);
        };
        let base = matches!(current.get(assignment.position), Datum::Value(_));
        let amount = match increment.amount.eval(env)? {
            Some(amount) if base && has_value => amount,
            _ => return Ok(None),
        };
        let Some(amount) = amount_in(increment, &amount, env.settings)? else {
            return Ok(None);
        };
        Ok(Some(change::Increment {
            position: column_number(assignment.position)?,
            type_oid: increment.type_oid,
            amount: Bytes::from(amount),
        }))
    }

    fn delete(
        &self,
        filter: &[Expr],
        current: &Tuple,
        run: &Run<'_>,
        outcome: &mut Outcome<'_>,
    ) -> Result<(), EvalError> {
        if !holds(filter, &run.env(Some(current), None))? {
            return Ok(());
        }
        self.put(change::Change::Delete, current, run, outcome)
    }

    /// Notes a change, and puts out its RETURNING row.
    fn put(
        &self,
        change: change::Change,
        shown: &Tuple,
        run: &Run<'_>,
        outcome: &mut Outcome<'_>,
    ) -> Result<(), EvalError> {
        if let Some(outputs) = &self.query.returning {
            let env = run.env(Some(shown), None);
            computed_row(outputs, &env, outcome.formats, outcome.out)?;
        }
        outcome.affected += 1;
        outcome.changes.push(RowChange {
            row: RowId {
                table: self.table.oid,
                key: key_of(&self.query.key_columns, shown)?,
            },
            change,
        });
        Ok(())
    }

    /// Whether Postgres would store the row: NOT NULL, CHECK, index row size.
    fn check(&self, image: &Tuple, run: &Run<'_>) -> Result<(), EvalError> {
        let missing = |position: &usize| matches!(image.get(*position), Datum::Null);
        if self.query.not_null.iter().any(missing) {
            return Err(RAISES);
        }
        let env = run.env(Some(image), None);
        for check in &self.query.checks {
            if check.eval_truth(&env)? == Some(false) {
                return Err(RAISES);
            }
        }
        let bytes = |position: &usize| image.get(*position).value().map_or(0, <[u8]>::len);
        let indexed: usize = self.table.indexed_columns.iter().map(bytes).sum();
        let keyed: usize = self.table.primary_key.iter().map(bytes).sum();
        if indexed.max(keyed) > INDEXED_BYTES_MAX {
            return Err(EvalError::PassThrough("an indexed value is too long"));
        }
        Ok(())
    }
}

impl Outcome<'_> {
    fn decision(self, action: &Action) -> Decision {
        let tag = match action {
            Action::Insert { .. } => CommandTag::Insert(self.affected),
            Action::Update(_) => CommandTag::Update(self.affected),
            Action::Delete { .. } => CommandTag::Delete(self.affected),
        };
        let group = (!self.changes.is_empty()).then_some(CommitGroup { rows: self.changes });
        Decision { group, tag }
    }
}

fn column_number(position: usize) -> Result<u16, EvalError> {
    u16::try_from(position).map_err(|_| REFUSED)
}

/// The signed amount in the column's type; `None` when it cannot be repeated exactly.
fn amount_in(
    increment: &Increment,
    amount: &Scalar<'_>,
    settings: &Settings,
) -> Result<Option<Vec<u8>>, EvalError> {
    let type_oid: TypeOid = increment.type_oid;
    let value = amount.value()?;
    let cast;
    let value = match value.type_oid() == type_oid {
        true => value,
        false => match ops::cast(value, type_oid, -1, CastKind::Assignment, settings) {
            Ok(converted) => {
                cast = converted;
                &cast
            }
            Err(_) => return Ok(None),
        },
    };
    let mut binary = value.to_binary();
    if increment.negative {
        match value::negate(type_oid, &binary) {
            Ok(negated) => binary = negated,
            Err(_) => return Ok(None),
        }
    }
    debug_assert!(matches!(
        type_oid,
        oid::INT2 | oid::INT4 | oid::INT8 | oid::NUMERIC
    ));
    let repeatable = value::additive(type_oid, increment.type_modifier, &binary);
    Ok(repeatable.then_some(binary))
}
