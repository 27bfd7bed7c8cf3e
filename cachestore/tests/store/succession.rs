//! A log that was made of another one's last copy: it goes on with the count, and nobody comes back in the name of the former one.

use crate::changes::{Bench, LOG, int, taker};
use ripen_cachestore::StoreError;
use ripen_cachestore::change::FlushSeq;
use ripen_cachestore::progress::{LogIdentity, LogKey, Taker};

const T: &str = "CREATE TABLE t (id int PRIMARY KEY)";

fn key(identity: u64) -> LogKey {
    let identity = LogIdentity(identity);
    LogKey { identity, ..LOG }
}

/// The leader of a log that was made of others.
fn heir(identity: u64, epoch: u64, formers: &'static [LogIdentity]) -> Taker<'static> {
    Taker {
        log: key(identity),
        formers,
        holder: "the heir",
        ..taker(epoch)
    }
}

fn succeeded_by(error: StoreError) -> u64 {
    match error {
        StoreError::Fenced {
            identity: Some(heir),
            ..
        } => heir.0,
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn an_heir_goes_on_with_the_count_and_the_former_log_is_over() {
    let mut bench = Bench::new(T).await;
    let store = bench.store().clone();
    bench.flush(vec![vec![bench.insert("t", &[int(1)])]]).await;
    const FORMERS: &[LogIdentity] = &[LOG.identity];
    for epoch in [5, 6] {
        let taken = store.take_over(heir(77, epoch, FORMERS)).await.unwrap();
        assert_eq!((taken.applied, taken.other), (FlushSeq(1), None));
    }
    // The flush that it had under way, and a leader of it that comes later.
    let late = vec![vec![bench.insert("t", &[int(2)])]];
    assert_eq!(succeeded_by(bench.try_flush(late).await.unwrap_err()), 77);
    let back = store.take_over(taker(9)).await.unwrap_err();
    assert!(back.to_string().contains("recovered"), "{back}");
    assert_eq!(succeeded_by(back), 77);
    let mut batch = bench.batch(vec![vec![bench.insert("t", &[int(3)])]]);
    (batch.log, batch.epoch, batch.seq) = (key(77), 6, FlushSeq(2));
    store.flush(&bench.catalog, &batch, |_| {}).await.unwrap();
    assert_eq!(bench.rows("SELECT id FROM t ORDER BY id").await, "1;3");
    let claim = store.claim(0).await.unwrap();
    assert_eq!(claim.successor(LOG).await.unwrap(), Some(LogIdentity(77)));
    assert_eq!(claim.successor(key(77)).await.unwrap(), None);
}

#[tokio::test]
async fn of_two_heirs_only_the_first_goes_on() {
    let mut bench = Bench::new(T).await;
    let store = bench.store().clone();
    bench.flush(vec![vec![bench.insert("t", &[int(1)])]]).await;
    const FORMERS: &[LogIdentity] = &[LOG.identity];
    store.take_over(heir(77, 5, FORMERS)).await.unwrap();
    let second = store.take_over(heir(78, 6, FORMERS)).await.unwrap_err();
    assert_eq!(succeeded_by(second), 77);
    let taken = store.take_over(heir(77, 7, FORMERS)).await.unwrap();
    assert_eq!(taken.applied, FlushSeq(1));
}

#[tokio::test]
async fn heirs_of_heirs_find_the_count_wherever_it_is() {
    let mut bench = Bench::new(T).await;
    let store = bench.store().clone();
    bench.flush(vec![vec![bench.insert("t", &[int(1)])]]).await;
    // The log in between has never come to Postgres.
    const TWO: &[LogIdentity] = &[LOG.identity, LogIdentity(77)];
    let taken = store.take_over(heir(78, 5, TWO)).await.unwrap();
    assert_eq!(taken.applied, FlushSeq(1));
    assert_eq!(
        succeeded_by(store.take_over(heir(77, 6, &TWO[..1])).await.unwrap_err()),
        78
    );
    // This one has.
    const THREE: &[LogIdentity] = &[LOG.identity, LogIdentity(77), LogIdentity(78)];
    let taken = store.take_over(heir(79, 7, THREE)).await.unwrap();
    assert_eq!(taken.applied, FlushSeq(1));
    for former in [LOG, key(77), key(78)] {
        let taker = Taker {
            log: former,
            ..taker(9)
        };
        assert_eq!(succeeded_by(store.take_over(taker).await.unwrap_err()), 79);
    }
}
