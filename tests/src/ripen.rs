//! A Ripen process of the test's own. Its log is printed when the test fails.

use crate::wait::{self, free_port};
use crate::{network, postgres};
use anyhow::{Context, bail, ensure};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::SystemTime;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio_postgres::Client;

/// A running (or killed) Ripen with its own data folder and ports. Killed and removed when dropped.
pub struct Ripen {
    process: Child,
    folder: TempDir,
    place: Place,
    starts: Starts,
}

/// Where one listens.
#[derive(Clone, Debug)]
pub struct Place {
    /// Address of all its ports.
    pub host: String,
    /// For clients.
    pub port: u16,
    /// For `/ready` and the like.
    pub admin_port: u16,
    /// The network namespace that it runs in, if it is not the test's own.
    pub namespace: Option<String>,
}

impl Place {
    /// On 127.0.0.1, at ports that are free now.
    pub fn here() -> Place {
        Place {
            host: "127.0.0.1".to_owned(),
            port: free_port(),
            admin_port: free_port(),
            namespace: None,
        }
    }
}

/// What it is started with, each time.
struct Starts {
    upstream: String,
    settings: Vec<(String, String)>,
    environment: BTreeMap<String, String>,
}

impl Ripen {
    /// Starts one in front of that URL, with settings by key (`("write_behind", "public.*")`), and waits until it is ready.
    ///
    /// # Errors
    /// When it does not start; its log is part of the error.
    pub async fn start(upstream: &str, settings: &[(&str, &str)]) -> anyhow::Result<Ripen> {
        let mut ripen = Ripen::start_unready(upstream, settings)?;
        ripen.wait_ready().await?;
        Ok(ripen)
    }

    /// As `start`, without waiting.
    ///
    /// # Errors
    /// When the program cannot be run.
    pub fn start_unready(upstream: &str, settings: &[(&str, &str)]) -> anyhow::Result<Ripen> {
        let settings = settings
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        Ripen::start_at(
            Place::here(),
            upstream,
            settings.collect(),
            BTreeMap::default(),
        )
    }

    /// Starts one at that place, with those environment variables, without waiting.
    ///
    /// # Errors
    /// When the program cannot be run.
    pub fn start_at(
        place: Place,
        upstream: &str,
        settings: Vec<(String, String)>,
        environment: BTreeMap<String, String>,
    ) -> anyhow::Result<Ripen> {
        let folder = TempDir::with_prefix("ripen-test-")?;
        let starts = Starts {
            upstream: upstream.to_owned(),
            settings,
            environment,
        };
        let process = spawn(folder.path(), &place, &starts)?;
        Ok(Ripen {
            process,
            folder,
            place,
            starts,
        })
    }

    /// Its port for clients; stays the same over restarts.
    pub fn port(&self) -> u16 {
        self.place.port
    }

    /// Where it listens; stays the same over restarts.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// URL like the upstream's, through Ripen.
    pub fn url(&self) -> String {
        let (scheme, rest) = self.starts.upstream.split_once("://").unwrap_or_default();
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let login = authority.rfind('@').map_or("", |at| &authority[..=at]);
        let Place { host, port, .. } = &self.place;
        format!("{scheme}://{login}{host}:{port}{path}")
    }

