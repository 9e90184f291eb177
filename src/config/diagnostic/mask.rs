//! Secrets in the text of a configuration, found by what stands around them, so that no excerpt
//! and no message shows one. The text may be broken: that is what excerpts are for.

use std::{ops::Range, sync::LazyLock};

use regex::Regex;

use super::{Diagnostic, Place};
use crate::{
    base::secret::{self, REDACTED},
    config::source::Sources,
};

/// A key with its colon, wherever one may stand.
static KEY: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(
        r#"(?m)(?:^|[\s{\[,#])(?:"([^"\n]+)"|'([^'\n]+)'|([\w.-]+))[ \t]*:(?:[ \t]|\r?$|["'\[{])"#,
    )
    .expect("it is tested")
});

/// Secrets that look like ones: the password of a URL, credentials of HTTP, hashes of
/// passwords, private keys.
static SHAPES: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(
        r#"(?s)://[^\s/"'@]*:([^\s"']+)@|(?i:\b(?:bearer|basic)[ \t]+)([\w.~+/=-]{8,})|(\$(?:argon2\w*|2[abxy])\$[^\s"'}]+)|-----BEGIN [A-Z ]*PRIVATE KEY-----(.*?)(?:-----END|\z)"#,
    )
    .expect("it is tested")
});

/// Words that are no secrets by the names of their keys: those of limits and of places where
/// tokens are looked for.
static PLACES: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"^(?:(?:client\.(?:ip|network)|host|route|api_key|user|(?:header|cookie|query):[\w.-]+|jwt\.[\w.:/-]+)(?:\+|$))+$")
        .expect("it is tested")
});

/// Keys that are long enough to be known by a slip of the finger.
const LONG: [&str; 6] = [
    "password",
    "passphrase",
    "secret",
    "token",
    "credentials",
    "authorization",
];

/// Filters whose names end with a word for secrets, and what is none for all that.
const NO_SECRETS: [&str; 6] = [
    "api_key",
    "basic_auth",
    "forward_auth",
    "jwt",
    "code",
    "on_error",
];

/// Shorter pieces of a message are words.
const SHORTEST: usize = 4;
/// Shorter ones may well stand elsewhere for something else.
const LONG_ENOUGH: usize = 6;
/// What messages show of a text.
const SHOWN: usize = 60;

/// What is not to be shown of the texts of a configuration.
pub(super) struct Mask {
    /// The texts with stars for secrets, byte for byte as long.
    pub(super) shown: Sources,
    /// What may not stand in messages.
    pieces: Vec<String>,
}

impl Mask {
    /// `hidden`: places that are secrets by what compiling has found out.
    pub(super) fn of(sources: &Sources, hidden: &[Place]) -> Self {
        let mut shown = sources.clone();
        let mut pieces = Vec::new();
        for (index, (_, text)) in shown.files.iter_mut().enumerate() {
            let mut found = Found::in_text(text);
            let is_here = |place: &&Place| usize::from(place.file) == index;
            for place in hidden.iter().filter(is_here) {
                let end = (place.end as usize).min(text.len());
                let span = (place.start as usize).min(end)..end;
                found.values.push(span.clone());
                found.spans.push(span);
            }
            let mut again = Vec::new();
            for span in &found.spans {
                let secret = text.get(span.clone()).unwrap_or_default();
                note(secret, &mut pieces);
                // It may stand elsewhere too: in a comment, under a key that is misspelt.
                let secret = secret.trim().trim_matches(['"', '\'']);
                if secret.len() >= LONG_ENOUGH {
                    let others = text.match_indices(secret);
                    again.extend(others.map(|(at, same)| at..at + same.len()));
                }
            }
            found.spans.extend(again);
            for (place, value) in &sources.expanded {
                let at = place.start as usize;
                if is_here(&place) && found.values.iter().any(|span| span.contains(&at)) {
                    note(value, &mut pieces);
                }
            }
            *text = stars(text, &found.spans);
        }
        // The longest first: one may be part of another.
        pieces.sort_by_key(|piece: &String| std::cmp::Reverse(piece.len()));
        pieces.dedup();
        Self { shown, pieces }
    }

