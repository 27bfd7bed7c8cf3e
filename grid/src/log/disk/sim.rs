//! A file system in memory that crashes, tears, refuses and forgets on demand, for simulations. Never touches the real one.

use super::{Disk, DiskFile, LockGuard, Pace, Waiting};
use parking_lot::{Mutex, MutexGuard};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What a disk writes in one piece.
const SECTOR_BYTES: usize = 512;

/// A file system in memory. Clones share it. What is not synced survives [`SimDisk::crash`] only by chance.
#[derive(Clone, Default)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
    pace: Option<Pace>,
    /// How often it had crashed when the process started that uses it; it does nothing more for one of before.
    started: Option<u64>,
}

#[derive(Default)]
struct State {
    files: BTreeMap<u64, SimFile>,
    names: BTreeMap<PathBuf, u64>,
    durable_names: BTreeMap<PathBuf, u64>,
    name_changes: Vec<NameChange>,
    locks: BTreeSet<PathBuf>,
    next_file: u64,
    crashes: u64,
    operations: u64,
    faults: Faults,
}

/// Names that change together, and what they stand for afterwards.
type NameChange = Vec<(PathBuf, Option<u64>)>;

#[derive(Default)]
struct SimFile {
    current: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<(usize, Vec<u8>)>,
}

/// What shall go wrong. Numbers count from now.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// This many operations (writes, syncs, name changes) still happen; then the machine is dead until [`SimDisk::crash`].
    pub operations_left: Option<u64>,
    /// This many syncs still succeed; the next one fails and forgets what it should have kept, and those after it succeed, as on Linux. A file's first sync
    /// always succeeds and does not count: who makes a file may make it anew.
    pub syncs_left: Option<u64>,
    /// Bytes all files together may have.
    pub capacity: Option<u64>,
}

struct Handle {
    disk: SimDisk,
    file: u64,
    crashes: u64,
}

struct Lock {
    disk: SimDisk,
    path: PathBuf,
    crashes: u64,
}

impl SimDisk {
    /// An empty file system.
    pub fn new() -> SimDisk {
        SimDisk::default()
    }

    /// One that needs no threads: see [`Waiting::Pauses`].
    pub fn paced(pace: Pace) -> SimDisk {
        SimDisk {
            pace: Some(pace),
            ..SimDisk::default()
        }
    }

    /// The same disk, for a process that starts now: once it has crashed or been killed, threads that are left of it change nothing here.
    pub fn of_new_process(&self) -> SimDisk {
        SimDisk {
            started: Some(self.state.lock().crashes),
            ..self.clone()
        }
    }

