//! Keeps query values out of the log if their names mark them as secrets.

use std::{borrow::Cow, ops::Range};

use edgeway_base::{query, secret};

/// Longest name that is decoded; of longer names only the end is checked.
const MAX_NAME_LEN: usize = 64;
/// Number of URLs in each other that are looked into.
const MAX_NESTED: usize = 4;

/// The words, indexed by their last letters.
pub struct Redactor {
    /// Words in lower case, grouped by their last byte.
    words: Box<[Word]>,
    /// Start and end in `words` of those with a last byte of this value, modulo 32: most names are
    /// recognized as harmless with one lookup. Upper and lower case share an entry.
    by_end: [(u16, u16); 32],
}

struct Word {
    text: Box<[u8]>,
    is_exact: bool,
}

impl Redactor {
    /// Creates a redactor for these words, and for the parameters in which filters read secrets,
    /// whatever the words are.
    pub fn with_secrets(
        words: impl IntoIterator<Item = impl AsRef<str>>,
        secret_names: &[String],
    ) -> Self {
        let secrets = secret_names.iter().map(|name| format!("={name}"));
        let words = words.into_iter().map(|word| word.as_ref().to_owned());
        Self::new(words.chain(secrets))
    }

    /// Creates a redactor that hides nothing, for queries whose secrets are gone already.
    pub fn none() -> Self {
        Self::new([""; 0])
    }

    pub fn new(words: impl IntoIterator<Item = impl AsRef<str>>) -> Self {
        let mut words: Vec<Word> = words
            .into_iter()
            .map(|word| {
                let exact = word.as_ref().strip_prefix('=');
                let text = exact.unwrap_or(word.as_ref()).to_ascii_lowercase();
                Word {
                    text: text.into_bytes().into(),
                    is_exact: exact.is_some(),
                }
            })
            .filter(|word| !word.text.is_empty())
            .collect();
        words.sort_by_key(|word| end_of(&word.text));
        let mut by_end = [(0, 0); 32];
        for (index, word) in (0u16..).zip(&words) {
            let (start, end) = &mut by_end[end_of(&word.text)];
            if *end == 0 {
                *start = index;
            }
            *end = index + 1;
        }
        Self {
            words: words.into(),
            by_end,
        }
    }

    /// Returns `query` without its secrets.
    pub fn redact(&self, query: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(query.len());
        self.put(&mut out, query, Vec::extend_from_slice);
        out
    }

    /// Returns a text without the secrets in the queries and fragments of its URLs, and without the
    /// passwords in front of their hosts.
    pub fn of_urls(&self, text: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(text.len());
        for part in text.split_inclusive(|b| matches!(b, b'?' | b'#')) {
            let end = part.iter().position(|b| matches!(b, b'?' | b'#'));
            let (mut pairs, end) = part.split_at(end.unwrap_or(part.len()));
            while let Some(password) = password(pairs) {
                self.put(&mut out, &pairs[..password.start], Vec::extend_from_slice);
                out.extend_from_slice(secret::REDACTED.as_bytes());
                pairs = &pairs[password.end..];
            }
            self.put(&mut out, pairs, Vec::extend_from_slice);
            out.extend_from_slice(end);
        }
        out
    }

    /// Adds `query` through `put`, without its secrets.
    pub fn put(&self, out: &mut Vec<u8>, query: &[u8], put: fn(&mut Vec<u8>, &[u8])) {
        let is_secret = |pair: &[u8]| {
            value_start(pair)
                .is_some_and(|at| self.hides(&pair[..at - 1]) || self.is_in(&pair[at..]))
        };
        if !query.split(|b| *b == b'&').any(is_secret) {
            put(out, query);
            return;
        }
        for (index, pair) in query.split(|b| *b == b'&').enumerate() {
            if index > 0 {
                out.push(b'&');
            }
            match value_start(pair) {
                Some(at) if is_secret(pair) => {
                    put(out, &pair[..at]);
                    out.extend_from_slice(secret::REDACTED.as_bytes());
                }
                _ => put(out, pair),
            }
        }
    }

    /// Returns true if the value of a parameter is a URL or a query with a secret, which may be in a
    /// URL of its own.
    fn is_in(&self, value: &[u8]) -> bool {
        let mut inner = Cow::Borrowed(value);
        for _ in 0..MAX_NESTED {
            let ends = |b: &u8| matches!(b, b'?' | b'&' | b'#' | b';');
            let is_secret = |pair| value_start(pair).is_some_and(|at| self.hides(&pair[..at - 1]));
            if inner.split(ends).skip(1).any(is_secret) || password(&inner).is_some() {
                return true;
            }
            inner = match query::decoded(&inner) {
                Cow::Owned(decoded) => Cow::Owned(decoded),
                Cow::Borrowed(_) => return false,
            };
        }
        false
    }

    /// Returns true if one of the words marks a parameter name as a secret.
    pub fn hides(&self, name: &[u8]) -> bool {
        let mut decoded = [0; MAX_NAME_LEN];
        let name = if name.contains(&b'%') {
            decode(name, &mut decoded)
        } else {
            name
        };
        let name = query::last_word(name);
        let (start, end) = self.by_end[end_of(name)];
        self.words[usize::from(start)..usize::from(end)]
            .iter()
            .any(|word| secret::is_named(name, &word.text, word.is_exact))
    }
}

