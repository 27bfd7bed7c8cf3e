//! Calls of built-in functions that are computed here. Never calls one whose name could mean a function of users.

use super::operators::{Class, class};
use super::{Compiled, Compiler, Draw, Piece, plain};
use crate::eval::aggregates::Kind;
use crate::eval::expr::{Expr, Function, Node};
use crate::plan::parse::{pb, strings};
use ripen_pg::ids::TypeOid;
use ripen_pg::value::oid;
use ripen_pg::value::ops::{Arithmetic, TrimSide};

impl Compiler<'_> {
    pub(super) fn call(&self, call: &pb::FuncCall, depth: usize) -> Compiled<Expr> {
        let unknown =
            || super::Reason::new("function", "calls a function that is not computed here");
        let plain_call = call.agg_order.is_empty()
            && call.agg_filter.is_none()
            && call.over.is_none()
            && !call.agg_within_group
            && !call.agg_distinct
            && !call.func_variadic;
        let parts = strings(&call.funcname);
        let candidates = self.names.functions(&parts);
        let builtin = !candidates.is_empty() && candidates.iter().all(|known| known.builtin);
        if !plain_call || !builtin {
            return Err(unknown());
        }
        let name = parts.last().copied().unwrap_or_default();
        if let Some(kind) = Kind::of_name(name).filter(|_| self.sums_here()) {
            return self.aggregate(kind, call, depth)?.ok_or_else(unknown);
        }
        if call.agg_star {
            return Err(unknown());
        }
        let args = self.pieces(&call.args, depth)?;
        self.builtin(name, args)?.ok_or_else(unknown)
    }

    fn builtin(&self, name: &str, args: Vec<Piece>) -> Compiled<Option<Expr>> {
        Ok(match name {
            "now" | "transaction_timestamp" if args.is_empty() => {
                Some(moment(Node::TransactionNow))
            }
            "statement_timestamp" if args.is_empty() => Some(moment(Node::StatementNow)),
            "gen_random_uuid" if args.is_empty() => Some(self.draw(Draw::Uuid)?),
            "lower" => self.on_text(Function::Lower, oid::TEXT, args, 1)?,
            "upper" => self.on_text(Function::Upper, oid::TEXT, args, 1)?,
            "length" | "char_length" | "character_length" => self.length(name, args)?,
            "octet_length" => self.on_text(Function::OctetLength, oid::INT4, args, 1)?,
            "substring" | "substr" if args.len() > 1 => {
                self.on_text(Function::Substring, oid::TEXT, args, 3)?
            }
            "btrim" => self.on_text(Function::Trim(TrimSide::Both), oid::TEXT, args, 2)?,
            "ltrim" => self.on_text(Function::Trim(TrimSide::Leading), oid::TEXT, args, 2)?,
            "rtrim" => self.on_text(Function::Trim(TrimSide::Trailing), oid::TEXT, args, 2)?,
            "abs" => on_number(Function::Abs, args, true),
            "ceil" | "ceiling" => on_number(Function::Ceil, args, false),
            "floor" => on_number(Function::Floor, args, false),
            "sign" => on_number(Function::Sign, args, false),
            "round" => on_number(Function::Round, args, false),
            "trunc" => on_number(Function::Trunc, args, false),
            "mod" => modulo(args),
            "jsonb_set" => self.json_set(args)?,
            _ => None,
        })
    }

    /// A function whose first argument is text; the others are integers for `substring`, text for trimming.
    fn on_text(
        &self,
        function: Function,
        result: TypeOid,
        args: Vec<Piece>,
        args_max: usize,
    ) -> Compiled<Option<Expr>> {
        if args.is_empty() || args.len() > args_max {
            return Ok(None);
        }
        let mut compiled = Vec::new();
        for (index, arg) in args.into_iter().enumerate() {
            let wanted = match function {
                Function::Substring if index > 0 => oid::INT4,
                _ => oid::TEXT,
            };
            // An open second argument leaves several overloads to choose from.
            if index > 0 && function == Function::Substring && !matches!(arg, Piece::Typed(_)) {
                return Ok(None);
            }
            let arg = self.settle(arg, wanted)?;
            let fits = match wanted {
                oid::TEXT => class(&arg) == Class::Text,
                wanted => arg.type_oid == wanted,
            };
            if !fits {
                return Ok(None);
            }
            compiled.push(arg);
        }
        let order = compiled[0].order;
        Ok(Some(Expr {
            order: if result == oid::TEXT { order } else { None },
            node: Node::Call(function, compiled),
            ..plain(result)
        }))
    }

    fn length(&self, name: &str, args: Vec<Piece>) -> Compiled<Option<Expr>> {
        let [Piece::Typed(arg)] = &args[..] else {
            return self.on_text(Function::Length, oid::INT4, args, 1);
        };
        match (class(arg), arg.type_oid) {
            (Class::Text | Class::Bpchar, _) => {}
            (_, oid::BYTEA) if name == "length" => {}
            _ => return Ok(None),
        }
        Ok(Some(Expr {
            node: Node::Call(Function::Length, vec![arg.clone()]),
            ..plain(oid::INT4)
        }))
    }
}

fn moment(node: Node) -> Expr {
    Expr {
        node,
        ..plain(oid::TIMESTAMPTZ)
    }
}

/// A numeric function whose result has its argument's type. Integers would be cast first, except for `abs`.
fn on_number(function: Function, args: Vec<Piece>, integers: bool) -> Option<Expr> {
    let mut typed = Vec::new();
    for arg in args {
        let Piece::Typed(arg) = arg else { return None };
        typed.push(arg);
    }
    let fits = match &typed[..] {
        [number] => match number.type_oid {
            oid::NUMERIC | oid::FLOAT8 => true,
            oid::INT2 | oid::INT4 | oid::INT8 | oid::FLOAT4 => integers,
            _ => false,
        },
        [number, scale] => {
            matches!(function, Function::Round | Function::Trunc)
                && number.type_oid == oid::NUMERIC
                && scale.type_oid == oid::INT4
        }
        _ => false,
    };
    let result = typed.first()?.type_oid;
    fits.then(|| Expr {
        node: Node::Call(function, typed),
        ..plain(result)
    })
}

fn modulo(args: Vec<Piece>) -> Option<Expr> {
    let [Piece::Typed(left), Piece::Typed(right)] = &args[..] else {
        return None;
    };
    let known = [oid::INT2, oid::INT4, oid::INT8, oid::NUMERIC].contains(&left.type_oid);
    (known && left.type_oid == right.type_oid).then(|| Expr {
        node: Node::Arithmetic(
            Arithmetic::Mod,
            Box::new(left.clone()),
            Box::new(right.clone()),
        ),
        ..plain(left.type_oid)
    })
}
