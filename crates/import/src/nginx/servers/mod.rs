//! Servers: the addresses that they listen on, their names, and who gets what no name takes.

mod addresses;

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
};

use serde_json::{Map, Value, json};

use super::{
    directives::is_listed,
    output::{Part, add_to, put},
    parse::Directive,
    scope::Scope,
    words::{bytes, duration, milliseconds, size},
};

/// A server and the listeners that it has.
pub(super) struct Server<'a> {
    pub(super) directive: &'a Directive,
    pub(super) scope: Scope<'a>,
    /// Names of its listeners.
    listeners: Vec<String>,
    /// Names of the listeners whose default it is.
    default_of: Vec<String>,
    pub(super) hosts: Vec<String>,
    /// True if it is for requests without `Host`.
    is_for_none: bool,
    /// True if nginx has it at an address that no listener has here.
    pub(super) is_unreachable: bool,
}

/// Requests of a server: those for its names, or those that no name takes.
#[derive(Clone, Debug)]
pub(super) struct Audience {
    pub(super) hosts: Vec<String>,
    pub(super) listeners: Vec<String>,
}

/// An address, and what its servers say of it.
struct Listener<'a> {
    name: String,
    address: String,
    is_tls: bool,
    http: HttpOptions,
    certificates: Vec<Value>,
    min_version: Option<&'static str>,
    comment: String,
    /// Position of its default server.
    default: usize,
    has_marked_default: bool,
    first: &'a Directive,
}

/// Options of `listen` beside TLS.
#[derive(Clone, Copy, Debug, Default)]
struct HttpOptions {
    speaks_h2: bool,
    is_proxied: bool,
}

/// All servers of a configuration.
pub(super) struct Servers<'a> {
    pub(super) list: Vec<Server<'a>>,
    listeners: Vec<Listener<'a>>,
}

