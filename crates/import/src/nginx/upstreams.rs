//! Upstreams: the blocks `upstream`, and the addresses that `proxy_pass` names itself.

use std::{collections::BTreeMap, fmt::Write as _, net::IpAddr};

use serde_json::{Map, Value, json};

use super::{
    output::{Part, add_to, put},
    parse::Directive,
    scope::Scope,
    tables,
    words::{duration, milliseconds, parameter, part_of_request},
};
use crate::pm2::Processes;

/// Upstreams that routes use.
pub(super) struct Upstreams<'a> {
    http: Scope<'a>,
    blocks: BTreeMap<String, &'a Directive>,
    made: Vec<NewUpstream<'a>>,
    /// True if a location is `internal`, to which `X-Accel-Redirect` may lead.
    has_internal: bool,
}

/// TLS and authority of `proxy_pass`; and true if its apps may send no files, where others may.
type Key = (bool, String, bool);

struct NewUpstream<'a> {
    name: String,
    key: Key,
    value: Map<String, Value>,
    /// The block, or the `proxy_pass` with the address.
    at: &'a Directive,
    /// App of PM2 whose processes are its backends.
    app: Option<String>,
}

/// Time of nginx to connect, and between two reads, unless a directive says otherwise.
const USUAL: u64 = 60_000;

/// Destination of `proxy_pass`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Destination {
    pub(super) is_tls: bool,
    /// Text between the scheme and the path.
    pub(super) authority: String,
    /// The path, if one is written.
    pub(super) path: Option<String>,
}

impl Destination {
    /// Returns the `Host` that its backends get unless a directive says otherwise.
    pub(super) fn host(&self) -> String {
        if self.authority.starts_with("unix:") {
            return "localhost".to_owned();
        }
        self.authority.clone()
    }

    pub(super) fn parse(url: &str) -> Option<Self> {
        let (is_tls, rest) = match url.split_once("://")? {
            ("http", rest) => (false, rest),
            ("https", rest) => (true, rest),
            _ => return None,
        };
        let (authority, path) = if let Some(socket) = rest.strip_prefix("unix:") {
            match socket.split_once(':') {
                Some((socket, path)) => (format!("unix:{socket}"), Some(path.to_owned())),
                None => (format!("unix:{socket}"), None),
            }
        } else {
            match rest.find(['/', '?']) {
                Some(at) => (rest[..at].to_owned(), Some(rest[at..].to_owned())),
                None => (rest.to_owned(), None),
            }
        };
        Some(Self {
            is_tls,
            authority,
            path: path.filter(|path| !path.is_empty()),
        })
    }
}

impl<'a> Upstreams<'a> {
    pub(super) fn read(http: &Scope<'a>) -> Self {
        let blocks = http.own("upstream").into_iter();
        Self {
            http: http.clone(),
            blocks: blocks
                .map(|block| (block.arg(0).to_owned(), block))
                .collect(),
            made: Vec::new(),
            has_internal: has_internal(http.outermost()),
        }
    }

    /// Returns the name of the upstream for a destination; `None` if nothing says what name the
    /// certificate of its backends is for.
    pub(super) fn name(
        &mut self,
        to: &Destination,
        pass: &'a Directive,
        scope: &Scope<'a>,
    ) -> Option<String> {
        let keeps_files = self.has_internal && ignores_files(scope);
        let key = (to.is_tls, to.authority.clone(), keeps_files);
        if let Some(known) = self.made.iter().find(|made| made.key == key) {
            return Some(known.name.clone());
        }
        let block = self.blocks.get(&to.authority).copied();
        let mut value = match block {
            Some(block) => of_block(block, &self.http),
            None => of_authority(&to.authority),
        };
        if to.is_tls {
            let written = scope.one("proxy_ssl_name").map(|name| name.arg(0));
            let given = [written, Some(host_of(&to.authority))]
                .into_iter()
                .flatten();
            let servers = block.map(Directive::children).unwrap_or_default().iter();
            let servers = servers.filter(|one| one.name == "server");
            let mut names = given.chain(servers.map(|one| host_of(one.arg(0))));
            let name = names.find(|name| is_dns_name(name))?;
            pass.changed("the certificate of the backend is verified, as nginx does with `proxy_ssl_verify on`");
            value.insert("tls".to_owned(), json!({ "name": name }));
        }
        // A status of the only backend is no reason to send it the request again.
        let is_single = value
            .get("backends")
            .and_then(Value::as_array)
            .is_some_and(|all| all.len() == 1);
        let retry = retry(scope).filter(|retry| !is_single || retry["attempts"] == 1);
        put(&mut value, "retry", retry);
        let name = self.free_name(&to.authority);
        self.made.push(NewUpstream {
            name: name.clone(),
            key,
            value,
            at: block.unwrap_or(pass),
            app: None,
        });
        Some(name)
    }

