use super::*;
use crate::catalog::{Collation, Column, Grants, NamespaceOid, RoleOid, TypeDef, TypeKind};
use crate::change::Shapes;
use bytes::Bytes;
use ripen_pg::ids::TypeOid;
use ripen_pg::key::Key;
use std::sync::Arc;

fn written<'a>(catalog: &'a Catalog, shapes: &'a Shapes) -> Written<'a> {
    Written { catalog, shapes }
}

const INT4: TypeOid = TypeOid(23);
const TEXT: TypeOid = TypeOid(25);
const TEXTS: TypeOid = TypeOid(1009);

/// Tables 1 (parent), 2 (its child), 3 (with an array column), 4 (without a primary key); columns `id int4, a text, b int4`, in 3 `a text[]`.
fn catalog() -> Catalog {
    let mut catalog = Catalog::default();
    let kinds = [
        (INT4, "integer", TypeKind::Base),
        (TEXT, "text", TypeKind::Base),
        (TEXTS, "text[]", TypeKind::Array(TEXT)),
    ];
    for (oid, name, kind) in kinds {
        let known = TypeDef {
            oid,
            sql_name: name.to_owned(),
            length: -1,
            kind,
        };
        catalog.types.insert(oid, known);
    }
    for (oid, name, parents, a) in [
        (1, "parent", vec![], TEXT),
        (2, "child", vec![TableOid(1)], TEXT),
        (3, "lists", vec![], TEXTS),
        (4, "events", vec![], TEXT),
    ] {
        let columns = [("id", INT4), ("a", a), ("b", INT4)];
        let columns = columns.into_iter().enumerate();
        let columns = columns.map(|(position, (name, type_oid))| column(position, name, type_oid));
        let mut relation = relation(oid, name, columns.collect(), parents);
        if oid == 4 {
            relation.primary_key = Vec::new();
        }
        catalog.relations.insert(relation.oid, Arc::new(relation));
    }
    catalog
}

fn column(position: usize, name: &str, type_oid: TypeOid) -> Column {
    Column {
        position,
        name: name.to_owned(),
        type_oid,
        type_modifier: -1,
        not_null: false,
        collation: Collation::None,
        collated: false,
        default: None,
        generated: '\0',
        identity: '\0',
        sequence: None,
        grants: Grants::default(),
    }
}

fn relation(oid: u32, name: &str, columns: Vec<Column>, parents: Vec<TableOid>) -> Relation {
    Relation {
        oid: TableOid(oid),
        namespace: NamespaceOid(9),
        schema: "s".to_owned(),
        name: name.to_owned(),
        kind: 'r',
        persistence: 'p',
        storage: 0,
        width: columns.len(),
        columns,
        primary_key: vec![0],
        primary_key_name: "t_pkey".to_owned(),
        checks: Vec::new(),
        unique_columns: Default::default(),
        indexed_columns: Default::default(),
        indexes: Default::default(),
        expression_columns: Default::default(),
        replica_identity: 'd',
        foreign_keys: Vec::new(),
        foreign_key_columns: Default::default(),
        referenced_columns: Default::default(),
        parents: parents.into_iter().collect(),
        children: Default::default(),
        deferred: Default::default(),
        write_obstacles: Vec::new(),
        read_obstacles: Vec::new(),
        opaque_read: false,
        opaque_write: false,
        read_closure: Default::default(),
        write_closure: Default::default(),
        row_security: false,
        owner: RoleOid(10),
        grants: Grants::default(),
    }
}

fn change(table: u32, id: i32, change: Change) -> CommitGroup {
    let row = RowId {
        table: TableOid(table),
        key: Key::from_bytes(&id.to_be_bytes()),
    };
    CommitGroup {
        rows: vec![RowChange { row, change }],
    }
}

fn image(id: i32) -> Tuple {
    let id = id.to_be_bytes();
    let columns = [Datum::Value(&id), Datum::Value(b"x"), Datum::Null];
    columns.into_iter().collect()
}

fn insert(table: u32, id: i32) -> CommitGroup {
    change(table, id, Change::Insert { image: image(id) })
}

