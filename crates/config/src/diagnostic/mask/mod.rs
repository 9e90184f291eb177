//! Secrets in the text of a configuration, found by their context, so that no excerpt and no
//! message shows one. The text may be broken, as it is in most excerpts.

use std::{ops::Range, sync::LazyLock};

use aho_corasick::AhoCorasick;
use regex::Regex;

use super::{
    Diagnostic, Place,
    extent::{close, deeper, items, plain_end, same_or_deeper, unquote},
    near_place::is_near_place,
};
use crate::{
    base::secret::{self, REDACTED},
    source::Sources,
};

/// A key with its colon, anywhere in a text.
static KEY: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(
        r#"(?m)(?:^|[\s{\[,#])(?:"([^"\n]+)"|'([^'\n]+)'|([\w.-]+))[ \t]*:(?:[ \t]|\r?$|["'\[{])"#,
    )
    .expect("it is tested")
});

/// Values of secret-sounding keys that are not secret: keys of limits, and places where tokens are
/// read from.
static PLACES: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"^(?:(?:client\.(?:ip|network)|host|route|api_key|user|(?:header|cookie|query):[\w.-]+|jwt\.[\w.:/-]+|\$[a-z_]+)(?:\+|$))+$")
        .expect("it is tested")
});

/// Key names long enough to be recognized despite a typo.
const LONG: &str = "password passphrase secret token credentials authorization";

/// Names that end with a word for secrets but hold none: filters and other keys.
const NO_SECRETS: &str = "api_key per_key basic_auth forward_auth jwt code on_error";

/// Keys below which `key` is what a limit counts by, or the path of a file.
const KEYS_WITHOUT_SECRETS: [&str; 4] = ["rate_limits", "rate_limit", "in_flight", "tls"];

/// Minimum length of a piece to hide in messages; shorter ones are ordinary words.
const MIN_SECRET_LEN: usize = 4;
/// Minimum length of a secret to hide elsewhere; a shorter text may occur for other reasons.
const MIN_MASKED_LEN: usize = 6;
/// The same for values that need not be secrets.
const MIN_MASKED_VALUE_LEN: usize = 12;
/// Length of the excerpts that messages show.
const EXCERPT_LEN: usize = 60;

/// The secrets to hide in the texts of a configuration.
pub(super) struct Mask {
    /// Texts with secrets replaced by stars, with the same length in bytes.
    pub(super) shown: Sources,
    /// Pieces that must not appear in messages.
    pieces: Vec<String>,
}

impl Mask {
    /// Builds the mask. `hidden`: places that compiling found to be secrets.
    pub(super) fn for_sources(sources: &Sources, hidden: &[Place]) -> Self {
        let mut shown = sources.clone();
        let mut pieces = Vec::new();
        for (index, (_, text)) in shown.files.iter_mut().enumerate() {
            let mut secrets = FoundSecret::in_text(text);
            let is_here = |place: &&Place| usize::from(place.file) == index;
            for place in hidden.iter().filter(is_here) {
                let end = (place.end as usize).min(text.len());
                let span = (place.start as usize).min(end)..end;
                secrets.values.push(span.clone());
                secrets.spans.push(span);
            }
            // What is hidden wherever it occurs: in a comment too, or under a misspelt key.
            let mut everywhere = Vec::new();
            for span in &secrets.spans {
                let secret = text.get(span.clone()).unwrap_or_default();
                note(secret, &mut pieces);
                let secret = secret.trim().trim_matches(['"', '\'']);
                everywhere.extend((secret.len() >= MIN_MASKED_LEN).then_some(secret));
            }
            // Most of these are not secrets, and short ones are ordinary words.
            for span in &secrets.opaque {
                let value = text.get(span.clone()).unwrap_or_default();
                if value.len() >= MIN_MASKED_VALUE_LEN {
                    note(value, &mut pieces);
                    everywhere.push(value);
                }
            }
            let again = occurrences(text, &everywhere);
            secrets.spans.append(&mut secrets.opaque);
            secrets.spans.extend(again);
            for (place, value) in &sources.expanded {
                let start = place.start as usize;
                if is_here(&place) && secrets.values.iter().any(|span| span.contains(&start)) {
                    note(value, &mut pieces);
                }
            }
            *text = stars(text, &secrets.spans);
        }
        // Longest first: one piece may be part of another.
        pieces.sort_by_key(|piece: &String| std::cmp::Reverse(piece.len()));
        pieces.dedup();
        Self { shown, pieces }
    }

    pub(super) fn text(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for piece in &self.pieces {
            if !text.contains(piece.as_str()) {
                continue;
            }
            text = if piece.bytes().all(|byte| byte.is_ascii_digit()) {
                without_number(&text, piece)
            } else {
                without_word(&text, piece)
            };
        }
        text
    }

