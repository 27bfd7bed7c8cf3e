//! `ripen recover`: lets the node of this data folder go on alone when a majority of its cluster's voters is lost for good. Works on the folder alone, while no node runs
//! on it. Never acts without being told that what only the lost nodes had may be lost.

use crate::config::Config;
use crate::config::units::show_bytes;
use crate::limits::RECOVER_LOOK_WAIT;
use crate::nodes::{identity, recovery};
use anyhow::{Context, bail, ensure};
use ripen_grid::log::LogOptions;
use ripen_grid::rescue::{Found, Rescue};
use std::collections::BTreeSet;
use std::fmt::Write;
use std::net::{TcpStream, ToSocketAddrs};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Shows what the folder holds and what may be lost; with `accept_loss`, makes its node the only voter of a new log of all that. Blocks.
///
/// # Errors
/// When there is nothing to recover, the node runs, others could go on without this, the loss is not accepted, or the files cannot be read or written.
pub fn recover(config: &Config, accept_loss: bool) -> anyhow::Result<()> {
    let folder = &config.data_dir;
    if recovery::is_unfinished(folder) {
        recovery::finish(folder)?;
        println!("an earlier \"ripen recover\" was cut short; it is finished now\n{NEXT}");
        return Ok(());
    }
    let (mut rescue, node) = open(folder)?;
    let found = rescue.found();
    let there = answering(&found, node);
    print!("{}", tell(&found, node, &there, unix_ms()));
    judge(&found, node, &there)?;
    ensure!(
        accept_loss,
        "nothing has been changed; to go on with what is here, run the same command with --accept-loss"
    );
    let made = rescue.make_log(&recovery::made(folder), node)?;
    recovery::put_away(folder, found.identity.0)?;
    recovery::finish(folder)?;
    println!(
        "\ndone: node {node} is the only voter of log {:016x} now; the old log is kept in {}\n{NEXT}",
        made.0,
        recovery::kept(folder, found.identity.0).display()
    );
    Ok(())
}

/// What is to be done then.
const NEXT: &str = "Next:
1. Start this node, with the configuration that it had. It writes to Postgres what is pending.
2. Never start another node on the folder that it had: it would be refused as soon as it reaches this node or Postgres.
   Move those folders away, and start these nodes with empty ones and \"join\" with this node's address.";

fn open(folder: &Path) -> anyhow::Result<(Rescue, u64)> {
    let log = recovery::log(folder);
    let nothing = || format!("there is no log in {}", folder.display());
    ensure!(log.exists(), nothing());
    let rescue = Rescue::open(&LogOptions::new(log))?.with_context(nothing)?;
    let node = identity::read(folder)?.with_context(|| {
        format!(
            "{} has no number of a node: it was never one of several",
            folder.display()
        )
    })?;
    Ok((rescue, node))
}

/// Other members at whose addresses somebody answers now.
fn answering(found: &Found, node: u64) -> BTreeSet<u64> {
    let others = found.members.addresses.iter();
    let others = others.filter(|(other, _)| **other != node);
    let there = others.filter(|(_, address)| answers(address));
    there.map(|(other, _)| *other).collect()
}

fn answers(address: &str) -> bool {
    let addresses = address.to_socket_addrs().into_iter().flatten();
    addresses
        .into_iter()
        .any(|address| TcpStream::connect_timeout(&address, RECOVER_LOOK_WAIT).is_ok())
}

/// Whether it may be done at all.
fn judge(found: &Found, node: u64, there: &BTreeSet<u64>) -> anyhow::Result<()> {
    let voters = &found.members.voters;
    ensure!(
        found.members.addresses.contains_key(&node),
        "this node was never let into the cluster: it has nothing that the others lack"
    );
    ensure!(
        !voters.iter().eq([&node]),
        "there is nothing to recover: this node is the only voter, just start it"
    );
    let alive = voters.iter().filter(|voter| there.contains(voter)).count()
        + usize::from(voters.contains(&node));
    if alive > voters.len() / 2 {
        bail!(
            "nothing has been changed: with this node, {alive} of {} voters are there, which is a majority; start this node, and nothing is lost. \
             If they are gone and somebody else answers at their addresses, stop that first",
            voters.len()
        );
    }
    Ok(())
}

