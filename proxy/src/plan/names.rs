//! From names in a statement to objects of the catalog, by search_path. Never decides what a statement may do to them.

use super::facts::SessionFacts;
use super::parse::{pb, strings};
use ripen_cachestore::catalog::{Catalog, Function, NamespaceOid, Relation};
use std::sync::Arc;

/// What a relation's name means.
#[derive(Clone, Debug)]
pub enum Named {
    /// A relation of the catalog.
    Known {
        /// The relation.
        relation: Arc<Relation>,
        /// False when a temporary relation may be meant instead.
        sure: bool,
    },
    /// A relation of `pg_catalog` or `information_schema`.
    System,
    /// A temporary relation of the session.
    Temporary,
    /// Another database, or a schema that does not exist: Postgres will refuse it.
    Nowhere,
    /// Not in our catalog; Postgres may know it all the same (made in this transaction, or just now).
    Unknown,
}

/// Catalog and session facts together.
#[derive(Clone, Copy)]
pub struct Names<'a> {
    /// The schema.
    pub catalog: &'a Catalog,
    /// The session.
    pub facts: &'a SessionFacts,
}

impl<'a> Names<'a> {
    /// What a RangeVar that is no CTE means.
    pub fn relation(&self, var: &pb::RangeVar) -> Named {
        if !var.catalogname.is_empty() && var.catalogname != self.catalog.database {
            return Named::Nowhere;
        }
        match var.schemaname.as_str() {
            "" if var.relpersistence == "t" => Named::Temporary,
            "" => self.unqualified(&var.relname),
            "pg_temp" => Named::Temporary,
            schema if schema.starts_with("pg_temp_") => Named::Temporary,
            schema => self.qualified(schema, &var.relname),
        }
    }

    /// What `["schema", "table"]` or `["table"]` means.
    pub fn relation_of(&self, parts: &[&str]) -> Named {
        let var = |schema: &str, name: &str| pb::RangeVar {
            schemaname: schema.to_owned(),
            relname: name.to_owned(),
            relpersistence: "p".to_owned(),
            ..Default::default()
        };
        match parts {
            [name] => self.relation(&var("", name)),
            [schema, name] => self.relation(&var(schema, name)),
            [database, schema, name] if *database == self.catalog.database => {
                self.relation(&var(schema, name))
            }
            _ => Named::Nowhere,
        }
    }

    fn qualified(&self, schema: &str, name: &str) -> Named {
        if let Some(relation) = self.in_schema(schema, name) {
            return known(relation, true);
        }
        match schema {
            "pg_catalog" | "information_schema" | "pg_toast" => Named::System,
            _ => Named::Unknown,
        }
    }

    fn unqualified(&self, name: &str) -> Named {
        let mut sure = !self.facts.temp_possible;
        for schema in self.path() {
            // Made just now: what is in it, the catalog does not know yet.
            sure &= schema == "pg_catalog" || self.catalog.namespaces.contains_key(schema);
            if let Some(relation) = self.in_schema(schema, name) {
                return known(relation, sure);
            }
            // The catalog need not list system relations; their names are reserved by custom, and pg_catalog comes first.
            if schema == "pg_catalog" && name.starts_with("pg_") {
                return Named::System;
            }
        }
        if self.facts.temp_possible && !self.facts.temp_opaque {
            Named::Temporary
        } else {
            Named::Unknown
        }
    }

    fn in_schema(&self, schema: &str, name: &str) -> Option<&'a Arc<Relation>> {
        let namespace = self.catalog.namespaces.get(schema)?.oid;
        let oid = self.catalog.names.get(&(namespace, name.to_owned()))?;
        self.catalog.relations.get(oid)
    }

    /// The schemas in which unqualified names are sought, in order.
    fn path(&self) -> impl Iterator<Item = &'a str> {
        let listed = self.facts.search_path.iter().map(String::as_str);
        let implicit = !self
            .facts
            .search_path
            .iter()
            .any(|schema| schema == "pg_catalog");
        implicit.then_some("pg_catalog").into_iter().chain(listed)
    }

    /// The name and the arguments of a call that is nothing but that, of a function that can only be a built-in one.
    pub fn builtin_call<'c>(&self, call: &'c pb::FuncCall) -> Option<(&'c str, &'c [pb::Node])> {
        let plain = pb::FuncCall {
            funcname: call.funcname.clone(),
            args: call.args.clone(),
            funcformat: call.funcformat,
            location: call.location,
            ..Default::default()
        };
        let parts = strings(&call.funcname);
        let candidates = self.functions(&parts);
        let builtin = !candidates.is_empty() && candidates.iter().all(|known| known.builtin);
        let name = parts.last().copied()?;
        (builtin && *call == plain).then_some((name, &call.args[..]))
    }

    /// All functions that a call of this name may mean. Overloads are resolved by argument types over the whole path, so all of it counts.
    pub fn functions(&self, parts: &[&str]) -> Vec<&'a Function> {
        let (schema, name) = match parts {
            [name] => (None, *name),
            [schema, name] => (Some(*schema), *name),
            [_, schema, name] => (Some(*schema), *name),
            _ => return Vec::new(),
        };
        let schemas: Vec<NamespaceOid> = match schema {
            Some(schema) => self.namespace(schema).into_iter().collect(),
            None => self
                .path()
                .filter_map(|schema| self.namespace(schema))
                .collect(),
        };
        self.catalog
            .functions
            .get(name)
            .into_iter()
            .flatten()
            .filter(|function| schemas.contains(&function.namespace))
            .collect()
    }

    fn namespace(&self, schema: &str) -> Option<NamespaceOid> {
        Some(self.catalog.namespaces.get(schema)?.oid)
    }
}

fn known(relation: &Arc<Relation>, sure: bool) -> Named {
    if let "pg_catalog" | "information_schema" = relation.schema.as_str() {
        return Named::System;
    }
    Named::Known {
        relation: relation.clone(),
        sure,
    }
}
