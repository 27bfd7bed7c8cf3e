//! DataRow messages from rows and output expressions, in the formats that the client asked for. Never leaves half a row behind.

use super::expr::{Env, Expr, Node, REFUSED};
use super::row::Row;
use super::{EvalError, Field, Formats};
use bytes::BytesMut;
use ripen_pg::ids::TypeOid;
use ripen_pg::tuple::Datum;
use ripen_pg::value::{self, Settings};
use ripen_pg::wire::backend::DataRow;

/// An output column.
#[derive(Clone, Debug)]
pub struct Output {
    /// How it is described.
    pub field: Field,
    /// The type under which its binary form is rendered as text.
    pub rendered: TypeOid,
    /// What is put out.
    pub expr: Expr,
}

/// Appends one DataRow whose outputs are all columns of this row.
pub(crate) fn plain_row(
    outputs: &[Output],
    row: Row<'_>,
    formats: Formats<'_>,
    settings: &Settings,
    out: &mut BytesMut,
) -> Result<(), EvalError> {
    let mut data = DataRow::begin(out, outputs.len());
    for (index, output) in outputs.iter().enumerate() {
        let Node::Column(position) = output.expr.node else {
            return Err(REFUSED);
        };
        match row.get(position) {
            Datum::Null => data.put_null(),
            Datum::Missing => {
                return Err(EvalError::PassThrough("a column is not held in memory"));
            }
            Datum::Value(bytes) => {
                put(
                    &mut data,
                    output.rendered,
                    bytes,
                    formats.get(index),
                    settings,
                )?;
            }
        }
    }
    data.finish();
    Ok(())
}

/// Appends one DataRow of any outputs.
pub(crate) fn computed_row(
    outputs: &[Output],
    env: &Env<'_>,
    formats: Formats<'_>,
    out: &mut BytesMut,
) -> Result<(), EvalError> {
    let mut data = DataRow::begin(out, outputs.len());
    for (index, output) in outputs.iter().enumerate() {
        match output.expr.eval(env)? {
            None => data.put_null(),
            Some(scalar) => put(
                &mut data,
                output.rendered,
                &scalar.to_binary(),
                formats.get(index),
                env.settings,
            )?,
        }
    }
    data.finish();
    Ok(())
}

fn put(
    data: &mut DataRow<'_>,
    type_oid: TypeOid,
    binary: &[u8],
    format: i16,
    settings: &Settings,
) -> Result<(), EvalError> {
    match format {
        0 => Ok(data.put_with(|out| value::render_text(type_oid, binary, settings, out))?),
        1 => {
            data.put_value(binary);
            Ok(())
        }
        _ => Err(REFUSED),
    }
}