fn tell(found: &Found, node: u64, there: &BTreeSet<u64>, now_ms: u64) -> String {
    let mut text = format!("node {node} of log {:016x}\n", found.identity.0);
    for (member, address) in &found.members.addresses {
        let part = match found.members.voters.contains(member) {
            true => "voter",
            false => "learner",
        };
        let who = match (*member == node, there.contains(member)) {
            (true, _) => "this one",
            (_, true) => "somebody answers there",
            (_, false) => "does not answer",
        };
        let _ = writeln!(text, "  {part} {member} at {address}: {who}");
    }
    let (last, term) = found.last;
    let _ = writeln!(
        text,
        "last entry: {} of term {term}, made {}; known to be on a majority: up to {}",
        last.0,
        ago(found.at_ms, now_ms),
        found.committed.0
    );
    text += &tell_pending(found, now_ms);
    let voters = found.members.voters.len();
    let _ = writeln!(
        text,
        "What may be lost: every write that a majority of the {voters} voters had acknowledged and that had not come to this node. Nothing here tells how many these are: \
         if this node was up to date when the others were lost, none; if it was cut off or behind, all since {}. \
         Compare the last entries of all folders that are left, and recover the one with the highest term, then entry.",
        ago(found.at_ms, now_ms)
    );
    let _ = writeln!(
        text,
        "If Postgres has a later flush of this log than {}, the pending rows here may be older than what is there; then they are not written, and the node says so at its start.",
        found.flushes.open.unwrap_or(found.flushes.last).0
    );
    text
}

fn tell_pending(found: &Found, now_ms: u64) -> String {
    let pending = &found.pending;
    let mut text = format!(
        "pending: {} rows, {}",
        found.flushes.pending_rows,
        show_bytes(pending.pending_bytes)
    );
    if let Some(oldest_ms) = pending.oldest_ms {
        let _ = write!(text, ", the oldest made {}", ago(oldest_ms, now_ms));
    }
    let _ = match found.flushes.open {
        Some(open) => writeln!(
            text,
            "; {} of them in flush {}, of which only Postgres knows whether it was committed",
            pending.flushing_rows, open.0
        ),
        None => writeln!(text, "; last flush: {}", found.flushes.last.0),
    };
    text
}

fn ago(at_ms: u64, now_ms: u64) -> String {
    if at_ms == 0 {
        return "at an unknown time".to_owned();
    }
    let seconds = now_ms.saturating_sub(at_ms) / 1000;
    format!("{seconds} s ago (unix time {})", at_ms / 1000)
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since: Duration| since.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ripen_cachestore::change::FlushSeq;
    use ripen_cachestore::progress::LogIdentity;
    use ripen_grid::log::{LogIndex, Members};
    use ripen_grid::schedule::ScheduleStats;
    use ripen_grid::settlement::Known;

    fn found() -> Found {
        let addresses = [1, 2, 3, 4].map(|node| (node, format!("ripen-{node}:6434")));
        Found {
            identity: LogIdentity(0xabc),
            formers: Vec::new(),
            last: (LogIndex(90), 4),
            committed: LogIndex(88),
            at_ms: 1_000_000,
            members: Members {
                addresses: addresses.into(),
                voters: [1, 2, 3].into(),
            },
            flushes: Known {
                kept_from: None,
                open: Some(FlushSeq(6)),
                last: FlushSeq(5),
                pending_rows: 7,
            },
            pending: ScheduleStats {
                pending_bytes: 2048,
                oldest_ms: Some(990_000),
                flushing_rows: 2,
                ..ScheduleStats::default()
            },
        }
    }

    #[test]
    fn what_there_is_and_what_may_be_lost_is_told() {
        let told = tell(&found(), 3, &[4].into(), 1_012_000);
        let expected = "\
node 3 of log 0000000000000abc
  voter 1 at ripen-1:6434: does not answer
  voter 2 at ripen-2:6434: does not answer
  voter 3 at ripen-3:6434: this one
  learner 4 at ripen-4:6434: somebody answers there
last entry: 90 of term 4, made 12 s ago (unix time 1000); known to be on a majority: up to 88
pending: 7 rows, 2KiB, the oldest made 22 s ago (unix time 990); 2 of them in flush 6, of which only Postgres knows whether it was committed
What may be lost: ";
        assert!(told.starts_with(expected), "{told}");
        assert!(told.contains("later flush of this log than 6"), "{told}");
    }

    #[test]
    fn only_who_cannot_go_on_otherwise_is_recovered() {
        let refused = |found: &Found, node, there: &[u64]| {
            let there = there.iter().copied().collect();
            judge(found, node, &there)
                .err()
                .map(|error| error.to_string())
        };
        assert_eq!(refused(&found(), 3, &[]), None);
        assert_eq!(refused(&found(), 4, &[1]), None, "a learner has no voice");
        let majority = refused(&found(), 3, &[1]).unwrap();
        assert!(majority.contains("2 of 3 voters are there"), "{majority}");
        assert!(refused(&found(), 4, &[1, 2]).is_some());
        assert!(refused(&found(), 9, &[]).unwrap().contains("never let in"));
        let mut alone = found();
        alone.members.voters = [3].into();
        assert!(refused(&alone, 3, &[]).unwrap().contains("only voter"));
    }
}