    /// Returns an address of a destination: its own, or that of the first server of its block.
    pub(super) fn first_address(&self, authority: &str) -> Option<String> {
        let Some(block) = self.blocks.get(authority) else {
            return Some(authority.to_owned());
        };
        let mut servers = block.children().iter();
        let first = servers.find(|one| one.name == "server")?;
        Some(first.arg(0).to_owned()).filter(|address| !address.starts_with("unix:"))
    }

    fn free_name(&self, authority: &str) -> String {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        let kept = authority.trim_start_matches("unix:").trim_matches('/');
        let mut name: String = kept
            .chars()
            .map(|c| if is_plain(c) { c } else { '-' })
            .collect();
        if !name.starts_with(|c: char| c.is_ascii_alphabetic()) {
            name.insert_str(0, "at-");
        }
        while self.made.iter().any(|made| made.name == name) {
            name.push_str("-b");
        }
        name
    }

    /// Returns the names of the upstreams whose apps may send files.
    pub(super) fn senders(&self) -> Vec<String> {
        let senders = self.made.iter().filter(|made| !made.key.2);
        senders.map(|made| made.name.clone()).collect()
    }

    /// Returns the upstreams in use, with the apps of PM2 at their ports; what no route uses is named
    /// in the report.
    pub(super) fn parts(self, apps: &[Processes]) -> Vec<(String, Part)> {
        for block in self.blocks.values() {
            if !block.has_fate() {
                block.lost("no location that was carried over uses it");
            }
        }
        let parts = self.made.into_iter().map(|mut made| {
            let timeouts = duration(USUAL).into();
            made.value.insert("timeouts".to_owned(), timeouts);
            join(&mut made, apps);
            let mut comment = made.at.place();
            if let Some(app) = &made.app {
                let _ = write!(comment, ", `{app}` of PM2");
            }
            let value = made.value.into();
            (made.name, Part { comment, value })
        });
        parts.collect()
    }
}

/// Stands for the names of the upstreams whose apps may send files, which are known once every
/// location was translated.
pub(super) const SENDERS: &str = "*";

/// Returns true if a block has an internal location.
fn has_internal(block: &[Directive]) -> bool {
    block
        .iter()
        .any(|one| one.name == "internal" || has_internal(one.children()))
}

/// Returns true if apps of a location send no files.
fn ignores_files(scope: &Scope<'_>) -> bool {
    let ignored = scope.nearest("proxy_ignore_headers").into_iter();
    { ignored }.any(|one| {
        one.args
            .iter()
            .any(|arg| arg.eq_ignore_ascii_case("x-accel-redirect"))
    })
}

/// Writes the names of upstreams into the routes whose files their apps may send.
pub(super) fn name_senders(routes: &mut [Part], names: &[String]) {
    for route in routes {
        let files = route.value.get_mut("files").and_then(Value::as_object_mut);
        let Some(files) = files.filter(|files| files.contains_key("internal")) else {
            continue;
        };
        if names.is_empty() {
            files.remove("internal");
        } else {
            files.insert("internal".to_owned(), json!(names));
        }
    }
}

/// Returns an address without its port.
fn host_of(address: &str) -> &str {
    address.rsplit_once(':').map_or(address, |(host, _)| host)
}

/// Returns true if a certificate can be for this name.
fn is_dns_name(name: &str) -> bool {
    let is_letter = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '.');
    name.parse::<IpAddr>().is_err() && !name.is_empty() && name.chars().all(is_letter)
}

