//! Logical replication as bytes: the envelope inside CopyData, and pgoutput inside that. Never follows a transaction; the hot cache does.
//!
//! Source: <https://www.postgresql.org/docs/current/protocol-replication.html> and `protocol-logicalrep-message-formats.html` there.

use crate::ids::Lsn;
use crate::wire::frontend::copy_data;
use crate::wire::{Reader, WireError};
use bytes::{BufMut, BytesMut};

pub mod pgoutput;

/// Microseconds since 2000-01-01 00:00 UTC, Postgres's clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PgMicros(pub i64);

/// Microseconds from the Unix epoch to Postgres's.
const UNIX_TO_PG_US: i64 = 946_684_800_000_000;

impl PgMicros {
    /// The same moment as microseconds since 1970.
    pub fn from_unix_us(unix_us: i64) -> PgMicros {
        PgMicros(unix_us.saturating_sub(UNIX_TO_PG_US))
    }

    /// Microseconds since 1970.
    pub fn unix_us(self) -> i64 {
        self.0.saturating_add(UNIX_TO_PG_US)
    }
}

/// What a walsender says inside CopyData.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Envelope<'a> {
    /// A piece of the stream.
    XLogData {
        /// Where the data begins in the WAL; 0 for messages without a place of their own (Relation, Type).
        start: Lsn,
        /// The end of WAL on the server.
        wal_end: Lsn,
        /// The server's clock when it was sent.
        sent_at: PgMicros,
        /// One pgoutput message.
        data: &'a [u8],
    },
    /// A sign of life.
    Keepalive {
        /// How far the walsender has read: all commits before it have been sent.
        wal_end: Lsn,
        /// The server's clock when it was sent.
        sent_at: PgMicros,
        /// Answer at once, or the server may hang up.
        reply_requested: bool,
    },
}

impl Envelope<'_> {
    /// Decodes the body of a CopyData message.
    pub fn decode(body: &[u8]) -> Result<Envelope<'_>, WireError> {
        let mut reader = Reader(body);
        match reader.u8()? {
            b'w' => Ok(Envelope::XLogData {
                start: Lsn(reader.u64()?),
                wal_end: Lsn(reader.u64()?),
                sent_at: PgMicros(reader.i64()?),
                data: reader.rest(),
            }),
            b'k' => {
                let keepalive = Envelope::Keepalive {
                    wal_end: Lsn(reader.u64()?),
                    sent_at: PgMicros(reader.i64()?),
                    reply_requested: reader.u8()? != 0,
                };
                reader.end().map(|()| keepalive)
            }
            other => Err(WireError::BackendType(other)),
        }
    }
}

/// What we have received and need no longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StandbyStatus {
    /// Received up to here (the byte after the last one).
    pub written: Lsn,
    /// Needed no longer up to here: the slot moves its confirmed position to it.
    pub flushed: Lsn,
    /// Applied up to here.
    pub applied: Lsn,
    /// Our clock.
    pub sent_at: PgMicros,
    /// Ask for a keepalive at once.
    pub reply_requested: bool,
}

impl StandbyStatus {
    /// Writes it as a CopyData message.
    pub fn encode(&self, buf: &mut BytesMut) {
        let mut body = [0; 34];
        let mut out = &mut body[..];
        out.put_u8(b'r');
        out.put_u64(self.written.0);
        out.put_u64(self.flushed.0);
        out.put_u64(self.applied.0);
        out.put_i64(self.sent_at.0);
        out.put_u8(u8::from(self.reply_requested));
        copy_data(buf, &body);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn envelopes_are_opened() {
        let mut body = vec![b'w'];
        body.put_u64(0x10);
        body.put_u64(0x20);
        body.put_i64(-5);
        body.put_slice(b"data");
        let expected = Envelope::XLogData {
            start: Lsn(0x10),
            wal_end: Lsn(0x20),
            sent_at: PgMicros(-5),
            data: b"data",
        };
        assert_eq!(Envelope::decode(&body), Ok(expected));
        let mut body = vec![b'k'];
        body.put_u64(0x20);
        body.put_i64(7);
        body.put_u8(1);
        let expected = Envelope::Keepalive {
            wal_end: Lsn(0x20),
            sent_at: PgMicros(7),
            reply_requested: true,
        };
        assert_eq!(Envelope::decode(&body), Ok(expected));
        assert!(Envelope::decode(&body[..17]).is_err());
        assert!(Envelope::decode(b"x").is_err());
    }

    #[test]
    fn status_has_the_documented_layout() {
        let mut buf = BytesMut::new();
        StandbyStatus {
            written: Lsn(3),
            flushed: Lsn(2),
            applied: Lsn(1),
            sent_at: PgMicros(9),
            reply_requested: true,
        }
        .encode(&mut buf);
        assert_eq!(buf.len(), 5 + 34);
        assert_eq!(
            (buf[0], buf[5], buf[13], buf[21], buf[29]),
            (b'd', b'r', 3, 2, 1)
        );
        assert_eq!((buf[37], buf[38]), (9, 1));
    }

    #[test]
    fn postgres_clock_begins_in_2000() {
        assert_eq!(PgMicros(0).unix_us(), 946_684_800_000_000);
        assert_eq!(PgMicros::from_unix_us(946_684_800_000_001), PgMicros(1));
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(body in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = Envelope::decode(&body);
        }
    }
}
