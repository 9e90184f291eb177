//! Detection of crawlers by their `User-Agent`.

use aho_corasick::{AhoCorasick, BuildError};
use http::HeaderValue;

/// Search engines, archives, link previews and scrapers that identify themselves. A name matches
/// anywhere in the `User-Agent`, ignoring case.
const DEFAULT_CRAWLERS: &str = include_str!("crawlers.txt");

/// Bytes of a `User-Agent` that are searched.
const MAX_USER_AGENT_LEN: usize = 1024;

/// A compiled list of names.
#[derive(Clone, Debug)]
pub struct Crawlers(AhoCorasick);

impl Crawlers {
    /// Compiles the list. Empty names are left out, since every `User-Agent` contains them. An
    /// error means that the list is too large.
    pub fn new<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Self, Box<BuildError>> {
        let names = names.into_iter().filter(|name| !name.is_empty());
        AhoCorasick::builder()
            .ascii_case_insensitive(true)
            .build(names)
            .map(Self)
            .map_err(Box::new)
    }

    /// Returns true if this is a crawler's `User-Agent`.
    pub fn is(&self, user_agent: &HeaderValue) -> bool {
        let text = user_agent.as_bytes();
        self.0.is_match(&text[..text.len().min(MAX_USER_AGENT_LEN)])
    }
}

impl Default for Crawlers {
    fn default() -> Self {
        Self::new(DEFAULT_CRAWLERS.lines()).expect("the list is short")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is(crawlers: &Crawlers, user_agent: &'static str) -> bool {
        crawlers.is(&HeaderValue::from_static(user_agent))
    }

    #[test]
    fn crawlers_are_recognized_by_name_in_any_case() {
        let crawlers = Crawlers::default();
        for crawler in [
            "Mozilla/5.0 AppleWebKit/537.36 (KHTML, like Gecko; compatible; Googlebot/2.1; +http://www.google.com/bot.html) Chrome/130.0 Safari/537.36",
            "Mozilla/5.0 (compatible; BINGBOT/2.0; +http://www.bing.com/bingbot.htm)",
            "Mozilla/5.0 (compatible; AhrefsBot/7.0; +http://ahrefs.com/robot/)",
            "gptbot/1.2",
        ] {
            assert!(is(&crawlers, crawler), "{crawler}");
        }
        for person in [
            "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0.0.0 Safari/537.36",
            "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.5 Mobile/15E148 Safari/604.1",
            // Name of a phone maker.
            "Mozilla/5.0 (Linux; Android 13; CUBOT X70) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0 Mobile Safari/537.36",
            "curl/8.5.0",
            "",
        ] {
            assert!(!is(&crawlers, person), "{person}");
        }
    }

    #[test]
    fn an_own_list_takes_the_place_of_the_default() {
        let crawlers = Crawlers::new(["InHouse", ""]).unwrap();
        assert!(is(&crawlers, "inhouse-monitor/1"));
        assert!(!is(&crawlers, "Googlebot/2.1"));
        let none = Crawlers::new([]).unwrap();
        assert!(!is(&none, "Googlebot/2.1"));
    }
}
