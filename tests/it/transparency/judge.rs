//! Decides whether the origin could have sent one request's response to another request.

use std::collections::BTreeSet;

use serde_json::Value;

use super::draw::Route;
use crate::support::client::Response;

/// Request that the origin received, as its response describes it, and the response headers.
#[derive(Clone, Debug)]
pub(super) struct Reflection {
    origin: String,
    target: String,
    headers: Vec<(String, String)>,
    /// `Cache-Control` of the response; `cache_control_now` has later updates.
    cache_control: String,
    cache_control_now: String,
    vary: BTreeSet<String>,
    /// Index of the route that the gateway chose for the request.
    pub(super) route: usize,
}

impl Reflection {
    /// Parses a response; `None` if it did not come from the origin.
    pub(super) fn of(response: &Response) -> Option<Self> {
        if response.status() != 200 {
            return None;
        }
        let body = response.json();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let pairs = body["headers"].as_array().expect("a list").iter();
        // A validated response has the headers of a 304: it varies by both.
        let vary = response.headers.get_all("vary");
        let vary = vary.chain(body["vary"].as_str());
        Some(Self {
            origin: text(&body["origin"]),
            target: text(&body["target"]),
            headers: pairs.map(|pair| (text(&pair[0]), text(&pair[1]))).collect(),
            cache_control: text(&body["cache_control"]),
            cache_control_now: response.header("cache-control").unwrap_or_default().into(),
            vary: vary
                .flat_map(|line| line.split(','))
                .map(|name| name.trim().to_ascii_lowercase())
                .filter(|name| !name.is_empty())
                .collect(),
            route: response.header("x-route")?.parse().ok()?,
        })
    }

    pub(super) fn vary(&self) -> &BTreeSet<String> {
        &self.vary
    }

    fn values(&self, name: &str) -> Vec<&str> {
        let headers = self.headers.iter();
        let named = headers.filter(|(own, _)| own.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.as_str()).collect()
    }

    /// Returns the cookies as four frameworks read them: names and values.
    fn readings(&self) -> [Vec<(String, String)>; 4] {
        let line = self.values("cookie").join("; ");
        [
            // npm's `cookie`: whitespace of any kind is ignored.
            pairs(line.split(';').map(str::trim)),
            // koa's `cookies`: spaces around `=` count.
            pairs(line.split(';').map(|pair| pair.trim_start_matches(' '))),
            // Python's `SimpleCookie`: a space is an end as well, and `;` between quotes is not.
            pairs(split_outside_quotes(&line, true).into_iter()),
            pairs(split_outside_quotes(&line, false).into_iter()),
        ]
    }

    /// Returns the values of one cookie in each of these readings.
    fn cookies(&self, name: &str) -> [Vec<String>; 4] {
        self.readings().map(|pairs| {
            let named = pairs.into_iter().filter(|(own, _)| own == name);
            named.map(|(_, value)| value).collect()
        })
    }

    fn has_cookie(&self, name: &str) -> bool {
        self.cookies(name).iter().any(|values| !values.is_empty())
    }

    pub(super) fn is_storable(&self) -> bool {
        !self.has_directive("private") && !self.has_directive("no-store")
    }

    fn target_without(&self, unkeyed: &[&str]) -> String {
        let Some((path, query)) = self.target.split_once('?') else {
            return self.target.clone();
        };
        let decoded = |name: &str| {
            let name = percent_encoding::percent_decode_str(name).decode_utf8_lossy();
            name.into_owned()
        };
        let is_keyed = |pair: &&str| {
            let name = decoded(pair.split('=').next().unwrap_or_default());
            !unkeyed.iter().any(|own| name.starts_with(own))
        };
        let keyed: Vec<&str> = query.split('&').filter(is_keyed).collect();
        match keyed[..] {
            [] => path.to_owned(),
            _ => format!("{path}?{}", keyed.join("&")),
        }
    }

    fn has_directive(&self, directive: &str) -> bool {
        let lines = [&self.cache_control, &self.cache_control_now];
        let mut all = lines
            .into_iter()
            .flat_map(|line| line.split([',', '\r']).map(str::trim));
        all.any(|own| own == directive || own.starts_with(&format!("{directive}=")))
    }
}

