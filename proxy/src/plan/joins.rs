//! Which of the tables in FROM is read first, by key or as a set, and how each of the others is then found, by its primary key along columns of those before it. Never joins what a row could be joined
//! to twice, or what Postgres's name resolution might refuse.
//!
//! Every row of the first table is joined to one row of each other at most. So the order in which they are joined does not matter, nor whether an inner join's condition stands in ON or in WHERE.

mod from;

use super::compile::{Compiled, Compiler, Piece, Spoken, refuse};
use super::facts::Mode;
use super::keyed::{self, Conditions, exact};
use super::names::Names;
use super::parse::{NodeEnum, pb};
use super::read::{self, Draft};
use super::reason::Reason;
use crate::eval::expr::{Comparison, Expr, Node};
use crate::eval::keys::{KeyColumn, key_type};
use crate::eval::row::STRIDE;
use from::{Equality, From, Place};
use ripen_cachestore::catalog::Relation;
use ripen_grid::rows::sets::SetColumns;
use ripen_pg::ids::TypeOid;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Tables that one statement may join. More pass through: planning tries each as the first.
const TABLES_MAX: usize = 8;

/// A table whose rows stand beside those of the first.
#[derive(Debug)]
pub struct Join {
    /// Which.
    pub table: Arc<Relation>,
    /// Whether a row that is joined to none is left out (INNER); else NULLs stand there (LEFT).
    pub needed: bool,
    /// What the primary key is equal to, in index order: positions in the joined row so far, and the canonical types.
    pub(crate) key: Vec<(usize, TypeOid)>,
}

impl Join {
    /// By which columns a row is found, as tests show them: place and position of each.
    pub fn by(&self) -> String {
        let place = |(position, _): &(usize, TypeOid)| {
            format!("{}.{}", position / STRIDE, position % STRIDE)
        };
        let places: Vec<String> = self.key.iter().map(place).collect();
        places.join(", ")
    }
}

/// How all tables are found, from one that is read first.
struct Way {
    /// The sources, in the order in which they are joined.
    order: Vec<usize>,
    /// For each but the first, what its primary key is equal to, in index order.
    keys: Vec<Vec<Place>>,
    /// Conditions that say no more than that.
    spent: Vec<usize>,
}

/// How one of them is found.
struct Step {
    key: Vec<Place>,
    spent: Vec<usize>,
}

/// Compiles a SELECT from several tables, or says why not.
pub(super) fn compile(
    names: Names<'_>,
    select: &pb::SelectStmt,
    declared: &[TypeOid],
    mode: &dyn Fn(&Relation) -> Mode,
) -> Compiled<Draft> {
    if !select.locking_clause.is_empty() {
        return refuse("row-locks", "locks rows of joined tables");
    }
    let from = From::of(names, select, mode)?;
    // What is wrong where there is a way says more than that there is none.
    let weight = |reason: &Reason| match reason.code {
        "join" => 0,
        "no-key" => 1,
        _ => 2,
    };
    let mut refused: Option<Reason> = None;
    for by_key in [true, false] {
        for first in 0..from.sources.len() {
            match from.draft(names, select, declared, (first, by_key)) {
                Ok(draft) => return Ok(draft),
                Err(reason) => match &refused {
                    Some(known) if weight(known) >= weight(&reason) => {}
                    _ => refused = Some(reason),
                },
            }
        }
    }
    Err(refused.unwrap_or_else(|| Reason::new("join", "reads more than one table")))
}

