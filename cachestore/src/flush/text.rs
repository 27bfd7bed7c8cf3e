//! The statements of a flush: one text per table, kind and mask; values travel as arrays (`unnest`), or row by row where a column is an array itself.
//! Never decides which rows or in what order; `plan.rs` does.

use super::written::Written;
use crate::catalog::{Column, Relation};
use crate::change::{Change, RowChange};
use crate::raw::{RawParam, array};
use crate::sql::{key_columns, qualified, quoted};
use ripen_pg::ids::TypeOid;
use ripen_pg::tuple::Datum;

/// A text and the parameters of each execution.
pub type Prepared = (String, Vec<Vec<RawParam>>);

/// One table as statements see it.
pub struct Table<'a> {
    pub written: Written<'a>,
    pub relation: &'a Relation,
}

/// A column of the values that a statement is given, with a value for each row.
struct Input<'a> {
    /// Its name in `u`.
    name: String,
    /// The table's column, quoted.
    column: String,
    type_oid: TypeOid,
    type_name: &'a str,
    unnests: bool,
    values: Vec<Option<&'a [u8]>>,
}

impl<'a> Table<'a> {
    pub fn insert(&self, mask: &[u16], rows: &[&'a RowChange]) -> Prepared {
        let inputs = self.image_inputs(mask, rows);
        let overriding = mask
            .iter()
            .any(|position| self.column(*position).identity == 'a');
        let sql = format!(
            "INSERT INTO {} ({}){} SELECT {} FROM {}",
            qualified(self.relation),
            self.names(mask),
            if overriding {
                " OVERRIDING SYSTEM VALUE"
            } else {
                ""
            },
            list(&inputs, |input| format!("u.{}", input.name)),
            source(&inputs),
        );
        (sql, calls(&inputs, rows.len()))
    }

    /// Whether an upsert can replace the row: an identity column outside the key that is GENERATED ALWAYS cannot be updated.
    pub fn upserts(&self, mask: &[u16]) -> bool {
        !mask.iter().any(|position| {
            self.column(*position).identity == 'a' && !self.in_key(usize::from(*position))
        })
    }

    /// An insert that replaces the row: given columns take the new value, others their default, as after a delete.
    pub fn upsert(&self, mask: &[u16], rows: &[&'a RowChange]) -> Prepared {
        let (insert, calls) = self.insert(mask, rows);
        let rest = self
            .relation
            .columns
            .iter()
            .filter(|column| column.generated == '\0' && !self.in_key(column.position));
        let assignments: Vec<String> = rest
            .map(|column| {
                let name = quoted(&column.name);
                match mask.contains(&(column.position as u16)) {
                    true => format!("{name} = excluded.{name}"),
                    false => format!("{name} = DEFAULT"),
                }
            })
            .collect();
        let action = match assignments.is_empty() {
            true => "NOTHING".to_owned(),
            false => format!("UPDATE SET {}", assignments.join(", ")),
        };
        let key = key_columns(self.relation).map(|column| quoted(&column.name));
        let key = key.collect::<Vec<_>>().join(", ");
        (format!("{insert} ON CONFLICT ({key}) DO {action}"), calls)
    }

    pub fn update(&self, set: &[u16], add: &[u16], rows: &[&'a RowChange]) -> Prepared {
        let key = self.key_inputs(rows);
        let set = self.image_inputs(set, rows);
        let add = self.increment_inputs(add, rows);
        let assigned = set
            .iter()
            .map(|input| format!("{} = u.{}", input.column, input.name));
        let added = add.iter().map(|input| {
            let column = &input.column;
            format!("{column} = t.{column} + u.{}", input.name)
        });
        let assignments: Vec<String> = assigned.chain(added).collect();
        let matches = self.key_matches(&key);
        let inputs: Vec<Input<'_>> = key.into_iter().chain(set).chain(add).collect();
        let sql = format!(
            "UPDATE {} AS t SET {} FROM {} WHERE {matches}",
            qualified(self.relation),
            assignments.join(", "),
            source(&inputs),
        );
        (sql, calls(&inputs, rows.len()))
    }

    pub fn delete(&self, rows: &[&'a RowChange]) -> Prepared {
        let key = self.key_inputs(rows);
        let sql = format!(
            "DELETE FROM {} AS t USING {} WHERE {}",
            qualified(self.relation),
            source(&key),
            self.key_matches(&key),
        );
        (sql, calls(&key, rows.len()))
    }

    /// A SELECT of no columns that locks the rows.
    pub fn lock(&self, rows: &[&'a RowChange], strength: &str) -> Prepared {
        let key = self.key_inputs(rows);
        let sql = format!(
            "SELECT FROM {} AS t, {} WHERE {} FOR {strength} OF t",
            qualified(self.relation),
            source(&key),
            self.key_matches(&key),
        );
        (sql, calls(&key, rows.len()))
    }

    fn key_matches(&self, key: &[Input<'_>]) -> String {
        let equal = key
            .iter()
            .map(|input| format!("t.{} = u.{}", input.column, input.name));
        equal.collect::<Vec<_>>().join(" AND ")
    }

    fn key_inputs(&self, rows: &[&'a RowChange]) -> Vec<Input<'a>> {
        let split = |row| {
            let values = self.written.key_values(self.relation, row);
            values.expect("`fit` has seen the key")
        };
        let keys: Vec<Vec<&[u8]>> = rows.iter().map(|row| split(row)).collect();
        let columns = key_columns(self.relation).enumerate();
        columns
            .map(|(index, column)| {
                let values = keys.iter().map(|key| Some(key[index]));
                self.input(column, format!("k{index}"), values.collect())
            })
            .collect()
    }

    fn image_inputs(&self, positions: &[u16], rows: &[&'a RowChange]) -> Vec<Input<'a>> {
        let value = |row: &&'a RowChange, position: usize| {
            let image = row.change.image().expect("only deletes have no image");
            match image.get(position) {
                Datum::Value(bytes) => Some(bytes),
                Datum::Null | Datum::Missing => None,
            }
        };
        self.inputs(positions, rows, value)
    }

    fn increment_inputs(&self, positions: &[u16], rows: &[&'a RowChange]) -> Vec<Input<'a>> {
        let amount = |row: &&'a RowChange, position: usize| match &row.change {
            Change::Update { add, .. } => {
                let mut add = add.iter();
                let found = add.find(|increment| usize::from(increment.position) == position);
                found.map(|increment| &increment.amount[..])
            }
            _ => None,
        };
        self.inputs(positions, rows, amount)
    }

    fn inputs(
        &self,
        positions: &[u16],
        rows: &[&'a RowChange],
        value: impl Fn(&&'a RowChange, usize) -> Option<&'a [u8]>,
    ) -> Vec<Input<'a>> {
        positions
            .iter()
            .map(|position| {
                let values = rows.iter().map(|row| value(row, usize::from(*position)));
                // Named by the column's number: the same for every mask.
                self.input(
                    self.column(*position),
                    format!("c{position}"),
                    values.collect(),
                )
            })
            .collect()
    }

    fn input(&self, column: &Column, alias: String, values: Vec<Option<&'a [u8]>>) -> Input<'a> {
        let typed = self.written.param(self.relation, column);
        let typed = typed.expect("`fit` has seen the type");
        Input {
            name: alias,
            column: quoted(&column.name),
            type_oid: typed.oid,
            type_name: typed.name,
            unnests: typed.unnests,
            values,
        }
    }

    fn names(&self, positions: &[u16]) -> String {
        let names = positions
            .iter()
            .map(|position| quoted(&self.column(*position).name));
        names.collect::<Vec<_>>().join(", ")
    }

    fn column(&self, position: u16) -> &'a Column {
        let column = self.relation.column(usize::from(position));
        column.expect("`fit` has seen the column")
    }

    fn in_key(&self, position: usize) -> bool {
        self.relation.primary_key.contains(&position)
    }
}

/// `unnest` of arrays, or one row of values.
fn source(inputs: &[Input<'_>]) -> String {
    let suffix = if set_based(inputs) { "[]" } else { "" };
    let mut number = 0;
    let params = list(inputs, |input| {
        number += 1;
        format!("${number}::{}{suffix}", input.type_name)
    });
    let names = list(inputs, |input| input.name.clone());
    match set_based(inputs) {
        true => format!("unnest({params}) AS u({names})"),
        false => format!("(VALUES ({params})) AS u({names})"),
    }
}

fn calls(inputs: &[Input<'_>], rows: usize) -> Vec<Vec<RawParam>> {
    if set_based(inputs) {
        let arrays = inputs
            .iter()
            .map(|input| RawParam(Some(array(input.type_oid, input.values.iter().copied()))));
        return vec![arrays.collect()];
    }
    let row = |index: usize| {
        let values = inputs.iter().map(|input| input.values[index]);
        values
            .map(|value| RawParam(value.map(<[u8]>::to_vec)))
            .collect()
    };
    (0..rows).map(row).collect()
}

fn set_based(inputs: &[Input<'_>]) -> bool {
    inputs.iter().all(|input| input.unnests)
}

fn list(inputs: &[Input<'_>], item: impl FnMut(&Input<'_>) -> String) -> String {
    inputs.iter().map(item).collect::<Vec<_>>().join(", ")
}
