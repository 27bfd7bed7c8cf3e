//! Names of columns where several relations are joined. Never chooses between two of one name: Postgres refuses that.

use super::{Compiler, Spoken, pb, strings};
use crate::eval::row::STRIDE;
use ripen_cachestore::catalog::{Column, Relation};
use std::collections::BTreeSet;

impl<'a> Compiler<'a> {
    /// All relations, by their places.
    pub fn relations(&self) -> impl Iterator<Item = &'a Relation> {
        let joined = self.joined.iter().map(|spoken| spoken.relation);
        self.relation.into_iter().chain(joined)
    }

    fn named(&self) -> impl Iterator<Item = (usize, &'a Relation, &str)> {
        let first = self.relation.map(|relation| (relation, &*self.qualifier));
        let joined = self.joined.iter();
        let joined = joined.map(
            |Spoken {
                 relation,
                 qualifier,
             }| (*relation, &**qualifier),
        );
        let all = first.into_iter().chain(joined).enumerate();
        all.map(|(place, (relation, qualifier))| (place, relation, qualifier))
    }

    /// The column that a reference means, and the place of its relation.
    pub(super) fn joined_column(&self, reference: &pb::ColumnRef) -> Option<(usize, &'a Column)> {
        let all = self.named();
        let all = all.map(|(place, relation, qualifier)| (place, (relation, qualifier)));
        column_among(all, reference)
    }

    /// What `*`, or `t.*`, stands for: the relations in the order of FROM, with their places.
    pub fn starred(&self, qualifier: Option<&str>) -> Vec<(usize, &'a Relation)> {
        let mut meant: Vec<(usize, &'a Relation)> = self
            .named()
            .filter(|(_, _, known)| qualifier.is_none_or(|wanted| wanted == *known))
            .map(|(place, relation, _)| (place, relation))
            .collect();
        meant.sort_by_key(|(place, _)| self.from.iter().position(|from| from == place));
        meant
    }

    /// The relation that has a position, and its own position there.
    pub fn origin(&self, position: usize) -> Option<(&'a Relation, usize)> {
        let relation = self.relations().nth(position / STRIDE)?;
        Some((relation, position % STRIDE))
    }

    /// The positions read of each relation.
    pub fn used_of(&self, place: usize) -> BTreeSet<usize> {
        let used = self.used.borrow();
        let range = place * STRIDE..(place + 1) * STRIDE;
        used.range(range)
            .map(|position| position % STRIDE)
            .collect()
    }
}

/// The one column that a reference means among relations, and the place of its relation.
pub fn column_among<'r, 'n>(
    relations: impl Iterator<Item = (usize, (&'r Relation, &'n str))>,
    reference: &pb::ColumnRef,
) -> Option<(usize, &'r Column)> {
    let parts = strings(&reference.fields);
    let (wanted, name) = match parts[..] {
        [name] => (None, name),
        [qualifier, name] => (Some(qualifier), name),
        _ => return None,
    };
    if parts.len() != reference.fields.len() {
        return None;
    }
    let named = relations
        .filter(|(_, (_, qualifier))| wanted.is_none_or(|wanted| wanted == *qualifier))
        .filter_map(|(place, (relation, _))| Some((place, relation.column_named(name)?)));
    let mut named = named;
    let only = named.next()?;
    named.next().is_none().then_some(only)
}
