//! YAML nodes with their places: parsed from text by [`parse()`], converted to types by [`read()`].

mod entries;
mod parse;
mod read;
mod scalar;
pub mod short;
mod spanned;
mod syntax;
#[cfg(test)]
mod tests;

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use derive_more::{AsRef, Deref};
use schemars::JsonSchema;
use serde::Serialize;

use crate::diagnostic::Place;

pub(crate) use self::parse::parse_with;
pub use self::{
    entries::Entries,
    parse::parse,
    read::{read, read_value},
    spanned::{OneOrMany, or_none},
};

/// A YAML value and its place.
#[derive(Clone, Debug, PartialEq, JsonSchema)]
#[schemars(with = "serde_json::Value", rename = "Any", description = "", inline)]
pub struct Node {
    pub place: Place,
    pub value: Value,
    /// True for a text in quotes that is nothing but a variable of the environment: where a number
    /// or a flag is expected, it is one. Quotes are needed there inside `{ }` and `[ ]`.
    pub is_variable: bool,
    /// A relative `file:PATH` with an absolute path: what it means where a secret is expected.
    pub file: Option<Box<str>>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Null,
    Bool(bool),
    Integer(i64),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    /// Entries in the order of the file.
    Map(Vec<(Key, Node)>),
}

/// A key of a mapping and its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    pub name: String,
    pub place: Place,
}

/// A value and its place. Deserializes from any node.
#[derive(AsRef, Clone, Debug, Deref, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Spanned<T> {
    #[as_ref(forward)]
    #[deref]
    pub value: T,
    #[serde(skip)]
    pub place: Place,
}

impl Node {
    pub fn new(place: Place, value: Value) -> Self {
        Self {
            place,
            value,
            is_variable: false,
            file: None,
        }
    }

    pub fn get(&self, key: &str) -> Option<&Self> {
        self.entry(key).map(|(_, node)| node)
    }

    pub fn get_mut(&mut self, key: &str) -> Option<&mut Self> {
        let Value::Map(entries) = &mut self.value else {
            return None;
        };
        let mut entries = entries.iter_mut();
        entries.find(|(k, _)| k.name == key).map(|(_, node)| node)
    }

    /// Returns a key as written, and its value.
    pub fn entry(&self, key: &str) -> Option<&(Key, Self)> {
        self.entries().iter().find(|(k, _)| k.name == key)
    }

    /// Returns the entries of a mapping; empty for any other value.
    pub fn entries(&self) -> &[(Key, Self)] {
        match &self.value {
            Value::Map(entries) => entries,
            _ => &[],
        }
    }

    /// Returns the items of the list of this key; empty if there is no list.
    pub fn items(&self, key: &str) -> &[Self] {
        match self.get(key).map(|node| &node.value) {
            Some(Value::List(items)) => items,
            _ => &[],
        }
    }

    /// Returns the items of the list of this key, to be changed.
    pub(crate) fn items_mut(&mut self, key: &str) -> &mut [Self] {
        match self.get_mut(key).map(|node| &mut node.value) {
            Some(Value::List(items)) => items,
            _ => &mut [],
        }
    }

    /// Returns a text; `None` for any other value.
    pub fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Describes the value for messages: "a list", "the number 80".
    pub fn kind(&self) -> String {
        match &self.value {
            Value::Null => "nothing".into(),
            Value::Bool(flag) => format!("`{flag}`"),
            Value::Integer(number) => format!("the number {number}"),
            Value::Float(number) => format!("the number {number}"),
            Value::Text(text) => format!("the text `{}`", excerpt(text)),
            Value::List(_) => "a list".into(),
            Value::Map(_) => "a mapping".into(),
        }
    }

    /// Returns true if both values are equal, regardless of their places and the order of keys.
    pub fn has_same_value(&self, other: &Self) -> bool {
        match (&self.value, &other.value) {
            (Value::Null, Value::Null) => true,
            (Value::Bool(one), Value::Bool(two)) => one == two,
            (Value::Integer(one), Value::Integer(two)) => one == two,
            (Value::Float(one), Value::Float(two)) => one.total_cmp(two).is_eq(),
            (Value::Text(one), Value::Text(two)) => one == two,
            (Value::List(one), Value::List(two)) => {
                one.len() == two.len() && one.iter().zip(two).all(|(a, b)| a.has_same_value(b))
            }
            (Value::Map(one), Value::Map(two)) => {
                // Regular expressions are tried in their order.
                let regexes = |map: &[(Key, Self)]| -> Vec<String> {
                    let keys = map.iter().map(|(key, _)| &key.name);
                    keys.filter(|name| name.starts_with('~')).cloned().collect()
                };
                one.len() == two.len()
                    && regexes(one) == regexes(two)
                    && one.iter().enumerate().all(|(at, (key, node))| {
                        // Usually the order is the same.
                        let same = two.get(at).filter(|(k, _)| k.name == key.name);
                        let same = same.or_else(|| other.entry(&key.name));
                        same.is_some_and(|(_, there)| node.has_same_value(there))
                    })
            }
            _ => false,
        }
    }

    /// Returns a digest that is the same for equal values, in the sense of [`Self::has_same_value`].
    pub fn value_digest(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        std::mem::discriminant(&self.value).hash(&mut hasher);
        match &self.value {
            Value::Null => {}
            Value::Bool(flag) => flag.hash(&mut hasher),
            Value::Integer(number) => number.hash(&mut hasher),
            Value::Float(number) => number.to_bits().hash(&mut hasher),
            Value::Text(text) => text.hash(&mut hasher),
            Value::List(items) => {
                for item in items {
                    item.value_digest().hash(&mut hasher);
                }
            }
            Value::Map(entries) => {
                // A sum does not depend on the order.
                let sum = entries.iter().fold(0_u64, |sum, (key, node)| {
                    let mut entry = DefaultHasher::new();
                    (&key.name, node.value_digest()).hash(&mut entry);
                    sum.wrapping_add(entry.finish())
                });
                sum.hash(&mut hasher);
            }
        }
        hasher.finish()
    }

    /// Returns the value that the text of a variable has without quotes.
    fn of_variable(&self) -> Option<Value> {
        match &self.value {
            Value::Text(text) if self.is_variable => Some(scalar::plain(text)),
            _ => None,
        }
    }

    /// Returns the number of nested levels of lists and mappings.
    fn height(&self) -> usize {
        match &self.value {
            Value::List(items) => 1 + items.iter().map(Self::height).max().unwrap_or(0),
            Value::Map(entries) => 1 + entries.iter().map(|(_, n)| n.height()).max().unwrap_or(0),
            _ => 0,
        }
    }

    fn size(&self) -> usize {
        match &self.value {
            Value::List(items) => 1 + items.iter().map(Self::size).sum::<usize>(),
            Value::Map(entries) => 1 + entries.iter().map(|(_, n)| n.size()).sum::<usize>(),
            _ => 1,
        }
    }
}

/// Returns the beginning of a text, for messages.
pub(super) fn excerpt(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    if line.chars().count() > 60 || line.len() < text.trim_end().len() {
        line.chars().take(60).chain(['…']).collect()
    } else {
        line.to_owned()
    }
}
