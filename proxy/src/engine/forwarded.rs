//! A statement on its way to the leader of the cluster and its answer back, as bytes. Decides nothing; the leader's engine does.

use super::Refusal;
use crate::eval::{CommandTag, Formats, Params};
use crate::plan::write::Source;
use crate::plan::{Reason, SessionFacts};
use crate::session::answerer::Asker;
use bytes::{Bytes, BytesMut};
use ripen_cachestore::change::codec::{
    Malformed, Reader, put_bytes, put_count, put_many, put_u32, put_u64,
};
use ripen_pg::ids::TypeOid;
use ripen_pg::sqlstate::ErrorFields;
use ripen_pg::value::Settings;
use ripen_pg::wire::backend;

/// What is said of a write that meets rows which an open transaction has locked: whoever knows of blocks waits for them in one, others have it pass through.
pub const LOCKED: &str = "an open transaction has locked the rows";

/// What the leader must know of a statement.
#[derive(Debug)]
pub struct Forwarded {
    /// What its plan depends on.
    pub facts: SessionFacts,
    /// How its values read and print.
    pub settings: Settings,
    /// The text.
    pub sql: String,
    /// Parameter types of the Parse message.
    pub declared: Vec<TypeOid>,
    /// What its client was told of it, see [`crate::plan::WritePlan::shape`] and [`crate::plan::ReadPlan::shape`].
    pub shape: Vec<u32>,
    /// Formats of the parameters.
    pub param_formats: Vec<i16>,
    /// The parameters.
    pub values: Vec<Option<Bytes>>,
    /// Formats of RETURNING's columns.
    pub result_formats: Vec<i16>,
}

/// The same, borrowed.
pub struct Forwarding<'a> {
    /// See [`Forwarded`].
    pub facts: &'a SessionFacts,
    /// See [`Forwarded`].
    pub settings: &'a Settings,
    /// See [`Forwarded`].
    pub sql: &'a str,
    /// See [`Forwarded`].
    pub declared: &'a [TypeOid],
    /// See [`Forwarded`].
    pub shape: Vec<u32>,
    /// See [`Forwarded`].
    pub params: &'a Params<'a>,
    /// See [`Forwarded`].
    pub formats: Formats<'a>,
}

impl<'a> Forwarding<'a> {
    /// A statement of the session, as its plan has it.
    pub(super) fn new(
        asker: Asker<'a>,
        (source, shape): (&'a Source, Vec<u32>),
        (params, formats): (&'a Params<'a>, Formats<'a>),
    ) -> Forwarding<'a> {
        Forwarding {
            facts: asker.facts,
            settings: asker.settings,
            sql: &source.sql,
            declared: &source.declared,
            shape,
            params,
            formats,
        }
    }

    /// As bytes.
    pub fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(256 + self.sql.len());
        let facts = self.facts;
        put_bytes(&mut out, facts.user.as_bytes());
        put_many(&mut out, &facts.search_path, |out, schema| {
            put_bytes(out, schema.as_bytes());
        });
        let flags = [
            facts.temp_possible,
            facts.temp_opaque,
            facts.row_security,
            facts.standard_conforming_strings,
            facts.plain_settings,
        ];
        out.extend(flags.map(u8::from));
        for (_, value) in self.settings.to_parameters() {
            put_bytes(&mut out, value.as_bytes());
        }
        put_bytes(&mut out, self.sql.as_bytes());
        put_many(&mut out, self.declared, |out, oid| put_u32(out, oid.0));
        put_many(&mut out, &self.shape, |out, oid| put_u32(out, *oid));
        put_formats(&mut out, self.params.formats);
        put_count(&mut out, self.params.values.len());
        for value in self.params.values {
            out.push(u8::from(value.is_some()));
            put_bytes(&mut out, value.unwrap_or_default());
        }
        put_formats(&mut out, self.formats);
        out.into()
    }
}

impl Forwarded {
    /// Reads what [`Forwarding::encode`] wrote.
    pub fn decode(bytes: &Bytes) -> Result<Forwarded, Malformed> {
        let mut reader = Reader::new(bytes);
        let user = text(&mut reader)?;
        let search_path = reader.many(text)?;
        let facts = SessionFacts {
            user,
            search_path,
            temp_possible: reader.bool()?,
            temp_opaque: reader.bool()?,
            row_security: reader.bool()?,
            standard_conforming_strings: reader.bool()?,
            plain_settings: reader.bool()?,
        };
        let names = Settings::default().to_parameters().map(|(name, _)| name);
        let mut parameters = Vec::with_capacity(names.len());
        for name in names {
            parameters.push((name, text(&mut reader)?));
        }
        let settings = Settings::from_parameters(|name| {
            let found = parameters.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| value.clone())
        });
        let forwarded = Forwarded {
            facts,
            settings,
            sql: text(&mut reader)?,
            declared: reader.many(|reader| reader.u32().map(TypeOid))?,
            shape: reader.many(Reader::u32)?,
            param_formats: reader.many(format)?,
            values: reader.many(|reader| {
                let known = reader.bool()?;
                let value = bytes.slice_ref(reader.bytes()?);
                Ok(known.then_some(value))
            })?,
            result_formats: reader.many(format)?,
        };
        reader.end()?;
        Ok(forwarded)
    }
}