/// Returns the time limits of a route, if they are not those of its upstream.
pub(super) fn timeouts(scope: &Scope<'_>) -> Option<Value> {
    let time = |name: &str| {
        let Some(directive) = scope.one(name) else {
            return USUAL;
        };
        let Some(ms) = milliseconds(directive.arg(0)) else {
            directive.lost("this time is not known");
            return USUAL;
        };
        directive.carried("");
        ms.max(1)
    };
    let (connect, read) = (time("proxy_connect_timeout"), time("proxy_read_timeout"));
    if let Some(send) = scope.one("proxy_send_timeout") {
        send.changed("`timeouts.idle` is the time of `proxy_read_timeout`");
    }
    ((connect, read) != (USUAL, USUAL)).then(|| {
        let (connect, read) = (duration(connect), duration(read));
        json!({ "connect": connect, "first_byte": read, "idle": read, "stream_idle": read })
    })
}

fn of_authority(authority: &str) -> Map<String, Value> {
    let backends = json!([backend(authority, None, false)]);
    // One address, of which nginx does not count failures; a name may have several.
    let host = host_of(authority).trim_matches(['[', ']']);
    let (key, more) = if host.parse::<IpAddr>().is_ok() || authority.starts_with("unix:") {
        ("eject", json!({ "errors": 0 }))
    } else {
        ("balance", "round_robin".into())
    };
    Map::from_iter([("backends".to_owned(), backends), (key.to_owned(), more)])
}

/// Returns a backend as the configuration writes it.
fn backend(address: &str, weight: Option<u64>, is_backup: bool) -> Value {
    let (key, text) = if address.starts_with("unix:") {
        ("address", address.to_owned())
    } else {
        let has_port = address
            .rsplit_once(':')
            .is_some_and(|(_, port)| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()));
        let full = if has_port {
            address.to_owned()
        } else {
            format!("{address}:80")
        };
        let host = full.rsplit_once(':').map_or("", |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']');
        match host.parse::<IpAddr>() {
            // To connect to it means this machine.
            Ok(any) if any.is_unspecified() => {
                let loopback = if any.is_ipv4() { "127.0.0.1" } else { "::1" };
                ("address", full.replacen(host, loopback, 1))
            }
            Ok(_) => ("address", full),
            Err(_) if host == "localhost" => {
                ("address", full.replacen("localhost", "127.0.0.1", 1))
            }
            Err(_) => ("dns", full),
        }
    };
    if key == "address" && weight.is_none() && !is_backup {
        return text.into();
    }
    let mut value = json!({ key: text });
    add_to(&mut value, "weight", weight);
    if is_backup {
        value["backup"] = true.into();
    }
    value
}

