//! Encodings of a value of a request, by the place that it is written to: no value ends what stands
//! around it. [`super::destination`] has the places.

use std::fmt::Write as _;

use http::HeaderValue;

use super::template::{IN_PATH, escape};

/// Encoding of a value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encoding {
    /// A whole header, a name that is compared, or a text without markup: the value as it is.
    #[default]
    Text,
    /// HTML, XML or SVG.
    Markup,
    /// An attribute without quotes.
    Attribute,
    /// Beginning of an address in an attribute.
    Link,
    /// A string of a script.
    Script,
    /// A string of JSON.
    Json,
    /// A quoted string in a header.
    Quoted,
    /// Part of a header that a `;` or `,` would end.
    Parameter,
    /// Beginning of a URL: a path of the same host.
    UrlStart {
        /// True for the whole URL, which may have a query.
        is_whole: bool,
    },
    /// Host of a URL. A value that is the end of one, behind other text, may be a path.
    Authority {
        is_end: bool,
    },
    UrlPath,
    /// Query: a value that is a query already stays as it was sent.
    Query,
    /// Value behind a `=` in a query.
    QueryValue,
}

/// Bytes that stand for themselves in one value of a query, besides letters and digits.
const IN_QUERY: &[u8] = b"-._~:/?@!$'()*,;";
/// The same in a path with a query and a fragment.
const IN_WHOLE: &[u8] = b"-._~:/@!$&'()*+,;=?#";
/// The same in a host.
const IN_HOST: &[u8] = b"-._~:[]";
/// The same in a part of a header.
const IN_PARAMETER: &[u8] = b"-._~:/?#[]@!$&'()*+=%";

impl Encoding {
    /// Returns the encoding in a body of this media type.
    pub fn of_body(content_type: &HeaderValue) -> Self {
        let content_type = String::from_utf8_lossy(content_type.as_bytes());
        let essence = content_type.split(';').next().unwrap_or_default();
        let essence = essence.trim().to_ascii_lowercase();
        match essence.as_str() {
            "text/html" | "text/xml" | "application/xml" => Self::Markup,
            "application/json" | "text/json" | "application/x-ndjson" => Self::Json,
            // Those of the MIME Sniffing standard, `text/javascript1.5` and `application/x-ecmascript`
            // among them.
            "text/jscript" | "text/livescript" => Self::Script,
            own if own.contains("javascript") || own.ends_with("ecmascript") => Self::Script,
            "application/x-www-form-urlencoded" => Self::QueryValue,
            own if own.ends_with("+xml") => Self::Markup,
            own if own.ends_with("+json") => Self::Json,
            _ => Self::Text,
        }
    }

    /// Returns the encoding in a body whose media type is not known before a request.
    pub(crate) fn of_text(text: &str) -> Self {
        let name = text.split('=').next().unwrap_or_default();
        let is_name = |name: &str| {
            let mut bytes = name.bytes();
            !name.is_empty()
                && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"_-.[]".contains(&byte))
        };
        match text.trim_start().as_bytes().first() {
            Some(b'{' | b'[') => Self::Json,
            Some(b'<') => Self::Markup,
            _ if text.contains('=') && is_name(name) => Self::QueryValue,
            _ => Self::Text,
        }
    }

    /// Appends a value.
    pub(crate) fn write(self, value: &str, text: &mut String) {
        match self {
            Self::Text => text.push_str(value),
            Self::Markup => write_markup(value, text),
            Self::Attribute => {
                for char in value.chars() {
                    if char.is_alphanumeric() {
                        text.push(char);
                    } else {
                        // Writing to a string cannot fail.
                        let _written = write!(text, "&#{};", u32::from(char));
                    }
                }
            }
            Self::Link => {
                let mut url = String::new();
                Self::UrlStart { is_whole: true }.write(value, &mut url);
                Self::Markup.write(&url, text);
            }
            Self::Script => write_script(value, text),
            Self::Json => write_json(value, text),
            Self::Quoted => {
                for char in value.chars() {
                    if matches!(char, '"' | '\\') {
                        text.push('\\');
                    }
                    text.push(char);
                }
            }
            Self::Parameter => escape(value, IN_PARAMETER, text),
            Self::UrlStart { is_whole } => {
                // With a scheme, or with two slashes, it would be the address of another host.
                let path = value.trim_start_matches(['/', '\\']);
                if !value.is_empty() {
                    text.push('/');
                }
                let plain = if is_whole { IN_WHOLE } else { IN_PATH };
                write_path(path, plain, text);
            }
            Self::Authority { is_end: true } if value.starts_with('/') => {
                write_path(value, IN_PATH, text);
            }
            Self::Authority { .. } => escape(value, IN_HOST, text),
            Self::UrlPath => write_path(value, IN_PATH, text),
            Self::Query | Self::QueryValue => escape(value, IN_QUERY, text),
        }
    }

    /// Appends a value without percent-encoding, which a path would have decoded once more.
    pub(crate) fn write_decoded(self, value: &str, text: &mut String) {
        let is_path = match self {
            Self::UrlPath | Self::UrlStart { .. } | Self::Link => true,
            Self::Authority { is_end } => is_end && value.starts_with('/'),
            _ => false,
        };
        if is_path {
            self.write(&value.replace('%', "%25"), text);
        } else {
            self.write(value, text);
        }
    }
}

