//! Flood guard of a configuration: the limits, the exempt clients, the rule for bans, and the
//! challenge for suspicious browsers.

use std::{net::IpAddr, sync::Arc, time::Duration};

use edgeway_base::{
    net::CidrSet,
    units::{Rate, Span},
};
use edgeway_config::{
    diagnostic::Place,
    model::{BanConfig, FloodChallengeConfig, FloodGuardConfig},
    tree::Spanned,
};
use edgeway_core::limits::{
    StrikeRule, bans,
    clearance::Clearance,
    flood::{InFlightCounts, Windows},
};
use edgeway_routes::{self as routes, Slashes};
use http::{HeaderName, Uri};

use super::compile::Compiler;

/// A shorter window is too noisy, and a longer one refuses for too long.
const MIN_WINDOW: Duration = Duration::from_millis(100);
const MAX_WINDOW: Duration = Duration::from_mins(1);

/// With fewer counters clients are mistaken for one another; more take seconds to clear.
const CLIENTS: std::ops::RangeInclusive<u32> = 1024..=4_194_304;

const MIN_KEY_LEN: usize = 32;

/// Guard in front of every route.
pub struct FloodGuard {
    /// Limit on requests of one client in a window.
    pub requests: u64,
    pub in_flight: u64,
    pub windows: Arc<Windows>,
    pub in_flight_counts: Arc<InFlightCounts>,
    exempt: CidrSet,
    /// Rule for banning a client after refusals; no bans if absent.
    pub ban: Option<StrikeRule>,
    pub challenge: Option<Challenge>,
}

/// Challenge page for a browser that sends too many requests.
pub struct Challenge {
    /// Requests of one client in a window above which it must pass the challenge.
    pub above: u64,
    /// URL up to the value of its last query parameter, which is appended.
    pub location: String,
    pub cookie: String,
    pub clearance: Clearance,
    /// Host of the URL, if it has one, and its path: requests there are part of passing the
    /// challenge.
    host: Option<String>,
    path: String,
}

impl FloodGuard {
    /// Returns true if this client is exempt.
    #[inline]
    pub fn spares(&self, client: IpAddr) -> bool {
        self.exempt.contains(client)
    }
}

impl Challenge {
    /// Returns true if the target is the challenge page or below it.
    pub fn is_at(&self, host: &str, path: &[u8]) -> bool {
        let is_here = self.host.as_deref().is_none_or(|own| own == host);
        let rest = path.strip_prefix(self.path.as_bytes());
        is_here
            && rest.is_some_and(|rest| {
                rest.is_empty() || rest.starts_with(b"/") || self.path.ends_with('/')
            })
    }
}

