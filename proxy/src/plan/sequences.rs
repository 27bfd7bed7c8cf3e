//! What a statement has to do with sequences: a lone question for a value, which may be answered here, and whether a text speaks of what the session has drawn.
//! Never draws.

use super::facts::Mode;
use super::names::{Named, Names};
use super::parse::{NodeEnum, inner, pb, string_constant, strings};
use super::rights;
use crate::eval::Field;
use ripen_cachestore::catalog::{Relation, Sequence};
use ripen_pg::ids::TableOid;
use ripen_pg::value::oid;
use std::sync::Arc;

/// What a text has to do with the values that its session has drawn from sequences. What comes later outweighs what comes before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum SequenceUse {
    /// Nothing.
    #[default]
    None,
    /// May draw more of them, or forgets them (DISCARD).
    Moves,
    /// Speaks of `currval` or `lastval`, wherever.
    Asks,
}

/// A SELECT of one value of a sequence, and nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SequencePlan {
    /// The value.
    pub ask: SequenceAsk,
    /// The output column.
    pub field: Field,
}

/// Which value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SequenceAsk {
    /// `nextval('s')`
    Next(Arc<Sequence>),
    /// `currval('s')`
    Current(TableOid),
    /// `lastval()`
    Last,
}

impl SequenceAsk {
    /// The same of the text as a whole.
    pub fn sequence_use(&self) -> SequenceUse {
        match self {
            SequenceAsk::Next(_) => SequenceUse::Moves,
            SequenceAsk::Current(_) | SequenceAsk::Last => SequenceUse::Asks,
        }
    }
}

/// Whether a text mentions one of the functions that tell what the session has drawn. Strings and comments count: they may become statements. So do names
/// written with escapes.
pub fn asks(sql: &str) -> bool {
    const WORDS: [&[u8]; 2] = [b"currval", b"lastval"];
    let bytes = sql.as_bytes();
    let has = |word: &[u8]| {
        bytes
            .windows(word.len())
            .any(|part| part.eq_ignore_ascii_case(word))
    };
    WORDS.into_iter().any(has) || (sql.contains('\\') && has(b"u&\""))
}

/// The plan of `SELECT nextval('s')` and its like.
pub(super) fn lone(
    names: Names<'_>,
    statement: &NodeEnum,
    mode: &dyn Fn(&Relation) -> Mode,
) -> Option<SequencePlan> {
    let NodeEnum::SelectStmt(select) = statement else {
        return None;
    };
    let plain = pb::SelectStmt {
        target_list: select.target_list.clone(),
        limit_option: select.limit_option,
        op: pb::SetOperation::SetopNone as i32,
        ..Default::default()
    };
    let [target] = &select.target_list[..] else {
        return None;
    };
    let Some(NodeEnum::ResTarget(target)) = &target.node else {
        return None;
    };
    if **select != plain || !names.facts.plain_settings {
        return None;
    }
    let Some(NodeEnum::FuncCall(call)) = inner(&target.val) else {
        return None;
    };
    let (name, sequence) = called(names, call)?;
    let ask = match (name, sequence) {
        ("lastval", None) => SequenceAsk::Last,
        ("currval", Some((_, sequence))) if rights::may_ask(names, &sequence) => {
            SequenceAsk::Current(sequence.oid)
        }
        ("nextval", Some((relation, sequence)))
            if mode(&relation) == Mode::WriteBehind
                && sequence.plain
                && !names.catalog.asks_sequences
                && rights::may_draw(names, &sequence) =>
        {
            SequenceAsk::Next(sequence)
        }
        _ => return None,
    };
    let column = match target.name.as_str() {
        "" => name,
        alias => alias,
    };
    let field = Field {
        name: column.to_owned(),
        table: 0,
        attnum: 0,
        type_oid: oid::INT8,
        length: 8,
        type_modifier: -1,
    };
    Some(SequencePlan { ask, field })
}

/// The sequence of `nextval('s')`. `None`: it is something else.
pub(super) fn next(names: Names<'_>, node: &NodeEnum) -> Option<TableOid> {
    let NodeEnum::FuncCall(call) = node else {
        return None;
    };
    match called(names, call)? {
        ("nextval", Some((_, sequence))) => Some(sequence.oid),
        _ => None,
    }
}

/// A sequence as a relation, and what it gives.
type Found = (Arc<Relation>, Arc<Sequence>);

/// A call of one of the functions, by constant name.
fn called<'c>(names: Names<'_>, call: &'c pb::FuncCall) -> Option<(&'c str, Option<Found>)> {
    let (name, args) = names.builtin_call(call)?;
    if !matches!(name, "nextval" | "currval" | "lastval") {
        return None;
    }
    match args {
        [] => Some((name, None)),
        [argument] => Some((name, Some(named(names, argument.node.as_ref()?)?))),
        _ => None,
    }
}

/// The sequence that `'s'` or `'s'::regclass` names. Names that need folding or quoting as a whole are left to Postgres.
fn named(names: Names<'_>, node: &NodeEnum) -> Option<Found> {
    let text = match node {
        NodeEnum::TypeCast(cast) => {
            let name = strings(&cast.type_name.as_ref()?.names);
            let regclass = matches!(name[..], ["regclass"] | ["pg_catalog", "regclass"]);
            string_constant(inner(&cast.arg)?).filter(|_| regclass)?
        }
        other => string_constant(other)?,
    };
    let parts = identifiers(text)?;
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    let Named::Known {
        relation,
        sure: true,
    } = names.relation_of(&parts)
    else {
        return None;
    };
    let sequence = names.catalog.sequences.get(&relation.oid)?.clone();
    Some((relation, sequence))
}

/// A qualified name as `regclass` reads it, in plain lower case or quoted.
fn identifiers(text: &str) -> Option<Vec<String>> {
    let plain = |part: &str| {
        let first = part.bytes().next()?;
        let rest = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        let fits = (first.is_ascii_lowercase() || first == b'_') && part.bytes().all(rest);
        fits.then(|| part.to_owned())
    };
    let quoted = |part: &str| {
        let inside = part.strip_prefix('"')?.strip_suffix('"')?;
        let odd = |letter: char| letter == '"' || letter == '.';
        (!inside.is_empty() && !inside.contains(odd)).then(|| inside.to_owned())
    };
    // Longer ones are cut by Postgres.
    const NAME_BYTES_MAX: usize = 63;
    text.split('.')
        .map(|part| plain(part).or_else(|| quoted(part)))
        .map(|part| part.filter(|part| part.len() <= NAME_BYTES_MAX))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mention_is_found_wherever_it_stands() {
        assert!(asks("SELECT CurrVal('s')"));
        assert!(asks("DO 'BEGIN PERFORM lastval(); END'"));
        assert!(asks(r#"SELECT U&"l\0061stval"()"#));
        assert!(!asks("SELECT nextval('s'), 'last', val FROM curr"));
    }

    #[test]
    fn names_are_read_as_regclass_reads_them_or_not_at_all() {
        let read = |text| identifiers(text).map(|parts| parts.join("|"));
        assert_eq!(read("s"), Some("s".into()));
        assert_eq!(
            read("public.\"Order_id_seq\""),
            Some("public|Order_id_seq".into())
        );
        for odd in ["S", "1s", "a b", "", "a..b", "\"a.b\"", "\"a\"\"b\"", "123"] {
            assert_eq!(read(odd), None, "{odd}");
        }
    }
}