    pub(super) fn diagnostic(&self, problem: &Diagnostic) -> Diagnostic {
        Diagnostic {
            message: self.text(&problem.message),
            help: problem.help.as_deref().map(|help| self.text(help)),
            related: problem
                .related
                .iter()
                .map(|(place, text)| (*place, self.text(text)))
                .collect(),
            ..problem.clone()
        }
    }
}

/// Returns where any of the secrets occurs, found in one pass over the text.
fn occurrences(text: &str, secrets: &[&str]) -> Vec<Range<usize>> {
    let Ok(automaton) = AhoCorasick::new(secrets) else {
        // Too many secrets for an automaton: none of the text is shown.
        return std::iter::once(0..text.len()).collect();
    };
    let occurrences = automaton.find_overlapping_iter(text);
    occurrences.map(|occurrence| occurrence.range()).collect()
}

/// Redacts a text, except within a longer word of the message (`short` in `shorter`).
fn without_word(text: &str, word: &str) -> String {
    let is_letter = |char: Option<char>| char.is_some_and(|char| char.is_ascii_lowercase());
    let is_word = word.chars().all(|char| is_letter(Some(char)));
    let (mut out, mut from) = (String::new(), 0);
    for (at, _) in text.match_indices(word) {
        let (before, rest) = (&text[..at], &text[at + word.len()..]);
        let is_part = is_letter(before.chars().next_back()) || is_letter(rest.chars().next());
        if !is_word || !is_part {
            out.push_str(&text[from..at]);
            out.push_str(REDACTED);
            from = at + word.len();
        }
    }
    out + &text[from..]
}

/// Redacts a number, except for the port of an address that advice has as an example.
fn without_number(text: &str, number: &str) -> String {
    const EXAMPLE: &str = "127.0.0.1:";
    let mut parts = text.split(EXAMPLE);
    let first = parts.next().unwrap_or_default().replace(number, REDACTED);
    parts.fold(first, |text, part| {
        let rest = part.trim_start_matches(|char: char| char.is_ascii_digit());
        let port = &part[..part.len() - rest.len()];
        text + EXAMPLE + port + &rest.replace(number, REDACTED)
    })
}

/// Adds the forms of a secret that messages could contain.
fn note(secret: &str, pieces: &mut Vec<String>) {
    let mut add = |text: &str| {
        let text = text.trim();
        let is_word = matches!(text, "true" | "false" | "null" | REDACTED);
        if text.len() < MIN_SECRET_LEN || is_word {
            return;
        }
        pieces.push(text.to_owned());
        pieces.push(text.escape_debug().to_string());
        if text.chars().count() > EXCERPT_LEN {
            pieces.push(text.chars().take(EXCERPT_LEN).collect());
        }
    };
    add(secret.trim().trim_matches(['"', '\'']));
    // Line by line, and without the trailing comment.
    for part in secret.lines().flat_map(|line| line.split(" #")) {
        let inner = part.trim().trim_matches(['"', '\'']);
        add(inner);
        // As parsed, if that is another text.
        if let Ok(text) = serde_json::from_str::<String>(&format!("\"{inner}\"")) {
            add(&text);
        }
        add(&inner.replace("''", "'"));
        if let Ok(number) = inner.parse::<f64>() {
            add(&number.to_string());
        }
        let hex = inner
            .strip_prefix("0x")
            .map(|digits| i64::from_str_radix(digits, 16));
        let octal = inner
            .strip_prefix("0o")
            .map(|digits| i64::from_str_radix(digits, 8));
        for number in [hex, octal].into_iter().flatten().flatten() {
            add(&number.to_string());
        }
    }
}

/// Replaces these spans with stars, except for line ends.
fn stars(text: &str, spans: &[Range<usize>]) -> String {
    let mut bytes = text.as_bytes().to_vec();
    for span in spans {
        let end = span.end.min(bytes.len());
        for byte in &mut bytes[span.start.min(end)..end] {
            if !matches!(*byte, b'\n' | b'\r') {
                *byte = b'*';
            }
        }
    }
    // Spans end at character boundaries; if one does not, the whole text is hidden.
    String::from_utf8(bytes).unwrap_or_default()
}

#[derive(Default)]
struct FoundSecret {
    /// Spans to hide.
    spans: Vec<Range<usize>>,
    /// Spans to hide because their values may be secrets.
    opaque: Vec<Range<usize>>,
    /// Places of secrets, including those that only name a variable.
    values: Vec<Range<usize>>,
}

