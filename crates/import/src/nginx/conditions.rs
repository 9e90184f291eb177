//! The directive `if`: what it compares, and with what.

use edgeway_routes::values::Pattern;
use serde_json::{Value, json};

use super::{
    parse::Directive,
    variables::{At, value},
};

/// Condition in the words of the gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Condition {
    /// Value with placeholders; the path of a file for [`Test::Exists`].
    pub(super) value: String,
    pub(super) test: Test,
    pub(super) is_negated: bool,
}

/// Comparison of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Test {
    /// Neither empty nor `0`.
    True,
    Equal(String),
    /// Expression behind `~` or `~*`.
    Like(String),
    /// A file of a fixed path exists.
    Exists,
}

impl Condition {
    /// Reads an `if` at a place; `None` if it has no counterpart.
    pub(super) fn read(directive: &Directive, at: At<'_, '_>) -> Option<Self> {
        let words = words(&directive.args);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let of = |text: &str| value(text, at);
        let (first, rest) = words.split_first()?;
        if let Some(kind) = first.trim_start_matches('!').strip_prefix('-') {
            let [path] = rest else { return None };
            let path = of(path).filter(|path| !path.contains('{'))?;
            return ["f", "d", "e"].contains(&kind).then_some(Self {
                value: path,
                test: Test::Exists,
                is_negated: first.starts_with('!'),
            });
        }
        let variable = first.strip_prefix('$').filter(|name| !name.is_empty())?;
        let from = of(&format!("${{{variable}}}"))?;
        let (operator, right) = match rest {
            [] => {
                return Some(Self {
                    value: from,
                    test: Test::True,
                    is_negated: false,
                });
            }
            [operator, right] => (*operator, *right),
            [operator] => (*operator, ""),
            _ => return None,
        };
        let is_negated = operator.starts_with('!');
        let test = match operator.trim_start_matches('!') {
            "=" => Test::Equal(of(right).filter(|right| !right.contains('{'))?),
            sign @ ("~" | "~*") => {
                Pattern::new(right, sign == "~*").ok()?;
                Test::Like(format!("{sign}{right}"))
            }
            _ => return None,
        };
        Some(Self {
            value: from,
            test,
            is_negated,
        })
    }

    /// Returns the expression whose groups there are where the condition holds.
    pub(super) fn groups(&self) -> Option<String> {
        match &self.test {
            Test::Like(regex) if !self.is_negated => Some(regex.clone()),
            _ => None,
        }
    }

    /// Returns the keys of a rule under this condition; `None` for one on a file, which a lookup
    /// table has.
    pub(super) fn keys(&self) -> Option<Value> {
        let mut keys = json!({ "if": self.value });
        match &self.test {
            Test::True => {}
            Test::Equal(text) if text.starts_with('~') => keys["is"] = format!("\\{text}").into(),
            Test::Equal(text) => keys["is"] = text.clone().into(),
            Test::Like(regex) => keys["is"] = regex.clone().into(),
            Test::Exists => return None,
        }
        if self.is_negated {
            keys["not"] = true.into();
        }
        Some(keys)
    }
}

/// Returns true if the block of an `if` keeps requests out.
pub(super) fn refuses(directive: &Directive) -> bool {
    directive.children().iter().any(|one| {
        let status = one.arg(0).parse::<u16>().unwrap_or(200);
        (one.name == "return" && status >= 400) || one.name == "deny"
    })
}

/// Splits directives behind the first block for requests whose own file exists that ends the rules.
pub(super) fn split_by_file(all: &[Directive]) -> (&[Directive], &[Directive]) {
    let ends = |one: &Directive| {
        of_own_file(one).is_some_and(|(is_negated, _)| !is_negated)
            && one.children().iter().any(|inner| inner.name == "break")
    };
    all.split_at(all.iter().position(ends).unwrap_or(all.len()))
}

/// Returns the words of a condition without its parentheses.
fn words(args: &[String]) -> Vec<String> {
    let mut words: Vec<String> = args.to_vec();
    if let Some(first) = words.first_mut() {
        *first = first.strip_prefix('(').unwrap_or(first).to_owned();
    }
    if let Some(last) = words.last_mut() {
        *last = last.strip_suffix(')').unwrap_or(last).to_owned();
    }
    let is_word = |(word, written): &(String, &String)| {
        !word.is_empty() || !matches!(written.as_str(), "(" | ")" | "()")
    };
    let words = words.into_iter().zip(args).filter(is_word);
    words.map(|(word, _)| word).collect()
}

/// Returns true for a negated condition, and its operator without that, if it is about the request's
/// own file.
pub(super) fn of_own_file(directive: &Directive) -> Option<(bool, &'static str)> {
    let words = words(&directive.args);
    let [kind, path] = &words[..] else {
        return None;
    };
    let is_own = matches!(
        path.as_str(),
        "$request_filename"
            | "$document_root$uri"
            | "$document_root$document_uri"
            | "$document_root$fastcgi_script_name"
    );
    let kind_of = kind.trim_start_matches('!');
    let known = ["-f", "-e", "-d"].into_iter().find(|one| *one == kind_of);
    Some((kind.starts_with('!'), known.filter(|_| is_own)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nginx::scope::Scope;

    #[test]
    fn conditions_have_counterparts() {
        let word = |word: &str| word.replace("\"\"", "");
        let words = |text: &str| text.split(' ').map(word).collect::<Vec<_>>();
        let scope = Scope::top(&[]);
        for (text, expected) in [
            (
                "($host = www.a.test)",
                r#"{"if":"{host.name}","is":"www.a.test"}"#,
            ),
            (
                "($scheme != https)",
                r#"{"if":"{scheme}","is":"https","not":true}"#,
            ),
            (
                "($request_method !~ ^(GET|HEAD)$)",
                r#"{"if":"{method}","is":"~^(GET|HEAD)$","not":true}"#,
            ),
            (
                "($http_user_agent ~* bot)",
                r#"{"if":"{header.user-agent}","is":"~*bot"}"#,
            ),
            ("($arg_debug)", r#"{"if":"{arg.debug}"}"#),
            (
                "($http_user_agent = \"\")",
                r#"{"if":"{header.user-agent}","is":""}"#,
            ),
            (
                "( $uri ~ ^/(?!a) )",
                r#"{"if":"{path.decoded}","is":"~^/(?!a)"}"#,
            ),
            ("($cookie_a = ~x)", r#"{"if":"{cookie.a}","is":"\\~x"}"#),
            ("($uri ~ ()", ""),
            ("($ssl_client_s_dn = x)", ""),
            ("($http_x = $arg_y)", ""),
        ] {
            let directive = Directive {
                id: 0,
                name: "if".to_owned(),
                args: words(text),
                file: "nginx.conf".into(),
                line: 1,
                block: Some(Vec::new()),
                fates: std::rc::Rc::default(),
            };
            let read = Condition::read(&directive, At::request(&scope));
            let keys = read.and_then(|read| read.keys());
            let shown = keys.map_or(String::new(), |keys| keys.to_string());
            assert_eq!(shown, expected, "{text}");
        }
    }
}
