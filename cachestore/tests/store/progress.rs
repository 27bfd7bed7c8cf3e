//! Fencing, take-over, and commits without an answer.

use crate::changes::{Bench, LOG, int, taker};
use crate::relay::Relay;
use crate::server::connect;
use ripen_cachestore::change::FlushSeq;
use ripen_cachestore::progress::{FlushFate, LogIdentity, LogKey, Progress, Taker};
use ripen_cachestore::{Class, Store, StoreError};
use std::sync::atomic::Ordering;
use std::time::Duration;

const T: &str = "CREATE TABLE t (id int PRIMARY KEY)";

#[tokio::test]
async fn take_over_fences_older_leaders_off() {
    let mut bench = Bench::new(T).await;
    let store = bench.store().clone();
    bench.flush(vec![vec![bench.insert("t", &[int(1)])]]).await;
    assert_eq!(
        store.take_over(taker(5)).await.unwrap().applied,
        FlushSeq(1)
    );
    assert_eq!(
        store.take_over(taker(5)).await.unwrap().applied,
        FlushSeq(1)
    );
    let error = store.take_over(taker(4)).await.unwrap_err();
    assert!(
        matches!(&error, StoreError::Fenced { by, identity: Some(identity) } if by == "a test" && *identity == LOG.identity),
        "{error}"
    );
    let error = bench
        .try_flush(vec![vec![bench.insert("t", &[int(2)])]])
        .await
        .unwrap_err();
    assert_eq!((error.class(), error.retry()), (Class::Fenced, false));
    assert_eq!(bench.rows("SELECT id FROM t").await, "1");
    assert_eq!(
        store.progress(LOG).await.unwrap(),
        Some(Progress {
            applied: FlushSeq(1),
            epoch: 5
        })
    );
    assert_eq!(store.progress(another(1).log).await.unwrap(), None);
    let error = store.outcome(LOG, 1, FlushSeq(2)).await.unwrap_err();
    assert_eq!(error.class(), Class::Fenced);
}

/// The leader of another log with the same number.
fn another(epoch: u64) -> Taker<'static> {
    let identity = LogIdentity(LOG.identity.0 - 1);
    Taker {
        log: LogKey { identity, ..LOG },
        holder: "another",
        ..taker(epoch)
    }
}

#[tokio::test]
async fn each_log_counts_its_own_flushes_and_fences_the_others() {
    let mut bench = Bench::new(T).await;
    let store = bench.store().clone();
    bench.flush(vec![vec![bench.insert("t", &[int(1)])]]).await;
    let taken = store.take_over(another(2)).await.unwrap();
    assert_eq!(taken.applied, FlushSeq(0));
    assert_eq!(taken.other.as_deref(), Some("a test"));
    assert_eq!(store.take_over(another(3)).await.unwrap().other, None);
    // The same number of flush, in the other's name.
    let error = bench
        .try_flush(vec![vec![bench.insert("t", &[int(2)])]])
        .await
        .unwrap_err();
    assert!(
        matches!(&error, StoreError::Fenced { by, identity: Some(identity) } if by == "another" && *identity == another(0).log.identity),
        "{error}"
    );
    let mut batch = bench.batch(vec![vec![bench.insert("t", &[int(3)])]]);
    (batch.log, batch.epoch, batch.seq) = (another(3).log, 3, FlushSeq(1));
    store.flush(&bench.catalog, &batch, |_| {}).await.unwrap();
    let taken = store.take_over(taker(4)).await.unwrap();
    assert_eq!(
        (taken.applied, taken.other.as_deref()),
        (FlushSeq(1), Some("another"))
    );
    assert_eq!(bench.rows("SELECT id FROM t ORDER BY id").await, "1;3");
}

#[tokio::test]
async fn of_two_logs_that_draw_the_same_epoch_only_one_leads() {
    let mut bench = Bench::new(T).await;
    let store = bench.store().clone();
    let epoch = store.newest_epoch(0).await.unwrap() + 1;
    store.take_over(another(epoch)).await.unwrap();
    let error = store.take_over(taker(epoch)).await.unwrap_err();
    assert!(
        matches!(&error, StoreError::Fenced { by, identity: Some(identity) } if by == "another" && *identity == another(0).log.identity),
        "{error}"
    );
    store.take_over(another(epoch)).await.unwrap();
    let mut batch = bench.batch(vec![vec![bench.insert("t", &[int(1)])]]);
    (batch.log, batch.epoch, batch.seq) = (another(epoch).log, epoch, FlushSeq(1));
    store.flush(&bench.catalog, &batch, |_| {}).await.unwrap();
    let late = vec![vec![bench.insert("t", &[int(2)])]];
    assert_eq!(
        bench.try_flush(late).await.unwrap_err().class(),
        Class::Fenced
    );
}

