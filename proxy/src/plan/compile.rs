//! From parse trees to typed expressions, with the types that Postgres would resolve. Never accepts what is not proved: the reason says what it was.
//!
//! Invariant: a tree that compiles means in Postgres what it means here; where operator resolution is anything but plain, it does not compile.

mod aggregates;
mod casts;
mod common;
mod draws;
mod functions;
mod joined;
mod json;
mod literal;
mod operators;

use super::names::Names;
use super::parse::{NodeEnum, inner, items, pb, strings};
use super::reason::Reason;
use super::types;
use crate::eval::bind::ParamType;
use crate::eval::expr::{Expr, Node, Repr};
use crate::eval::row::STRIDE;
use ripen_cachestore::catalog::{Collation, Column, Relation, TypeKind};
use ripen_pg::ids::TypeOid;
use ripen_pg::value::ops::TextOrder;
use ripen_pg::value::{self, oid};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

/// Deepest expression that is compiled; running one recurses as deep.
const DEPTH_MAX: usize = 40;

/// An expression whose type may still be open.
#[derive(Clone, Debug)]
pub enum Piece {
    /// Its type is known.
    Typed(Expr),
    /// A quoted literal, or NULL: takes the type that its place asks for.
    Literal(Option<String>),
    /// A parameter of no declared type: takes the type that its place asks for.
    Open(usize),
}

/// Compiles the expressions of one statement over one relation.
pub struct Compiler<'a> {
    /// Catalog and session.
    pub names: Names<'a>,
    /// The statement's relation; `None` while no column may be named.
    pub relation: Option<&'a Relation>,
    /// What columns may be qualified with (alias, else the table's name).
    pub qualifier: String,
    /// Relations joined to it, in the order in which their rows stand beside its.
    pub joined: Vec<Spoken<'a>>,
    /// In which order FROM names them all; means nothing where none is joined.
    pub from: Vec<usize>,
    /// What columns are named instead of the relation's, while that is compiled.
    pub listed: Option<Listed>,
    /// Whether `EXCLUDED` may be named.
    pub excluded: bool,
    /// Positions read.
    pub used: RefCell<BTreeSet<usize>>,
    params: RefCell<Vec<Slot>>,
    draws: RefCell<draws::Draws>,
    summing: RefCell<Option<aggregates::Summing>>,
}

/// A relation under its name in the statement.
#[derive(Clone, Debug)]
pub struct Spoken<'a> {
    /// Which.
    pub relation: &'a Relation,
    /// As [`Compiler::qualifier`].
    pub qualifier: String,
}

/// One row of a list of values in FROM.
#[derive(Debug)]
pub struct Listed {
    /// By what its columns may be qualified.
    pub alias: String,
    /// Their values, by their names.
    pub columns: BTreeMap<String, Expr>,
}

/// What is known of a parameter.
#[derive(Clone, Debug, Default)]
struct Slot {
    declared: Option<TypeOid>,
    /// As Postgres would report it: domains are kept.
    inferred: Option<TypeOid>,
    used: bool,
}

/// What a type is here.
#[derive(Clone, Debug)]
pub struct TypeInfo {
    /// Domains resolved.
    pub type_oid: TypeOid,
    /// How values are held.
    pub repr: Repr,
}

pub use draws::Draw;
pub use joined::column_among;

pub(crate) type Compiled<T> = Result<T, Reason>;

pub(crate) fn refuse<T>(
    code: &'static str,
    text: impl Into<std::borrow::Cow<'static, str>>,
) -> Compiled<T> {
    Err(Reason::new(code, text))
}

