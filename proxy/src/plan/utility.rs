//! Scopes and effects of statements that are not queries: COPY, TRUNCATE, DDL, settings, transactions, cursors. What is not listed touches everything.

use super::effects::{Isolation, TxControl, TxModes};
use super::names::Named;
use super::parse::{NodeEnum, inner, items, pb, strings};
use super::pass::StatementKind;
use super::sequences::SequenceUse;
use super::touch::Touch;
use super::touch::relation::Access;
use ripen_cachestore::catalog::Relation;

impl Touch<'_> {
    /// Walks any statement, and says what it is.
    pub fn any_statement(&mut self, node: &NodeEnum) -> StatementKind {
        if let Some(kind) = query_kind(node) {
            self.statement(node);
            return kind;
        }
        match node {
            NodeEnum::TransactionStmt(_)
            | NodeEnum::VariableSetStmt(_)
            | NodeEnum::VariableShowStmt(_)
            | NodeEnum::DiscardStmt(_)
            | NodeEnum::ConstraintsSetStmt(_)
            | NodeEnum::ListenStmt(_)
            | NodeEnum::UnlistenStmt(_)
            | NodeEnum::NotifyStmt(_)
            | NodeEnum::PrepareStmt(_)
            | NodeEnum::ExecuteStmt(_)
            | NodeEnum::DeallocateStmt(_) => self.session_statement(node),
            NodeEnum::DeclareCursorStmt(cursor) => {
                self.effects.cursor = true;
                self.nested(&cursor.query);
                StatementKind::Cursor
            }
            NodeEnum::FetchStmt(_) | NodeEnum::ClosePortalStmt(_) => {
                self.effects.cursor = true;
                StatementKind::Cursor
            }
            NodeEnum::CopyStmt(copy) => self.copy(copy),
            NodeEnum::TruncateStmt(truncate) => self.truncate_statement(truncate),
            NodeEnum::LockStmt(lock) => {
                self.relations(&lock.relations, &Access::Lock);
                StatementKind::Lock
            }
            NodeEnum::ExplainStmt(explain) => self.explain(explain),
            NodeEnum::DoStmt(_) | NodeEnum::CallStmt(_) => {
                self.effects.own_transaction = true;
                self.user_code("runs user code");
                StatementKind::Code
            }
            NodeEnum::VacuumStmt(vacuum) => self.vacuum(vacuum),
            NodeEnum::ClusterStmt(_) | NodeEnum::ReindexStmt(_) => {
                // Rows stay as they are; index expressions may run code, but see no row that was not there.
                self.effects.own_transaction = true;
                StatementKind::Maintenance
            }
            NodeEnum::CheckPointStmt(_) => StatementKind::Maintenance,
            ddl => self.ddl(ddl),
        }
    }

    /// A statement inside another one.
    fn nested(&mut self, query: &Option<Box<pb::Node>>) {
        match inner(query) {
            Some(query) => drop(self.any_statement(query)),
            None => self.everything("holds a statement that is not understood"),
        }
    }

    fn relations(&mut self, nodes: &[pb::Node], access: &Access) {
        for node in items(nodes) {
            match node {
                NodeEnum::RangeVar(var) => drop(self.touch(var, access)),
                _ => self.everything("names a relation in an unknown way"),
            }
        }
    }

    fn session_statement(&mut self, node: &NodeEnum) -> StatementKind {
        match node {
            NodeEnum::TransactionStmt(transaction) => {
                self.transaction(transaction);
                StatementKind::Transaction
            }
            NodeEnum::VariableSetStmt(set) => {
                match set_transaction(set) {
                    Some(modes) => self.effects.transaction.push(TxControl::Set(modes)),
                    None => self.effects.settings = true,
                }
                StatementKind::Setting
            }
            NodeEnum::DiscardStmt(discard) => {
                self.discard(discard);
                StatementKind::Setting
            }
            NodeEnum::ConstraintsSetStmt(_) => {
                self.user_code("runs deferred triggers");
                StatementKind::Setting
            }
            NodeEnum::ListenStmt(_) | NodeEnum::UnlistenStmt(_) => {
                self.effects.listen = true;
                StatementKind::Notify
            }
            NodeEnum::NotifyStmt(_) => StatementKind::Notify,
            NodeEnum::PrepareStmt(prepare) => {
                self.effects.prepares.push(prepare.name.clone());
                StatementKind::Prepared
            }
            NodeEnum::DeallocateStmt(deallocate) => {
                self.effects.prepares.push(deallocate.name.clone());
                StatementKind::Prepared
            }
            NodeEnum::ExecuteStmt(execute) => {
                self.effects.prepares.push(execute.name.clone());
                self.user_code("runs a statement prepared by SQL");
                StatementKind::Prepared
            }
            _ => StatementKind::Setting,
        }
    }

    fn transaction(&mut self, statement: &pb::TransactionStmt) {
        let control = tx_control(statement);
        // Reads nothing.
        if control == TxControl::EndPrepared {
            self.writes.everything = true;
            self.widened.get_or_insert("ends a prepared transaction");
        }
        self.effects.transaction.push(control);
    }

    fn discard(&mut self, discard: &pb::DiscardStmt) {
        let all = discard.target == pb::DiscardMode::DiscardAll as i32;
        if all {
            self.effects.settings = true;
            self.effects.session_locks = true;
            self.effects.cursor = true;
            self.effects.listen = true;
        }
        if all || discard.target == pb::DiscardMode::DiscardTemp as i32 {
            self.effects.temp_tables = true;
        }
        if all {
            self.effects.prepares.push(String::new());
        }
        if all || discard.target == pb::DiscardMode::DiscardSequences as i32 {
            self.effects.sequences = SequenceUse::Moves;
        }
    }

    fn copy(&mut self, copy: &pb::CopyStmt) -> StatementKind {
        self.effects.copy = copy.filename.is_empty() && !copy.is_program;
        match &copy.relation {
            Some(var) if copy.is_from => drop(self.touch(var, &Access::Insert)),
            Some(var) => drop(self.touch(var, &Access::Read)),
            None => self.nested(&copy.query),
        }
        self.optional(&copy.where_clause);
        if self.names.catalog.untrusted_operators {
            self.read_everything("operators or casts run user code");
        }
        StatementKind::Copy
    }

    fn truncate_statement(&mut self, truncate: &pb::TruncateStmt) -> StatementKind {
        let cascade = truncate.behavior == pb::DropBehavior::DropCascade as i32;
        for node in items(&truncate.relations) {
            if let NodeEnum::RangeVar(var) = node
                && let Some(relation) = self.touch(var, &Access::All)
            {
                self.truncate(&relation, cascade);
            }
        }
        if truncate.restart_seqs {
            self.everything("changes a sequence");
        }
        StatementKind::Truncate
    }

    /// Only ANALYZE runs the statement; without it only the planner looks at it. EXECUTE computes its arguments, and names what must be there.
    fn explain(&mut self, explain: &pb::ExplainStmt) -> StatementKind {
        let analyze = items(&explain.options).any(
            |option| matches!(option, NodeEnum::DefElem(option) if option.defname == "analyze"),
        );
        let executed = match inner(&explain.query) {
            Some(NodeEnum::CreateTableAsStmt(create)) => &create.query,
            _ => &explain.query,
        };
        if analyze {
            self.nested(&explain.query);
        } else if let Some(NodeEnum::ExecuteStmt(_)) = inner(executed) {
            self.nested(executed);
        }
        StatementKind::Explain
    }

    fn vacuum(&mut self, vacuum: &pb::VacuumStmt) -> StatementKind {
        self.effects.own_transaction = vacuum.is_vacuumcmd;
        for node in items(&vacuum.rels) {
            if let NodeEnum::VacuumRelation(relation) = node
                && let Some(var) = &relation.relation
            {
                self.touch(var, &Access::Read);
            }
        }
        if vacuum.rels.is_empty() {
            self.reads.everything = true;
        }
        StatementKind::Maintenance
    }

    fn ddl(&mut self, node: &NodeEnum) -> StatementKind {
        self.effects.ddl = true;
        let changes_meanings = self.changes_meanings(node);
        self.effects.meanings |= changes_meanings;
        self.effects.rewires |= changes_meanings && !adds_only(node);
        if self.names.catalog.event_triggers {
            self.user_code("event triggers run user code");
        }
        if self.names.facts.temp_possible && makes_opaque(node) {
            self.effects.temp_opaque = true;
        }
        match node {
            NodeEnum::CreateStmt(create) => self.create_table(create, node),
            NodeEnum::CreateTableAsStmt(create) => self.create_table_as(create),
            NodeEnum::ViewStmt(view) => self.create_view(view),
            NodeEnum::RefreshMatViewStmt(refresh) => {
                if let Some(var) = &refresh.relation {
                    self.touch(var, &Access::All);
                }
                self.read_everything("refreshes a materialized view");
            }
            NodeEnum::AlterTableStmt(alter) => {
                self.unpublish(alter);
                self.ddl_on_named(node);
            }
            NodeEnum::IndexStmt(_)
            | NodeEnum::CreateTrigStmt(_)
            | NodeEnum::RuleStmt(_)
            | NodeEnum::CreatePolicyStmt(_)
            | NodeEnum::AlterPolicyStmt(_)
            | NodeEnum::CreateStatsStmt(_) => self.ddl_on_named(node),
            NodeEnum::RenameStmt(rename) if rename.relation.is_some() => self.ddl_on_named(node),
            NodeEnum::AlterObjectSchemaStmt(alter) if alter.relation.is_some() => {
                self.ddl_on_named(node);
            }
            NodeEnum::DropStmt(drop) => self.drop_statement(drop),
            NodeEnum::GrantStmt(_)
            | NodeEnum::GrantRoleStmt(_)
            | NodeEnum::AlterDefaultPrivilegesStmt(_)
            | NodeEnum::CreateRoleStmt(_)
            | NodeEnum::AlterRoleStmt(_)
            | NodeEnum::AlterRoleSetStmt(_)
            | NodeEnum::DropRoleStmt(_) => self.effects.grants = true,
            NodeEnum::CommentStmt(_)
            | NodeEnum::CreateSeqStmt(_)
            | NodeEnum::AlterSeqStmt(_)
            | NodeEnum::CreateEnumStmt(_)
            | NodeEnum::AlterEnumStmt(_)
            | NodeEnum::CompositeTypeStmt(_)
            | NodeEnum::CreateFunctionStmt(_)
            | NodeEnum::AlterFunctionStmt(_)
            | NodeEnum::CreateDomainStmt(_)
            | NodeEnum::AlterDatabaseSetStmt(_)
            | NodeEnum::AlterSystemStmt(_) => {}
            NodeEnum::CreateSchemaStmt(schema) if schema.schema_elts.is_empty() => {}
            NodeEnum::CreatedbStmt(_) | NodeEnum::DropdbStmt(_) => {
                self.effects.own_transaction = true;
            }
            _ => self.user_code("changes the schema in a way that is not followed"),
        }
        StatementKind::Ddl
    }

    /// All DDL but what concerns temporary tables only: that they may hide others is known anyway.
    fn changes_meanings(&self, node: &NodeEnum) -> bool {
        let hides = |var: &Option<pb::RangeVar>| var.as_ref().is_some_and(is_temporary);
        let is_known = |named: Named| matches!(named, Named::Known { .. });
        match node {
            NodeEnum::CreateStmt(create) => !hides(&create.relation),
            // `made_by_into` says it.
            NodeEnum::CreateTableAsStmt(_) => false,
            NodeEnum::IndexStmt(index) => {
                let var = index.relation.as_ref();
                var.is_none_or(|var| is_known(self.names.relation(var)))
            }
            NodeEnum::DropStmt(drop) => items(&drop.objects).any(|object| match object {
                NodeEnum::List(name) => is_known(self.names.relation_of(&strings(&name.items))),
                _ => true,
            }),
            NodeEnum::CommentStmt(_) => false,
            _ => true,
        }
    }

    fn create_table(&mut self, create: &pb::CreateStmt, node: &NodeEnum) {
        let temporary = create.relation.as_ref().is_some_and(is_temporary);
        self.effects.temp_tables |= temporary;
        self.walk_ddl(node, create.relation.as_ref());
        if temporary && self.effects.code {
            self.effects.temp_opaque = true;
        }
    }

    fn create_table_as(&mut self, create: &pb::CreateTableAsStmt) {
        if let Some(into) = &create.into {
            self.made_by_into(into);
        }
        self.nested(&create.query);
    }

    fn create_view(&mut self, view: &pb::ViewStmt) {
        if view.view.as_ref().is_some_and(is_temporary) || self.names.facts.temp_possible {
            self.effects.temp_tables = true;
            self.effects.temp_opaque = true;
        }
    }

    /// A published table must keep its replica identity, and cannot become unlogged.
    fn unpublish(&mut self, alter: &pb::AlterTableStmt) {
        let relation = alter.relation.as_ref().map(|var| self.names.relation(var));
        let Some(Named::Known { relation, .. }) = relation else {
            return;
        };
        if items(&alter.cmds).any(|command| loses_identity(command, &relation)) {
            self.effects.unpublish.extend(&relation.read_closure);
        }
    }

    /// DDL on relations that it names by RangeVar: they may be rewritten, scanned, or attached.
    fn ddl_on_named(&mut self, node: &NodeEnum) {
        self.walk_ddl(node, None);
    }

    /// Touches every relation named anywhere in the tree but the one that is made.
    fn walk_ddl(&mut self, node: &NodeEnum, made: Option<&pb::RangeVar>) {
        let Ok(tree) = serde_json::to_value(node) else {
            return self.user_code("changes the schema in a way that is not followed");
        };
        self.walk_ddl_tree(&tree, made);
    }

    fn walk_ddl_tree(&mut self, tree: &serde_json::Value, made: Option<&pb::RangeVar>) {
        match tree {
            serde_json::Value::Object(fields) => {
                if let Some(function) = fields.get("FuncCall").filter(|call| !call.is_null()) {
                    self.ddl_function(function);
                }
                if let Some(var) = range_var(fields)
                    && made.is_none_or(|made| !same_name(made, &var))
                {
                    self.touch(&var, &Access::All);
                }
                fields
                    .values()
                    .for_each(|below| self.walk_ddl_tree(below, made));
            }
            serde_json::Value::Array(values) => {
                values
                    .iter()
                    .for_each(|below| self.walk_ddl_tree(below, made));
            }
            _ => {}
        }
    }

    fn ddl_function(&mut self, call: &serde_json::Value) {
        let parts: Vec<&str> = call["funcname"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|part| part["node"]["String"]["sval"].as_str())
            .collect();
        self.function(&parts);
    }

    fn drop_statement(&mut self, drop: &pb::DropStmt) {
        let cascade = drop.behavior == pb::DropBehavior::DropCascade as i32;
        let table_like = [
            pb::ObjectType::ObjectTable as i32,
            pb::ObjectType::ObjectView as i32,
            pb::ObjectType::ObjectMatview as i32,
            pb::ObjectType::ObjectForeignTable as i32,
        ];
        if cascade || !table_like.contains(&drop.remove_type) {
            return self.user_code("drops more than it names");
        }
        for object in items(&drop.objects) {
            match object {
                NodeEnum::List(name) => {
                    let named = self.names.relation_of(&strings(&name.items));
                    // What does not exist here cannot be cached here.
                    if matches!(named, Named::Known { .. }) {
                        self.touch_named(named, &Access::All);
                    }
                }
                _ => self.user_code("drops more than it names"),
            }
        }
    }
}

