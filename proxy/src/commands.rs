//! The commands beside serving: migrations, dead letters, nodes, recovery. Talk to the system of record, or to a running Ripen where only it can act; `recover` alone opens a log, of a node that does not run.

mod node;
mod recover;

pub use node::node;
pub use recover::recover;

use crate::cli::DeadLetters;
use crate::config::Config;
use anyhow::{Context, bail, ensure};
use ripen_cachestore::dial::DialTarget;
use ripen_cachestore::upstream::{Host, SslMode};
use ripen_cachestore::{Store, Upstream, migrate};

/// Creates or updates schema `ripen`.
///
/// # Errors
/// When Postgres is away or the role may not.
pub async fn migrate(config: &Config) -> anyhow::Result<()> {
    match migrate::migrate(&upstream(config)?).await? {
        0 => println!("schema \"ripen\" is up to date"),
        count => println!("schema \"ripen\": {count} migrations applied"),
    }
    Ok(())
}

/// Looks at or deals with dead letters.
///
/// # Errors
/// When Postgres (for a replay: Ripen) is away, or there is no such open dead letter.
pub async fn dead_letters(config: &Config, what: DeadLetters) -> anyhow::Result<()> {
    let store = Store::new(upstream(config)?);
    match what {
        DeadLetters::List => list(&store).await,
        DeadLetters::Discard(id) => {
            ensure!(store.discard(id).await?, "no open dead letter {id}");
            println!("dead letter {id} discarded");
            Ok(())
        }
        DeadLetters::Replay(id) => replay(config, id).await,
    }
}

async fn list(store: &Store) -> anyhow::Result<()> {
    let mut after = 0;
    loop {
        let page = store.dead_letters(after, false).await?;
        let Some(last) = page.last() else {
            return Ok(());
        };
        after = last.id;
        for letter in page {
            println!(
                "{}\t{}\t{}\t{}\t{}",
                letter.id, letter.at, letter.sqlstate, letter.message, letter.changes
            );
        }
    }
}

/// A replay is a new write, so the running Ripen makes it.
async fn replay(config: &Config, id: i64) -> anyhow::Result<()> {
    let Some((host, port)) = config.listen.rsplit_once(':') else {
        bail!("listen is not host:port");
    };
    let mut ripen = upstream(config)?;
    let host = Host::Tcp(host.trim_matches(['[', ']']).to_owned());
    ripen.target = DialTarget::new(host, port.parse()?, SslMode::Prefer);
    let store = Store::new(ripen);
    let client = store
        .client()
        .await
        .with_context(|| format!("no Ripen answers at {}", config.listen))?;
    client
        .batch_execute(&format!("CALL ripen.replay({id})"))
        .await?;
    println!("dead letter {id} replayed");
    Ok(())
}

fn upstream(config: &Config) -> anyhow::Result<Upstream> {
    Ok(config.upstream.as_str().parse()?)
}
