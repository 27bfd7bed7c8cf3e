//! The units of a connection between nodes, as bytes. Never looks into questions and answers.
//!
//! A frame is its length (`u32`, little endian, of what follows), a tag, and its fields. Texts are UTF-8.

use super::hello::Identity;
use super::limits::FRAME_BYTES_MAX;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use ripen_cachestore::change::codec::{Malformed, Reader, put_u64};
use tokio_util::codec::LengthDelimitedCodec;

/// A frame.
#[derive(Clone, Debug, PartialEq)]
pub enum Frame {
    /// The first frame of each side.
    Hello(Identity),
    /// The last frame of a side that does not want the other; why, in words.
    Refused(String),
    /// To be answered with the same number.
    Question(u64, Bytes),
    /// The answer.
    Answer(u64, Bytes),
    /// There will be no answer; why, in words.
    Failed(u64, String),
}

/// What cuts a stream of bytes into frames.
pub(crate) fn codec() -> LengthDelimitedCodec {
    LengthDelimitedCodec::builder()
        .little_endian()
        .max_frame_length(FRAME_BYTES_MAX)
        .new_codec()
}

impl Frame {
    /// The frame without its length.
    pub fn encode(&self) -> Bytes {
        let mut out = Vec::new();
        match self {
            Frame::Hello(identity) => {
                out.push(1);
                identity.encode(&mut out);
            }
            Frame::Refused(why) => {
                out.push(2);
                out.extend_from_slice(why.as_bytes());
            }
            Frame::Question(number, bytes) => return numbered(3, *number, bytes),
            Frame::Answer(number, bytes) => return numbered(4, *number, bytes),
            Frame::Failed(number, why) => {
                out.push(5);
                put_u64(&mut out, *number);
                out.extend_from_slice(why.as_bytes());
            }
        }
        out.into()
    }

    /// Reads what [`Frame::encode`] wrote; contents are not copied.
    pub fn decode(mut bytes: BytesMut) -> Result<Frame, Malformed> {
        if bytes.is_empty() {
            return Err(Malformed("an empty frame"));
        }
        match bytes.get_u8() {
            1 => {
                let mut reader = Reader::new(&bytes);
                Identity::decode(&mut reader).map(Frame::Hello)
            }
            2 => Ok(Frame::Refused(text(&bytes))),
            3 => Ok(Frame::Question(number(&mut bytes)?, bytes.freeze())),
            4 => Ok(Frame::Answer(number(&mut bytes)?, bytes.freeze())),
            5 => Ok(Frame::Failed(number(&mut bytes)?, text(&bytes))),
            _ => Err(Malformed("unknown frame between nodes")),
        }
    }
}

fn numbered(tag: u8, number: u64, bytes: &Bytes) -> Bytes {
    let mut out = BytesMut::with_capacity(9 + bytes.len());
    out.put_u8(tag);
    out.put_u64_le(number);
    out.extend_from_slice(bytes);
    out.freeze()
}

fn number(bytes: &mut BytesMut) -> Result<u64, Malformed> {
    bytes
        .try_get_u64_le()
        .map_err(|_| Malformed("a frame without its number"))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame() -> impl Strategy<Value = Frame> {
        let bytes = any::<Vec<u8>>().prop_map(Bytes::from);
        prop_oneof![
            any::<(u16, u16, Option<u64>, u64)>().prop_map(|(oldest, newest, cluster, node)| {
                Frame::Hello(Identity {
                    oldest,
                    newest,
                    cluster,
                    node,
                })
            }),
            ".*".prop_map(Frame::Refused),
            (any::<u64>(), bytes.clone())
                .prop_map(|(number, bytes)| Frame::Question(number, bytes)),
            (any::<u64>(), bytes).prop_map(|(number, bytes)| Frame::Answer(number, bytes)),
            (any::<u64>(), ".*").prop_map(|(number, why)| Frame::Failed(number, why)),
        ]
    }

    proptest! {
        #[test]
        fn frames_come_back_as_they_went_in(frame in frame()) {
            let bytes = BytesMut::from(&frame.encode()[..]);
            prop_assert_eq!(Frame::decode(bytes), Ok(frame));
        }

        #[test]
        fn arbitrary_bytes_do_no_harm(bytes: Vec<u8>) {
            let _ = Frame::decode(BytesMut::from(&bytes[..]));
        }
    }
}