/// SELECT and the statements that change rows.
pub fn query_kind(node: &NodeEnum) -> Option<StatementKind> {
    match node {
        NodeEnum::SelectStmt(_) => Some(StatementKind::Select),
        NodeEnum::InsertStmt(_) => Some(StatementKind::Insert),
        NodeEnum::UpdateStmt(_) => Some(StatementKind::Update),
        NodeEnum::DeleteStmt(_) => Some(StatementKind::Delete),
        NodeEnum::MergeStmt(_) => Some(StatementKind::Merge),
        _ => None,
    }
}

fn is_temporary(var: &pb::RangeVar) -> bool {
    var.relpersistence == "t" || var.schemaname.starts_with("pg_temp")
}

/// DDL that may give a temporary table a trigger, a rule or a default that runs code.
fn makes_opaque(node: &NodeEnum) -> bool {
    !matches!(
        node,
        NodeEnum::CreateStmt(_)
            | NodeEnum::CreateTableAsStmt(_)
            | NodeEnum::IndexStmt(_)
            | NodeEnum::DropStmt(_)
            | NodeEnum::CommentStmt(_)
            | NodeEnum::GrantStmt(_)
            | NodeEnum::RefreshMatViewStmt(_)
    )
}

/// DDL that only adds what nothing leads to yet, or changes nothing that a statement's reach depends on.
fn adds_only(node: &NodeEnum) -> bool {
    matches!(
        node,
        NodeEnum::CreateStmt(_)
            | NodeEnum::IndexStmt(_)
            | NodeEnum::RefreshMatViewStmt(_)
            | NodeEnum::CreateStatsStmt(_)
            | NodeEnum::CreateSeqStmt(_)
            | NodeEnum::AlterSeqStmt(_)
            | NodeEnum::CreateEnumStmt(_)
            | NodeEnum::AlterEnumStmt(_)
            | NodeEnum::CompositeTypeStmt(_)
            | NodeEnum::GrantStmt(_)
            | NodeEnum::CreateRoleStmt(_)
            | NodeEnum::CreatedbStmt(_)
            | NodeEnum::DropdbStmt(_)
    )
}