    /// Sets what shall go wrong from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.state.lock().faults = faults;
    }

    /// Whether the machine is dead for want of operations.
    pub fn is_dead(&self) -> bool {
        self.state.lock().faults.operations_left == Some(0)
    }

    /// Operations done so far.
    pub fn operations(&self) -> u64 {
        self.state.lock().operations
    }

    /// Power loss and restart: open files and locks are gone, and of what was not synced each write survives whole, in some sectors or not at all,
    /// as `chance` says (called with a bound, returns less). Faults end.
    pub fn crash(&self, mut chance: impl FnMut(u64) -> u64) {
        let mut state = self.state.lock();
        state.crashes += 1;
        state.faults = Faults::default();
        state.locks.clear();
        let changes = std::mem::take(&mut state.name_changes);
        let kept = chance(changes.len() as u64 + 1) as usize;
        for (path, file) in changes.into_iter().take(kept).flatten() {
            set_name(&mut state.durable_names, path, file);
        }
        state.names = state.durable_names.clone();
        let named: BTreeSet<u64> = state.names.values().copied().collect();
        state.files.retain(|file, _| named.contains(file));
        state
            .files
            .values_mut()
            .for_each(|file| file.crash(&mut chance));
    }

    /// The process is killed, the machine lives on: open files and locks are gone, everything written is still there.
    pub fn kill(&self) {
        let mut state = self.state.lock();
        state.crashes += 1;
        state.faults = Faults::default();
        state.locks.clear();
    }

    /// Flips bits of a byte behind everybody's back. Panics if it does not exist.
    pub fn flip(&self, path: &Path, offset: usize, mask: u8) {
        let mut state = self.state.lock();
        let file = state.names[path];
        let file = state.files.get_mut(&file).expect("named files exist");
        file.current[offset] ^= mask;
        file.durable[offset] ^= mask;
    }

    /// The contents of a file as a process sees it.
    pub fn contents(&self, path: &Path) -> Option<Vec<u8>> {
        let state = self.state.lock();
        let file = state.names.get(path)?;
        Some(state.files.get(file)?.current.clone())
    }

    /// The state, for a process that still lives.
    fn state(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.state.lock();
        match self.started {
            Some(started) if started != state.crashes => Err(of_dead_process()),
            _ => Ok(state),
        }
    }

    fn change(&self, change: impl FnOnce(&mut State) -> io::Result<()>) -> io::Result<()> {
        let mut state = self.state()?;
        state.count_operation()?;
        change(&mut state)
    }

    fn handle(&self, file: u64, crashes: u64) -> Arc<dyn DiskFile> {
        Arc::new(Handle {
            disk: self.clone(),
            file,
            crashes,
        })
    }
}

fn of_dead_process() -> io::Error {
    io::Error::other("of before the simulated crash")
}

fn set_name(names: &mut BTreeMap<PathBuf, u64>, path: PathBuf, file: Option<u64>) {
    match file {
        Some(file) => names.insert(path, file),
        None => names.remove(&path),
    };
}

impl State {
    fn count_operation(&mut self) -> io::Result<()> {
        match &mut self.faults.operations_left {
            Some(0) => return Err(io::Error::other("the simulated machine is dead")),
            Some(left) => *left -= 1,
            None => {}
        }
        self.operations += 1;
        Ok(())
    }

    fn name(&mut self, change: NameChange) {
        for (path, file) in &change {
            set_name(&mut self.names, path.clone(), *file);
        }
        self.name_changes.push(change);
    }

    fn find(&self, path: &Path) -> io::Result<u64> {
        let file = self.names.get(path).copied();
        file.ok_or_else(|| ErrorKind::NotFound.into())
    }

    fn check_room(&self, more: usize) -> io::Result<()> {
        let used: usize = self.files.values().map(|file| file.current.len()).sum();
        match self.faults.capacity {
            Some(capacity) if (used + more) as u64 > capacity => Err(ErrorKind::StorageFull.into()),
            _ => Ok(()),
        }
    }

    fn take_sync(&mut self) -> bool {
        match &mut self.faults.syncs_left {
            Some(0) => {
                self.faults.syncs_left = None;
                false
            }
            Some(left) => {
                *left -= 1;
                true
            }
            None => true,
        }
    }
}

impl SimFile {
    fn crash(&mut self, chance: &mut impl FnMut(u64) -> u64) {
        for (offset, bytes) in std::mem::take(&mut self.unsynced) {
            match chance(3) {
                0 => {}
                1 => write(&mut self.durable, offset, &bytes),
                _ => tear(&mut self.durable, offset, &bytes, chance),
            }
        }
        self.current = self.durable.clone();
    }
}

/// Writes some of the sectors.
fn tear(file: &mut Vec<u8>, offset: usize, bytes: &[u8], chance: &mut impl FnMut(u64) -> u64) {
    let mut done = 0;
    while done < bytes.len() {
        let to_boundary = SECTOR_BYTES - (offset + done) % SECTOR_BYTES;
        let end = bytes.len().min(done + to_boundary);
        if chance(2) == 0 {
            write(file, offset + done, &bytes[done..end]);
        }
        done = end;
    }
}

