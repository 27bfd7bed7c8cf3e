//! Operators, with the operand types that Postgres's operator resolution finds in the plain cases. Never uses an operator name that a user has defined anew.

use super::{Compiled, Compiler, Piece, boolean, json, named_type, plain, refuse};
use crate::eval::expr::{Comparison, Expr, Function, Node, Repr, merged};
use crate::plan::parse::{NodeEnum, inner, items, operator, pb};
use ripen_pg::ids::TypeOid;
use ripen_pg::value::oid;
use ripen_pg::value::ops::{Arithmetic, TextOrder};

impl Compiler<'_> {
    pub(super) fn operator_expression(&self, expr: &pb::AExpr, depth: usize) -> Compiled<Expr> {
        use pb::AExprKind as Kind;
        let Some(name) = operator(expr) else {
            return refuse("operator", "names an operator with its schema");
        };
        self.trusted(name)?;
        match pb::AExprKind::try_from(expr.kind) {
            Ok(Kind::AexprOp) => self.plain_operator(name, expr, depth),
            Ok(Kind::AexprDistinct) => self.distinct(expr, false, depth),
            Ok(Kind::AexprNotDistinct) => self.distinct(expr, true, depth),
            Ok(Kind::AexprNullif) => self.null_if(
                self.child(&expr.lexpr, depth)?,
                self.child(&expr.rexpr, depth)?,
            ),
            Ok(Kind::AexprIn) => {
                let list = self.list(&expr.rexpr, depth)?;
                self.in_list(self.child(&expr.lexpr, depth)?, list, name != "=")
            }
            Ok(Kind::AexprOpAny) if name == "=" => self.array_test(expr, false, depth),
            Ok(Kind::AexprOpAll) if name == "<>" => self.array_test(expr, true, depth),
            Ok(Kind::AexprBetween) => self.between(expr, false, depth),
            Ok(Kind::AexprNotBetween) => self.between(expr, true, depth),
            _ => refuse("operator", "uses an operator that is not computed here"),
        }
    }

    /// Refuses names that operators outside pg_catalog have too.
    pub fn trusted(&self, name: &str) -> Compiled<()> {
        // Some constructs use other operators than they name.
        let mut used = match name {
            "BETWEEN" | "NOT BETWEEN" => ["<=", ">="].to_vec(),
            _ => vec![name, "="],
        };
        if name == "NOT BETWEEN" {
            used.extend(["<", ">"]);
        }
        let foreign = &self.names.catalog.foreign_operators;
        match used.iter().any(|name| foreign.contains(*name)) {
            true => refuse("operator", "users have defined an operator of this name"),
            false => Ok(()),
        }
    }

    fn plain_operator(&self, name: &str, expr: &pb::AExpr, depth: usize) -> Compiled<Expr> {
        if expr.lexpr.is_none() {
            return match name {
                "-" => self.negated(self.child(&expr.rexpr, depth)?),
                _ => refuse("operator", "uses an operator that is not computed here"),
            };
        }
        if let Some(NodeEnum::RowExpr(_) | NodeEnum::SubLink(_)) = inner(&expr.lexpr) {
            return refuse("row", "compares rows");
        }
        let left = self.child(&expr.lexpr, depth)?;
        let right = self.child(&expr.rexpr, depth)?;
        if let Some(function) = json::operator(name, &left, &right) {
            return self.json_operator(function, left, right);
        }
        match name {
            "=" => self.compare(Comparison::Eq, left, right),
            "<>" => self.compare(Comparison::Ne, left, right),
            "<" => self.compare(Comparison::Lt, left, right),
            "<=" => self.compare(Comparison::Le, left, right),
            ">" => self.compare(Comparison::Gt, left, right),
            ">=" => self.compare(Comparison::Ge, left, right),
            "+" => self.arithmetic(Arithmetic::Add, left, right),
            "-" => self.arithmetic(Arithmetic::Sub, left, right),
            "*" => self.arithmetic(Arithmetic::Mul, left, right),
            "/" => self.arithmetic(Arithmetic::Div, left, right),
            "%" => self.arithmetic(Arithmetic::Mod, left, right),
            "||" => self.concat(left, right),
            _ => refuse("operator", "uses an operator that is not computed here"),
        }
    }

    /// Two operands of one operator; an open one takes the other's type.
    fn operands(&self, left: Piece, right: Piece) -> Compiled<(Expr, Expr)> {
        let kind = |piece: &Piece| match piece {
            Piece::Typed(expr) => Some(as_operand(expr)),
            _ => None,
        };
        let asked = kind(&left).or(kind(&right)).unwrap_or(oid::TEXT);
        Ok((self.settle(left, asked)?, self.settle(right, asked)?))
    }

    /// A comparison, with an open operand taking the type of the other.
    pub fn compare(&self, op: Comparison, left: Piece, right: Piece) -> Compiled<Expr> {
        let (left, right) = self.operands(left, right)?;
        self.comparable(op, &left, &right)?;
        Ok(boolean(Node::Compare(op, Box::new(left), Box::new(right))))
    }

    fn distinct(&self, expr: &pb::AExpr, negated: bool, depth: usize) -> Compiled<Expr> {
        if let Some(NodeEnum::RowExpr(_)) = inner(&expr.lexpr) {
            return refuse("row", "compares rows");
        }
        let left = self.child(&expr.lexpr, depth)?;
        let right = self.child(&expr.rexpr, depth)?;
        // Postgres makes a test for NULL of it, from which it infers no type.
        if let (Piece::Literal(None), Piece::Open(_)) | (Piece::Open(_), Piece::Literal(None)) =
            (&left, &right)
        {
            return refuse("parameter-type", "the type of a parameter is not known");
        }
        let (left, right) = self.operands(left, right)?;
        self.comparable(Comparison::Eq, &left, &right)?;
        Ok(boolean(Node::Distinct(
            Box::new(left),
            Box::new(right),
            negated,
        )))
    }

    fn between(&self, expr: &pb::AExpr, negated: bool, depth: usize) -> Compiled<Expr> {
        let bounds = self.list(&expr.rexpr, depth)?;
        let [low, high] = <[Piece; 2]>::try_from(bounds)
            .map_err(|_| super::Reason::new("operator", "BETWEEN lacks a bound"))?;
        let (below, above) = match negated {
            false => (Comparison::Ge, Comparison::Le),
            true => (Comparison::Lt, Comparison::Gt),
        };
        let low = self.compare(below, self.child(&expr.lexpr, depth)?, low)?;
        let high = self.compare(above, self.child(&expr.lexpr, depth)?, high)?;
        Ok(boolean(match negated {
            false => Node::And(vec![low, high]),
            true => Node::Or(vec![low, high]),
        }))
    }

    fn list(&self, node: &Option<Box<pb::Node>>, depth: usize) -> Compiled<Vec<Piece>> {
        match inner(node) {
            Some(NodeEnum::List(list)) => items(&list.items)
                .map(|item| self.piece(item, depth))
                .collect(),
            _ => refuse("subquery", "holds a subquery"),
        }
    }

    fn array_test(&self, expr: &pb::AExpr, all: bool, depth: usize) -> Compiled<Expr> {
        let left = self.child(&expr.lexpr, depth)?;
        let left = self.settle(left, oid::TEXT)?;
        if let Some(elements) = self.array_elements(&expr.rexpr, depth)? {
            return self.any_element(&left, elements, all);
        }
        let array = self.array_operand(&left, &expr.rexpr, depth)?;
        Ok(boolean(Node::Array(Box::new(left), Box::new(array), all)))
    }

    /// `left = ANY (ARRAY[…])`, or `left <> ALL (ARRAY[…])`, as the comparisons it stands for.
    pub fn any_element(&self, left: &Expr, elements: Vec<Expr>, all: bool) -> Compiled<Expr> {
        let op = if all { Comparison::Ne } else { Comparison::Eq };
        let tests = elements
            .into_iter()
            .map(|element| self.compare(op, Piece::Typed(left.clone()), Piece::Typed(element)))
            .collect::<Compiled<Vec<_>>>()?;
        Ok(boolean(if all {
            Node::And(tests)
        } else {
            Node::Or(tests)
        }))
    }

    /// The elements of `ARRAY[…]` or `ARRAY[…]::type[]`; `None` for any other expression.
    pub fn array_elements(
        &self,
        node: &Option<Box<pb::Node>>,
        depth: usize,
    ) -> Compiled<Option<Vec<Expr>>> {
        let plain_elements = |array: &pb::AArrayExpr| {
            let elements = self.pieces(&array.elements, depth)?;
            match elements.is_empty() {
                true => refuse("array", "an array is empty"),
                false => Ok(elements),
            }
        };
        match inner(node) {
            Some(NodeEnum::AArrayExpr(array)) => self.unified(plain_elements(array)?).map(Some),
            Some(NodeEnum::TypeCast(cast)) => {
                let (Some(NodeEnum::AArrayExpr(array)), Some(name)) =
                    (inner(&cast.arg), &cast.type_name)
                else {
                    return Ok(None);
                };
                let (array_type, _) = named_type(self.names, name)?;
                let Some(element) = oid::array_element(array_type) else {
                    return refuse("array", "an array is cast to something else");
                };
                plain_elements(array)?
                    .into_iter()
                    .map(|piece| self.explicit(piece, element, -1))
                    .collect::<Compiled<Vec<_>>>()
                    .map(Some)
            }
            _ => Ok(None),
        }
    }

    /// The array that `left` is compared with element by element.
    pub fn array_operand(
        &self,
        left: &Expr,
        node: &Option<Box<pb::Node>>,
        depth: usize,
    ) -> Compiled<Expr> {
        let unknown = || super::Reason::new("array", "an array is not handled here");
        let array = self.child(node, depth)?;
        let array = match array {
            Piece::Typed(expr) => expr,
            open => {
                let array_type = oid::array_of(as_operand(left)).ok_or_else(unknown)?;
                self.settle(open, array_type)?
            }
        };
        let element = oid::array_element(array.type_oid).ok_or_else(unknown)?;
        if !super::is_computable(element) {
            return Err(unknown());
        }
        self.comparable(Comparison::Eq, left, &plain(element))?;
        Ok(array)
    }

    /// Whether Postgres compares these two types with one plain operator that is known here.
    pub fn comparable(&self, op: Comparison, left: &Expr, right: &Expr) -> Compiled<()> {
        let ordered = !matches!(op, Comparison::Eq | Comparison::Ne);
        let same = left.type_oid == right.type_oid;
        let fits = match (class(left), class(right)) {
            (Class::Number, Class::Number) => true,
            (Class::Text, Class::Text) => {
                !ordered || merged(left.order, right.order) == Some(TextOrder::C)
            }
            (Class::Bpchar, Class::Bpchar) => {
                !ordered || merged(left.order, right.order) == Some(TextOrder::C)
            }
            (Class::Plain, Class::Plain) => same,
            _ => false,
        };
        match fits {
            true => Ok(()),
            false if ordered && same => refuse("order", "an order is not known here"),
            false => refuse(
                "comparison",
                "compares types in a way that is not computed here",
            ),
        }
    }

    fn arithmetic(&self, op: Arithmetic, left: Piece, right: Piece) -> Compiled<Expr> {
        let (left, right) = self.arithmetic_operands(op, left, right)?;
        let Some(type_oid) = arithmetic_type(op, left.type_oid, right.type_oid) else {
            return refuse("operator", "uses an operator that is not computed here");
        };
        Ok(Expr {
            node: Node::Arithmetic(op, Box::new(left), Box::new(right)),
            ..plain(type_oid)
        })
    }

    fn arithmetic_operands(
        &self,
        op: Arithmetic,
        left: Piece,
        right: Piece,
    ) -> Compiled<(Expr, Expr)> {
        // `timestamp + 'literal'`: there is no such operator on two timestamps, and only intervals can be added.
        if let (Arithmetic::Add, Piece::Typed(known)) = (op, &left)
            && matches!(known.type_oid, oid::TIMESTAMP | oid::TIMESTAMPTZ)
        {
            let known = known.clone();
            return Ok((known, self.settle(right, oid::INTERVAL)?));
        }
        let open = |piece: &Piece| !matches!(piece, Piece::Typed(_));
        let (left_open, right_open) = (open(&left), open(&right));
        if left_open && right_open {
            return refuse("operator", "the operand types are not known");
        }
        let (left, right) = self.operands(left, right)?;
        let plain_same = class(&left) == Class::Number
            || left.type_oid == oid::INTERVAL && op != Arithmetic::Mul
            || op == Arithmetic::Sub
                && matches!(left.type_oid, oid::DATE | oid::TIMESTAMP | oid::TIMESTAMPTZ);
        if (left_open || right_open) && !plain_same {
            return refuse("operator", "the operand types are not known");
        }
        Ok((left, right))
    }

    fn negated(&self, piece: Piece) -> Compiled<Expr> {
        match piece {
            Piece::Typed(expr) if class(&expr) == Class::Number => Ok(Expr {
                node: Node::Negate(Box::new(expr.clone())),
                ..plain(expr.type_oid)
            }),
            _ => refuse("operator", "uses an operator that is not computed here"),
        }
    }

    fn concat(&self, left: Piece, right: Piece) -> Compiled<Expr> {
        let (left, right) = self.operands(left, right)?;
        let type_oid = match (class(&left), class(&right)) {
            (Class::Text, Class::Text) => oid::TEXT,
            _ if left.type_oid == oid::BYTEA && right.type_oid == oid::BYTEA => oid::BYTEA,
            _ => return refuse("operator", "uses an operator that is not computed here"),
        };
        let order = merged(left.order, right.order);
        Ok(Expr {
            order,
            node: Node::Call(Function::Concat, vec![left, right]),
            ..plain(type_oid)
        })
    }
}

