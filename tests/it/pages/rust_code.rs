//! A rough reader of Rust sources, enough to find calls, functions and the texts in them.

use std::{collections::BTreeMap, fs, ops::Range};

use super::{files, root};

/// Piece of a source. Comments are left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Token {
    /// Name, keyword, number, or a lifetime with its quote.
    Word(String),
    /// Text without its quotes.
    Text(String),
    Mark(char),
}

/// Source without comments and without its tests.
pub(super) struct Source {
    pub(super) file: String,
    pub(super) tokens: Vec<Token>,
}

/// Function of a source, as positions of tokens.
pub(super) struct Function {
    pub(super) name: String,
    pub(super) parameters: Range<usize>,
    pub(super) returns: Range<usize>,
    pub(super) body: Range<usize>,
}

/// Returns the sources of the gateway.
pub(super) fn sources() -> Vec<Source> {
    let is_test = |file: &String| {
        let is_in = |folder: &&str| file.contains(*folder);
        ["/tests/", "/testkit/"].iter().any(is_in)
            || ["tests.rs", "testkit.rs"]
                .iter()
                .any(|name| file.ends_with(name))
    };
    ["src", "crates"]
        .iter()
        .flat_map(|folder| files(folder, ".rs"))
        .filter(|file| !is_test(file))
        .map(|file| {
            let text = fs::read_to_string(root().join(&file)).expect("source is UTF-8");
            Source::new(file, &text)
        })
        .collect()
}

impl Token {
    pub(super) fn is_word(&self, word: &str) -> bool {
        matches!(self, Self::Word(own) if own == word)
    }

    pub(super) fn is_mark(&self, mark: char) -> bool {
        *self == Self::Mark(mark)
    }
}

impl Source {
    pub(super) fn new(file: String, text: &str) -> Self {
        let text = text.split("#[cfg(test)]\nmod tests {").next();
        Self {
            file,
            tokens: tokens(text.unwrap_or_default()),
        }
    }

    /// Returns the position behind the bracket that closes the one at `open`.
    pub(super) fn end(&self, open: usize) -> usize {
        let mut depth = 0;
        for (at, token) in self.tokens.iter().enumerate().skip(open) {
            match token {
                Token::Mark('(' | '[' | '{') => depth += 1,
                Token::Mark(')' | ']' | '}') => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                return at + 1;
            }
        }
        self.tokens.len()
    }

    pub(super) fn functions(&self) -> Vec<Function> {
        let mut found = Vec::new();
        for at in 0..self.tokens.len() {
            let (Some(token), Some(Token::Word(name))) =
                (self.tokens.get(at), self.tokens.get(at + 1))
            else {
                continue;
            };
            if !token.is_word("fn") {
                continue;
            }
            let Some(open) = self.next(at, '(') else {
                continue;
            };
            let behind = self.end(open);
            // A declaration in a trait ends with a semicolon.
            let start = (behind..self.tokens.len())
                .find(|at| matches!(self.tokens[*at], Token::Mark('{' | ';')));
            let Some(start) = start.filter(|at| self.tokens[*at].is_mark('{')) else {
                continue;
            };
            found.push(Function {
                name: name.clone(),
                parameters: open + 1..behind - 1,
                returns: behind..start,
                body: start..self.end(start),
            });
        }
        found
    }

    fn next(&self, from: usize, mark: char) -> Option<usize> {
        (from..self.tokens.len()).find(|at| self.tokens[*at].is_mark(mark))
    }

    /// Returns the arguments of each call of `path`, such as `Reply::refuse` or `.why`, as positions
    /// of tokens.
    pub(super) fn calls(&self, path: &str) -> Vec<Vec<Range<usize>>> {
        let path = tokens(path);
        let mut found = Vec::new();
        for at in 0..self.tokens.len() {
            let is_here = self.tokens[at..].starts_with(&path);
            let open = at + path.len();
            let is_call = is_here && self.tokens.get(open).is_some_and(|t| t.is_mark('('));
            let before = &self.tokens[..at];
            let is_member = matches!(before, [.., Token::Mark('.')])
                || matches!(before, [.., Token::Mark(':'), Token::Mark(':')]);
            let is_declared = before.last().is_some_and(|token| token.is_word("fn"));
            let is_whole = !is_declared && (path.len() > 1 || !is_member);
            if is_call && is_whole {
                found.push(self.arguments(open));
            }
        }
        found
    }