impl<'a> Compiler<'a> {
    /// A compiler with the declared parameter types of a Parse message.
    pub fn new(names: Names<'a>, declared: &[TypeOid]) -> Compiler<'a> {
        let slots = declared.iter().map(|oid| Slot {
            declared: Some(*oid).filter(|oid| oid.0 != 0 && *oid != oid::UNKNOWN),
            ..Slot::default()
        });
        Compiler {
            names,
            relation: None,
            qualifier: String::new(),
            joined: Vec::new(),
            from: Vec::new(),
            listed: None,
            excluded: false,
            used: RefCell::default(),
            params: RefCell::new(slots.collect()),
            draws: RefCell::default(),
            summing: RefCell::default(),
        }
    }

    /// Parameter types in order, as Postgres reports them and as they are decoded.
    pub fn params(&self) -> Compiled<(Vec<TypeOid>, Vec<ParamType>)> {
        let slots = self.params.borrow();
        let mut reported = Vec::new();
        let mut decoded = Vec::new();
        for slot in slots.iter() {
            let Some(type_oid) = slot.declared.or(slot.inferred) else {
                return refuse("parameter-type", "the type of a parameter is not known");
            };
            let info = self.type_info(type_oid)?;
            reported.push(type_oid);
            decoded.push(ParamType {
                type_oid: info.type_oid,
                repr: info.repr,
            });
        }
        Ok((reported, decoded))
    }

    /// Types of the parameters used so far, when only keys have been compiled; the others are `None`. `alone` tells whether the statement names a parameter once.
    pub fn key_params(&self, alone: impl Fn(usize) -> bool) -> Compiled<Vec<Option<ParamType>>> {
        let slots = self.params.borrow();
        let mut params = Vec::new();
        for (index, slot) in slots.iter().enumerate() {
            let sure = slot.declared.is_some() || alone(index + 1);
            let type_oid = match slot.declared.or(slot.inferred) {
                Some(type_oid) if slot.used && sure => type_oid,
                _ if slot.used => return refuse("parameter-type", "a parameter is used twice"),
                _ => {
                    params.push(None);
                    continue;
                }
            };
            let info = self.type_info(type_oid)?;
            params.push(Some(ParamType {
                type_oid: info.type_oid,
                repr: info.repr,
            }));
        }
        Ok(params)
    }

    /// What a type is here; refused when its values cannot be handled exactly.
    pub fn type_info(&self, type_oid: TypeOid) -> Compiled<TypeInfo> {
        let known = self.names.catalog.types.get(&type_oid);
        match known.map(|known| &known.kind) {
            Some(TypeKind::Domain {
                base,
                constrained: false,
            }) if domain_has_no_modifier(*base) => self.type_info(*base),
            Some(TypeKind::Domain { .. }) => {
                refuse("domain", "a domain has constraints or a length")
            }
            Some(TypeKind::Enum(labels)) => Ok(TypeInfo {
                type_oid,
                repr: Repr::Enum(labels.as_slice().into()),
            }),
            _ if is_computable(type_oid) => Ok(TypeInfo {
                type_oid,
                repr: Repr::Typed,
            }),
            _ if value::supports(type_oid) => Ok(TypeInfo {
                type_oid,
                repr: Repr::Raw,
            }),
            _ => refuse("type", "a type is not handled here"),
        }
    }

    /// Compiles an expression that may still have an open type.
    pub fn piece(&self, node: &NodeEnum, depth: usize) -> Compiled<Piece> {
        if depth > DEPTH_MAX {
            return refuse("too-deep", "an expression is nested too deeply");
        }
        let depth = depth + 1;
        let typed = match node {
            NodeEnum::AConst(constant) => return literal::constant(constant),
            NodeEnum::ParamRef(param) => return self.param(param.number),
            NodeEnum::ColumnRef(column) => self.column_ref(column)?,
            NodeEnum::TypeCast(cast) => self.type_cast(cast, depth)?,
            NodeEnum::AExpr(expr) => self.operator_expression(expr, depth)?,
            NodeEnum::BoolExpr(expr) => self.bool_expression(expr, depth)?,
            NodeEnum::NullTest(test) => self.null_test(test, depth)?,
            NodeEnum::BooleanTest(test) => self.boolean_test(test, depth)?,
            NodeEnum::CaseExpr(case) => self.case(case, depth)?,
            NodeEnum::CoalesceExpr(expr) => self.coalesce(expr, depth)?,
            NodeEnum::MinMaxExpr(expr) => self.extreme(expr, depth)?,
            NodeEnum::FuncCall(call) => self.call(call, depth)?,
            NodeEnum::SqlvalueFunction(function) => self.value_function(function)?,
            NodeEnum::SubLink(_) => return refuse("subquery", "holds a subquery"),
            NodeEnum::CollateClause(_) => return refuse("collation", "names a collation"),
            _ => {
                return refuse(
                    "expression",
                    "holds an expression that is not computed here",
                );
            }
        };
        Ok(Piece::Typed(typed))
    }

    /// An optional child that the grammar always sets.
    pub fn child(&self, node: &Option<Box<pb::Node>>, depth: usize) -> Compiled<Piece> {
        match inner(node) {
            Some(node) => self.piece(node, depth),
            None => refuse("expression", "an expression lacks an operand"),
        }
    }

    /// An expression whose type its place does not fix: literals and open parameters become text.
    pub fn output(&self, node: &NodeEnum) -> Compiled<Expr> {
        let piece = self.piece(node, 0)?;
        self.settle(piece, oid::TEXT)
    }

    /// A condition.
    pub fn condition(&self, node: &NodeEnum) -> Compiled<Expr> {
        let piece = self.piece(node, 0)?;
        self.settle_bool(piece)
    }

    pub(super) fn settle_bool(&self, piece: Piece) -> Compiled<Expr> {
        let expr = self.settle(piece, oid::BOOL)?;
        match expr.type_oid {
            oid::BOOL => Ok(expr),
            _ => refuse("type", "a condition is not boolean"),
        }
    }

    /// Gives an open piece this type; a typed one stays as it is.
    pub fn settle(&self, piece: Piece, type_oid: TypeOid) -> Compiled<Expr> {
        match piece {
            Piece::Typed(expr) => Ok(expr),
            Piece::Literal(text) => self.literal(text.as_deref(), type_oid),
            Piece::Open(index) => self.infer(index, type_oid),
        }
    }

    /// A column of the relation.
    pub fn column(&self, column: &Column) -> Compiled<Expr> {
        self.column_of(0, column)
    }

    /// A column of the relation whose rows stand at that place, the first's or one beside it.
    pub fn column_of(&self, place: usize, column: &Column) -> Compiled<Expr> {
        let info = self.type_info(column.type_oid)?;
        let position = place * STRIDE + column.position;
        self.used.borrow_mut().insert(position);
        self.names_column();
        Ok(Expr {
            type_oid: info.type_oid,
            type_modifier: column.type_modifier,
            repr: info.repr,
            order: text_order(column)?,
            node: Node::Column(position),
        })
    }

    fn column_ref(&self, reference: &pb::ColumnRef) -> Compiled<Expr> {
        let unknown = || Reason::new("column", "names something that is not a plain column");
        if let Some(listed) = &self.listed {
            let parts = strings(&reference.fields);
            let name = match parts[..] {
                [name] => name,
                [alias, name] if alias == listed.alias => name,
                _ => return Err(unknown()),
            };
            let column = listed.columns.get(name);
            return column
                .filter(|_| parts.len() == reference.fields.len())
                .cloned()
                .ok_or_else(unknown);
        }
        let relation = self.relation.ok_or_else(unknown)?;
        if !self.joined.is_empty() {
            let (place, column) = self.joined_column(reference).ok_or_else(unknown)?;
            return self.column_of(place, column);
        }
        let (excluded, name) = self.reference(reference).ok_or_else(unknown)?;
        let column = relation.column_named(name).ok_or_else(unknown)?;
        let mut expr = self.column(column)?;
        if excluded {
            expr.node = Node::Excluded(column.position);
        }
        Ok(expr)
    }

    /// The column name of a reference, and whether it is of `EXCLUDED`.
    fn reference<'b>(&self, reference: &'b pb::ColumnRef) -> Option<(bool, &'b str)> {
        let parts = strings(&reference.fields);
        if parts.len() != reference.fields.len() {
            return None;
        }
        match parts[..] {
            // Beside EXCLUDED an unqualified name is ambiguous.
            [name] if !self.excluded => Some((false, name)),
            [qualifier, name] if qualifier == self.qualifier => Some((false, name)),
            ["excluded", name] if self.excluded => Some((true, name)),
            _ => None,
        }
    }