fn write_markup(value: &str, text: &mut String) {
    for char in value.chars() {
        match char {
            '&' => text.push_str("&amp;"),
            '<' => text.push_str("&lt;"),
            '>' => text.push_str("&gt;"),
            '"' => text.push_str("&quot;"),
            '\'' => text.push_str("&#39;"),
            char => text.push(char),
        }
    }
}

/// Appends the inside of a string with any quotes, in an attribute too.
fn write_script(value: &str, text: &mut String) {
    for char in value.chars() {
        if char.is_ascii_alphanumeric() || " _.".contains(char) {
            text.push(char);
            continue;
        }
        for unit in char.encode_utf16(&mut [0; 2]) {
            let _written = write!(text, "\\u{unit:04x}");
        }
    }
}

/// Appends the inside of a string, without the quotes that the configuration has around it.
fn write_json(value: &str, text: &mut String) {
    let quoted = serde_json::Value::from(value).to_string();
    text.push_str(&quoted[1..quoted.len() - 1]);
}

/// Appends a path, in which encoded bytes stay so.
fn write_path(value: &str, plain: &[u8], text: &mut String) {
    let mut parts = value.split('%');
    escape(parts.next().unwrap_or_default(), plain, text);
    for part in parts {
        let digits = part.as_bytes().get(..2);
        let is_byte = digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit));
        text.push_str(if is_byte { "%" } else { "%25" });
        escape(part, plain, text);
    }
}

#[cfg(test)]
mod tests {
    use std::{borrow::Cow, collections::BTreeMap};

    use proptest::prelude::*;

    use super::*;

    fn written(encoding: Encoding, value: &str) -> String {
        let mut text = String::new();
        encoding.write(value, &mut text);
        text
    }

    #[test]
    fn the_media_type_of_a_body_names_its_encoding() {
        for (content_type, encoding) in [
            ("text/html; charset=utf-8", Encoding::Markup),
            ("TEXT/HTML", Encoding::Markup),
            ("image/svg+xml", Encoding::Markup),
            ("application/xhtml+xml;a=b", Encoding::Markup),
            ("application/json", Encoding::Json),
            ("application/problem+json; charset=utf-8", Encoding::Json),
            ("application/x-ndjson", Encoding::Json),
            ("text/javascript", Encoding::Script),
            ("text/javascript1.5", Encoding::Script),
            ("application/x-javascript", Encoding::Script),
            ("application/ecmascript", Encoding::Script),
            ("text/jscript", Encoding::Script),
            ("text/plain", Encoding::Text),
            ("", Encoding::Text),
        ] {
            let found = Encoding::of_body(&HeaderValue::from_static(content_type));
            assert_eq!(found, encoding, "{content_type}");
        }
    }

    /// Text of markup without its references.
    fn characters(html: &str) -> String {
        let named = html
            .replace("&lt;", "<")
            .replace("&gt;", ">")
            .replace("&quot;", "\"");
        let html = named.replace("&amp;", "&#38;");
        let mut parts = html.split("&#");
        let mut text = parts.next().unwrap().to_owned();
        for part in parts {
            let (number, rest) = part.split_once(';').unwrap();
            text.push(char::from_u32(number.parse().unwrap()).unwrap());
            text.push_str(rest);
        }
        text
    }

    #[test]
    fn an_encoding_is_guessed_for_a_body_without_a_type() {
        for (text, encoding) in [
            ("{\"a\":\"{query.a}\"}", Encoding::Json),
            ("a={query.a}&b=1", Encoding::QueryValue),
            ("<a>{query.a}</a>", Encoding::Markup),
            ("{query.a} = x", Encoding::Json),
            ("hello {query.a}", Encoding::Text),
        ] {
            assert_eq!(Encoding::of_text(text), encoding, "{text}");
        }
    }

    proptest! {
        /// A value stays one, whatever it is: readers that others have written find it again.
        #[test]
        fn readers_find_the_value_again(value in "(?s).{0,12}|[&<>\"'=+%#?\\\\/;:{} a-c]{0,12}") {
            let json = format!("{{\"a\":\"{}\"}}", written(Encoding::Json, &value));
            let read: BTreeMap<String, String> = serde_json::from_str(&json).unwrap();
            prop_assert_eq!(&read["a"], &value);

            let query = format!("role=user&id={}&x=1", written(Encoding::Query, &value));
            let read: Vec<(Cow<'_, str>, Cow<'_, str>)> =
                url::form_urlencoded::parse(query.as_bytes()).collect();
            let pair = |name, value| (Cow::Borrowed(name), Cow::Borrowed(value));
            prop_assert_eq!(read, [pair("role", "user"), pair("id", &value), pair("x", "1")]);

            for encoding in [Encoding::Markup, Encoding::Attribute] {
                let html = written(encoding, &value);
                prop_assert!(!html.contains(['<', '>', '"', '\'']), "{}", html);
                prop_assert!(encoding == Encoding::Markup || !html.contains([' ', '=', '/']));
                prop_assert_eq!(&characters(&html), &value);
            }

            for quote in ['"', '\''] {
                let script = written(Encoding::Script, &value);
                prop_assert!(!script.contains([quote, '<', '`', '$', '&']), "{}", script);
            }
            let script = format!("\"{}\"", written(Encoding::Script, &value));
            prop_assert_eq!(&serde_json::from_str::<String>(&script).unwrap(), &value);
        }
    }
}