    pub(super) fn text(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for piece in &self.pieces {
            if text.contains(piece.as_str()) {
                text = text.replace(piece.as_str(), REDACTED);
            }
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

/// What of a secret's text may stand in a message.
fn note(secret: &str, pieces: &mut Vec<String>) {
    let mut add = |text: &str| {
        let text = text.trim();
        let is_word = matches!(text, "true" | "false" | "null" | REDACTED);
        if text.len() < SHORTEST || is_word {
            return;
        }
        pieces.push(text.to_owned());
        pieces.push(text.escape_debug().to_string());
        if text.chars().count() > SHOWN {
            pieces.push(text.chars().take(SHOWN).collect());
        }
    };
    add(secret.trim().trim_matches(['"', '\'']));
    // Line by line, and without the comment behind it.
    for part in secret.lines().flat_map(|line| line.split(" #")) {
        let inner = part.trim().trim_matches(['"', '\'']);
        add(inner);
        // As they read, where that is another text.
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

/// The text with these spans hidden, line ends left where they are.
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
    // Spans end where characters do; should one not, all of it is hidden.
    String::from_utf8(bytes).unwrap_or_default()
}

#[derive(Default)]
struct Found {
    /// What is to be hidden.
    spans: Vec<Range<usize>>,
    /// Where secrets stand, those that only name a variable too.
    values: Vec<Range<usize>>,
}

impl Found {
    fn in_text(text: &str) -> Self {
        let mut found = Self::default();
        for shape in SHAPES.captures_iter(text) {
            for group in shape.iter().skip(1).flatten() {
                found.spans.push(group.range());
                found.values.push(group.range());
            }
        }
        let mut at = 0;
        while let Some(key) = KEY.captures_at(text, at) {
            let whole = key.get(0).expect("it matched").range();
            let name = key.iter().skip(1).flatten().next();
            let Some(name) = name else { break };
            // The last byte may begin the next key, or the value.
            at = (whole.end - 1).max(whole.start + 1);
            while !text.is_char_boundary(at) {
                at += 1;
            }
            let colon = text[name.end()..]
                .find(':')
                .map_or(at, |c| name.end() + c + 1);
            if name.as_str() == "users" {
                found.nested(text, colon, name.start(), true);
            } else if is_secret(name.as_str()) {
                found.value(text, colon, name.start(), name.as_str());
            }
        }
        found
    }

    /// The value that begins behind `colon`; its key begins at `key`.
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

    /// What stands below a key: each value of a mapping if `all`, else what has no key.
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
                Some(found) if all => {
                    let end = found.get(0).map_or(0, |whole| whole.end());
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

fn is_secret(name: &str) -> bool {
    if NO_SECRETS.contains(&name) {
        return false;
    }
    let is_known = name == "keys" || secret::shown(name, "x") == REDACTED;
    let lower = name.to_ascii_lowercase();
    // A slip of the finger makes it an unknown key, and its value no other one.
    let is_near = |long: &str| {
        let most = if long.len() >= 8 { 2 } else { 1 };
        strsim::damerau_levenshtein(&lower, long) <= most
    };
    is_known || LONG.into_iter().any(is_near)
}

/// Whether a value may be shown though its key is a secret's.
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
    let is_key = lower == "key" || lower == "keys";
    if !is_key && lower != "token" {
        return false;
    }
    let file = [".pem", ".key", ".keys", ".pub", ".crt", ".json"];
    PLACES.is_match(value)
        || (is_key && !value.contains(' ') && file.iter().any(|end| value.ends_with(end)))
}

/// The lines behind the one of `at` that are indented more than the one in which `key` stands,
/// without their line ends.
fn deeper(text: &str, at: usize, key: usize) -> Vec<Range<usize>> {
    let first = text[..key].rfind('\n').map_or(0, |end| end + 1);
    // A list's dash is part of the indentation of what stands behind it.
    let indentation = |line: &str| line.len() - line.trim_start_matches([' ', '-']).len();
    let least = indentation(&text[first..]);
    let mut lines = Vec::new();
    let mut from = text[at..].find('\n').map_or(text.len(), |end| at + end + 1);
    while from < text.len() {
        let end = text[from..].find('\n').map_or(text.len(), |end| from + end);
        let line = text[from..end].trim_end_matches('\r');
        let is_empty = line.trim().is_empty();
        if !is_empty && indentation(line) <= least {
            break;
        }
        if !is_empty {
            lines.push(from..from + line.len());
        }
        from = end + 1;
    }
    lines
}

/// Where a plain value ends, and whether it stands within braces or brackets of its line.
fn plain_end(text: &str, start: usize) -> (usize, bool) {
    let line = text[..start].rfind('\n').map_or(0, |end| end + 1);
    let depth = text[line..start]
        .bytes()
        .fold(0i32, |depth, byte| match byte {
            b'{' | b'[' => depth + 1,
            b'}' | b']' => depth - 1,
            _ => depth,
        });
    let rest = text[start..].lines().next().unwrap_or_default();
    let is_flow = depth > 0;
    let end = if is_flow {
        rest.find([',', '}', ']'])
    } else {
        rest.find(" #")
    };
    let value = rest[..end.unwrap_or(rest.len())].trim_end();
    (start + value.len(), is_flow)
}

/// Behind the quote that closes the one at `start`; the text's end if none does.
fn unquote(text: &str, start: usize, quote: u8) -> usize {
    let bytes = text.as_bytes();
    let mut at = start + 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' if quote == b'"' => at += 1,
            byte if byte == quote => {
                if quote == b'\'' && bytes.get(at + 1) == Some(&quote) {
                    at += 1;
                } else {
                    return at + 1;
                }
            }
            _ => {}
        }
        at += 1;
    }
    text.len()
}

/// The bracket or brace that closes the one at `start`; the text's end if none does.
fn close(text: &str, start: usize) -> usize {
    let bytes = text.as_bytes();
    let (mut at, mut depth) = (start, 0);
    while at < bytes.len() {
        match bytes[at] {
            b'{' | b'[' => depth += 1,
            b'}' | b']' => {
                depth -= 1;
                if depth == 0 {
                    return at;
                }
            }
            quote @ (b'"' | b'\'') if at > start && b" ,[{:\n".contains(&bytes[at - 1]) => {
                at = unquote(text, at, quote) - 1;
            }
            _ => {}
        }
        at += 1;
    }
    text.len()
}

/// What stands between the commas of a list or mapping, mappings and lists within it left out.
fn items(text: &str, within: Range<usize>) -> Vec<Range<usize>> {
    let bytes = text.as_bytes();
    let mut items = Vec::new();
    let (mut from, mut at) = (within.start, within.start);
    let end = within.end.min(bytes.len());
    let mut is_scalar = true;
    while at < end {
        match bytes[at] {
            b'{' | b'[' => {
                is_scalar = false;
                at = close(text, at);
            }
            quote @ (b'"' | b'\'') => at = unquote(text, at, quote) - 1,
            b',' => {
                if is_scalar {
                    items.push(from..at);
                }
                (from, is_scalar) = (at + 1, true);
            }
            _ => {}
        }
        at += 1;
    }
    if is_scalar && from < end {
        items.push(from..end);
    }
    items
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, shown: &str) {
        let found = Found::in_text(text);
        assert_eq!(stars(text, &found.spans), shown, "{text}");
    }

    #[test]
    fn secrets_are_hidden_wherever_they_stand() {
        for (text, shown) in [
            ("token: hunter2 # why", "token: ******* # why"),
            ("a: { token: hunter2, b: c }", "a: { token: *******, b: c }"),
            ("password: 'it''s'", "password: *******"),
            ("\"password\":\"a\\\"b\"", "\"password\":******"),
            ("password: |\n  a\n  b\nc: d", "password: |\n***\n***\nc: d"),
            ("password:\n  abc\nc: d", "password:\n  ***\nc: d"),
            ("users:\n  ann: x y\nc: d", "users:\n  ann: ***\nc: d"),
            (
                "users: { ann: abc, bob: d }\nc: d",
                "users: { ann:****, bob:***}\nc: d",
            ),
            ("passwrd: hunter2", "passwrd: *******"),
            ("url: redis://u:a@b@h/1", "url: redis://u:***@h/1"),
            ("X-A: Bearer abcdefgh", "X-A: Bearer ********"),
            ("# token: hunter2", "# token: *******"),
            ("key: ${A:-dflt}", "key: **********"),
            ("- { key: abc }\n- { b: c }", "- { key: *** }\n- { b: c }"),
            ("keys: [abc, file:x]", "keys: [***, file:x]"),
            ("token: \"abc\nd: e", "token: ****\n****"),
        ] {
            check(text, shown);
        }
    }

    #[test]
    fn what_is_no_secret_stays() {
        for text in [
            "key: client.ip",
            "key: [header:X-A, client.ip+route]",
            "token: header:Authorization",
            "key: tls/site.key",
            "token: file:token",
            "token: ${TOKEN}",
            "api_key: { file: a.keys }",
            "forward_auth: http://127.0.0.1:9000/verify",
            "keys: { a: b }",
            "path: /token/*",
            "basic_auth: { realm: Staff }",
        ] {
            check(text, text);
        }
    }

    #[test]
    fn messages_lose_what_excerpts_hide() {
        let sources = Sources {
            files: vec![(
                "a.yaml".into(),
                "token: 0x10000\npassword: ${P}\nusers:\n  ann: 725111 # why\n".to_owned(),
            )],
            expanded: vec![(
                Place {
                    file: 0,
                    start: 25,
                    end: 29,
                },
                "hunter2".to_owned(),
            )],
            ..Sources::default()
        };
        let mask = Mask::of(&sources, &[]);
        assert_eq!(mask.text("found 65536"), "found [redacted]");
        assert_eq!(mask.text("found `hunter2`"), "found `[redacted]`");
        assert_eq!(mask.text("found 725111"), "found [redacted]");
        assert_eq!(mask.text("found `other`"), "found `other`");
    }
}
