//! What a user says about several nodes, and what follows from it. Never opens a connection; reads no file but the secret's and the certificates, and those only
//! when keys are made.

use ripen_grid::cluster::membership::Wish;
use ripen_grid::cluster::{Keys, KeysError};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The settings as they were given. Nothing of them counts without `cluster_listen`.
#[derive(Clone, Debug, PartialEq)]
pub struct ClusterSettings {
    /// `host:port` for other nodes. `None`: this is a node alone.
    pub cluster_listen: Option<String>,
    /// `host:port` that other nodes use. `None`: `cluster_listen`.
    pub cluster_advertise: Option<String>,
    /// `host:port` of nodes that may belong to the cluster already.
    pub join: Vec<String>,
    /// An empty data folder founds a cluster.
    pub bootstrap: bool,
    /// What all nodes share.
    pub cluster_secret: Option<Secret>,
    /// A file that has it.
    pub cluster_secret_file: Option<PathBuf>,
    /// The authority (PEM) that all nodes' certificates come from.
    pub cluster_ca: Option<PathBuf>,
    /// This node's certificate chain (PEM).
    pub cluster_cert: Option<PathBuf>,
    /// Its private key (PEM).
    pub cluster_key: Option<PathBuf>,
    /// A voter that is silent for so long is replaced.
    pub replace_after: Duration,
    /// Most voters.
    pub voters: usize,
}

impl Default for ClusterSettings {
    fn default() -> ClusterSettings {
        ClusterSettings {
            cluster_listen: None,
            cluster_advertise: None,
            join: Vec::new(),
            bootstrap: false,
            cluster_secret: None,
            cluster_secret_file: None,
            cluster_ca: None,
            cluster_cert: None,
            cluster_key: None,
            replace_after: Duration::from_secs(30),
            voters: 3,
        }
    }
}

/// A text that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Takes one that is long enough.
    ///
    /// # Errors
    /// Says what it must be like.
    pub fn parse(text: &str) -> Result<Secret, String> {
        Keys::judge_secret(text.as_bytes()).map_err(|error| error.to_string())?;
        Ok(Secret(text.to_owned()))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "***")
    }
}

/// How this node takes part in a cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct ClusterConfig {
    /// `host:port` to listen on for other nodes.
    pub listen: String,
    /// `host:port` that they use, if it is another.
    pub advertise: Option<String>,
    /// Where nodes may be that belong already.
    pub seeds: Vec<String>,
    /// Whether an empty data folder founds a cluster.
    pub bootstrap: bool,
    /// How nodes know each other.
    pub proof: Proof,
    /// What the cluster shall be like.
    pub wish: Wish,
}

/// By what nodes prove that they belong.
#[derive(Clone, Debug, PartialEq)]
pub enum Proof {
    /// Nothing, and nothing is encrypted: on one machine only.
    Nothing,
    /// A secret that all share.
    Secret(Secret),
    /// A file that has it; the end of its last line does not count.
    SecretFile(PathBuf),
    /// Certificates of one authority.
    Certificates {
        /// This node's chain.
        chain: PathBuf,
        /// Its private key.
        key: PathBuf,
        /// The authority.
        authority: PathBuf,
    },
}

/// Why a node cannot take part as it is configured.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The secret or the certificates.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// The secret's file.
    #[error("cannot read cluster_secret_file {}: {error}", path.display())]
    SecretFile {
        /// Which.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// An empty folder, and nobody to join.
    #[error(
        "the data folder belongs to no cluster yet: let it join one with --join HOST:PORT, the address of a node that belongs to it, \
         or, if this is the first node of all, found one with --bootstrap"
    )]
    Nowhere,
}

impl ClusterSettings {
    /// What they mean together. `None`: this is a node alone.
    pub fn member(&self) -> Option<ClusterConfig> {
        Some(ClusterConfig {
            listen: self.cluster_listen.clone()?,
            advertise: self.cluster_advertise.clone(),
            seeds: self.join.clone(),
            bootstrap: self.bootstrap,
            proof: self.proof(),
            wish: Wish {
                voters: self.voters,
                replace_after_ms: self.replace_after.as_millis() as u64,
            },
        })
    }

    fn proof(&self) -> Proof {
        if let (Some(chain), Some(key), Some(authority)) =
            (&self.cluster_cert, &self.cluster_key, &self.cluster_ca)
        {
            let (chain, key, authority) = (chain.clone(), key.clone(), authority.clone());
            return Proof::Certificates {
                chain,
                key,
                authority,
            };
        }
        let secret = self.cluster_secret.clone().map(Proof::Secret);
        let file = self.cluster_secret_file.clone().map(Proof::SecretFile);
        secret.or(file).unwrap_or(Proof::Nothing)
    }
}

impl ClusterConfig {
    /// What encrypts the connections between nodes; `None`: nothing does. Blocks, for up to a second of computing.
    ///
    /// # Errors
    /// When a file cannot be read or used.
    pub fn keys(&self) -> Result<Option<Keys>, ClusterError> {
        let keys = match &self.proof {
            Proof::Nothing => return Ok(None),
            Proof::Secret(secret) => Keys::of_secret(secret.0.as_bytes()),
            Proof::SecretFile(path) => Keys::of_secret(&secret_in(path)?),
            Proof::Certificates {
                chain,
                key,
                authority,
            } => Keys::of_certificates(chain, key, authority),
        };
        Ok(Some(keys?))
    }

    /// The address that other nodes use, when this one listens at `bound`: the system may have chosen the port.
    pub fn address(&self, bound: SocketAddr) -> String {
        let chosen = || match self.listen.strip_suffix(":0") {
            Some(host) => format!("{host}:{}", bound.port()),
            None => self.listen.clone(),
        };
        self.advertise.clone().unwrap_or_else(chosen)
    }

    /// Whom to ask, when the data folder has a log of that identity. None: this node founds a cluster, or goes on in the one that its folder knows.
    ///
    /// # Errors
    /// When the folder is empty, and it was not said what shall become of it.
    pub fn seeds(&self, known: Option<u64>) -> Result<Vec<String>, ClusterError> {
        let nowhere = known.is_none() && !self.bootstrap && self.seeds.is_empty();
        match nowhere {
            true => Err(ClusterError::Nowhere),
            false => Ok(self.seeds.clone()),
        }
    }
}

fn secret_in(path: &Path) -> Result<Vec<u8>, ClusterError> {
    let read = std::fs::read(path).map_err(|error| ClusterError::SecretFile {
        path: path.to_owned(),
        error,
    })?;
    let end = read.strip_suffix(b"\n").unwrap_or(&read);
    Ok(end.strip_suffix(b"\r").unwrap_or(end).to_vec())
}

/// The host of a `host:port`, without the brackets of IPv6.
fn host(address: &str) -> &str {
    let (host, _) = address.rsplit_once(':').unwrap_or((address, ""));
    host.trim_matches(['[', ']'])
}

fn ip(address: &str) -> Option<IpAddr> {
    host(address)
        .parse()
        .ok()
        .map(|ip: IpAddr| ip.to_canonical())
}

/// Whether it means all addresses of the machine: nobody else can use it.
pub(super) fn is_wildcard(address: &str) -> bool {
    ip(address).is_some_and(|ip| ip.is_unspecified())
}

/// Whether only this machine can reach it.
pub(super) fn is_loopback(address: &str) -> bool {
    host(address) == "localhost" || ip(address).is_some_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests;