    /// The position of the relation's column that a reference names.
    pub fn position(&self, reference: &pb::ColumnRef) -> Option<usize> {
        if !self.joined.is_empty() {
            let (place, column) = self.joined_column(reference)?;
            return Some(place * STRIDE + column.position);
        }
        match self.reference(reference)? {
            (false, name) => Some(self.relation?.column_named(name)?.position),
            (true, _) => None,
        }
    }

    fn param(&self, number: i32) -> Compiled<Piece> {
        let index = usize::try_from(number - 1)
            .ok()
            .filter(|index| *index < 0xffff)
            .ok_or_else(|| Reason::new("parameter-type", "a parameter has no number"))?;
        let mut slots = self.params.borrow_mut();
        if slots.len() <= index {
            slots.resize(index + 1, Slot::default());
        }
        slots[index].used = true;
        match slots[index].declared {
            Some(declared) => {
                drop(slots);
                self.typed_param(index, declared).map(Piece::Typed)
            }
            None => Ok(Piece::Open(index)),
        }
    }

    /// Fixes the type of an open parameter. All its places must ask for the same, so that the order in which Postgres looks at them does not matter.
    pub(super) fn infer(&self, index: usize, type_oid: TypeOid) -> Compiled<Expr> {
        let slot = &mut self.params.borrow_mut()[index];
        match slot.inferred {
            Some(before) if before != type_oid => {
                return refuse("parameter-type", "a parameter is used with two types");
            }
            _ => slot.inferred = Some(type_oid),
        }
        self.typed_param(index, type_oid)
    }