impl Compiler<'_> {
    pub(super) fn flood_guard(&mut self) -> Option<FloodGuard> {
        let file = self.file;
        let Spanned { value, place } = file.flood_guard.as_ref()?;
        let requests = &value.requests;
        let (ban, challenge) = self.checked(|own| {
            own.check_sizes(value, *place);
            let ban = value.ban.as_ref().and_then(|ban| own.ban(ban));
            let challenge = value.challenge.as_ref();
            let challenge = challenge.and_then(|challenge| own.challenge(challenge, requests));
            (ban, challenge)
        })?;
        let world = self.world;
        let clients = usize::try_from(value.clients.value).unwrap_or(usize::MAX);
        let windows = Windows::get(&world.zones, &world.clock, requests.value.per, clients);
        let turning = Arc::clone(&windows);
        self.work.add_about("flood guard", &windows, move || {
            Arc::clone(&turning).turn_on()
        });
        Some(FloodGuard {
            requests: u64::from(requests.value.count),
            in_flight: u64::from(value.in_flight.value),
            windows,
            in_flight_counts: InFlightCounts::get(&world.zones),
            exempt: value.exempt.iter().copied().collect(),
            ban,
            challenge,
        })
    }

    fn check_sizes(&mut self, config: &FloodGuardConfig, section: Place) {
        let (requests, in_flight, clients) = (&config.requests, &config.in_flight, &config.clients);
        if !(MIN_WINDOW..=MAX_WINDOW).contains(&requests.value.per) {
            self.at(requests.place, "edgeway::flood_guard::requests")
                .error(
                    format!(
                        "`{}` counts over {}, and the guard counts over {} to {}",
                        requests.value,
                        Span(requests.value.per),
                        Span(MIN_WINDOW),
                        Span(MAX_WINDOW),
                    ),
                    "write a rate such as `100/s`; for a longer time use `rate_limits`",
                );
        }
        if in_flight.value == 0 {
            self.at(in_flight.place, "edgeway::flood_guard::in_flight")
                .error(
                    "`in_flight: 0` would refuse every request",
                    "write how many requests one address may have in flight, such as `512`",
                );
        } else if let Some(streams) = self.most_streams().filter(|most| *most > in_flight.value) {
            let is_written = in_flight.place != Place::default();
            let place = if is_written { in_flight.place } else { section };
            self.at(place, "edgeway::flood_guard::in_flight").warn(
                format!(
                    "`in_flight: {}` refuses requests of a single browser: `http2` allows \
                         {streams} at once on one connection",
                    in_flight.value
                ),
                "write a multiple of that, because people behind one address share it, or a \
                     smaller `concurrent_streams` at the listener",
            );
        }
        if !CLIENTS.contains(&clients.value) {
            self.at(clients.place, "edgeway::flood_guard::clients")
                .error(
                    format!(
                        "`clients: {}` is not from {} to {}",
                        clients.value,
                        CLIENTS.start(),
                        CLIENTS.end()
                    ),
                    "write how many different addresses come at a time, such as `65536`",
                );
        }
    }

    /// Returns how many requests a connection may have in flight at most; `None` without HTTP/2.
    fn most_streams(&self) -> Option<u32> {
        let listeners = self.file.listeners.iter();
        listeners
            .filter(|l| l.http2.enabled && (l.tls.is_some() || l.http2.cleartext))
            .map(|listener| listener.http2.concurrent_streams)
            .max()
    }

    fn ban(&mut self, config: &Spanned<BanConfig>) -> Option<StrikeRule> {
        let Spanned { value, place } = config;
        let (within, lasts) = (value.within.0, value.lasts.0);
        let problem = if value.after == 0 {
            "`after: 0` would ban every client".to_owned()
        } else if within < Duration::from_secs(1) || within > Duration::from_hours(24) {
            format!("`within: {}` is not from 1s to 1d", value.within)
        } else if !(bans::MIN_DURATION..=bans::MAX_DURATION).contains(&lasts) {
            format!("`for: {}` is not from 1s to 366d", value.lasts)
        } else {
            return Some(StrikeRule {
                after: value.after,
                within,
                lasts,
            });
        };
        self.at(*place, "edgeway::flood_guard::ban").refuse(
            problem,
            "write it such as `{ after: 20, within: 1min, for: 10min }`",
        )
    }

    fn challenge(
        &mut self,
        config: &Spanned<FloodChallengeConfig>,
        requests: &Spanned<Rate>,
    ) -> Option<Challenge> {
        let written = &config.value;
        let (redirect, above, cookie) = (&written.redirect, &written.above, &written.cookie);
        let (key, lasts) = (&written.key, &written.lasts);
        let slashes = self.slashes();
        let target = target(&redirect.value, slashes);
        let mut wrong = |place: Place, message: String, help: &str| {
            self.at(place, "edgeway::flood_guard::challenge")
                .error(message, help);
        };
        if target.is_none() {
            wrong(
                redirect.place,
                format!("invalid challenge page `{}`", redirect.value),
                "write a URL such as `https://check.example.com/`, or a path such as `/challenge`",
            );
        }
        // The page and everything below it are never challenged.
        let is_everything = matches!(&target, Some((None, path)) if path == "/");
        if is_everything {
            wrong(
                redirect.place,
                format!(
                    "`{}` and all below it is the whole site: no client would be challenged",
                    redirect.value
                ),
                "give the page a path of its own, such as `/challenge`, or a host of its own",
            );
        }
        let in_window = in_window(above.value, requests.value.per);
        let above_right = in_window > 0 && in_window < u64::from(requests.value.count);
        if !above_right {
            wrong(
                above.place,
                format!(
                    "`above: {}` is {in_window} in {}, and must be at least 1 and less than `requests: {}`",
                    above.value,
                    Span(requests.value.per),
                    requests.value,
                ),
                "beyond `requests` everything is refused; challenge well below, such as at a third",
            );
        }
        // RFC 6265, 4.1.1: a token, as header names are.
        let is_name = HeaderName::from_bytes(cookie.value.as_bytes()).is_ok();
        if !is_name {
            wrong(
                cookie.place,
                format!("invalid cookie name `{}`", cookie.value),
                "write a name of letters, digits, `-` and `_`",
            );
        }
        let text = key.value.reveal();
        let is_key = text.len() >= MIN_KEY_LEN && text.bytes().all(|b| b.is_ascii_graphic());
        if !is_key {
            wrong(
                key.place,
                format!("the key has fewer than {MIN_KEY_LEN} characters, or invisible ones"),
                "`openssl rand -hex 32 > challenge.key` makes one; then write `key: file:challenge.key`",
            );
        }
        let is_lasting = lasts.value.0 >= Duration::from_secs(1);
        if !is_lasting {
            wrong(
                lasts.place,
                format!("`for: {}` lets no client pass", lasts.value),
                "write how long a cookie may last, such as `1h`",
            );
        }
        if is_everything || !(above_right && is_name && is_key && is_lasting) {
            return None;
        }
        let (host, path) = target?;
        let url = &redirect.value;
        let joint = if url.contains('?') { '&' } else { '?' };
        Some(Challenge {
            above: in_window,
            location: format!("{url}{joint}return="),
            cookie: cookie.value.clone(),
            clearance: Clearance::new(&key.value, lasts.value.0),
            host,
            path,
        })
    }
}

