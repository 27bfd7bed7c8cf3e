//! Local time in the session's time zone. Never answers for an instant at which two tz databases could differ by their build (before 1970
//! in named zones), nor for zones given as POSIX strings.
//!
//! The rules are those of this machine's tz database (the one built in where there is none). Where Postgres's is of another release, zones whose
//! rules changed in between differ; keep both up to date.

use super::Unsupported;
use super::calendar::{MICROS_PER_DAY, MICROS_PER_SECOND, UNIX_EPOCH_MICROS};
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{SignedDuration, Timestamp, civil};

/// A time zone of the tz database.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Zone {
    /// UTC under one of its names, with the abbreviation it prints.
    Utc(&'static str),
    /// Any other.
    Named(TimeZone),
}

/// What local time means at one moment.
pub(crate) struct Offset {
    /// Seconds east of UTC.
    pub seconds: i32,
    /// `CET`, `-03`…
    pub abbreviation: smallvec::SmallVec<[u8; 10]>,
}

impl Zone {
    /// The zone of that name, if its meaning is certain: names of the tz database in their usual spelling.
    pub fn named(name: &str) -> Option<Zone> {
        match name {
            "UTC" | "Etc/UTC" | "UCT" | "Etc/UCT" | "Zulu" | "Etc/Zulu" | "Universal"
            | "Etc/Universal" => Some(Zone::Utc("UTC")),
            "GMT" | "Etc/GMT" | "GMT0" | "Etc/GMT0" | "Greenwich" | "Etc/Greenwich" => {
                Some(Zone::Utc("GMT"))
            }
            // Only Area/Location names: the others (EST5EDT, localtime, posixrules, abbreviations) differ between builds.
            _ if !name.contains('/') || name.contains(['<', ',']) => None,
            _ if ["posix/", "right/", "SystemV/"]
                .iter()
                .any(|p| name.starts_with(p)) =>
            {
                None
            }
            _ => TimeZone::get(name).ok().map(Zone::Named),
        }
    }

    /// A name by which [`Zone::named`] finds it again.
    pub fn name(&self) -> String {
        match self {
            Zone::Utc(name) => (*name).to_owned(),
            Zone::Named(zone) => zone.iana_name().unwrap_or("unknown").to_owned(),
        }
    }

    /// The offset in force at an instant (microseconds since 2000-01-01 UTC).
    pub fn offset_at(&self, instant: i64) -> Result<Offset, Unsupported> {
        let zone = match self {
            Zone::Utc(name) => {
                return Ok(Offset {
                    seconds: 0,
                    abbreviation: name.as_bytes().into(),
                });
            }
            Zone::Named(zone) => zone,
        };
        let unix = instant.checked_add(UNIX_EPOCH_MICROS).ok_or(Unsupported)?;
        let at = Timestamp::from_microsecond(unix).map_err(|_| Unsupported)?;
        if unix < 0 {
            return Err(Unsupported);
        }
        let info = zone.to_offset_info(at);
        Ok(Offset {
            seconds: info.offset().seconds(),
            abbreviation: info.abbreviation().as_bytes().into(),
        })
    }

    /// Local time (microseconds since 2000-01-01 00:00 local) of an instant.
    pub fn to_local(&self, instant: i64) -> Result<i64, Unsupported> {
        let seconds = self.offset_at(instant)?.seconds;
        instant
            .checked_add(i64::from(seconds) * MICROS_PER_SECOND)
            .ok_or(Unsupported)
    }

    /// The instant of a local time, as Postgres chooses: in a gap by the offset before it, in a fold by the one after it.
    pub fn to_instant(&self, local: i64) -> Result<i64, Unsupported> {
        let zone = match self {
            Zone::Utc(_) => return Ok(local),
            Zone::Named(zone) => zone,
        };
        let unix = local.checked_add(UNIX_EPOCH_MICROS).ok_or(Unsupported)?;
        if unix < MICROS_PER_DAY {
            return Err(Unsupported);
        }
        let civil = civil::DateTime::constant(1970, 1, 1, 0, 0, 0, 0)
            .checked_add(SignedDuration::from_micros(unix))
            .map_err(|_| Unsupported)?;
        let offset = match zone.to_ambiguous_timestamp(civil).offset() {
            AmbiguousOffset::Unambiguous { offset } => offset,
            AmbiguousOffset::Gap { before, .. } => before,
            AmbiguousOffset::Fold { after, .. } => after,
        };
        Ok(local - i64::from(offset.seconds()) * MICROS_PER_SECOND)
    }
}
