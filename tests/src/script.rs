//! Scripts of several sessions at once. What a script says is the same wherever it is run, so two runs can be compared.
//!
//! A script has one statement per line: `session: statement`, or `session~ statement` for one that must wait until a later line lets it go on. A session's next line comes when
//! its last statement has been answered; `session!` alone waits for that. Who does not know which statements wait lets Postgres write the script ([`Recorder`]).

use crate::{postgres, wait};
use anyhow::{Context, bail, ensure};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use tokio_postgres::{Client, SimpleQueryMessage};

/// How long a statement that must wait is watched.
const WATCHED: Duration = Duration::from_millis(300);

/// How long the recorder waits for an answer before it asks whether there will be one.
const LOOKED: Duration = Duration::from_millis(5);

/// With a `deadlock_timeout` far below this, whoever closes a circle hears of it before the next statement is sent.
const DEADLOCKS_FOUND: Duration = Duration::from_millis(40);

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
        let at = line
            .find([':', '~', '!'])
            .context("a line without session")?;
        let (name, waits, sql) = (&line[..at], &line[at..=at] == "~", line[at + 1..].trim());
        if &line[at..=at] == "!" {
            let session = sessions.get_mut(name).context("nobody of that name")?;
            session.settle().await.with_context(|| line.to_owned())?;
            continue;
        }
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
            if asked.is_finished() {
                session.settle().await?;
                bail!("does not wait: {line}\n{}", session.said);
            }
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

/// Writes a script: carries statements out in a Postgres, and sees there which of them wait, and which line lets them go on.
pub struct Recorder {
    url: String,
    control: Client,
    sessions: BTreeMap<String, Recorded>,
    script: String,
}

struct Recorded {
    client: Arc<Client>,
    said: String,
    backend: i32,
    waits: Option<JoinHandle<String>>,
}

impl Recorder {
    /// In that database, which must be one of plain Postgres.
    ///
    /// # Errors
    /// When it cannot be reached.
    pub async fn new(url: &str) -> anyhow::Result<Recorder> {
        Ok(Recorder {
            url: url.to_owned(),
            control: postgres::connect(url).await?,
            sessions: BTreeMap::new(),
            script: String::new(),
        })
    }

    /// Whether the session's last statement still waits. One that has never spoken does not.
    pub fn waits(&self, name: &str) -> bool {
        let session = self.sessions.get(name);
        session.is_some_and(|session| session.waits.is_some())
    }

    /// Carries out a statement of a session that does not wait, until it is answered or waits; the statements of others that this lets go on, too.
    ///
    /// # Errors
    /// When Postgres goes away, or neither answers nor waits.
    pub async fn step(&mut self, name: &str, sql: &str) -> anyhow::Result<()> {
        ensure!(!self.waits(name), "{name} still waits");
        let sql = one_line(sql);
        if !self.sessions.contains_key(name) {
            let client = Arc::new(postgres::connect(&self.url).await?);
            let row = client.query_one("SELECT pg_backend_pid()", &[]).await?;
            let session = Recorded {
                client,
                said: format!("--- {name}\n"),
                backend: row.get(0),
                waits: None,
            };
            self.sessions.insert(name.to_owned(), session);
        }
        let session = self.sessions.get_mut(name).context("made above")?;
        let (client, text) = (session.client.clone(), sql.clone());
        session.waits = Some(tokio::spawn(async move { ask(&client, &text).await }));
        // Looked at twice, for Postgres may end a wait by itself.
        let waits = !self.settled(name).await? && {
            tokio::time::sleep(DEADLOCKS_FOUND).await;
            !self.settled(name).await?
        };
        let mark = if waits { '~' } else { ':' };
        writeln!(self.script, "{name}{mark} {sql}")?;
        self.settle_others().await
    }

    /// Whoever was let go on is answered before the next statement is sent, here and when the script is run. Who has gone on may let go others.
    async fn settle_others(&mut self) -> anyhow::Result<()> {
        loop {
            let mut gone_on = None;
            let waiting = self.sessions.keys().filter(|name| self.waits(name));
            for name in waiting.cloned().collect::<Vec<_>>() {
                if self.settled(&name).await? {
                    gone_on = Some(name);
                    break;
                }
            }
            let Some(name) = gone_on else {
                return Ok(());
            };
            writeln!(self.script, "{name}!")?;
        }
    }

    /// Until the session's statement is answered (true) or waits for another session (false).
    async fn settled(&mut self, name: &str) -> anyhow::Result<bool> {
        let backends: Vec<i32> = self.sessions.values().map(|one| one.backend).collect();
        let session = self.sessions.get_mut(name).context("it has spoken")?;
        let end = Instant::now() + wait::DEADLINE;
        while Instant::now() < end {
            let waits = session.waits.as_mut().context("it has asked")?;
            if let Ok(said) = tokio::time::timeout(LOOKED, waits).await {
                session.waits = None;
                session.said += &said?;
                return Ok(true);
            }
            let sql = "SELECT pg_isolation_test_session_is_blocked($1, $2)";
            let asked = self
                .control
                .query_one(sql, &[&session.backend, &backends])
                .await?;
            let blocked: bool = asked.get(0);
            if blocked {
                return Ok(false);
            }
        }
        bail!("{name} is neither answered nor waits")
    }

    /// Waits until the session's statement is answered, as Postgres may do by itself (a timeout, a deadlock); false if that does not happen.
    ///
    /// # Errors
    /// When Postgres goes away.
    pub async fn patience(&mut self, name: &str, limit: Duration) -> anyhow::Result<bool> {
        let end = Instant::now() + limit;
        while self.waits(name) && Instant::now() < end {
            if self.settled(name).await? {
                writeln!(self.script, "{name}!")?;
                self.settle_others().await?;
            }
            tokio::time::sleep(LOOKED).await;
        }
        Ok(!self.waits(name))
    }

    /// The script, and what each session was told, as [`run`] says it. Whoever still waits is ended first, and then all who spoke: nothing of them happens later.
    ///
    /// # Errors
    /// When Postgres goes away, or a session does not end.
    pub async fn end(mut self) -> anyhow::Result<(String, String)> {
        let said = self.sessions.values().map(|session| session.said.as_str());
        let said = said.collect();
        let mut sessions: Vec<Recorded> =
            std::mem::take(&mut self.sessions).into_values().collect();
        sessions.sort_by_key(|session| session.waits.is_none());
        for session in sessions {
            let sql = "SELECT pg_terminate_backend($1, $2)";
            let limit = wait::DEADLINE.as_millis() as i64;
            let ended = self
                .control
                .query_one(sql, &[&session.backend, &limit])
                .await?;
            ensure!(ended.get::<_, bool>(0), "a backend does not end");
        }
        Ok((self.script, said))
    }
}

/// A statement as it stands in a script.
fn one_line(sql: &str) -> String {
    sql.split_whitespace().collect::<Vec<_>>().join(" ")
}
