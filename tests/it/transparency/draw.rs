//! Random configurations and requests.

use std::net::SocketAddr;

use fastrand::Rng;
use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::json;

use super::{CACHE_CONTROL, PROXY, VARY, judge::Reflection};
use crate::support::client::{Request, get};

pub(super) const HOSTS: [&str; 2] = ["a.test", "b.test"];

/// Secrets that sign the tokens of the issuers.
const SECRETS: [&str; 2] = [
    "thirty-two bytes that nobody else knows",
    "thirty-two others, which nobody knows either",
];

/// Indices into [`VARY`].
const COOKIE: usize = 4;
const LANGUAGE: usize = 5;
const ENCODING: usize = 10;

/// Random route.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is one key of a route")]
pub(super) struct Route {
    host: usize,
    /// Predicate of the route besides its path; empty for none.
    predicate: &'static str,
    upstream: usize,
    rewrite: Option<&'static str>,
    headers: Option<&'static str>,
    passes_override: bool,
    /// Index of the secret that signs its tokens.
    jwt: Option<usize>,
    pub(super) compresses: bool,
    query: &'static str,
    passes_unkeyed: bool,
    pub(super) key: Vec<&'static str>,
    pub(super) ignores_cookies: bool,
    pub(super) bypass: Option<&'static str>,
    /// Placeholder in the key.
    pub(super) value: Option<&'static str>,
    /// Placeholder of requests whose responses are not stored.
    pub(super) no_store: Option<&'static str>,
}

#[derive(Clone, Debug)]
pub(super) struct Configuration {
    routes: Vec<Route>,
    /// Paths; few, so that requests repeat.
    paths: Vec<String>,
    bases: Vec<Drawn>,
}

/// Way in which a request arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    Plain,
    /// From a trusted proxy.
    Proxy,
    Tls,
    /// At a listener that requests client certificates, with this one; 0 for none.
    Asked(usize),
}

/// Random request.
#[derive(Clone, Debug)]
pub(super) struct Drawn {
    pub(super) by: By,
    pub(super) host: usize,
    target: String,
    headers: Vec<(&'static str, String)>,
}

fn one<T: Copy>(random: &mut Rng, of: &[T]) -> T {
    *random.choice(of).expect("there are some")
}

impl Route {
    fn draw(random: &mut Rng, host: usize, predicate: &'static str) -> Self {
        let jwt = one(random, &[None, None, Some(0), Some(1)]);
        let parts = ["header:X-Tenant", "cookie:lang", "header:X-Original-URL"];
        let mut key: Vec<_> = parts.into_iter().filter(|_| random.u8(..4) == 0).collect();
        if jwt.is_some() && random.bool() {
            key.push("jwt.sub");
        }
        let query = one(
            random,
            &["", "", "ignore_query: ['utm_*']", "query: [page, t]"],
        );
        Self {
            host,
            predicate,
            upstream: one(random, &[0, 0, 1]),
            rewrite: one(random, &[None, None, Some("/r1/"), Some("/r2/")]),
            headers: one(
                random,
                &[
                    None,
                    None,
                    Some("set: { X-Set: one }"),
                    Some("set: { X-Set: '{client.ip}' }"),
                    Some("remove: [Accept-Language, X-Set]"),
                    Some("add: { X-Set: '{host}' }, remove: ['X-Api-*']"),
                ],
            ),
            passes_override: random.u8(..3) == 0,
            jwt,
            compresses: random.bool(),
            query,
            passes_unkeyed: !query.is_empty() && random.u8(..3) == 0,
            key,
            ignores_cookies: random.bool(),
            bypass: one(
                random,
                &[None, None, Some("cookie:preview"), Some("query:fresh")],
            ),
            value: one(
                random,
                &[None, None, Some("header.X-Tenant"), Some("cookie.lang")],
            ),
            no_store: one(random, &[None, None, Some("cookie.preview")]),
        }
    }

