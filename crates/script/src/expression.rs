//! Translates JavaScript regular expressions (without flags) to the syntax of the regex engine used
//! here.
//!
//! Syntax that reads the same and means something else is rewritten. `\b` stays as it is: it knows
//! the letters of all languages, and not only those of ASCII.

use std::fmt::Write;

use crate::base::expression::Expression;

/// Returns the regex of a whole value, as `new RegExp('^' + text + '$')` does: in `a|b` either end
/// is left open.
pub(super) fn anchored(text: &str) -> Result<Expression, String> {
    let why = |why: String| format!("`{text}` cannot be matched: {why}");
    let regex = translated(&format!("^{text}$")).map_err(why)?;
    Expression::parse(&regex, false).map_err(|error| why(error.to_string()))
}

const DOT_PATTERN: &str = r"[^\n\r\u2028\u2029]";

fn translated(text: &str) -> Result<String, String> {
    let mut regex = String::with_capacity(text.len() + 16);
    let mut is_class = false;
    let mut rest = text;
    while let Some(letter) = rest.chars().next() {
        let after = &rest[letter.len_utf8()..];
        rest = match (letter, is_class) {
            ('\\', _) => escape(after, is_class, &mut regex)?,
            ('[', false) => {
                let negated = after.strip_prefix('^');
                let (start, after) = negated.map_or(("[", after), |after| ("[^", after));
                if let Some(after) = after.strip_prefix(']') {
                    regex.push_str(if start == "[" { "(?!)" } else { r"(?s:.)" });
                    after
                } else {
                    regex.push_str(start);
                    is_class = true;
                    after
                }
            }
            (']', true) => {
                is_class = false;
                regex.push(']');
                after
            }
            // Nested sets and set operators, which are plain characters in JavaScript.
            ('[' | '&' | '~', true) | (']' | '}', false) => {
                regex.push('\\');
                regex.push(letter);
                after
            }
            ('.', false) => {
                regex.push_str(DOT_PATTERN);
                after
            }
            ('{', false) => count(after, &mut regex),
            _ => {
                regex.push(letter);
                after
            }
        };
    }
    Ok(regex)
}

/// Copies a quantifier after its `{`; any other `{` is a plain character.
fn count<'t>(after: &'t str, regex: &mut String) -> &'t str {
    let end = after.find('}').map(|end| end + 1);
    let is_count = |count: &str| {
        let (min, max) = count.split_once(',').unwrap_or((count, ""));
        let are_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        !min.is_empty() && are_digits(min) && are_digits(max)
    };
    if let Some(end) = end.filter(|end| is_count(&after[..end - 1])) {
        regex.push('{');
        regex.push_str(&after[..end]);
        &after[end..]
    } else {
        regex.push_str(r"\{");
        after
    }
}

/// Translates what follows a `\`; returns the rest.
fn escape<'t>(after: &'t str, is_class: bool, regex: &mut String) -> Result<&'t str, String> {
    let letter = after.chars().next().ok_or("it ends with `\\`")?;
    let (escaped, rest) = after.split_at(letter.len_utf8());
    let hex = |digits: usize| {
        let hex = rest.get(..digits);
        hex.filter(|hex| hex.bytes().all(|byte| byte.is_ascii_hexdigit()))
    };
    let class = match letter {
        'd' => Some("0-9"),
        'w' => Some("0-9A-Za-z_"),
        _ => None,
    };
    match (letter, class) {
        (_, Some(class)) if is_class => regex.push_str(class),
        (_, Some(class)) => write!(regex, "[{class}]").expect("writing to a String cannot fail"),
        ('D', _) => regex.push_str("[^0-9]"),
        ('W', _) => regex.push_str("[^0-9A-Za-z_]"),
        ('b', _) if is_class => regex.push_str(r"\x08"),
        ('s' | 'S' | 'b' | 'B' | 'f' | 'n' | 'r' | 't' | 'v' | '1'..='9' | 'k', _) => {
            regex.push('\\');
            regex.push(letter);
        }
        ('0', _) => regex.push_str(r"\x00"),
        ('c', _) => return Err("`\\c` is not supported: write `\\x` and two digits".to_owned()),
        ('x' | 'u', _) => {
            if let Some(digits) = hex(if letter == 'x' { 2 } else { 4 }) {
                write!(regex, "\\{letter}{digits}").expect("writing to a String cannot fail");
                return Ok(&rest[digits.len()..]);
            }
            regex.push(letter);
        }
        // Any other character stands for itself.
        _ => regex.push_str(&regex::escape(escaped)),
    }
    Ok(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn assert_matches(text: &str, yes: &[&str], no: &[&str]) {
        let regex = anchored(text).unwrap();
        for value in yes {
            assert!(
                regex.is_match(value).unwrap(),
                "{text} and {value}: {regex:?}"
            );
        }
        for value in no {
            assert!(
                !regex.is_match(value).unwrap(),
                "{text} and {value}: {regex:?}"
            );
        }
    }

    /// Each line was compared with the output of Node.js.
    #[test]
    fn values_are_matched_as_in_javascript() {
        assert_matches(
            "prefetch",
            &["prefetch"],
            &["prefetch2", "Prefetch", "prefetch\n"],
        );
        assert_matches("a|b", &["ax", "xb"], &["xax", "bx"]);
        assert_matches(
            "(?<id>\\d+)-(?!x)\\w*",
            &["1-", "12-a_B"],
            &["1-x", "1-é", "٣-a"],
        );
        assert_matches("[\\d.-]+[^\\w]", &["1.-é", "1 "], &["1a", "٣ "]);
        assert_matches("\\D\\W", &["٣é", "a "], &["1 ", "aa"]);
        assert_matches("a.c", &["abc", "aéc"], &["a\nc", "a\rc", "a\u{2028}c"]);
        assert_matches("[[a&&b~~c]+", &["[a&b~c"], &["d"]);
        assert_matches("[]|x", &["yx"], &["a"]);
        assert_matches("a[^]b", &["a\nb", "a]b"], &["ab"]);
        assert_matches("[\\]\\[\\b]", &["]", "[", "\u{8}"], &["b"]);
        assert_matches("a{2}b{1,}c{,3}{x}", &["aabbc{,3}{x}"], &["aabc"]);
        assert_matches("\\/\\h\\z\\K\\-\\_\\é", &["/hzK-_é"], &["/a"]);
        assert_matches("\\x41\\u0042\\xg\\u1", &["ABxgu1"], &["AB"]);
        assert_matches("(a)\\1(?<n>b)\\k<n>", &["aabb"], &["aab"]);
        assert_matches("(?:en|de)(?=x).*", &["enx", "dex"], &["en", "fr"]);
        assert_matches("a]}", &["a]}"], &["a"]);
        assert_matches("\\s+", &[" \t"], &["", "a"]);
        assert_matches(".*\\bbot\\b.*", &["a bot/1"], &["robots"]);
    }

    #[test]
    fn unsupported_expressions_are_reported() {
        for wrong in ["(", "[a", "\\cA", "\\ud83d", "a**b(", "(?<é"] {
            let why = anchored(wrong).unwrap_err();
            assert!(
                why.contains("cannot be matched") && why.contains(wrong),
                "{why}"
            );
        }
    }
}
