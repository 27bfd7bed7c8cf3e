//! From SQL text to what is to be done with it: answered from the grid, queued, answered here, or passed through with the scopes it may touch.
//!
//! Synchronous and pure: text, catalog and session facts in, plan out. Never asks Postgres, never reads a row. Whatever is not proved passes through.

pub mod compile;
pub mod effects;
mod exists;
pub mod facts;
pub mod joins;
mod keyed;
pub mod local;
pub mod names;
mod narrow;
mod output;
pub mod parse;
pub mod pass;
mod ranges;
pub mod read;
pub mod reason;
mod relation;
pub mod rights;
pub mod scope;
pub mod sequences;
pub mod touch;
pub mod types;
pub mod utility;
pub mod write;

pub use compile::Draw;
pub use effects::{Effects, Isolation, TxControl};
pub use facts::{Mode, SessionFacts};
pub use local::{LocalCall, LocalPlan, Shown};
pub use pass::{PassPlan, StatementKind};
pub use read::ReadPlan;
pub use reason::Reason;
pub use scope::ScopeTemplate;
pub use sequences::{SequenceAsk, SequencePlan, SequenceUse};
pub use write::WritePlan;

use names::Names;
use narrow::Narrow;
use parse::NodeEnum;
use ripen_cachestore::catalog::{Catalog, Relation};
use ripen_pg::ids::TypeOid;
use std::sync::Arc;

/// What is to be done with one query text. Cheap to clone: the big ones are shared.
#[derive(Clone, Debug)]
pub enum Plan {
    /// A SELECT by key that memory can answer.
    Read(Arc<ReadPlan>),
    /// A write by key that may be queued.
    Write(Arc<WritePlan>),
    /// Answered by the proxy itself.
    Local(LocalPlan),
    /// For Postgres, with what it may touch.
    PassThrough(Arc<PassPlan>),
}

/// Plans a query text (which may hold several statements, or none).
///
/// `declared` are the parameter types of the Parse message (0 or missing: to be inferred). The plan holds for this catalog, these facts and these modes only.
pub fn plan(
    sql: &str,
    declared: &[TypeOid],
    catalog: &Arc<Catalog>,
    mode: &dyn Fn(&Relation) -> Mode,
    facts: &SessionFacts,
) -> Plan {
    let names = Names { catalog, facts };
    if !facts.standard_conforming_strings && sql.contains('\\') {
        let reason = Reason::new("string-syntax", "standard_conforming_strings is off");
        return pass(PassPlan::unknown(reason).with_text(sql));
    }
    let statements = match parse::parse(sql) {
        Ok(statements) => statements,
        Err(reason) => return pass(PassPlan::unknown(reason).with_text(sql)),
    };
    match &statements[..] {
        [] => Plan::Local(LocalPlan::Empty),
        [statement] => single(
            statement,
            &Asked {
                sql,
                declared,
                mode,
                names,
            },
        ),
        several => {
            let plan = PassPlan::of(names, several, None, |_| {
                Reason::new("several-statements", "the text holds several statements")
            });
            pass(plan.with_text(sql))
        }
    }
}

fn pass(plan: PassPlan) -> Plan {
    Plan::PassThrough(Arc::new(plan))
}

/// What `single` needs to know of the text beside its tree.
struct Asked<'a> {
    sql: &'a str,
    declared: &'a [TypeOid],
    mode: &'a dyn Fn(&Relation) -> Mode,
    names: Names<'a>,
}

fn single(statement: &NodeEnum, asked: &Asked<'_>) -> Plan {
    if let Some(local) = local::recognize(statement) {
        return Plan::Local(local);
    }
    if let Some(plan) = sequences::lone(asked.names, statement, asked.mode) {
        return Plan::Local(LocalPlan::Sequence(plan));
    }
    let pass_plan = |narrow, reason: Reason| {
        let statements = std::slice::from_ref(statement);
        let plan = PassPlan::of(asked.names, statements, narrow, |_| reason);
        plan.with_text(asked.sql)
    };
    let refused = match compiled(statement, asked) {
        Ok(Compiled::Read(draft)) => {
            let narrow = match draft.set {
                None if draft.joined.is_empty() => {
                    Some(Narrow::both(draft.table.oid, draft.query.keys.clone()))
                }
                _ => narrow::of(asked.names, statement, asked.declared, asked.sql),
            };
            let reason = match draft.lock {
                None => Reason::new("read", "is answered from memory"),
                Some(_) => Reason::new("row-locks", "locks rows"),
            };
            let fallback = pass_plan(narrow, reason);
            let source = write::Source::new(asked.sql, asked.declared);
            return Plan::Read(Arc::new(draft.finish(Arc::new(fallback), source)));
        }
        Ok(Compiled::Write(draft)) => {
            // What Postgres would draw in its place is not known.
            let narrow = match draft.draws.is_empty() && draft.query.each.is_none() {
                true => Some(Narrow::both(draft.table.oid, draft.query.keys.clone())),
                false => narrow::of(asked.names, statement, asked.declared, asked.sql),
            };
            let reason = Reason::new("write", "is queued");
            let fallback = pass_plan(narrow, reason);
            let source = write::Source::new(asked.sql, asked.declared);
            return Plan::Write(Arc::new(draft.finish(Arc::new(fallback), source)));
        }
        Err(reason) => reason,
    };
    let narrow = narrow::of(asked.names, statement, asked.declared, asked.sql);
    pass(pass_plan(narrow, refused))
}

enum Compiled {
    Read(read::Draft),
    Write(write::Draft),
}

/// Compiles a statement for memory, or says why it goes to Postgres.
fn compiled(statement: &NodeEnum, asked: &Asked<'_>) -> Result<Compiled, Reason> {
    let Asked {
        declared,
        mode,
        names,
        ..
    } = *asked;
    let kind = utility::query_kind(statement);
    if kind.is_some() && parse::has_odd_numbers(asked.sql, names.catalog.server_version) {
        return Err(Reason::new(
            "number-syntax",
            "holds a number that older servers read in another way",
        ));
    }
    match statement {
        NodeEnum::SelectStmt(select) => {
            read::compile(names, select, declared, mode).map(Compiled::Read)
        }
        other if kind.is_some() => {
            write::compile(names, other, declared, mode, asked.sql).map(Compiled::Write)
        }
        other => Err(general_reason(other)),
    }
}

/// Why a statement that is neither a query nor ours goes to Postgres.
fn general_reason(statement: &NodeEnum) -> Reason {
    match statement {
        NodeEnum::TransactionStmt(_) => Reason::new("transaction", "controls the transaction"),
        NodeEnum::VariableSetStmt(_)
        | NodeEnum::VariableShowStmt(_)
        | NodeEnum::DiscardStmt(_)
        | NodeEnum::ConstraintsSetStmt(_) => Reason::new("setting", "settings live in Postgres"),
        NodeEnum::DeclareCursorStmt(_) | NodeEnum::FetchStmt(_) | NodeEnum::ClosePortalStmt(_) => {
            Reason::new("cursor", "cursors live in Postgres")
        }
        NodeEnum::PrepareStmt(_) | NodeEnum::ExecuteStmt(_) | NodeEnum::DeallocateStmt(_) => {
            Reason::new("prepared", "SQL PREPARE lives in Postgres")
        }
        NodeEnum::CopyStmt(_) => Reason::new("copy", "COPY goes to Postgres"),
        NodeEnum::CallStmt(_) | NodeEnum::DoStmt(_) => Reason::new("code", "runs user code"),
        _ => Reason::new("utility", "this kind of statement goes to Postgres"),
    }
}