fn write(file: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let end = offset + bytes.len();
    if file.len() < end {
        file.resize(end, 0);
    }
    file[offset..end].copy_from_slice(bytes);
}

impl Disk for SimDisk {
    fn waiting(&self) -> Waiting {
        self.pace.clone().map_or(Waiting::Blocks, Waiting::Pauses)
    }

    fn create_dir(&self, _dir: &Path) -> io::Result<()> {
        Ok(())
    }

    fn lock(&self, path: &Path) -> io::Result<Option<LockGuard>> {
        let mut state = self.state()?;
        if !state.locks.insert(path.to_owned()) {
            return Ok(None);
        }
        Ok(Some(Box::new(Lock {
            disk: self.clone(),
            path: path.to_owned(),
            crashes: state.crashes,
        })))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let state = self.state()?;
        let inside = state.names.keys().filter(|path| path.parent() == Some(dir));
        let name = |path: &PathBuf| path.file_name()?.to_str().map(str::to_owned);
        Ok(inside.filter_map(name).collect())
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.state()?;
        state.count_operation()?;
        state.next_file += 1;
        let file = state.next_file;
        state.files.insert(file, SimFile::default());
        state.name(vec![(path.to_owned(), Some(file))]);
        Ok(self.handle(file, state.crashes))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let state = self.state()?;
        Ok(self.handle(state.find(path)?, state.crashes))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.change(|state| {
            let file = state.find(from)?;
            state.name(vec![(to.to_owned(), Some(file)), (from.to_owned(), None)]);
            Ok(())
        })
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.change(|state| {
            state.find(path)?;
            state.name(vec![(path.to_owned(), None)]);
            Ok(())
        })
    }

    fn sync_dir(&self, _dir: &Path) -> io::Result<()> {
        self.change(|state| {
            state.durable_names = state.names.clone();
            state.name_changes.clear();
            Ok(())
        })
    }
}

impl Handle {
    fn with<T>(
        &self,
        changes: bool,
        act: impl FnOnce(&mut State, u64) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut state = self.disk.state.lock();
        if state.crashes != self.crashes {
            return Err(of_dead_process());
        }
        if changes {
            state.count_operation()?;
        }
        act(&mut state, self.file)
    }
}

impl State {
    fn file(&mut self, file: u64) -> io::Result<&mut SimFile> {
        self.files
            .get_mut(&file)
            .ok_or_else(|| ErrorKind::NotFound.into())
    }
}

impl DiskFile for Handle {
    fn length(&self) -> io::Result<u64> {
        self.with(false, |state, file| {
            Ok(state.file(file)?.current.len() as u64)
        })
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        self.with(false, |state, file| {
            let offset = offset as usize;
            let found = state.file(file)?.current.get(offset..offset + bytes.len());
            bytes.copy_from_slice(found.ok_or(ErrorKind::UnexpectedEof)?);
            Ok(())
        })
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.with(true, |state, file| {
            let offset = offset as usize;
            let length = state.file(file)?.current.len();
            state.check_room((offset + bytes.len()).saturating_sub(length))?;
            let file = state.file(file)?;
            write(&mut file.current, offset, bytes);
            file.unsynced.push((offset, bytes.to_vec()));
            Ok(())
        })
    }

    fn sync(&self) -> io::Result<()> {
        self.with(true, |state, file| {
            let first = state.file(file)?.durable.is_empty();
            let succeeds = first || state.take_sync();
            let file = state.file(file)?;
            let writes = std::mem::take(&mut file.unsynced);
            if !succeeds {
                return Err(io::Error::other("simulated sync failure"));
            }
            for (offset, bytes) in writes {
                write(&mut file.durable, offset, &bytes);
            }
            Ok(())
        })
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let mut state = self.disk.state.lock();
        // A lock from before a crash says nothing about who holds it now.
        if state.crashes == self.crashes {
            state.locks.remove(&self.path);
        }
    }
}
