//! Aggregates in a target list: they are computed first, and make up the row whose columns the rest of the expression names. Never compiles one whose result could depend on the order of the rows.

use super::operators::{Class, class};
use super::{Compiled, Compiler, Piece, plain, refuse};
use crate::eval::aggregates::{Aggregate, Kind};
use crate::eval::expr::{Comparison, Expr, Node};
use crate::plan::parse::pb;
use ripen_pg::ids::TypeOid;
use ripen_pg::value::oid;

/// What has been seen of a target list.
#[derive(Debug, Default)]
pub(super) struct Summing {
    aggregates: Vec<Aggregate>,
    /// An argument of an aggregate is being compiled.
    inside: bool,
    /// A column was named outside of aggregates.
    bare: bool,
}

impl Compiler<'_> {
    /// Compiles what `compile` does with aggregates allowed in it. Answers those that were there, too: if there are any, columns of its expressions mean them, in this order.
    pub fn summing<T>(
        &self,
        compile: impl FnOnce() -> Compiled<T>,
    ) -> Compiled<(T, Vec<Aggregate>)> {
        self.summing.replace(Some(Summing::default()));
        let compiled = compile();
        let summing = self.summing.take().unwrap_or_default();
        match summing.bare && !summing.aggregates.is_empty() {
            true => refuse("grouping", "names a column beside an aggregate"),
            false => Ok((compiled?, summing.aggregates)),
        }
    }

    /// A column is named.
    pub(super) fn names_column(&self) {
        if let Some(summing) = self.summing.borrow_mut().as_mut() {
            summing.bare |= !summing.inside;
        }
    }

    /// Whether a call of an aggregate may stand here. (One within another may not.)
    pub(super) fn sums_here(&self) -> bool {
        let summing = self.summing.borrow();
        summing.as_ref().is_some_and(|summing| !summing.inside)
    }

    /// An aggregate over all rows: one of Postgres's own, with nothing special. `None`: it is not computed here.
    pub(super) fn aggregate(
        &self,
        kind: Kind,
        call: &pb::FuncCall,
        depth: usize,
    ) -> Compiled<Option<Expr>> {
        let inside = |inside| {
            if let Some(summing) = self.summing.borrow_mut().as_mut() {
                summing.inside = inside;
            }
        };
        inside(true);
        let args = self.pieces(&call.args, depth);
        inside(false);
        let args = args?;
        let (of, result) = match (kind, &args[..]) {
            (Kind::Count, []) if call.agg_star => (None, plain(oid::INT8)),
            (Kind::Count, [Piece::Typed(of)]) => (Some(of.clone()), plain(oid::INT8)),
            (kind, [Piece::Typed(of)]) => match self.aggregated(kind, of)? {
                Some(result) => (Some(of.clone()), result),
                None => return Ok(None),
            },
            _ => return Ok(None),
        };
        let mut summing = self.summing.borrow_mut();
        let Some(summing) = summing.as_mut() else {
            return Ok(None);
        };
        let node = Node::Column(summing.aggregates.len());
        summing.aggregates.push(Aggregate {
            kind,
            of,
            type_oid: result.type_oid,
        });
        Ok(Some(Expr { node, ..result }))
    }

    /// What comes out of a sum or an extreme.
    fn aggregated(&self, kind: Kind, of: &Expr) -> Compiled<Option<Expr>> {
        let result = match kind {
            Kind::Count => Some(oid::INT8),
            Kind::Sum => match of.type_oid {
                oid::INT2 | oid::INT4 => Some(oid::INT8),
                oid::INT8 | oid::NUMERIC => Some(oid::NUMERIC),
                _ => None,
            },
            Kind::Average => match of.type_oid {
                oid::INT2 | oid::INT4 | oid::INT8 | oid::NUMERIC => Some(oid::NUMERIC),
                _ => None,
            },
            Kind::Least | Kind::Greatest => {
                self.comparable(Comparison::Lt, of, of)?;
                return Ok(extreme_type(of).map(|type_oid| Expr {
                    repr: of.repr.clone(),
                    order: of.order,
                    ..plain(type_oid)
                }));
            }
        };
        Ok(result.map(plain))
    }
}

/// The type of `min` and `max`, where Postgres has them in all versions.
fn extreme_type(of: &Expr) -> Option<TypeOid> {
    match (class(of), of.type_oid) {
        (Class::Number | Class::Bpchar, same) => Some(same),
        (Class::Text, _) => Some(oid::TEXT),
        (Class::Plain, oid::BOOL | oid::BYTEA | oid::UUID | oid::NAME) => None,
        (Class::Plain, same) => Some(same),
        (Class::No, _) => None,
    }
}
