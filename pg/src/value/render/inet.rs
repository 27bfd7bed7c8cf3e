//! `inet` and `cidr` as text. Never resolves a name.

use super::put_integer;
use crate::value::Unsupported;
use bytes::{BufMut, BytesMut};
use std::fmt::Write;

const IPV4: u8 = 2;
const IPV6: u8 = 3;

/// Appends `inet_out`, or `cidr_out`, which always shows the prefix length.
pub(crate) fn put_inet(out: &mut BytesMut, bytes: &[u8], cidr: bool) -> Result<(), Unsupported> {
    let (head, address) = bytes.split_first_chunk::<4>().ok_or(Unsupported)?;
    let [family, prefix, _, length] = *head;
    let whole = match (family, usize::from(length), address.len()) {
        (IPV4, 4, 4) => {
            put_dotted(out, address);
            32
        }
        (IPV6, 16, 16) => {
            put_words(out, address);
            128
        }
        _ => return Err(Unsupported),
    };
    if prefix > whole {
        return Err(Unsupported);
    }
    if cidr || prefix != whole {
        out.put_u8(b'/');
        put_integer(out, prefix);
    }
    Ok(())
}

fn put_dotted(out: &mut BytesMut, address: &[u8]) {
    for (index, byte) in address.iter().enumerate() {
        if index > 0 {
            out.put_u8(b'.');
        }
        put_integer(out, *byte);
    }
}

fn put_words(out: &mut BytesMut, address: &[u8]) {
    let words: Vec<u16> = address
        .chunks_exact(2)
        .map(|pair| u16::from_be_bytes([pair[0], pair[1]]))
        .collect();
    let (start, length) = longest_zeros(&words);
    let mut index = 0;
    while index < 8 {
        if index == start && length > 0 {
            out.put_slice(if index == 0 { b"::" } else { b":" });
            index += length;
            continue;
        }
        let embedded = start == 0
            && index == 6
            && (length == 6
                || (length == 7 && words[7] != 1)
                || (length == 5 && words[5] == 0xffff));
        if embedded {
            put_dotted(out, &address[12..]);
            return;
        }
        write!(out, "{:x}", words[index]).expect("the buffer grows");
        index += 1;
        if index < 8 {
            out.put_u8(b':');
        }
    }
}

/// First longest run of at least two zero words; length 0 when there is none.
fn longest_zeros(words: &[u16]) -> (usize, usize) {
    let mut best = (0, 1);
    for start in 0..words.len() {
        let length = words[start..].iter().take_while(|word| **word == 0).count();
        if length > best.1 {
            best = (start, length);
        }
    }
    if best.1 < 2 { (0, 0) } else { best }
}
