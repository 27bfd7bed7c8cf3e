//! Typed expression trees. The compiler (`plan::compile`) has resolved all types; `run` evaluates them, and never coerces by itself.
//!
//! Invariant: the value that a node yields has the type that the node says; a computation that yields another one is refused.

mod run;

pub use run::{merged, order};

use super::row::Row;
use super::{EvalError, Now};
use ripen_pg::ids::TypeOid;
use ripen_pg::tuple::Tuple;
use ripen_pg::value::ops::{Arithmetic, CastKind, TextOrder, TrimSide};
use ripen_pg::value::{self, Failure, Settings, Value};
use std::borrow::Cow;
use std::sync::Arc;

/// How values of a type are held while computing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Repr {
    /// As [`Value`].
    Typed,
    /// An enum: its label as text; the labels in sort order.
    Enum(Arc<[String]>),
    /// Binary form, never looked into (arrays, inet, …).
    Raw,
}

/// A value that is not NULL.
#[derive(Clone, Debug, PartialEq)]
pub enum Scalar<'a> {
    /// One to compute with (enums: their label as text).
    Value(Value<'a>),
    /// Only its binary form.
    Raw(Cow<'a, [u8]>),
}

/// An expression with its static type.
#[derive(Clone, Debug)]
pub struct Expr {
    /// Its type, domains resolved.
    pub type_oid: TypeOid,
    /// Its modifier (-1: none).
    pub type_modifier: i32,
    /// How its values are held.
    pub repr: Repr,
    /// The collation that comparisons of it use; `None` where no column gives one.
    pub order: Option<TextOrder>,
    /// What it computes.
    pub node: Node,
}

/// What an [`Expr`] computes.
#[derive(Clone, Debug)]
pub enum Node {
    /// A constant in binary form; `None` is NULL.
    Const(Option<Vec<u8>>),
    /// The parameter at this index (0 is `$1`).
    Param(usize),
    /// The row's column at this position.
    Column(usize),
    /// `EXCLUDED`'s column at this position.
    Excluded(usize),
    /// `statement_timestamp()`
    StatementNow,
    /// `now()`
    TransactionNow,
    /// To this expression's type and modifier.
    Cast(Box<Expr>, CastKind),
    /// The same type with this expression's modifier; whether written out.
    Modify(Box<Expr>, bool),
    /// The same bytes under another type (varchar as text).
    Relabel(Box<Expr>),
    /// `+ - * / %`
    Arithmetic(Arithmetic, Box<Expr>, Box<Expr>),
    /// `-x`
    Negate(Box<Expr>),
    /// `= <> < <= > >=`
    Compare(Comparison, Box<Expr>, Box<Expr>),
    /// `IS [NOT] DISTINCT FROM`; whether NOT.
    Distinct(Box<Expr>, Box<Expr>, bool),
    /// Three-valued AND.
    And(Vec<Expr>),
    /// Three-valued OR.
    Or(Vec<Expr>),
    /// NOT.
    Not(Box<Expr>),
    /// `IS NULL`, or `IS NOT NULL` (true).
    IsNull(Box<Expr>, bool),
    /// `IS TRUE` and its kin: the truth asked for (`None`: UNKNOWN), and whether NOT.
    Is(Box<Expr>, Option<bool>, bool),
    /// `x = ANY (array)`, or `x <> ALL (array)` (true).
    Array(Box<Expr>, Box<Expr>, bool),
    /// Searched CASE: branches and ELSE.
    Case(Vec<(Expr, Expr)>, Option<Box<Expr>>),
    /// COALESCE.
    Coalesce(Vec<Expr>),
    /// GREATEST, or LEAST (false).
    Extreme(Vec<Expr>, bool),
    /// NULLIF.
    NullIf(Box<Expr>, Box<Expr>),
    /// A strict function.
    Call(Function, Vec<Expr>),
    /// A strict operator or function on `jsonb` that may find nothing.
    Json(JsonFunction, Vec<Expr>),
}

/// Comparison operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Comparison {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
}

/// What is done to the first argument, a `jsonb`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JsonFunction {
    /// `||`
    Concat,
    /// `->`
    Field,
    /// `->>`
    Text,
    /// `-`
    Without,
    /// `?`
    Has,
    /// `jsonb_set`
    Set,
}

/// Functions that are computed here; all strict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Function {
    Abs,
    Ceil,
    Concat,
    Floor,
    Length,
    Lower,
    OctetLength,
    Round,
    Sign,
    Substring,
    Trim(TrimSide),
    Trunc,
    Upper,
}