fn put_formats(out: &mut Vec<u8>, formats: Formats<'_>) {
    put_many(out, formats.0, |out, format| {
        out.extend_from_slice(&format.to_le_bytes());
    });
}

fn format(reader: &mut Reader<'_>) -> Result<i16, Malformed> {
    reader.u16().map(u16::cast_signed)
}

pub(super) fn text(reader: &mut Reader<'_>) -> Result<String, Malformed> {
    let bytes = reader.bytes()?.to_vec();
    String::from_utf8(bytes).map_err(|_| Malformed("not text"))
}

/// Whether a write was refused because of [`LOCKED`].
pub fn is_locked(refusal: &Refusal) -> bool {
    matches!(refusal, Refusal::PassThrough(reason) if reason.text == LOCKED)
}

/// What the leader answers: the rows are appended to `out` by [`decode_answer`].
pub fn encode_done(tag: CommandTag, rows: &[u8]) -> Bytes {
    let (kind, count) = match tag {
        CommandTag::Insert(count) => (1, count),
        CommandTag::Update(count) => (2, count),
        CommandTag::Delete(count) => (3, count),
        CommandTag::Select(count) => (4, count),
    };
    let mut out = vec![kind];
    put_u64(&mut out, count);
    out.extend_from_slice(rows);
    out.into()
}

/// The same where nothing has been done.
pub fn encode_refusal(refusal: &Refusal) -> Bytes {
    match refusal {
        Refusal::PassThrough(reason) => {
            let mut out = vec![5];
            out.extend_from_slice(reason.text.as_bytes());
            out.into()
        }
        Refusal::Error(error) => {
            let mut out = BytesMut::new();
            backend::error_response(&mut out, error);
            let mut answer = vec![6];
            answer.extend_from_slice(&out[crate::relay::HEADER_BYTES..]);
            answer.into()
        }
    }
}

/// Reads what the leader has answered.
pub fn decode_answer(answer: &Bytes, out: &mut BytesMut) -> Result<CommandTag, Refusal> {
    let (kind, rest) = answer.split_first().ok_or_else(unreadable)?;
    let tag: fn(u64) -> CommandTag = match kind {
        1 => CommandTag::Insert,
        2 => CommandTag::Update,
        3 => CommandTag::Delete,
        4 => CommandTag::Select,
        5 => {
            let why = String::from_utf8_lossy(rest).into_owned();
            return Err(Refusal::PassThrough(Reason::new("leader", why)));
        }
        6 => {
            let error = backend::decode_error(rest).map_err(|_| unreadable())?;
            return Err(Refusal::Error(error));
        }
        _ => return Err(unreadable()),
    };
    let (count, rows) = rest.split_first_chunk().ok_or_else(unreadable)?;
    out.extend_from_slice(rows);
    Ok(tag(u64::from_le_bytes(*count)))
}

pub(super) fn unreadable() -> Refusal {
    Refusal::Error(ErrorFields::error(
        ripen_pg::sqlstate::SqlState::INTERNAL_ERROR,
        "the answer of the cluster's leader cannot be read",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_comes_to_the_leader_as_it_was() {
        let facts = SessionFacts {
            user: "app".to_owned(),
            search_path: vec!["a".to_owned(), "public".to_owned()],
            temp_possible: false,
            temp_opaque: true,
            row_security: false,
            standard_conforming_strings: true,
            plain_settings: true,
        };
        let params = Params {
            formats: Formats(&[1, 0]),
            values: &[Some(b"x"), None],
        };
        let forwarding = Forwarding {
            facts: &facts,
            settings: &Settings::default(),
            sql: "UPDATE t SET a = $1 WHERE id = $2",
            declared: &[TypeOid(23)],
            shape: vec![7, 20],
            params: &params,
            formats: Formats(&[-1]),
        };
        let back = Forwarded::decode(&forwarding.encode()).unwrap();
        assert_eq!(back.facts, facts);
        assert_eq!(back.settings, Settings::default());
        assert_eq!(back.sql, forwarding.sql);
        assert_eq!(back.declared, forwarding.declared);
        assert_eq!(back.shape, forwarding.shape);
        assert_eq!(back.param_formats, [1, 0]);
        assert_eq!(back.values, [Some(Bytes::from_static(b"x")), None]);
        assert_eq!(back.result_formats, [-1]);
    }

    #[test]
    fn answers_come_back() {
        let mut out = BytesMut::new();
        let done = encode_done(CommandTag::Update(3), b"rows");
        assert_eq!(
            decode_answer(&done, &mut out).unwrap(),
            CommandTag::Update(3)
        );
        assert_eq!(&out[..], b"rows");
        let passed = Refusal::PassThrough(Reason::new("x", "why"));
        let refused = decode_answer(&encode_refusal(&passed), &mut out);
        assert!(matches!(refused, Err(Refusal::PassThrough(reason)) if reason.text == "why"));
        let state = ripen_pg::sqlstate::SqlState::INSUFFICIENT_RESOURCES;
        let error = ErrorFields::error(state, "full");
        let refused = decode_answer(&encode_refusal(&Refusal::Error(error)), &mut out);
        assert!(matches!(refused, Err(Refusal::Error(error)) if error.state() == state));
    }
}
