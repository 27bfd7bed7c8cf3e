//! Runs a [`WritePlan`]: from the rows as they are to the outcome. Never raises a constraint's error itself: such a statement passes through.

use super::bind::{Bound, bind};
use super::expr::{Env, Expr, RAISES, REFUSED, Scalar};
use super::keys::{Keys, key_of};
use super::read::holds;
use super::render::computed_row;
use super::row::Row;
use super::{CommandTag, Decision, Drawn, EvalError, Formats, Now, Params};
use crate::limits::{DRAWS_MAX, WRITTEN_ROW_BYTES_MAX};
use crate::plan::write::{Action, Assignment, Change, Conflict, Increment};
use crate::plan::{Draw, WritePlan};
use bytes::{Bytes, BytesMut};
use ripen_cachestore::catalog::Relation;
use ripen_cachestore::change::{self, CommitGroup, RowChange, RowId};
use ripen_pg::ids::TypeOid;
use ripen_pg::key::Key;
use ripen_pg::tuple::{Datum, Tuple};
use ripen_pg::value::ops::{self, CastKind};
use ripen_pg::value::{self, Settings, oid};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Most bytes that the indexed columns of a row may have together: Postgres refuses index rows above some 2700.
const INDEXED_BYTES_MAX: usize = 2_000;

/// The outcome so far.
struct Outcome<'a> {
    changes: Vec<RowChange>,
    affected: u64,
    formats: Formats<'a>,
    out: &'a mut BytesMut,
}

/// A row of VALUES.
struct Proposed<'a> {
    row: &'a BTreeMap<usize, Expr>,
    /// Its key, where the row itself does not say it.
    key: Option<&'a Key>,
}

/// What the rows of an execution are computed from: all of them from one list of parameters, or each from its own.
enum Lines<'a> {
    One(Bound<'a>),
    Each(Vec<Bound<'a>>),
}

impl<'a> Lines<'a> {
    fn all(&self) -> &[Bound<'a>] {
        match self {
            Lines::One(bound) => std::slice::from_ref(bound),
            Lines::Each(all) => all,
        }
    }

    /// Where there is but one.
    fn one(&self) -> Result<&Bound<'a>, EvalError> {
        self.all().first().ok_or(REFUSED)
    }
}

/// What holds for a row of an execution.
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
            row: row.map(Row::from),
            excluded,
            settings: self.settings,
            now: Some(self.now),
        }
    }
}

impl WritePlan {
    /// The rows that the decision needs, in the order in which [`WritePlan::decide`] wants them. Empty when a key names no row.
    /// `params`: the client's, and behind them what was drawn ([`Drawn::behind`]), here as in `decide`.
    pub fn keys(&self, params: &Params<'_>, settings: &Settings) -> Result<Keys, EvalError> {
        let lines = self.bind(params, settings)?;
        let mut all = Keys::new();
        for bound in lines.all() {
            let env = before_rows(bound, settings);
            for expr in &self.query.prelude {
                expr.eval(&env)?;
            }
            let keys = self.query.keys.resolve(&env)?;
            match &self.query.action {
                Action::Insert { rows, .. } if keys.len() != rows.len() => return Err(RAISES),
                _ => all.extend(keys),
            }
        }
        self.query.keys.agree(&all)?;
        Ok(all)
    }

    /// Rows that must be in Postgres before these can be: what foreign keys refer to, each once.
    pub fn parents(
        &self,
        params: &Params<'_>,
        settings: &Settings,
    ) -> Result<BTreeSet<RowId>, EvalError> {
        if self.query.parents.is_empty() {
            return Ok(BTreeSet::new());
        }
        let lines = self.bind(params, settings)?;
        let mut rows = BTreeSet::new();
        for bound in lines.all() {
            let env = before_rows(bound, settings);
            for parents in &self.query.parents {
                let table = parents.table.oid;
                let keys = parents.keys.resolve(&env)?.into_iter();
                rows.extend(keys.map(|key| RowId { table, key }));
            }
        }
        Ok(rows)
    }

    /// The tables of these rows.
    pub fn parent_tables(&self) -> impl Iterator<Item = &Arc<Relation>> {
        self.query.parents.iter().map(|parents| &parents.table)
    }