/// What an expression may look at.
#[derive(Clone, Copy)]
pub struct Env<'a> {
    /// The parameters, decoded.
    pub params: &'a [Option<Scalar<'a>>],
    /// The row.
    pub row: Option<Row<'a>>,
    /// The row proposed for insertion.
    pub excluded: Option<&'a Tuple>,
    /// The session's settings.
    pub settings: &'a Settings,
    /// The time; `None` where no time may be used.
    pub now: Option<Now>,
}

/// NULL or a value.
pub type Outcome<'a> = Result<Option<Scalar<'a>>, EvalError>;

pub(crate) const REFUSED: EvalError = EvalError::PassThrough("a value is not computed here");
pub(crate) const RAISES: EvalError = EvalError::PassThrough("Postgres is to raise the error");

impl From<Failure> for EvalError {
    fn from(failure: Failure) -> EvalError {
        match failure {
            Failure::Sql(_) => RAISES,
            Failure::Refused => REFUSED,
        }
    }
}

impl From<value::Unsupported> for EvalError {
    fn from(_: value::Unsupported) -> EvalError {
        REFUSED
    }
}

impl Repr {
    /// Takes a binary form of the type.
    pub fn decode<'a>(&self, type_oid: TypeOid, bytes: &'a [u8]) -> Result<Scalar<'a>, EvalError> {
        Ok(match self {
            Repr::Typed => Scalar::Value(Value::decode(type_oid, bytes)?),
            Repr::Enum(_) => Scalar::Value(Value::decode(value::ENUM_AS, bytes)?),
            Repr::Raw => Scalar::Raw(Cow::Borrowed(bytes)),
        })
    }
}

impl<'a> Scalar<'a> {
    /// The binary form.
    pub fn to_binary(&self) -> Vec<u8> {
        match self {
            Scalar::Value(value) => value.to_binary(),
            Scalar::Raw(bytes) => bytes.to_vec(),
        }
    }

    /// The value to compute with.
    pub fn value(&self) -> Result<&Value<'a>, EvalError> {
        match self {
            Scalar::Value(value) => Ok(value),
            Scalar::Raw(_) => Err(REFUSED),
        }
    }

    /// The same without the borrow.
    pub fn into_owned(self) -> Scalar<'static> {
        match self {
            Scalar::Value(value) => Scalar::Value(value.into_owned()),
            Scalar::Raw(bytes) => Scalar::Raw(Cow::Owned(bytes.into_owned())),
        }
    }

    fn truth(&self) -> Result<bool, EvalError> {
        match self.value()? {
            Value::Bool(truth) => Ok(*truth),
            _ => Err(REFUSED),
        }
    }
}

impl Expr {
    /// Whether any node in the tree is so.
    pub fn any(&self, wanted: &impl Fn(&Node) -> bool) -> bool {
        wanted(&self.node) || self.children().into_iter().any(|child| child.any(wanted))
    }

    /// The expressions directly below.
    pub fn children(&self) -> Vec<&Expr> {
        match &self.node {
            Node::Const(_)
            | Node::Param(_)
            | Node::Column(_)
            | Node::Excluded(_)
            | Node::StatementNow
            | Node::TransactionNow => Vec::new(),
            Node::Cast(inner, _)
            | Node::Modify(inner, _)
            | Node::Relabel(inner)
            | Node::Negate(inner)
            | Node::Not(inner)
            | Node::IsNull(inner, _)
            | Node::Is(inner, ..) => vec![inner],
            Node::Arithmetic(_, left, right)
            | Node::Compare(_, left, right)
            | Node::Distinct(left, right, _)
            | Node::Array(left, right, _)
            | Node::NullIf(left, right) => vec![left, right],
            Node::And(args)
            | Node::Or(args)
            | Node::Coalesce(args)
            | Node::Extreme(args, _)
            | Node::Call(_, args)
            | Node::Json(_, args) => args.iter().collect(),
            Node::Case(branches, default) => branches
                .iter()
                .flat_map(|(condition, result)| [condition, result])
                .chain(default.as_deref())
                .collect(),
        }
    }

    /// Whether it is the same for every row of one execution.
    pub fn is_fixed(&self) -> bool {
        !self.any(&|node| matches!(node, Node::Column(_) | Node::Excluded(_)))
    }

    /// Whether running it needs the time.
    pub fn needs_now(&self) -> bool {
        self.any(&|node| matches!(node, Node::StatementNow | Node::TransactionNow))
    }
}
