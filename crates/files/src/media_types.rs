//! The `Content-Type` of a file, by the end of its name.

use std::{collections::BTreeMap, sync::Arc};

use http::HeaderValue;

use crate::{
    chain::CompileContext,
    config::{
        model::{KnownTypes, MediaTypesConfig},
        tree::Spanned,
    },
};

/// Type of a file whose ending is unknown.
const UNKNOWN: &str = "application/octet-stream";
/// Charset of text. Without one a browser guesses.
const UTF_8: &str = "utf-8";
/// Name for all endings that are not written.
const OTHERS: &str = "*";

/// Media types by the end of a file's name.
#[derive(Debug, Default)]
pub struct MediaTypes {
    /// Types of the configuration, by ending in lower case. `*` is every other one, and an empty one
    /// those that are not known.
    own: BTreeMap<String, HeaderValue>,
    /// Charset of known text types, `none` for none; `utf-8` if absent.
    charset: Option<Box<str>>,
    /// Types that count where the own ones say nothing.
    common: Option<Arc<MediaTypes>>,
}

impl MediaTypes {
    /// Compiles the types of all routes. `None` means that a problem was reported.
    pub fn compile(config: &MediaTypesConfig, cx: &mut CompileContext<'_>) -> Option<Self> {
        const CODE: &str = "edgeway::media_types::value";
        let mut all = Self::of_config(&config.types, config.charset.as_ref(), CODE, cx)?;
        if config.known == KnownTypes::Nginx {
            for (ending, kind) in KnownTypes::of_nginx() {
                let entry = all.own.entry(ending.to_owned());
                entry.or_insert(HeaderValue::from_static(kind));
            }
            let unknown = all.own.get("").cloned();
            let unknown = unknown.unwrap_or(HeaderValue::from_static(UNKNOWN));
            all.own.entry(OTHERS.to_owned()).or_insert(unknown);
        }
        Some(all)
    }

    /// Compiles the types of one route, beside those of all.
    pub(crate) fn of_config(
        types: &BTreeMap<String, Spanned<String>>,
        charset: Option<&Spanned<String>>,
        code: &'static str,
        cx: &mut CompileContext<'_>,
    ) -> Option<Self> {
        let mut all = Self::default();
        let mut is_well = true;
        for (ending, Spanned { value, place }) in types {
            let has_slash = value
                .split(';')
                .next()
                .is_some_and(|text| text.contains('/'));
            let ending = ending.trim_start_matches('.').to_ascii_lowercase();
            match HeaderValue::try_from(value.as_str()) {
                Ok(value) if has_slash => drop(all.own.insert(ending, value)),
                _ => {
                    let message = format!("invalid media type `{value}`");
                    let help = "write one such as `text/markdown; charset=utf-8`, after the end of \
                                the file's name: `md: text/markdown`";
                    cx.at(*place, code).error(message, help);
                    is_well = false;
                }
            }
        }
        if let Some(Spanned { value, place }) = charset {
            let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:+".contains(&byte);
            if value.is_empty() || !value.bytes().all(is_name) {
                let help = "write the name of one, such as `utf-8`, or `none`";
                cx.at(*place, code)
                    .error(format!("invalid charset `{value}`"), help);
                is_well = false;
            }
            all.charset = Some(value.as_str().into());
        }
        is_well.then_some(all)
    }

    /// Returns these types, with others where these say nothing.
    pub(crate) fn with(self, common: Option<Arc<Self>>) -> Self {
        Self { common, ..self }
    }

    /// Returns the type of the file with this path.
    pub fn type_for(&self, path: &[u8]) -> HeaderValue {
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or(path);
        let ending = name.iter().rposition(|byte| *byte == b'.');
        // As with nginx: a name that begins with its only dot has no ending.
        let ending = ending.filter(|dot| *dot > 0);
        let ending = ending.and_then(|dot| std::str::from_utf8(&name[dot + 1..]).ok());
        let ending = ending.unwrap_or_default().to_ascii_lowercase();
        let all = || std::iter::once(self).chain(self.common.as_deref());
        let written = |types: &'_ Self| {
            let named = types.own.get(&ending).filter(|_| !ending.is_empty());
            named.or_else(|| types.own.get(OTHERS)).cloned()
        };
        if let Some(kind) = all().find_map(written) {
            return kind;
        }
        let guess = registered(&ending).or_else(|| mime_guess::from_ext(&ending).first_raw());
        let Some(guess) = guess else {
            let unknown = all().find_map(|types| types.own.get(""));
            return unknown
                .cloned()
                .unwrap_or(HeaderValue::from_static(UNKNOWN));
        };
        let charset = all().find_map(|types| types.charset.as_deref());
        let charset = charset.unwrap_or(UTF_8);
        if charset != "none" && guess.starts_with("text/") {
            let with_charset = format!("{guess}; charset={charset}");
            return HeaderValue::try_from(with_charset)
                .unwrap_or(HeaderValue::from_static(UNKNOWN));
        }
        HeaderValue::from_static(guess)
    }
}

/// Returns a type that `mime_guess` has by another name than the registry of media types (RFC 8081,
/// RFC 8216, RFC 9239).
fn registered(ending: &str) -> Option<&'static str> {
    Some(match ending {
        "m3u8" => "application/vnd.apple.mpegurl",
        "mjs" => "text/javascript",
        "otf" => "font/otf",
        "rpm" => "application/x-redhat-package-manager",
        "ts" => "video/mp2t",
        "woff" => "font/woff",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn types(own: &[(&str, &'static str)], charset: Option<&str>) -> MediaTypes {
        let own = own.iter().map(|(ending, value)| {
            let value = HeaderValue::from_static(value);
            ((*ending).to_owned(), value)
        });
        MediaTypes {
            own: own.collect(),
            charset: charset.map(Into::into),
            common: None,
        }
    }

    #[test]
    fn a_route_comes_before_all_routes_and_these_before_what_is_known() {
        let common = Arc::new(types(&[("js", "a/js"), ("", "a/none")], Some("none")));
        let own = types(&[("md", "b/md")], None).with(Some(Arc::clone(&common)));
        let rest = types(&[("*", "c/rest")], Some("koi8-r")).with(Some(common));
        for (path, of_own, of_rest) in [
            ("/a.md", "b/md", "c/rest"),
            ("/a.JS", "a/js", "c/rest"),
            ("/a.html", "text/html", "c/rest"),
            ("/a.nowhere", "a/none", "c/rest"),
            ("/a", "a/none", "c/rest"),
            ("/b.js/.js", "a/none", "c/rest"),
            ("/.b.js", "a/js", "c/rest"),
        ] {
            assert_eq!(own.type_for(path.as_bytes()), of_own, "{path}");
            assert_eq!(rest.type_for(path.as_bytes()), of_rest, "{path}");
        }
        for (path, registered) in [("/a.ts", "video/mp2t"), ("/a.otf", "font/otf")] {
            assert_eq!(MediaTypes::default().type_for(path.as_bytes()), registered);
        }
        let charset = types(&[], Some("koi8-r"));
        assert_eq!(charset.type_for(b"/a.css"), "text/css; charset=koi8-r");
        assert_eq!(
            MediaTypes::default().type_for(b"/a.css"),
            "text/css; charset=utf-8"
        );
    }
}
