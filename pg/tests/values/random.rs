//! Random values in binary form, thick around the edges. Never asks for the time: the seed decides everything.

use ripen_pg::ids::TypeOid;
use ripen_pg::value::{Settings, oid, parse_text};

/// SplitMix64.
pub struct Random(pub u64);

/// Types of which values can be made.
pub const TYPES: [TypeOid; 25] = [
    oid::BOOL,
    oid::INT2,
    oid::INT4,
    oid::INT8,
    oid::OID,
    oid::FLOAT4,
    oid::FLOAT8,
    oid::NUMERIC,
    oid::TEXT,
    oid::VARCHAR,
    oid::BPCHAR,
    oid::NAME,
    oid::CHAR,
    oid::BYTEA,
    oid::UUID,
    oid::DATE,
    oid::TIME,
    oid::TIMETZ,
    oid::TIMESTAMP,
    oid::TIMESTAMPTZ,
    oid::INTERVAL,
    oid::JSON,
    oid::JSONB,
    oid::INET,
    oid::CIDR,
];

const DAY: i64 = 86_400_000_000;

const JSONS: [&str; 8] = [
    r#"{"a": 1}"#,
    r#"[1, 2, {"b": null}]"#,
    r#""text with \"quotes\"""#,
    "null",
    "true",
    "12.50",
    r#"{"a": [], "bb": {}}"#,
    "[]",
];

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// Below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len() as u64) as usize]
    }

    /// An integer of at most so many bits: small, at an edge, or anything.
    pub fn integer(&mut self, bits: u32) -> i64 {
        let any = (self.next() as i64) >> (64 - bits);
        match self.below(4) {
            0 => any % 12,
            1 => {
                let (least, most) = (i64::MIN >> (64 - bits), i64::MAX >> (64 - bits));
                *self.pick(&[least, least + 1, most, most - 1])
            }
            2 => any >> self.below(u64::from(bits)),
            _ => any,
        }
    }

    /// Decimal text of a numeric.
    pub fn decimal(&mut self) -> String {
        let digits = |random: &mut Random, max: u64| {
            let length = random.below(max);
            let zeros = random.below(3) == 0;
            (0..length)
                .map(|_| {
                    if zeros {
                        *random.pick(&['0', '0', '9', '5'])
                    } else {
                        *random.pick(&['0', '1', '4', '5', '9', '7'])
                    }
                })
                .collect::<String>()
        };
        let sign = *self.pick(&["", "", "-"]);
        let max = *self.pick(&[3, 6, 12, 40]);
        let whole = digits(self, max);
        let fraction = digits(self, max);
        match fraction.as_str() {
            "" => format!("{sign}0{whole}"),
            _ => format!("{sign}0{whole}.{fraction}"),
        }
    }

    pub fn text(&mut self, max: u64) -> String {
        let letters = [
            "a", "b", "Z", " ", " ", "é", "日", "\\", "\"", "'", "{", "}", ",", "\t", "\n", "0",
            "7", "N", "x", "😀",
        ];
        let length = self.below(max + 1);
        match self.below(40) {
            0 => "null".to_owned(),
            1 => "NULL".to_owned(),
            _ => (0..length).map(|_| *self.pick(&letters)).collect(),
        }
    }

    fn float8(&mut self) -> f64 {
        match self.below(8) {
            0 => *self.pick(&[
                0.0,
                -0.0,
                f64::NAN,
                f64::INFINITY,
                f64::NEG_INFINITY,
                f64::MAX,
                f64::MIN_POSITIVE,
                5e-324,
                1e23,
                9007199254740993.0,
            ]),
            1 => self.integer(32) as f64,
            2 => f64::from_bits(self.next()),
            3 => 10f64.powi(self.below(40) as i32 - 20),
            // Neighbours of decimals that lie between two floats.
            4 => {
                let middle = (5u128.pow(20 + self.below(4) as u32)) << (20 + self.below(8));
                f64::from_bits((middle as f64).to_bits() + self.below(3) - 1)
            }
            5 => (2f64).powi(self.below(200) as i32 - 100),
            _ => self.decimal().parse().unwrap_or(0.5),
        }
    }

    fn float4(&mut self) -> f32 {
        match self.below(5) {
            0 => *self.pick(&[
                0.0,
                -0.0,
                f32::NAN,
                f32::INFINITY,
                f32::MAX,
                f32::MIN_POSITIVE,
                1e-45,
                33554430.0,
                8589973000.0,
            ]),
            1 => f32::from_bits(self.next() as u32),
            2 => (5u64.pow(self.below(11) as u32) << self.below(30)) as f32,
            _ => self.decimal().parse().unwrap_or(0.5),
        }
    }

    /// Microseconds: mostly of our time, at times anywhere in the calendar.
    fn micros(&mut self) -> i64 {
        let fine = *self.pick(&[1, 1000, 1_000_000, 60_000_000, DAY]);
        let micros = match self.below(6) {
            0 => (self.below(1_400_000) as i64 - 700_000) * DAY + self.below(DAY as u64) as i64,
            1 => self.below(9_000_000_000_000_000_000) as i64,
            2 => -(self.below(211_000_000_000_000_000) as i64),
            _ => self.below(60 * 365) as i64 * DAY + self.below(DAY as u64) as i64 - 30 * 365 * DAY,
        };
        micros / fine * fine
    }

    /// A day within the range of timestamps, or an infinity.
    fn days(&mut self) -> i32 {
        match self.below(12) {
            0 => *self.pick(&[i32::MIN, i32::MAX]),
            1 => self.below(106_000_000) as i32,
            2 => -(self.below(2_400_000) as i32),
            _ => self.below(40_000) as i32 - 15_000,
        }
    }

    fn interval(&mut self) -> Vec<u8> {
        let part = |random: &mut Random, max: u64| match random.below(3) {
            0 => 0,
            1 => random.below(max) as i64,
            _ => -(random.below(max) as i64),
        };
        let mut micros = part(self, 400_000_000_000);
        let fine = *self.pick(&[1, 1000, 1_000_000, 3_600_000_000]);
        micros = micros / fine * fine;
        let mut out = micros.to_be_bytes().to_vec();
        out.extend((part(self, 400) as i32).to_be_bytes());
        out.extend((part(self, 40) as i32).to_be_bytes());
        out
    }

    fn address(&mut self, cidr: bool) -> Vec<u8> {
        let (family, length) = *self.pick(&[(2u8, 4usize), (3, 16)]);
        let sparse = self.below(4);
        let mut address: Vec<u8> = (0..length)
            .map(|_| {
                if self.below(4) < sparse {
                    0
                } else {
                    self.next() as u8
                }
            })
            .collect();
        if length == 16 && self.below(3) == 0 {
            address[..10].fill(0);
            let word = *self.pick(&[0u8, 255]);
            address[10..12].fill(word);
        }
        let bits = length * 8;
        let prefix = match self.below(2) {
            0 => bits,
            _ => self.below(bits as u64 + 1) as usize,
        };
        if cidr {
            for bit in prefix..bits {
                address[bit / 8] &= !(128 >> (bit % 8));
            }
        }
        let mut out = vec![family, prefix as u8, u8::from(cidr), length as u8];
        out.extend(address);
        out
    }

    /// A value of the type, in binary form.
    pub fn value(&mut self, type_oid: TypeOid) -> Vec<u8> {
        match type_oid {
            oid::BOOL => vec![self.below(2) as u8],
            oid::INT2 => (self.integer(16) as i16).to_be_bytes().into(),
            oid::INT4 => (self.integer(32) as i32).to_be_bytes().into(),
            oid::INT8 => self.integer(64).to_be_bytes().into(),
            oid::OID => (self.next() as u32).to_be_bytes().into(),
            oid::FLOAT4 => self.float4().to_be_bytes().into(),
            oid::FLOAT8 => self.float8().to_be_bytes().into(),
            oid::NUMERIC if self.below(40) == 0 => {
                let sign = *self.pick(&[0xd0, 0xf0]);
                vec![0, 0, 0, 0, sign, 0, 0, 32]
            }
            oid::NUMERIC => {
                let text = match self.below(30) {
                    0 => "NaN".to_owned(),
                    _ => self.decimal(),
                };
                parse_text(oid::NUMERIC, -1, &text, &Settings::default()).expect("a decimal")
            }
            oid::TEXT | oid::VARCHAR | oid::BPCHAR => self.text(9).into_bytes(),
            oid::NAME => self.text(9).into_bytes(),
            oid::CHAR => vec![*self.pick(&[b'a', b' ', b'"', b'\\', b'z', b'9', 0])],
            oid::BYTEA => (0..self.below(9)).map(|_| self.next() as u8).collect(),
            oid::UUID => {
                let (low, high) = (self.next(), self.next());
                [low.to_be_bytes(), high.to_be_bytes()].concat()
            }
            oid::DATE => self.days().to_be_bytes().into(),
            oid::TIME => (self.below(DAY as u64) as i64).to_be_bytes().into(),
            oid::TIMETZ => {
                let mut out = (self.below(DAY as u64) as i64).to_be_bytes().to_vec();
                let zone = *self.pick(&[0, 3600, -19_800, 12_345, -50_400]);
                out.extend(i32::to_be_bytes(zone));
                out
            }
            oid::TIMESTAMP | oid::TIMESTAMPTZ => match self.below(20) {
                0 => i64::MAX.to_be_bytes().into(),
                1 => i64::MIN.to_be_bytes().into(),
                _ => self.micros().to_be_bytes().into(),
            },
            oid::INTERVAL => self.interval(),
            oid::JSON => self.pick(&JSONS).as_bytes().to_vec(),
            oid::JSONB => [&[1], self.pick(&JSONS).as_bytes()].concat(),
            oid::INET => self.address(false),
            oid::CIDR => self.address(true),
            _ => unreachable!("listed in TYPES"),
        }
    }

    /// A value a little different, or equal in another form.
    pub fn neighbour(&mut self, type_oid: TypeOid, value: &[u8]) -> Vec<u8> {
        let mut other = value.to_vec();
        match (type_oid, self.below(3)) {
            (_, 0) => return self.value(type_oid),
            (oid::NUMERIC, 1) if other.len() > 8 => {
                // One more zero after the point.
                let scale = u16::from_be_bytes([other[6], other[7]]) + 1;
                other[6..8].copy_from_slice(&scale.to_be_bytes());
            }
            (oid::BPCHAR | oid::TEXT, 1) => other.push(b' '),
            (oid::FLOAT8 | oid::FLOAT4, 1) => other[0] ^= 128,
            _ => {}
        }
        other
    }
}
