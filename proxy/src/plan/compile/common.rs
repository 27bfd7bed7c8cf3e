//! Expressions whose branches must have one type: CASE, COALESCE, GREATEST, NULLIF, IN. Never unifies types beyond the plain cases.

use super::{Compiled, Compiler, Piece, boolean, refuse};
use crate::eval::expr::{Comparison, Expr, Node, merged};
use crate::plan::parse::{NodeEnum, items, pb};
use ripen_pg::ids::TypeOid;
use ripen_pg::value::oid;
use ripen_pg::value::ops::CastKind;

impl Compiler<'_> {
    /// The type that Postgres gives to all these together; text when all are open.
    pub(super) fn common_type(&self, pieces: &[Piece]) -> Compiled<TypeOid> {
        let mut common: Option<TypeOid> = None;
        for piece in pieces {
            let Piece::Typed(expr) = piece else { continue };
            common = Some(match common {
                None => expr.type_oid,
                Some(known) => wider(known, expr.type_oid)?,
            });
        }
        Ok(common.unwrap_or(oid::TEXT))
    }

    /// All of them in their common type.
    pub fn unified(&self, pieces: Vec<Piece>) -> Compiled<Vec<Expr>> {
        let common = self.common_type(&pieces)?;
        pieces
            .into_iter()
            .map(|piece| {
                let expr = self.settle(piece, common)?;
                match expr.type_oid == common {
                    true => Ok(expr),
                    false => self.converted(expr, common, -1, CastKind::Assignment),
                }
            })
            .collect()
    }

    pub(super) fn coalesce(&self, expr: &pb::CoalesceExpr, depth: usize) -> Compiled<Expr> {
        let args = self.unified(self.pieces(&expr.args, depth)?)?;
        // As Postgres simplifies it: behind a constant nothing is looked at, and one in front is the result.
        let known = |arg: &Expr| matches!(arg.node, Node::Const(Some(_)));
        let count = args.iter().position(known).map_or(args.len(), |at| at + 1);
        let node = match args.first() {
            Some(first) if known(first) => first.node.clone(),
            _ => Node::Coalesce(args[..count].to_vec()),
        };
        Ok(like(&args, node))
    }

    pub(super) fn extreme(&self, expr: &pb::MinMaxExpr, depth: usize) -> Compiled<Expr> {
        let args = self.unified(self.pieces(&expr.args, depth)?)?;
        for pair in args.windows(2) {
            self.comparable(Comparison::Lt, &pair[0], &pair[1])?;
        }
        let greatest = expr.op == pb::MinMaxOp::IsGreatest as i32;
        Ok(like(&args.clone(), Node::Extreme(args, greatest)))
    }

    pub(super) fn case(&self, case: &pb::CaseExpr, depth: usize) -> Compiled<Expr> {
        let (mut conditions, mut results) = (Vec::new(), Vec::new());
        for when in items(&case.args) {
            let NodeEnum::CaseWhen(when) = when else {
                return refuse("expression", "holds an unknown kind of CASE");
            };
            let condition = self.child(&when.expr, depth)?;
            conditions.push(match &case.arg {
                None => self.settle_bool(condition)?,
                Some(_) => {
                    // The operand is fixed once, as text when it is a literal; each comparison then repeats it.
                    let operand = self.child(&case.arg, depth)?;
                    let operand = self.settle(operand, oid::TEXT)?;
                    self.compare(Comparison::Eq, Piece::Typed(operand), condition)?
                }
            });
            results.push(self.child(&when.result, depth)?);
        }
        // Postgres looks at ELSE first when it chooses the type.
        if case.defresult.is_some() {
            results.insert(0, self.child(&case.defresult, depth)?);
        }
        let mut results = self.unified(results)?;
        let shape = results.clone();
        let default = case
            .defresult
            .is_some()
            .then(|| Box::new(results.remove(0)));
        let branches = conditions.into_iter().zip(results).collect();
        let mut expr = like(&shape, Node::Case(branches, default));
        if case.defresult.is_none() {
            // The missing ELSE is a NULL without modifier.
            expr.type_modifier = -1;
        }
        Ok(expr)
    }

    /// The result has the type that the comparison gives to the left operand.
    pub(super) fn null_if(&self, left: Piece, right: Piece) -> Compiled<Expr> {
        let comparison = self.compare(Comparison::Eq, left, right)?;
        let Node::Compare(_, left, right) = comparison.node else {
            return refuse("expression", "NULLIF compares in an unknown way");
        };
        let integer = |expr: &Expr| matches!(expr.type_oid, oid::INT2 | oid::INT4 | oid::INT8);
        let left = match (left.type_oid, right.type_oid) {
            (oid::VARCHAR, _) => {
                Box::new(self.converted(*left, oid::TEXT, -1, CastKind::Assignment)?)
            }
            (a, b) if a == b => left,
            (oid::TEXT, oid::VARCHAR) => left,
            _ if integer(&left) && integer(&right) => left,
            (_, oid::NUMERIC) if integer(&left) => {
                Box::new(self.converted(*left, oid::NUMERIC, -1, CastKind::Assignment)?)
            }
            (oid::NUMERIC, _) if integer(&right) => left,
            _ => return refuse("type", "NULLIF compares different types"),
        };
        let shape = (*left).clone();
        Ok(Expr {
            node: Node::NullIf(left, right),
            ..shape
        })
    }

    /// `x IN (…)`, or NOT IN, as the comparisons it stands for. Postgres puts the items without columns into one array if there are several, which
    /// then have one type together with `x`; the others are compared each by itself.
    pub fn in_list(&self, left: Piece, list: Vec<Piece>, negated: bool) -> Compiled<Expr> {
        let op = if negated {
            Comparison::Ne
        } else {
            Comparison::Eq
        };
        let is_fixed = |piece: &Piece| match piece {
            Piece::Typed(expr) => expr.is_fixed(),
            Piece::Literal(_) | Piece::Open(_) => true,
        };
        let fixed: Vec<Piece> = list.iter().filter(|item| is_fixed(item)).cloned().collect();
        let together = match fixed.len() > 1 {
            true => Some(self.common_type(&[std::slice::from_ref(&left), &fixed[..]].concat())?),
            false => None,
        };
        let mut tests = Vec::with_capacity(list.len());
        for item in list {
            let (left, item) = match together {
                Some(common) if is_fixed(&item) => (
                    Piece::Typed(self.settle(left.clone(), common)?),
                    Piece::Typed(self.settle(item, common)?),
                ),
                _ => (left.clone(), item),
            };
            tests.push(self.compare(op, left, item)?);
        }
        Ok(boolean(match negated {
            true => Node::And(tests),
            false => Node::Or(tests),
        }))
    }

    /// Compiles each of a list.
    pub fn pieces(&self, nodes: &[pb::Node], depth: usize) -> Compiled<Vec<Piece>> {
        items(nodes).map(|node| self.piece(node, depth)).collect()
    }
}

/// The common type of two known types.
fn wider(left: TypeOid, right: TypeOid) -> Compiled<TypeOid> {
    let rank = |oid| match oid {
        oid::INT2 => Some(1),
        oid::INT4 => Some(2),
        oid::INT8 => Some(3),
        oid::NUMERIC => Some(4),
        _ => None,
    };
    let is_text = |oid| matches!(oid, oid::TEXT | oid::VARCHAR);
    match (rank(left), rank(right)) {
        _ if left == right => Ok(left),
        (Some(a), Some(b)) => Ok(if a >= b { left } else { right }),
        // Each casts to the other implicitly, so the first stays.
        _ if is_text(left) && is_text(right) => Ok(left),
        _ => refuse("type", "branches have different types"),
    }
}

/// An expression of the type of these: their modifier and collation where they agree.
fn like(args: &[Expr], node: Node) -> Expr {
    let first = &args[0];
    let same = args
        .iter()
        .all(|arg| arg.type_modifier == first.type_modifier);
    Expr {
        type_oid: first.type_oid,
        type_modifier: if same { first.type_modifier } else { -1 },
        repr: first.repr.clone(),
        order: args.iter().map(|arg| arg.order).fold(None, merged),
        node,
    }
}