/// Returns the number of requests that this rate allows in `window`.
fn in_window(rate: Rate, window: Duration) -> u64 {
    let count = u128::from(rate.count) * window.as_nanos() / rate.per.as_nanos().max(1);
    u64::try_from(count).unwrap_or(u64::MAX)
}

/// Returns the host, if there is one, and the path of a redirect target.
fn target(url: &str, slashes: Slashes) -> Option<(Option<String>, String)> {
    let is_plain = url.bytes().all(|b| b.is_ascii_graphic()) && !url.contains('#');
    // `//host` is another site, and browsers read `/\host` the same way.
    let is_path = url.starts_with('/') && !url[1..].starts_with(['/', '\\']);
    let uri: Uri = url.parse().ok().filter(|_| is_plain)?;
    let host = match uri.scheme_str() {
        Some("http" | "https") => {
            let authority = uri.authority()?.as_str().as_bytes();
            Some(routes::host_of(authority).ok()?.into_owned())
        }
        None if is_path => None,
        _ => return None,
    };
    let normal = routes::normalise(uri.path().as_bytes(), slashes).ok()?;
    let path = match normal.rewritten() {
        Some(path) => String::from_utf8(path).ok()?,
        None => uri.path().to_owned(),
    };
    Some((host, path))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{World, compile, load_text};

    const KEY: &str = "key: 0123456789abcdef0123456789abcdef";

    fn compiled(flood_guard: &str) -> (Option<FloodGuard>, Vec<String>) {
        compiled_at("127.0.0.1:8080", flood_guard)
    }

    fn compiled_at(listener: &str, flood_guard: &str) -> (Option<FloodGuard>, Vec<String>) {
        let yaml = format!(
            "listeners: [{{ address: {listener} }}]\nroutes: [{{ match: {{}}, respond: ok }}]\n\
             flood_guard: {flood_guard}\n"
        );
        let loaded = load_text("t.yaml", &yaml);
        let file = loaded
            .file
            .unwrap_or_else(|| panic!("{:?}", loaded.diagnostics));
        let (gateway, diagnostics) = compile(&file, Path::new("."), &World::default());
        let messages = diagnostics
            .list()
            .iter()
            .map(|d| d.message.clone())
            .collect();
        (gateway.and_then(|gateway| gateway.flood_guard), messages)
    }

    #[track_caller]
    fn refused(flood_guard: &str, expected: &str) {
        let (guard, messages) = compiled(flood_guard);
        assert!(guard.is_none());
        assert_eq!(messages, [expected], "{flood_guard}");
    }

    fn challenge(redirect: &str) -> Option<Challenge> {
        let yaml = format!("{{ challenge: {{ redirect: '{redirect}', above: 30/s, {KEY} }} }}");
        compiled(&yaml).0?.challenge
    }

    #[test]
    fn without_the_section_there_is_no_guard_and_an_empty_one_has_defaults() {
        assert!(compiled("").0.is_none());
        let guard = compiled("{}").0.unwrap();
        assert_eq!((guard.requests, guard.in_flight), (100, 512));
        assert!(guard.ban.is_none() && guard.challenge.is_none());
        let guard = compiled("{ ban: {}, exempt: [10.0.0.0/8] }").0.unwrap();
        let ban = guard.ban.unwrap();
        assert_eq!(
            (ban.after, ban.within.as_secs(), ban.lasts.as_secs()),
            (20, 60, 600)
        );
        assert!(guard.spares("10.1.2.3".parse().unwrap()));
        assert!(!guard.spares("11.1.2.3".parse().unwrap()));
    }

    #[test]
    fn a_setting_that_would_refuse_every_request_is_refused() {
        refused(
            "{ requests: 1000/15min }",
            "`1000/15min` counts over 15min, and the guard counts over 100ms to 1min",
        );
        refused(
            "{ in_flight: 0 }",
            "`in_flight: 0` would refuse every request",
        );
        refused(
            "{ clients: 10 }",
            "`clients: 10` is not from 1024 to 4194304",
        );
        refused("{ ban: { after: 0 } }", "`after: 0` would ban every client");
        refused(
            "{ ban: { within: 10ms } }",
            "`within: 10ms` is not from 1s to 1d",
        );
        refused("{ ban: { for: 0s } }", "`for: 0s` is not from 1s to 366d");
    }

    #[test]
    fn a_limit_that_refuses_a_single_browser_is_warned_of() {
        let of = |http2: &str| {
            let listener = format!("127.0.0.1:8080, http2: {{ {http2} }} ");
            compiled_at(&listener, "{ in_flight: 100 }")
        };
        let (guard, messages) = of("cleartext: true");
        assert_eq!(guard.unwrap().in_flight, 100);
        assert_eq!(
            messages,
            [
                "`in_flight: 100` refuses requests of a single browser: `http2` allows 128 at once \
                 on one connection"
            ]
        );
        for none in ["cleartext: true, concurrent_streams: 50", ""] {
            assert_eq!(of(none).1, [""; 0], "{none}");
        }
    }

    #[test]
    fn a_challenge_is_complete() {
        let with = |more: &str| format!("{{ challenge: {{ redirect: /c, {more} }} }}");
        let above = "and must be at least 1 and less than `requests: 100/s`";
        refused(
            &with(&format!("above: 100/s, {KEY}")),
            &format!("`above: 100/s` is 100 in 1s, {above}"),
        );
        refused(
            &with(&format!("above: 30/min, {KEY}")),
            &format!("`above: 30/min` is 0 in 1s, {above}"),
        );
        refused(
            &with("above: 30/s, key: short"),
            "the key has fewer than 32 characters, or invisible ones",
        );
        refused(
            &with(&format!("above: 30/s, cookie: 'a b', {KEY}")),
            "invalid cookie name `a b`",
        );
        for url in [
            "//evil.test/",
            "/\\evil.test",
            "ftp://a.test/",
            "c",
            "/c#x",
            "javascript:x",
        ] {
            let yaml = format!("{{ challenge: {{ redirect: '{url}', above: 30/s, {KEY} }} }}");
            refused(&yaml, &format!("invalid challenge page `{url}`"));
        }
        for url in ["/", "/?x=1"] {
            let yaml = format!("{{ challenge: {{ redirect: '{url}', above: 30/s, {KEY} }} }}");
            let explanation = "and all below it is the whole site: no client would be challenged";
            refused(&yaml, &format!("`{url}` {explanation}"));
        }
    }

    #[test]
    fn the_page_of_the_challenge_is_known_by_host_and_path() {
        let here = challenge("/challenge?x=1").unwrap();
        assert_eq!(here.location, "/challenge?x=1&return=");
        for path in ["/challenge", "/challenge/", "/challenge/app.js"] {
            assert!(here.is_at("any.test", path.as_bytes()), "{path}");
        }
        for path in ["/", "/challenges", "/a/challenge"] {
            assert!(!here.is_at("any.test", path.as_bytes()), "{path}");
        }
        let there = challenge("https://Check.example.com").unwrap();
        assert_eq!(there.location, "https://Check.example.com?return=");
        assert!(there.is_at("check.example.com", b"/"));
        assert!(!there.is_at("www.example.com", b"/"));
    }
}
