//! Taking over from a leader that was stopped or cut off in the middle of a flush, and what it can do afterwards.

use crate::changes::{Bench, LOG, int, taker};
use crate::relay::Relay;
use crate::server::{connect, upstream};
use ripen_cachestore::change::FlushSeq;
use ripen_cachestore::progress::{Progress, Taken};
use ripen_cachestore::store::StoreSettings;
use ripen_cachestore::{Class, Store, StoreError};
use std::time::Duration;

const T: &str = "CREATE TABLE t (id int PRIMARY KEY)";

/// How a flush begins.
const FLUSH: &str =
    "BEGIN; UPDATE ripen.progress SET applied = applied + 1; INSERT INTO public.t VALUES (1)";

/// Waits for locks as long as it must (zero), or no longer than that.
fn patient(role: &str, bench: &Bench, lock_timeout: Duration) -> Store {
    let settings = StoreSettings {
        lock_timeout,
        ..StoreSettings::default()
    };
    Store::with_settings(upstream(role, &bench.database.name), settings)
}

const FOR_EVER: Duration = Duration::ZERO;

/// Longer than a take-over's patience.
const LONG_ENOUGH: Duration = Duration::from_millis(900);

const UNTOUCHED: Taken = Taken {
    applied: FlushSeq(0),
    other: None,
};

#[tokio::test]
async fn a_leader_stopped_in_its_flush_is_not_waited_for() {
    let bench = Bench::new(T).await;
    let old = bench.store().client().await.unwrap();
    old.batch_execute(FLUSH).await.unwrap();
    let new = patient("postgres", &bench, FOR_EVER);
    assert_eq!(new.take_over(taker(2)).await.unwrap(), UNTOUCHED);
    assert!(old.batch_execute("COMMIT").await.is_err());
    assert_eq!(bench.rows("SELECT count(*) FROM t").await, "0");
    let progress = Progress {
        applied: FlushSeq(0),
        epoch: 2,
    };
    assert_eq!(new.progress(LOG).await.unwrap(), Some(progress));
}

#[tokio::test]
async fn a_leader_stopped_while_it_took_over_is_not_waited_for() {
    let bench = Bench::new(T).await;
    let old = bench.store().client().await.unwrap();
    let turn = i64::from_be_bytes(*b"\0ripen t");
    let begun = format!("BEGIN; SELECT pg_advisory_xact_lock({turn})");
    old.batch_execute(&begun).await.unwrap();
    let new = patient("postgres", &bench, FOR_EVER);
    assert_eq!(new.take_over(taker(2)).await.unwrap(), UNTOUCHED);
    assert!(old.batch_execute("COMMIT").await.is_err());
}

#[tokio::test]
async fn an_old_leader_that_goes_on_can_change_nothing() {
    let bench = Bench::new(T).await;
    let relay = Relay::default();
    let old = Store::new(relay.to(&bench).await);
    let batch = bench.batch(vec![vec![bench.insert("t", &[int(1)])]]);
    let stopped = relay.stopped.clone();
    // Its COMMIT is on the way.
    let flush = old.flush(&bench.catalog, &batch, |_| {
        stopped.send_replace(true);
    });
    let take_over = async {
        let mut stopped = relay.stopped.subscribe();
        stopped.wait_for(|stopped| *stopped).await.unwrap();
        let new = patient("postgres", &bench, FOR_EVER);
        assert_eq!(new.take_over(taker(2)).await.unwrap(), UNTOUCHED);
        relay.stopped.send_replace(false);
        new
    };
    let (flushed, new) = tokio::join!(flush, take_over);
    let error = flushed.unwrap_err();
    assert!(matches!(error, StoreError::UnknownOutcome(_)), "{error}");
    let fenced = |error: StoreError| assert_eq!(error.class(), Class::Fenced, "{error}");
    fenced(old.outcome(LOG, 1, FlushSeq(1)).await.unwrap_err());
    fenced(
        old.flush(&bench.catalog, &batch, |_| {})
            .await
            .map(drop)
            .unwrap_err(),
    );
    fenced(old.take_over(taker(1)).await.unwrap_err());
    assert_eq!(bench.rows("SELECT count(*) FROM t").await, "0");
    let mut again = batch.clone();
    again.epoch = 2;
    new.flush(&bench.catalog, &again, |_| {}).await.unwrap();
    fenced(
        old.flush(&bench.catalog, &batch, |_| {})
            .await
            .map(drop)
            .unwrap_err(),
    );
    assert_eq!(bench.rows("SELECT id FROM t").await, "1");
}

