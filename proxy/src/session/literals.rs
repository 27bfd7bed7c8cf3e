//! A simple query whose literals are taken for parameters, so that texts which differ in their values only share one plan. Never keeps a plan that could
//! mean something else than the text: the whole text is planned then.

use super::Session;
use super::answerer::{Answerer, Planned};
use crate::eval::{Formats, Params};
use crate::plan::{PassPlan, Plan, SequenceUse, StatementKind};
use crate::template::Template;
use smallvec::SmallVec;
use std::borrow::Cow;
use std::cell::RefCell;
use std::sync::Arc;

thread_local! {
    static TEMPLATE: RefCell<Template> = RefCell::default();
}

/// The values of the literals, in order.
#[derive(Debug, Default)]
pub(super) struct Literals<'a>(SmallVec<[Cow<'a, [u8]>; 4]>);

impl<'a> Literals<'a> {
    fn of(template: &Template, sql: &'a [u8]) -> Literals<'a> {
        let spans = template.spans.iter().zip(&template.doubled);
        Literals(
            spans
                .map(|(span, doubled)| match &sql[span.clone()] {
                    text if *doubled => Cow::Owned(halved(text)),
                    text => Cow::Borrowed(text),
                })
                .collect(),
        )
    }

    /// As a Bind message would give them.
    pub(super) fn values(&self) -> SmallVec<[Option<&[u8]>; 4]> {
        self.0.iter().map(|value| Some(&**value)).collect()
    }
}

/// Parameters in text format.
pub(super) fn params<'a>(values: &'a [Option<&'a [u8]>]) -> Params<'a> {
    Params {
        formats: Formats::default(),
        values,
    }
}

/// `it''s` is `it's`.
fn halved(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.iter();
    while let Some(byte) = bytes.next() {
        out.push(*byte);
        if *byte == b'\'' {
            bytes.next();
        }
    }
    out
}

/// Whether a plan made without the literals says as much about the statement as one made with them.
fn as_good(plan: &Plan) -> bool {
    match plan {
        Plan::Read(_) | Plan::Write(_) => true,
        Plan::Local(_) => false,
        Plan::PassThrough(pass) => is_plain(pass),
    }
}

fn is_plain(pass: &PassPlan) -> bool {
    let kinds = [
        StatementKind::Select,
        StatementKind::Insert,
        StatementKind::Update,
        StatementKind::Delete,
    ];
    // A sequence is named by a literal.
    let speaks_of_sequences =
        pass.effects.session_locks || pass.effects.sequences == SequenceUse::Asks;
    kinds.contains(&pass.kind) && pass.widened.is_none() && !speaks_of_sequences
}

impl<A: Answerer> Session<A> {
    /// What to do with a simple query, and the values that its plan takes.
    pub(super) fn plan_query<'a>(&self, sql: &'a [u8]) -> (Arc<Planned>, Literals<'a>) {
        let facts = self.known.facts();
        let readable = facts.plain_settings && facts.standard_conforming_strings;
        if let Ok(text) = std::str::from_utf8(sql)
            && readable
        {
            let planned = TEMPLATE.with_borrow_mut(|template| {
                template.read(text).then(|| {
                    let planned = self.plan_text(template.text.as_bytes(), &template.types);
                    (planned, Literals::of(template, sql))
                })
            });
            if let Some((planned, literals)) = planned
                && as_good(&planned.plan)
            {
                return (planned, literals);
            }
        }
        (self.plan_text(sql, &[]), Literals::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubled_quotes_are_halved() {
        assert_eq!(halved(b"it''s ''''"), b"it's ''");
    }
}