impl<'a> Servers<'a> {
    /// Returns the default servers of all listeners with TLS, or of all others.
    pub(super) fn defaults(&self, is_tls: bool) -> impl Iterator<Item = &Server<'a>> {
        let listeners = self
            .listeners
            .iter()
            .filter(move |one| one.is_tls == is_tls);
        listeners.map(|one| &self.list[one.default])
    }

    pub(super) fn read(http: &Scope<'a>) -> Self {
        let mut all = Self {
            list: Vec::new(),
            listeners: Vec::new(),
        };
        for directive in http.innermost().iter().filter(|one| one.name == "server") {
            directive.carried("");
            all.server(directive, http);
        }
        all.tls();
        all.join_families();
        all.overlapping();
        all.repeated();
        for listener in &all.listeners {
            let server = &mut all.list[listener.default];
            server.default_of.push(listener.name.clone());
        }
        all.mark_lost();
        all
    }

    /// Reports what servers beside the default one have to themselves with nginx.
    fn mark_lost(&self) {
        for server in &self.list {
            if let Some((nameless, false)) = self.without_host(server) {
                let names = nameless.scope.own("server_name");
                let place = names.first().unwrap_or(&nameless.directive);
                place.weaker(
                    "requests without `Host` get what the default server of the address does",
                );
            }
            let rejects = server.scope.own("ssl_reject_handshake");
            for reject in rejects.iter().filter(|one| one.is_on()) {
                reject.weaker(if server.default_of.is_empty() {
                    "handshakes for these names are not refused"
                } else {
                    "`unknown_names: refuse`: only names that no certificate has are refused"
                });
            }
        }
    }

    /// Returns the server beside a default one that has the requests without `Host`, and true if a
    /// rule can stand for it: it does nothing but return a response.
    pub(super) fn without_host(&self, default: &Server<'a>) -> Option<(&Server<'a>, bool)> {
        let has_them = |one: &&Server<'a>| {
            let mut listeners = one.listeners.iter();
            one.is_for_none && listeners.any(|name| default.default_of.contains(name))
        };
        let first = self.list.iter().find(has_them)?;
        let is_other = first.directive.id != default.directive.id;
        let mut rules = ["if", "set", "rewrite", "break"].iter();
        let is_rule = !first.scope.own("return").is_empty()
            && rules.all(|name| first.scope.own(name).is_empty())
            && default.default_of == default.listeners
            && first.listeners == default.listeners;
        is_other.then_some((first, is_rule))
    }

    fn server(&mut self, directive: &'a Directive, http: &Scope<'a>) {
        let index = self.list.len();
        let scope = http.inner(directive);
        let mut server = Server {
            directive,
            listeners: Vec::new(),
            default_of: Vec::new(),
            hosts: Vec::new(),
            is_for_none: false,
            is_unreachable: false,
            scope,
        };
        server.names();
        let listens = server.scope.own("listen");
        if listens.is_empty() {
            let name = self.listener(index, directive, "80", directive);
            server.listeners.push(name);
        }
        for listen in listens {
            listen.carried("");
            let name = self.listener(index, listen, listen.arg(0), directive);
            self.parameters(&name, index, listen);
            if !server.listeners.contains(&name) {
                server.listeners.push(name);
            }
        }
        self.list.push(server);
    }

    /// Settles which listeners have TLS, once all servers are known, and with which certificates.
    fn tls(&mut self) {
        for listener in &mut self.listeners {
            let default = &self.list[listener.default];
            // The directive of another server has no effect, with nginx too.
            listener.is_tls |= default.scope.one("ssl").is_some_and(Directive::is_on);
        }
        let servers = mem::take(&mut self.list);
        for server in &servers {
            if let Some(ssl) = server.scope.one("ssl") {
                ssl.carried("that of the default server of an address counts");
            }
            self.certificates(server);
        }
        self.list = servers;
    }

    /// Returns the name of the listener at an address; the first server of an address is its
    /// default.
    fn listener(
        &mut self,
        server: usize,
        at: &'a Directive,
        address: &str,
        directive: &'a Directive,
    ) -> String {
        let address = normal(address);
        if let Some(known) = self.listeners.iter().find(|known| known.address == address) {
            return known.name.clone();
        }
        let port = address.rsplit(':').next().unwrap_or_default().to_owned();
        let is_free = |name: &str| self.listeners.iter().all(|known| known.name != name);
        let mut name = match address.strip_prefix("unix:") {
            Some(path) => path.rsplit('/').next().unwrap_or("unix").to_owned(),
            None => format!("port-{port}"),
        };
        while !is_free(&name) {
            name.push_str("-b");
        }
        self.listeners.push(Listener {
            name: name.clone(),
            address,
            is_tls: false,
            http: HttpOptions::default(),
            certificates: Vec::new(),
            min_version: None,
            comment: at.place(),
            default: server,
            has_marked_default: false,
            first: directive,
        });
        name
    }

    fn parameters(&mut self, name: &str, server: usize, listen: &Directive) {
        let Some(listener) = self.listeners.iter_mut().find(|own| own.name == name) else {
            return;
        };
        for parameter in listen.args.iter().skip(1) {
            match parameter.as_str() {
                "ssl" => listener.is_tls = true,
                "http2" => listener.http.speaks_h2 = true,
                "default_server" | "default" => {
                    if !listener.has_marked_default {
                        (listener.default, listener.has_marked_default) = (server, true);
                    }
                }
                "proxy_protocol" => {
                    listener.http.is_proxied = true;
                    listen.changed(
                        "PROXY protocol: list the balancers in `proxy_protocol`; it has 127.0.0.1 \
                         now",
                    );
                }
                "quic" => listen.lost("HTTP/3 is not there"),
                other if is_listed("listen", other.split('=').next().unwrap_or(other)) => {}
                other => listen.lost(format!("`{other}` is not known")),
            }
        }
    }

    fn certificates(&mut self, server: &Server<'a>) {
        let certificates = server.scope.nearest("ssl_certificate");
        let keys = server.scope.nearest("ssl_certificate_key");
        let protocols = server.scope.nearest("ssl_protocols");
        let is_h2 = server.scope.nearest("http2");
        let is_fixed = |one: &&&Directive| !one.arg(0).contains('$');
        for certificate in certificates.iter().filter(|one| !is_fixed(one)) {
            certificate.lost("write `tls: { acme: [NAMES] }` in its listener, and `acme`");
        }
        let certificates: Vec<_> = certificates.iter().filter(is_fixed).collect();
        let keys: Vec<_> = keys.iter().filter(is_fixed).collect();
        for (certificate, key) in certificates.iter().zip(&keys) {
            certificate.carried("");
            key.carried("");
        }
        for name in &server.listeners {
            let Some(listener) = self.listeners.iter_mut().find(|own| own.name == *name) else {
                continue;
            };
            if let Some(http2) = is_h2.first() {
                http2.carried("");
                listener.http.speaks_h2 |= http2.is_on();
            }
            if !listener.is_tls {
                continue;
            }
            for (certificate, key) in certificates.iter().zip(&keys) {
                let pair = json!({ "cert": certificate.arg(0), "key": key.arg(0) });
                if !listener.certificates.contains(&pair) {
                    listener.certificates.push(pair);
                }
            }
            for protocol in &protocols {
                let has = |version: &str| protocol.args.iter().any(|arg| arg == version);
                if has("TLSv1") || has("TLSv1.1") {
                    protocol.changed("TLS 1.2 and 1.3 only");
                } else {
                    protocol.carried("");
                }
                if has("TLSv1.3") && !has("TLSv1.2") {
                    listener.min_version = Some("1.3");
                }
            }
        }
    }

    /// Makes one listener of an address for IPv4 and the same one for IPv6.
    fn join_families(&mut self) {
        let addresses: Vec<String> = self
            .listeners
            .iter()
            .map(|known| known.address.clone())
            .collect();
        for address in addresses {
            let Some(port) = address.strip_prefix("[::]:") else {
                continue;
            };
            let four = format!("0.0.0.0:{port}");
            let position = |of: &str| self.listeners.iter().position(|known| known.address == of);
            let (Some(six), Some(four)) = (position(&address), position(&four)) else {
                continue;
            };
            let removed = self.listeners.remove(six);
            let four = if six < four { four - 1 } else { four };
            self.listeners[four].address = format!(":{port}");
            let name = self.listeners[four].name.clone();
            for server in &mut self.list {
                if server.listeners.contains(&name) {
                    server.listeners.retain(|known| *known != removed.name);
                }
                for known in &mut server.listeners {
                    if *known == removed.name {
                        known.clone_from(&name);
                    }
                }
            }
        }
    }

    /// Takes names away from servers that come after another one with the same name and address.
    fn repeated(&mut self) {
        for index in 1..self.list.len() {
            let (before, rest) = self.list.split_at_mut(index);
            let Some(server) = rest.first_mut() else {
                continue;
            };
            let is_taken = |host: &String| {
                before.iter().any(|other| {
                    let mut listeners = other.listeners.iter();
                    other.hosts.contains(host)
                        && listeners.any(|name| server.listeners.contains(name))
                })
            };
            let taken: Vec<String> = server
                .hosts
                .iter()
                .filter(|h| is_taken(h))
                .cloned()
                .collect();
            server.hosts.retain(|host| !taken.contains(host));
            for name in server.scope.own("server_name") {
                for host in &taken {
                    name.changed(format!("an earlier server of the address has `{host}`"));
                }
            }
        }
    }

    /// Returns the requests that a server gets.
    pub(super) fn audiences(&self, server: &Server<'a>) -> Vec<Audience> {
        let listeners = |names: Vec<String>| {
            if self.listeners.len() == 1 {
                Vec::new()
            } else {
                names
            }
        };
        let is_covered = server.hosts.iter().any(|host| {
            let others = self
                .list
                .iter()
                .filter(|other| other.directive.id != server.directive.id);
            let mut beside = others.filter(|other| {
                let mut shared = other.listeners.iter();
                shared.any(|name| server.listeners.contains(name))
            });
            beside.any(|other| {
                let mut patterns = other.hosts.iter();
                patterns.any(|pattern| match pattern.strip_prefix('*') {
                    Some(suffix) => host.ends_with(suffix) || host.ends_with('*'),
                    // Which hosts two of these share is not known.
                    None => pattern.starts_with('~') || pattern.ends_with('*'),
                })
            })
        });
        let mut all = Vec::new();
        let mut named = server.listeners.clone();
        if !is_covered {
            named.retain(|name| !server.default_of.contains(name));
        }
        if !named.is_empty() && !server.hosts.is_empty() {
            all.push(Audience {
                hosts: server.hosts.clone(),
                listeners: listeners(named),
            });
        }
        if !server.default_of.is_empty() {
            all.push(Audience {
                hosts: Vec::new(),
                listeners: listeners(server.default_of.clone()),
            });
        }
        all
    }

    /// Returns the listeners of the configuration.
    pub(super) fn parts(&self, http: &Scope<'a>) -> Vec<Part> {
        let limits = limits(http, &self.list);
        let mut parts = Vec::new();
        for listener in &self.listeners {
            let mut value = Map::new();
            value.insert("address".to_owned(), listener.address.clone().into());
            if self.listeners.len() > 1 {
                value.insert("name".to_owned(), listener.name.clone().into());
            }
            if listener.http.is_proxied {
                value.insert("proxy_protocol".to_owned(), json!(["127.0.0.1"]));
            }
            // As with nginx, some settings of the default server hold for all of them.
            let mut defaults = self.list.iter();
            let default = defaults.find(|server| server.default_of.contains(&listener.name));
            let of_default = |name: &str| default.and_then(|server| server.scope.one(name));
            if listener.is_tls {
                let mut tls = json!({});
                let rejects = of_default("ssl_reject_handshake").is_some_and(Directive::is_on);
                if !listener.certificates.is_empty() {
                    tls["certificates"] = listener.certificates.clone().into();
                } else if !rejects {
                    listener.first.closed("it has no usable `ssl_certificate`");
                }
                add_to(&mut tls, "min_version", listener.min_version);
                if rejects {
                    tls["unknown_names"] = "refuse".into();
                }
                value.insert("tls".to_owned(), tls);
                if !listener.http.speaks_h2 {
                    value.insert("http2".to_owned(), json!({ "enabled": false }));
                }
            }
            put(&mut value, "limits", limits.clone());
            if let Some(directive) = of_default("underscores_in_headers") {
                directive.carried("");
                if directive.arg(0) == "on" {
                    value.insert("underscores".to_owned(), "allow".into());
                }
            }
            parts.push(Part::new(&listener.comment, value));
        }
        parts
    }
}