/// Whether the command may take the replica identity away, or is refused for published tables.
fn loses_identity(command: &NodeEnum, relation: &Relation) -> bool {
    use pb::AlterTableType as Kind;
    let NodeEnum::AlterTableCmd(command) = command else {
        return true;
    };
    match Kind::try_from(command.subtype) {
        // Which constraint the primary key is, the catalog does not say.
        Ok(Kind::AtDropConstraint | Kind::AtReplicaIdentity | Kind::AtSetUnLogged) => true,
        Ok(Kind::AtDropColumn) => relation
            .column_named(&command.name)
            .is_some_and(|column| relation.primary_key.contains(&column.position)),
        _ => false,
    }
}

fn same_name(made: &pb::RangeVar, var: &pb::RangeVar) -> bool {
    made.relname == var.relname && made.schemaname == var.schemaname
}

/// A RangeVar among serialized nodes, whether wrapped in a Node or a plain field.
fn range_var(fields: &serde_json::Map<String, serde_json::Value>) -> Option<pb::RangeVar> {
    let text = |name: &str| Some(fields.get(name)?.as_str()?.to_owned());
    Some(pb::RangeVar {
        relname: text("relname")?,
        schemaname: text("schemaname")?,
        catalogname: text("catalogname")?,
        relpersistence: text("relpersistence")?,
        ..Default::default()
    })
}

