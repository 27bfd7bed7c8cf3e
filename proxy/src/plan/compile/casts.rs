//! Casts written out, and what storing into a column does to a value. Never chooses a cast that Postgres would not.

use super::{Compiled, Compiler, Piece, named_type, refuse};
use crate::eval::expr::{Expr, Node, Repr};
use crate::plan::parse::{NodeEnum, inner, integer_constant, items, pb};
use ripen_cachestore::catalog::Column;
use ripen_pg::ids::TypeOid;
use ripen_pg::value::oid;
use ripen_pg::value::ops::{CastKind, TextOrder};

/// The type modifier that these constants in parentheses mean; `None` when that is not known.
pub fn modifier(type_oid: TypeOid, modifiers: &[pb::Node]) -> Option<i32> {
    let numbers = items(modifiers)
        .map(|node| i32::try_from(integer_constant(node)?).ok())
        .collect::<Option<Vec<i32>>>()?;
    match (type_oid, &numbers[..]) {
        (_, []) => Some(-1),
        (oid::VARCHAR | oid::BPCHAR, [length @ 1..=10_485_760]) => Some(length + 4),
        (oid::NUMERIC, [precision @ 1..=1000]) => Some((precision << 16) + 4),
        (oid::NUMERIC, [precision @ 1..=1000, scale]) if (0..=*precision).contains(scale) => {
            Some(((precision << 16) | scale) + 4)
        }
        (oid::TIME | oid::TIMESTAMP | oid::TIMESTAMPTZ, [digits @ 0..=6]) => Some(*digits),
        _ => None,
    }
}

/// Types whose values a modifier can change.
fn takes_modifier(type_oid: TypeOid) -> bool {
    matches!(
        type_oid,
        oid::VARCHAR | oid::BPCHAR | oid::NUMERIC | oid::TIME | oid::TIMESTAMP | oid::TIMESTAMPTZ
    )
}

impl Compiler<'_> {
    pub(super) fn type_cast(&self, cast: &pb::TypeCast, depth: usize) -> Compiled<Expr> {
        let Some(name) = &cast.type_name else {
            return refuse("type", "a cast names no type");
        };
        let (type_oid, type_modifier) = named_type(self.names, name)?;
        if let Some(NodeEnum::AArrayExpr(_)) = inner(&cast.arg) {
            return refuse("array", "holds an array made of expressions");
        }
        let piece = self.child(&cast.arg, depth)?;
        self.explicit(piece, type_oid, type_modifier)
    }

    pub(super) fn explicit(
        &self,
        piece: Piece,
        type_oid: TypeOid,
        type_modifier: i32,
    ) -> Compiled<Expr> {
        let settled = self.settle(piece, type_oid)?;
        let info = self.type_info(type_oid)?;
        if settled.type_oid != info.type_oid {
            return self.converted(settled, type_oid, type_modifier, CastKind::Explicit);
        }
        match type_modifier {
            same if same == settled.type_modifier => Ok(settled),
            -1 => self.without_modifier(settled),
            _ => Ok(modified(settled, type_modifier, true)),
        }
    }

    /// `x::varchar` of a `varchar(3)` is described without modifier; whether it is depends on the server before 15.
    fn without_modifier(&self, expr: Expr) -> Compiled<Expr> {
        const FIRST_SURE: u32 = 150_000;
        if self.names.catalog.server_version < FIRST_SURE {
            return refuse("cast", "a cast drops a type modifier");
        }
        Ok(Expr {
            type_oid: expr.type_oid,
            type_modifier: -1,
            repr: expr.repr.clone(),
            order: expr.order,
            node: Node::Relabel(Box::new(expr)),
        })
    }

    /// An expression made to fit a column, as INSERT and UPDATE do.
    pub fn assigned(&self, piece: Piece, column: &Column) -> Compiled<Expr> {
        let expr = match piece {
            // The parameter is reported with the declared type, domain or not.
            Piece::Open(index) => self.infer(index, column.type_oid)?,
            other => self.settle(other, column.type_oid)?,
        };
        let info = self.type_info(column.type_oid)?;
        if expr.type_oid == info.type_oid {
            let fitting = expr.type_modifier == column.type_modifier;
            return Ok(match fitting {
                true => expr,
                false => modified(expr, column.type_modifier, false),
            });
        }
        self.converted(
            expr,
            column.type_oid,
            column.type_modifier,
            CastKind::Assignment,
        )
    }

    /// A value cast to another type that `ripen_pg::value` may know the cast to.
    pub fn converted(
        &self,
        expr: Expr,
        type_oid: TypeOid,
        type_modifier: i32,
        kind: CastKind,
    ) -> Compiled<Expr> {
        let info = self.type_info(type_oid)?;
        if info.repr != Repr::Typed || expr.repr == Repr::Raw {
            return refuse("cast", "a cast is not computed here");
        }
        let source = match expr.repr {
            Repr::Enum(_) => oid::UNKNOWN,
            Repr::Typed | Repr::Raw => expr.type_oid,
        };
        if !exists(source, info.type_oid, kind) {
            return refuse("cast", "there is no such cast");
        }
        let to_text = matches!(info.type_oid, oid::TEXT | oid::VARCHAR);
        let from_text = matches!(expr.type_oid, oid::TEXT | oid::VARCHAR);
        if matches!(expr.repr, Repr::Enum(_)) && !to_text {
            return refuse("cast", "a cast is not computed here");
        }
        let target = Expr {
            type_oid: info.type_oid,
            type_modifier: -1,
            repr: Repr::Typed,
            order: expr
                .order
                .or(to_text.then_some(TextOrder::Unknown))
                .filter(|_| to_text),
            node: Node::Const(None),
        };
        if to_text && (from_text || matches!(expr.repr, Repr::Enum(_))) {
            let order = if from_text { expr.order } else { None };
            let relabelled = Expr {
                order,
                node: Node::Relabel(Box::new(expr)),
                ..target
            };
            return Ok(modified(
                relabelled,
                type_modifier,
                kind == CastKind::Explicit,
            ));
        }
        Ok(Expr {
            type_modifier,
            node: Node::Cast(Box::new(expr), kind),
            ..target
        })
    }
}

