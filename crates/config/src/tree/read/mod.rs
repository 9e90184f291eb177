//! A serde Deserializer over nodes that finds every problem, not only the first.
//!
//! serde stops at the first error. So a value that fails is reported, *poisoned*, and the whole is
//! read again without it, until a round finds nothing new. A field that is missing only because it
//! was poisoned is not reported.

mod error;
mod reader;
#[cfg(test)]
mod tests;

use std::{
    cell::{Cell, RefCell},
    collections::HashSet,
};

use serde::de::DeserializeOwned;

use self::{
    error::{ReadError, wrong_type_help},
    reader::Reader,
};
use super::{Key, Node, Value, excerpt};
use crate::diagnostic::{Diagnostic, Diagnostics, closest, other_gateways, suggest};

/// Limit on rounds. Each round finds a problem; no user reads that many.
const MAX_ROUNDS: usize = 100;
/// Limit on problems, for the same reason: a mapping may have as many unknown keys as a file takes.
const MAX_FOUND: usize = 1000;

/// Reads a node as a `T`, reporting every problem in it, not only the first.
///
/// `None` if there was any. Unknown keys of a struct are always refused. An error made with
/// `de::Error::custom` becomes the message at its value's place; the text after `\nhelp: ` becomes
/// the help, and so does advice at its end: `…; write …`.
pub fn read<T: DeserializeOwned>(node: &Node, diagnostics: &mut Diagnostics) -> Option<T> {
    read_value("", None, node, diagnostics)
}

/// Reads the value of a key beside these known ones, or of a route if there are none, as [`read`]
/// does.
pub fn read_value<T: DeserializeOwned>(
    key: &str,
    known: Option<&'static [&'static str]>,
    node: &Node,
    diagnostics: &mut Diagnostics,
) -> Option<T> {
    let round = Rounds::default();
    for _ in 0..MAX_ROUNDS {
        round.is_new.set(false);
        let result = T::deserialize(Reader {
            node,
            rounds: &round,
        });
        let value = match result {
            Ok(value) => Some(value),
            Err(error) => {
                round.settle(node, Some((key, known)), error);
                None
            }
        };
        let has_problems = !round.problems.borrow().list().is_empty();
        if value.is_some() && !has_problems {
            return value;
        }
        if value.is_some() || !round.is_new.get() || round.poisoned(node) {
            break;
        }
    }
    diagnostics.extend(round.problems.into_inner());
    None
}

/// Findings of all rounds so far.
#[derive(Default)]
struct Rounds {
    problems: RefCell<Diagnostics>,
    /// Addresses of the nodes that are skipped from now on. They stay valid because the tree stays
    /// borrowed.
    poison: RefCell<HashSet<usize>>,
    /// Missing keys for which a misspelt one was reported.
    meant: RefCell<HashSet<(usize, &'static str)>>,
    /// True if this round found a problem.
    is_new: Cell<bool>,
}

impl Rounds {
    fn poisoned(&self, node: &Node) -> bool {
        self.poison.borrow().contains(&address(node))
    }

    fn poison(&self, node: &Node) {
        if self.poison.borrow_mut().insert(address(node)) {
            self.is_new.set(true);
        }
    }

    fn report(&self, diagnostic: Diagnostic) {
        self.problems.borrow_mut().push(diagnostic);
    }

