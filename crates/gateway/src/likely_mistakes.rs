//! Warnings about settings that are valid, and that users of other gateways rarely mean.

use std::sync::Arc;

use edgeway_cache::{
    nextjs::PageCache,
    route::{Mode, RouteCachePolicy},
};
use edgeway_config::{
    diagnostic::Place,
    model::{App, BackendTarget, File, MatchConfig, OneOrMany, RouteNode, UpstreamConfig},
    tree::{Key, Node, Spanned, Value},
};

use edgeway_core::chain::Phase;

use super::{ListenAddress, Listener, Route, compile::Compiler};

/// Variables of nginx, and what has the same value here.
const NGINX_VARIABLES: [(&str, &str); 10] = [
    ("$host", "{host}"),
    ("$request_uri", "{uri}"),
    ("$uri", "{path}"),
    ("$args", "{query}"),
    ("$scheme", "{scheme}"),
    ("$remote_addr", "{client.ip}"),
    ("$request_id", "{request_id}"),
    ("$http_", "{header.NAME}"),
    ("$cookie_", "{cookie.NAME}"),
    ("$arg_", "{query.NAME}"),
];

impl Compiler<'_> {
    /// Warns of likely mistakes that whole configurations show.
    pub(super) fn likely_mistakes(&mut self, routes: &[Option<Route>]) {
        self.roots_alone();
        self.nginx_variables();
        self.socket_io_without_sticky();
        self.shared_sticky_cookies();
        self.unlimited_guesses(routes);
        self.unproven_identity(routes);
    }

    /// Warns of variables of nginx in headers and redirects, which would be sent as they are.
    fn nginx_variables(&mut self) {
        let mut values: Vec<(&str, Place)> = Vec::new();
        for route in &self.file.routes {
            if let Some(redirect) = &route.config.redirect {
                values.push((&redirect.value.to, redirect.place));
            }
            let headers = route
                .filters
                .iter()
                .filter(|(key, _)| key.name == "headers");
            headers.for_each(|(_, node)| texts(node, &mut values));
        }
        for (value, place) in values {
            // nginx ignores the case of their names.
            let value = value.to_ascii_lowercase();
            let variable = NGINX_VARIABLES
                .iter()
                .find(|(theirs, _)| value.contains(theirs));
            let Some((theirs, ours)) = variable else {
                continue;
            };
            self.at(place, "edgeway::route::nginx_variable").warn(
                format!("`{theirs}` is a variable of nginx: it is sent as it is written"),
                format!("write `{ours}`"),
            );
        }
    }

    /// Warns of routes that take `/` alone where no other route takes the rest of the site: nginx,
    /// Traefik and Express mean every path by that.
    fn roots_alone(&mut self) {
        let routes = &self.file.routes;
        for route in routes {
            let own = &route.config.matches.value;
            let [path] = &own.path.0[..] else { continue };
            let has_rest = || {
                let mut others = routes.iter();
                others.any(|other| takes_rest(&other.config.matches.value, own))
            };
            if path.value != "/" || has_rest() {
                continue;
            }
            self.at(path.place, "edgeway::route::root_alone").warn(
                "`path: /` is the path `/` alone, and no route takes the rest of the site",
                "write `path: /*` for every path; if the start page alone is meant, add a \
                 route for the rest, such as `{ match: { path: /* }, respond: 404 }`",
            );
        }
    }

    /// Warns of Socket.IO before several backends: a client that begins with long polling makes
    /// several requests, which only one instance knows.
    fn socket_io_without_sticky(&mut self) {
        for route in &self.file.routes {
            let paths = &route.config.matches.value.path.0;
            let path = paths.iter().find(|path| path.value.contains("/socket.io"));
            let (Some(path), Some((key, app))) = (path, upstream_of(self.file, route)) else {
                continue;
            };
            let is_by_hash = |balance: &Spanned<String>| balance.value.starts_with("hash:");
            if app.backends.len() < 2
                || app.sticky.is_some()
                || app.balance.as_ref().is_some_and(is_by_hash)
            {
                continue;
            }
            self.at(path.place, "edgeway::upstream::socket_io").warn(
                format!(
                    "Socket.IO before {} backends: a client's next request goes to an instance \
                     that does not know it, and gets 400",
                    app.backends.len()
                ),
                format!(
                    "write `sticky: {{ cookie: instance }}` in upstream `{}`; for clients that \
                     keep no cookies, `balance: hash:client.ip`",
                    key.name
                ),
            );
        }
    }

    /// Warns of passwords that only a limit by user protects: it refuses wrong guesses, and lets the
    /// right one pass.
    fn unlimited_guesses(&mut self, routes: &[Option<Route>]) {
        let guard = self.file.flood_guard.as_ref();
        if guard.is_some_and(|guard| guard.value.ban.is_some()) {
            return;
        }
        for (node, route) in self.file.routes.iter().zip(routes) {
            let filter = |name| {
                let mut filters = route.as_ref()?.chain.filters().iter();
                filters.find(|each| each.name == name)
            };
            let (Some(_), Some(limits)) = (filter("basic_auth"), filter("rate_limit")) else {
                continue;
            };
            if !limits.traits.phases.wants(Phase::Request) {
                self.at(node.place, "edgeway::route::unlimited_guesses").warn(
                    "passwords can be guessed: the limits of this route count by user, and a right \
                     guess passes them",
                    "add a limit by `client.ip` to `rate_limit`, or write `flood_guard: { ban: {} }`",
                );
            }
        }
    }

    /// Warns of upstreams with one sticky cookie on one host: a browser has one of that name.
    fn shared_sticky_cookies(&mut self) {
        let mut seen: Vec<(&str, &Spanned<String>, &RouteNode)> = Vec::new();
        for route in &self.file.routes {
            let upstream = upstream_of(self.file, route);
            let Some((key, Some(sticky))) = upstream.map(|(key, app)| (key, &app.sticky)) else {
                continue;
            };
            let cookie = &sticky.cookie;
            let is_known = seen.iter().any(|(name, ..)| *name == key.name);
            let mut others = seen
                .iter()
                .filter(|(_, other, _)| other.value == cookie.value);
            let other = others.find(|(name, _, other)| *name != key.name && meet(route, other));
            if let Some((other, ..)) = other.filter(|_| !is_known) {
                self.at(cookie.place, "edgeway::upstream::shared_cookie")
                    .warn(
                        format!(
                            "upstream `{other}` has this cookie too: each replaces the other's"
                        ),
                        format!("write a name of its own, such as `cookie: {}`", key.name),
                    );
            }
            seen.push((&key.name, cookie, route));
        }
    }

    /// Warns of backends that are listeners of this gateway: an app and the gateway often have the
    /// same usual port.
    pub(super) fn circles(&mut self, listeners: &[Arc<Listener>]) {
        let upstreams = self.file.upstreams.iter();
        for backend in upstreams.flat_map(|(_, upstream)| &upstream.value.backends) {
            let BackendTarget::Address(text) = &backend.value.target else {
                continue;
            };
            let Ok(target) = text.parse::<ListenAddress>() else {
                continue;
            };
            if !listeners.iter().any(|own| own.address.takes(&target)) {
                continue;
            }
            self.at(backend.place, "edgeway::upstream::circle").warn(
                format!(
                    "`{text}` is a listener of this gateway: requests would go round in a circle"
                ),
                "write the port that the app listens on; if that is this one, give the \
                 listener another port, such as `127.0.0.1:8081`",
            );
        }
    }

    /// Warns of stored pages of a Next.js app whose build is not known, and of a build whose
    /// middleware keeps every page out of the cache.
    pub(super) fn build_unknown(&mut self, route: &RouteNode, policy: &RouteCachePolicy) {
        if policy.mode != Mode::App || policy.pages == PageCache::Off {
            return;
        }
        let Some((key, app)) = upstream_of(self.file, route) else {
            return;
        };
        if app.app != App::Nextjs || app.guarded.is_some() {
            return;
        }
        if app.folder.is_some() {
            if self.is_every_page_guarded(&key.name) {
                self.at(key.place, "edgeway::upstream::every_page_guarded").warn(
                    format!(
                        "the middleware of `{}` runs for every page, so that none is stored",
                        key.name
                    ),
                    "write the pages that it protects, and those that it rewrites or redirects by \
                     cookie, language or country: `guarded: [/account/*]`; `guarded: [/*]` is for \
                     all pages",
                );
            }
            return;
        }
        if app.releases.is_some() {
            // The app that runs before releases do.
            if !app.backends.is_empty() && !self.has_releases(&key.name) {
                self.at(key.place, "edgeway::upstream::build_unknown").warn(
                    format!(
                        "pages of `{}` bypass the cache until its first `edgeway deploy`",
                        key.name
                    ),
                    format!(
                        "write `folder: /srv/{}/.next`, the build that runs until then",
                        key.name
                    ),
                );
            }
            return;
        }
        self.at(key.place, "edgeway::upstream::build_unknown").warn(
            format!(
                "pages of `{}` are cached, but its build is unknown: stored pages outlive a \
                 deploy, and pages that its middleware guards may be stored",
                key.name
            ),
            format!(
                "write `folder: /srv/{}/.next`, the folder in which `next build` leaves \
                 `BUILD_ID`; where the gateway cannot read it, write `guarded: [/account/*]` with \
                 the paths that are never shared, and purge after a deploy; or write `pages: off` \
                 in the route's `cache`",
                key.name
            ),
        );
    }
}