fn pairs<'p>(pairs: impl Iterator<Item = &'p str>) -> Vec<(String, String)> {
    pairs
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

fn split_outside_quotes(line: &str, at_blanks: bool) -> Vec<&str> {
    let mut is_quoted = false;
    let parts = line.split(|c: char| {
        is_quoted ^= c == '"';
        !is_quoted && (c == ';' || (at_blanks && c.is_ascii_whitespace()))
    });
    parts.map(str::trim).collect()
}

/// Compares `stored`, the request that the origin received for the response, with `own`, the
/// request that it would receive now. By RFC 9111, 4, nothing else matters but what is named here
/// or in `Vary`.
pub(super) fn may_be_served(
    stored: &Reflection,
    own: &Reflection,
    route: &Route,
) -> Result<(), String> {
    let same = |part: &str, is_same: bool| {
        is_same
            .then_some(())
            .ok_or_else(|| format!("another {part}"))
    };
    same("origin", stored.origin == own.origin)?;
    let unkeyed = route.passed_parameters();
    let targets = [stored, own].map(|it| it.target_without(unkeyed));
    same("target", targets[0] == targets[1])?;
    let by = "x-original-url";
    same("original URL", stored.values(by) == own.values(by))?;
    let written = [
        "host",
        "x-forwarded-host",
        "x-forwarded-proto",
        "x-forwarded-port",
        "x-client-verify",
    ];
    for name in written.into_iter().chain(route.written()) {
        same(name, stored.values(name) == own.values(name))?;
    }
    for name in &stored.vary {
        // Edgeway's own compression differs by this header, and not the response of the origin.
        let is_ours = name == "accept-encoding" && route.compresses;
        if name == "host" || is_ours {
            continue;
        }
        let joined = |it: &Reflection| -> Vec<String> {
            let values = it.values(name).join(", ");
            values
                .split(',')
                .map(|part| part.trim().to_owned())
                .collect()
        };
        same(
            &format!("{name}, by which it varies"),
            joined(stored) == joined(own),
        )?;
    }
    for part in &route.key {
        match part.split_once(':') {
            Some(("header", name)) => {
                same(part, stored.values(name) == own.values(name))?;
                same("value than one", stored.values(name).len() <= 1)?;
            }
            Some(("cookie", name)) => {
                same(part, stored.cookies(name) == own.cookies(name))?;
                let [npm, ..] = stored.cookies(name);
                same("value than one", npm.len() <= 1)?;
            }
            _ => same(part, stored.values("x-user-id") == own.values("x-user-id"))?,
        }
    }
    match route.value.and_then(|value| value.split_once('.')) {
        Some(("header", name)) => {
            let value = |it: &Reflection| it.values(name).join(", ");
            same("value", value(stored) == value(own))?;
            same("value than one", stored.values(name).len() <= 1)?;
        }
        Some((_, name)) => {
            let values = |it: &Reflection| {
                it.cookies(name).map(|all| {
                    all.into_iter()
                        .filter(|one| !one.is_empty())
                        .collect::<Vec<_>>()
                })
            };
            same("value", values(stored) == values(own))?;
        }
        None => {}
    }
    if let Some(("cookie", name)) = route.no_store.and_then(|value| value.split_once('.')) {
        let values = stored.cookies(name);
        let mut values = values.iter().flatten();
        same(
            "way than not stored",
            values.all(|value| matches!(&**value, "" | "0")),
        )?;
    }
    if let Some(name) = route.bypass.and_then(|part| part.strip_prefix("cookie:")) {
        let has_one = stored.has_cookie(name) || own.has_cookie(name);
        same("way than past the cache", !has_one)?;
    }
    personal(stored, own, route)
}

/// Checks that a response for one client reaches others only if the origin allows it.
fn personal(stored: &Reflection, own: &Reflection, route: &Route) -> Result<(), String> {
    let is_for_all = stored.has_directive("public") || stored.has_directive("s-maxage");
    for name in ["authorization", "x-user-id", "x-client-cert-fingerprint"] {
        if name == "x-user-id" && !route.knows_users() {
            // Without an identity filter it is an ordinary client header.
            continue;
        }
        let (theirs, mine) = (stored.values(name), own.values(name));
        let is_allowed = is_for_all
            || (stored.has_directive("must-revalidate") && name != "x-client-cert-fingerprint");
        if !theirs.is_empty() && theirs != mine && !is_allowed && !route.names_user() {
            return Err(format!("it was made for whoever has another {name}"));
        }
    }
    let is_identified = route.ignores_cookies || route.names_user();
    let is_keyed = |name: &str| route.key.contains(&&*format!("cookie:{name}"));
    let readings = stored.readings();
    let mut names = readings.iter().flatten().map(|(name, _)| name.as_str());
    let has_others = !names.all(is_keyed);
    let is_same = stored.values("cookie") == own.values("cookie");
    if !is_identified && has_others && !is_for_all && !is_same {
        return Err("it was made for whoever has other cookies".to_owned());
    }
    if stored.is_storable() {
        Ok(())
    } else {
        Err("it was not to be stored".to_owned())
    }
}