    /// A connection through Ripen.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub async fn connect(&self) -> anyhow::Result<Client> {
        postgres::connect(&self.url()).await
    }

    /// The file that keeps its data.
    pub fn data_dir(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// SIGKILL; returns when it is gone.
    ///
    /// # Errors
    /// When it was not running.
    pub async fn kill9(&mut self) -> anyhow::Result<()> {
        Ok(self.process.kill().await?)
    }

    /// Starts it anew after a kill or stop, on the same data and ports, and waits until it is ready.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        self.restart_unready()?;
        self.wait_ready().await
    }

    /// As `restart`, without waiting: for starts with Postgres away.
    ///
    /// # Errors
    /// When the program cannot be run.
    pub fn restart_unready(&mut self) -> anyhow::Result<()> {
        self.process = spawn(self.folder.path(), &self.place, &self.starts)?;
        Ok(())
    }

    /// Where the next starts die or lose a connection: see `RIPEN_FAILPOINTS` in `cachestore/src/failpoint.rs`. `None`: nowhere.
    pub fn set_failpoints(&mut self, failpoints: Option<&str>) {
        let name = "RIPEN_FAILPOINTS".to_owned();
        match failpoints {
            Some(points) => drop(self.starts.environment.insert(name, points.to_owned())),
            None => drop(self.starts.environment.remove(&name)),
        }
    }

    /// What the next starts have instead of a setting of these names.
    pub fn replace_settings(&mut self, names: &[&str], by: &[(&str, &str)]) {
        let settings = &mut self.starts.settings;
        settings.retain(|(key, _)| !names.contains(&key.as_str()));
        settings.extend(
            by.iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned())),
        );
    }

    /// Removes all that it has on disk but its log for people. It must not be running.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn wipe(&mut self) -> anyhow::Result<()> {
        ensure!(!self.is_running(), "it is running");
        Ok(std::fs::remove_dir_all(self.data_dir())?)
    }

    /// Waits until the process has died at that failpoint.
    ///
    /// # Errors
    /// When it lives on, or died of something else.
    pub async fn wait_death(&mut self, failpoint: &str) -> anyhow::Result<()> {
        let ended = tokio::time::timeout(wait::DEADLINE, self.process.wait()).await;
        let log = self.log();
        let last = tail(&log);
        ended.with_context(|| format!("{failpoint} is never reached\n{last}"))??;
        let said = format!("failpoint {failpoint}: Kill");
        ensure!(log.contains(&said), "it did not die at {failpoint}\n{last}");
        Ok(())
    }

    /// SIGTERM, and waits for the graceful end.
    ///
    /// # Errors
    /// When it does not end in time, or not with success.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        self.signal("-TERM").await?;
        self.wait_end().await
    }

    /// Waits until it has ended by itself, with success.
    ///
    /// # Errors
    /// When it does not end in time, or not with success.
    pub async fn wait_end(&mut self) -> anyhow::Result<()> {
        let ended = tokio::time::timeout(wait::DEADLINE, self.process.wait()).await;
        let log = self.log();
        let status = ended.with_context(|| format!("ripen does not end\n{}", tail(&log)))??;
        ensure!(status.success(), "ripen ended with {status}\n{log}");
        Ok(())
    }

    /// Sends it that signal, as `kill` names it.
    ///
    /// # Errors
    /// When it was not running.
    pub async fn signal(&self, signal: &str) -> anyhow::Result<()> {
        let pid = self.process.id().context("ripen is not running")?;
        let kill = Command::new("kill")
            .args([signal, &pid.to_string()])
            .status();
        ensure!(kill.await?.success(), "kill {signal} {pid}");
        Ok(())
    }

    /// Waits until it has ended by itself, with an error, and answers all that it logged.
    ///
    /// # Errors
    /// When it lives on, or ends with success.
    pub async fn wait_refusal(&mut self) -> anyhow::Result<String> {
        let ended = tokio::time::timeout(wait::DEADLINE, self.process.wait()).await;
        let log = self.log();
        let status = ended.with_context(|| format!("it does not end\n{}", tail(&log)))??;
        ensure!(!status.success(), "it ended with success\n{}", tail(&log));
        Ok(log)
    }

    /// Whether the process lives.
    pub fn is_running(&mut self) -> bool {
        matches!(self.process.try_wait(), Ok(None))
    }

    /// Everything that it logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Waits until `/ready` says so.
    ///
    /// # Errors
    /// When it ends first, or takes too long.
    pub async fn wait_ready(&mut self) -> anyhow::Result<()> {
        let end = std::time::Instant::now() + wait::DEADLINE;
        loop {
            if let Some(status) = self.process.try_wait()? {
                bail!("ripen ended with {status}\n{}", self.log());
            }
            let answer = self.admin("/ready").await.unwrap_or_default();
            if answer.starts_with("HTTP/1.1 200") {
                return Ok(());
            }
            ensure!(
                std::time::Instant::now() < end,
                "ripen is not ready: {answer}\n{}",
                self.log()
            );
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }

    /// How often a block has moved to Postgres, by reason.
    ///
    /// # Errors
    /// When the metrics cannot be had or read.
    pub async fn promotions(&self) -> anyhow::Result<BTreeMap<String, u64>> {
        let metrics = self.admin("/metrics").await?;
        let lines = metrics
            .lines()
            .filter(|line| line.contains("kind=\"promote\""));
        let mut found = BTreeMap::new();
        for line in lines {
            let (labels, count) = line.rsplit_once(' ').context("a metric without value")?;
            let reason = labels.split("reason=\"").nth(1).unwrap_or_default();
            let reason = reason.split('"').next().unwrap_or_default().to_owned();
            found.insert(reason, count.parse::<f64>()? as u64);
        }
        Ok(found)
    }

    /// The whole HTTP answer to a GET of the admin server.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn admin(&self, path: &str) -> anyhow::Result<String> {
        let mut stream =
            tokio::net::TcpStream::connect((self.place.host.as_str(), self.place.admin_port))
                .await?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: ripen\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }

    /// What `ripen node …` says of it, and how that ended.
    ///
    /// # Errors
    /// When the program cannot be run.
    pub async fn ask_node(&self, ask: &str) -> anyhow::Result<Output> {
        let Place {
            host, admin_port, ..
        } = &self.place;
        let mut command = program_at(&self.place)?;
        command.args(["node", ask, "--admin", &format!("{host}:{admin_port}")]);
        Ok(command.output().await?)
    }

    /// `ripen recover` on its folder, with these further words.
    ///
    /// # Errors
    /// When the program cannot be run.
    pub async fn recover(&self, words: &[&str]) -> anyhow::Result<Output> {
        let mut command = program_at(&self.place)?;
        command.args(["recover", "--upstream", &self.starts.upstream]);
        command.arg("--data-dir").arg(self.data_dir()).args(words);
        Ok(command.output().await?)
    }

    /// A number from `/status`, by the name that `SHOW ripen.status` gives it.
    ///
    /// # Errors
    /// When there is no such number.
    pub async fn number(&self, name: &str) -> anyhow::Result<f64> {
        let answer = self.admin("/status").await?;
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        let status: serde_json::Value = serde_json::from_str(body)?;
        status["totals"][name]
            .as_f64()
            .with_context(|| format!("no number \"{name}\" in {body}"))
    }
}

