//! Snapshot files: written beside, synced, renamed, checked when read. Never leaves a name that stands for half a snapshot.
//!
//! Layout, little endian: magic 8 | version 4 | crc 4 | identity 8 | at_ms 8 | from_synced_log 1 | last id | membership's id | membership | machine's bytes.
//! An id is a byte (0: none) and, after 1, term 8 and index 8. The membership has its `u32` length before it, the machine's bytes a `u64` one.

use super::disk::Disk;
use super::error::LogError;
use super::raft::{SnapshotMeta, meta, put_meta};
use super::recovery::ADVICE;
use super::segments::Directory;
use parking_lot::Mutex;
use ripen_cachestore::change::codec::{Malformed, Reader, put_u64};
use ripen_cachestore::failpoint::reach;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const MAGIC: [u8; 8] = *b"ripensnp";
const VERSION: u32 = 1;
const CHECKED_FROM: usize = 16;

/// A snapshot in memory.
#[derive(Debug, PartialEq)]
pub(crate) struct Snapshot {
    pub identity: u64,
    pub meta: SnapshotMeta,
    pub at_ms: u64,
    /// Whether all it covers was synced in this node's log first. Such a log cannot end before the snapshot.
    pub from_synced_log: bool,
    /// What the machine gave.
    pub state: Vec<u8>,
}

/// A snapshot on disk, which openraft may hand to another node.
#[derive(Clone, Debug)]
pub(crate) struct SnapshotFile(pub PathBuf);

/// The snapshots of a log. At most one is kept.
pub(crate) struct Snapshots {
    directory: Directory,
    identity: u64,
    /// Also serializes writing.
    current: Mutex<Option<(SnapshotMeta, SnapshotFile)>>,
}

impl Snapshots {
    pub(crate) fn new(directory: Directory, identity: u64, newest: Option<&Snapshot>) -> Snapshots {
        let file = |snapshot: &Snapshot| {
            let path = directory.path.join(name(&snapshot.meta));
            (snapshot.meta.clone(), SnapshotFile(path))
        };
        Snapshots {
            current: Mutex::new(newest.map(file)),
            identity,
            directory,
        }
    }

    pub(crate) fn current(&self) -> Option<(SnapshotMeta, SnapshotFile)> {
        self.current.lock().clone()
    }

    /// Writes a snapshot durably, then removes older ones. Returns its size. Blocks.
    pub(crate) fn save(&self, snapshot: &Snapshot) -> Result<u64, LogError> {
        let mut current = self.current.lock();
        let name = name(&snapshot.meta);
        let path = self.directory.path.join(&name);
        let temporary = self.directory.path.join(format!("{name}.tmp"));
        let head = encode_head(snapshot);
        self.write(&temporary, &path, &head, &snapshot.state)
            .map_err(|error| LogError::io("write", &path, error))?;
        *current = Some((snapshot.meta.clone(), SnapshotFile(path)));
        self.remove_others(&name)?;
        Ok((head.len() + snapshot.state.len()) as u64)
    }

    fn write(
        &self,
        temporary: &Path,
        path: &Path,
        head: &[u8],
        state: &[u8],
    ) -> std::io::Result<()> {
        let disk = &self.directory.disk;
        reach("snapshot-begun");
        let file = disk.create(temporary)?;
        file.write_at(head, 0)?;
        file.write_at(state, head.len() as u64)?;
        file.sync()?;
        reach("snapshot-synced");
        disk.rename(temporary, path)?;
        disk.sync_dir(&self.directory.path)?;
        reach("snapshot-renamed");
        Ok(())
    }

    fn remove_others(&self, keep: &str) -> Result<(), LogError> {
        let dir = &self.directory.path;
        let names = self.directory.disk.list(dir);
        let names = names.map_err(|error| LogError::io("list", dir, error))?;
        let old = |name: &&String| name.starts_with("snapshot-") && *name != keep;
        for name in names.iter().filter(old) {
            let path = dir.join(name);
            let removed = self.directory.disk.remove(&path);
            removed.map_err(|error| LogError::io("remove", path, error))?;
        }
        Ok(())
    }

