//! The segment format: headers, records, and where a damaged log may be cut. Decides only; `writer.rs` and `recovery.rs` read and write files.
//!
//! A segment is a header, then records, then zeros. Everything is little endian, records begin at multiples of 8.
//!
//! ```text
//! header  magic 8 | version 4 | crc 4 | identity 8 | segment 4 | previous_end 4 | synced 8 | zeros to 64
//! record  crc 4 | length 4 | kind 1 | zeros 7 | term 8 | index 8 | synced 8 | payload `length` | zeros to a multiple of 8
//! ```
//!
//! The checksum of a record begins with its segment and offset, so a record is valid only where it was written.
//! `synced` is the position up to which everything had been synced when the record was written. So when an invalid place is followed by a valid record
//! whose `synced` lies beyond that place, what stood there had been on disk and may have been acknowledged: that is damage, not a torn write.

/// The version of this layout.
pub(crate) const VERSION: u32 = 1;
/// Length of a segment's header.
pub(crate) const HEADER_BYTES: usize = 64;
const MAGIC: [u8; 8] = *b"ripenwal";
const RECORD_HEADER_BYTES: usize = 40;
const ALIGNMENT: usize = 8;

/// A place in the log. Ordered as written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Position {
    /// Number of the segment; the first is 1.
    pub segment: u32,
    /// Byte in it.
    pub offset: u32,
}

impl Position {
    fn pack(self) -> u64 {
        u64::from(self.segment) << 32 | u64::from(self.offset)
    }

    fn unpack(packed: u64) -> Position {
        Position {
            segment: (packed >> 32) as u32,
            offset: packed as u32,
        }
    }
}

/// A segment's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    /// Chosen by chance when the log was created: segments of different logs cannot be mixed up.
    pub identity: u64,
    /// Its own number.
    pub segment: u32,
    /// Where the segment before it ends.
    pub previous_end: u32,
    /// Everything before was synced when this was written.
    pub synced: Position,
}

/// Why there is no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeaderFault {
    /// All zeros: prepared, not used.
    Blank,
    /// Written by another version.
    Version(u32),
    /// Torn or damaged.
    Invalid,
}

impl SegmentHeader {
    pub(crate) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.identity.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.segment.to_le_bytes());
        bytes[28..32].copy_from_slice(&self.previous_end.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.synced.pack().to_le_bytes());
        let crc = crc32fast::hash(&bytes[16..]);
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8], segment: u32) -> Result<SegmentHeader, HeaderFault> {
        let bytes = bytes
            .get(..HEADER_BYTES)
            .ok_or_else(|| header_fault_of_short(bytes))?;
        if bytes.iter().all(|byte| *byte == 0) {
            return Err(HeaderFault::Blank);
        }
        let version = u32_at(bytes, 8);
        if bytes[..8] != MAGIC || version == 0 {
            return Err(HeaderFault::Invalid);
        }
        if version != VERSION {
            return Err(HeaderFault::Version(version));
        }
        let header = SegmentHeader {
            identity: u64_at(bytes, 16),
            segment: u32_at(bytes, 24),
            previous_end: u32_at(bytes, 28),
            synced: Position::unpack(u64_at(bytes, 32)),
        };
        let valid = u32_at(bytes, 12) == crc32fast::hash(&bytes[16..]) && header.segment == segment;
        valid.then_some(header).ok_or(HeaderFault::Invalid)
    }
}

fn header_fault_of_short(bytes: &[u8]) -> HeaderFault {
    if bytes.iter().all(|byte| *byte == 0) {
        HeaderFault::Blank
    } else {
        HeaderFault::Invalid
    }
}

/// What a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A Raft entry without contents.
    Blank = 1,
    /// A Raft entry with commands.
    Normal = 2,
    /// A Raft entry that changes the membership.
    Membership = 3,
    /// The node's vote: `index` is the node voted for, the payload one byte (1: the vote won).
    Vote = 4,
    /// Entries up to here are committed. Also seals what was synced before it.
    Committed = 5,
    /// Entries after `index` are taken back; all of them if the payload is not empty.
    Truncated = 6,
    /// Entries up to `index` are in a snapshot and no longer needed.
    Purged = 7,
}

impl Kind {
    pub(crate) fn from_byte(byte: u8) -> Option<Kind> {
        Some(match byte {
            1 => Kind::Blank,
            2 => Kind::Normal,
            3 => Kind::Membership,
            4 => Kind::Vote,
            5 => Kind::Committed,
            6 => Kind::Truncated,
            7 => Kind::Purged,
            _ => return None,
        })
    }
}

/// A record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record<'a> {
    pub kind: Kind,
    pub term: u64,
    pub index: u64,
    pub payload: &'a [u8],
}

impl Record<'_> {
    /// Bytes it takes in a segment.
    pub(crate) fn stored_bytes(&self) -> usize {
        (RECORD_HEADER_BYTES + self.payload.len()).next_multiple_of(ALIGNMENT)
    }

    /// Appends it to `out`, to be written at `at`.
    pub(crate) fn encode(&self, out: &mut Vec<u8>, at: Position, synced: Position) {
        let start = out.len();
        let length =
            u32::try_from(self.payload.len()).expect("COMMAND_BYTES_MAX is far below 4 GB");
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(&[self.kind as u8, 0, 0, 0, 0, 0, 0, 0]);
        out.extend_from_slice(&self.term.to_le_bytes());
        out.extend_from_slice(&self.index.to_le_bytes());
        out.extend_from_slice(&synced.pack().to_le_bytes());
        out.extend_from_slice(self.payload);
        let crc = checksum(at, &out[start + 4..]);
        out[start..start + 4].copy_from_slice(&crc.to_le_bytes());
        out.resize(start + self.stored_bytes(), 0);
    }
}