/// Returns the place of the password in `https://user:password@host`.
fn password(text: &[u8]) -> Option<Range<usize>> {
    let scheme_ends = (3..=text.len()).filter(|at| text[..*at].ends_with(b"://"));
    let mut passwords = scheme_ends.filter_map(|start| {
        let mut parts = text[start..].split(|b| matches!(b, b'/' | b' ' | b'>'));
        let authority = parts.next()?;
        let end = authority.iter().rposition(|b| *b == b'@')?;
        let colon = authority[..end].iter().position(|b| *b == b':')?;
        Some(start + colon + 1..start + end)
    });
    passwords.next()
}

/// Returns the last byte of a name without its case, as an index.
fn end_of(name: &[u8]) -> usize {
    usize::from(name.last().copied().unwrap_or_default() & 31)
}

/// Returns the start of the value in `name=value`.
fn value_start(pair: &[u8]) -> Option<usize> {
    pair.iter().position(|b| *b == b'=').map(|at| at + 1)
}

/// Decodes `%74oken` to `token`, as the origin does. Keeps the end of a name that does not fit.
fn decode<'a>(name: &[u8], out: &'a mut [u8; MAX_NAME_LEN]) -> &'a [u8] {
    let mut start = MAX_NAME_LEN;
    let mut rest = name;
    while let Some((last, before)) = rest.split_last() {
        if start == 0 {
            break;
        }
        start -= 1;
        (out[start], rest) = match rest {
            [head @ .., b'%', high, low] => match (digit(*high), digit(*low)) {
                (Some(high), Some(low)) => (high << 4 | low, head),
                _ => (*last, before),
            },
            _ => (*last, before),
        };
    }
    &out[start..]
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte)
        .to_digit(16)
        .and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(query: &str, expected: &str) {
        let mut out = Vec::new();
        Redactor::new(secret::NAMES.split(' ')).put(&mut out, query.as_bytes(), |out, text| {
            out.extend_from_slice(text);
        });
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn secrets_are_known_by_their_names() {
        for name in [
            "token",
            "reset_token",
            "resetToken",
            "access_token",
            "TOKEN",
            "api-key",
            "apiKey",
            "apikey",
            "X-Amz-Signature",
            "X-Amz-Credential",
            "sig",
            "%74oken",
            "user%5Btoken",
            "user[token]",
            "user%5Btoken%5D",
            "token[]",
            "a[token][0]",
            "code",
        ] {
            check(
                &format!("a=1&{name}=hunter2&b=2"),
                &format!("a=1&{name}=[redacted]&b=2"),
            );
        }
    }

    #[test]
    fn a_value_that_is_a_url_with_a_secret_is_one() {
        check(
            "next=/q%3Fa%3D1%26tok%2565n%3Dhunter2&back=%2Fq%3Ftoken%3Dhunter2&b=2",
            "next=[redacted]&back=[redacted]&b=2",
        );
        check(
            "a=/q?token=1&b=%2Fa%3Fback%3D%252Fr%253Ftoken%253D3&c=%2Fq%3Fa%3D1%3Btoken%3D6",
            "a=[redacted]&b=[redacted]&c=[redacted]",
        );
        check("next=https%3A%2F%2Fu%3Ahunter7%40h%2F", "next=[redacted]");
        check("next=/q%3Fa%3D1&b=%25", "next=/q%3Fa%3D1&b=%25");
    }

    #[test]
    fn other_names_keep_their_values() {
        for query in [
            "monkey=1&design=2&zip_code=3",
            "token",
            "",
            "&&=&",
            "q=token%3Dx",
            "tokens=3",
            "token[page]=3",
            "[]=4",
            "%zz=1&%=2",
        ] {
            check(query, query);
        }
    }

    #[test]
    fn a_value_may_hold_anything_but_an_ampersand() {
        check("key=a=b?c#d&x=1", "key=[redacted]&x=1");
        check("token=", "token=[redacted]");
    }

    #[test]
    fn urls_lose_their_secrets_and_passwords() {
        let redact = Redactor::new(secret::NAMES.split(' '));
        for (text, expected) in [
            (
                "url https://a.test/x?token=1",
                "url https://a.test/x?token=[redacted]",
            ),
            (
                "https://me:pw@a.test/x?b=2#sig=3",
                "https://me:[redacted]@a.test/x?b=2#sig=[redacted]",
            ),
            (
                "<//a>, <https://b>, <https://a:b:c@d@e/>, <http://f:g@h>",
                "<//a>, <https://b>, <https://a:[redacted]@e/>, <http://f:[redacted]@h>",
            ),
            ("https://a.test:80/@x", "https://a.test:80/@x"),
            ("https://me@a.test/", "https://me@a.test/"),
        ] {
            let found = redact.of_urls(text.as_bytes());
            assert_eq!(String::from_utf8(found).unwrap(), expected);
        }
    }

    #[test]
    fn a_long_encoded_name_is_judged_by_its_end() {
        let name = format!("{}_%74oken", "a".repeat(200));
        check(&format!("{name}=1"), &format!("{name}=[redacted]"));
    }
}
