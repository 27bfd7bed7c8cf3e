//! Golden scripts: schema and statements in, plans, reasons and scopes out. `UPDATE_GOLDEN=1 cargo test -p ripen-proxy --test golden` writes them anew.
//!
//! A script is a catalog description, a line `---`, then blocks: lines starting with `> ` are the statement, the others what is planned for it.

#![allow(clippy::unwrap_used)] // Helpers of tests may, too.

#[path = "support/catalog.rs"]
mod catalog;

use catalog::{World, world};
use ripen_pg::ids::{TableOid, TypeOid};
use ripen_proxy::eval::Field;
use ripen_proxy::plan::{Effects, PassPlan, Plan, ScopeTemplate, SequenceUse, plan};
use std::fmt::Write;
use std::path::Path;

#[test]
fn plans_are_as_written() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let mut wrong = String::new();
    let mut scripts = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let now = run(&text);
        scripts += 1;
        if now == text {
            continue;
        }
        if update {
            std::fs::write(&path, now).unwrap();
        } else {
            write!(wrong, "{}:\n{}", path.display(), difference(&text, &now)).unwrap();
        }
    }
    assert!(scripts > 3, "the scripts are gone");
    assert!(wrong.is_empty(), "{wrong}");
}

fn difference(old: &str, new: &str) -> String {
    let mut out = String::new();
    let mut statement = "";
    for (old, new) in old.lines().zip(new.lines()) {
        if new.starts_with('>') {
            statement = new;
        }
        if old != new {
            writeln!(out, "{statement}\n- {old}\n+ {new}").unwrap();
            if old.starts_with('>') || new.starts_with('>') {
                break;
            }
        }
    }
    out
}

fn run(script: &str) -> String {
    let (schema, blocks) = script.split_once("\n---\n").expect("a line ---");
    let world = world(schema);
    let mut out = format!("{schema}\n---\n");
    for block in blocks
        .split("\n\n")
        .map(str::trim)
        .filter(|b| !b.is_empty())
    {
        let head: Vec<&str> = block
            .lines()
            .take_while(|line| line.starts_with('>') || line.starts_with('#'))
            .collect();
        let statement: Vec<&str> = head
            .iter()
            .filter_map(|line| line.strip_prefix('>'))
            .map(str::trim)
            .collect();
        let plan = plan(
            &statement.join("\n"),
            &[],
            &world.catalog,
            &|relation| world.mode(relation),
            &world.facts,
        );
        writeln!(out, "{}\n{}", head.join("\n"), describe(&world, &plan)).unwrap();
    }
    out
}

fn describe(world: &World, plan: &Plan) -> String {
    let mut out = String::new();
    match plan {
        Plan::Read(read) => {
            writeln!(out, "read {}", read.table.name).unwrap();
            if let Some(set) = &read.set {
                let columns = set.positions().map(|at| read.table.column(at).unwrap());
                let columns: Vec<&str> = columns.map(|column| column.name.as_str()).collect();
                match columns.is_empty() {
                    true => writeln!(out, "  the whole table").unwrap(),
                    false => writeln!(out, "  set by: {}", columns.join(", ")).unwrap(),
                }
            }
            for join in &read.joined {
                let how = if join.needed { "inner" } else { "left" };
                writeln!(out, "  {how}: {} by {}", join.table.name, join.by()).unwrap();
            }
            writeln!(out, "  params: {}", types(world, &read.params)).unwrap();
            writeln!(out, "  fields: {}", fields(world, &read.fields)).unwrap();
            if !read.joined.is_empty() {
                out.push_str(&touched(world, &read.fallback));
            }
            if let Some(lock) = read.lock {
                writeln!(out, "  locks: {:?} {:?}", lock.strength, lock.meets).unwrap();
                out.push_str(&touched(world, &read.fallback));
            }
        }
        Plan::Write(write) => {
            writeln!(out, "write {}", write.table.name).unwrap();
            writeln!(out, "  params: {}", types(world, &write.params)).unwrap();
            if let Some(returning) = &write.returning {
                writeln!(out, "  returning: {}", fields(world, returning)).unwrap();
            }
            out.push_str(&touched(world, &write.fallback));
        }
        Plan::Local(local) => writeln!(out, "local {local:?}").unwrap(),
        Plan::PassThrough(pass) => {
            writeln!(out, "pass [{}] {}", pass.reason.code, pass.reason.text).unwrap();
            out.push_str(&touched(world, pass));
            if let Some(widened) = pass.widened {
                writeln!(out, "  because: {widened}").unwrap();
            }
        }
    }
    out
}

fn touched(world: &World, pass: &PassPlan) -> String {
    let mut out = String::new();
    writeln!(out, "  reads: {}", scope(world, &pass.reads)).unwrap();
    writeln!(out, "  writes: {}", scope(world, &pass.writes)).unwrap();
    let effects = format!("{:?}", shown(&pass.effects));
    if pass.effects != Effects::default() {
        writeln!(out, "  effects: {effects}").unwrap();
    }
    out
}

fn shown(effects: &Effects) -> Vec<String> {
    let named = [
        ("ddl", effects.ddl),
        ("rewires", effects.rewires),
        ("grants", effects.grants),
        ("unpublish", !effects.unpublish.is_empty()),
        ("settings", effects.settings),
        ("temp_tables", effects.temp_tables),
        ("temp_opaque", effects.temp_opaque),
        ("code", effects.code),
        ("cursor", effects.cursor),
        ("copy", effects.copy),
        ("listen", effects.listen),
        ("session_locks", effects.session_locks),
        ("locks", effects.locks),
        ("multi", effects.multi),
        ("own_transaction", effects.own_transaction),
        ("row_locks", effects.row_locks),
        ("moves sequences", effects.sequences == SequenceUse::Moves),
        ("asks sequences", effects.sequences == SequenceUse::Asks),
    ];
    let mut shown: Vec<String> = named
        .iter()
        .filter(|(_, has)| *has)
        .map(|(name, _)| (*name).to_owned())
        .collect();
    shown.extend(effects.transaction.iter().map(|tx| format!("{tx:?}")));
    shown.extend(
        effects
            .prepares
            .iter()
            .map(|name| format!("prepared {name}")),
    );
    shown
}

fn scope(world: &World, scope: &ScopeTemplate) -> String {
    let name = |oid: &TableOid| world.catalog.relations[oid].name.clone();
    match scope {
        ScopeTemplate::Nothing => "nothing".to_owned(),
        ScopeTemplate::Keys(table, _) => format!("keys of {}", name(table)),
        ScopeTemplate::Tables(tables) => tables.iter().map(name).collect::<Vec<_>>().join(", "),
        ScopeTemplate::Everything => "everything".to_owned(),
    }
}

fn types(world: &World, types: &[TypeOid]) -> String {
    let names: Vec<&str> = types
        .iter()
        .map(|oid| match world.catalog.types.get(oid) {
            Some(known) => known.sql_name.as_str(),
            None => "array",
        })
        .collect();
    format!("[{}]", names.join(", "))
}

fn fields(world: &World, fields: &[Field]) -> String {
    let shown: Vec<String> = fields
        .iter()
        .map(|field| {
            let origin = if field.table == 0 { "" } else { "=" };
            format!("{}{origin} {}", field.name, types(world, &[field.type_oid]))
        })
        .collect();
    shown.join(", ")
}
