//! Changes the names that a backend gives itself in its redirects and cookies into those that
//! clients know it by.

mod config;
mod cookie;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use edgeway_base::http::url_of_refresh;
use edgeway_core::chain::{Exchange, Filter, Guard, Phases, Traits};
use http::{HeaderName, HeaderValue, header, response};
use regex::Regex;

use self::cookie::CookieRules;

/// `Location`, and the other headers with a URL of the same resource.
const REFRESH: HeaderName = header::REFRESH;

/// The compiled filter.
#[derive(Debug)]
pub struct ResponseRewrite {
    /// `None` to leave the repair of the backend's own address to the gateway.
    location: Option<Box<[Rule]>>,
    cookies: CookieRules,
}

/// Replacement of a text: the first rule that matches applies.
#[derive(Debug)]
struct Rule {
    from: Pattern,
    to: Box<str>,
}

#[derive(Debug)]
enum Pattern {
    /// Beginning of the text, which `to` replaces.
    Beginning(Box<str>),
    /// Whole text without regard to case.
    Name(Box<str>),
    /// Expression that matches the text; `to`, with its groups, replaces all of the text.
    Regex(Regex),
}

impl Rule {
    /// Returns the new text, if the rule applies.
    fn apply(&self, text: &str) -> Option<String> {
        match &self.from {
            Pattern::Beginning(from) => {
                let rest = text.strip_prefix(&**from)?;
                Some(format!("{}{rest}", self.to))
            }
            Pattern::Name(name) => text.eq_ignore_ascii_case(name).then(|| self.to.to_string()),
            Pattern::Regex(regex) => {
                let groups = regex.captures(text)?;
                let mut replaced = String::new();
                groups.expand(&self.to, &mut replaced);
                Some(replaced)
            }
        }
    }
}

/// Returns what the first rule that applies makes of a text.
fn first(rules: &[Rule], text: &str) -> Option<String> {
    rules.iter().find_map(|rule| rule.apply(text))
}

filter_kind!(ResponseRewrite: config::ResponseRewriteConfig = "response_rewrite");

impl Filter for ResponseRewrite {
    fn traits(self: Arc<Self>) -> Traits {
        Traits {
            replaces_location: self.location.is_some(),
            ..Traits::new(Phases::UPSTREAM_RESPONSE, Guard::Nothing)
        }
    }

    fn on_upstream_response(&self, _ex: &mut Exchange<'_>, head: &mut response::Parts) {
        if let Some(rules) = &self.location {
            location(rules, head);
        }
        if !self.cookies.is_empty() && head.headers.contains_key(header::SET_COOKIE) {
            self.cookies.apply(&mut head.headers);
        }
    }
}

fn location(rules: &[Rule], head: &mut response::Parts) {
    let replaced = |value: &HeaderValue, at: usize| {
        let text = value.to_str().ok()?;
        let (before, url) = text.split_at(at);
        let url = first(rules, url)?;
        HeaderValue::try_from(format!("{before}{url}")).ok()
    };
    if let Some(location) = head.headers.get(header::LOCATION)
        && let Some(new) = replaced(location, 0)
    {
        head.headers.insert(header::LOCATION, new);
    }
    if let Some(refresh) = head.headers.get(REFRESH)
        && let Some(offset) = refresh.to_str().ok().and_then(url_of_refresh)
        && let Some(new) = replaced(refresh, offset)
    {
        head.headers.insert(REFRESH, new);
    }
}