impl FoundSecret {
    fn in_text(text: &str) -> Self {
        let mut secret = Self::default();
        for shape in secret::shapes(text) {
            secret.hide(shape);
        }
        let plugins = plugins(text);
        let tracing = tracing(text);
        let no_secrets: Vec<_> = KEYS_WITHOUT_SECRETS
            .iter()
            .flat_map(|name| extents(text, name, |key| deeper_end(text, &key)))
            .collect();
        let mut offset = 0;
        while let Some(key) = KEY.captures_at(text, offset) {
            let matched = key.get(0).expect("it matched").range();
            let name = key.iter().skip(1).flatten().next();
            let Some(name) = name else { break };
            // The last byte may begin the next key, or the value.
            offset = (matched.end - 1).max(matched.start + 1);
            while !text.is_char_boundary(offset) {
                offset += 1;
            }
            let colon = text[name.end()..]
                .find(':')
                .map_or(offset, |c| name.end() + c + 1);
            let is_within = |parts: &[Range<usize>]| {
                let mut parts = parts.iter();
                parts.any(|part| part.contains(&name.start()))
            };
            let is_like = |word| strsim::damerau_levenshtein(name.as_str(), word) <= 1;
            if name.as_str() == "users" || (is_like("headers") && is_within(&tracing)) {
                secret.nested(text, colon, name.start(), true);
            } else if is_like("config") && is_within(&plugins) {
                secret.all(text, colon, name.start());
            } else if name.as_str() == "key" && is_within(&no_secrets) {
                // Whatever is written there: a private key has a shape of its own.
            } else if is_secret(name.as_str()) {
                secret.value(text, colon, name.start(), name.as_str());
            }
        }
        secret
    }

    /// Hides the value that begins after `colon`; its key begins at `key`.
    fn value(&mut self, text: &str, colon: usize, key: usize, name: &str) {
        let start =
            colon + text[colon..].len() - text[colon..].trim_start_matches([' ', '\t']).len();
        match text[start..].bytes().next() {
            None | Some(b'\n' | b'\r' | b'#') => self.nested(text, start, key, false),
            Some(b'|' | b'>') => {
                for line in deeper(text, start, key) {
                    self.hide(line);
                }
            }
            Some(b'{' | b'*') => {}
            Some(b'[') => {
                let end = close(text, start);
                for item in items(text, start + 1..end) {
                    self.scalar(text, item, name);
                }
            }
            Some(quote @ (b'"' | b'\'')) => {
                let end = unquote(text, start, quote);
                self.scalar(text, start..end, name);
            }
            Some(_) => {
                let (end, is_flow) = plain_end(text, start);
                self.scalar(text, start..end, name);
                if !is_flow {
                    for line in deeper(text, start, key) {
                        if KEY.is_match(&text[line.clone()]) {
                            break;
                        }
                        self.hide(line);
                    }
                }
            }
        }
    }

    /// Hides the content below a key: each value of a mapping if `all`, otherwise only entries
    /// without a key.
    fn nested(&mut self, text: &str, from: usize, key: usize, all: bool) {
        let start = from + text[from..].len() - text[from..].trim_start_matches([' ', '\t']).len();
        if all && text[start..].starts_with('{') {
            let end = close(text, start);
            for item in items(text, start + 1..end) {
                let inner = &text[item.clone()];
                if let Some(colon) = inner.find(": ") {
                    self.hide(item.start + colon + 1..item.end);
                }
            }
            return;
        }
        for line in deeper(text, start, key) {
            let inner = &text[line.clone()];
            match KEY.captures(inner) {
                Some(captures) if all => {
                    let end = captures.get(0).map_or(0, |matched| matched.end());
                    self.hide(line.start + end.min(inner.len())..line.end);
                }
                Some(_) => {}
                None => {
                    let dash = inner.trim_start().trim_start_matches("- ").len();
                    self.scalar(text, line.end - dash..line.end, "password");
                }
            }
        }
    }

    /// Hides everything below a key except the names of keys: only a plugin's schema marks which of
    /// its values are secret, and the schema may not have been read yet.
    fn all(&mut self, text: &str, colon: usize, key: usize) {
        let line = text[colon..]
            .find('\n')
            .map_or(text.len(), |end| colon + end);
        let open = text[colon..line].find(['{', '[']).map(|at| colon + at);
        match open {
            // A mapping of several lines, or one that is never closed.
            Some(open) => self.flow(text, open + 1..close(text, open)),
            None => self.opaque(text, colon..line),
        }
        for line in deeper(text, colon, key) {
            self.line(text, line);
        }
    }

    /// Hides the value of a line in a block, or the whole line if it has no key.
    fn line(&mut self, text: &str, line: Range<usize>) {
        let inner = &text[line.clone()];
        let start = match KEY.captures(inner) {
            Some(key) => key.iter().skip(1).flatten().next().map_or(0, |name| {
                inner[name.end()..]
                    .find(':')
                    .map_or(0, |at| name.end() + at + 1)
            }),
            None => inner.len() - inner.trim_start_matches([' ', '-']).len(),
        };
        self.opaque(text, line.start + start..line.end);
    }

