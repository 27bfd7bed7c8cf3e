//! Scopes of passed-through statements, narrowed to the keys that they name with their parameters.

#![allow(clippy::unwrap_used)] // Helpers of tests may, too.

#[path = "support/catalog.rs"]
mod catalog;

use catalog::{World, world};
use ripen_pg::ids::TypeOid;
use ripen_pg::value::Settings;
use ripen_proxy::eval::keys::Keys;
use ripen_proxy::eval::{EvalError, Formats, Params};
use ripen_proxy::plan::{Plan, ScopeTemplate, plan};

const SCHEMA: &str = "
table rows | id int8 notnull; n int4; v text | pk=id mode=rt
table pairs | a int4 notnull; b text notnull; v text | pk=b,a mode=rt
table nodes | id int8 notnull; above int8; v text | pk=id mode=rt refers_to_itself_by=above
table late | id int8 notnull; v text; n int4 | pk=id mode=rt unique_at_commit=v
";

fn planned(world: &World, sql: &str, declared: &[TypeOid]) -> Plan {
    plan(
        sql,
        declared,
        &world.catalog,
        &|relation| world.mode(relation),
        &world.facts,
    )
}

fn writes(world: &World, sql: &str, declared: &[TypeOid]) -> ScopeTemplate {
    match planned(world, sql, declared) {
        Plan::PassThrough(pass) => pass.writes.clone(),
        other => panic!("{sql}: {other:?}"),
    }
}

fn resolved(scope: &ScopeTemplate, values: &[Option<&[u8]>]) -> Result<Keys, EvalError> {
    let ScopeTemplate::Keys(_, keys) = scope else {
        panic!("{scope:?}");
    };
    let params = Params {
        formats: Formats(&[]),
        values,
    };
    let mut keys = keys.keys(&params, &Settings::default())?;
    keys.sort();
    Ok(keys)
}

fn read(world: &World, sql: &str) -> Keys {
    let Plan::Read(read) = planned(world, sql, &[]) else {
        panic!("{sql}");
    };
    let mut keys = read.keys(&Params::default(), &Settings::default()).unwrap();
    keys.sort();
    keys
}

#[test]
fn writes_hold_the_keys_that_reads_find() {
    let world = world(SCHEMA);
    let values: &[Option<&[u8]>] = &[Some(b"x"), Some(b"7")];
    for sql in [
        "UPDATE rows SET v = $1 WHERE id = $2",
        "DELETE FROM rows WHERE v = $1 AND id = $2",
        "INSERT INTO rows (v, id) VALUES ($1, $2)",
        "INSERT INTO rows (v, id) VALUES ($1, $2) ON CONFLICT (id) DO UPDATE SET v = excluded.v RETURNING random()",
        "SELECT random() FROM rows WHERE v LIKE $1 AND id = $2 FOR UPDATE",
        "UPDATE nodes SET v = upper($1) WHERE id = $2",
    ] {
        let keys = resolved(&writes(&world, sql, &[]), values).unwrap();
        assert_eq!(
            keys,
            read(&world, "SELECT id FROM rows WHERE id = 7"),
            "{sql}"
        );
    }
}

#[test]
fn several_rows_and_key_columns_are_all_held() {
    let world = world(SCHEMA);
    let insert = "INSERT INTO pairs (a, b) VALUES (1, 'x'), (2, $1), (3, upper('y'))";
    let keys = resolved(&writes(&world, insert, &[]), &[Some(b"z")]).unwrap();
    let found = [
        "SELECT v FROM pairs WHERE a = 1 AND b = 'x'",
        "SELECT v FROM pairs WHERE (b = 'z') AND (2 = a)",
        "SELECT v FROM pairs WHERE b = 'Y' AND a IN (3)",
    ];
    let mut found: Keys = found.iter().flat_map(|sql| read(&world, sql)).collect();
    found.sort();
    assert_eq!(keys, found);
    let delete = "DELETE FROM pairs WHERE a = ANY($1) AND b IN ('x', 'y')";
    let keys = resolved(&writes(&world, delete, &[]), &[Some(b"{1,2,NULL,2}")]).unwrap();
    assert_eq!(keys.len(), 4);
}

#[test]
fn a_null_key_holds_nothing() {
    let world = world(SCHEMA);
    let scope = writes(&world, "DELETE FROM rows WHERE id = $1", &[]);
    assert!(resolved(&scope, &[None]).unwrap().is_empty());
}

#[test]
fn what_is_not_sure_holds_the_table() {
    let world = world(SCHEMA);
    for sql in [
        "UPDATE rows SET n = $1 WHERE id = $1",
        "UPDATE rows SET id = 8 WHERE id = 7",
        "DELETE FROM rows WHERE id = 7 OR n = 1",
        "DELETE FROM rows USING rows r2 WHERE rows.id = 7",
        "DELETE FROM rows WHERE id = 7 AND EXISTS (SELECT FROM rows)",
        "INSERT INTO rows (id) SELECT 7",
        "INSERT INTO pairs (a) VALUES (1)",
        "WITH w AS (DELETE FROM rows WHERE id = 7) DELETE FROM rows WHERE id = 8",
        "DELETE FROM pairs WHERE a = 1",
        "DELETE FROM nodes WHERE id = 7",
        "INSERT INTO late (id, v) VALUES (7, 'x')",
        "UPDATE late SET v = 'x' WHERE id = 7",
    ] {
        let scope = writes(&world, sql, &[]);
        let whole = matches!(scope, ScopeTemplate::Tables(_));
        let none = matches!(&scope, ScopeTemplate::Keys(_, keys)
            if keys.keys(&Params::default(), &Settings::default()).unwrap().is_empty());
        assert!(whole || none, "{sql}: {scope:?}");
    }
}

#[test]
fn a_declared_parameter_may_be_used_twice() {
    let world = world(SCHEMA);
    let sql = "UPDATE rows SET n = $1 WHERE id = $1";
    let scope = writes(&world, sql, &[TypeOid(20)]);
    let keys = resolved(&scope, &[Some(b"7")]).unwrap();
    assert_eq!(keys, read(&world, "SELECT id FROM rows WHERE id = 7"));
}

#[test]
fn a_key_that_does_not_parse_is_an_error_not_a_guess() {
    let world = world(SCHEMA);
    let scope = writes(&world, "DELETE FROM rows WHERE id = $1", &[]);
    assert!(resolved(&scope, &[Some(b"seven")]).is_err());
    assert!(resolved(&scope, &[]).is_err());
}
