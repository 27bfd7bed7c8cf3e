//! PostgreSQL's own grammar (libpg_query), and small helpers over its nodes. The only module that calls the parser; never resolves a name.
//!
//! Bound: the decoder refuses trees deeper than 100 messages (some 45 nested expressions), so every walk over a tree may recurse.

use super::reason::Reason;
pub use pg_query::NodeEnum;
pub use pg_query::protobuf as pb;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// The statements of a text, in order. An error is a reason to treat the text as unknown, not proof that Postgres will refuse it.
pub fn parse(sql: &str) -> Result<Vec<NodeEnum>, Reason> {
    raw(sql)?
        .into_iter()
        .map(|raw| raw.stmt.and_then(|node| node.node))
        .collect::<Option<Vec<_>>>()
        .ok_or_else(|| Reason::new("unparsed", "the parser returned an empty statement"))
}

/// Where each statement of a text stands, in bytes. `None`: unknown.
pub fn split(sql: &str) -> Option<Vec<Range<usize>>> {
    let range = |raw: pb::RawStmt| {
        let start = usize::try_from(raw.stmt_location).ok()?;
        let length = usize::try_from(raw.stmt_len).ok()?;
        let end = if length == 0 {
            sql.len()
        } else {
            start + length
        };
        sql.get(start..end).map(|_| start..end)
    };
    raw(sql).ok()?.into_iter().map(range).collect()
}

fn raw(sql: &str) -> Result<Vec<pb::RawStmt>, Reason> {
    // The crate summarises the tree with code that panics on shapes it does not expect; a panic there must not end the session.
    let parsed = catch_unwind(AssertUnwindSafe(|| pg_query::parse(sql, 0)));
    match parsed {
        Ok(Ok(parsed)) => Ok(parsed.protobuf.stmts),
        Ok(Err(pg_query::Error::Decode(_))) => Err(Reason::new(
            "too-deep",
            "the statement is nested too deeply",
        )),
        Ok(Err(_)) => Err(Reason::new(
            "unparsed",
            "the grammar does not know this text",
        )),
        Err(_) => Err(Reason::new("unparsed", "the parser failed on this text")),
    }
}

/// A lone expression, as `pg_get_expr` prints it (defaults, checks).
pub fn parse_expression(text: &str) -> Option<NodeEnum> {
    let statements = parse(&format!("SELECT ({text}\n)")).ok()?;
    let [NodeEnum::SelectStmt(select)] = &statements[..] else {
        return None;
    };
    let only_a_target = pb::SelectStmt {
        target_list: Vec::new(),
        ..(**select).clone()
    };
    let [target] = &select.target_list[..] else {
        return None;
    };
    let plain = pb::SelectStmt {
        limit_option: select.limit_option,
        op: select.op,
        ..Default::default()
    };
    match target.node.as_ref()? {
        NodeEnum::ResTarget(target) if only_a_target == plain && target.name.is_empty() => {
            target.val.as_ref()?.node.clone()
        }
        _ => None,
    }
}

/// What an optional boxed node holds.
pub fn inner(node: &Option<Box<pb::Node>>) -> Option<&NodeEnum> {
    node.as_ref()?.node.as_ref()
}

/// The nodes of a list that hold something.
pub fn items(nodes: &[pb::Node]) -> impl Iterator<Item = &NodeEnum> {
    nodes.iter().filter_map(|node| node.node.as_ref())
}

/// The strings of a qualified name; other nodes (`*`) are left out.
pub fn strings(nodes: &[pb::Node]) -> Vec<&str> {
    items(nodes)
        .filter_map(|node| match node {
            NodeEnum::String(name) => Some(name.sval.as_str()),
            _ => None,
        })
        .collect()
}

/// The unqualified operator name of an expression, or `None` for `OPERATOR(schema.op)`.
pub fn operator(expr: &pb::AExpr) -> Option<&str> {
    match &expr.name[..] {
        [
            pb::Node {
                node: Some(NodeEnum::String(name)),
            },
        ] => Some(&name.sval),
        _ => None,
    }
}

/// A constant string.
pub fn string_constant(node: &NodeEnum) -> Option<&str> {
    match node {
        NodeEnum::AConst(constant) => match constant.val.as_ref()? {
            pb::a_const::Val::Sval(text) => Some(&text.sval),
            _ => None,
        },
        _ => None,
    }
}

