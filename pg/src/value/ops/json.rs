//! Operators and functions on `jsonb`, in the form in which Postgres prints it. What Postgres words an error for, or does otherwise in older versions, is refused.

use crate::value::parse::json::{Node, escape, read, unescape};
use crate::value::{Failure, Value};
use std::borrow::Cow;

/// Which member of an object, or element of an array.
#[derive(Clone, Copy, Debug)]
pub enum JsonKey<'a> {
    /// The member of this name.
    Name(&'a str),
    /// The element at this place; from the end, if it is negative.
    Index(i32),
}

type Computed = Result<Value<'static>, Failure>;

/// `left || right`
pub fn json_concat(left: &str, right: &str) -> Computed {
    let all = match (read(left)?, read(right)?) {
        (Node::Object(mut members), Node::Object(others)) => {
            members.extend(others);
            Node::Object(members)
        }
        (Node::Object(_), other) | (other, Node::Object(_)) if !matches!(other, Node::Array(_)) => {
            return Err(Failure::Refused);
        }
        (left, right) => {
            let mut elements = elements(left);
            elements.extend(self::elements(right));
            Node::Array(elements)
        }
    };
    printed(&all)
}

fn elements(node: Node<'_>) -> Vec<Node<'_>> {
    match node {
        Node::Array(elements) => elements,
        other => vec![other],
    }
}

/// `json -> key`; `None`: there is none.
pub fn json_field(json: &str, key: JsonKey<'_>) -> Result<Option<Value<'static>>, Failure> {
    let found = find(read(json)?, key)?;
    found.map(|node| printed(&node)).transpose()
}

/// `json ->> key`; `None`: there is none, or it is null.
pub fn json_text(json: &str, key: JsonKey<'_>) -> Result<Option<Value<'static>>, Failure> {
    Ok(match find(read(json)?, key)? {
        None | Some(Node::Word("null")) => None,
        Some(Node::String(text)) => {
            let text = unescape(text).ok_or(Failure::Refused)?;
            Some(Value::Text(text.into()))
        }
        Some(node) => {
            let mut out = String::new();
            node.print(&mut out)?;
            Some(Value::Text(out.into()))
        }
    })
}

fn find<'a>(node: Node<'a>, key: JsonKey<'_>) -> Result<Option<Node<'a>>, Failure> {
    Ok(match (node, key) {
        (Node::Object(members), JsonKey::Name(name)) => {
            let mut found = None;
            for (key, node) in members {
                if unescape(&key).ok_or(Failure::Refused)? == name {
                    found = Some(node);
                }
            }
            found
        }
        (Node::Object(_), JsonKey::Index(_)) => None,
        // Postgres keeps a value on its own as a list of one.
        (node, JsonKey::Index(index)) => {
            let mut elements = elements(node);
            place(elements.len(), index).map(|at| elements.swap_remove(at))
        }
        _ => None,
    })
}

fn place(count: usize, index: i32) -> Option<usize> {
    let at = match index {
        0.. => i64::from(index),
        _ => count as i64 + i64::from(index),
    };
    usize::try_from(at).ok().filter(|at| *at < count)
}

/// `json - key`
pub fn json_without(json: &str, key: JsonKey<'_>) -> Computed {
    let is = |text: &str, name: &str| unescape(text).map(|text| text == name);
    let node = match (read(json)?, key) {
        (Node::Object(members), JsonKey::Name(name)) => {
            let mut left = Vec::with_capacity(members.len());
            for (key, node) in members {
                if !is(&key, name).ok_or(Failure::Refused)? {
                    left.push((key, node));
                }
            }
            Node::Object(left)
        }
        (Node::Array(elements), JsonKey::Name(name)) => {
            let mut left = Vec::with_capacity(elements.len());
            for node in elements {
                let gone = match &node {
                    Node::String(text) => is(text, name).ok_or(Failure::Refused)?,
                    _ => false,
                };
                if !gone {
                    left.push(node);
                }
            }
            Node::Array(left)
        }
        (Node::Array(mut elements), JsonKey::Index(index)) => {
            if let Some(at) = place(elements.len(), index) {
                elements.remove(at);
            }
            Node::Array(elements)
        }
        _ => return Err(Failure::Refused),
    };
    printed(&node)
}

/// `json ? name`: whether there is a member, a string element, or a string of that name.
pub fn json_has(json: &str, name: &str) -> Computed {
    let is = |text: &str| unescape(text).map(|text| text == name);
    let is = |text: &str| is(text).ok_or(Failure::Refused);
    let mut found = false;
    match read(json)? {
        Node::Object(members) => {
            for (key, _) in members {
                found |= is(&key)?;
            }
        }
        Node::Array(elements) => {
            for node in elements {
                if let Node::String(text) = node {
                    found |= is(text)?;
                }
            }
        }
        Node::String(text) => found = is(text)?,
        Node::Word(_) | Node::Number(_) => {}
    }
    Ok(Value::Bool(found))
}

/// `jsonb_set(json, path, new, create)`, where the path leads through objects only.
pub fn json_set(json: &str, path: &[&str], new: &str, create: bool) -> Computed {
    let node = read(json)?;
    if !matches!(node, Node::Object(_)) {
        return Err(Failure::Refused);
    }
    printed(&set(node, path, new, create)?)
}

fn set<'a>(node: Node<'a>, path: &[&str], new: &'a str, create: bool) -> Result<Node<'a>, Failure> {
    let Some((name, rest)) = path.split_first() else {
        return Ok(node);
    };
    let mut members = match node {
        Node::Object(members) => members,
        Node::Array(_) => return Err(Failure::Refused),
        // The path goes on where nothing is.
        other => return Ok(other),
    };
    let mut at = None;
    for (place, (key, _)) in members.iter().enumerate() {
        if unescape(key).ok_or(Failure::Refused)? == *name {
            at = Some(place);
        }
    }
    match (at, rest.is_empty()) {
        (Some(at), true) => members[at].1 = read(new)?,
        (Some(at), false) => {
            let (key, before) = members.remove(at);
            members.insert(at, (key, set(before, rest, new, create)?));
        }
        (None, true) if create => members.push((Cow::Owned(escape(name)), read(new)?)),
        (None, _) => {}
    }
    Ok(Node::Object(members))
}

fn printed(node: &Node<'_>) -> Computed {
    let mut out = String::new();
    node.print(&mut out)?;
    Ok(Value::Jsonb(out.into()))
}