    /// Whether Postgres would accept the parameters: as far as [`WritePlan::keys`] tells, for any values that may be drawn.
    pub fn fits(&self, params: &Params<'_>, settings: &Settings) -> bool {
        match self.to_draw(params, settings) {
            Ok(draws) if draws.is_empty() => self.keys(params, settings).is_ok(),
            Ok(draws) => {
                let likely = Drawn::likely(&draws);
                let all = likely.behind(params);
                self.keys(&all.params(), settings).is_ok()
            }
            Err(_) => false,
        }
    }

    /// What must be drawn for an execution with the client's parameters. Of arrays: for each row that they make.
    pub fn to_draw(
        &self,
        params: &Params<'_>,
        settings: &Settings,
    ) -> Result<Cow<'_, [Draw]>, EvalError> {
        let Some(each) = &self.query.each else {
            return Ok(Cow::Borrowed(&self.draws));
        };
        let count = each.count(&self.query.keys.params, params, settings)?;
        match count * self.draws.len() > DRAWS_MAX {
            true => Err(EvalError::PassThrough("draws too many values")),
            false => {
                let all = std::iter::repeat_n(&self.draws, count).flatten();
                Ok(Cow::Owned(all.cloned().collect()))
            }
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
        let lines = self.bind(params, settings)?;
        let run = |params| Run {
            params,
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
                let lines = lines.all();
                if rows.len() * lines.len() != currents.len() {
                    return Err(REFUSED);
                }
                let currents = currents.chunks(rows.len());
                for (bound, currents) in lines.iter().zip(currents) {
                    let keys = self.drawn_keys(bound, settings)?;
                    for (index, (row, current)) in rows.iter().zip(currents).enumerate() {
                        let proposed = Proposed {
                            row,
                            key: keys.get(index),
                        };
                        let current = current.as_ref();
                        self.insert(proposed, conflict, current, &run(bound), &mut outcome)?;
                    }
                }
            }
            Action::Update(change) => {
                let run = run(lines.one()?);
                for current in currents.iter().flatten() {
                    self.update(change, current, None, &run, &mut outcome)?;
                }
            }
            Action::Delete { filter } => {
                let run = run(lines.one()?);
                for current in currents.iter().flatten() {
                    self.delete(filter, current, &run, &mut outcome)?;
                }
            }
        }
        Ok(outcome.decision(&self.query.action))
    }

    fn bind<'a>(&self, params: &Params<'a>, settings: &Settings) -> Result<Lines<'a>, EvalError> {
        let types = &self.query.keys.params;
        if let Some(each) = &self.query.each {
            return each.rows(types, params, settings).map(Lines::Each);
        }
        if self.params.len() + self.draws.len() != params.values.len() {
            return Err(EvalError::PassThrough("the number of parameters differs"));
        }
        bind(types, params, settings).map(Lines::One)
    }

    /// Where the table has no primary key, rows have the keys under which they were looked up: nothing in them says which they are.
    fn drawn_keys(
        &self,
        params: &[Option<Scalar<'_>>],
        settings: &Settings,
    ) -> Result<Keys, EvalError> {
        match self.table.appends() {
            true => self.query.keys.resolve(&before_rows(params, settings)),
            false => Ok(Keys::new()),
        }
    }

    fn insert(
        &self,
        proposed: Proposed<'_>,
        conflict: &Conflict,
        current: Option<&Tuple>,
        run: &Run<'_>,
        outcome: &mut Outcome<'_>,
    ) -> Result<(), EvalError> {
        let env = run.env(None, None);
        let mut values: BTreeMap<usize, Option<Vec<u8>>> = BTreeMap::new();
        for (position, expr) in proposed.row {
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
            let key = match proposed.key {
                Some(key) => key.clone(),
                None => self.key_of(&image)?,
            };
            return self.put(key, change, &image, run, outcome);
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
        self.put(self.key_of(&image)?, change, &image, run, outcome)
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
        let key = self.key_of(current)?;
        self.put(key, change::Change::Delete, current, run, outcome)
    }

    fn key_of(&self, image: &Tuple) -> Result<Key, EvalError> {
        key_of(&self.query.key_columns, image)
    }

    /// Notes a change, and puts out its RETURNING row.
    fn put(
        &self,
        key: Key,
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
                key,
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

/// What is known before any row is: parameters alone.
fn before_rows<'a>(params: &'a [Option<Scalar<'a>>], settings: &'a Settings) -> Env<'a> {
    Env {
        params,
        row: None,
        excluded: None,
        settings,
        now: None,
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
