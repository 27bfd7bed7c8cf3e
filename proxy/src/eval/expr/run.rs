//! Runs an expression on a row: three-valued logic, strict functions, comparisons. Never yields a value of another type than the expression says.

use super::{Comparison, Env, Expr, Function, JsonFunction, Node, Outcome, REFUSED, Repr, Scalar};
use crate::eval::row::Row;
use crate::eval::{EvalError, array};
use ripen_pg::tuple::Datum;
use ripen_pg::value::ops::{self, CastKind, JsonKey, TextOrder};
use ripen_pg::value::{self, Value, oid};
use std::cmp::Ordering;

fn truth<'a>(truth: bool) -> Outcome<'a> {
    Ok(Some(Scalar::Value(Value::Bool(truth))))
}

impl Expr {
    /// Runs it.
    pub fn eval<'a>(&'a self, env: &Env<'a>) -> Outcome<'a> {
        match &self.node {
            Node::Const(None) => Ok(None),
            Node::Const(Some(bytes)) => Ok(Some(self.repr.decode(self.type_oid, bytes)?)),
            Node::Param(index) => Ok(env.params.get(*index).ok_or(REFUSED)?.clone()),
            Node::Column(position) => self.column(env.row, *position),
            Node::Excluded(position) => self.column(env.excluded.map(Row::from), *position),
            Node::StatementNow => time(env.now.map(|now| now.statement_us)),
            Node::TransactionNow => time(env.now.map(|now| now.transaction_us)),
            Node::Cast(inner, kind) => self.cast(inner, *kind, env),
            Node::Modify(inner, explicit) => self.modify(inner, *explicit, env),
            Node::Relabel(inner) => inner.eval(env),
            Node::Array(left, array, all) => member(left, array, *all, env),
            Node::Case(branches, default) => case(branches, default.as_deref(), env),
            Node::Coalesce(args) => coalesce(args, env),
            Node::Extreme(args, greatest) => extreme(args, *greatest, env),
            Node::And(_) | Node::Or(_) | Node::Not(_) | Node::IsNull(..) | Node::Is(..) => {
                self.logic(env)
            }
            Node::Compare(..) | Node::Distinct(..) | Node::NullIf(..) => self.comparison(env),
            Node::Arithmetic(..) | Node::Negate(_) | Node::Call(..) | Node::Json(..) => {
                self.computed(env)
            }
        }
    }

    /// Runs a condition: NULL is `None`.
    pub fn eval_truth(&self, env: &Env<'_>) -> Result<Option<bool>, EvalError> {
        self.eval(env)?.map(|scalar| scalar.truth()).transpose()
    }

