//! What a node needs to take part in a cluster: its number, a listener for the others, keys, and whom to ask. Never talks to other nodes; the grid does.

use crate::config::{ClusterConfig, Config};
use crate::nodes::identity::{self, Known};
use crate::nodes::recovery;
use crate::server::StartError;
use ripen_grid::cluster::{Keys, MemberOptions};
use ripen_grid::log::LogOptions;

/// Prepares the log for a node of a cluster, if it is to be one. Blocks for a second where keys are made of a secret.
///
/// # Errors
/// When the address cannot be listened on, or the folder or the keys cannot be used.
pub async fn member(
    config: &Config,
    log: &mut LogOptions,
) -> Result<Option<MemberOptions>, StartError> {
    let cluster = config.cluster.member();
    let folder = config.data_dir.clone();
    let (log_options, has_cluster) = (log.clone(), cluster.is_some());
    let prepared = tokio::task::spawn_blocking(move || {
        if recovery::is_unfinished(&folder) {
            return Err(StartError::Unfinished);
        }
        std::fs::create_dir_all(&folder)?;
        let known = log_options.identity_on_disk()?;
        let facts = Known {
            log: known.is_some(),
            cluster: has_cluster,
        };
        let node = identity::number(&folder, facts, rand::random::<u64>)?;
        let keys = cluster.as_ref().map(ClusterConfig::keys).transpose()?;
        let seeds = cluster.as_ref().map(|cluster| cluster.seeds(known));
        Ok::<_, StartError>((node, keys.flatten(), seeds.transpose()?, cluster))
    });
    let prepared = prepared.await.map_err(std::io::Error::other)?;
    let (node, keys, seeds, cluster) = prepared?;
    log.node = node;
    let (Some(cluster), Some(seeds)) = (cluster, seeds) else {
        return Ok(None);
    };
    options(&cluster, log, keys, seeds).await.map(Some)
}

async fn options(
    cluster: &ClusterConfig,
    log: &mut LogOptions,
    keys: Option<Keys>,
    seeds: Vec<String>,
) -> Result<MemberOptions, StartError> {
    let listener = super::listen(&cluster.listen).await?;
    log.address = cluster.address(listener.local_addr()?);
    Ok(MemberOptions {
        listener: listener.into(),
        keys,
        seeds,
        founds: cluster.bootstrap,
        wish: cluster.wish,
        // 0 is no process.
        process: rand::random::<u64>().max(1),
        // Nobody knows when the others are started.
        search: std::time::Duration::MAX,
    })
}