    /// Hides the content of braces or brackets, except the names of keys on the first level.
    fn flow(&mut self, text: &str, within: Range<usize>) {
        let mut from = within.start;
        let inside = &text[within.clone()];
        for key in KEY.captures_iter(inside) {
            let Some(name) = key.iter().skip(1).flatten().next() else {
                continue;
            };
            let start = within.start + name.start();
            if start > from {
                self.opaque(text, from..start);
            }
            let colon = text[within.start + name.end()..within.end].find(':');
            from = within.start + name.end() + colon.map_or(0, |at| at + 1);
        }
        if from < within.end {
            self.opaque(text, from..within.end);
        }
    }

    /// Hides a span without surrounding blanks and YAML punctuation.
    fn opaque(&mut self, text: &str, span: Range<usize>) {
        const MARKS: [char; 13] = [
            ' ', '\t', '\r', '\n', ',', '{', '}', '[', ']', '|', '>', '\'', '"',
        ];
        let inner = &text[span.clone()];
        let start = span.start + inner.len() - inner.trim_start_matches(MARKS).len();
        let mut end = span.start + inner.trim_end_matches(MARKS).len();
        if start >= end {
            return;
        }
        // The brace of a variable is not YAML punctuation.
        if text[start..end].starts_with("${") && text[end..].starts_with('}') {
            end += 1;
        }
        self.values.push(start..end);
        if !is_public(&text[start..end], "config") {
            self.opaque.push(start..end);
        }
    }

    fn scalar(&mut self, text: &str, span: Range<usize>, name: &str) {
        let value = text.get(span.clone()).unwrap_or_default();
        self.values.push(span.clone());
        if !is_public(value.trim().trim_matches(['"', '\'']), name) {
            self.spans.push(span);
        }
    }

    fn hide(&mut self, span: Range<usize>) {
        self.values.push(span.clone());
        self.spans.push(span);
    }
}

/// Returns the extents of the lists of plugins.
fn plugins(text: &str) -> Vec<Range<usize>> {
    // A list may be indented as much as its key; hiding more than the list does no harm.
    extents(text, "plugins", |key| {
        same_or_deeper(text, key.start).unwrap_or(text.len())
    })
}

/// Returns the extents of the settings of tracing.
fn tracing(text: &str) -> Vec<Range<usize>> {
    extents(text, "tracing", |key| deeper_end(text, &key))
}

/// Returns the end of the lines below a key.
fn deeper_end(text: &str, key: &Range<usize>) -> usize {
    let lines = deeper(text, key.end, key.start);
    lines.last().map_or(key.end, |line| line.end)
}

/// Returns the extents of the values of keys with about this name. `block` returns the end of one
/// that is not in braces.
fn extents(text: &str, wanted: &str, block: impl Fn(Range<usize>) -> usize) -> Vec<Range<usize>> {
    let names = KEY.captures_iter(text).filter_map(|key| {
        let name = key.iter().skip(1).flatten().next()?;
        let is_wanted = strsim::damerau_levenshtein(name.as_str(), wanted) <= 1;
        is_wanted.then(|| name.range())
    });
    names
        .map(|name| {
            let line = text[name.end..].find('\n');
            let line = line.map_or(text.len(), |end| name.end + end);
            let open = text[name.end..line].find(['{', '[']);
            let flow = open.map_or(line, |at| close(text, name.end + at));
            name.start..flow.max(block(name))
        })
        .collect()
}

fn is_secret(name: &str) -> bool {
    if NO_SECRETS.split(' ').any(|own| own == name) {
        return false;
    }
    let is_known = name == "keys" || secret::shown(name, "x") == REDACTED;
    let lower = name.to_ascii_lowercase();
    // A typo makes it an unknown key, but its value is still a secret.
    let is_near = |long: &str| {
        let max = if long.len() >= 8 { 2 } else { 1 };
        strsim::damerau_levenshtein(&lower, long) <= max
    };
    is_known || LONG.split(' ').any(is_near)
}

/// Returns true if a value may be shown although its key names a secret.
fn is_public(value: &str, name: &str) -> bool {
    if matches!(
        value,
        "" | "~" | "null" | "true" | "false" | "on" | "off" | "*"
    ) {
        return true;
    }
    let is_variable = value.starts_with("${") && value.ends_with('}') && !value.contains(":-");
    if is_variable || (value.starts_with("file:") && !value.contains(' ')) {
        return true;
    }
    let lower = name.to_ascii_lowercase();
    let is_key = lower.ends_with("key") || lower == "keys";
    if !is_key && lower != "token" {
        return false;
    }
    let file = [".pem", ".key", ".keys", ".pub", ".crt", ".json"];
    PLACES.is_match(value)
        || is_near_place(value)
        || (is_key && !value.contains(' ') && file.iter().any(|end| value.ends_with(end)))
}

#[cfg(test)]
mod tests;