    fn typed_param(&self, index: usize, type_oid: TypeOid) -> Compiled<Expr> {
        let info = self.type_info(type_oid)?;
        Ok(Expr {
            type_oid: info.type_oid,
            type_modifier: -1,
            repr: info.repr,
            order: None,
            node: Node::Param(index),
        })
    }

    fn bool_expression(&self, expr: &pb::BoolExpr, depth: usize) -> Compiled<Expr> {
        let mut args = items(&expr.args)
            .map(|arg| self.settle_bool(self.piece(arg, depth)?))
            .collect::<Compiled<Vec<_>>>()?;
        let node = match pb::BoolExprType::try_from(expr.boolop) {
            Ok(pb::BoolExprType::AndExpr) => Node::And(args),
            Ok(pb::BoolExprType::OrExpr) => Node::Or(args),
            Ok(pb::BoolExprType::NotExpr) if args.len() == 1 => Node::Not(Box::new(args.remove(0))),
            _ => {
                return refuse(
                    "expression",
                    "holds an expression that is not computed here",
                );
            }
        };
        Ok(boolean(node))
    }

    fn null_test(&self, test: &pb::NullTest, depth: usize) -> Compiled<Expr> {
        let arg = self.child(&test.arg, depth)?;
        // Postgres does not infer a parameter's type from this.
        if let Piece::Open(_) = arg {
            return refuse("parameter-type", "the type of a parameter is not known");
        }
        let arg = self.settle(arg, oid::TEXT)?;
        let negated = test.nulltesttype == pb::NullTestType::IsNotNull as i32;
        Ok(boolean(Node::IsNull(Box::new(arg), negated)))
    }

    fn boolean_test(&self, test: &pb::BooleanTest, depth: usize) -> Compiled<Expr> {
        use pb::BoolTestType as Test;
        let arg = self.settle_bool(self.child(&test.arg, depth)?)?;
        let (asked, negated) = match Test::try_from(test.booltesttype) {
            Ok(Test::IsTrue) => (Some(true), false),
            Ok(Test::IsNotTrue) => (Some(true), true),
            Ok(Test::IsFalse) => (Some(false), false),
            Ok(Test::IsNotFalse) => (Some(false), true),
            Ok(Test::IsUnknown) => (None, false),
            Ok(Test::IsNotUnknown) => (None, true),
            _ => return refuse("expression", "holds an unknown boolean test"),
        };
        Ok(boolean(Node::Is(Box::new(arg), asked, negated)))
    }