#[tokio::test]
async fn who_never_flushed_leaves_the_nameless_count_to_its_log() {
    let bench = Bench::new(T).await;
    let nameless = "DELETE FROM ripen.progress; INSERT INTO ripen.progress (log, identity, epoch, applied) VALUES (0, 0, 4, 7)";
    let sql = connect("postgres", &bench.database.name).await;
    sql.batch_execute(nameless).await.unwrap();
    let store = bench.store();
    assert_eq!(store.newest_epoch(0).await.unwrap(), 4);
    assert_eq!(
        store.take_over(another(5)).await.unwrap().applied,
        FlushSeq(0)
    );
    let its_own = Taker {
        has_flushed: true,
        ..taker(6)
    };
    for _ in 0..2 {
        assert_eq!(store.take_over(its_own).await.unwrap().applied, FlushSeq(7));
    }
    assert_eq!(bench.rows("SELECT count(*) FROM ripen.progress").await, "2");
}

#[tokio::test]
async fn a_flush_is_applied_once_and_in_order() {
    let mut bench = Bench::new(T).await;
    bench.flush(vec![vec![bench.insert("t", &[int(1)])]]).await;
    for seq in [0, 2] {
        bench.seq = seq;
        let error = bench
            .try_flush(vec![vec![bench.insert("t", &[int(7)])]])
            .await
            .unwrap_err();
        assert!(
            matches!(
                error,
                StoreError::OutOfOrder {
                    applied: FlushSeq(1),
                    ..
                }
            ),
            "{error}"
        );
        assert_eq!(error.class(), Class::Unknown);
    }
    assert_eq!(bench.rows("SELECT id FROM t").await, "1");
    assert_eq!(
        bench.store().outcome(LOG, 1, FlushSeq(1)).await.unwrap(),
        FlushFate::Applied
    );
    assert_eq!(
        bench.store().outcome(LOG, 1, FlushSeq(2)).await.unwrap(),
        FlushFate::NotApplied
    );
}

#[tokio::test]
async fn take_over_waits_for_a_running_flush() {
    let bench = Bench::new(T).await;
    let old = connect("postgres", &bench.database.name).await;
    old.batch_execute("BEGIN; UPDATE ripen.progress SET applied = 1")
        .await
        .unwrap();
    let store = bench.store().clone();
    let take_over = tokio::spawn(async move { store.take_over(taker(2)).await });
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()";
    while bench.rows(waiting).await == "0" {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(!take_over.is_finished());
    old.batch_execute("COMMIT").await.unwrap();
    assert_eq!(take_over.await.unwrap().unwrap().applied, FlushSeq(1));
}

#[tokio::test]
async fn lost_answer_to_commit_is_unknown_until_asked() {
    let bench = Bench::new(T).await;
    let relay = Relay::default();
    let (store, deaf) = (Store::new(relay.to(&bench).await), relay.deaf);
    let batch = bench.batch(vec![vec![bench.insert("t", &[int(1)])]]);
    let cut = |_| deaf.store(true, Ordering::SeqCst);
    let error = store.flush(&bench.catalog, &batch, cut).await.unwrap_err();
    assert!(matches!(error, StoreError::UnknownOutcome(_)), "{error}");
    assert_eq!(
        (error.class(), error.retry(), error.sqlstate()),
        (Class::Unknown, false, "08007")
    );
    deaf.store(false, Ordering::SeqCst);
    assert_eq!(
        store.outcome(LOG, 1, FlushSeq(1)).await.unwrap(),
        FlushFate::Applied
    );
    assert_eq!(bench.rows("SELECT id FROM t").await, "1");
}

#[tokio::test]
async fn connection_lost_before_commit_is_retried() {
    let bench = Bench::new(&format!("{T}; INSERT INTO t VALUES (1)")).await;
    let blocker = connect("postgres", &bench.database.name).await;
    blocker.batch_execute("BEGIN; DELETE FROM t").await.unwrap();
    let (store, catalog) = (
        bench.store().clone(),
        bench
            .store()
            .load_catalog(ripen_cachestore::catalog::Epoch(1))
            .await
            .unwrap(),
    );
    let batch = bench.batch(vec![vec![bench.delete("t", &[int(1)])]]);
    let flush = tokio::spawn({
        let batch = batch.clone();
        async move { store.flush(&catalog, &batch, |_| {}).await.map(|_| ()) }
    });
    let kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()";
    while bench.rows(kill).await.is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let error = flush.await.unwrap().unwrap_err();
    assert_eq!(
        (error.class(), error.retry()),
        (Class::Connection, true),
        "{error}"
    );
    blocker.batch_execute("ROLLBACK").await.unwrap();
    bench
        .store()
        .flush(&bench.catalog, &batch, |_| {})
        .await
        .unwrap();
    assert_eq!(bench.rows("SELECT count(*) FROM t").await, "0");
}

#[tokio::test]
async fn an_abandoned_flush_rolls_back() {
    let bench = Bench::new(&format!("{T}; INSERT INTO t VALUES (1)")).await;
    let blocker = connect("postgres", &bench.database.name).await;
    blocker.batch_execute("BEGIN; DELETE FROM t").await.unwrap();
    let batch = bench.batch(vec![vec![
        bench.insert("t", &[int(2)]),
        bench.delete("t", &[int(1)]),
    ]]);
    let flush = bench.store().flush(&bench.catalog, &batch, |_| {});
    assert!(
        tokio::time::timeout(Duration::from_millis(200), flush)
            .await
            .is_err()
    );
    blocker.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(
        bench.store().take_over(taker(2)).await.unwrap().applied,
        FlushSeq(0)
    );
    assert_eq!(bench.rows("SELECT id FROM t").await, "1");
}
