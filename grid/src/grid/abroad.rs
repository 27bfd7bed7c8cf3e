//! Tells whoever leads that this node has met another server than the log says is the system of record. Does; who leads finds out what that means.

use super::{Grid, GridError};
use crate::desk::Request;
use crate::limits;
use crate::log::LogError;
use std::sync::Weak;

/// Runs until the grid is gone. Where this node leads itself, its flusher hears of doubts by itself.
pub(crate) async fn carry_doubts(grid: Weak<Grid>) {
    let Some(mut doubts) = grid.upgrade().map(|grid| grid.home.doubts()) else {
        return;
    };
    while doubts.changed().await.is_ok() {
        let Some(grid) = grid.upgrade() else { return };
        let leads = grid
            .member()
            .is_none_or(|member| member.leadership().borrow().here);
        if leads {
            continue;
        }
        if let Err(GridError::Log(LogError::Stopped)) =
            grid.ask(&Request::Look, limits::LEADER_WAIT).await
        {
            return;
        }
        drop(grid);
        tokio::time::sleep(limits::DOUBT_PAUSE).await;
    }
}