    fn column<'a>(&self, row: Option<Row<'a>>, position: usize) -> Outcome<'a> {
        match row.ok_or(REFUSED)?.get(position) {
            Datum::Null => Ok(None),
            Datum::Missing => Err(EvalError::PassThrough("a column is not held in memory")),
            Datum::Value(bytes) => Ok(Some(self.repr.decode(self.type_oid, bytes)?)),
        }
    }

    fn cast<'a>(&'a self, inner: &'a Expr, kind: CastKind, env: &Env<'a>) -> Outcome<'a> {
        let Some(scalar) = inner.eval(env)? else {
            return Ok(None);
        };
        let cast = ops::cast(
            scalar.value()?,
            self.type_oid,
            self.type_modifier,
            kind,
            env.settings,
        )?;
        self.checked(cast)
    }

    fn modify<'a>(&'a self, inner: &'a Expr, explicit: bool, env: &Env<'a>) -> Outcome<'a> {
        let Some(scalar) = inner.eval(env)? else {
            return Ok(None);
        };
        let modified = value::coerce_typmod(
            self.type_oid,
            self.type_modifier,
            &scalar.to_binary(),
            explicit,
        )?;
        Ok(Some(
            self.repr.decode(self.type_oid, &modified)?.into_owned(),
        ))
    }

    /// A computed value, if it has the type that this expression says.
    fn checked<'a>(&self, value: Value<'static>) -> Outcome<'a> {
        let expected = match self.type_oid {
            oid::VARCHAR => oid::TEXT,
            other => other,
        };
        if value.type_oid() != expected {
            return Err(REFUSED);
        }
        Ok(Some(Scalar::Value(value)))
    }

    fn logic<'a>(&'a self, env: &Env<'a>) -> Outcome<'a> {
        match &self.node {
            Node::And(args) => all_or_any(args, false, env),
            Node::Or(args) => all_or_any(args, true, env),
            Node::Not(inner) => match inner.eval_truth(env)? {
                Some(known) => truth(!known),
                None => Ok(None),
            },
            Node::IsNull(inner, negated) => truth(inner.eval(env)?.is_none() != *negated),
            Node::Is(inner, asked, negated) => {
                truth((inner.eval_truth(env)? == *asked) != *negated)
            }
            _ => Err(REFUSED),
        }
    }

    fn comparison<'a>(&'a self, env: &Env<'a>) -> Outcome<'a> {
        match &self.node {
            Node::Compare(op, left, right) => {
                let (left_value, right_value) = (left.eval(env)?, right.eval(env)?);
                match (left_value, right_value) {
                    (Some(a), Some(b)) => truth(compared(*op, (left, &a), (right, &b))?),
                    _ => Ok(None),
                }
            }
            Node::Distinct(left, right, negated) => {
                let distinct = match (left.eval(env)?, right.eval(env)?) {
                    (None, None) => false,
                    (Some(a), Some(b)) => compared(Comparison::Ne, (left, &a), (right, &b))?,
                    _ => true,
                };
                truth(distinct != *negated)
            }
            Node::NullIf(left, right) => {
                let Some(value) = left.eval(env)? else {
                    return Ok(None);
                };
                match right.eval(env)? {
                    Some(other) if compared(Comparison::Eq, (left, &value), (right, &other))? => {
                        Ok(None)
                    }
                    _ => Ok(Some(value)),
                }
            }
            _ => Err(REFUSED),
        }
    }

    fn computed<'a>(&'a self, env: &Env<'a>) -> Outcome<'a> {
        let result = match &self.node {
            Node::Arithmetic(op, left, right) => {
                let (left, right) = (left.eval(env)?, right.eval(env)?);
                let (Some(left), Some(right)) = (left, right) else {
                    return Ok(None);
                };
                ops::arithmetic(*op, left.value()?, right.value()?, env.settings)?
            }
            Node::Negate(inner) => match inner.eval(env)? {
                Some(inner) => ops::negate(inner.value()?)?,
                None => return Ok(None),
            },
            Node::Call(function, args) => match values(args, env)? {
                Some(args) => call(*function, &args, self.order)?,
                None => return Ok(None),
            },
            Node::Json(function, args) => {
                let args = values(args, env)?;
                let found = args.map(|args| json(*function, &args)).transpose()?;
                match found.flatten() {
                    Some(value) => value,
                    None => return Ok(None),
                }
            }
            _ => return Err(REFUSED),
        };
        self.checked(result)
    }
}

fn time<'a>(now: Option<i64>) -> Outcome<'a> {
    let now = now.ok_or(REFUSED)?;
    Ok(Some(Scalar::Value(Value::Timestamptz(now))))
}

/// AND (`decisive` false) or OR (`decisive` true): stops at the first decisive operand, as Postgres does.
fn all_or_any<'a>(args: &'a [Expr], decisive: bool, env: &Env<'a>) -> Outcome<'a> {
    let mut unknown = false;
    for arg in args {
        match arg.eval_truth(env)? {
            Some(known) if known == decisive => return truth(decisive),
            Some(_) => {}
            None => unknown = true,
        }
    }
    if unknown { Ok(None) } else { truth(!decisive) }
}

