//! Scripts of several sessions at once. What a script says is the same wherever it is run, so two runs can be compared.
//!
//! A script has one statement per line: `session: statement`, or `session~ statement` for one that must wait until a later line lets it go on. A session's next line comes when
//! its last statement has been answered.

use crate::{postgres, wait};
use anyhow::{Context, ensure};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio_postgres::{Client, SimpleQueryMessage};

/// How long a statement that must wait is watched.
const WATCHED: Duration = Duration::from_millis(300);

struct Session {
    client: Arc<Client>,
    said: String,
    waits: Option<JoinHandle<String>>,
}

impl Session {
    async fn settle(&mut self) -> anyhow::Result<()> {
        if let Some(waits) = self.waits.take() {
            let answered = tokio::time::timeout(wait::DEADLINE, waits).await;
            self.said += &answered.context("a statement waits for ever")??;
        }
        Ok(())
    }
}

/// What a server answers to one statement.
pub async fn ask(client: &Client, sql: &str) -> String {
    let mut said = format!("{sql}\n");
    match client.simple_query(sql).await {
        Ok(messages) => {
            for message in messages {
                match message {
                    SimpleQueryMessage::Row(row) => {
                        let values = (0..row.len()).map(|at| row.get(at).unwrap_or("NULL"));
                        let values = values.collect::<Vec<_>>().join("|");
                        writeln!(said, "  {values}").expect("in memory");
                    }
                    SimpleQueryMessage::CommandComplete(rows) => {
                        writeln!(said, "  done {rows}").expect("in memory");
                    }
                    _ => {}
                }
            }
        }
        Err(error) => match error.as_db_error() {
            Some(error) => {
                let (code, message) = (error.code().code(), error.message());
                writeln!(said, "  {code} {message}").expect("in memory");
            }
            None => writeln!(said, "  {error}").expect("in memory"),
        },
    }
    said
}

/// Runs a script; its sessions are at these in turn, in the order in which they appear. Answers what each session was told.
///
/// # Errors
/// When a statement does not wait that must, or waits for ever.
pub async fn run(urls: &[String], script: &str) -> anyhow::Result<String> {
    let mut sessions: BTreeMap<String, Session> = BTreeMap::new();
    for line in script
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
    {
        let at = line.find([':', '~']).context("a line without session")?;
        let (name, waits, sql) = (&line[..at], &line[at..=at] == "~", line[at + 1..].trim());
        if !sessions.contains_key(name) {
            let url = &urls[sessions.len() % urls.len()];
            let client = Arc::new(postgres::connect(url).await?);
            let said = format!("--- {name}\n");
            let session = Session {
                client,
                said,
                waits: None,
            };
            sessions.insert(name.to_owned(), session);
        }
        let session = sessions.get_mut(name).context("it was made above")?;
        session.settle().await.with_context(|| line.to_owned())?;
        let (client, text) = (session.client.clone(), sql.to_owned());
        let asked = tokio::spawn(async move { ask(&client, &text).await });
        session.waits = Some(asked);
        if waits {
            tokio::time::sleep(WATCHED).await;
            let asked = session.waits.as_ref().context("it was asked above")?;
            ensure!(!asked.is_finished(), "does not wait: {line}");
        } else {
            session.settle().await.with_context(|| line.to_owned())?;
        }
    }
    let mut all = String::new();
    for session in sessions.values_mut() {
        session.settle().await?;
        all += &session.said;
    }
    Ok(all)
}
