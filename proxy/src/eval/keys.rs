//! Which rows a statement names: for each primary key column the values it may have. Never loads a row.
//!
//! Equality across types is decided as Postgres's operators do: a value that the column's type cannot hold names no row.

use super::EvalError;
use super::array;
use super::expr::{Env, Expr, Node, REFUSED, Repr, Scalar};
use ripen_pg::ids::TypeOid;
use ripen_pg::key::Key;
use ripen_pg::tuple::{Datum, Tuple};
use ripen_pg::value::ops::{self, CastKind, TextOrder};
use ripen_pg::value::{self, Settings, Value, oid};
use smallvec::{SmallVec, smallvec};
use std::cmp::Ordering;

/// Most rows that one statement may name; more are Postgres's business (a whole-table scan is better there, and locks all shards here).
const KEYS_MAX: usize = 10_000;

/// Most keys that a range may have: all of them are looked at, whether there is such a row or not.
const RANGE_KEYS_MAX: i128 = 1000;

/// Keys, each once.
pub type Keys = SmallVec<[Key; 1]>;

/// The key columns' operands, in index order. Several alternatives are the rows of an INSERT.
#[derive(Debug)]
pub struct KeyTemplate {
    /// Parameter types of the statement; those that are `None` are not looked at.
    pub(crate) params: Vec<Option<super::bind::ParamType>>,
    /// One for SELECT, UPDATE, DELETE; one for each row of an INSERT.
    pub(crate) rows: Vec<Vec<KeyColumn>>,
    /// Whether duplicates are an error instead of one row (INSERT).
    pub(crate) distinct: bool,
    /// Whether keys should come in index order (a SELECT without ORDER BY).
    pub(crate) ordered: bool,
}

/// A key column and what it is compared with.
#[derive(Clone, Debug)]
pub struct KeyColumn {
    /// The column's type, domains resolved.
    pub type_oid: TypeOid,
    /// How its values are held.
    pub repr: Repr,
    /// Its collation.
    pub order: Option<TextOrder>,
    /// The values asked for.
    pub operand: Operand,
}

/// What a key column is compared with.
#[derive(Clone, Debug)]
pub enum Operand {
    /// `= x`
    One(Expr),
    /// `IN (x, y)`
    List(Vec<Expr>),
    /// `= ANY (array)`
    Any(Expr),
    /// `BETWEEN x AND y`, of integers.
    Range(Box<Range>),
}

/// All integers between two bounds.
#[derive(Clone, Debug)]
pub struct Range {
    /// Not below this.
    pub low: Bound,
    /// Not above this.
    pub high: Bound,
}

/// One end of a range.
#[derive(Clone, Debug)]
pub struct Bound {
    /// An integer of any width.
    pub expr: Expr,
    /// It belongs to the range itself.
    pub inclusive: bool,
}

/// A value of a key column, and its binary form in the column's type.
struct KeyValue {
    binary: Vec<u8>,
}

impl KeyTemplate {
    /// The keys for these parameters.
    pub(crate) fn resolve(&self, env: &Env<'_>) -> Result<Keys, EvalError> {
        if let [row] = &self.rows[..]
            && let [column] = &row[..]
            && let Operand::One(expr) = &column.operand
        {
            return column.single(expr, env);
        }
        let mut keys = Keys::new();
        for row in &self.rows {
            self.resolve_row(row, env, &mut keys)?;
        }
        self.agree(&keys)?;
        Ok(keys)
    }

    /// Refuses keys that must be different and are not.
    pub(crate) fn agree(&self, keys: &Keys) -> Result<(), EvalError> {
        match self.distinct && has_duplicates(keys) {
            true => Err(EvalError::PassThrough("the same key appears twice")),
            false => Ok(()),
        }
    }

    /// The keys for these parameters, which are decoded first.
    pub fn keys(&self, params: &super::Params<'_>, settings: &Settings) -> Result<Keys, EvalError> {
        let bound = super::bind::bind(&self.params, params, settings)?;
        self.resolve(&Env {
            params: &bound,
            row: None,
            excluded: None,
            settings,
            now: None,
        })
    }

    fn resolve_row(
        &self,
        row: &[KeyColumn],
        env: &Env<'_>,
        keys: &mut Keys,
    ) -> Result<(), EvalError> {
        let mut partial: Vec<Key> = vec![Key::new()];
        for column in row {
            let values = column.values(env, self.ordered)?;
            if values.len() * partial.len() > KEYS_MAX {
                return Err(EvalError::PassThrough("too many keys"));
            }
            let mut longer = Vec::with_capacity(values.len() * partial.len());
            for prefix in &partial {
                for value in &values {
                    let mut key = prefix.clone();
                    column.append(&value.binary, &mut key)?;
                    longer.push(key);
                }
            }
            partial = longer;
        }
        keys.extend(partial);
        Ok(())
    }
}

