//! Who may work on a database: a Ripen alone, or the nodes of one cluster.

use crate::changes::{Bench, LOG};
use ripen_cachestore::claim::Claim;
use ripen_cachestore::progress::{LogIdentity, LogKey};
use std::time::Duration;

const T: &str = "CREATE TABLE t (id int PRIMARY KEY)";

/// Another cluster's log.
const FOREIGN: LogKey = LogKey {
    identity: LogIdentity(6),
    ..LOG
};

async fn alone(bench: &Bench) -> Claim {
    bench.store().claim(0).await.unwrap()
}

async fn member(bench: &Bench, log: LogKey) -> Claim {
    bench.store().claim_as_member(log, &[]).await.unwrap()
}

/// A node of a log that was made of `LOG`.
async fn heir(bench: &Bench, log: LogKey) -> Claim {
    let claim = bench.store().claim_as_member(log, &[LOG.identity]).await;
    claim.unwrap()
}

async fn takes(claim: &Claim) -> bool {
    claim.take().await.unwrap().is_none()
}

#[tokio::test]
async fn one_connection_at_a_time_has_the_claim() {
    let bench = Bench::new(T).await;
    let store = bench.store();
    let (first, second) = (store.claim(0).await.unwrap(), store.claim(0).await.unwrap());
    assert_eq!(first.take().await.unwrap(), None);
    let claimant = second.take().await.unwrap().unwrap();
    assert_eq!(claimant.owner.unwrap().holder, "a test");
    assert_eq!(store.claim(1).await.unwrap().take().await.unwrap(), None);
    let end = format!("SELECT pg_terminate_backend({})", claimant.backend);
    assert_eq!(bench.rows(&end).await, "true");
    while second.take().await.unwrap().is_some() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(first.owner().await.is_err());
}

#[tokio::test]
async fn nodes_of_one_cluster_share_the_claim() {
    let bench = Bench::new(T).await;
    let mut members = Vec::new();
    for _ in 0..3 {
        members.push(member(&bench, LOG).await);
    }
    let at_once = members.iter().map(takes);
    assert_eq!(futures_util::future::join_all(at_once).await, [true; 3]);
    // Of another log number.
    let other = LogKey {
        number: 1,
        ..FOREIGN
    };
    assert!(takes(&member(&bench, other).await).await);
}

#[tokio::test]
async fn a_foreigner_is_refused_as_long_as_one_node_lives() {
    let bench = Bench::new(T).await;
    let (first, second) = (member(&bench, LOG).await, member(&bench, LOG).await);
    assert!(takes(&first).await && takes(&second).await);
    let (lonely, foreign) = (alone(&bench).await, member(&bench, FOREIGN).await);
    for claim in [&lonely, &foreign] {
        let claimant = claim.take().await.unwrap().unwrap();
        assert!(claimant.of_cluster && claimant.backend > 0);
        assert_eq!(claimant.owner.unwrap().holder, "a test");
    }
    drop(first);
    assert!(!takes(&lonely).await && !takes(&foreign).await);
    // Who was refused stands in nobody's way.
    assert!(takes(&member(&bench, LOG).await).await);
    drop(second);
    until_taken(&foreign).await;
    let claimant = lonely.take().await.unwrap().unwrap();
    assert!(claimant.of_cluster);
}

#[tokio::test]
async fn a_node_is_refused_by_a_ripen_alone() {
    let bench = Bench::new(T).await;
    let lonely = alone(&bench).await;
    assert!(takes(&lonely).await);
    let node = member(&bench, LOG).await;
    let claimant = node.take().await.unwrap().unwrap();
    assert!(!claimant.of_cluster && claimant.backend > 0);
    drop(lonely);
    until_taken(&node).await;
    assert!(takes(&member(&bench, LOG).await).await);
}

#[tokio::test]
async fn who_goes_on_for_a_log_is_not_kept_out_by_its_nodes() {
    let bench = Bench::new(T).await;
    let former = member(&bench, LOG).await;
    assert!(takes(&former).await);
    let (first, second) = (heir(&bench, FOREIGN).await, heir(&bench, FOREIGN).await);
    assert!(takes(&first).await && takes(&second).await);
    // Who comes back in the name of the former log is kept out, and so is a second log that was made of it.
    assert!(!takes(&member(&bench, LOG).await).await);
    let other = LogKey {
        identity: LogIdentity(8),
        ..LOG
    };
    assert!(!takes(&heir(&bench, other).await).await);
}

#[tokio::test]
async fn a_database_knows_the_logs_that_have_led_there() {
    let bench = Bench::new(T).await;
    assert!(member(&bench, LOG).await.is_known().await.unwrap());
    assert!(!member(&bench, FOREIGN).await.is_known().await.unwrap());
    assert!(heir(&bench, FOREIGN).await.is_known().await.unwrap());
    let drop = "DROP SCHEMA ripen CASCADE";
    bench.database.sql.batch_execute(drop).await.unwrap();
    assert!(!member(&bench, LOG).await.is_known().await.unwrap());
}

#[tokio::test]
async fn of_two_clusters_that_come_at_once_one_gets_it() {
    let bench = Bench::new(T).await;
    for _ in 0..20 {
        let claims = [
            member(&bench, LOG).await,
            member(&bench, FOREIGN).await,
            member(&bench, LOG).await,
            member(&bench, FOREIGN).await,
        ];
        let mut taken = futures_util::future::join_all(claims.iter().map(takes)).await;
        assert!(
            !(taken[0] || taken[2]) || !(taken[1] || taken[3]),
            "{taken:?}"
        );
        // Who met another in the act asks again.
        for (claim, taken) in claims.iter().zip(&mut taken) {
            *taken = *taken || takes(claim).await;
        }
        assert!(
            taken == [true, false, true, false] || taken == [false, true, false, true],
            "{taken:?}"
        );
        drop(claims);
        let left = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
        while bench.rows(left).await != "0" {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// Postgres notices a moment later that a connection is gone.
async fn until_taken(claim: &Claim) {
    while !takes(claim).await {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