impl Server<'_> {
    fn names(&mut self) {
        for directive in self.scope.own("server_name") {
            directive.carried("");
            for name in &directive.args {
                let lower = name.to_ascii_lowercase();
                let lower = lower.trim_end_matches('.');
                if lower.is_empty() || lower == "_" {
                    continue;
                }
                if let Some(regex) = name.strip_prefix('~') {
                    match Self::regex(regex) {
                        Some(host) => self.hosts.push(host),
                        None => directive
                            .lost(format!("requests for `{name}` go to the default server")),
                    }
                    continue;
                }
                if let Some(below) = lower.strip_prefix('.') {
                    self.hosts.extend([below.to_owned(), format!("*.{below}")]);
                } else if lower
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"-._*[]:".contains(&b))
                {
                    self.hosts.push(lower.to_owned());
                } else {
                    directive.lost(format!("clients cannot request the name `{name}`"));
                }
            }
        }
        let names = self.scope.own("server_name");
        let mut all = names.iter().flat_map(|name| &name.args);
        self.is_for_none = names.is_empty() || all.any(String::is_empty);
        let mut seen = BTreeSet::new();
        self.hosts.retain(|host| seen.insert(host.clone()));
    }

    /// Returns the host for a regular expression; `None` if it has no counterpart.
    fn regex(regex: &str) -> Option<String> {
        let known = fancy_regex::Regex::new(regex).ok()?;
        // What else has this name in the gateway must stay what it is.
        let mut names = known.capture_names().flatten();
        let is_taken = names.any(|name| ["host", "path", "query", "rest"].contains(&name));
        (!is_taken).then(|| format!("~{regex}"))
    }
}

