//! Encodings of a value of a request, by the place that it is written to: no value ends what stands
//! around it.

use http::HeaderValue;

use super::template::escape;

/// Encoding of a value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encoding {
    /// A header, a name that is compared, or a text without markup: the value as it is.
    #[default]
    Text,
    /// HTML, XML or SVG.
    Markup,
    /// A string of JSON.
    Json,
    /// A value in a query.
    Query,
}

/// Bytes that stand for themselves in one value of a query, besides letters and digits.
const IN_QUERY: &[u8] = b"-._~:/?@!$'()*,;";

impl Encoding {
    /// Returns the encoding in a body of this media type.
    pub fn of_body(content_type: &HeaderValue) -> Self {
        let content_type = String::from_utf8_lossy(content_type.as_bytes());
        let essence = content_type.split(';').next().unwrap_or_default();
        let essence = essence.trim().to_ascii_lowercase();
        match essence.as_str() {
            "text/html" | "text/xml" | "application/xml" => Self::Markup,
            "application/json" => Self::Json,
            own if own.ends_with("+xml") => Self::Markup,
            own if own.ends_with("+json") => Self::Json,
            _ => Self::Text,
        }
    }

    /// Appends a value.
    pub(crate) fn write(self, value: &str, text: &mut String) {
        match self {
            Self::Text => text.push_str(value),
            Self::Markup => write_markup(value, text),
            Self::Json => write_json(value, text),
            Self::Query => escape(value, IN_QUERY, text),
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

/// Appends the inside of a string, without the quotes that the configuration has around it.
fn write_json(value: &str, text: &mut String) {
    let quoted = serde_json::Value::from(value).to_string();
    text.push_str(&quoted[1..quoted.len() - 1]);
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
            ("text/plain", Encoding::Text),
            ("", Encoding::Text),
        ] {
            let found = Encoding::of_body(&HeaderValue::from_static(content_type));
            assert_eq!(found, encoding, "{content_type}");
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

            let html = written(Encoding::Markup, &value);
            prop_assert!(!html.contains(['<', '>', '"', '\'']), "{}", html);
            let (named, quotes) = (html.replace("&lt;", "<").replace("&gt;", ">"), "&quot;");
            let read = named.replace(quotes, "\"").replace("&#39;", "'").replace("&amp;", "&");
            prop_assert_eq!(read, value);
        }
    }
}