fn has_duplicates(keys: &Keys) -> bool {
    let mut sorted: Vec<&Key> = keys.iter().collect();
    sorted.sort_unstable();
    sorted.windows(2).any(|pair| pair[0] == pair[1])
}

impl KeyColumn {
    /// The canonical type of the column's bytes.
    pub(crate) fn key_type(&self) -> TypeOid {
        key_type(self.type_oid, &self.repr)
    }

    fn append(&self, binary: &[u8], key: &mut Key) -> Result<(), EvalError> {
        value::key::append(self.key_type(), binary, key).map_err(|_| REFUSED)
    }

    /// The usual case: one column, one value. Allocates nothing for integers and short texts.
    fn single(&self, expr: &Expr, env: &Env<'_>) -> Result<Keys, EvalError> {
        let direct = match &expr.node {
            Node::Param(index) => env.params.get(*index).ok_or(REFUSED)?.as_ref(),
            _ => None,
        };
        let mut key = Key::new();
        match (direct, self.type_oid) {
            (Some(Scalar::Value(Value::Int4(number))), oid::INT4) => {
                self.append(&number.to_be_bytes(), &mut key)?;
            }
            (Some(Scalar::Value(Value::Int8(number))), oid::INT8) => {
                self.append(&number.to_be_bytes(), &mut key)?;
            }
            (Some(Scalar::Value(Value::Text(text))), oid::TEXT | oid::VARCHAR) => {
                self.append(text.as_bytes(), &mut key)?;
            }
            _ => {
                let Some(scalar) = expr.eval(env)? else {
                    return Ok(Keys::new());
                };
                let Some(value) = self.convert(&scalar, env.settings)? else {
                    return Ok(Keys::new());
                };
                self.append(&value.binary, &mut key)?;
            }
        }
        Ok(smallvec![key])
    }

    /// Every integer of the column's type in the range, ascending.
    fn within(&self, range: &Range, env: &Env<'_>) -> Result<Vec<KeyValue>, EvalError> {
        let (Some(low), Some(high)) = (range.low.integer(env)?, range.high.integer(env)?) else {
            return Ok(Vec::new());
        };
        let (least, greatest) = match self.type_oid {
            oid::INT2 => (i128::from(i16::MIN), i128::from(i16::MAX)),
            oid::INT4 => (i128::from(i32::MIN), i128::from(i32::MAX)),
            _ => (i128::from(i64::MIN), i128::from(i64::MAX)),
        };
        let low = least.max(low + i128::from(!range.low.inclusive));
        let high = greatest.min(high - i128::from(!range.high.inclusive));
        if high - low >= RANGE_KEYS_MAX {
            return Err(EvalError::PassThrough("the range of keys is wide"));
        }
        let bytes = match self.type_oid {
            oid::INT2 => 2,
            oid::INT4 => 4,
            _ => 8,
        };
        let value = |number: i128| KeyValue {
            binary: number.to_be_bytes()[16 - bytes..].to_vec(),
        };
        Ok((low..=high).map(value).collect())
    }

    /// The distinct values that the operand names, in the column's order when that is asked for.
    fn values(&self, env: &Env<'_>, ordered: bool) -> Result<Vec<KeyValue>, EvalError> {
        let mut values = Vec::new();
        match &self.operand {
            Operand::One(expr) => values.extend(self.evaluated(expr, env)?),
            Operand::List(exprs) => {
                for expr in exprs {
                    values.extend(self.evaluated(expr, env)?);
                }
            }
            Operand::Range(range) => return self.within(range, env),
            Operand::Any(expr) => {
                let Some(Scalar::Raw(bytes)) = expr.eval(env)? else {
                    return Ok(values);
                };
                let element_type = oid::array_element(expr.type_oid).ok_or(REFUSED)?;
                let elements = array::elements(expr.type_oid, &bytes).ok_or(REFUSED)?;
                for element in elements.into_iter().flatten() {
                    let scalar = Scalar::Value(Value::decode(element_type, element)?);
                    values.extend(self.convert(&scalar, env.settings)?);
                }
            }
        }
        if values.len() > 1 {
            self.sort(&mut values, ordered)?;
        }
        Ok(values)
    }

