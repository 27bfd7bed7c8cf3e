//! The packets before the first message: TLS and GSS requests, cancel requests, startup. They carry no tag. Never judges a user or a database.

use super::{Reader, WireError, put_counted, put_text};
use bytes::{BufMut, BytesMut};

/// Longest packet that Postgres accepts here, its length field not counted (`MAX_STARTUP_PACKET_LENGTH`).
pub const PACKET_MAX: usize = 10_000;

const CANCEL: u32 = 80_877_102;
const SSL: u32 = 80_877_103;
const GSS: u32 = 80_877_104;

/// Protocol 3.0.
pub const PROTOCOL_3_0: (u16, u16) = (3, 0);

/// The newest minor version of protocol 3 that is understood here: 3.2 (longer cancel keys).
pub const MINOR_MAX: u16 = 2;

/// The first packet of a connection, or the one after a TLS or GSS request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FirstPacket {
    /// Answer `S` (and begin TLS) or `N`.
    SslRequest,
    /// Answer `N`: GSS encryption is not offered.
    GssEncRequest,
    /// Cancel what that backend is doing. Nothing is answered.
    CancelRequest(CancelKey),
    /// Begin a session.
    Startup(Startup),
}

/// What BackendKeyData gives and CancelRequest brings back.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct CancelKey {
    /// Process id of the backend.
    pub pid: u32,
    /// Its secret: 4 bytes in protocol 3.0, 4 to 256 since 3.2.
    pub secret: Vec<u8>,
}

/// Without the secret.
impl std::fmt::Debug for CancelKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CancelKey({})", self.pid)
    }
}

/// StartupMessage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Startup {
    /// 3.
    pub major: u16,
    /// 0 or 2 so far.
    pub minor: u16,
    /// Names and values as they came, in order: `user`, `database`, `options`, settings, `_pq_.` options.
    pub params: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Startup {
    /// A startup with protocol 3.0 and these parameters.
    pub fn new<'a>(params: impl IntoIterator<Item = (&'a str, &'a str)>) -> Startup {
        let (major, minor) = PROTOCOL_3_0;
        Startup {
            major,
            minor,
            params: params
                .into_iter()
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
        }
    }

    /// The value of a parameter; the last one wins, as in Postgres.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.params
            .iter()
            .rfind(|(known, _)| known == name.as_bytes())
            .map(|(_, value)| value.as_slice())
    }

    /// Whether a walsender is asked for: `replication` is anything but a clear "no".
    pub fn is_replication(&self) -> bool {
        self.get("replication").is_some_and(|value| {
            let value = value.to_ascii_lowercase();
            !matches!(
                value.as_slice(),
                b"false" | b"fals" | b"fal" | b"fa" | b"f" | b"no" | b"n" | b"off" | b"of" | b"0"
            )
        })
    }

    /// Names of `_pq_.` protocol options, which NegotiateProtocolVersion refuses.
    pub fn protocol_options(&self) -> impl Iterator<Item = &[u8]> {
        self.params
            .iter()
            .map(|(name, _)| name.as_slice())
            .filter(|name| name.starts_with(b"_pq_."))
    }
}

/// Length of the whole packet at the start of `bytes`, its length field included; `None` while that field is incomplete.
pub fn peek_len(bytes: &[u8]) -> Result<Option<usize>, WireError> {
    let Some(length) = bytes.first_chunk() else {
        return Ok(None);
    };
    let length = i32::from_be_bytes(*length);
    match usize::try_from(length) {
        Ok(length) if (8..=PACKET_MAX + 4).contains(&length) => Ok(Some(length)),
        _ => Err(WireError::StartupLength),
    }
}

/// Decodes a whole packet, of the length that [`peek_len`] told.
pub fn decode(packet: &[u8]) -> Result<FirstPacket, WireError> {
    if peek_len(packet)? != Some(packet.len()) {
        return Err(WireError::StartupLength);
    }
    let mut reader = Reader(&packet[4..]);
    match reader.u32()? {
        SSL => reader.end().map(|()| FirstPacket::SslRequest),
        GSS => reader.end().map(|()| FirstPacket::GssEncRequest),
        CANCEL => {
            let pid = reader.u32()?;
            let secret = reader.rest().to_vec();
            Ok(FirstPacket::CancelRequest(CancelKey { pid, secret }))
        }
        version => decode_startup(version, reader).map(FirstPacket::Startup),
    }
}

