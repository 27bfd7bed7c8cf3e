//! Runs a [`ReadPlan`]: which keys, then rows to DataRows. Never decides where the rows come from.

use super::aggregates;
use super::bind::{Bound, bind};
use super::expr::{Env, REFUSED, Scalar, order};
use super::keys::Keys;
use super::render::{computed_row, plain_row};
use super::row::Row;
use super::{EvalError, Formats, Params};
use crate::plan::ReadPlan;
use crate::plan::read::{ReadQuery, Shape, SortKey};
use bytes::BytesMut;
use ripen_pg::tuple::{Datum, Tuple};
use ripen_pg::value::{Settings, Value};
use std::cmp::Ordering;

impl ReadPlan {
    /// The rows to fetch, in the order in which [`ReadPlan::render`] wants them, or the values of the sets whose rows are wanted in any order. Empty when a key is NULL or outside its column's range.
    pub fn keys(&self, params: &Params<'_>, settings: &Settings) -> Result<Keys, EvalError> {
        let query = &self.query;
        let bound = query.bind(params, settings)?;
        let env = env(&bound, None, settings);
        for expr in &query.prelude {
            expr.eval(&env)?;
        }
        query.keys.resolve(&env)
    }

    /// Appends a DataRow for each row that is to be sent, and returns how many. `rows` are those of [`ReadPlan::keys`], in that order; `None` is an absent one.
    /// On an error `out` is as it was.
    pub fn render(
        &self,
        rows: &[Option<&Tuple>],
        params: &Params<'_>,
        formats: Formats<'_>,
        settings: &Settings,
        out: &mut BytesMut,
    ) -> Result<u64, EvalError> {
        let rows = rows.iter().flatten().copied().map(Row::from);
        self.render_all(rows, params, formats, settings, out)
    }

    /// The same for joined rows: `beside` has for each of `rows` as many as the plan joins to it.
    pub fn render_joined(
        &self,
        (rows, beside): (&[&Tuple], &[Option<&Tuple>]),
        params: &Params<'_>,
        formats: Formats<'_>,
        settings: &Settings,
        out: &mut BytesMut,
    ) -> Result<u64, EvalError> {
        let beside = beside.chunks(self.joined.len().max(1));
        let rows = rows.iter().zip(beside);
        let rows = rows.map(|(row, beside)| Row::joined(row, beside));
        self.render_all(rows, params, formats, settings, out)
    }

    fn render_all<'a>(
        &self,
        rows: impl Iterator<Item = Row<'a>>,
        params: &Params<'_>,
        formats: Formats<'_>,
        settings: &Settings,
        out: &mut BytesMut,
    ) -> Result<u64, EvalError> {
        let start = out.len();
        let rendered = match self.query.shape {
            Shape::Plain => self.render_plain(rows, formats, settings, out),
            _ => self.render_computed(rows, params, formats, settings, out),
        };
        if rendered.is_err() {
            out.truncate(start);
        }
        rendered
    }

    /// Which of the rows satisfy everything that is asked of them beside their keys.
    pub fn picks(
        &self,
        rows: &[Option<&Tuple>],
        params: &Params<'_>,
        settings: &Settings,
    ) -> Result<Vec<bool>, EvalError> {
        let bound = self.query.bind(params, settings)?;
        let picked = |row: &Option<&Tuple>| match row {
            Some(row) => {
                let row = Some(Row::from(*row));
                holds(&self.query.filter, &env(&bound, row, settings))
            }
            None => Ok(false),
        };
        rows.iter().map(picked).collect()
    }

    fn render_plain<'a>(
        &self,
        rows: impl Iterator<Item = Row<'a>>,
        formats: Formats<'_>,
        settings: &Settings,
        out: &mut BytesMut,
    ) -> Result<u64, EvalError> {
        let mut sent = 0;
        for row in rows {
            plain_row(&self.query.outputs, row, formats, settings, out)?;
            sent += 1;
        }
        Ok(sent)
    }

    fn render_computed<'a>(
        &self,
        rows: impl Iterator<Item = Row<'a>>,
        params: &Params<'_>,
        formats: Formats<'_>,
        settings: &Settings,
        out: &mut BytesMut,
    ) -> Result<u64, EvalError> {
        let query = &self.query;
        let bound = query.bind(params, settings)?;
        let mut kept: Vec<Row<'_>> = Vec::with_capacity(rows.size_hint().1.unwrap_or(0));
        for row in rows {
            if holds(&query.filter, &env(&bound, Some(row), settings))? {
                kept.push(row);
            }
        }
        let one = |row: Row<'_>, out: &mut BytesMut| {
            computed_row(
                &query.outputs,
                &env(&bound, Some(row), settings),
                formats,
                out,
            )?;
            Ok(1)
        };
        if let Shape::Together(aggregates) = &query.shape {
            let env = env(&bound, None, settings);
            let results = aggregates::of_rows(aggregates, &kept, env)?;
            return one(Row::from(&results), out);
        }
        if !query.order_by.is_empty() {
            sort(&query.order_by, &mut kept, &bound, settings)?;
        }
        let fixed = env(&bound, None, settings);
        let skipped = count(&query.offset, &fixed)?.unwrap_or(0);
        let most = count(&query.limit, &fixed)?.unwrap_or(usize::MAX);
        let mut told = kept.into_iter().skip(skipped).take(most);
        if let Shape::Whether = query.shape {
            let exists = [u8::from(told.next().is_some())];
            let exists: Tuple = [Datum::Value(&exists)].into_iter().collect();
            return one(Row::from(&exists), out);
        }
        let mut sent = 0;
        for row in told {
            let env = env(&bound, Some(row), settings);
            computed_row(&query.outputs, &env, formats, out)?;
            sent += 1;
        }
        Ok(sent)
    }
}

