//! Scalars of YAML, as configurations that commands generate have them.

/// Writes a text as a scalar of YAML that is a text, within a flow collection too.
pub fn quoted(text: &str) -> String {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"._/-".contains(&b);
    let begins = text
        .bytes()
        .next()
        .is_some_and(|b| b.is_ascii_alphabetic() || b == b'/');
    let is_word = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"]
        .contains(&text.to_ascii_lowercase().as_str());
    if begins && text.bytes().all(is_plain) && !is_word {
        text.to_owned()
    } else {
        // A string of JSON is one of YAML 1.2.
        serde_json::Value::from(text).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        diagnostic::Diagnostics,
        tree::{self, Value},
    };

    /// Invariant: whatever the text is, YAML reads the same text again.
    #[test]
    fn a_quoted_text_is_read_as_that_text() {
        for text in [
            "a",
            "/a/b-c.d",
            "off",
            "NULL",
            "1.5",
            "a b",
            "a: b",
            "#x",
            "[::1]:3000",
            "é\n\"\\",
            "",
            "-",
            "*",
            "&a",
            "0x10",
            "a,b",
            "{",
            "unix:/run/a",
            "~",
        ] {
            let yaml = format!("k: [{}]\n", quoted(text));
            let node = tree::parse(&yaml, 0, &mut Diagnostics::default()).expect("it is YAML");
            let Some(Value::List(items)) = node.get("k").map(|node| &node.value) else {
                panic!("{yaml}");
            };
            assert_eq!(items.len(), 1, "{yaml}");
            assert_eq!(items[0].value, Value::Text(text.to_owned()), "{yaml}");
        }
    }
}