fn update(table: u32, id: i32, set: &[u16], add: &[u16]) -> CommitGroup {
    let add = add.iter().map(|position| crate::change::Increment {
        position: *position,
        type_oid: INT4,
        amount: Bytes::from_static(&[0, 0, 0, 1]),
    });
    let update = Change::Update {
        image: image(id),
        set: set.to_vec(),
        add: add.collect(),
    };
    change(table, id, update)
}

fn delete(table: u32, id: i32) -> CommitGroup {
    change(table, id, Change::Delete)
}

fn planned(groups: &[CommitGroup]) -> Vec<Step> {
    let groups: Vec<&CommitGroup> = groups.iter().collect();
    plan(written(&catalog(), &Shapes::new()), &groups).unwrap()
}

fn texts(groups: &[CommitGroup]) -> Vec<String> {
    let steps = planned(groups);
    steps
        .into_iter()
        .map(|step| format!("{} × {}", step.sql, step.rows))
        .collect()
}

#[test]
fn equal_changes_share_a_statement_and_tables_follow_their_foreign_keys() {
    let groups = [
        delete(1, 9),
        insert(2, 1),
        update(1, 2, &[1], &[2]),
        delete(2, 9),
        insert(1, 1),
        insert(2, 2),
        update(1, 3, &[1], &[2]),
        update(1, 4, &[1], &[]),
    ];
    let expected = [
        r#"INSERT INTO "s"."parent" ("id", "a", "b") SELECT u.c0, u.c1, u.c2 FROM unnest($1::integer[], $2::text[], $3::integer[]) AS u(c0, c1, c2) × 1"#,
        r#"UPDATE "s"."parent" AS t SET "a" = u.c1 FROM unnest($1::integer[], $2::text[]) AS u(k0, c1) WHERE t."id" = u.k0 × 1"#,
        r#"UPDATE "s"."parent" AS t SET "a" = u.c1, "b" = t."b" + u.c2 FROM unnest($1::integer[], $2::text[], $3::integer[]) AS u(k0, c1, c2) WHERE t."id" = u.k0 × 2"#,
        r#"INSERT INTO "s"."child" ("id", "a", "b") SELECT u.c0, u.c1, u.c2 FROM unnest($1::integer[], $2::text[], $3::integer[]) AS u(c0, c1, c2) × 2"#,
        r#"DELETE FROM "s"."child" AS t USING unnest($1::integer[]) AS u(k0) WHERE t."id" = u.k0 × 1"#,
        r#"DELETE FROM "s"."parent" AS t USING unnest($1::integer[]) AS u(k0) WHERE t."id" = u.k0 × 1"#,
    ];
    assert_eq!(texts(&groups), expected);
}

#[test]
fn put_replaces_and_gives_missing_columns_their_default() {
    let id = 1i32.to_be_bytes();
    let image = [Datum::Value(&id), Datum::Missing, Datum::Null];
    let image: Tuple = image.into_iter().collect();
    let expected = r#"INSERT INTO "s"."parent" ("id", "b") SELECT u.c0, u.c2 FROM unnest($1::integer[], $2::integer[]) AS u(c0, c2) ON CONFLICT ("id") DO UPDATE SET "a" = DEFAULT, "b" = excluded."b" × 1"#;
    assert_eq!(texts(&[change(1, 1, Change::Put { image })]), [expected]);
}

#[test]
fn array_columns_go_row_by_row_with_the_same_text() {
    let steps = planned(&[
        update(3, 1, &[1], &[]),
        update(3, 2, &[1], &[]),
        delete(3, 5),
    ]);
    assert_eq!(
        steps[0].sql,
        r#"UPDATE "s"."lists" AS t SET "a" = u.c1 FROM (VALUES ($1::integer, $2::text[])) AS u(k0, c1) WHERE t."id" = u.k0"#
    );
    assert_eq!((steps[0].calls.len(), steps[0].rows), (2, 2));
    assert!(steps[1].sql.contains("unnest"));
}