fn of_block(block: &Directive, http: &Scope<'_>) -> Map<String, Value> {
    block.carried("");
    let mut value = Map::new();
    let mut backends = Vec::new();
    let mut balance = "round_robin".to_owned();
    let (mut fail_timeout, mut most) = (None, None);
    let mut failures = Vec::new();
    for directive in block.children() {
        match directive.name.as_str() {
            "server" => {
                directive.carried("");
                if directive.args.iter().any(|arg| arg == "down") {
                    directive.carried("left out: `down`");
                    continue;
                }
                let weight = parameter(directive, "weight").and_then(|text| text.parse().ok());
                let is_backup = directive.args.iter().any(|arg| arg == "backup");
                backends.push(backend(directive.arg(0), weight, is_backup));
                let limit = parameter(directive, "max_fails").and_then(|n| n.parse::<u64>().ok());
                // Backups that say nothing do not decide for the others.
                if limit.is_some() || !is_backup {
                    failures.push((directive, limit.unwrap_or(1)));
                }
                fail_timeout =
                    fail_timeout.or(parameter(directive, "fail_timeout").and_then(milliseconds));
                let connections =
                    parameter(directive, "max_conns").and_then(|n| n.parse::<u64>().ok());
                most = most.max(connections.filter(|most| *most > 0));
                for known in ["slow_start", "resolve", "service", "route"] {
                    if directive.args.iter().any(|arg| arg.starts_with(known)) {
                        directive.changed(format!("without `{known}`"));
                    }
                }
            }
            "least_conn" => {
                directive.carried("");
                balance = "least_conn".into();
            }
            "sticky" if directive.arg(0) == "cookie" => {
                directive.changed(
                    "a cookie of the same name with another value, and without `domain`, `path` and \
                     flags: clients change their backend once",
                );
                let mut sticky = json!({ "cookie": directive.arg(1) });
                let max_age = parameter(directive, "expires").and_then(milliseconds);
                add_to(&mut sticky, "max_age", max_age.map(duration));
                value.insert("sticky".to_owned(), sticky);
            }
            "least_time" => {
                directive.changed("by requests in flight, not by time");
                balance = "least_conn".into();
            }
            "ip_hash" => {
                directive.changed(
                    "another hash, of the whole address instead of the first three octets: clients \
                     change their backend once",
                );
                balance = "hash:client.ip".into();
            }
            "random" => {
                directive.changed("the better of two random backends");
                balance = "p2c".into();
            }
            "hash" => match hash_key(directive.arg(0), http) {
                Some(key) => {
                    directive.changed("another hash: clients change their backend once");
                    balance = key;
                }
                None => directive.lost("this key is not supported; requests go round robin"),
            },
            "keepalive" | "keepalive_requests" | "keepalive_timeout" | "keepalive_time"
            | "zone" => {
                directive.carried("connections are kept in any case");
            }
            _ => {}
        }
    }
    // Of a single server nginx does not count failures.
    let is_single = backends.len() == 1;
    let is_named = backends.iter().any(|backend| backend.get("dns").is_some());
    value.insert("backends".to_owned(), backends.into());
    if !is_single || is_named {
        value.insert("balance".to_owned(), balance.into());
    }
    let eject = if is_single {
        json!({ "errors": 0 })
    } else {
        // A server that dies is noticed before a request is lost.
        value.insert("health".to_owned(), true.into());
        ejection(&failures, fail_timeout)
    };
    value.insert("eject".to_owned(), eject);
    let max_in_flight = most.map(|most| json!({ "per_backend": most }));
    put(&mut value, "max_in_flight", max_in_flight);
    value
}

/// Returns the port of a backend on this machine.
fn port_of(backend: &Value) -> Option<u16> {
    let address = backend.as_str().or_else(|| backend["address"].as_str())?;
    address.strip_prefix("127.0.0.1:")?.parse().ok()
}

/// Puts apps of PM2 in place of the backends at the ports that they have with PM2: each of their
/// processes gets a port of its own.
fn join(made: &mut NewUpstream<'_>, apps: &[Processes]) {
    let backends = made.value["backends"].as_array().cloned();
    let backends = backends.unwrap_or_default();
    let at_first = |port: u16| apps.iter().find(|app| app.first == port);
    let whole = || {
        let ports: Vec<u16> = backends.iter().map(port_of).collect::<Option<_>>()?;
        let mut listening = ports.iter().filter_map(|port| at_first(*port));
        let app = listening.next()?;
        let is_own = |port: &u16| (app.first..).take(app.ports.len()).any(|own| own == *port);
        let is_whole = listening.all(|other| other.name == app.name) && ports.iter().all(is_own);
        is_whole.then_some(app)
    };
    let moved = |app: &Processes| {
        if let Some(moved) = &app.moved {
            made.at.changed(format!("`{}` of PM2 {moved}", app.name));
        }
    };
    if let Some(app) = whole() {
        moved(app);
        let keys = app.upstream.as_object().cloned();
        made.value.extend(keys.unwrap_or_default());
        if app.ports.len() > 1 && backends.len() == 1 {
            made.value.insert("health".to_owned(), true.into());
            made.value.remove("eject");
        }
        made.app = Some(app.name.clone());
        return;
    }
    let mut list = Vec::new();
    for backend in backends {
        let app = port_of(&backend).and_then(at_first);
        if let Some(app) = app.filter(|app| app.moved.is_some()) {
            moved(app);
            list.extend(app.ports.iter().map(|port| at_port(&backend, *port)));
        } else {
            list.push(backend);
        }
    }
    made.value.insert("backends".to_owned(), list.into());
}