fn checksum(at: Position, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&at.pack().to_le_bytes());
    hasher.update(bytes);
    hasher.finalize()
}

/// The record at `at`, whose segment begins with `segment`, and what it knew to be synced. `None` if there is no valid one.
pub(crate) fn decode_record(segment: &[u8], at: Position) -> Option<(Record<'_>, Position)> {
    decode_record_bytes(segment.get(at.offset as usize..)?, at)
}

/// The record that `bytes` begin with, read from `at`.
pub(crate) fn decode_record_bytes(bytes: &[u8], at: Position) -> Option<(Record<'_>, Position)> {
    let header = bytes.get(..RECORD_HEADER_BYTES)?;
    let kind = Kind::from_byte(header[8])?;
    if header[9..16] != [0; 7] {
        return None;
    }
    let end = RECORD_HEADER_BYTES.checked_add(u32_at(header, 4) as usize)?;
    let body = bytes.get(4..end)?;
    if checksum(at, body) != u32_at(header, 0) {
        return None;
    }
    let record = Record {
        kind,
        term: u64_at(header, 16),
        index: u64_at(header, 24),
        payload: &body[RECORD_HEADER_BYTES - 4..],
    };
    Some((record, Position::unpack(u64_at(header, 32))))
}

/// Calls `on_record` for each record of the unbroken chain after the header, and returns where it ends.
pub(crate) fn scan<E>(
    bytes: &[u8],
    segment: u32,
    mut on_record: impl FnMut(Position, Record<'_>) -> Result<(), E>,
) -> Result<u32, E> {
    let mut at = Position {
        segment,
        offset: HEADER_BYTES as u32,
    };
    while let Some((record, _)) = decode_record(bytes, at) {
        on_record(at, record)?;
        at.offset += record.stored_bytes() as u32;
    }
    Ok(at.offset)
}

/// Looks behind the end of the chain: the greatest `synced` of any valid record at or after `from`, and where it stands.
pub(crate) fn evidence(bytes: &[u8], segment: u32, from: u32) -> Option<(Position, Position)> {
    let first = (from as usize).next_multiple_of(ALIGNMENT);
    (first..bytes.len())
        .step_by(ALIGNMENT)
        .filter_map(|offset| {
            let at = Position {
                segment,
                offset: offset as u32,
            };
            decode_record(bytes, at).map(|(_, synced)| (synced, at))
        })
        .max()
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let bytes = bytes[at..at + 4].try_into();
    u32::from_le_bytes(bytes.expect("the slice has four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let bytes = bytes[at..at + 8].try_into();
    u64::from_le_bytes(bytes.expect("the slice has eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORD: Record<'_> = Record {
        kind: Kind::Normal,
        term: 3,
        index: 9,
        payload: b"hello",
    };

    fn at(segment: u32, offset: u32) -> Position {
        Position { segment, offset }
    }

    /// A segment with three records of 48 bytes at 64, 112 and 160, the last of which knew that the first was synced.
    fn segment() -> Vec<u8> {
        let header = SegmentHeader {
            identity: 7,
            segment: 2,
            previous_end: 500,
            synced: at(1, 500),
        };
        let mut bytes = header.encode().to_vec();
        RECORD.encode(&mut bytes, at(2, 64), at(1, 500));
        RECORD.encode(&mut bytes, at(2, 112), at(1, 500));
        RECORD.encode(&mut bytes, at(2, 160), at(2, 112));
        bytes.resize(512, 0);
        bytes
    }

    fn scan_count(bytes: &[u8], segment: u32) -> (usize, u32) {
        let mut count = 0;
        let counted = scan(bytes, segment, |_, record| {
            assert_eq!(record, RECORD);
            count += 1;
            Ok::<_, ()>(())
        });
        (count, counted.unwrap())
    }

    #[test]
    fn segment_reads_what_it_writes() {
        let bytes = segment();
        assert_eq!(SegmentHeader::decode(&bytes, 2).unwrap().synced, at(1, 500));
        assert_eq!(scan_count(&bytes, 2), (3, 208));
        assert_eq!(evidence(&bytes, 2, 208), None);
    }

    #[test]
    fn record_is_valid_only_where_it_was_written() {
        let bytes = segment();
        assert_eq!(SegmentHeader::decode(&bytes, 3), Err(HeaderFault::Invalid));
        assert_eq!(scan_count(&bytes, 3), (0, 64));
    }

    #[test]
    fn every_flipped_bit_breaks_the_record() {
        for bit in 0..45 * 8 {
            let mut bytes = segment();
            bytes[112 + bit / 8] ^= 1 << (bit % 8);
            assert_eq!(scan_count(&bytes, 2), (1, 112), "bit {bit}");
        }
    }

    #[test]
    fn later_record_proves_what_was_synced() {
        let mut bytes = segment();
        bytes[70] ^= 1;
        assert_eq!(evidence(&bytes, 2, 64), Some((at(2, 112), at(2, 160))));
    }

    #[test]
    fn header_faults_are_told_apart() {
        assert_eq!(SegmentHeader::decode(&[0; 64], 1), Err(HeaderFault::Blank));
        assert_eq!(SegmentHeader::decode(&[0; 3], 1), Err(HeaderFault::Blank));
        let mut bytes = segment();
        bytes[8] = 2;
        assert_eq!(
            SegmentHeader::decode(&bytes, 2),
            Err(HeaderFault::Version(2))
        );
        let mut bytes = segment();
        bytes[20] ^= 1;
        assert_eq!(SegmentHeader::decode(&bytes, 2), Err(HeaderFault::Invalid));
    }
}
