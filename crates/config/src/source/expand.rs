//! `${NAME}` and `${NAME:-default}` inside scalars, and `file:` paths made absolute.

use std::path::Path;

use super::Environment;
use crate::{
    diagnostic::{Diagnostic, Diagnostics, Place},
    tree::{Node, Value},
};

/// Makes relative `file:` paths start from a folder. Only secrets are read so: a text that begins
/// with `file:` anywhere else stays as it is written.
pub(super) fn set_file_paths(node: &mut Node, folder: &Path) {
    match &mut node.value {
        Value::Text(text) => {
            let path = text.strip_prefix("file:");
            let path = path.filter(|path| !path.is_empty() && !path.starts_with(['/', ' ']));
            if let Some(path) = path.filter(|path| !path.contains('\n')) {
                node.file = Some(format!("file:{}", folder.join(path).display()).into());
            }
        }
        Value::List(items) => items
            .iter_mut()
            .for_each(|item| set_file_paths(item, folder)),
        Value::Map(entries) => entries
            .iter_mut()
            .for_each(|(_, value)| set_file_paths(value, folder)),
        _ => {}
    }
}

/// Expansion of a scalar's text before its type is decided.
///
/// As in a shell, `:-` also replaces a variable that is empty. `$${` is a literal `${`; any other
/// `$` is left alone, so `^/old/(.*)$` and `/new/$1` need no escaping, and neither does `${1}`, the
/// group of a regular expression.
pub(super) struct Expander<'a> {
    /// The file's whole text.
    pub(super) source: &'a str,
    pub(super) environment: Environment<'a>,
}

impl Expander<'_> {
    /// Returns the expanded text; `None` if nothing changes.
    pub(super) fn expand(
        &mut self,
        text: &str,
        place: Place,
        diagnostics: &mut Diagnostics,
    ) -> Option<String> {
        text.contains("${")
            .then(|| self.variables(text, place, diagnostics))
    }

    fn variables(&self, text: &str, place: Place, diagnostics: &mut Diagnostics) -> String {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        let mut index = 0;
        let mut is_determined = true;
        while let Some(begin) = rest.find("${") {
            let (before, tail) = rest.split_at(begin);
            let inner = &tail[2..];
            if let Some(before) = before.strip_suffix('$') {
                out.push_str(before);
                out.push_str("${");
                rest = inner;
            } else if inner.starts_with(|c: char| c.is_ascii_digit()) {
                out.push_str(before);
                out.push_str("${");
                rest = inner;
            } else {
                out.push_str(before);
                let (reference, after) = match inner.split_once('}') {
                    Some((reference, after)) => (Some(reference), after),
                    None => (None, ""),
                };
                match self.variable(reference) {
                    Ok(value) => out.push_str(&value),
                    Err((message, help)) => {
                        is_determined = false;
                        let len = tail.len() - after.len();
                        let problem = Diagnostic::error(
                            "edgeway::config::environment",
                            self.spot(place, index, len),
                            message,
                        );
                        diagnostics.push_once(problem.help(help), "also used here");
                    }
                }
                rest = after;
            }
            index += 1;
        }
        out.push_str(rest);
        if !is_determined {
            diagnostics.undetermined(place);
        }
        out
    }

    fn variable(&self, reference: Option<&str>) -> Result<String, (String, String)> {
        let literal = "write `$${` for a literal `${`";
        let Some(reference) = reference else {
            return Err((
                "`${` has no `}`".to_owned(),
                format!("write `${{NAME}}`, or {}", &literal["write ".len()..]),
            ));
        };
        let (name, default) = match reference.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (reference, None),
        };
        let is_name = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if !is_name {
            return Err((
                format!("invalid variable name `{name}`"),
                format!("write `${{NAME}}` or `${{NAME:-default}}`; {literal}"),
            ));
        }
        match ((self.environment)(name), default) {
            (Some(value), None) => Ok(value),
            (Some(value), Some(_)) if !value.is_empty() => Ok(value),
            (_, Some(default)) => Ok(default.to_owned()),
            (None, None) => Err((
                format!("the environment variable `{name}` is not set"),
                format!("set it, or write `${{{name}:-default}}`; {literal}"),
            )),
        }
    }

    /// Returns the place of the `index`th `${` in a scalar, or of the scalar if its source form
    /// differs from its value.
    fn spot(&self, place: Place, index: usize, len: usize) -> Place {
        let covered = self
            .source
            .get(place.start as usize..place.end as usize)
            .unwrap_or_default();
        let offset = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        match covered.match_indices("${").nth(index) {
            Some((at, _)) if covered.is_char_boundary((at + len).min(covered.len())) => Place {
                start: place.start + offset(at),
                end: (place.start + offset(at + len)).min(place.end),
                ..place
            },
            _ => place,
        }
    }
}