/// Returns the upstream that a route names.
fn upstream_of<'f>(file: &'f File, route: &RouteNode) -> Option<(&'f Key, &'f UpstreamConfig)> {
    let name = route.config.upstream.as_ref()?;
    let mut upstreams = file.upstreams.iter();
    let (key, upstream) = upstreams.find(|(key, _)| key.name == name.value)?;
    Some((key, &upstream.value))
}

/// Returns true if two routes are known to have a host in common.
fn meet(one: &RouteNode, other: &RouteNode) -> bool {
    let [one, other] = [one, other].map(|route| &route.config.matches.value.host.0);
    let has = |host: &Spanned<String>| other.iter().any(|it| it.value == host.value);
    one.is_empty() || other.is_empty() || one.iter().any(has)
}

/// Returns true if requests for other paths, with everything else that `root` demands, match.
fn takes_rest(other: &MatchConfig, root: &MatchConfig) -> bool {
    let takes = |other: &OneOrMany<Spanned<String>>, root: &OneOrMany<Spanned<String>>| {
        let has = |text: &Spanned<String>| other.0.iter().any(|own| own.value == text.value);
        other.is_empty() || (!root.is_empty() && root.0.iter().all(has))
    };
    let has_conditions =
        !(other.header.is_empty() && other.query.is_empty() && other.cookie.is_empty());
    other.takes_every_path()
        && !has_conditions
        && takes(&other.host, &root.host)
        && takes(&other.method, &root.method)
        && takes(&other.listener, &root.listener)
}

