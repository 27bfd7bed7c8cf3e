//! What the log does when nothing is broken.

use crate::support::{Numbers, command, files, open, options, write, write_slowly};
use ripen_grid::log::disk::SimDisk;
use ripen_grid::log::{Durability, Entry, Log, LogError, LogIndex, LogOptions, Machine};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};

#[tokio::test]
async fn commands_are_there_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let options = LogOptions {
        segment_bytes: 64 << 10,
        ..LogOptions::new(dir.path().join("log"))
    };
    let mut term = 0;
    for round in 0..4 {
        let (log, numbers) = open(&options).await.unwrap();
        assert_eq!(numbers.get(), (0..round * 500).collect::<Vec<_>>());
        assert!(log.term() > term, "each opening has a new term");
        term = log.term();
        write(&log, round * 500..(round + 1) * 500, 200).await;
        assert_eq!(numbers.get().len() as u64, (round + 1) * 500);
        log.shutdown().await;
    }
}

#[tokio::test]
async fn order_is_the_order_of_calls_also_without_tickets() {
    let disk = SimDisk::new();
    let (log, numbers) = open(&options(&disk)).await.unwrap();
    for number in 0..1000 {
        drop(log.propose(command(number, 10)));
    }
    log.propose(command(1000, 10)).await.unwrap();
    assert_eq!(numbers.get(), (0..=1000).collect::<Vec<_>>());
}

#[tokio::test]
async fn commands_share_entries_and_syncs() {
    let (log, _) = open(&options(&SimDisk::new())).await.unwrap();
    let before = log.stats();
    write(&log, 0..2000, 10).await;
    let stats = log.stats();
    assert_eq!(stats.commands, 2000);
    assert!(stats.entries - before.entries < 100, "{stats:?}");
    assert!(stats.batches - before.batches < 100, "{stats:?}");
    assert_eq!(stats.queued, 0);
}

#[tokio::test]
async fn snapshot_makes_room() {
    let disk = SimDisk::new();
    let options = LogOptions {
        snapshot_after_bytes: 40 << 10,
        ..options(&disk)
    };
    let (log, _) = open(&options).await.unwrap();
    write_slowly(&log, 0..1000, 200).await;
    let stats = log.stats();
    assert!(stats.snapshots >= 3, "{stats:?}");
    log.shutdown().await;
    assert_eq!(files(&disk, "snapshot").len(), 1);
    assert!(files(&disk, "wal").len() < 10);
    let (log, numbers) = open(&options).await.unwrap();
    assert_eq!(numbers.get(), (0..1000).collect::<Vec<_>>());
    write_slowly(&log, 1000..1010, 200).await;
    log.shutdown().await;
    let (_log, numbers) = open(&options).await.unwrap();
    assert_eq!(numbers.get(), (0..1010).collect::<Vec<_>>());
}

#[tokio::test]
async fn command_larger_than_a_segment_is_kept() {
    let disk = SimDisk::new();
    let (log, _) = open(&options(&disk)).await.unwrap();
    write_slowly(&log, 0..3, 100_000).await;
    write_slowly(&log, 3..6, 10).await;
    log.shutdown().await;
    let (_log, numbers) = open(&options(&disk)).await.unwrap();
    assert_eq!(numbers.get(), (0..6).collect::<Vec<_>>());
}

#[tokio::test]
async fn directory_is_for_one() {
    let dir = tempfile::tempdir().unwrap();
    let options = LogOptions {
        segment_bytes: 64 << 10,
        ..LogOptions::new(dir.path())
    };
    let (log, _) = open(&options).await.unwrap();
    let second = open(&options).await.err().unwrap();
    assert!(matches!(second, LogError::Locked { .. }), "{second}");
    log.shutdown().await;
    open(&options).await.unwrap();
}

#[tokio::test]
async fn shutdown_keeps_what_was_proposed_and_refuses_the_rest() {
    let disk = SimDisk::new();
    let (log, _) = open(&options(&disk)).await.unwrap();
    let tickets: Vec<_> = (0..100).map(|n| log.propose(command(n, 50))).collect();
    log.clone().shutdown().await;
    for ticket in tickets {
        ticket.await.unwrap();
    }
    let late = log.propose(command(100, 50)).await;
    assert!(matches!(late, Err(LogError::Stopped)));
    assert!(log.failure().is_none());
    let (_log, numbers) = open(&options(&disk)).await.unwrap();
    assert_eq!(numbers.get(), (0..100).collect::<Vec<_>>());
}