    fn yaml(&self, number: usize, keeps: bool) -> String {
        let predicate = match self.predicate {
            "" => String::new(),
            predicate => format!(", {predicate}"),
        };
        let mut yaml = format!(
            "  - name: r{number}\n    match: {{ host: {}, path: '/*'{predicate} }}\n    upstream: u{}\n",
            HOSTS[self.host], self.upstream
        );
        if let Some(with) = self.rewrite {
            yaml.push_str(&format!("    rewrite: {{ prefix: /, with: {with} }}\n"));
        }
        let request = self
            .headers
            .map(|changes| format!(", request: {{ {changes} }}"));
        yaml.push_str(&format!(
            "    headers: {{ response: {{ set: {{ X-Route: '{number}' }} }}{} }}\n",
            request.unwrap_or_default()
        ));
        if self.passes_override {
            yaml.push_str("    pass_headers: [X-Original-URL]\n");
        }
        if let Some(secret) = self.jwt {
            yaml.push_str(&format!(
                "    jwt: {{ keys: '{}', optional: true, forward: {{ sub: X-User-Id }} }}\n",
                SECRETS[secret]
            ));
        }
        yaml.push_str(&format!("    compression: {}\n", self.compresses));
        let mut key = vec![format!("by: {:?}", self.key)];
        if !self.query.is_empty() {
            key.push(self.query.to_owned());
        }
        if self.passes_unkeyed {
            key.push("pass_unkeyed: true".to_owned());
        }
        key.extend(self.value.map(|name| format!("values: ['{{{name}}}']")));
        let mut cache = vec![format!("key: {{ {} }}", key.join(", "))];
        if self.ignores_cookies {
            cache.push("anonymous_cookies: ['*']".to_owned());
        }
        cache.extend(self.bypass.map(|part| format!("bypass: ['{part}']")));
        let no_store = self.no_store;
        cache.extend(no_store.map(|name| format!("no_store_if: ['{{{name}}}']")));
        if !keeps {
            cache.push("max_object: 1B".to_owned());
        }
        yaml.push_str(&format!("    cache: {{ {} }}\n", cache.join(", ")));
        yaml
    }

    /// Returns prefixes of the parameters that go to the origin and are not in the key.
    pub(super) fn passed_parameters(&self) -> &'static [&'static str] {
        match (self.passes_unkeyed, self.query) {
            (true, "ignore_query: ['utm_*']") => &["utm_"],
            (true, "query: [page, t]") => &["utm_", "fresh", "v"],
            _ => &[],
        }
    }

    /// Returns the headers that the route writes from a value of the request.
    pub(super) fn written(&self) -> impl Iterator<Item = &'static str> {
        let is_set = self.headers.is_some_and(|own| own.contains("{client.ip}"));
        let user = self.jwt.map(|_| "x-user-id");
        is_set.then_some("x-set").into_iter().chain(user)
    }

    pub(super) fn knows_users(&self) -> bool {
        self.jwt.is_some()
    }

    pub(super) fn names_user(&self) -> bool {
        self.key.contains(&"jwt.sub")
    }
}

impl Configuration {
    pub(super) fn draw(random: &mut Rng) -> Self {
        let predicates = [
            "",
            "header: { X-Kind: one }",
            "query: { v: '1' }",
            "cookie: { k: '1' }",
        ];
        let mut routes = Vec::new();
        for host in 0..HOSTS.len() {
            for (number, predicate) in predicates.into_iter().enumerate() {
                if number == 0 || random.bool() {
                    routes.push(Route::draw(random, host, predicate));
                }
            }
        }
        let paths = (0..3).map(|number| {
            // A response that must not be stored is seldom useful here.
            let any = random.usize(..CACHE_CONTROL.len());
            let fresh = one(random, &[0, 0, 1, 1, 2, 3, any]);
            let vary = random.usize(..VARY.len());
            if number > 0 {
                return format!("/{fresh}-{vary}");
            }
            // First stale, and then fresh with another `Vary`; perhaps the same all the time.
            let stale = one(random, &[6, 6, 6, 7, 8, 9]);
            let vary = one(random, &[COOKIE, COOKIE, LANGUAGE, vary]);
            let any = random.usize(..VARY.len());
            let other = one(random, &[0, ENCODING, vary, any]);
            let tag = one(random, &["", "-e"]);
            format!("/{stale}-{vary}-{fresh}-{other}{tag}")
        });
        let mut configuration = Self {
            routes,
            paths: paths.collect(),
            bases: Vec::new(),
        };
        let bases = (0..5).map(|_| configuration.base(random));
        configuration.bases = bases.collect();
        configuration
    }

