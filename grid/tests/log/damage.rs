//! Files that hold what was never written, disks that fail or fill up.

use crate::support::{DIR, command, files, open, options, write_slowly};
use ripen_grid::log::disk::{Disk, Faults, SimDisk};
use ripen_grid::log::{LogError, LogOptions};

/// Ten synced batches, killed.
async fn written() -> SimDisk {
    let disk = SimDisk::new();
    let (log, _) = open(&options(&disk)).await.unwrap();
    write_slowly(&log, 0..10, 100).await;
    log.shutdown().await;
    disk
}

async fn refusal(options: &LogOptions) -> LogError {
    open(options).await.err().expect("the log must be refused")
}

/// Where the padding of each command begins in the first segment.
fn paddings(disk: &SimDisk) -> Vec<usize> {
    let bytes = disk.contents(&files(disk, "wal")[0]).unwrap();
    let starts = |at: &usize| bytes[*at..].starts_with(&[7; 100]);
    (0..bytes.len() - 100).filter(starts).collect()
}

#[tokio::test]
async fn flipped_bit_is_found_and_named() {
    for batch in 0..10 {
        let disk = written().await;
        let segment = files(&disk, "wal")[0].clone();
        let padding = paddings(&disk)[batch];
        disk.flip(&segment, padding + 50, 4);
        let error = refusal(&options(&disk)).await;
        let LogError::Damaged { path, offset, .. } = &error else {
            panic!("batch {batch}: {error}");
        };
        assert_eq!(path, &segment);
        assert!((padding - 200..padding).contains(&(*offset as usize)));
        assert!(
            error.to_string().contains("restore the directory"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn flipped_bit_in_an_earlier_segment_is_found() {
    let disk = SimDisk::new();
    let (log, _) = open(&options(&disk)).await.unwrap();
    write_slowly(&log, 0..100, 1000).await;
    log.shutdown().await;
    let last = files(&disk, "wal")[0].clone();
    disk.flip(&last, *paddings(&disk).last().unwrap(), 1);
    let error = refusal(&options(&disk)).await;
    assert!(matches!(error, LogError::Damaged { .. }), "{error}");
}

#[tokio::test]
async fn flipped_bit_in_a_header_is_found() {
    for offset in [0, 12, 20, 30, 35, 50] {
        let disk = written().await;
        disk.flip(&files(&disk, "wal")[0], offset, 1);
        let error = refusal(&options(&disk)).await;
        assert!(
            matches!(error, LogError::Damaged { .. }),
            "{offset}: {error}"
        );
    }
}

#[tokio::test]
async fn missing_segment_is_found() {
    for position in [0, 1] {
        let disk = SimDisk::new();
        let (log, _) = open(&options(&disk)).await.unwrap();
        write_slowly(&log, 0..100, 1000).await;
        log.shutdown().await;
        disk.remove(&files(&disk, "wal")[position]).unwrap();
        let error = refusal(&options(&disk)).await;
        assert!(matches!(error, LogError::Damaged { .. }), "{error}");
        assert!(error.to_string().contains("missing"), "{error}");
    }
}

#[tokio::test]
async fn unknown_version_is_refused() {
    let disk = written().await;
    disk.flip(&files(&disk, "wal")[0], 8, 3);
    let error = refusal(&options(&disk)).await;
    let found = matches!(
        error,
        LogError::Version {
            found: 2,
            known: 1,
            ..
        }
    );
    assert!(found, "{error}");
}

async fn with_snapshot() -> (SimDisk, LogOptions) {
    let disk = SimDisk::new();
    let options = LogOptions {
        snapshot_after_bytes: 40 << 10,
        ..options(&disk)
    };
    let (log, _) = open(&options).await.unwrap();
    write_slowly(&log, 0..300, 200).await;
    log.shutdown().await;
    (disk, options)
}

#[tokio::test]
async fn damaged_snapshot_is_refused_when_the_log_begins_after_it() {
    let (disk, options) = with_snapshot().await;
    let snapshot = files(&disk, "snapshot")[0].clone();
    disk.flip(&snapshot, 300, 1);
    let error = refusal(&options).await;
    let LogError::Damaged { path, .. } = &error else {
        panic!("{error}");
    };
    assert_eq!(path, &snapshot);
}

#[tokio::test]
async fn missing_snapshot_is_refused() {
    let (disk, options) = with_snapshot().await;
    disk.remove(&files(&disk, "snapshot")[0]).unwrap();
    let error = refusal(&options).await;
    assert!(error.to_string().contains("snapshot is missing"), "{error}");
}

#[tokio::test]
async fn snapshot_without_its_log_is_refused() {
    let (disk, options) = with_snapshot().await;
    for segment in files(&disk, "wal") {
        disk.remove(&segment).unwrap();
    }
    let error = refusal(&options).await;
    assert!(error.to_string().contains("no segment"), "{error}");
}

#[tokio::test]
async fn snapshot_of_another_log_is_refused() {
    let (disk, options) = with_snapshot().await;
    let (other, _) = with_snapshot().await;
    let path = &files(&disk, "snapshot")[0];
    let foreign = other.contents(&files(&other, "snapshot")[0]).unwrap();
    disk.create(path).unwrap().write_at(&foreign, 0).unwrap();
    let error = refusal(&options).await;
    assert!(error.to_string().contains("another log"), "{error}");
}

#[tokio::test]
async fn leftover_of_an_unfinished_snapshot_does_no_harm() {
    let (disk, options) = with_snapshot().await;
    let path = format!("{DIR}/snapshot-00000000000000009999.tmp");
    let file = disk.create(path.as_ref()).unwrap();
    file.write_at(b"half", 0).unwrap();
    let (_log, numbers) = open(&options).await.unwrap();
    assert_eq!(numbers.get().len(), 300);
}

/// Writes until something fails; returns how many were acknowledged, and the first error.
async fn write_until_failure(
    options: &LogOptions,
    disk: &SimDisk,
    faults: Faults,
) -> (u64, LogError) {
    let (log, _) = open(options).await.unwrap();
    disk.set_faults(faults);
    for number in 0..10_000 {
        let Err(error) = log.propose(command(number, 200)).await else {
            continue;
        };
        assert_eq!(log.failed().await.to_string(), error.to_string());
        log.propose(command(number + 1, 200)).await.unwrap_err();
        log.shutdown().await;
        return (number, error);
    }
    panic!("nothing failed");
}

#[tokio::test]
async fn failed_sync_is_never_acknowledged_nor_repeated() {
    // Of what was not synced, nothing or everything survives.
    for (syncs, survives) in (0..20).flat_map(|syncs| [(syncs, 0), (syncs, 1)]) {
        let disk = SimDisk::new();
        let faults = Faults {
            syncs_left: Some(syncs),
            ..Faults::default()
        };
        let (acknowledged, error) = write_until_failure(&options(&disk), &disk, faults).await;
        assert!(
            matches!(error, LogError::Io { action: "sync", .. }),
            "{error}"
        );
        disk.crash(|_| survives);
        let (_log, numbers) = open(&options(&disk)).await.unwrap();
        assert_eq!(numbers.get(), (0..acknowledged).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn full_disk_is_an_error_before_the_acknowledgement() {
    let disk = SimDisk::new();
    let faults = Faults {
        capacity: Some(100 << 10),
        ..Faults::default()
    };
    let (acknowledged, error) = write_until_failure(&options(&disk), &disk, faults).await;
    assert!(matches!(error, LogError::Full { .. }), "{error}");
    assert_eq!(error.sqlstate(), "53100");
    assert!(acknowledged > 100);
    disk.kill();
    let (log, numbers) = open(&options(&disk)).await.unwrap();
    assert_eq!(
        numbers.get()[..acknowledged as usize],
        (0..acknowledged).collect::<Vec<_>>()
    );
    write_slowly(&log, 20_000..20_010, 200).await;
}

#[tokio::test]
async fn disk_too_full_for_a_snapshot_is_an_error() {
    let disk = SimDisk::new();
    let options = LogOptions {
        snapshot_after_bytes: 20 << 10,
        ..options(&disk)
    };
    let faults = Faults {
        capacity: Some(33 << 10),
        ..Faults::default()
    };
    let (_, error) = write_until_failure(&options, &disk, faults).await;
    assert!(matches!(error, LogError::Full { .. }), "{error}");
}