impl ReadQuery {
    fn bind<'a>(&self, params: &Params<'a>, settings: &Settings) -> Result<Bound<'a>, EvalError> {
        if self.keys.params.len() != params.values.len() {
            return Err(EvalError::PassThrough("the number of parameters differs"));
        }
        bind(&self.keys.params, params, settings)
    }
}

fn env<'a>(
    params: &'a [Option<Scalar<'a>>],
    row: Option<Row<'a>>,
    settings: &'a Settings,
) -> Env<'a> {
    Env {
        params,
        row,
        excluded: None,
        settings,
        now: None,
    }
}

/// Whether all conjuncts are true. All are evaluated: Postgres may look at them in another order, so an error in any is its business.
pub(super) fn holds(filter: &[super::expr::Expr], env: &Env<'_>) -> Result<bool, EvalError> {
    let mut all = true;
    for condition in filter {
        all &= condition.eval_truth(env)? == Some(true);
    }
    Ok(all)
}

/// LIMIT or OFFSET; NULL is none. A negative one is an error that Postgres raises.
fn count(expr: &Option<super::expr::Expr>, env: &Env<'_>) -> Result<Option<usize>, EvalError> {
    let Some(expr) = expr else { return Ok(None) };
    match expr.eval(env)? {
        None => Ok(None),
        Some(Scalar::Value(Value::Int8(count))) => {
            usize::try_from(count).map(Some).map_err(|_| REFUSED)
        }
        Some(_) => Err(REFUSED),
    }
}

type Sorted<'a> = (Vec<Option<Scalar<'a>>>, Row<'a>);

fn sort<'a>(
    keys: &'a [SortKey],
    rows: &mut Vec<Row<'a>>,
    bound: &'a [Option<Scalar<'a>>],
    settings: &'a Settings,
) -> Result<(), EvalError> {
    let mut sorted: Vec<Sorted<'a>> = Vec::with_capacity(rows.len());
    for row in rows.drain(..) {
        let env = env(bound, Some(row), settings);
        let values = keys
            .iter()
            .map(|key| key.expr.eval(&env))
            .collect::<Result<_, _>>()?;
        sorted.push((values, row));
    }
    let mut failed = Ok(());
    sorted.sort_by(|left, right| {
        compare(keys, &left.0, &right.0).unwrap_or_else(|error| {
            failed = Err(error);
            Ordering::Equal
        })
    });
    rows.extend(sorted.into_iter().map(|(_, row)| row));
    failed
}

fn compare(
    keys: &[SortKey],
    left: &[Option<Scalar<'_>>],
    right: &[Option<Scalar<'_>>],
) -> Result<Ordering, EvalError> {
    for (index, key) in keys.iter().enumerate() {
        let ordering = match (&left[index], &right[index]) {
            (None, None) => Ordering::Equal,
            (None, Some(_)) if key.nulls_first => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(_), None) if key.nulls_first => Ordering::Greater,
            (Some(_), None) => Ordering::Less,
            (Some(left), Some(right)) => {
                let ordering = order(&key.expr, left, right, key.expr.order)?;
                if key.descending {
                    ordering.reverse()
                } else {
                    ordering
                }
            }
        };
        if ordering != Ordering::Equal {
            return Ok(ordering);
        }
    }
    Ok(Ordering::Equal)
}