/// Collects the texts of a value and of what is in it.
pub(super) fn texts<'n>(node: &'n Node, values: &mut Vec<(&'n str, Place)>) {
    match &node.value {
        Value::Text(text) => values.push((text, node.place)),
        Value::List(items) => items.iter().for_each(|item| texts(item, values)),
        Value::Map(entries) => entries.iter().for_each(|(_, item)| texts(item, values)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::{World, compile, load_text};

    #[test]
    fn passwords_that_only_a_limit_by_user_protects_are_a_warning() {
        for (limits, guard, is_open) in [
            ("[user]", "", true),
            ("[edge, user]", "", false),
            ("[user]", "flood_guard: { ban: {} }\n", false),
        ] {
            let yaml = format!(
                "{guard}listeners: [{{ address: 127.0.0.1:8080 }}]\n\
                 rate_limits: {{ edge: 9/s, user: {{ rate: 1/s, key: user }} }}\n\
                 routes:\n\
                 - {{ match: {{ path: /a }}, respond: ok, rate_limit: [edge] }}\n\
                 - {{ match: {{ path: /* }}, respond: ok, rate_limit: {limits}, \
                   basic_auth: {{ users: {{ ann: '$apr1$abcdefgh$82JubPF2dQkt1tVfvLnXS.' }} }} }}\n"
            );
            let file = load_text("t.yaml", &yaml).file.expect("it is well formed");
            let (_, found) = compile(&file, Path::new("."), &World::default());
            let code = "edgeway::route::unlimited_guesses";
            let is_warned = found.list().iter().any(|one| one.code == code);
            assert_eq!(is_warned, is_open, "{yaml}");
        }
    }

    #[test]
    fn a_backend_that_is_a_listener_of_the_gateway_is_a_warning() {
        for (listener, backend, is_circle) in [
            ("127.0.0.1:8080", "127.0.0.1:8080", true),
            ("0.0.0.0:8080", "127.0.0.1:8080", true),
            (":8080", "[::1]:8080", true),
            ("unix:/run/a.sock", "unix:/run/a.sock", true),
            ("127.0.0.1:8080", "127.0.0.1:3000", false),
            ("127.0.0.1:8080", "127.0.0.2:8080", false),
            // Another machine.
            ("0.0.0.0:8080", "192.0.2.1:8080", false),
            (":8080", "192.0.2.1:8080", false),
            ("0.0.0.0:8080", "[::1]:8080", false),
        ] {
            let yaml = format!(
                "listeners: [{{ address: \"{listener}\" }}]\n\
                 upstreams: {{ web: {{ backends: [\"{backend}\"] }} }}\n\
                 routes: [{{ match: {{ path: /* }}, upstream: web }}]\n"
            );
            let file = load_text("t.yaml", &yaml).file.expect("it is well formed");
            let (_, found) = compile(&file, Path::new("."), &World::default());
            let codes: Vec<&str> = found.list().iter().map(|one| one.code).collect();
            let expected: &[&str] = if is_circle {
                &["edgeway::upstream::circle"]
            } else {
                &[]
            };
            assert_eq!(codes, expected, "{yaml}");
        }
    }
}
