//! Attributes of `Set-Cookie` (RFC 6265, 4.1).

use std::fmt::Write as _;

use http::{HeaderMap, HeaderValue, header};
use regex::Regex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Rule, first};

/// Changes of a backend's cookies.
#[derive(Debug, Default)]
pub(super) struct CookieRules {
    pub(super) domain: Box<[Rule]>,
    pub(super) path: Box<[Rule]>,
    pub(super) flags: Box<[FlagRule]>,
}

/// Flags of the cookies with some names; the first rule for a name applies.
#[derive(Debug)]
pub(super) struct FlagRule {
    pub(super) name: NamePattern,
    pub(super) secure: Option<bool>,
    pub(super) http_only: Option<bool>,
    pub(super) same_site: Option<SameSite>,
}

#[derive(Debug)]
pub(super) enum NamePattern {
    Any,
    Text(Box<str>),
    Regex(Regex),
}

edgeway_base::enum_table! {
    // Requests of other sites that carry a cookie, and the attribute's value, if there is one.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
    #[serde(rename_all = "snake_case")]
    #[schemars(rename = "SameSiteConfig")]
    pub(super) enum SameSite => text: Option<&'static str> {
        Strict = Some("Strict"),
        Lax = Some("Lax"),
        None = Some("None"),
        // The attribute is removed, and the client decides.
        Remove = None,
    }
}

impl NamePattern {
    fn matches(&self, name: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Text(text) => **text == *name,
            Self::Regex(regex) => regex.is_match(name),
        }
    }
}

impl CookieRules {
    pub(super) fn is_empty(&self) -> bool {
        self.domain.is_empty() && self.path.is_empty() && self.flags.is_empty()
    }

    /// Applies the rules to every cookie of a response.
    pub(super) fn apply(&self, headers: &mut HeaderMap) {
        let header::Entry::Occupied(mut cookies) = headers.entry(header::SET_COOKIE) else {
            return;
        };
        for cookie in cookies.iter_mut() {
            let new = cookie.to_str().ok().and_then(|text| self.changed(text));
            if let Some(new) = new.and_then(|text| HeaderValue::try_from(text).ok()) {
                *cookie = new;
            }
        }
    }

    /// Returns the cookie with the changes; `None` if it stays as it is.
    fn changed(&self, cookie: &str) -> Option<String> {
        let mut parts = cookie.split(';');
        let pair = parts.next()?;
        let name = pair.split('=').next().unwrap_or_default().trim();
        let flags = self.flags.iter().find(|rule| rule.name.matches(name));
        let mut out = pair.to_owned();
        let mut is_changed = false;
        let mut has = (false, false, false);
        for part in parts {
            let (key, value) = match part.split_once('=') {
                Some((key, value)) => (key.trim(), Some(value.trim())),
                None => (part.trim(), None),
            };
            let is = |known: &str| key.eq_ignore_ascii_case(known);
            let value = value.unwrap_or_default();
            // A dot before a domain has no meaning (RFC 6265, 5.2.3), and stays.
            let (dot, value) = match value.strip_prefix('.') {
                Some(bare) if is("domain") => (".", bare),
                _ => ("", value),
            };
            let rules = match () {
                () if is("domain") => &self.domain,
                () if is("path") => &self.path,
                () => &[][..],
            };
            if let Some(new) = first(rules, value) {
                is_changed = true;
                let _written = write!(out, "; {key}={dot}{new}");
                continue;
            }
            if let Some(flags) = flags {
                has.0 |= is("secure");
                has.1 |= is("httponly");
                has.2 |= is("samesite");
                let stays = match () {
                    () if is("secure") => flags.secure != Some(false),
                    () if is("httponly") => flags.http_only != Some(false),
                    () if is("samesite") => flags.same_site != Some(SameSite::Remove),
                    () => true,
                };
                if !stays {
                    is_changed = true;
                    continue;
                }
                let site = flags.same_site.and_then(SameSite::text);
                if let Some(site) = site.filter(|_| is("samesite")) {
                    is_changed = true;
                    let _written = write!(out, "; {key}={site}");
                    continue;
                }
            }
            out.push(';');
            out.push_str(part);
        }
        if let Some(flags) = flags {
            for (name, is_wanted) in [
                ("Secure", flags.secure == Some(true) && !has.0),
                ("HttpOnly", flags.http_only == Some(true) && !has.1),
            ] {
                if is_wanted {
                    is_changed = true;
                    let _ = write!(out, "; {name}");
                }
            }
            if let Some(site) = flags.same_site.and_then(SameSite::text)
                && !has.2
            {
                is_changed = true;
                let _ = write!(out, "; SameSite={site}");
            }
        }
        is_changed.then_some(out)
    }
}