/// The type that an open operand takes beside this one.
fn as_operand(expr: &Expr) -> TypeOid {
    match expr.type_oid {
        oid::VARCHAR => oid::TEXT,
        other => other,
    }
}

/// Types by how they compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// Among each other.
    Number,
    /// Among each other.
    Text,
    /// With its like.
    Bpchar,
    /// Only with the same type.
    Plain,
    /// Not here.
    No,
}

pub(super) fn class(expr: &Expr) -> Class {
    match (&expr.repr, expr.type_oid) {
        (Repr::Enum(_), _) => Class::Plain,
        (Repr::Raw, _) | (_, oid::JSON | oid::JSONB) => Class::No,
        (_, oid::INT2 | oid::INT4 | oid::INT8 | oid::FLOAT4 | oid::FLOAT8 | oid::NUMERIC) => {
            Class::Number
        }
        (_, oid::TEXT | oid::VARCHAR) => Class::Text,
        (_, oid::BPCHAR) => Class::Bpchar,
        _ => Class::Plain,
    }
}

/// The result type, where the operator exists and is known here.
fn arithmetic_type(op: Arithmetic, left: TypeOid, right: TypeOid) -> Option<TypeOid> {
    use Arithmetic::{Add, Mod, Sub};
    let integer = |oid| match oid {
        oid::INT2 => Some(1),
        oid::INT4 => Some(2),
        oid::INT8 => Some(3),
        _ => None,
    };
    let float = |oid| matches!(oid, oid::FLOAT4 | oid::FLOAT8);
    let number = |oid| integer(oid).is_some() || oid == oid::NUMERIC || float(oid);
    match (left, right) {
        _ if number(left) && number(right) => match (integer(left), integer(right)) {
            (Some(a), Some(b)) => Some(if a >= b { left } else { right }),
            _ if float(left) || float(right) => {
                let both = left == oid::FLOAT4 && right == oid::FLOAT4;
                let result = if both { oid::FLOAT4 } else { oid::FLOAT8 };
                (op != Mod).then_some(result)
            }
            _ => Some(oid::NUMERIC),
        },
        (oid::TIMESTAMP | oid::TIMESTAMPTZ, oid::INTERVAL) if matches!(op, Add | Sub) => Some(left),
        (oid::INTERVAL, oid::TIMESTAMP | oid::TIMESTAMPTZ) if op == Add => Some(right),
        (oid::INTERVAL, oid::INTERVAL) if matches!(op, Add | Sub) => Some(left),
        (oid::DATE, oid::INT4) if matches!(op, Add | Sub) => Some(left),
        (oid::INT4, oid::DATE) if op == Add => Some(right),
        (oid::DATE, oid::DATE) if op == Sub => Some(oid::INT4),
        (oid::DATE, oid::INTERVAL) if matches!(op, Add | Sub) => Some(oid::TIMESTAMP),
        (oid::TIMESTAMP, oid::TIMESTAMP) | (oid::TIMESTAMPTZ, oid::TIMESTAMPTZ) if op == Sub => {
            Some(oid::INTERVAL)
        }
        _ => None,
    }
}