/// Returns a backend of this machine at another port.
fn at_port(backend: &Value, port: u16) -> Value {
    let address = Value::from(format!("127.0.0.1:{port}"));
    let mut backend = backend.clone();
    match backend.get_mut("address") {
        Some(own) => *own = address,
        None => backend = address,
    }
    backend
}

/// Returns the failures after which another server is asked, if a location says so.
fn retry(scope: &Scope<'_>) -> Option<Value> {
    let next = scope.one("proxy_next_upstream")?;
    if next.arg(0) == "off" {
        next.carried("");
        return Some(json!({ "attempts": 1 }));
    }
    let mut on = Vec::new();
    let mut left_out = Vec::new();
    for arg in &next.args {
        match arg.as_str() {
            "error" => on.extend(["connect", "reset"]),
            "http_500" | "http_502" | "http_503" | "http_504" => on.push(&arg["http_".len()..]),
            other => left_out.push(format!("`{other}`")),
        }
    }
    let mut note =
        "idempotent requests only, and a tenth of all at most; the first location of an \
                    upstream decides for all"
            .to_owned();
    if !left_out.is_empty() {
        note = format!("without {}: {note}", left_out.join(", "));
    }
    next.changed(note);
    let mut retry = json!({ "on": on });
    let tries = scope.one("proxy_next_upstream_tries");
    if let Some(tries) = tries
        && let Ok(count) = tries.arg(0).parse::<u64>()
        && count > 0
    {
        tries.carried("");
        retry["attempts"] = count.into();
    }
    Some(retry)
}

/// Returns when a server leaves rotation: after the fewest failures that one of them may have, for
/// that many milliseconds.
fn ejection(failures: &[(&Directive, u64)], time: Option<u64>) -> Value {
    let counts = failures.iter().map(|(_, own)| *own);
    let fewest = counts.filter(|own| *own > 0).min();
    for (directive, own) in failures {
        match fewest {
            None => directive.changed(
                "a server that fails five times in a row leaves rotation in spite of `max_fails=0`; \
                 `eject: { errors: 0 }` keeps it",
            ),
            Some(_) if *own == 0 => directive
                .changed("its failures count as those of the others, in spite of `max_fails=0`"),
            Some(fewest) if *own != fewest => {
                directive.changed(format!("`max_fails={fewest}`, as of another server"));
            }
            Some(_) => {}
        }
    }
    let time = duration(time.unwrap_or(10_000).max(1_000));
    json!({ "errors": fewest.unwrap_or(5), "for": time, "max": time })
}

fn hash_key(key: &str, http: &Scope<'_>) -> Option<String> {
    Some(match key {
        "$remote_addr" | "$binary_remote_addr" => "hash:client.ip".to_owned(),
        "$uri" => "hash:path".to_owned(),
        "$request_uri" => "hash:uri".to_owned(),
        key => {
            let name = key.strip_prefix('$')?;
            match part_of_request(name) {
                Some(part) => format!("hash:{part}"),
                None => hash_by_table(name, http)?,
            }
        }
    })
}

/// Returns the key for a table that has a header or cookie, and the client's address without one: the
/// key of the gateway falls back to that as well.
fn hash_by_table(variable: &str, http: &Scope<'_>) -> Option<String> {
    let table = tables::table(variable, http)?;
    let from = table["from"].as_str()?;
    let values = table["values"].as_object()?;
    let mut values = values.iter();
    let is_address = values.next() == Some((&String::new(), &Value::from("{client.ip}")));
    let is_it = table["default"].as_str() == Some(from) && is_address && values.next().is_none();
    let inner = from.strip_prefix('{')?.strip_suffix('}')?;
    let inner = inner.replace("proxy.", "header.");
    let (kind, name) = inner.split_once('.')?;
    let is_known = ["header", "cookie"].contains(&kind);
    (is_it && is_known).then(|| format!("hash:{kind}:{name}"))
}
