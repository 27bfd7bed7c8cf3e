//! Measures the process at regular intervals and keeps rows to what `ripen_grid::memory` decides. Does; decides nothing.

use ripen_grid::grid::Grid;
use ripen_grid::memory::{Complaint, Measured, MemoryBound};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Runs until stopped.
pub async fn keep_within(memory_max: u64, grid: Arc<Grid>, stop: CancellationToken) {
    let mut bound = MemoryBound::new(memory_max);
    loop {
        // Not to be measured (no Linux): rows are bound by their estimate.
        if let Some(process) = process_bytes() {
            let rows = grid.rows.stats();
            let verdict = bound.decide(&Measured {
                process,
                rows: rows.bytes,
                pinned: rows.pinned_bytes,
            });
            if let Some(complaint) = verdict.complaint {
                complain(&complaint, memory_max);
            }
            shed(&grid, verdict.rows_max).await;
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(crate::limits::MEMORY_PERIOD) => {}
        }
    }
}

async fn shed(grid: &Grid, bytes_max: u64) {
    for _ in 0..crate::limits::SHED_ROUNDS_MAX {
        if grid.rows.shed(bytes_max) == 0 {
            return;
        }
        tokio::task::yield_now().await;
    }
}

fn complain(complaint: &Complaint, memory_max: u64) {
    tracing::warn!(
        memory_max,
        process_bytes = complaint.process,
        pinned_bytes = complaint.pinned,
        other_bytes = complaint.others,
        "the process takes more than memory_max although the cache has given up all but its last part: \
         pending rows, or sessions, plans and the log, need more"
    );
}

/// Resident memory, as Linux tells it.
pub fn process_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let resident = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: u64 = resident.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kilobytes * 1024)
}
