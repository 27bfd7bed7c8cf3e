//! The numbers of Postgres that must not be mixed up, each a type of its own. Holds no logic beyond their order and text form.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// OID of a table (`pg_class.oid`). Rows are keyed by it, never by name: names move, OIDs do not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TableOid(pub u32);

/// OID of a data type (`pg_type.oid`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TypeOid(pub u32);

/// A byte position in Postgres's write-ahead log, as `pg_lsn`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

/// A text that is not the number it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid {what}: \"{text}\"")]
pub struct ParseIdError {
    what: &'static str,
    text: String,
}

impl FromStr for Lsn {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || ParseIdError {
            what: "log sequence number",
            text: text.to_owned(),
        };
        let (high, low) = text.split_once('/').ok_or_else(bad)?;
        let high = u32::from_str_radix(high, 16).map_err(|_| bad())?;
        let low = u32::from_str_radix(low, 16).map_err(|_| bad())?;
        Ok(Lsn(u64::from(high) << 32 | u64::from(low)))
    }
}

/// A full 64-bit transaction id (`xid8`): the 32-bit one with its epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Xid(pub u64);

/// The 32-bit transaction id that the WAL carries. Comes near a [`Snapshot`], which gives it its epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Xid32(pub u32);

impl Xid {
    /// The id as the WAL carries it.
    pub fn low(self) -> Xid32 {
        Xid32(self.0 as u32)
    }
}

impl Xid32 {
    /// The full id nearest to `reference`, which must lie within 2^31 transactions of it (Postgres guarantees that of live ids).
    pub fn near(self, reference: Xid) -> Xid {
        let delta = self.0.wrapping_sub(reference.0 as u32) as i32;
        Xid(reference.0.wrapping_add_signed(i64::from(delta)))
    }
}

/// What a statement could see: `pg_current_snapshot()`, text form `xmin:xmax:xip,…`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Everything below had ended.
    pub xmin: Xid,
    /// Nothing at or above had started to be visible.
    pub xmax: Xid,
    /// In progress between the two, ascending. Top-level ids only.
    pub running: Arc<[Xid]>,
}

impl Snapshot {
    /// Whether a *committed* transaction with this id is visible to the snapshot.
    pub fn saw(&self, xid: Xid32) -> bool {
        self.saw_full(xid.near(self.xmax))
    }

    /// [`Snapshot::saw`] for an id whose epoch is known: right however old the snapshot is.
    pub fn saw_full(&self, xid: Xid) -> bool {
        xid < self.xmin || (xid < self.xmax && self.running.binary_search(&xid).is_err())
    }
}

impl FromStr for Snapshot {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || ParseIdError {
            what: "snapshot",
            text: text.to_owned(),
        };
        let number = |part: &str| part.parse::<u64>().map(Xid).map_err(|_| bad());
        let mut parts = text.splitn(3, ':');
        let mut next = || parts.next().ok_or_else(bad);
        let (xmin, xmax, running) = (number(next()?)?, number(next()?)?, next()?);
        let mut running = running
            .split(',')
            .filter(|part| !part.is_empty())
            .map(number)
            .collect::<Result<Vec<_>, _>>()?;
        running.sort_unstable();
        Ok(Snapshot {
            xmin,
            xmax,
            running: running.into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lsn_reads_what_it_writes() {
        let lsn: Lsn = "16/B374D848".parse().unwrap();
        assert_eq!(lsn, Lsn(0x16_B374_D848));
        assert_eq!(lsn.to_string(), "16/B374D848");
        assert!("16".parse::<Lsn>().is_err());
    }

    #[test]
    fn snapshot_sees_what_had_committed() {
        let snapshot: Snapshot = "10:20:10,14".parse().unwrap();
        let saw = |xid| snapshot.saw(Xid32(xid));
        assert!(saw(9) && saw(11) && saw(19));
        assert!(!saw(10) && !saw(14) && !saw(20) && !saw(25));
    }

    #[test]
    fn xid_comparison_crosses_the_epoch() {
        let snapshot: Snapshot = "4294967290:4294967300:4294967291".parse().unwrap();
        assert!(snapshot.saw(Xid32(4294967289)));
        assert!(
            snapshot.saw(Xid32(2)),
            "4294967298 is below xmax and not running"
        );
        assert!(!snapshot.saw(Xid32(4294967291)));
        assert!(!snapshot.saw(Xid32(5)));
    }
}