    fn value_function(&self, function: &pb::SqlValueFunction) -> Compiled<Expr> {
        match pb::SqlValueFunctionOp::try_from(function.op) {
            Ok(pb::SqlValueFunctionOp::SvfopCurrentTimestamp) => Ok(Expr {
                node: Node::TransactionNow,
                ..plain(oid::TIMESTAMPTZ)
            }),
            _ => refuse("function", "calls a function that is not computed here"),
        }
    }
}

/// An expression of a type with nothing special, to be filled in.
pub(super) fn plain(type_oid: TypeOid) -> Expr {
    Expr {
        type_oid,
        type_modifier: -1,
        repr: Repr::Typed,
        order: None,
        node: Node::Const(None),
    }
}

pub(super) fn boolean(node: Node) -> Expr {
    Expr {
        node,
        ..plain(oid::BOOL)
    }
}

fn text_order(column: &Column) -> Compiled<Option<TextOrder>> {
    match column.collation {
        Collation::None => Ok(None),
        Collation::C => Ok(Some(TextOrder::C)),
        Collation::Deterministic => Ok(Some(TextOrder::Unknown)),
        Collation::Nondeterministic => {
            refuse("collation", "a column has a non-deterministic collation")
        }
    }
}

/// Types that `ripen_pg::value::Value` holds.
pub(super) fn is_computable(type_oid: TypeOid) -> bool {
    matches!(
        type_oid,
        oid::BOOL
            | oid::INT2
            | oid::INT4
            | oid::INT8
            | oid::OID
            | oid::FLOAT4
            | oid::FLOAT8
            | oid::NUMERIC
            | oid::TEXT
            | oid::VARCHAR
            | oid::BPCHAR
            | oid::NAME
            | oid::BYTEA
            | oid::UUID
            | oid::DATE
            | oid::TIME
            | oid::TIMESTAMP
            | oid::TIMESTAMPTZ
            | oid::INTERVAL
            | oid::JSON
            | oid::JSONB
    )
}

/// Base types on which a domain cannot have set a length: the catalog does not tell a domain's modifier.
fn domain_has_no_modifier(base: TypeOid) -> bool {
    is_computable(base)
        && !matches!(
            base,
            oid::NUMERIC
                | oid::VARCHAR
                | oid::BPCHAR
                | oid::TIME
                | oid::TIMESTAMP
                | oid::TIMESTAMPTZ
                | oid::INTERVAL
        )
}

/// The type that a type name means, and its modifier.
pub(super) fn named_type(names: Names<'_>, name: &pb::TypeName) -> Compiled<(TypeOid, i32)> {
    let unknown = || Reason::new("type", "names a type that is not handled here");
    if name.setof || name.pct_type {
        return Err(unknown());
    }
    let parts = strings(&name.names);
    let scalar = match parts[..] {
        ["pg_catalog", last] => types::builtin(last).ok_or_else(unknown)?,
        [last]
            if types::of_name(names.catalog, last)
                .all(|known| types::builtin(last) == Some(known.oid)) =>
        {
            types::builtin(last).ok_or_else(unknown)?
        }
        _ => user_type(names, &parts).ok_or_else(unknown)?,
    };
    let modifier = casts::modifier(scalar, &name.typmods).ok_or_else(unknown)?;
    match (name.array_bounds.len(), modifier) {
        (0, modifier) => Ok((scalar, modifier)),
        (_, -1) => Ok((oid::array_of(scalar).ok_or_else(unknown)?, -1)),
        _ => Err(unknown()),
    }
}

/// A type outside pg_catalog, when only one can be meant.
fn user_type(names: Names<'_>, parts: &[&str]) -> Option<TypeOid> {
    let last = *parts.last()?;
    if types::builtin(last).is_some() {
        return None;
    }
    let mut found = types::of_name(names.catalog, last);
    let only = found.next().filter(|_| found.next().is_none())?;
    let schema = only
        .sql_name
        .rsplit_once('.')
        .map(|(schema, _)| schema.trim_matches('"'));
    let reachable = match (parts, schema) {
        ([_], Some(schema)) => names.facts.search_path.iter().any(|known| known == schema),
        ([wanted, _], Some(schema)) => *wanted == schema,
        ([_], None) => true,
        _ => false,
    };
    reachable.then_some(only.oid)
}
