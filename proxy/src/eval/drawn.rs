//! Values that were drawn for one execution, set behind the client's parameters. Never draws.

use super::{Formats, Params};
use crate::plan::Draw;
use ripen_pg::ids::TableOid;
use smallvec::SmallVec;

/// What was drawn.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Drawn {
    /// In binary form, in the order of the plan's draws.
    pub values: Vec<Vec<u8>>,
    /// Which of them are of which sequence, in the order in which Postgres would have drawn them.
    pub given: Vec<(TableOid, i64)>,
}

impl Drawn {
    /// Values that could have been drawn: all different, as those are.
    pub fn likely(draws: &[Draw]) -> Drawn {
        let value = |(index, draw): (usize, &Draw)| match draw {
            Draw::Sequence(_) => (index as i64 + 1).to_be_bytes().to_vec(),
            Draw::Uuid | Draw::Place => (index as u128 + 1).to_be_bytes().to_vec(),
        };
        Drawn {
            values: draws.iter().enumerate().map(value).collect(),
            given: Vec::new(),
        }
    }

    /// The parameters of an execution with them.
    pub fn behind<'a>(&'a self, params: &Params<'a>) -> All<'a> {
        let sent = params.values.len();
        let formats = (0..sent).map(|index| params.formats.get(index));
        let drawn = self.values.iter().map(|value| Some(&value[..]));
        All {
            formats: formats.chain(self.values.iter().map(|_| 1)).collect(),
            values: params.values.iter().copied().chain(drawn).collect(),
        }
    }
}

/// A client's parameters and what was drawn.
pub struct All<'a> {
    formats: SmallVec<[i16; 8]>,
    values: SmallVec<[Option<&'a [u8]>; 8]>,
}

impl All<'_> {
    /// As one list.
    pub fn params(&self) -> Params<'_> {
        Params {
            formats: Formats(&self.formats),
            values: &self.values,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_drawn_stands_behind_the_parameters_in_binary_form() {
        let drawn = Drawn {
            values: vec![vec![1], vec![2]],
            given: Vec::new(),
        };
        let params = Params {
            formats: Formats(&[]),
            values: &[Some(b"a"), None],
        };
        let all = drawn.behind(&params);
        let all = all.params();
        assert_eq!(all.formats.0, [0, 0, 1, 1]);
        assert_eq!(all.values, [Some(&b"a"[..]), None, Some(&[1]), Some(&[2])]);
        let one = Drawn {
            values: vec![vec![1]],
            given: Vec::new(),
        };
        let nothing_sent = Params::default();
        assert_eq!(one.behind(&nothing_sent).params().formats.0, [1]);
    }
}
