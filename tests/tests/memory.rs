//! What is held in memory and for how long: expiry to the point.

use anyhow::ensure;
use ripen_tests::Pair;
use std::time::{Duration, Instant};

#[tokio::test]
async fn no_row_is_served_past_its_expiry() -> anyhow::Result<()> {
    const EXPIRY: Duration = Duration::from_millis(1500);
    let file = "[[table]]\npattern = \"public.*\"\nmode = \"read-through\"\nexclusive = true\nexpiry = \"1500ms\"\n";
    let schema = "CREATE TABLE t (id int PRIMARY KEY, v int NOT NULL); INSERT INTO t VALUES (1, 0)";
    let pair = Pair::start(schema, &[("file", file)]).await?;
    let read = async || -> anyhow::Result<i32> {
        let row = pair.proxied.query_one("SELECT v FROM t WHERE id = 1", &[]);
        Ok(row.await?.get(0))
    };
    let mut served = 0;
    for round in 1..=4 {
        // Exclusive and yet written by somebody else: only its expiry can tell memory of it.
        let before = read().await?;
        let loaded = Instant::now();
        let write = format!("UPDATE t SET v = {round} WHERE id = 1");
        pair.direct.batch_execute(&write).await?;
        loop {
            let age = loaded.elapsed();
            let value = read().await?;
            if value == round {
                break;
            }
            ensure!(value == before);
            ensure!(age < EXPIRY, "round {round}: served {age:?} after its load");
            served += 1;
        }
    }
    ensure!(served > 4, "nothing was served from memory");
    Ok(())
}
