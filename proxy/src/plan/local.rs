//! Statements that the proxy answers itself: `SHOW ripen.…`, `CALL ripen.…`, and the transaction commands that may need no Postgres. Never touches rows.

use super::effects::{TxControl, TxModes};
use super::parse::{NodeEnum, integer_constant, items, pb, string_constant, strings};
use super::sequences::SequencePlan;
use super::utility::tx_control;

/// What the proxy is to do itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LocalPlan {
    /// Nothing in the text: EmptyQueryResponse.
    Empty,
    /// `SHOW ripen.…`.
    Show(Shown),
    /// `CALL ripen.…`.
    Call(LocalCall),
    /// A lone `SELECT nextval('s')`, `currval('s')` or `lastval()`. May be relayed instead: it touches nothing.
    Sequence(SequencePlan),
    /// A lone BEGIN or START TRANSACTION. May be relayed instead: it touches nothing.
    Begin {
        /// As said.
        modes: TxModes,
        /// Whether it said START TRANSACTION (the command tag repeats it).
        start: bool,
    },
    /// A lone COMMIT or END. May be relayed instead.
    Commit {
        /// AND CHAIN.
        chain: bool,
    },
    /// A lone ROLLBACK or ABORT. May be relayed instead.
    Rollback {
        /// AND CHAIN.
        chain: bool,
    },
    /// A lone SAVEPOINT of that name. May be relayed instead.
    Savepoint(String),
    /// A lone RELEASE. May be relayed instead.
    Release(String),
    /// A lone ROLLBACK TO. May be relayed instead.
    RollbackTo(String),
}

/// What `SHOW ripen.…` shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// `ripen.status`
    Status,
    /// `ripen.tables`
    Tables,
    /// `ripen.queue`
    Queue,
    /// `ripen.hotcache`
    Hotcache,
    /// `ripen.clients`
    Clients,
    /// `ripen.config`
    Config,
    /// `ripen.route`: the way that the session's last statement took.
    Route,
    /// `ripen.dead_letters`
    DeadLetters,
    /// `ripen.nodes`: the members of the cluster.
    Nodes,
    /// `ripen.logs`: what each of them has on its way.
    Logs,
    /// `ripen.standbys`: those of the system of record that flushes are kept for.
    Standbys,
    /// `ripen.version`
    Version,
}

/// What `CALL ripen.…` does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LocalCall {
    /// `ripen.flush()`, `ripen.flush('table')`: the table as written, to be resolved as a name.
    Flush {
        /// `None`: all.
        table: Option<String>,
    },
    /// `ripen.replay(id)`: a dead letter.
    Replay(i64),
    /// `ripen.discard(id)`: a dead letter.
    Discard(i64),
    /// `ripen.route('statement')`: which way it would take, and why.
    Route(String),
}

/// The local plan of a lone statement, if it has one.
pub fn recognize(statement: &NodeEnum) -> Option<LocalPlan> {
    match statement {
        NodeEnum::VariableShowStmt(show) => Some(LocalPlan::Show(shown(&show.name)?)),
        NodeEnum::CallStmt(call) => Some(LocalPlan::Call(called(call.funccall.as_deref()?)?)),
        NodeEnum::TransactionStmt(statement) => transaction(statement),
        _ => None,
    }
}

fn shown(name: &str) -> Option<Shown> {
    match name.strip_prefix("ripen.")? {
        "status" => Some(Shown::Status),
        "tables" => Some(Shown::Tables),
        "queue" => Some(Shown::Queue),
        "hotcache" => Some(Shown::Hotcache),
        "clients" => Some(Shown::Clients),
        "config" => Some(Shown::Config),
        "route" => Some(Shown::Route),
        "dead_letters" => Some(Shown::DeadLetters),
        "nodes" => Some(Shown::Nodes),
        "logs" => Some(Shown::Logs),
        "standbys" => Some(Shown::Standbys),
        "version" => Some(Shown::Version),
        _ => None,
    }
}

fn called(call: &pb::FuncCall) -> Option<LocalCall> {
    let ["ripen", name] = strings(&call.funcname)[..] else {
        return None;
    };
    let arguments: Vec<&NodeEnum> = items(&call.args).collect();
    match (name, &arguments[..]) {
        ("flush", []) => Some(LocalCall::Flush { table: None }),
        ("flush", [table]) => Some(LocalCall::Flush {
            table: Some(string_constant(table)?.to_owned()),
        }),
        ("replay", [id]) => Some(LocalCall::Replay(integer_constant(id)?)),
        ("discard", [id]) => Some(LocalCall::Discard(integer_constant(id)?)),
        ("route", [sql]) => Some(LocalCall::Route(string_constant(sql)?.to_owned())),
        _ => None,
    }
}

fn transaction(statement: &pb::TransactionStmt) -> Option<LocalPlan> {
    use pb::TransactionStmtKind as Kind;
    let name = || statement.savepoint_name.clone();
    match Kind::try_from(statement.kind) {
        Ok(Kind::TransStmtSavepoint) => return Some(LocalPlan::Savepoint(name())),
        Ok(Kind::TransStmtRelease) => return Some(LocalPlan::Release(name())),
        Ok(Kind::TransStmtRollbackTo) => return Some(LocalPlan::RollbackTo(name())),
        _ => {}
    }
    match tx_control(statement) {
        TxControl::Begin(modes) => Some(LocalPlan::Begin {
            modes,
            start: statement.kind == pb::TransactionStmtKind::TransStmtStart as i32,
        }),
        TxControl::Commit { chain } => Some(LocalPlan::Commit { chain }),
        TxControl::Rollback { chain } => Some(LocalPlan::Rollback { chain }),
        _ => None,
    }
}
