//! What another node does to the publication between two looks of the upkeep here.

use super::*;
use ripen_cachestore::catalog::Catalog;
use ripen_grid::flusher::Pace;
use ripen_grid::grid::GridOptions;
use ripen_grid::log::{Command, HeldScope, HoldEnd, LogOptions, RequestId};
use ripen_grid::node::{Node, NodeParts};
use ripen_grid::scope::Scope;
use std::time::Duration;
use tokio::sync::watch;

const T: TableOid = TableOid(7);

/// A grid that reaches no Postgres.
async fn node(folder: &std::path::Path, store: &Store) -> Node {
    let parts = NodeParts {
        standbys: Vec::new(),
        store: Arc::new(store.clone()),
        catalog: Arc::new(|| Arc::new(Catalog::default())),
        pace: Arc::new(|_| Pace {
            write_delay_ms: 0,
            batch_factor: 1.0,
            write_max_batch: 1,
        }),
        options: GridOptions {
            pending_bytes_max: 1 << 20,
            pending_wait: Duration::ZERO,
            barrier_timeout: Duration::ZERO,
        },
        memory_max_bytes: 1 << 20,
        near_share: 1.0,
        log_number: 0,
        holder: "a test".to_owned(),
        claimed: watch::channel(false).1,
        clock: || 0,
        age_clock: Arc::new(|| 0),
        chance: || 0.5,
        cluster: None,
    };
    let opened = Node::open(LogOptions::new(folder.join("log")), parts).await;
    opened.expect("a log in an empty folder")
}

fn following(table: TableOid) -> Served {
    Served {
        followed: [table].into_iter().collect(),
        ..Served::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_node_took_out_between_two_looks_counts_as_followed_only_when_it_was_waited_for()
 {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::new("postgres://nobody@127.0.0.1:1/none".parse().unwrap());
    let node = node(folder.path(), &store).await;
    let grid = node.grid.clone();
    let publisher = Publisher::new(store, grid.clone());
    publisher.share(Arc::new(|| false));
    let published = publication::Published {
        followed: BTreeSet::from([T]),
        ..Default::default()
    };
    publisher.standing().note(&published);
    let look = || publisher.serve(following(T), grid.feed.beginnings());
    look();
    assert!(grid.feed.follows(T));

    let id = RequestId {
        process: 9,
        number: 1,
    };
    let held = HeldScope {
        id,
        node: 2,
        below: 1,
        scope: Scope::Tables([T].into_iter().collect()),
        backend: None,
        rewires: false,
        withdrawn: vec![T],
    };
    let log = node.log();
    log.propose(Command::Hold(held)).await.unwrap();
    let release = Command::Release(vec![id], HoldEnd::Changed);
    log.propose(release).await.unwrap();
    assert!(!grid.feed.follows(T));
    look();
    assert!(
        !grid.feed.follows(T),
        "nobody has looked whether it is back"
    );
    let asked = Asked {
        wanted: &published.followed,
        unwanted: &BTreeSet::new(),
        leads: Some(false),
    };
    assert!(publisher.standing().wish(&asked).in_turn);
    // It is, and is waited for like any other that was put there just now.
    let (tables, fresh) = publisher.standing().note(&published);
    assert_eq!(
        (&tables, &fresh),
        (&published.followed, &published.followed)
    );
    look();
    assert!(grid.feed.follows(T));
    node.close().await;
}
