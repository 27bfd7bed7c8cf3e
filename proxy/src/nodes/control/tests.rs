//! Nodes with logs on real disks, asked from outside.

use super::*;
use ripen_grid::cluster::membership::Wish;
use ripen_grid::cluster::{Member, MemberOptions};
use ripen_grid::log::{Entry, LogIndex, LogOptions, Machine};
use std::path::Path;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep, timeout};

/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(30);

struct Nothing;

impl Machine for Nothing {
    fn apply(&mut self, _: LogIndex, _: Entry) {}

    fn snapshot(&self) -> Vec<u8> {
        Vec::new()
    }

    fn restore(&mut self, _: ripen_grid::log::LogIndex, _: &[u8]) -> Result<(), String> {
        Ok(())
    }
}

async fn member(folder: &Path, node: u64, seeds: Vec<String>) -> Member {
    // Of addresses of its own: nobody else is given a port of a node that is stopped.
    let listener = TcpListener::bind("127.0.3.1:0").await.unwrap();
    let log = LogOptions {
        node,
        address: listener.local_addr().unwrap().to_string(),
        ..LogOptions::new(folder.join(node.to_string()))
    };
    let options = MemberOptions {
        founds: seeds.is_empty(),
        process: 1,
        search: Duration::ZERO,
        listener: listener.into(),
        keys: None,
        seeds,
        wish: Wish {
            voters: 3,
            replace_after_ms: 60_000,
        },
    };
    let opened = Member::open(&Handle::current(), options, log, Nothing).await;
    opened.unwrap()
}

fn clustered(member: &Member, stop: CancellationToken) -> Clustered {
    let nothing: GivenBack = Box::new(|| Box::pin(std::future::ready(())));
    Clustered::new(member.operator(), Arc::default(), nothing, stop)
}

async fn until(mut fact: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !fact().await {
        assert!(Instant::now() < deadline, "it did not come");
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_is_drained_and_leaves_and_stops_then() {
    let folder = tempfile::tempdir().unwrap();
    let mut members = vec![member(folder.path(), 1, Vec::new()).await];
    let seed = members[0].operator().status().address;
    let stops: [CancellationToken; 3] = Default::default();
    let control =
        |members: &[Member], place: usize| clustered(&members[place], stops[place].clone());
    let alone = control(&members, 0);
    assert!(matches!(alone.drain().await, Err(ControlError::Alone)));
    assert!(matches!(alone.leave().await, Err(ControlError::Alone)));
    assert_eq!(alone.not_ready(), None);
    for node in 2..=3 {
        members.push(member(folder.path(), node, vec![seed.clone()]).await);
    }
    let controls = [0, 1, 2].map(|place| control(&members, place));
    until(async || controls[0].view().await.1.is_ok()).await;

    let first = &controls[0];
    timeout(PATIENCE, first.drain()).await.unwrap().unwrap();
    assert!(!first.status().leads && first.not_ready().is_some());
    let leader = first.status().leader.map(|leader| leader.node);
    let report = NodeReport::of(first).await;
    assert_eq!(report.status.leader.map(|leader| leader.node), leader);
    assert_eq!(report.not_ready.as_deref(), first.not_ready());

    // The leader hands over before it goes.
    let place = leader.unwrap() as usize - 1;
    let leaving = timeout(PATIENCE, controls[place].leave());
    leaving.await.unwrap().unwrap();
    assert!(stops[place].is_cancelled() && controls[place].not_ready().is_some());
    let stopped = stops.iter().filter(|stop| stop.is_cancelled());
    assert_eq!(stopped.count(), 1);
    members.remove(place).close().await;
    until(async || first.status().members.len() == 2).await;
    for member in members {
        member.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_not_drained_in_time_serves_as_before() {
    let folder = tempfile::tempdir().unwrap();
    let member = member(folder.path(), 1, Vec::new()).await;
    let control = clustered(&member, CancellationToken::new());
    let never = std::future::pending();
    let patience = Duration::from_millis(10);
    let late = control.quietly(patience, "it did not happen", never).await;
    let error = late.unwrap_err().to_string();
    assert!(
        error.starts_with("it did not happen within 10ms"),
        "{error}"
    );
    assert_eq!(control.not_ready(), None);
    // Who was drained before stays so.
    let nothing = async { Ok(()) };
    control.quietly(PATIENCE, "", nothing).await.unwrap();
    let never = std::future::pending();
    assert!(control.quietly(patience, "", never).await.is_err());
    assert!(control.not_ready().is_some());
    member.close().await;
}