    /// Reports the error of a node unless it was reported, and poisons the node. `key`: the node is
    /// its value, beside keys that are known.
    fn settle(
        &self,
        node: &Node,
        key: Option<(&str, Option<&'static [&'static str]>)>,
        error: ReadError,
    ) -> ReadError {
        let has_poisoned_child = match &node.value {
            Value::List(items) => items.iter().any(|item| self.poisoned(item)),
            Value::Map(entries) => entries.iter().any(|(_, item)| self.poisoned(item)),
            _ => false,
        };
        match error {
            ReadError::Reported => return ReadError::Reported,
            ReadError::Missing(field) => {
                let is_reported = node.get(field).is_some()
                    || self.meant.borrow().contains(&(address(node), field));
                if !is_reported {
                    let message = match &node.value {
                        Value::Map(entries) if entries.is_empty() => {
                            format!("`{field}` is missing in this empty mapping")
                        }
                        _ => format!("`{field}` is missing here"),
                    };
                    self.report(
                        Diagnostic::error("edgeway::config::missing_key", node.place, message)
                            .help(format!("add `{field}: …`")),
                    );
                }
            }
            // The value may fail only because a part of it was left out.
            _ if has_poisoned_child => {}
            ReadError::WrongType { expected } => {
                let help = wrong_type_help(node, &expected).or_else(|| {
                    let (key, known) = key.filter(|(key, _)| !key.is_empty())?;
                    let has = known.map(|known| move |name: &str| known.contains(&name));
                    let has = has.as_ref().map(|has| has as &dyn Fn(&str) -> bool);
                    other_gateways::form(key, &node.value, has)
                });
                self.report(
                    Diagnostic::error(
                        "edgeway::config::wrong_type",
                        node.place,
                        format!("expected {expected}, found {}", node.kind()),
                    )
                    .maybe_help(help),
                );
            }
            ReadError::UnknownWord { word, known } => self.report(
                Diagnostic::error(
                    "edgeway::config::unknown_value",
                    node.place,
                    format!("unknown value `{}`", excerpt(&word)),
                )
                .help(allowed(&word, known)),
            ),
            ReadError::UnknownKey { key, known } => {
                let help =
                    other_gateways::translate(&key, &Value::Null, |name| known.contains(&name))
                        .map_or_else(
                            || suggest(&key, known.iter().copied(), "the keys here are"),
                            |translated| translated.help,
                        );
                self.report(
                    Diagnostic::error(
                        "edgeway::config::unknown_key",
                        node.place,
                        format!("unknown key `{}`", excerpt(&key)),
                    )
                    .help(help),
                );
            }
            ReadError::Message(text) => {
                let (message, help) = message_and_help(text);
                self.report(
                    Diagnostic::error("edgeway::config::bad_value", node.place, message)
                        .maybe_help(help),
                );
            }
        }
        self.poison(node);
        ReadError::Reported
    }

    /// Reports an unknown key of a mapping, and skips its entry from now on.
    fn unknown_key(&self, map: &Node, key: &Key, value: &Node, known: &'static [&'static str]) {
        self.poison(value);
        if self.problems.borrow().list().len() >= MAX_FOUND {
            return;
        }
        let has = |key: &str| {
            let mut first = map.entries().iter().take(MAX_FOUND);
            first.any(|(own, _)| own.name == key)
        };
        let absent = || known.iter().copied().filter(|key| !has(key));
        let translated =
            other_gateways::translate(&key.name, &value.value, |name| known.contains(&name));
        let meant = match &translated {
            Some(translated) => translated.key,
            None => closest(&key.name, absent()),
        };
        if let Some(meant) = meant {
            self.meant.borrow_mut().insert((address(map), meant));
        }
        let help = translated.map_or_else(
            || suggest(&key.name, absent(), "the keys left to use here are"),
            |translated| translated.help,
        );
        self.report(
            Diagnostic::error(
                "edgeway::config::unknown_key",
                key.place,
                format!("unknown key `{}`", excerpt(&key.name)),
            )
            .help(help),
        );
    }
}

/// Frameworks whose apps are of Node, though their names look like that of Next.js.
const OF_NODE: [&str; 4] = ["nest", "nestjs", "nuxt", "nuxtjs"];

/// Lists all allowed words, the most likely one first.
fn allowed(word: &str, known: &[&str]) -> String {
    let words: Vec<_> = known.iter().map(|word| format!("`{word}`")).collect();
    let words = words.join(", ");
    let node = OF_NODE.contains(&word).then_some("node");
    let node = node.filter(|node| known.contains(node));
    match node.or_else(|| closest(word, known.iter().copied())) {
        Some(meant) => format!("did you mean `{meant}`? Allowed are {words}"),
        None => format!("allowed are {words}"),
    }
}

/// Separates the problem from the advice.
fn message_and_help(text: String) -> (String, Option<String>) {
    if let Some((message, help)) = text.split_once("\nhelp: ") {
        return (message.to_owned(), Some(help.to_owned()));
    }
    for (mark, advice) in [
        ("; write ", "write "),
        ("; use ", "use "),
        (": write ", "write "),
    ] {
        if let Some((message, help)) = text.split_once(mark) {
            return (message.to_owned(), Some(format!("{advice}{help}")));
        }
    }
    (text, None)
}

fn address(node: &Node) -> usize {
    std::ptr::from_ref(node).addr()
}