    pub(super) fn yaml(&self, origins: &[SocketAddr; 2], keeps: bool) -> String {
        let mut yaml = format!(
            "trusted_proxies: [{PROXY}/32]
listeners:
  - {{ address: '127.0.0.1:0', name: plain }}
  - {{ address: '127.0.0.1:0', name: tls, tls: {{ certificates: {{ dir: sites }} }} }}
  - {{ address: '127.0.0.1:0', name: asking, tls: {{ certificates: {{ dir: sites }}, client_ca: ca.pem, client_certificate: optional }} }}
upstreams:
  u0: {{ backends: ['{}'], health: false }}
  u1: {{ backends: ['{}'], health: false }}
routes:
",
            origins[0], origins[1]
        );
        for (number, route) in self.routes.iter().enumerate() {
            yaml.push_str(&route.yaml(number, keeps));
        }
        if !self.routes.iter().any(|route| route.upstream == 1) {
            yaml.push_str("  - { match: { host: c.test, path: '/*' }, upstream: u1 }\n");
        }
        if !self.routes.iter().any(|route| route.upstream == 0) {
            yaml.push_str("  - { match: { host: c.test, path: '/*' }, upstream: u0 }\n");
        }
        yaml
    }

    pub(super) fn route(&self, own: &Reflection) -> &Route {
        &self.routes[own.route]
    }

    /// Returns one of a few requests, or one that differs from it slightly.
    pub(super) fn request(&self, random: &mut Rng) -> Drawn {
        let mut drawn = random.choice(&self.bases).expect("there are some").clone();
        for _ in 0..one(random, &[0, 1, 1, 2]) {
            self.change(random, &mut drawn);
        }
        drawn
    }

    fn base(&self, random: &mut Rng) -> Drawn {
        let host = random.usize(..HOSTS.len());
        let mut drawn = Drawn {
            by: by(random),
            host,
            target: random.choice(&self.paths).expect("there are some").clone(),
            headers: vec![("host", HOSTS[host].to_owned())],
        };
        for _ in 0..random.u8(..4) {
            self.change(random, &mut drawn);
        }
        drawn
    }

    fn change(&self, random: &mut Rng, drawn: &mut Drawn) {
        match random.u8(..12) {
            0 => drawn.by = by(random),
            1 => {
                let name = HOSTS[drawn.host];
                let port = one(random, &["", ":80", ":443", ":8080"]);
                let name = if random.bool() {
                    name.to_ascii_uppercase()
                } else {
                    name.to_owned()
                };
                drawn.headers[0].1 = format!("{name}{port}");
            }
            2 | 3 => {
                let path = drawn.target.split('?').next().unwrap_or_default();
                drawn.target = format!("{path}{}", one(random, &QUERIES));
            }
            4 => {
                let path = random.choice(&self.paths).expect("there are some");
                drawn.target.clone_from(path);
            }
            5 if drawn.headers.len() > 1 => {
                let at = random.usize(1..drawn.headers.len());
                drawn.headers.remove(at);
            }
            _ => {
                let (name, value) = header(random);
                if random.u8(..8) > 0 {
                    drawn.headers.retain(|(own, _)| *own != name);
                }
                drawn.headers.push((name, value));
            }
        }
    }
}

const QUERIES: [&str; 10] = [
    "",
    "?utm_source=1",
    "?%75tm_source=2",
    "?page=1",
    "?page=2&utm_x=3",
    "?page=1&page=2",
    "?v=1",
    "?v=1&fresh=1",
    "?fresh[]=1",
    "?t=1",
];