impl From<'_> {
    fn draft(
        &self,
        names: Names<'_>,
        select: &pb::SelectStmt,
        declared: &[TypeOid],
        (first, by_key): (usize, bool),
    ) -> Compiled<Draft> {
        let way = self.way(first)?;
        let mut compiler = Compiler::new(names, declared);
        self.speak(&mut compiler, &way);
        let conditions = self.conditions.iter().enumerate();
        let left = conditions.filter(|(at, _)| !way.spent.contains(at));
        let left: Vec<&NodeEnum> = left.map(|(_, condition)| condition.node).collect();
        let derived = self.derived(first);
        let all = left.iter().copied().chain(&derived).collect();
        let table = &self.sources[first].relation;
        let (conditions, set) = match by_key {
            true => (keyed::conditions_of(&compiler, table, all)?, None),
            false => match keyed::gathered_of(&compiler, table, all)? {
                Some((positions, conditions)) => {
                    let types = conditions.columns.iter().map(KeyColumn::key_type);
                    let columns = SetColumns::new(positions.into_iter().zip(types));
                    (conditions, Some(columns))
                }
                None => return refuse("no-key", "names no rows by key or index"),
            },
        };
        let is_derived = |node: &NodeEnum| derived.iter().any(|known| std::ptr::eq(known, node));
        let rest = conditions.rest.into_iter();
        let conditions = Conditions {
            columns: conditions.columns,
            rest: rest.filter(|node| !is_derived(node)).collect(),
        };
        self.visible(&compiler, &way)?;
        let joined = self.joined(&compiler, &way)?;
        let (params, query) = read::query(&compiler, select, conditions, false)?;
        Ok(Draft {
            table: table.clone(),
            params,
            lock: None,
            set,
            joined,
            query,
        })
    }

    /// How the others are found from this one.
    fn way(&self, first: usize) -> Compiled<Way> {
        if self.sources[first].outer {
            return refuse("join", "rows that may be missing are no beginning");
        }
        let mut way = Way {
            order: vec![first],
            keys: Vec::new(),
            spent: Vec::new(),
        };
        while way.order.len() < self.sources.len() {
            let mut left = (0..self.sources.len()).filter(|at| !way.order.contains(at));
            let next = left.find_map(|at| Some((at, self.step(at, &way.order)?)));
            let Some((at, Step { key, spent })) = next else {
                return refuse("join", "a table is not joined by its primary key");
            };
            way.order.push(at);
            way.keys.push(key);
            way.spent.extend(spent);
        }
        Ok(way)
    }

    /// What the whole primary key of a source is equal to in those that are known, and the conditions that say so.
    fn step(&self, at: usize, known: &[usize]) -> Option<Step> {
        let source = &self.sources[at];
        let (mut key, mut spent) = (Vec::new(), Vec::new());
        for position in &source.relation.primary_key {
            let conditions = self.conditions.iter().enumerate();
            // Where nothing need be found, only its own ON says what is looked for.
            let own = conditions.filter(|(_, condition)| match source.outer {
                true => condition.outer == Some(at),
                false => condition.outer.is_none(),
            });
            let found = own.filter_map(|(number, condition)| {
                let equality = condition.equality?;
                let other = equality.other((at, *position))?;
                known.contains(&other.0).then_some((number, other))
            });
            let (number, other) = { found }.next()?;
            key.push(other);
            spent.push(number);
        }
        let mut own = self.conditions.iter().enumerate();
        let all = !source.outer
            || own
                .all(|(number, condition)| condition.outer != Some(at) || spent.contains(&number));
        all.then_some(Step { key, spent })
    }

    /// Points a compiler at all sources.
    fn speak<'s>(&'s self, compiler: &mut Compiler<'s>, way: &Way) {
        let mut spoken = way.order.iter().map(|at| {
            let source = &self.sources[*at];
            Spoken {
                relation: &source.relation,
                qualifier: source.qualifier.to_owned(),
            }
        });
        if let Some(first) = spoken.next() {
            compiler.relation = Some(first.relation);
            compiler.qualifier = first.qualifier;
        }
        compiler.joined = spoken.collect();
        let places = (0..self.sources.len()).filter_map(|at| way.place(at));
        compiler.from = places.collect();
    }

    /// Conditions on columns of others that hold for columns of the first, too, since those are equal.
    fn derived(&self, first: usize) -> Vec<NodeEnum> {
        let inner = || {
            let conditions = self.conditions.iter();
            conditions.filter(|condition| condition.outer.is_none())
        };
        let mut derived = Vec::new();
        for equality in inner().filter_map(|condition| condition.equality) {
            let Some((own, other)) = equality.of(first) else {
                continue;
            };
            if !self.alike(own, other) {
                continue;
            }
            let moved = inner().filter_map(|condition| self.moved(condition.node, other, own));
            derived.extend(moved);
        }
        derived
    }

    /// What each of the others is found by, of types of which equality is sameness of keys.
    fn joined(&self, compiler: &Compiler<'_>, way: &Way) -> Compiled<Vec<Join>> {
        compiler.trusted("=")?;
        let joined = way.order[1..].iter().zip(&way.keys);
        let joined = joined.map(|(at, others)| {
            let source = &self.sources[*at];
            let own = source.relation.primary_key.iter();
            let key = own.zip(others).map(|(position, unresolved)| {
                let own = self.expression(compiler, way, (*at, *position))?;
                let other = self.expression(compiler, way, *unresolved)?;
                compiler.compare(
                    Comparison::Eq,
                    Piece::Typed(own.clone()),
                    Piece::Typed(other.clone()),
                )?;
                if own.repr != other.repr || own.type_oid != other.type_oid {
                    return refuse("join-type", "joins columns of different types");
                }
                if !exact(&own, other.type_oid) {
                    return refuse("join-type", "joins columns of a type that is no key here");
                }
                if self.collated((*at, *position)) && self.collated(*unresolved) {
                    return refuse("collation", "joins columns with collations of their own");
                }
                match other.node {
                    Node::Column(position) => Ok((position, key_type(own.type_oid, &own.repr))),
                    _ => refuse("join", "a column is gone"),
                }
            });
            Ok(Join {
                table: source.relation.clone(),
                needed: !source.outer,
                key: key.collect::<Compiled<_>>()?,
            })
        });
        joined.collect()
    }

    fn expression(
        &self,
        compiler: &Compiler<'_>,
        way: &Way,
        (source, position): Place,
    ) -> Compiled<Expr> {
        let column = self.sources[source].relation.column(position);
        match (way.place(source), column) {
            (Some(place), Some(column)) => compiler.column_of(place, column),
            _ => refuse("join", "a column is gone"),
        }
    }

    /// Whether each ON names tables only that stand before it.
    fn visible(&self, compiler: &Compiler<'_>, way: &Way) -> Compiled<()> {
        for condition in &self.conditions {
            if condition.visible == self.sources.len() {
                continue;
            }
            let expr = compiler.condition(condition.node)?;
            let names_later = expr.any(&|node| match node {
                Node::Column(position) => way.order[position / STRIDE] >= condition.visible,
                _ => false,
            });
            if names_later {
                return refuse("join", "a condition names a table that comes later");
            }
        }
        Ok(())
    }
}