fn case<'a>(branches: &'a [(Expr, Expr)], default: Option<&'a Expr>, env: &Env<'a>) -> Outcome<'a> {
    for (condition, result) in branches {
        if condition.eval_truth(env)? == Some(true) {
            return result.eval(env);
        }
    }
    default.map_or(Ok(None), |default| default.eval(env))
}

fn coalesce<'a>(args: &'a [Expr], env: &Env<'a>) -> Outcome<'a> {
    for arg in args {
        if let Some(value) = arg.eval(env)? {
            return Ok(Some(value));
        }
    }
    Ok(None)
}

fn extreme<'a>(args: &'a [Expr], greatest: bool, env: &Env<'a>) -> Outcome<'a> {
    let op = if greatest {
        Comparison::Gt
    } else {
        Comparison::Lt
    };
    let mut best: Option<(&Expr, Scalar<'a>)> = None;
    for arg in args {
        let Some(value) = arg.eval(env)? else {
            continue;
        };
        let better = match &best {
            None => true,
            Some((expr, kept)) => compared(op, (arg, &value), (expr, kept))?,
        };
        if better {
            best = Some((arg, value));
        }
    }
    Ok(best.map(|(_, value)| value))
}

/// `left = ANY (array)`, or `left <> ALL (array)`: three-valued over the elements.
fn member<'a>(left: &'a Expr, array: &'a Expr, all: bool, env: &Env<'a>) -> Outcome<'a> {
    let Some(Scalar::Raw(bytes)) = array.eval(env)? else {
        return Ok(None);
    };
    let elements = array::elements(array.type_oid, &bytes).ok_or(REFUSED)?;
    let value = left.eval(env)?;
    let Some(value) = value else {
        // An empty array decides even against NULL.
        return if elements.is_empty() {
            truth(all)
        } else {
            Ok(None)
        };
    };
    let mut unknown = false;
    let element_type = oid::array_element(array.type_oid).ok_or(REFUSED)?;
    for element in elements {
        let Some(element) = element else {
            unknown = true;
            continue;
        };
        if ops::equal(value.value()?, &Value::decode(element_type, element)?)? {
            return truth(!all);
        }
    }
    if unknown { Ok(None) } else { truth(all) }
}