fn by(random: &mut Rng) -> By {
    match random.u8(..8) {
        0..3 => By::Plain,
        3..5 => By::Proxy,
        5 => By::Tls,
        _ => By::Asked(random.usize(..3)),
    }
}

fn token(sub: &str, issuer: &str, secret: usize) -> String {
    let claims = json!({ "sub": sub, "iss": issuer, "exp": 4_000_000_000_u64 });
    let key = EncodingKey::from_secret(SECRETS[secret].as_bytes());
    let token = encode(&Header::default(), &claims, &key).expect("it can sign");
    format!("Bearer {token}")
}

fn header(random: &mut Rng) -> (&'static str, String) {
    const PLAIN: [(&str, &[&str]); 16] = [
        ("x-original-url", &["/admin", "/b"]),
        ("x-kind", &["one"]),
        ("x-tenant", &["a", "b"]),
        ("accept-language", &["de", "en"]),
        ("accept-encoding", &["gzip", "br"]),
        ("x-set", &["one", "forged"]),
        ("x-user-id", &["u1", "u2"]),
        ("x-real-ip", &["10.0.0.1"]),
        ("x-api-name", &["a", "b"]),
        ("x-client-cert-subject", &["CN=ann"]),
        ("x-client-verify", &["SUCCESS"]),
        ("x-forwarded-for", &["10.0.0.1", "10.0.0.2, 10.0.0.3"]),
        ("x-forwarded-host", &["a.test", "evil.test", "a.test:81"]),
        ("x-forwarded-proto", &["http", "https"]),
        ("x-forwarded-port", &["81", "444"]),
        ("forwarded", &["for=10.0.0.9"]),
    ];
    const COOKIES: [&str; 16] = [
        "sid=1; \u{a0}lang=de",
        "sid=1 lang=de",
        "sid=\"1; lang=de\"",
        "; lang=de",
        "sid; lang=de",
        "sid=1\tpreview=1",
        "lang=de; $x=\"; preview=1\"",
        "k=1",
        "lang=de",
        "lang=en",
        "lang=\"de\"",
        "lang=de; lang=en",
        "lang =en",
        "sid=1",
        "sid=2",
        "sid=1; preview=1",
    ];
    match random.u8(..10) {
        0 | 1 => ("cookie", one(random, &COOKIES).to_owned()),
        2 | 3 => {
            let secret = usize::from(random.u8(..4) == 0);
            let token = match random.u8(..8) {
                0 => "Basic eDp5".to_owned(),
                _ => token(
                    one(random, &["u1", "u2"]),
                    one(random, &["i1", "i1", "i2"]),
                    secret,
                ),
            };
            ("authorization", token)
        }
        4 if random.bool() => ("x-tenant", "x".repeat(5000)),
        4 => (
            "connection",
            one(random, &["x-tenant", "keep-alive, accept-language"]).to_owned(),
        ),
        _ => {
            let (name, values) = one(random, &PLAIN);
            (name, one(random, values).to_owned())
        }
    }
}

impl Drawn {
    pub(super) fn request(&self) -> Request {
        let headers = self.headers.iter();
        headers.fold(get(&self.target), |request, (name, value)| {
            request.header(name, value.clone())
        })
    }

    fn values(&self, name: &str) -> Vec<&str> {
        let headers = self.headers.iter();
        let named = headers.filter(|(own, _)| own.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.as_str()).collect()
    }
}

/// Returns true for a cache that compares only URL, `Host` and the client's headers.
pub(super) fn is_alike(one: &Drawn, other: &Drawn, stored: &Reflection) -> bool {
    let is_secure = |it: &Drawn| matches!(it.by, By::Tls | By::Asked(_));
    let mut vary = stored.vary().iter();
    stored.is_storable()
        && one.target == other.target
        && one.values("host") == other.values("host")
        && is_secure(one) == is_secure(other)
        && one.values("authorization") == other.values("authorization")
        && vary.all(|name| one.values(name) == other.values(name))
}