#[test]
fn a_row_that_comes_again_starts_a_new_segment() {
    let steps = planned(&[
        insert(1, 1),
        delete(1, 2),
        delete(1, 1),
        insert(1, 2),
        insert(1, 1),
    ]);
    let order: Vec<_> = steps
        .iter()
        .map(|step| (&step.sql[..6], step.rows))
        .collect();
    assert_eq!(
        order,
        [
            ("INSERT", 1),
            ("DELETE", 1),
            ("INSERT", 1),
            ("DELETE", 1),
            ("INSERT", 1)
        ]
    );
}

#[test]
fn rows_are_written_in_the_order_of_their_keys() {
    let mixed = planned(&[delete(1, 3), delete(1, 1), delete(1, 2)]);
    let sorted = planned(&[delete(1, 1), delete(1, 2), delete(1, 3)]);
    assert_eq!(mixed, sorted);
}

#[test]
fn statements_are_bounded_in_rows_and_bytes() {
    let rows: Vec<_> = (0..STATEMENT_ROWS as i32 + 1)
        .map(|id| delete(1, id))
        .collect();
    let counts: Vec<_> = planned(&rows).iter().map(|step| step.rows).collect();
    assert_eq!(counts, [STATEMENT_ROWS as u64, 1]);
    let large = vec![b'x'; STATEMENT_BYTES / 2];
    let wide = |id: i32| {
        let key = id.to_be_bytes();
        let image = [Datum::Value(&key), Datum::Value(&large), Datum::Null];
        let image = image.into_iter().collect();
        change(1, id, Change::Insert { image })
    };
    let counts: Vec<_> = planned(&[wide(1), wide(2)])
        .iter()
        .map(|step| step.rows)
        .collect();
    assert_eq!(counts, [1, 1]);
}

#[test]
fn what_no_longer_fits_names_its_group() {
    let mut short = insert(1, 1);
    short.rows[0].row.key = Key::from_bytes(&[1]);
    for (guilty, sqlstate) in [(insert(7, 1), "42P01"), (short, "42P10")] {
        let groups = [insert(1, 5), guilty];
        let groups: Vec<&CommitGroup> = groups.iter().collect();
        let misfit = plan(written(&catalog(), &Shapes::new()), &groups).unwrap_err();
        assert_eq!((misfit.group, misfit.sqlstate), (1, sqlstate));
    }
    // Dropped columns are nobody's fault.
    assert!(planned(&[update(1, 1, &[8], &[])]).is_empty());
}

#[test]
fn rows_without_a_key_are_inserted_whatever_the_log_calls_them() {
    let expected = r#"INSERT INTO "s"."events" ("id", "a", "b") SELECT u.c0, u.c1, u.c2 FROM unnest($1::integer[], $2::text[], $3::integer[]) AS u(c0, c1, c2) × 2"#;
    assert_eq!(texts(&[insert(4, 7), insert(4, 8)]), [expected]);
    let (catalog, shapes) = (catalog(), Shapes::new());
    let misfit = plan(written(&catalog, &shapes), &[&delete(4, 7)]).unwrap_err();
    assert_eq!(misfit.sqlstate, "42P10");
}

/// A table that had no primary key when rows were queued, and has one when they are written, or the other way round.
#[test]
fn a_key_that_came_later_is_not_looked_for() {
    let catalog = catalog();
    let shape = |key: &[u16]| {
        let types = [(0, INT4), (1, TEXT), (2, INT4)].into();
        let key = key.to_vec();
        Arc::new(crate::change::Shape { key, types })
    };
    let keyless: Shapes = [(TableOid(1), shape(&[]))].into();
    let mut queued = insert(1, 7);
    queued.rows[0].row.key = Key::from_bytes(b"some place of the log's own");
    assert_eq!(
        plan(written(&catalog, &keyless), &[&queued]).unwrap().len(),
        1
    );
    let keyed: Shapes = [(TableOid(4), shape(&[0]))].into();
    let misfit = plan(written(&catalog, &keyed), &[&insert(4, 7)]).unwrap_err();
    assert_eq!(misfit.sqlstate, "42P10");
}