    /// Splits what is between brackets at its commas.
    fn arguments(&self, open: usize) -> Vec<Range<usize>> {
        let close = self.end(open) - 1;
        let mut found = Vec::new();
        let mut start = open + 1;
        let mut at = start;
        while at < close {
            match self.tokens[at] {
                Token::Mark('(' | '[' | '{') => at = self.end(at),
                Token::Mark(',') => {
                    found.push(start..at);
                    at += 1;
                    start = at;
                }
                _ => at += 1,
            }
        }
        if start < close {
            found.push(start..close);
        }
        found
    }

    /// Returns the texts of constants by name.
    pub(super) fn constants(&self) -> BTreeMap<String, String> {
        let mut found = BTreeMap::new();
        for window in self.tokens.windows(7) {
            if let [
                first,
                Token::Word(name),
                colon,
                ..,
                Token::Mark('='),
                Token::Text(text),
            ] = window
                && first.is_word("const")
                && colon.is_mark(':')
            {
                found.insert(name.clone(), text.clone());
            }
        }
        found
    }
}

/// Splits code into tokens.
pub(super) fn tokens(code: &str) -> Vec<Token> {
    let mut found = Vec::new();
    let mut rest = code;
    while let Some(first) = rest.chars().next() {
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if let Some(length) = raw_text(rest) {
            found.push(Token::Text(rest[..length].to_owned()));
            length
        } else if let Some(start) = text_start(rest) {
            let length = start + text_length(&rest[start..]);
            found.push(Token::Text(rest[start..length - 1].to_owned()));
            length
        } else if let Some(length) = character(rest) {
            length
        } else if first.is_alphanumeric() || matches!(first, '_' | '\'') {
            let end = rest[first.len_utf8()..]
                .find(|c: char| !c.is_alphanumeric() && c != '_')
                .map_or(rest.len(), |end| end + first.len_utf8());
            found.push(Token::Word(rest[..end].to_owned()));
            end
        } else {
            if !first.is_whitespace() {
                found.push(Token::Mark(first));
            }
            first.len_utf8()
        };
        rest = &rest[length..];
    }
    found
}

/// Returns the length of a raw text, with its quotes.
fn raw_text(code: &str) -> Option<usize> {
    let behind = code.strip_prefix("br").or_else(|| code.strip_prefix('r'))?;
    let marks = behind.bytes().take_while(|byte| *byte == b'#').count();
    let text = behind[marks..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(marks));
    let start = code.len() - text.len();
    Some(start + text.find(&end)? + end.len())
}

/// Returns the place behind the quote that begins a text.
fn text_start(code: &str) -> Option<usize> {
    ["b\"", "c\"", "\""]
        .iter()
        .find(|begin| code.starts_with(**begin))
        .map(|begin| begin.len())
}

/// Returns the length of a text up to and with its last quote.
fn text_length(text: &str) -> usize {
    let mut is_escaped = false;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = true,
            b'"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// Returns the length of a character literal; a lifetime is none.
fn character(code: &str) -> Option<usize> {
    let start = code.len() - code.strip_prefix('b').unwrap_or(code).len();
    let inner = code[start..].strip_prefix('\'')?;
    let length = if let Some(escaped) = inner.strip_prefix('\\') {
        let first = escaped.chars().next()?.len_utf8();
        1 + first + escaped[first..].find('\'')?
    } else {
        let first = inner.chars().next()?.len_utf8();
        inner[first..].starts_with('\'').then_some(first)?
    };
    Some(start + 1 + length + 1)
}

#[test]
fn sources_are_read_without_comments_and_characters() {
    let code =
        "fn a<'x>(b: &'static str) -> u8 { c(\"d\\\"\", '\"', '\\'', b'{', r#\"e\"#) } // f\n";
    let source = Source::new("a.rs".to_owned(), code);
    let [function] = &source.functions()[..] else {
        panic!("{:?}", source.tokens);
    };
    assert_eq!(function.name, "a");
    assert!(
        source.tokens[function.parameters.clone()].contains(&Token::Word("'static".to_owned()))
    );
    assert_eq!(function.body.end, source.tokens.len());
    let calls = source.calls("c");
    assert_eq!(
        source.tokens[calls[0][0].clone()],
        [Token::Text("d\\\"".to_owned())]
    );
}