#[tokio::test]
async fn dropped_log_frees_its_directory() {
    let disk = SimDisk::new();
    let (log, _) = open(&options(&disk)).await.unwrap();
    write(&log, 0..10, 10).await;
    drop(log);
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(10);
    loop {
        match open(&options(&disk)).await {
            Ok((_, numbers)) => return assert_eq!(numbers.get().len(), 10),
            Err(LogError::Locked { .. }) if tokio::time::Instant::now() < deadline => {
                tokio::task::yield_now().await;
            }
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test]
async fn log_in_memory_mode_survives_a_kill() {
    let disk = SimDisk::new();
    let in_memory = || LogOptions {
        durability: Durability::Memory,
        ..options(&disk)
    };
    let (log, _) = open(&in_memory()).await.unwrap();
    write(&log, 0..500, 100).await;
    disk.kill();
    drop(log);
    let (_log, numbers) = open(&in_memory()).await.unwrap();
    assert_eq!(numbers.get(), (0..500).collect::<Vec<_>>());
}

#[tokio::test]
async fn time_does_not_go_back() {
    let disk = SimDisk::new();
    let now = Arc::new(AtomicU64::new(5000));
    let clock = now.clone();
    let options = LogOptions {
        clock: Arc::new(move || clock.load(Ordering::Relaxed)),
        ..options(&disk)
    };
    let (log, numbers) = open(&options).await.unwrap();
    write(&log, 0..2, 10).await;
    now.store(3000, Ordering::Relaxed);
    write(&log, 2..4, 10).await;
    log.shutdown().await;
    assert_eq!(numbers.at_ms(), 5000);
    let (log, numbers) = open(&options).await.unwrap();
    write(&log, 4..6, 10).await;
    assert_eq!(numbers.at_ms(), 5000);
}

struct Panics;

impl Machine for Panics {
    fn apply(&mut self, _index: LogIndex, _entry: Entry) {
        panic!("as the test wants it");
    }

    fn snapshot(&self) -> Vec<u8> {
        Vec::new()
    }

    fn restore(&mut self, _: LogIndex, _bytes: &[u8]) -> Result<(), String> {
        Ok(())
    }
}

#[tokio::test]
async fn panic_of_the_machine_is_told_to_all() {
    let disk = SimDisk::new();
    let log = Log::open(options(&disk), Panics).await.unwrap();
    let error = log.propose(command(1, 10)).await.unwrap_err();
    assert!(matches!(error, LogError::Consensus { .. }), "{error}");
    assert!(error.to_string().contains("panicked"), "{error}");
    log.failed().await;
    log.propose(command(2, 10)).await.unwrap_err();
    log.shutdown().await;
    // What could not be applied was acknowledged to nobody, but stands in the log.
    let (_log, numbers) = open(&options(&disk)).await.unwrap();
    assert_eq!(numbers.get()[0], 1);
}

#[tokio::test]
async fn snapshot_that_the_machine_refuses_stops_the_start() {
    struct Picky(Numbers);
    impl Machine for Picky {
        fn apply(&mut self, index: LogIndex, entry: Entry) {
            self.0.apply(index, entry);
        }
        fn snapshot(&self) -> Vec<u8> {
            self.0.snapshot()
        }
        fn restore(&mut self, _: LogIndex, _bytes: &[u8]) -> Result<(), String> {
            Err("not mine".to_owned())
        }
    }
    let disk = SimDisk::new();
    let options = LogOptions {
        snapshot_after_bytes: 1000,
        ..options(&disk)
    };
    let (log, _) = open(&options).await.unwrap();
    write_slowly(&log, 0..100, 100).await;
    log.shutdown().await;
    let error = Log::open(options.clone(), Picky(Numbers::default())).await;
    assert!(matches!(error.err(), Some(LogError::Restore { .. })));
    open(&options).await.unwrap();
}

/// Is in the middle of each entry until it is told to go on.
struct Gate {
    begun: mpsc::Sender<LogIndex>,
    go_on: Mutex<mpsc::Receiver<()>>,
}

impl Machine for Gate {
    fn apply(&mut self, index: LogIndex, _: Entry) {
        self.begun.send(index).expect("the test listens");
        let go_on = self.go_on.lock().expect("nobody panics");
        go_on.recv().expect("the test says so");
    }

    fn snapshot(&self) -> Vec<u8> {
        Vec::new()
    }

    fn restore(&mut self, _: LogIndex, _: &[u8]) -> Result<(), String> {
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_sees_half_an_entry_knows_how_far_that_may_be() {
    let ((begun, begins), (go_on, goes_on)) = (mpsc::channel(), mpsc::channel());
    let machine = Gate {
        begun,
        go_on: Mutex::new(goes_on),
    };
    let log = Log::open(options(&SimDisk::new()), machine).await.unwrap();
    let ticket = log.propose(command(1, 10));
    let index = begins.recv().unwrap();
    assert!(log.applied() < index);
    assert_eq!(log.touched(), index);
    go_on.send(()).unwrap();
    assert_eq!(ticket.await.unwrap(), index);
    assert_eq!((log.applied(), log.touched()), (index, index));
    drop(go_on);
    log.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tickets_that_wait_for_leases_end_with_the_log() {
    let options = LogOptions {
        leases: true,
        ..options(&SimDisk::new())
    };
    let (log, numbers) = open(&options).await.unwrap();
    let ticket = log.propose(command(1, 10));
    while numbers.get().is_empty() {
        tokio::task::yield_now().await;
    }
    // Others may still have the log.
    log.clone().shutdown().await;
    let told = tokio::time::timeout(std::time::Duration::from_secs(20), ticket).await;
    assert!(matches!(told, Ok(Err(LogError::Stopped))), "{told:?}");
}
