//! Words of nginx, Caddy, Traefik and `HAProxy`, with the form to write here.

use crate::tree::Value;

edgeway_base::enum_table! {
    /// Sections of the file in which keys are written: each with its name in the table, its place
    /// for readers, and a key that no other level has. One without a place is for its own words.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Level => row: (&'static str, &'static str, &'static str) {
        Top = ("top", "at the top level", "routes"),
        Listener = ("listener", "at a listener", "proxy_protocol"),
        ListenerLimits = ("listener_limits", "in a listener's `limits`", "header_timeout"),
        Tls = ("tls", "in a listener's `tls`", "certificates"),
        Upstream = ("upstream", "at an upstream", "backends"),
        Eject = ("eject", "in an upstream's `eject`", "errors"),
        Health = ("health", "in an upstream's `health`", "interval_down"),
        Timeouts = ("timeouts", "in an upstream's `timeouts`", "first_byte"),
        Retry = ("retry", "in an upstream's `retry`", "budget"),
        Limit = ("limit", "in a limit of `rate_limits`", "tiers"),
        // A filter: `defaults` has them too.
        Route = ("route", "at a route", "compression"),
        Match = ("match", "in a route's `match`", "path_regex"),
        RouteCache = ("route_cache", "in a route's `cache`", "by_status"),
        Cache = ("cache", "", "fan_out"),
        Redis = ("redis", "", "sentinel"),
        Admin = ("admin", "", "socket"),
        AccessLog = ("access_log", "", "redact"),
        Acme = ("acme", "", "directory"),
        Tracing = ("tracing", "", "endpoint"),
        Redirect = ("redirect", "", "to"),
        Respond = ("respond", "", "maintenance"),
        Rewrite = ("rewrite", "", "regex"),
        Headers = ("headers", "", "response"),
        BasicAuth = ("basic_auth", "", "users"),
        Jwt = ("jwt", "", "jwks"),
        Files = ("files", "", "precompressed"),
    }
}

/// A form to write in place of words of other gateways, or advice about them.
#[derive(Clone, Copy, Debug)]
pub struct Translation {
    /// In lower case, with `_`, separated by spaces.
    pub words: &'static str,
    pub level: Level,
    /// Entries of the level; advice begins with `!`.
    pub write: &'static str,
    /// Entries that switch it off, if it is on without a key.
    pub off: Option<&'static str>,
}

/// Help for a word of another gateway.
pub(crate) struct Translated {
    pub(crate) help: String,
    /// Key that was meant, if it belongs to the same level.
    pub(crate) key: Option<&'static str>,
}

impl Translation {
    /// Returns the first key to write; `None` for advice.
    fn key(self) -> Option<&'static str> {
        let key = self.write.split(':').next();
        key.filter(|key| !key.starts_with('!'))
    }

    fn is_for(self, has: &impl Fn(&str) -> bool) -> bool {
        has(self.level.row().2) && self.key().is_none_or(has)
    }

    /// Returns the help for `written`, a key that has this meaning.
    fn help(self, written: &str, is_off: bool, place: &str) -> String {
        match (self.write.strip_prefix('!'), self.off) {
            (Some(advice), _) => advice.to_owned(),
            (None, Some(off)) if is_off => format!("write `{off}`{place}"),
            (None, None) if is_off => format!("leave `{written}` out"),
            (None, _) => format!("write `{}`{place}", self.write),
        }
    }
}

/// Returns true if a value says that something is not wanted.
pub(crate) fn is_off(value: &Value) -> bool {
    match value {
        Value::Bool(flag) => !flag,
        Value::Text(text) => ["off", "no", "none", "false", "disabled"].contains(&text.as_str()),
        _ => false,
    }
}

/// Translates a word of another gateway, with this value, at a level that has keys.
pub(crate) fn translate(
    word: &str,
    value: &Value,
    has: impl Fn(&str) -> bool,
) -> Option<Translated> {
    let is_off = is_off(value);
    let plain = word.to_ascii_lowercase().replace('-', "_");
    let is_meant = |entry: &Translation| entry.words.split(' ').any(|own| own == plain);
    let mut here = translations().filter(is_meant);
    if let Some(entry) = here.find(|entry| entry.is_for(&has)) {
        return Some(Translated {
            help: entry.help(word, is_off, ""),
            key: entry.key(),
        });
    }
    // In a section that no other gateway has, its own keys say more than a form for another place.
    let is_shared = |level: Level| !level.row().1.is_empty();
    let mut levels = Level::ALL.into_iter().filter(|level| is_shared(*level));
    if !levels.any(|level| has(level.row().2)) {
        return None;
    }
    let entry = translations().find(|entry| is_meant(entry) && is_shared(entry.level))?;
    Some(Translated {
        help: entry.help(word, is_off, &format!(" {}", entry.level.row().1)),
        key: None,
    })
}

/// Returns the help for a key of this project whose value has the wrong form. `has`: keys of the
/// level; `None` for a filter of a route.
pub(crate) fn form(key: &str, value: &Value, has: Option<&dyn Fn(&str) -> bool>) -> Option<String> {
    let is_here = |entry: &Translation| match has {
        // The filters of a route are read apart from its own keys.
        Some(has) => entry.is_for(&has) || entry.level == Level::Route && has("satisfy"),
        None => entry.level == Level::Route,
    };
    let mut all = translations().filter(|entry| entry.key() == Some(key));
    match all.find(is_here) {
        _ if has.is_none() && is_off(value) => Some(format!("write `{key}: false`")),
        Some(entry) => Some(entry.help(key, is_off(value), "")),
        None if is_off(value) => Some(format!("leave `{key}` out")),
        None => None,
    }
}

/// Returns every translation: a line is a level, words and the form to write, and perhaps the one
/// that switches it off.
pub fn translations() -> impl Iterator<Item = Translation> {
    let lines = include_str!("other_gateways.txt").lines();
    lines.filter_map(|line| {
        let mut parts = line.splitn(4, " | ");
        let name = parts.next()?;
        Some(Translation {
            level: Level::ALL.into_iter().find(|level| level.row().0 == name)?,
            words: parts.next()?,
            write: parts.next()?,
            off: parts.next(),
        })
    })
}