impl Drop for Ripen {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("---- ripen's log ----\n{}", tail(&self.log()));
        }
    }
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(200)..].join("\n")
}

fn spawn(folder: &Path, place: &Place, starts: &Starts) -> anyhow::Result<Child> {
    let log = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(folder.join("log"))?;
    let mut command = program_at(place)?;
    let Starts {
        upstream,
        settings,
        environment,
    } = starts;
    let Place {
        host,
        port,
        admin_port,
        ..
    } = place;
    command.envs(environment);
    command.args(["--upstream", upstream]);
    command.args([
        "--listen",
        &format!("{host}:{port}"),
        "--admin-listen",
        &format!("{host}:{admin_port}"),
    ]);
    command.arg("--data-dir").arg(folder.join("data"));
    if let Some((_, file)) = settings.iter().find(|(key, _)| key == "file") {
        std::fs::write(folder.join("ripen.toml"), file)?;
        command.arg("--config").arg(folder.join("ripen.toml"));
    }
    for (key, value) in settings.iter().filter(|(key, _)| key != "file") {
        command.arg(format!("--{}", key.replace('_', "-")));
        // Some are given by their name alone.
        if !value.is_empty() {
            command.arg(value);
        }
    }
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .kill_on_drop(true);
    command.spawn().context("starting ripen")
}

/// The program, to be run where that one runs, without settings of the test's own environment.
fn program_at(place: &Place) -> anyhow::Result<Command> {
    let mut command = match &place.namespace {
        None => Command::new(program()?),
        Some(namespace) => {
            let [enter, namespace] = network::enter(namespace);
            let mut command = Command::new(enter);
            command.arg(namespace).arg(program()?);
            command
        }
    };
    for (name, _) in
        std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("RIPEN_"))
    {
        command.env_remove(name);
    }
    Ok(command)
}

/// The program built beside this test (`TEST_RIPEN` names another one), if it is not older than its source.
fn program() -> anyhow::Result<PathBuf> {
    if let Some(path) = std::env::var_os("TEST_RIPEN") {
        return Ok(path.into());
    }
    let test = std::env::current_exe()?;
    let folder = test
        .ancestors()
        .nth(2)
        .context("tests do not stand in target/<profile>/deps")?;
    let path = folder.join("ripen");
    let built = std::fs::metadata(&path).and_then(|metadata| metadata.modified());
    let built =
        built.with_context(|| format!("no {}: run cargo build --bin ripen", path.display()))?;
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("the workspace")?;
    for part in ["pg", "grid", "cachestore", "hotcache", "proxy"] {
        if let Some(newer) = newer_source(&root.join(part).join("src"), built) {
            bail!(
                "ripen is older than {}: run cargo build --bin ripen",
                newer.display()
            );
        }
    }
    Ok(path)
}

fn newer_source(folder: &Path, built: SystemTime) -> Option<PathBuf> {
    std::fs::read_dir(folder).ok()?.find_map(|entry| {
        let path = entry.ok()?.path();
        if path.is_dir() {
            return newer_source(&path, built);
        }
        let changed = std::fs::metadata(&path)
            .and_then(|metadata| metadata.modified())
            .ok()?;
        (changed > built && path.extension().is_some_and(|kind| kind == "rs")).then_some(path)
    })
}