    /// Reads a snapshot, one of this log's or one received. Blocks.
    pub(crate) fn load(&self, file: &SnapshotFile) -> Result<Snapshot, LogError> {
        load(&self.directory, &file.0)
    }

    pub(crate) fn identity(&self) -> u64 {
        self.identity
    }

    pub(crate) fn disk(&self) -> Arc<dyn Disk> {
        self.directory.disk.clone()
    }
}

/// The newest snapshot that is whole, and what is wrong with a newer one. Blocks.
pub(crate) fn newest(
    directory: &Directory,
) -> Result<(Option<Snapshot>, Option<LogError>), LogError> {
    let names = directory.disk.list(&directory.path);
    let names = names.map_err(|error| LogError::io("list", &directory.path, error))?;
    let mut indexes: Vec<u64> = names.iter().filter_map(|name| index_of(name)).collect();
    indexes.sort_unstable();
    let mut damage = None;
    for index in indexes.iter().rev() {
        match load(directory, &directory.path.join(name_of(*index))) {
            Ok(snapshot) => return Ok((Some(snapshot), damage)),
            Err(error @ LogError::Damaged { .. }) => damage = damage.or(Some(error)),
            Err(error) => return Err(error),
        }
    }
    Ok((None, damage))
}

fn name(meta: &SnapshotMeta) -> String {
    name_of(meta.last_log_id.as_ref().map_or(0, |id| id.index))
}

fn name_of(index: u64) -> String {
    format!("snapshot-{index:020}")
}

fn index_of(name: &str) -> Option<u64> {
    name.strip_prefix("snapshot-")?.parse().ok()
}

fn load(directory: &Directory, path: &Path) -> Result<Snapshot, LogError> {
    let failed = |error| LogError::io("read", path, error);
    let file = directory.disk.open(path).map_err(failed)?;
    let mut bytes = vec![0; file.length().map_err(failed)? as usize];
    file.read_at(&mut bytes, 0).map_err(failed)?;
    let damaged = |detail: &str| LogError::Damaged {
        path: path.to_owned(),
        offset: 0,
        detail: format!("{detail}; {ADVICE}"),
    };
    let mut reader = Reader::new(&bytes);
    let short = |_: Malformed| damaged("the snapshot is too short");
    if reader.take(8).map_err(short)? != MAGIC {
        return Err(damaged("the file is not a snapshot"));
    }
    let version = reader.u32().map_err(short)?;
    if version != VERSION {
        return Err(LogError::Version {
            path: path.to_owned(),
            found: version,
            known: VERSION,
        });
    }
    let crc = reader.u32().map_err(short)?;
    if crc != crc32fast::hash(&bytes[CHECKED_FROM..]) {
        return Err(damaged("the snapshot's checksum does not match"));
    }
    decode(&mut reader).map_err(|error| damaged(&error.to_string()))
}

/// All but the machine's bytes, which may be many and follow as they are.
fn encode_head(snapshot: &Snapshot) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    put_u64(&mut out, snapshot.identity);
    put_u64(&mut out, snapshot.at_ms);
    out.push(u8::from(snapshot.from_synced_log));
    put_meta(&mut out, &snapshot.meta);
    put_u64(&mut out, snapshot.state.len() as u64);
    let mut crc = crc32fast::Hasher::new();
    crc.update(&out[CHECKED_FROM..]);
    crc.update(&snapshot.state);
    out[12..16].copy_from_slice(&crc.finalize().to_le_bytes());
    out
}

fn decode(reader: &mut Reader<'_>) -> Result<Snapshot, Malformed> {
    let (identity, at_ms) = (reader.u64()?, reader.u64()?);
    let from_synced_log = reader.bool()?;
    let meta = meta(reader)?;
    let length = reader.u64()? as usize;
    let state = reader.take(length)?.to_vec();
    reader.end()?;
    Ok(Snapshot {
        identity,
        at_ms,
        from_synced_log,
        state,
        meta,
    })
}
