//! Flushes of rows that must still be what they were (`conflict = "database"`): whoever was faster wins, and the group is a dead letter.

use crate::changes::{Bench, V, int, text, tuple};
use crate::server::connect;
use ripen_cachestore::change::RowChange;
use ripen_cachestore::flush::{FlushBatch, FlushOutcome};

const T: &str = "CREATE TABLE t (id int PRIMARY KEY, name text, n int CHECK (n < 1000)); INSERT INTO t SELECT g, 'old', g FROM generate_series(1, 9) g";

fn row(id: i32, name: &str, n: i32) -> Vec<V> {
    vec![int(id), text(name), int(n)]
}

/// Every change was decided on the row as `T` made it; ids above 9 did not exist.
fn guarded(bench: &Bench, groups: Vec<Vec<RowChange>>, ids: &[i32]) -> FlushBatch {
    let mut batch = bench.batch(groups);
    for id in ids {
        let change = bench.delete("t", &[int(*id)]);
        let before = (*id < 10).then(|| tuple(&row(*id, "old", *id)));
        batch.guards.insert(change.row, before);
    }
    batch
}

async fn flush(bench: &mut Bench, batch: &FlushBatch) -> FlushOutcome {
    let outcome = bench.store().flush(&bench.catalog, batch, |_| {}).await;
    bench.seq += 1;
    outcome.unwrap()
}

fn reasons(outcome: &FlushOutcome) -> Vec<String> {
    let reason =
        |dead: &ripen_cachestore::flush::DeadGroup| format!("{}: {}", dead.sqlstate, dead.message);
    outcome.dead.iter().map(reason).collect()
}

#[tokio::test]
async fn whoever_changed_the_row_meanwhile_wins_and_the_others_arrive() {
    let mut bench = Bench::new(T).await;
    let other = connect("postgres", &bench.database.name).await;
    let outside = "UPDATE t SET name = 'outside' WHERE id = 2; DELETE FROM t WHERE id = 3; INSERT INTO t VALUES (13, 'outside', 0); UPDATE t SET n = n WHERE id = 4";
    other.batch_execute(outside).await.unwrap();
    let groups = vec![
        vec![bench.update("t", &row(1, "grid", 1), &[1])],
        // Whole, with a row that nobody else has touched.
        vec![
            bench.update("t", &row(2, "old", 22), &[2]),
            bench.update("t", &row(5, "grid", 5), &[1]),
        ],
        vec![bench.update("t", &row(3, "old", 33), &[2])],
        // Written outside, and the same as before.
        vec![bench.add("t", &row(4, "old", 5), &[], &[(2, 23, int(1))])],
        vec![bench.insert("t", &row(12, "grid", 0))],
        vec![bench.insert("t", &row(13, "grid", 0))],
    ];
    let batch = guarded(&bench, groups, &[1, 2, 3, 4, 5, 12, 13]);
    let outcome = flush(&mut bench, &batch).await;
    let expected = [
        "40001: column \"name\" of a row of \"public\".\"t\" was changed outside",
        "40001: a row of \"public\".\"t\" was deleted outside",
        "40001: a row of \"public\".\"t\" was inserted outside",
    ];
    assert_eq!(reasons(&outcome), expected);
    let found = bench
        .rows("SELECT id, name, n FROM t WHERE id IN (1, 2, 3, 4, 5, 12, 13) ORDER BY id")
        .await;
    assert_eq!(
        found,
        "1|grid|1;2|outside|2;4|old|5;5|old|5;12|grid|0;13|outside|0"
    );
    assert_eq!(
        bench.rows("SELECT count(*) FROM ripen.dead_letter").await,
        "3"
    );
}

#[tokio::test]
async fn a_change_that_is_under_way_is_waited_for() {
    let mut bench = Bench::new(T).await;
    let other = connect("postgres", &bench.database.name).await;
    other
        .batch_execute("BEGIN; UPDATE t SET n = 7 WHERE id = 1")
        .await
        .unwrap();
    let groups = vec![vec![bench.update("t", &row(1, "grid", 1), &[1])]];
    let batch = guarded(&bench, groups, &[1]);
    let watcher = connect("postgres", &bench.database.name).await;
    let commit = async {
        let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%NO KEY UPDATE%' AND datname = current_database()";
        while watcher
            .query_one(waits, &[])
            .await
            .unwrap()
            .get::<_, i64>(0)
            == 0
        {
            tokio::task::yield_now().await;
        }
        other.batch_execute("COMMIT").await.unwrap();
    };
    let (outcome, ()) = tokio::join!(flush(&mut bench, &batch), commit);
    let expected = ["40001: column \"n\" of a row of \"public\".\"t\" was changed outside"];
    assert_eq!(reasons(&outcome), expected);
    assert_eq!(
        bench.rows("SELECT name, n FROM t WHERE id = 1").await,
        "old|7"
    );
}

#[tokio::test]
async fn halving_for_a_guilty_group_keeps_the_rows_locked() {
    let mut bench = Bench::new(T).await;
    let groups = vec![
        vec![bench.update("t", &row(1, "grid", 1), &[1])],
        vec![bench.update("t", &row(2, "old", 5000), &[2])],
        vec![bench.update("t", &row(3, "grid", 3), &[1])],
    ];
    let batch = guarded(&bench, groups, &[1, 2, 3]);
    let outcome = flush(&mut bench, &batch).await;
    assert_eq!(outcome.dead.len(), 1);
    assert_eq!(outcome.dead[0].sqlstate, "23514");
    assert_eq!(
        bench
            .rows("SELECT id, name, n FROM t WHERE id < 4 ORDER BY id")
            .await,
        "1|grid|1;2|old|2;3|grid|3"
    );
}