/// A constant whole number.
pub fn integer_constant(node: &NodeEnum) -> Option<i64> {
    match node {
        NodeEnum::AConst(constant) => match constant.val.as_ref()? {
            pb::a_const::Val::Ival(number) => Some(i64::from(number.ival)),
            pb::a_const::Val::Fval(number) => number.fval.parse().ok(),
            _ => None,
        },
        NodeEnum::Integer(number) => Some(i64::from(number.ival)),
        _ => None,
    }
}

/// How often a text mentions `$number`, in strings and comments too.
pub fn mentions(sql: &str, number: usize) -> usize {
    let wanted = format!("${number}");
    sql.match_indices(&wanted)
        .filter(|(at, _)| {
            let after = sql.as_bytes().get(at + wanted.len());
            !after.is_some_and(u8::is_ascii_digit)
        })
        .count()
}

/// The highest number of a parameter in a text, or a higher one: strings and comments count.
pub fn params_max(sql: &str) -> usize {
    let numbers = sql.split('$').skip(1).filter_map(|rest| {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        rest[..digits].parse::<usize>().ok()
    });
    // What is above is refused elsewhere: a message has no more.
    numbers.filter(|number| *number < 0xffff).max().unwrap_or(0)
}

/// Whether a text may hold a number that servers before 16 read as a number and a name (`0x1f`, `1_000`).
pub fn has_odd_numbers(sql: &str, server_version: u32) -> bool {
    const FIRST_WITH_THEM: u32 = 160_000;
    if server_version >= FIRST_WITH_THEM {
        return false;
    }
    // Quoted parts are left out where it is plain where they begin and end: then every second part between quotes is one.
    let plain_quotes = !sql.contains('\\') && !sql.contains("--") && !sql.contains("/*");
    let dollars = sql.match_indices('$').any(|(at, _)| {
        let next = sql.as_bytes().get(at + 1);
        !next.is_some_and(u8::is_ascii_digit)
    });
    if !plain_quotes || dollars {
        return odd_number_in(sql);
    }
    let outside = sql.split('\'').step_by(2);
    outside
        .flat_map(|part| part.split('"').step_by(2))
        .any(odd_number_in)
}

fn odd_number_in(text: &str) -> bool {
    let in_name = |byte: u8| byte.is_ascii_alphanumeric() || b"_$".contains(&byte) || byte > 127;
    let exponent = |byte: &u8| byte.is_ascii_digit() || b"eE".contains(byte);
    text.as_bytes()
        .split(|byte| !in_name(*byte))
        .any(|word| word.first().is_some_and(u8::is_ascii_digit) && !word.iter().all(exponent))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_statements_and_none() {
        assert_eq!(parse("select 1; select 2;").unwrap().len(), 2);
        assert_eq!(parse("  -- nothing\n;;").unwrap().len(), 0);
        assert_eq!(parse("selec 1").unwrap_err().code, "unparsed");
    }

    #[test]
    fn deep_nesting_is_refused_not_overflowed() {
        let deep = format!("select {}1{}", "(1+".repeat(5000), ")".repeat(5000));
        assert!(parse(&deep).is_err());
        let chain = format!("select 1{}", "+1".repeat(5000));
        assert!(parse(&chain).is_err());
    }

    #[test]
    fn numbers_of_newer_servers_are_seen() {
        for text in ["select 0x1F", "select 1_000", "select 1a"] {
            assert!(has_odd_numbers(text, 150_000), "{text}");
            assert!(!has_odd_numbers(text, 160_000));
        }
        let quoted = "select '550f8400', \"1x\" from t";
        assert!(!has_odd_numbers(quoted, 150_000));
        assert!(has_odd_numbers("select '550f8400' -- it's", 150_000));
        assert!(!has_odd_numbers(
            "select a1_b, t2.c3, 1e5, 1.5 from t where x=$1",
            150_000
        ));
    }

    #[test]
    fn mentions_count_whole_numbers() {
        assert_eq!(mentions("$1 + $10 + $1", 1), 2);
        assert_eq!(mentions("$1 + $10 + $1", 10), 1);
    }

    #[test]
    fn the_highest_number_of_a_parameter() {
        assert_eq!(params_max("select $2, $11, '$12a' -- $3"), 12);
        assert_eq!(params_max("select $$x$$, $1"), 1);
        assert_eq!(params_max("select 1"), 0);
    }

    #[test]
    fn odd_drops_do_not_panic() {
        for text in ["drop function f", "drop rule r on t", "drop table a.b, c"] {
            let _ = parse(text);
        }
    }

    #[test]
    fn an_expression_is_only_an_expression() {
        assert!(parse_expression("((a > 0) AND (b IS NULL))").is_some());
        assert!(parse_expression("1) from t where (true").is_none());
        assert!(parse_expression("1 AS x").is_none());
    }
}
