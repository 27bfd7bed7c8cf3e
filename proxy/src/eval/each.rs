//! The rows that an INSERT makes of arrays (`unnest`): each is computed from the client's parameters, the elements of its place, and values of its own that were drawn.

use super::array;
use super::bind::{Bound, ParamType, bind};
use super::expr::{REFUSED, Scalar};
use super::{EvalError, Formats, Params};
use crate::limits::UNNEST_ROWS_MAX;
use ripen_pg::ids::TypeOid;
use ripen_pg::value::Settings;

/// Which arrays there are.
#[derive(Debug)]
pub(crate) struct Each {
    /// The parameters that are arrays, and their types.
    pub arrays: Vec<(usize, TypeOid)>,
    /// How many parameters the client sends. The elements of a row stand behind them, and what is drawn for it behind those.
    pub sent: usize,
}

impl Each {
    /// How many rows there are: as many as the longest array has elements.
    pub fn count(
        &self,
        types: &[Option<ParamType>],
        params: &Params<'_>,
        settings: &Settings,
    ) -> Result<usize, EvalError> {
        let sent = self.client(types, params, settings)?;
        Ok(self.elements(&sent)?.1)
    }

    /// The parameters of each row. `params`: the client's, and behind them what was drawn, row by row.
    pub fn rows<'a>(
        &self,
        types: &[Option<ParamType>],
        params: &Params<'a>,
        settings: &Settings,
    ) -> Result<Vec<Bound<'a>>, EvalError> {
        let sent = self.client(types, params, settings)?;
        let (elements, count) = self.elements(&sent)?;
        let drawn = &types[self.sent + self.arrays.len()..];
        let given = &params.values[self.sent..];
        if given.len() != drawn.len() * count {
            return Err(EvalError::PassThrough("the number of parameters differs"));
        }
        let row = |at: usize| {
            let mut row = sent.clone();
            for (place, elements) in elements.iter().enumerate() {
                row.push(match elements.get(at) {
                    Some(Some(bytes)) => Some(element(types, self.sent + place, bytes)?),
                    // The shorter ones are as if NULLs followed.
                    Some(None) | None => None,
                });
            }
            let own = Params {
                formats: Formats(&[1]),
                values: &given[at * drawn.len()..][..drawn.len()],
            };
            row.extend(bind(drawn, &own, settings)?);
            Ok(row)
        };
        (0..count).map(row).collect()
    }

    fn client<'a>(
        &self,
        types: &[Option<ParamType>],
        params: &Params<'a>,
        settings: &Settings,
    ) -> Result<Bound<'a>, EvalError> {
        bind(&types[..self.sent], params, settings)
    }

    /// The elements of each array, and the number of rows.
    #[allow(clippy::type_complexity, reason = "it has no name elsewhere")]
    fn elements<'b>(
        &self,
        sent: &'b Bound<'_>,
    ) -> Result<(Vec<Vec<Option<&'b [u8]>>>, usize), EvalError> {
        let of = |(index, type_oid): &(usize, TypeOid)| match sent.get(*index).ok_or(REFUSED)? {
            None => Ok(Vec::new()),
            Some(Scalar::Raw(bytes)) => array::elements(*type_oid, bytes).ok_or(REFUSED),
            Some(Scalar::Value(_)) => Err(REFUSED),
        };
        let all: Vec<Vec<Option<&[u8]>>> = self
            .arrays
            .iter()
            .map(of)
            .collect::<Result<_, EvalError>>()?;
        let count = all.iter().map(Vec::len).max().unwrap_or(0);
        match count > UNNEST_ROWS_MAX {
            true => Err(EvalError::PassThrough("too many rows")),
            false => Ok((all, count)),
        }
    }
}

fn element(
    types: &[Option<ParamType>],
    place: usize,
    bytes: &[u8],
) -> Result<Scalar<'static>, EvalError> {
    let kind = types.get(place).and_then(Option::as_ref).ok_or(REFUSED)?;
    Ok(kind.repr.decode(kind.type_oid, bytes)?.into_owned())
}