impl Way {
    fn place(&self, source: usize) -> Option<usize> {
        self.order.iter().position(|at| *at == source)
    }
}

impl Equality {
    /// The other side, if this is one.
    fn other(&self, side: Place) -> Option<Place> {
        match (self.left == side, self.right == side) {
            (true, false) => Some(self.right),
            (false, true) => Some(self.left),
            _ => None,
        }
    }

    /// The column of this source, and the other.
    fn of(&self, source: usize) -> Option<(Place, Place)> {
        match (self.left.0 == source, self.right.0 == source) {
            (true, false) => Some((self.left, self.right)),
            (false, true) => Some((self.right, self.left)),
            _ => None,
        }
    }
}

/// Refuses what computes with columns of several tables that each have a collation of their own: they may have none together, and Postgres refuses to compare them then.
pub(super) fn one_collation<'e>(
    compiler: &Compiler<'_>,
    mut expressions: impl Iterator<Item = &'e Expr>,
) -> Compiled<()> {
    let fits = |expr: &Expr| {
        let places = RefCell::new(BTreeSet::new());
        expr.any(&|node| {
            if let Node::Column(position) = node
                && let Some((relation, own)) = compiler.origin(*position)
                && relation.column(own).is_some_and(|column| column.collated)
            {
                places.borrow_mut().insert(position / STRIDE);
            }
            false
        });
        places.into_inner().len() < 2
    };
    match compiler.joined.is_empty() || expressions.all(fits) {
        true => Ok(()),
        false => refuse("collation", "computes with collations of several tables"),
    }
}