    fn evaluated(&self, expr: &Expr, env: &Env<'_>) -> Result<Option<KeyValue>, EvalError> {
        match expr.eval(env)? {
            Some(scalar) => self.convert(&scalar, env.settings),
            None => Ok(None),
        }
    }

    /// Sorts by the column's order, or by bytes where the order does not matter, and removes what is equal.
    fn sort(&self, values: &mut Vec<KeyValue>, ordered: bool) -> Result<(), EvalError> {
        let mut keyed: Vec<(Key, KeyValue)> = Vec::with_capacity(values.len());
        for value in values.drain(..) {
            let mut key = Key::new();
            self.append(&value.binary, &mut key)?;
            keyed.push((key, value));
        }
        keyed.sort_by(|left, right| left.0.cmp(&right.0));
        keyed.dedup_by(|right, left| right.0 == left.0);
        if ordered && keyed.len() > 1 {
            self.order(&mut keyed);
        }
        values.extend(keyed.into_iter().map(|(_, value)| value));
        Ok(())
    }

    /// Sorts by value. Where the order is not known here (text under a collation) that of bytes stays: without ORDER BY Postgres promises none, and
    /// gives that of the index or of the heap as its plan happens to be.
    fn order(&self, keyed: &mut [(Key, KeyValue)]) {
        let known = keyed
            .windows(2)
            .all(|pair| self.compare(&pair[0].1, &pair[1].1).is_ok());
        if known {
            keyed.sort_by(|left, right| {
                let ordering = self.compare(&left.1, &right.1);
                ordering.unwrap_or(Ordering::Equal)
            });
        }
    }

    fn compare(&self, left: &KeyValue, right: &KeyValue) -> Result<Ordering, EvalError> {
        let left = self.repr.decode(self.type_oid, &left.binary)?;
        let right = self.repr.decode(self.type_oid, &right.binary)?;
        let like = Expr {
            type_oid: self.type_oid,
            type_modifier: -1,
            repr: self.repr.clone(),
            order: self.order,
            node: Node::Const(None),
        };
        super::expr::order(&like, &left, &right, self.order)
    }

    /// The value in the column's type; `None` when no value of that type equals it.
    fn convert(
        &self,
        scalar: &Scalar<'_>,
        settings: &Settings,
    ) -> Result<Option<KeyValue>, EvalError> {
        let value = match scalar {
            Scalar::Raw(bytes) => {
                let binary = bytes.to_vec();
                return Ok(Some(KeyValue { binary }));
            }
            Scalar::Value(value) => value,
        };
        let same = match self.type_oid {
            oid::VARCHAR => oid::TEXT,
            _ if self.repr != Repr::Typed => value.type_oid(),
            other => other,
        };
        if value.type_oid() == same {
            let binary = value.to_binary();
            return Ok(Some(KeyValue { binary }));
        }
        match ops::cast(value, self.type_oid, -1, CastKind::Assignment, settings) {
            Ok(cast) => Ok(ops::equal(value, &cast)?.then(|| KeyValue {
                binary: cast.to_binary(),
            })),
            // Out of the column's range (NaN included): equal to nothing in it.
            Err(value::Failure::Sql(error)) if ["22003", "0A000"].contains(&error.sqlstate) => {
                Ok(None)
            }
            Err(_) => Err(REFUSED),
        }
    }
}

impl Bound {
    fn integer(&self, env: &Env<'_>) -> Result<Option<i128>, EvalError> {
        match self.expr.eval(env)? {
            None => Ok(None),
            Some(Scalar::Value(Value::Int2(number))) => Ok(Some(number.into())),
            Some(Scalar::Value(Value::Int4(number))) => Ok(Some(number.into())),
            Some(Scalar::Value(Value::Int8(number))) => Ok(Some(number.into())),
            Some(_) => Err(REFUSED),
        }
    }
}

/// The canonical type of the bytes of such a value.
pub(crate) fn key_type(type_oid: TypeOid, repr: &Repr) -> TypeOid {
    match repr {
        Repr::Enum(_) => value::ENUM_AS,
        Repr::Typed | Repr::Raw => type_oid,
    }
}

/// The key of a whole row, by the key columns' positions and types.
pub(crate) fn key_of(columns: &[(usize, TypeOid)], row: &Tuple) -> Result<Key, EvalError> {
    let mut key = Key::new();
    for (position, type_oid) in columns {
        let Datum::Value(bytes) = row.get(*position) else {
            return Err(REFUSED);
        };
        value::key::append(*type_oid, bytes, &mut key).map_err(|_| REFUSED)?;
    }
    Ok(key)
}
