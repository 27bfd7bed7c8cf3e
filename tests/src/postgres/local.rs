//! Postgres from installed programs, as user `postgres` when the tests run as root.

use super::{Options, Stop};
use crate::wait;
use anyhow::{Context, ensure};
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tempfile::TempDir;
use tokio::process::{Child, Command};

pub(super) struct Local {
    bin: PathBuf,
    folder: TempDir,
    arguments: Vec<String>,
    process: Child,
}

/// The folder of the newest installed server.
pub(super) fn find_programs() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten();
    let packaged = versions.filter_map(|entry| {
        let entry = entry.ok()?;
        let major: u32 = entry.file_name().to_str()?.parse().ok()?;
        Some((major, entry.path().join("bin")))
    });
    let newest = packaged
        .filter(|(_, bin)| bin.join("initdb").exists())
        .max();
    newest.map(|(_, bin)| bin).or_else(|| {
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path).find(|bin| bin.join("initdb").exists())
    })
}

impl Local {
    pub(super) async fn start(
        bin: &Path,
        arguments: Vec<String>,
        options: Options,
    ) -> anyhow::Result<Local> {
        let folder = TempDir::with_prefix("ripen-postgres-")?;
        if is_root() {
            run(Command::new("chown").arg("postgres:").arg(folder.path())).await?;
        }
        let data = folder.path().join("data");
        let auth = [
            "--no-sync",
            "--auth=trust",
            "--username=postgres",
            "--encoding=UTF8",
            "--locale=C.UTF-8",
        ];
        run(as_postgres(&bin.join("initdb"))
            .args(auth)
            .arg("-D")
            .arg(&data))
        .await?;
        if let Some(hba) = options.hba {
            std::fs::write(data.join("pg_hba.conf"), hba)?;
        }
        if let Some(tls) = options.tls {
            let file = data.join("tls.pem");
            std::fs::write(&file, tls)?;
            std::fs::set_permissions(&file, Permissions::from_mode(0o600))?;
            if is_root() {
                run(Command::new("chown").arg("postgres:").arg(&file)).await?;
            }
        }
        let process = spawn(bin, folder.path(), &arguments)?;
        Ok(Local {
            bin: bin.to_owned(),
            folder,
            arguments,
            process,
        })
    }

    /// A standby of this server, which listens at `from`, on another port. It listens there alone until its arguments are changed.
    pub(super) async fn copy(&self, from: u16, to: u16, conninfo: &str) -> anyhow::Result<Local> {
        let folder = TempDir::with_prefix("ripen-standby-")?;
        if is_root() {
            run(Command::new("chown").arg("postgres:").arg(folder.path())).await?;
        }
        let data = folder.path().join("data");
        let from = from.to_string();
        let how = [
            "-h",
            "127.0.0.1",
            "-U",
            "postgres",
            "-X",
            "stream",
            "-c",
            "fast",
        ];
        run(as_postgres(&self.bin.join("pg_basebackup"))
            .args(how)
            .args(["-p", &from, "--no-sync", "-R", "-d", conninfo])
            .arg("-D")
            .arg(&data))
        .await?;
        let mut arguments = self.arguments.clone();
        let other = format!("port={to}");
        arguments.extend(["-c", &other, "-c", "listen_addresses=127.0.0.1"].map(str::to_owned));
        let process = spawn(&self.bin, folder.path(), &arguments)?;
        Ok(Local {
            bin: self.bin.clone(),
            folder,
            arguments,
            process,
        })
    }

    /// Both are stopped.
    pub(super) async fn take_slot(&self, from: &Local, slot: &str) -> anyhow::Result<()> {
        let slots = |folder: &TempDir| folder.path().join("data/pg_replslot");
        run(Command::new("cp")
            .args(["-r", "-p"])
            .arg(slots(&from.folder).join(slot))
            .arg(slots(&self.folder)))
        .await
    }

    pub(super) fn arguments(&self) -> &[String] {
        &self.arguments
    }

    pub(super) fn set_arguments(&mut self, arguments: Vec<String>) {
        self.arguments = arguments;
    }

    pub(super) async fn stop(&mut self, how: Stop) -> anyhow::Result<()> {
        signal(&self.process, how).await?;
        tokio::time::timeout(wait::DEADLINE, self.process.wait())
            .await
            .context("Postgres does not end")??;
        // A killed postmaster's children end by themselves, a moment later.
        let data = self.folder.path().join("data");
        wait::until("Postgres's processes end", || async {
            Ok((!in_use(&data)).then_some(()))
        })
        .await
    }

    pub(super) async fn start_again(&mut self) -> anyhow::Result<()> {
        let _ = std::fs::remove_file(self.folder.path().join("data/postmaster.pid"));
        self.process = spawn(&self.bin, self.folder.path(), &self.arguments)?;
        Ok(())
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        if let Some(pid) = self.process.id() {
            let pid = pid.to_string();
            let _ = std::process::Command::new("kill")
                .args(["-QUIT", &pid])
                .status();
            // The folder is removed next; give the processes the moment that they need to let go of it.
            let end = std::time::Instant::now() + std::time::Duration::from_secs(5);
            while matches!(self.process.try_wait(), Ok(None)) && std::time::Instant::now() < end {
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
        }
    }
}

fn spawn(bin: &Path, folder: &Path, arguments: &[String]) -> anyhow::Result<Child> {
    let log = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(folder.join("log"))?;
    let mut command = as_postgres(&bin.join("postgres"));
    command
        .arg("-D")
        .arg(folder.join("data"))
        .arg("-c")
        .arg("unix_socket_directories=")
        .args(arguments);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .kill_on_drop(true);
    Ok(command.spawn()?)
}

async fn signal(process: &Child, how: Stop) -> anyhow::Result<()> {
    let name = match how {
        Stop::Fast => "-INT",
        Stop::Immediate => "-QUIT",
        Stop::Kill => "-KILL",
    };
    let pid = process.id().context("Postgres is not running")?;
    run(Command::new("kill").arg(name).arg(pid.to_string())).await
}

/// Whether a process still works in that data folder.
fn in_use(data: &Path) -> bool {
    let processes = std::fs::read_dir("/proc").into_iter().flatten();
    let folders =
        processes.filter_map(|entry| std::fs::read_link(entry.ok()?.path().join("cwd")).ok());
    folders.into_iter().any(|folder| folder == data)
}

/// `setpriv` replaces itself, so that signals reach Postgres.
fn as_postgres(program: &Path) -> Command {
    if !is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid=postgres", "--regid=postgres", "--clear-groups"])
        .arg(program);
    command
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0)
}

async fn run(command: &mut Command) -> anyhow::Result<()> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .await
        .with_context(|| format!("{command:?}"))?;
    ensure!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
