//! Several conditions of one place: the table of which of them hold, as routes.
//!
//! nginx takes the conditions in the order of the file. Routes have no such order: the one with
//! the most predicates takes a request. So there is a route for each set of conditions that can
//! hold together; the largest set that holds is exactly the one that does.

use serde_json::{Map, Value, json};

use super::{
    conditions::{Condition, Subject},
    locations::closed,
};

/// Most conditions of one place: their routes double with each.
const MOST: usize = 6;

/// Methods that a route can name.
const METHODS: [&str; 9] = [
    "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT",
];

/// A route: predicates, and its action if that is not the location's own.
pub(super) type Case = (Map<String, Value>, Option<Map<String, Value>>);

/// Returns the routes of a place with these conditions.
///
/// # Errors
/// Returns the reason why no routes stand for them.
pub(super) fn cases(guards: &[Condition]) -> Result<Vec<Case>, &'static str> {
    let guards: Vec<(&Map<String, Value>, &Condition)> = guards
        .iter()
        .filter_map(|guard| match &guard.subject {
            Subject::Predicates(predicates) => Some((predicates, guard)),
            Subject::Host(_) | Subject::WithoutTls => None,
        })
        .collect();
    if guards.len() > MOST {
        return Err("a place has more than 6 conditions");
    }
    let others: usize = bits(&guards, |guard| guard.get("method").is_none());
    // Larger sets first: equal predicates of a smaller one mean that it does not hold alone.
    let mut sets: Vec<usize> = (0..1 << guards.len())
        .filter(|set| set & !others == 0)
        .collect();
    sets.sort_by_key(|set: &usize| std::cmp::Reverse(set.count_ones()));
    let mut cases: Vec<Case> = Vec::new();
    for (methods, of_method) in methods(&guards) {
        let first = cases.len();
        for set in &sets {
            let mut held = (0..guards.len()).filter(|index| set & (1 << index) != 0);
            let together = held.try_fold(Some(Map::new()), |all, index| match all {
                Some(all) => both(all, guards[index].0),
                None => Ok(None),
            });
            let Some(mut all) = together? else { continue };
            if !methods.is_empty() {
                all.insert("method".to_owned(), json!(methods));
            }
            if cases[first..].iter().any(|(known, _)| *known == all) {
                continue;
            }
            let holds = |index: usize| (set | of_method) & (1 << index) != 0;
            let mut acting = guards.iter().enumerate();
            let acting = acting.find(|(index, (_, guard))| holds(*index) != guard.is_negated);
            cases.push((all, acting.map(|(_, (_, guard))| guard.action.clone())));
        }
    }
    Ok(cases)
}

/// Returns one bit for each condition.
fn bits(
    guards: &[(&Map<String, Value>, &Condition)],
    is_set: impl Fn(&Map<String, Value>) -> bool,
) -> usize {
    let guards = guards.iter().enumerate();
    let set = guards.filter(|(_, (predicates, _))| is_set(predicates));
    set.map(|(index, _)| 1 << index).sum()
}

/// Returns the groups of methods for which the same conditions hold, and which those are; the one
/// without methods stands for all others.
fn methods(guards: &[(&Map<String, Value>, &Condition)]) -> Vec<(Vec<&'static str>, usize)> {
    let held = |method: &str| {
        bits(guards, |predicates| {
            let list = predicates.get("method").and_then(Value::as_array);
            list.is_some_and(|list| list.iter().any(|one| one == method))
        })
    };
    let mut groups: Vec<(Vec<&str>, usize)> = Vec::new();
    let is_split = held("GET") != held("HEAD");
    for method in METHODS {
        let set = held(method);
        // A route for GET takes HEAD, unless another has HEAD alone.
        let is_alone = method == "HEAD" && is_split;
        let known = groups
            .iter_mut()
            .find(|(list, known)| *known == set && list != &["HEAD"]);
        match known {
            Some((list, _)) if !is_alone => list.push(method),
            _ if set == 0 && !is_alone => {}
            _ => groups.push((vec![method], set)),
        }
    }
    // Routes of one regular expression are compared in the order of the file.
    groups.sort_by_key(|(list, _)| list != &["HEAD"]);
    groups.push((Vec::new(), 0));
    groups
}

/// Returns the routes of a place that is closed.
pub(super) fn shut() -> Vec<Case> {
    vec![(Map::new(), Some(closed()))]
}

/// Returns the predicates of what both hold for; `None` if they never do.
fn both(
    mut one: Map<String, Value>,
    other: &Map<String, Value>,
) -> Result<Option<Map<String, Value>>, &'static str> {
    for (kind, wanted) in other {
        let Some(known) = one.get_mut(kind) else {
            one.insert(kind.clone(), wanted.clone());
            continue;
        };
        let names = wanted.as_object().into_iter().flatten();
        for (name, value) in names {
            let value = match known.get(name) {
                Some(known) => match narrower(text(known), text(value))? {
                    Some(value) => json!(value),
                    None => return Ok(None),
                },
                None => value.clone(),
            };
            known[name] = value;
        }
    }
    Ok(Some(one))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Returns the condition on a value that fulfils two; `None` if no value does.
fn narrower<'v>(one: &'v str, other: &'v str) -> Result<Option<&'v str>, &'static str> {
    match (one, other) {
        _ if one == other => Ok(Some(one)),
        ("*", rest) | (rest, "*") => Ok(Some(rest)),
        _ => match (one.strip_prefix('~'), other.strip_prefix('~')) {
            (Some(_), Some(_)) => Err("two expressions compare the same value"),
            (None, None) => Ok(None),
            (Some(regex), None) => matches(regex, other),
            (None, Some(regex)) => matches(regex, one),
        },
    }
}

fn matches<'v>(regex: &str, value: &'v str) -> Result<Option<&'v str>, &'static str> {
    let Ok(regex) = regex::Regex::new(regex) else {
        return Err("an expression has no counterpart");
    };
    Ok(regex.is_match(value).then_some(value))
}
