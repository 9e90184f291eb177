//! Headers that clients may not send, collected over all routes; and requirements of routes on
//! listeners.

use std::sync::Arc;

use edgeway_base::reserved_headers::{
    OVERRIDES, ReservedHeaders, UnusableHeader, is_claim, names_a_written_header,
};
use edgeway_config::{
    diagnostic::{Place, suggest},
    model::{RouteNode, UnderscoresConfig},
    tree::{Key, Node, Spanned, Value},
};
use http::{HeaderName, header};

use super::{Listener, Route, compile::Compiler, filter_kinds};

/// Credential headers of HTTP itself: a route may write them for its backend, and filters may read
/// them.
const CREDENTIALS: [HeaderName; 2] = [header::AUTHORIZATION, header::COOKIE];

const DROPPED: &str = "every listener drops or refuses for its underscore";
const DROPPED_HELP: &str = "write it with hyphens, or `underscores: allow` at a listener";

impl Compiler<'_> {
    /// Returns the headers that are removed from requests, from what all routes write and let pass.
    pub(super) fn reserved(&mut self, routes: &[Option<Route>]) -> ReservedHeaders {
        let compiled = || routes.iter().flatten();
        let filters = |route: &'_ Route| route.chain.filters().to_vec();
        let mut names: Vec<HeaderName> = Vec::new();
        let mut read: Vec<HeaderName> = Vec::new();
        for filter in compiled().flat_map(filters) {
            names.extend_from_slice(&filter.traits.own_headers);
            read.extend(filter.traits.credential_headers());
        }
        names.retain(|name| !CREDENTIALS.contains(name));
        for route in compiled() {
            let filters = route.chain.filters().iter();
            let read_here = { filters }.flat_map(|each| each.traits.credential_headers());
            let read_here: Vec<HeaderName> = read_here.collect();
            if let Some(name) = read_here.iter().find(|name| self.drops(name)) {
                self.at(route.place, "edgeway::headers::underscore").error(
                    format!("a filter reads `{name}`, which {DROPPED}"),
                    DROPPED_HELP,
                );
            }
            if let Some(name) = read_here.iter().find(|name| is_claim(name)) {
                self.at(route.place, "edgeway::headers::claim").error(
                    format!("a filter reads `{name}`, which is removed from every request"),
                    "read another header: this one is a claim that only proxies could make",
                );
            }
            let filters = route.chain.filters().iter();
            let both = { filters }
                .flat_map(|each| &each.traits.own_headers)
                .find(|name| !CREDENTIALS.contains(name) && read.contains(name));
            if let Some(name) = both {
                self.at(route.place, "edgeway::headers::own").error(
                    format!(
                        "`{name}` identifies the client to the backend, so no client may send it, and a \
                         filter reads it from clients"
                    ),
                    "write another name where it is forwarded, such as `X-Auth-User`",
                );
            }
        }
        let passing = compiled().flat_map(|route| &route.pass_headers);
        let passing: Vec<&str> = passing.map(HeaderName::as_str).collect();
        let reserved = ReservedHeaders::new(&names, passing, self.reads_written_headers());
        self.check_header_predicates(&reserved);
        reserved
    }

    /// Returns true if a header that the gateway writes is read before a route is chosen, on every
    /// route, or where no route takes a request.
    fn reads_written_headers(&self) -> bool {
        let file = self.file;
        let mut predicates = file.routes.iter().flat_map(|route| {
            let names = route.config.matches.value.header.keys();
            names.map(String::as_str)
        });
        let shared = file.rate_limits.iter().chain(&file.maps);
        let mut shared = shared.chain(&file.access_log);
        // A filter registered by the program itself may read all headers.
        let is_open = filter_kinds().iter().any(|entry| entry.is_custom);
        is_open
            || predicates.any(names_a_written_header)
            || shared.any(|(_, node)| names_one(node))
            || self.read_written(Place::default(), &[])
    }

    /// Returns true if a filter, its site or another key of this route reads a header that the gateway
    /// writes.
    pub(super) fn reads_written(&self, route: &RouteNode) -> bool {
        let sites = self.file.tree.get("sites");
        let site = route.config.site.as_ref();
        let site = site.and_then(|site| sites?.get(&site.value));
        names_one(&route.keys)
            || site.is_some_and(names_one)
            || self.read_written(route.place, &route.filters)
    }

    /// Returns the same for the filters of a route with the settings `own`.
    fn read_written(&self, place: Place, written: &[(Key, Node)]) -> bool {
        let mut filters = super::effective::filters(self.file, place, written);
        filters.any(|(entry, node)| entry.name == "plugins" || names_one(&node))
    }

    /// Reports predicates on headers that no request can have, because they would never match.
    fn check_header_predicates(&mut self, reserved: &ReservedHeaders) {
        let file = self.file;
        for route in &file.routes {
            for (name, value) in &route.config.matches.value.header {
                let Ok(parsed) = HeaderName::from_bytes(name.as_bytes()) else {
                    continue;
                };
                let (why, help) = match reserved.never_seen(&parsed) {
                    None if self.drops(&parsed) => (DROPPED, DROPPED_HELP),
                    None => continue,
                    Some(UnusableHeader::Own) => (
                        "the gateway writes it for a backend once a route is chosen",
                        "remove it: filters decide by identity",
                    ),
                    Some(UnusableHeader::Claim) => (
                        "it is a claim about the client, which is removed",
                        "remove it; `X-Real-IP`, `X-Forwarded-Proto`, `-Host`, `-Port` and \
                         `X-Client-Verify` have the gateway's own values",
                    ),
                    Some(UnusableHeader::Override) => (
                        "no route lets it pass",
                        "remove it, or let it pass with `pass_headers`",
                    ),
                };
                self.at(value.place, "edgeway::route::reserved_header")
                    .error(
                        format!("no request has `{name}` when its route is chosen: {why}"),
                        help,
                    );
            }
        }
    }

    /// Returns true if no listener passes a header of this name on, because of an underscore.
    fn drops(&self, name: &HeaderName) -> bool {
        let mut listeners = self.file.listeners.iter();
        name.as_str().contains('_')
            && listeners.all(|own| own.value.underscores != UnderscoresConfig::Allow)
    }

    /// Returns the overrides that a route lets pass.
    pub(super) fn pass_headers(&mut self, node: &RouteNode) -> Box<[HeaderName]> {
        let mut passing = Vec::new();
        for Spanned { value, place } in &node.config.pass_headers.0 {
            let known = OVERRIDES
                .into_iter()
                .find(|known| known.eq_ignore_ascii_case(value));
            if let Some(known) = known {
                passing.push(HeaderName::from_static(known));
                continue;
            }
            self.at(*place, "edgeway::route::pass_headers").error(
                format!(
                    "`{}` is not a header that a route can let pass",
                    value.escape_debug()
                ),
                format!(
                    "they are {}; all other headers always pass, or never do",
                    OVERRIDES.join(", ")
                ),
            );
        }
        passing.into()
    }

    /// Checks that listeners named by routes exist, and that they request certificates where a
    /// route requires one.
    pub(super) fn check_listeners(&mut self, listeners: &[Arc<Listener>]) {
        self.circles(listeners);
        let file = self.file;
        let names: Vec<&str> = listeners.iter().map(|listener| &*listener.name).collect();
        if self.diagnostics.has_errors() && names.is_empty() {
            return;
        }
        for node in &file.routes {
            let bound = &node.config.matches.value.listener.0;
            for Spanned { value, place } in bound {
                if !names.contains(&value.as_str()) {
                    let help = suggest(value, names.iter().copied(), "they are");
                    let message = format!("unknown listener `{}`", value.escape_debug());
                    self.at(*place, "edgeway::route::unknown_listener")
                        .error(message, help);
                }
            }
            let filters = super::effective::filters(file, node.place, &node.filters);
            let filters = { filters }.find(|(entry, _)| entry.name == "client_cert");
            let Some((_, filter)) = filters else { continue };
            let takes = |listener: &&Arc<Listener>| {
                bound.is_empty() || bound.iter().any(|name| *name.value == *listener.name)
            };
            let asks_clients = |listener: &Arc<Listener>| {
                listener.tls.as_ref().is_some_and(|tls| tls.asks_clients)
            };
            if !listeners.iter().filter(takes).any(asks_clients) {
                self.at(filter.place, "edgeway::client_cert::nobody_asks").error(
                    "no listener of this route asks clients for a certificate: no request could \
                     pass",
                    "write `client_ca: ca.pem` in a listener's `tls`",
                );
            }
        }
    }
}

fn names_one(node: &Node) -> bool {
    match &node.value {
        Value::Text(text) => names_a_written_header(text),
        Value::List(items) => items.iter().any(names_one),
        Value::Map(entries) => entries
            .iter()
            .any(|(key, node)| names_a_written_header(&key.name) || names_one(node)),
        _ => false,
    }
}