#[tokio::test]
async fn a_commit_that_never_arrives_is_not_waited_for() {
    let bench = Bench::new(T).await;
    let lost = bench.store().client().await.unwrap();
    lost.batch_execute(FLUSH).await.unwrap();
    let same = patient("postgres", &bench, FOR_EVER);
    let fate = same.outcome(LOG, 1, FlushSeq(1)).await.unwrap();
    assert_eq!(fate, ripen_cachestore::progress::FlushFate::NotApplied);
    assert!(lost.batch_execute("COMMIT").await.is_err());
}

#[tokio::test]
async fn a_stranger_is_named_and_not_ended() {
    let bench = Bench::new(T).await;
    let stranger = connect("postgres", &bench.database.name).await;
    stranger.batch_execute(FLUSH).await.unwrap();
    let new = patient("postgres", &bench, LONG_ENOUGH);
    let error = new.take_over(taker(2)).await.unwrap_err();
    let pid: i32 = stranger
        .query_one("SELECT pg_backend_pid()", &[])
        .await
        .unwrap()
        .get(0);
    assert!(matches!(error, StoreError::Hindered { .. }), "{error}");
    assert!(error.to_string().contains(&pid.to_string()), "{error}");
    assert_eq!((error.class(), error.retry()), (Class::Lock, true));
    stranger.batch_execute("COMMIT").await.unwrap();
    assert_eq!(new.take_over(taker(2)).await.unwrap().applied, FlushSeq(1));
}

#[tokio::test]
async fn other_work_of_ripen_is_not_ended() {
    let bench = Bench::new(T).await;
    // Calls itself Ripen, but does not work on the progress row: it keeps all away from it, as a migration does.
    let other = bench.store().client().await.unwrap();
    other
        .batch_execute("BEGIN; LOCK TABLE ripen.progress")
        .await
        .unwrap();
    let new = patient("postgres", &bench, LONG_ENOUGH);
    let error = new.take_over(taker(2)).await.unwrap_err();
    assert!(matches!(error, StoreError::Hindered { .. }), "{error}");
    other.batch_execute("COMMIT").await.unwrap();
}

#[tokio::test]
async fn a_newer_leader_is_never_ended() {
    let bench = Bench::new(T).await;
    bench.store().take_over(taker(5)).await.unwrap();
    let newer = bench.store().client().await.unwrap();
    newer.batch_execute(FLUSH).await.unwrap();
    let older = patient("postgres", &bench, LONG_ENOUGH);
    let error = older.take_over(taker(4)).await.unwrap_err();
    assert_eq!(error.class(), Class::Lock, "{error}");
    newer.batch_execute("COMMIT").await.unwrap();
    let error = older.take_over(taker(4)).await.unwrap_err();
    assert_eq!(error.class(), Class::Fenced, "{error}");
}

#[tokio::test]
async fn the_right_to_end_it_is_that_of_the_same_role() {
    let bench = Bench::new(T).await;
    let sql = connect("postgres", &bench.database.name).await;
    let roles = "CREATE ROLE leads_one LOGIN; CREATE ROLE leads_two LOGIN; \
         GRANT USAGE ON SCHEMA ripen TO leads_one, leads_two; GRANT ALL ON ALL TABLES IN SCHEMA ripen TO leads_one, leads_two; GRANT ALL ON t TO leads_one";
    sql.batch_execute(roles).await.unwrap();
    let old = Store::new(upstream("leads_one", &bench.database.name));
    let old = old.client().await.unwrap();
    old.batch_execute(FLUSH).await.unwrap();
    let other = patient("leads_two", &bench, LONG_ENOUGH);
    let error = other.take_over(taker(2)).await.unwrap_err();
    assert!(matches!(error, StoreError::Hindered { .. }), "{error}");
    assert!(error.to_string().contains("leads_one"), "{error}");
    let same = patient("leads_one", &bench, FOR_EVER);
    assert_eq!(same.take_over(taker(2)).await.unwrap(), UNTOUCHED);
    assert!(old.batch_execute("COMMIT").await.is_err());
}

#[tokio::test]
async fn a_take_over_that_is_given_up_blocks_no_connection_of_the_pool() {
    let bench = Bench::new(T).await;
    let stranger = connect("postgres", &bench.database.name).await;
    stranger.batch_execute(FLUSH).await.unwrap();
    let settings = StoreSettings {
        lock_timeout: FOR_EVER,
        connections: 2,
        ..StoreSettings::default()
    };
    let store = Store::with_settings(upstream("postgres", &bench.database.name), settings);
    let blocked = async {
        let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()";
        while bench.rows(waiting).await == "0" {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        taken = store.take_over(taker(2)) => panic!("{taken:?}"),
        () = blocked => {}
    }
    let both = [store.client().await.unwrap(), store.client().await.unwrap()];
    for client in &both {
        let answer = client.batch_execute("SELECT 1");
        let answer = tokio::time::timeout(Duration::from_secs(20), answer).await;
        answer.expect("the connection is free").unwrap();
    }
    stranger.batch_execute("COMMIT").await.unwrap();
}