/// What a transaction command does.
pub fn tx_control(statement: &pb::TransactionStmt) -> TxControl {
    use pb::TransactionStmtKind as Kind;
    let chain = statement.chain;
    match Kind::try_from(statement.kind) {
        Ok(Kind::TransStmtBegin | Kind::TransStmtStart) => {
            TxControl::Begin(tx_modes(&statement.options))
        }
        Ok(Kind::TransStmtCommit) => TxControl::Commit { chain },
        Ok(Kind::TransStmtRollback) => TxControl::Rollback { chain },
        Ok(Kind::TransStmtSavepoint | Kind::TransStmtRelease) => TxControl::Savepoint,
        Ok(Kind::TransStmtRollbackTo) => TxControl::RollbackTo,
        Ok(Kind::TransStmtPrepare) => TxControl::Prepare(statement.gid.clone()),
        Ok(Kind::TransStmtCommitPrepared | Kind::TransStmtRollbackPrepared)
        | Ok(Kind::Undefined)
        | Err(_) => TxControl::EndPrepared,
    }
}

/// Modes of SET TRANSACTION; `None` when the statement sets something else.
fn set_transaction(set: &pb::VariableSetStmt) -> Option<TxModes> {
    match set.name.as_str() {
        "TRANSACTION" => Some(tx_modes(&set.args)),
        "TRANSACTION SNAPSHOT" => Some(TxModes {
            other: true,
            ..TxModes::default()
        }),
        "transaction_isolation" => {
            let isolation = items(&set.args).next().and_then(isolation);
            Some(TxModes {
                isolation,
                other: isolation.is_none(),
                ..TxModes::default()
            })
        }
        _ => None,
    }
}

fn tx_modes(options: &[pb::Node]) -> TxModes {
    let mut modes = TxModes::default();
    for option in items(options) {
        let NodeEnum::DefElem(option) = option else {
            modes.other = true;
            continue;
        };
        let value = inner(&option.arg);
        match option.defname.as_str() {
            "transaction_isolation" => {
                modes.isolation = value.and_then(isolation);
                modes.other |= modes.isolation.is_none();
            }
            "transaction_read_only" => modes.read_only = value.and_then(truth),
            "transaction_deferrable" => modes.deferrable = value.and_then(truth),
            _ => modes.other = true,
        }
    }
    modes
}

fn isolation(node: &NodeEnum) -> Option<Isolation> {
    let level = super::parse::string_constant(node)?;
    [
        ("read uncommitted", Isolation::ReadUncommitted),
        ("read committed", Isolation::ReadCommitted),
        ("repeatable read", Isolation::RepeatableRead),
        ("serializable", Isolation::Serializable),
    ]
    .into_iter()
    .find_map(|(name, isolation)| level.eq_ignore_ascii_case(name).then_some(isolation))
}

fn truth(node: &NodeEnum) -> Option<bool> {
    Some(super::parse::integer_constant(node)? != 0)
}
