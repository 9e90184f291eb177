//! The `Content-Type` of a file, by the end of its name.

use std::collections::BTreeMap;

use http::HeaderValue;

/// Type of a file whose ending is unknown.
const UNKNOWN: &str = "application/octet-stream";

/// Media types by the end of a file's name.
#[derive(Debug, Default)]
pub(crate) struct MediaTypes {
    /// Types of the configuration, by ending in lower case.
    own: BTreeMap<String, HeaderValue>,
}

impl MediaTypes {
    pub(crate) fn insert(&mut self, ending: &str, value: HeaderValue) {
        self.own.insert(ending.to_ascii_lowercase(), value);
    }

    /// Returns the type of the file with this path.
    pub(crate) fn of(&self, path: &[u8]) -> HeaderValue {
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or(path);
        let ending = name.iter().rposition(|byte| *byte == b'.');
        let ending = ending.and_then(|dot| std::str::from_utf8(&name[dot + 1..]).ok());
        let ending = ending.unwrap_or_default().to_ascii_lowercase();
        if let Some(own) = self.own.get(&ending) {
            return own.clone();
        }
        let guess = mime_guess::from_ext(&ending).first_raw();
        let guess = guess.unwrap_or(UNKNOWN);
        // Files of today are UTF-8. Without a charset a browser guesses one for text.
        if guess.starts_with("text/") || guess == "application/javascript" {
            let with_charset = format!("{guess}; charset=utf-8");
            return HeaderValue::try_from(with_charset)
                .unwrap_or(HeaderValue::from_static(UNKNOWN));
        }
        HeaderValue::from_static(guess)
    }
}