/// Whether Postgres has the cast in this context (`pg_cast` of the built-in types, and input and output for strings). `unknown` stands for an enum.
fn exists(source: TypeOid, target: TypeOid, kind: CastKind) -> bool {
    use oid::{
        BOOL, BPCHAR, DATE, FLOAT4, FLOAT8, INT2, INT4, INT8, INTERVAL, JSON, JSONB, NAME, NUMERIC,
        OID, TEXT, TIME, TIMESTAMP, TIMESTAMPTZ, VARCHAR,
    };
    let explicit = kind == CastKind::Explicit;
    let is_string = |oid| matches!(oid, TEXT | VARCHAR | BPCHAR | NAME);
    let is_number = |oid| matches!(oid, INT2 | INT4 | INT8 | FLOAT4 | FLOAT8 | NUMERIC);
    match (source, target) {
        _ if source == target || is_string(target) => true,
        _ if is_string(source) => explicit,
        _ if is_number(source) && is_number(target) => true,
        (INT4, BOOL) | (BOOL, INT4) => explicit,
        (INT2 | INT4 | INT8, OID) | (OID, INT4 | INT8) => true,
        (DATE, TIMESTAMP | TIMESTAMPTZ) | (TIME, INTERVAL) | (INTERVAL, TIME) => true,
        (TIMESTAMP, DATE | TIME | TIMESTAMPTZ) | (TIMESTAMPTZ, DATE | TIME | TIMESTAMP) => true,
        (JSON, JSONB) | (JSONB, JSON) => true,
        (JSONB, BOOL) => explicit,
        (JSONB, target) => explicit && is_number(target),
        _ => false,
    }
}

/// The same type with a modifier applied, where that can change something.
fn modified(expr: Expr, type_modifier: i32, explicit: bool) -> Expr {
    if type_modifier < 0 || !takes_modifier(expr.type_oid) {
        return expr;
    }
    Expr {
        type_oid: expr.type_oid,
        type_modifier,
        repr: expr.repr.clone(),
        order: expr.order,
        node: Node::Modify(Box::new(expr), explicit),
    }
}