fn decode_startup(version: u32, mut reader: Reader<'_>) -> Result<Startup, WireError> {
    let (major, minor) = ((version >> 16) as u16, version as u16);
    if major != 3 {
        return Err(WireError::Protocol { major, minor });
    }
    let layout = |_| WireError::StartupLayout;
    let mut params = Vec::new();
    loop {
        let name = reader.text().map_err(layout)?;
        if name.is_empty() {
            break;
        }
        let value = reader.text().map_err(layout)?;
        params.push((name.to_vec(), value.to_vec()));
    }
    reader.end().map_err(layout)?;
    Ok(Startup {
        major,
        minor,
        params,
    })
}

/// Writes any of these packets.
pub fn encode(buf: &mut BytesMut, packet: &FirstPacket) {
    put_counted(buf, |buf| match packet {
        FirstPacket::SslRequest => buf.put_u32(SSL),
        FirstPacket::GssEncRequest => buf.put_u32(GSS),
        FirstPacket::CancelRequest(key) => {
            buf.put_u32(CANCEL);
            buf.put_u32(key.pid);
            buf.put_slice(&key.secret);
        }
        FirstPacket::Startup(startup) => {
            buf.put_u16(startup.major);
            buf.put_u16(startup.minor);
            for (name, value) in &startup.params {
                put_text(buf, name);
                put_text(buf, value);
            }
            buf.put_u8(0);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn packet(startup: &FirstPacket) -> BytesMut {
        let mut buf = BytesMut::new();
        encode(&mut buf, startup);
        buf
    }

    #[test]
    fn packets_read_as_written() {
        let startup = Startup::new([("user", "me"), ("database", ""), ("_pq_.x", "1")]);
        assert_eq!(startup.protocol_options().collect::<Vec<_>>(), [b"_pq_.x"]);
        let cancel = |secret: &[u8]| {
            FirstPacket::CancelRequest(CancelKey {
                pid: 7,
                secret: secret.to_vec(),
            })
        };
        for first in [
            FirstPacket::SslRequest,
            FirstPacket::GssEncRequest,
            cancel(b"1234"),
            cancel(&[9; 256]),
            FirstPacket::Startup(startup),
        ] {
            let bytes = packet(&first);
            assert_eq!(peek_len(&bytes), Ok(Some(bytes.len())));
            assert_eq!(decode(&bytes), Ok(first));
        }
    }

    #[test]
    fn impossible_packets_are_refused() {
        assert_eq!(peek_len(&[0, 0, 0]), Ok(None));
        assert_eq!(peek_len(&[0, 0, 0, 7]), Err(WireError::StartupLength));
        assert_eq!(peek_len(b"GET "), Err(WireError::StartupLength));
        let protocol2 = [0, 0, 0, 8, 0, 2, 0, 0];
        assert!(matches!(
            decode(&protocol2),
            Err(WireError::Protocol { major: 2, .. })
        ));
        let open = [0, 0, 0, 10, 0, 3, 0, 0, b'a', 0];
        assert_eq!(decode(&open), Err(WireError::StartupLayout));
    }

    #[test]
    fn replication_is_recognised() {
        let with = |value| Startup::new([("replication", value)]).is_replication();
        assert!(with("database") && with("true") && with("ON") && with("nonsense"));
        assert!(!with("false") && !with("Off"));
        assert!(!Startup::new([]).is_replication());
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 8..200)) {
            let length = u32::try_from(bytes.len()).unwrap();
            bytes[..4].copy_from_slice(&length.to_be_bytes());
            let _ = decode(&bytes);
            bytes[4..8].copy_from_slice(&[0, 3, 0, 0]);
            let _ = decode(&bytes);
        }
    }
}
