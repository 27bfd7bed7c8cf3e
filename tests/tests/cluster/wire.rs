//! A client's connection: prepares each statement once, gives up what is not answered, and says of each failure what a program could tell of it.

use std::collections::HashMap;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Error, NoTls, Statement};

/// Longer than any bound that Ripen is set to: whoever waits longer waits for ever.
const HANG: Duration = Duration::from_secs(40);
/// Longer than a login takes on a busy machine, Postgres's part of it included.
const CONNECT: Duration = Duration::from_secs(10);

/// What a connection does to its client, to see whether that is found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    /// A read is now and then told again what it was told before.
    Stale,
    /// A write is now and then acknowledged and forgotten.
    Lost,
    /// A write is now and then done twice.
    Twice,
}

/// One statement out of so many is lied about.
const HONEST: u32 = 20;

pub struct Wire {
    client: Client,
    lie: Option<Lie>,
    told: HashMap<String, Vec<i64>>,
    connection: JoinHandle<Result<(), Error>>,
    statements: HashMap<&'static str, Statement>,
    given_up: bool,
}

pub struct Failure {
    /// SQLSTATE, or "closed", or "no answer".
    pub code: String,
    pub text: String,
}

impl Wire {
    pub async fn connect(url: &str, lie: Option<Lie>) -> Result<Wire, Failure> {
        let connected = tokio::time::timeout(CONNECT, tokio_postgres::connect(url, NoTls)).await;
        let (client, connection) = connected.map_err(|_| no_answer())?.map_err(Failure::from)?;
        Ok(Wire {
            client,
            lie,
            told: HashMap::new(),
            connection: tokio::spawn(connection),
            statements: HashMap::new(),
            given_up: false,
        })
    }

    pub fn is_open(&self) -> bool {
        !self.given_up && !self.client.is_closed()
    }

    pub async fn numbers(
        &mut self,
        sql: &'static str,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<i64>, Failure> {
        let read = format!("{sql} {params:?}");
        if self.lies(Lie::Stale)
            && let Some(told) = self.told.get(&read)
        {
            return Ok(told.clone());
        }
        let statement = self.prepare(sql).await?;
        let rows = in_time(self.client.query(&statement, params)).await;
        let rows = self.keep(rows).await?;
        let told: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
        if self.lie.is_some() && sql.starts_with("SELECT") {
            self.told.insert(read, told.clone());
        }
        Ok(told)
    }

    /// Answers how many rows were changed.
    pub async fn execute(
        &mut self,
        sql: &'static str,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<u64, Failure> {
        let statement = self.prepare(sql).await?;
        let counts = sql.contains("v + 1");
        if counts && self.lies(Lie::Lost) {
            return Ok(1);
        }
        if counts && self.lies(Lie::Twice) {
            let done = in_time(self.client.execute(&statement, params)).await;
            self.keep(done).await?;
        }
        let done = in_time(self.client.execute(&statement, params)).await;
        self.keep(done).await
    }

    fn lies(&self, how: Lie) -> bool {
        self.lie == Some(how) && rand::random_range(0..HONEST) == 0
    }

    pub async fn text(&mut self, sql: &str) -> Result<(), Failure> {
        let done = in_time(self.client.batch_execute(sql)).await;
        self.keep(done).await
    }

    pub async fn roll_back_or_close(&mut self) {
        self.given_up = self.given_up || self.text("ROLLBACK").await.is_err();
    }

    async fn prepare(&mut self, sql: &'static str) -> Result<Statement, Failure> {
        if let Some(statement) = self.statements.get(sql) {
            return Ok(statement.clone());
        }
        let statement = in_time(self.client.prepare(sql)).await;
        let statement = self.keep(statement).await?;
        self.statements.insert(sql, statement.clone());
        Ok(statement)
    }

    async fn keep<T>(&mut self, done: Result<T, Failure>) -> Result<T, Failure> {
        match done {
            Ok(told) => Ok(told),
            Err(failure) if failure.code == CLOSED && !self.given_up => {
                self.given_up = true;
                Err(self.last_words().await.unwrap_or(failure))
            }
            Err(failure) => {
                // What was not answered may be answered later: the connection is of no more use.
                self.given_up = self.given_up || failure.code == NO_ANSWER;
                Err(failure)
            }
        }
    }

    /// Why the server closed, if it said so before it read any more.
    async fn last_words(&mut self) -> Option<Failure> {
        let ended = tokio::time::timeout(CONNECT, &mut self.connection).await;
        ended.ok()?.ok()?.err().map(Failure::from)
    }
}

const CLOSED: &str = "closed";
const NO_ANSWER: &str = "no answer";

fn no_answer() -> Failure {
    Failure {
        code: NO_ANSWER.to_owned(),
        text: String::new(),
    }
}

async fn in_time<T>(work: impl Future<Output = Result<T, Error>>) -> Result<T, Failure> {
    let done = tokio::time::timeout(HANG, work).await;
    done.map_err(|_| no_answer())?.map_err(Failure::from)
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        let code = error.code().map(|code| code.code().to_owned());
        let text = error.as_db_error().map_or_else(
            || format!("{error:?}"),
            |error| {
                format!(
                    "{}: {} {}",
                    error.message(),
                    error.detail().unwrap_or(""),
                    error.hint().unwrap_or("")
                )
            },
        );
        Failure {
            code: code.unwrap_or_else(|| CLOSED.to_owned()),
            text,
        }
    }
}