fn compared(
    op: Comparison,
    (left, a): (&Expr, &Scalar<'_>),
    (right, b): (&Expr, &Scalar<'_>),
) -> Result<bool, EvalError> {
    if let Comparison::Eq | Comparison::Ne = op {
        let equal = ops::equal(a.value()?, b.value()?)?;
        return Ok(equal == (op == Comparison::Eq));
    }
    let ordering = order(left, a, b, merged(left.order, right.order))?;
    Ok(match op {
        Comparison::Lt => ordering.is_lt(),
        Comparison::Le => ordering.is_le(),
        Comparison::Gt => ordering.is_gt(),
        Comparison::Ge => ordering.is_ge(),
        Comparison::Eq | Comparison::Ne => return Err(REFUSED),
    })
}

/// Orders two values of an expression's type.
pub fn order(
    expr: &Expr,
    left: &Scalar<'_>,
    right: &Scalar<'_>,
    collation: Option<TextOrder>,
) -> Result<Ordering, EvalError> {
    let (left, right) = (left.value()?, right.value()?);
    if let Repr::Enum(labels) = &expr.repr {
        return match (left, right) {
            (Value::Text(left), Value::Text(right)) => Ok(ops::compare_enum(labels, left, right)?),
            _ => Err(REFUSED),
        };
    }
    let collation = collation.unwrap_or(TextOrder::Unknown);
    Ok(ops::compare(left, right, collation)?)
}

/// The collation of two operands together: known only where both agree, or only one has any.
pub fn merged(left: Option<TextOrder>, right: Option<TextOrder>) -> Option<TextOrder> {
    match (left, right) {
        (Some(TextOrder::C), Some(TextOrder::C) | None) | (None, Some(TextOrder::C)) => {
            Some(TextOrder::C)
        }
        (None, None) => None,
        _ => Some(TextOrder::Unknown),
    }
}

/// All of them, of which none may be NULL. All are computed first, for their errors.
fn values<'a>(args: &'a [Expr], env: &Env<'a>) -> Result<Option<Vec<Scalar<'a>>>, EvalError> {
    let all: Vec<Option<Scalar<'_>>> = args
        .iter()
        .map(|arg| arg.eval(env))
        .collect::<Result<_, _>>()?;
    Ok(all.into_iter().collect())
}

fn call(
    function: Function,
    args: &[Scalar<'_>],
    order: Option<TextOrder>,
) -> Result<Value<'static>, EvalError> {
    let value = |index: usize| args.get(index).ok_or(REFUSED)?.value();
    let number = |index: usize| match args.get(index).map(Scalar::value) {
        None => Ok(None),
        Some(Ok(Value::Int4(number))) => Ok(Some(*number)),
        Some(_) => Err(REFUSED),
    };
    let order = order.unwrap_or(TextOrder::Unknown);
    let first = value(0)?;
    Ok(match function {
        Function::Abs => ops::abs(first)?,
        Function::Ceil => ops::ceil(first)?,
        Function::Concat => ops::concat(first, value(1)?)?,
        Function::Floor => ops::floor(first)?,
        Function::Length => ops::length(first)?,
        Function::Lower => ops::lower(first, order)?,
        Function::OctetLength => ops::octet_length(first)?,
        Function::Round => ops::round(first, number(1)?)?,
        Function::Sign => ops::sign(first)?,
        Function::Substring => ops::substring(first, number(1)?.ok_or(REFUSED)?, number(2)?)?,
        Function::Trim(side) => match args.get(1) {
            None => ops::trim(side, first, None)?,
            Some(Scalar::Value(Value::Text(set))) => ops::trim(side, first, Some(set))?,
            Some(_) => return Err(REFUSED),
        },
        Function::Trunc => ops::trunc(first, number(1)?)?,
        Function::Upper => ops::upper(first, order)?,
    })
}

fn json(function: JsonFunction, args: &[Scalar<'_>]) -> Result<Option<Value<'static>>, EvalError> {
    let text = |index: usize| match args.get(index).ok_or(REFUSED)?.value()? {
        Value::Jsonb(text) | Value::Text(text) => Ok::<_, EvalError>(&**text),
        _ => Err(REFUSED),
    };
    let key = || match args.get(1).ok_or(REFUSED)?.value()? {
        Value::Int4(index) => Ok(JsonKey::Index(*index)),
        Value::Text(name) => Ok::<_, EvalError>(JsonKey::Name(name)),
        _ => Err(REFUSED),
    };
    let first = text(0)?;
    Ok(match function {
        JsonFunction::Concat => Some(ops::json_concat(first, text(1)?)?),
        JsonFunction::Field => ops::json_field(first, key()?)?,
        JsonFunction::Text => ops::json_text(first, key()?)?,
        JsonFunction::Without => Some(ops::json_without(first, key()?)?),
        JsonFunction::Has => Some(ops::json_has(first, text(1)?)?),
        JsonFunction::Set => {
            let Some(Scalar::Raw(path)) = args.get(1) else {
                return Err(REFUSED);
            };
            let path = array::elements(oid::TEXT_ARRAY, path).ok_or(REFUSED)?;
            let path: Option<Vec<&str>> = path
                .into_iter()
                .map(|name| str::from_utf8(name?).ok())
                .collect();
            let create = match args.get(3).map(Scalar::value) {
                None => true,
                Some(Ok(Value::Bool(create))) => *create,
                Some(_) => return Err(REFUSED),
            };
            let path = path.ok_or(REFUSED)?;
            Some(ops::json_set(first, &path, text(2)?, create)?)
        }
    })
}