/// Returns an address as the configuration writes it.
fn normal(address: &str) -> String {
    if address.starts_with("unix:") {
        return address.to_owned();
    }
    if address.bytes().all(|b| b.is_ascii_digit()) {
        return format!("0.0.0.0:{address}");
    }
    let (host, port) = match address.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port),
        _ => (address, "80"),
    };
    let host = match host {
        "*" => "0.0.0.0",
        "localhost" => "127.0.0.1",
        other => other,
    };
    format!("{host}:{port}")
}

/// Returns the limits on clients, which nginx has for servers and this gateway for listeners.
fn limits<'a>(http: &Scope<'a>, servers: &[Server<'a>]) -> Map<String, Value> {
    let mut limits = BTreeMap::<&str, (u64, String)>::new();
    let scopes = std::iter::once(http).chain(servers.iter().map(|server| &server.scope));
    for scope in scopes {
        for (name, key, default) in [
            ("client_header_timeout", "header_timeout", 60_000),
            ("keepalive_timeout", "idle_timeout", 75_000),
            ("send_timeout", "send_timeout", 60_000),
        ] {
            for directive in scope.own(name) {
                let Some(ms) = milliseconds(directive.arg(0)) else {
                    directive.lost("this time is not known");
                    continue;
                };
                let ms = if ms == 0 { 1_000 } else { ms };
                directive.carried("one value for all servers of a listener");
                let known = limits.entry(key).or_insert((0, String::new()));
                if ms > known.0 {
                    *known = (ms, duration(ms));
                }
            }
            limits.entry(key).or_insert((default, duration(default)));
        }
        for directive in scope.own("keepalive_requests") {
            directive.carried("");
            if let Ok(count) = directive.arg(0).parse::<u64>() {
                limits.insert(
                    "requests_per_connection",
                    (count.max(1), count.max(1).to_string()),
                );
            }
        }
        for directive in scope.own("large_client_header_buffers") {
            directive.changed("all headers of a request together have the space of all buffers");
            let count = directive.arg(0).parse::<u64>().unwrap_or(4);
            if let Some(one) = bytes(directive.arg(1)) {
                // A listener takes at most 1 MB.
                let headers = count.saturating_mul(one).clamp(1 << 10, 976 << 10);
                let line = one.min(headers).min(60 << 10);
                limits.insert("request_line", (line, size(line)));
                limits.insert("headers", (headers, size(headers)));
            }
        }
        for directive in scope.own("client_body_timeout") {
            directive.changed("a body may be slower than `body_rate` for `body_grace`, in all");
        }
    }
    limits
        .into_iter()
        .map(|(key, (number, text))| {
            let value = if key == "requests_per_connection" {
                number.into()
            } else {
                text.into()
            };
            (key.to_owned(), value)
        })
        .collect()
}
