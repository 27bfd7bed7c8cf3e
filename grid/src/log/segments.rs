//! Segment files: their names, and the thread that prepares the next one and removes old ones, off the writer's path. Never looks at records.

use super::disk::{Disk, Waiting};
use super::error::LogError;
use super::index::Segment;
use super::limits::ZERO_BYTES;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

/// Where segments live and how large new ones are.
#[derive(Clone)]
pub(crate) struct Directory {
    pub disk: Arc<dyn Disk>,
    pub path: PathBuf,
    pub segment_bytes: u64,
}

/// The file name of a segment.
pub(crate) fn name(number: u32) -> String {
    format!("wal-{number:010}.seg")
}

/// The number of the segment with this file name.
pub(crate) fn number(name: &str) -> Option<u32> {
    name.strip_prefix("wal-")?
        .strip_suffix(".seg")?
        .parse()
        .ok()
}

impl Directory {
    /// Creates a segment full of zeros, durably, so that writing to it later changes neither its length nor its blocks.
    fn prepare(&self, number: u32) -> Result<Segment, LogError> {
        let path = self.path.join(name(number));
        let prepared = self.create_zeroed(&path);
        if prepared.is_err() {
            // A partial file would only take room; at worst the next start removes it.
            let _ = self.disk.remove(&path);
        }
        prepared
    }

    fn create_zeroed(&self, path: &Path) -> Result<Segment, LogError> {
        let failed = |error| LogError::io("prepare", path, error);
        let file = self.disk.create(path).map_err(failed)?;
        let zeros = vec![0; ZERO_BYTES.min(self.segment_bytes as usize)];
        let mut written = 0;
        while written < self.segment_bytes {
            let count = zeros.len().min((self.segment_bytes - written) as usize);
            file.write_at(&zeros[..count], written).map_err(failed)?;
            written += count as u64;
        }
        file.sync().map_err(failed)?;
        self.sync_names()?;
        Ok(Segment {
            path: path.to_owned(),
            file,
            bytes: self.segment_bytes,
            last_index: None,
        })
    }

    /// Removes segment files, oldest first, so that what is left has no holes.
    pub(crate) fn remove(&self, segments: &[Segment]) -> Result<(), LogError> {
        for segment in segments {
            self.disk
                .remove(&segment.path)
                .map_err(|error| LogError::io("remove", &segment.path, error))?;
            self.sync_names()?;
        }
        Ok(())
    }

    pub(crate) fn sync_names(&self) -> Result<(), LogError> {
        self.disk
            .sync_dir(&self.path)
            .map_err(|error| LogError::io("sync", &self.path, error))
    }
}

/// Work for the janitor.
pub(crate) enum Chore {
    /// Prepare the segment with this number.
    Prepare(u32),
    /// Remove these segments.
    Remove(Vec<Segment>),
    /// End.
    Stop,
}

/// The janitor's thread, seen by the writer: it prepares what is asked for, one segment ahead.
pub(crate) struct Janitor {
    chores: Sender<Chore>,
    prepared: Receiver<Result<Segment, LogError>>,
    thread: Option<JoinHandle<()>>,
    /// Where no thread does it: whoever asks for something does it.
    here: Option<Here>,
}

/// What the thread would have.
struct Here {
    directory: Directory,
    todo: Receiver<Chore>,
    done: Sender<Result<Segment, LogError>>,
}

impl Janitor {
    /// Starts the thread; it ends with [`Chore::Stop`] or when the janitor is dropped.
    pub(crate) fn start(directory: Directory) -> Result<Janitor, LogError> {
        let (chores, todo) = channel();
        let (done, prepared) = channel();
        if let Waiting::Pauses(_) = directory.disk.waiting() {
            let here = Here {
                directory,
                todo,
                done,
            };
            return Ok(Janitor {
                chores,
                prepared,
                thread: None,
                here: Some(here),
            });
        }
        let path = directory.path.clone();
        let thread = std::thread::Builder::new()
            .name("log-janitor".to_owned())
            .spawn(move || work(&directory, &todo, &done))
            .map_err(|error| LogError::io("start a thread for", path, error))?;
        Ok(Janitor {
            chores,
            prepared,
            thread: Some(thread),
            here: None,
        })
    }

    /// Hands over a chore.
    pub(crate) fn hand(&self, chore: Chore) {
        // Fails only if the thread is gone, which `receive` reports; the next start removes what should go.
        let _ = self.chores.send(chore);
        if let Some(here) = &self.here {
            while let Ok(chore) = here.todo.try_recv() {
                carry_out(&here.directory, chore, &here.done);
            }
        }
    }

    /// Asks for a segment.
    pub(crate) fn request(&self, number: u32) {
        self.hand(Chore::Prepare(number));
    }

    /// Waits for the segment asked for. A failure to prepare is tried once more: nothing of the log has been touched by it, and room may have been made since.
    pub(crate) fn receive(&self, number: u32) -> Result<Segment, LogError> {
        match self.prepared.recv() {
            Ok(Ok(segment)) => return Ok(segment),
            Ok(Err(error)) => {
                tracing::warn!(%error, "could not prepare a log segment, trying again")
            }
            Err(_) => return Err(gone()),
        }
        self.request(number);
        self.prepared.recv().unwrap_or_else(|_| Err(gone()))
    }
}

impl Drop for Janitor {
    fn drop(&mut self) {
        let _ = self.chores.send(Chore::Stop);
        if let Some(thread) = self.thread.take() {
            // A panic there was reported by the panic hook; there is nothing left to do about it.
            let _ = thread.join();
        }
    }
}

fn gone() -> LogError {
    LogError::Consensus {
        detail: "the thread that prepares segments has ended".to_owned(),
    }
}

fn work(directory: &Directory, todo: &Receiver<Chore>, done: &Sender<Result<Segment, LogError>>) {
    while let Ok(chore) = todo.recv() {
        if !carry_out(directory, chore, done) {
            return;
        }
    }
}

/// False: there is nothing more to be done.
fn carry_out(
    directory: &Directory,
    chore: Chore,
    done: &Sender<Result<Segment, LogError>>,
) -> bool {
    match chore {
        Chore::Prepare(number) => done.send(directory.prepare(number)).is_ok(),
        Chore::Remove(segments) => {
            if let Err(error) = directory.remove(&segments) {
                tracing::warn!(%error, "could not remove old log segments, the next start will");
            }
            true
        }
        Chore::Stop => false,
    }
}
