//! Operators and functions on `jsonb`. Never takes an operand whose type leaves Postgres a choice.

use super::{Compiled, Compiler, Piece, plain, refuse};
use crate::eval::expr::{Expr, JsonFunction, Node};
use ripen_pg::ids::TypeOid;
use ripen_pg::value::oid;
use ripen_pg::value::ops::TextOrder;

fn is_jsonb(piece: &Piece) -> bool {
    matches!(piece, Piece::Typed(expr) if expr.type_oid == oid::JSONB)
}

/// What an operator is that has a `jsonb` on its left, or on either side of `||`.
pub(super) fn operator(name: &str, left: &Piece, right: &Piece) -> Option<JsonFunction> {
    match name {
        "||" if is_jsonb(left) || is_jsonb(right) => Some(JsonFunction::Concat),
        _ if !is_jsonb(left) => None,
        "->" => Some(JsonFunction::Field),
        "->>" => Some(JsonFunction::Text),
        "-" => Some(JsonFunction::Without),
        "?" => Some(JsonFunction::Has),
        _ => None,
    }
}

impl Compiler<'_> {
    pub(super) fn json_operator(
        &self,
        function: JsonFunction,
        left: Piece,
        right: Piece,
    ) -> Compiled<Expr> {
        // An open operand is the other side's type beside `||`, else the name of a key.
        let open = match function {
            JsonFunction::Concat => oid::JSONB,
            _ => oid::TEXT,
        };
        let (left, right) = (self.settle(left, open)?, self.settle(right, open)?);
        let fits = match (function, right.type_oid) {
            (JsonFunction::Concat, kind) => kind == oid::JSONB && left.type_oid == oid::JSONB,
            (_, oid::TEXT | oid::VARCHAR) => true,
            (JsonFunction::Has, _) => false,
            (_, kind) => kind == oid::INT4,
        };
        if !fits {
            return refuse("operator", "uses an operator that is not computed here");
        }
        Ok(found(function, vec![left, right]))
    }

    /// `jsonb_set(target, path, new [, create])`
    pub(super) fn json_set(&self, args: Vec<Piece>) -> Compiled<Option<Expr>> {
        let types = [oid::JSONB, oid::TEXT_ARRAY, oid::JSONB, oid::BOOL];
        if !(3..=4).contains(&args.len()) {
            return Ok(None);
        }
        let settled = args.into_iter().zip(types);
        let args: Vec<Expr> = settled
            .map(|(piece, kind)| self.settle(piece, kind))
            .collect::<Compiled<_>>()?;
        let fit = args
            .iter()
            .zip(types)
            .all(|(arg, kind)| arg.type_oid == kind);
        Ok(fit.then(|| found(JsonFunction::Set, args)))
    }
}

fn found(function: JsonFunction, args: Vec<Expr>) -> Expr {
    let (kind, order): (TypeOid, _) = match function {
        JsonFunction::Text => (oid::TEXT, Some(TextOrder::Unknown)),
        JsonFunction::Has => (oid::BOOL, None),
        _ => (oid::JSONB, None),
    };
    Expr {
        order,
        node: Node::Json(function, args),
        ..plain(kind)
    }
}
