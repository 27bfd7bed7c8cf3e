//! Runs compiled plans on rows and parameters, exactly as Postgres would. Synchronous, no clock: the time is an argument.
//!
//! Never guesses: any error, constraint violation, missing column or unproved case is [`EvalError::PassThrough`], so that Postgres itself says it.

pub mod aggregates;
mod array;
pub mod bind;
mod drawn;
pub(crate) mod each;
pub mod expr;
pub mod keys;
mod read;
pub mod render;
pub mod row;
mod write;

pub use drawn::Drawn;

use ripen_cachestore::change::CommitGroup;
use ripen_pg::ids::TypeOid;
use std::fmt;

/// Why a plan could not be run here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EvalError {
    /// The statement must go to Postgres; nothing has been done. The text is a reason for `SHOW ripen.route`.
    #[error("passed through: {0}")]
    PassThrough(&'static str),
}

/// Format codes of a Bind message: none (all text), one for all, or one each.
#[derive(Clone, Copy, Debug, Default)]
pub struct Formats<'a>(pub &'a [i16]);

impl Formats<'_> {
    /// The code for the column or parameter at `index`: 0 text, 1 binary.
    pub fn get(&self, index: usize) -> i16 {
        match self.0 {
            [] => 0,
            [all] => *all,
            each => each.get(index).copied().unwrap_or(0),
        }
    }
}

/// The parameters of one execution, borrowed from a Bind message.
#[derive(Clone, Copy, Debug, Default)]
pub struct Params<'a> {
    /// Their formats.
    pub formats: Formats<'a>,
    /// Their bytes; `None` is NULL.
    pub values: &'a [Option<&'a [u8]>],
}

/// The moments that `now()` and friends mean, in microseconds since 2000-01-01 00:00 UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// `statement_timestamp()`.
    pub statement_us: i64,
    /// `now()`, `transaction_timestamp()`: equal to the statement's outside transactions.
    pub transaction_us: i64,
}

impl Now {
    /// Of a statement that is its own transaction.
    pub fn of_statement(now_us: i64) -> Now {
        Now {
            statement_us: now_us,
            transaction_us: now_us,
        }
    }
}

/// An output column, for RowDescription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// Its name.
    pub name: String,
    /// The table it comes from; 0 for an expression.
    pub table: u32,
    /// `attnum` there; 0 for an expression.
    pub attnum: i16,
    /// Its type.
    pub type_oid: TypeOid,
    /// `typlen`.
    pub length: i16,
    /// `atttypmod`; -1 when there is none.
    pub type_modifier: i32,
}

/// The outcome of a write.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// What to queue; `None` when nothing changes.
    pub group: Option<CommitGroup>,
    /// For CommandComplete.
    pub tag: CommandTag,
}

/// A command tag with its row count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommandTag {
    /// `INSERT 0 n`
    Insert(u64),
    /// `UPDATE n`
    Update(u64),
    /// `DELETE n`
    Delete(u64),
    /// `SELECT n`
    Select(u64),
}

impl fmt::Display for CommandTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CommandTag::Insert(rows) => write!(f, "INSERT 0 {rows}"),
            CommandTag::Update(rows) => write!(f, "UPDATE {rows}"),
            CommandTag::Delete(rows) => write!(f, "DELETE {rows}"),
            CommandTag::Select(rows) => write!(f, "SELECT {rows}"),
        }
    }
}
