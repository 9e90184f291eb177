//! Words of nginx, Caddy, Traefik and `HAProxy`, with the form to write here.

edgeway_base::enum_table! {
    /// Sections of the file in which keys are written: each with its name in the table, its place
    /// for readers, and a key that no other level has.
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
        // A filter: `defaults` has them too.
        Route = ("route", "at a route", "compression"),
        Match = ("match", "in a route's `match`", "path_regex"),
        RouteCache = ("route_cache", "in a route's `cache`", "by_status"),
    }
}

/// A form to write in place of words of other gateways.
#[derive(Clone, Copy, Debug)]
pub struct Translation {
    /// In lower case, with `_`, separated by spaces.
    pub words: &'static str,
    pub level: Level,
    /// Entries of the level.
    pub write: &'static str,
}

/// Help for a word of another gateway.
pub(crate) struct Translated {
    pub(crate) help: String,
    /// Key that was meant, if it belongs to the same level.
    pub(crate) key: Option<&'static str>,
}

impl Translation {
    /// Returns the first key to write.
    fn key(self) -> &'static str {
        self.write.split(':').next().unwrap_or_default()
    }
}

/// Translates a word of another gateway at a level that has keys.
pub(crate) fn translate(word: &str, has: impl Fn(&str) -> bool) -> Option<Translated> {
    let word = word.to_ascii_lowercase().replace('-', "_");
    let is_here = |entry: &Translation| has(entry.level.row().2) && has(entry.key());
    let is_meant = |entry: &Translation| entry.words.split(' ').any(|own| own == word);
    let mut here = translations().filter(is_meant).filter(is_here);
    if let Some(entry) = here.next() {
        return Some(Translated {
            help: format!("write `{}`", entry.write),
            key: Some(entry.key()),
        });
    }
    let entry = translations().find(is_meant)?;
    Some(Translated {
        help: format!("write `{}` {}", entry.write, entry.level.row().1),
        key: None,
    })
}

/// Returns every translation: a line is a level, words and the form to write.
pub fn translations() -> impl Iterator<Item = Translation> {
    let lines = include_str!("other_gateways.txt").lines();
    lines.filter_map(|line| {
        let mut parts = line.splitn(3, " | ");
        let name = parts.next()?;
        Some(Translation {
            level: Level::ALL.into_iter().find(|level| level.row().0 == name)?,
            words: parts.next()?,
            write: parts.next()?,
        })
    })
}
