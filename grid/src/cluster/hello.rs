//! Who a node is, and whether another one talks to it. Decides only.

use ripen_cachestore::change::codec::{Malformed, Reader, put_u64};

/// The versions of what nodes say that this program speaks. A newer node speaks the older one's, so that a cluster can be upgraded one by one.
const VERSIONS: (u16, u16) = (3, 4);

/// The first of them in which leaders keep transaction blocks.
pub(crate) const BLOCKS_SINCE: u16 = 4;

/// What a node says of itself. The layout never changes: all versions must be able to refuse each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The oldest version it speaks.
    pub oldest: u16,
    /// The newest version it speaks.
    pub newest: u16,
    /// The cluster it belongs to: its log's identity. `None`: none yet.
    pub cluster: Option<u64>,
    /// Its number in the cluster.
    pub node: u64,
}

/// Why two nodes do not talk.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Too old or too new.
    #[error("it speaks versions {0} to {1} of Ripen's cluster protocol, this node {2} to {3}: upgrade one release at a time", theirs.0, theirs.1, ours.0, ours.1)]
    Version {
        /// The other's oldest and newest.
        theirs: (u16, u16),
        /// This node's.
        ours: (u16, u16),
    },
    /// Of another cluster.
    #[error(
        "it belongs to another cluster ({theirs:016x}, not {ours:016x}): check the addresses; a node whose cluster was recovered without it (\"ripen recover\") needs an empty data folder"
    )]
    Cluster {
        /// The other's.
        theirs: u64,
        /// This node's.
        ours: u64,
    },
    /// A copy of this node, or this node itself.
    #[error("it has this node's number ({0}): a data folder must not be used twice")]
    SameNode(u64),
    /// Another node than was asked for is at that address.
    #[error("node {found} is at the address of node {expected}")]
    OtherNode {
        /// Who was asked for.
        expected: u64,
        /// Who answered.
        found: u64,
    },
}

impl Identity {
    /// This program's identity as a node.
    pub fn new(cluster: Option<u64>, node: u64) -> Identity {
        Identity {
            oldest: VERSIONS.0,
            newest: VERSIONS.1,
            cluster,
            node,
        }
    }

    /// Whether this node talks to the other: in which version of the protocol.
    ///
    /// # Errors
    /// Why it does not.
    pub fn judge(&self, theirs: &Identity) -> Result<u16, Refusal> {
        if theirs.newest < self.oldest || theirs.oldest > self.newest {
            return Err(Refusal::Version {
                theirs: (theirs.oldest, theirs.newest),
                ours: (self.oldest, self.newest),
            });
        }
        if theirs.node == self.node {
            return Err(Refusal::SameNode(self.node));
        }
        match (self.cluster, theirs.cluster) {
            (Some(ours), Some(theirs)) if ours != theirs => Err(Refusal::Cluster { theirs, ours }),
            _ => Ok(self.newest.min(theirs.newest)),
        }
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.oldest.to_le_bytes());
        out.extend_from_slice(&self.newest.to_le_bytes());
        out.push(u8::from(self.cluster.is_some()));
        put_u64(out, self.cluster.unwrap_or_default());
        put_u64(out, self.node);
    }

    /// More may follow in later versions.
    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Identity, Malformed> {
        let (oldest, newest) = (reader.u16()?, reader.u16()?);
        let (belongs, cluster) = (reader.bool()?, reader.u64()?);
        Ok(Identity {
            oldest,
            newest,
            cluster: belongs.then_some(cluster),
            node: reader.u64()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_of_one_cluster_talk_and_newcomers_may() {
        let ours = Identity::new(Some(7), 1);
        assert_eq!(ours.judge(&Identity::new(Some(7), 2)), Ok(VERSIONS.1));
        assert_eq!(ours.judge(&Identity::new(None, 2)), Ok(VERSIONS.1));
    }

    #[test]
    fn whoever_knows_only_an_earlier_version_is_spoken_to_in_that() {
        let earlier = Identity {
            newest: BLOCKS_SINCE - 1,
            ..Identity::new(Some(7), 2)
        };
        let spoken = Identity::new(Some(7), 1).judge(&earlier);
        assert_eq!(spoken, Ok(BLOCKS_SINCE - 1));
    }

    #[test]
    fn strangers_copies_and_other_ages_are_refused() {
        let ours = Identity::new(Some(7), 1);
        let refused = |theirs: &Identity| ours.judge(theirs).unwrap_err();
        let stranger = refused(&Identity::new(Some(8), 2));
        assert_eq!(stranger, Refusal::Cluster { theirs: 8, ours: 7 });
        let copy = refused(&Identity::new(Some(7), 1));
        assert_eq!(copy, Refusal::SameNode(1));
        let newer = Identity {
            oldest: VERSIONS.1 + 1,
            newest: VERSIONS.1 + 2,
            ..Identity::new(Some(7), 2)
        };
        assert!(matches!(refused(&newer), Refusal::Version { .. }));
    }

    #[test]
    fn two_versions_in_common_mean_the_newer() {
        let newer = Identity {
            newest: VERSIONS.1 + 2,
            ..Identity::new(Some(7), 2)
        };
        let ours = Identity {
            newest: VERSIONS.1 + 1,
            ..Identity::new(Some(7), 1)
        };
        assert_eq!(ours.judge(&newer), Ok(VERSIONS.1 + 1));
    }
}
