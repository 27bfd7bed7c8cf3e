//! Writes commit groups by the statements that `plan.rs` decides, inside a transaction that the caller has begun. Never begins or ends one.

use super::pipeline::pipeline;
use super::plan::{self, Expect, Misfit, Step};
use super::written::Written;
use super::{Answer, Command, simple, tables};
use crate::catalog::Relation;
use crate::change::CommitGroup;
use crate::error::StoreError;
use crate::raw::{RawParam, dynamic};
use crate::sql::qualified;
use crate::store::Connection;
use ripen_pg::ids::TableOid;
use std::collections::BTreeSet;
use tokio_postgres::{Error, Statement};

/// Where to, and what the bytes mean.
#[derive(Clone, Copy)]
pub struct Write<'a> {
    pub client: &'a Connection,
    pub written: Written<'a>,
}

impl Write<'_> {
    /// Writes some groups and returns how many rows to delete were gone already. After an error the caller rolls back.
    pub async fn groups(&self, groups: &[CommitGroup]) -> Result<u64, StoreError> {
        let groups: Vec<&CommitGroup> = groups.iter().collect();
        let steps = plan::plan(self.written, &groups).map_err(misfit)?;
        let prepared = self.prepare(&steps).await?;
        let tables = self.tables(&steps);
        let names: Vec<String> = tables.iter().map(|table| qualified(table)).collect();
        let check = self.client.prepare_cached(tables::SQL).await?;
        let mut commands = Vec::new();
        for (step, statement) in steps.iter().zip(&prepared) {
            commands.extend(step.calls.iter().map(|call| self.execute(statement, call)));
        }
        commands.push(simple(self.client, "SET CONSTRAINTS ALL IMMEDIATE"));
        let (check, names) = (&check, &names);
        commands.push(Box::pin(async move {
            self.client.query(check, &[names]).await.map(Answer::Rows)
        }));
        let answers = pipeline(commands).await?;
        if let Some(Answer::Rows(rows)) = answers.last() {
            tables::same(&tables, rows)?;
        }
        self.count(&steps, &answers)
    }

    async fn prepare(&self, steps: &[Step]) -> Result<Vec<Statement>, Error> {
        let mut prepared = Vec::with_capacity(steps.len());
        for step in steps {
            prepared.push(self.client.prepare_cached(&step.sql).await?);
        }
        Ok(prepared)
    }

    fn execute<'b>(&'b self, statement: &'b Statement, call: &'b [RawParam]) -> Command<'b> {
        Box::pin(async move {
            let count = self.client.execute(statement, &dynamic(call)).await;
            count.map(Answer::Count)
        })
    }

    fn table(&self, table: TableOid) -> &Relation {
        &self.written.catalog.relations[&table]
    }

    /// Each table once.
    fn tables(&self, steps: &[Step]) -> Vec<&Relation> {
        let tables: BTreeSet<TableOid> = steps.iter().map(|step| step.table).collect();
        tables.into_iter().map(|table| self.table(table)).collect()
    }

    /// Compares row counts with what was given.
    fn count(&self, steps: &[Step], answers: &[Answer]) -> Result<u64, StoreError> {
        let (mut gone, mut answers) = (0, answers.iter());
        for step in steps {
            let counts = answers.by_ref().take(step.calls.len());
            let found: u64 = counts
                .map(|answer| match answer {
                    Answer::Count(count) => *count,
                    Answer::Done | Answer::Rows(_) => 0,
                })
                .sum();
            match step.expect {
                Expect::All if found != step.rows => {
                    let missing = step.rows.saturating_sub(found);
                    let name = qualified(self.table(step.table));
                    return Err(StoreError::Change {
                        sqlstate: "02000",
                        message: format!(
                            "{missing} of {} rows of {name} were deleted outside",
                            step.rows
                        ),
                    });
                }
                Expect::Gone => gone += step.rows.saturating_sub(found),
                Expect::All | Expect::Any => {}
            }
        }
        Ok(gone)
    }
}

/// The group's place does not matter: halving finds it.
fn misfit(misfit: Misfit) -> StoreError {
    StoreError::Change {
        sqlstate: misfit.sqlstate,
        message: misfit.message,
    }
}
