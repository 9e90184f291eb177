//! Compiles the configuration as written into the one that serves. It continues after a problem, so
//! that all of them are reported at once.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    path::Path,
    sync::{Arc, Once},
};

use edgeway_base::{
    net::{Cidr, CidrSet, TrustedProxies},
    secret,
};
use edgeway_config::{
    diagnostic::{Diagnostics, Place, Reporter},
    model::{File, RouteNode, SatisfyConfig},
    source::ReferencedFiles,
    tree::{Key, Node, Spanned},
};
use edgeway_core::{
    chain::{ALTERNATIVES, AnyOf, BackgroundWork, Chain, CompileContext, CompiledFilter, Shared},
    limits::Bans,
    registry::Entry,
};
use edgeway_core_filters::{access_log::Redactor, error_pages::ErrorPages};
use edgeway_routes::{Action, HostHeader, RouteProtection, RouteTable, Slashes};
use edgeway_script::kv::Owners;
use edgeway_upstreams::{Protocol, Upstream};

use super::{
    Drain, Fallback, Gateway, Profiles, Route, World,
    description::{describe, template},
    effective,
    guards::{DetachedGuard, Guards},
    metrics::{self, NO_ROUTE, RouteMetrics},
    profiles::{self, ProfileSelection},
    rules::Sites,
    shared_filters::SharedFilters,
};

pub(super) struct Compiler<'a> {
    pub(super) file: &'a File,
    pub(super) folder: &'a Path,
    pub(super) world: &'a World,
    /// Active profile.
    profile: Option<&'a (Key, Node)>,
    pub(super) names: Vec<String>,
    pub(super) shared: Shared,
    pub(super) work: BackgroundWork,
    /// Query parameters and headers that are secrets on any route: a request that misses its route
    /// by a letter contains them too.
    pub(super) secret_names: Arc<[String]>,
    pub(super) referenced: ReferencedFiles,
    pub(super) guards: Guards,
    shared_filters: SharedFilters,
    pub(super) diagnostics: Diagnostics,
}

/// Compiles a configuration whose relative paths start at `folder`. The gateway is `None` if any
/// problem was an error.
pub fn compile(file: &File, folder: &Path, world: &World) -> (Option<Gateway>, Diagnostics) {
    let (gateway, diagnostics, _) = compile_with(file, folder, world, ProfileSelection::Same);
    (gateway, diagnostics)
}

/// Compiles as [`compile`] does, with the requested profile, and always returns the files that it
/// read or would have read.
pub fn compile_with(
    file: &File,
    folder: &Path,
    world: &World,
    profile: ProfileSelection<'_>,
) -> (Option<Gateway>, Diagnostics, ReferencedFiles) {
    let mut compiler = Compiler {
        file,
        folder,
        world,
        profile: profile.select(file, &world.zones),
        names: file
            .upstreams
            .iter()
            .map(|(key, _)| key.name.clone())
            .collect(),
        shared: {
            let mut shared = Shared::default();
            shared.insert(Arc::new(world.late.clone()));
            shared
        },
        work: BackgroundWork::default(),
        secret_names: secret_names(file),
        referenced: ReferencedFiles::default(),
        guards: Guards::default(),
        shared_filters: SharedFilters::default(),
        diagnostics: Diagnostics::default(),
    };
    let gateway = compiler.gateway();
    let diagnostics = compiler.diagnostics;
    let gateway = gateway.filter(|_| !diagnostics.has_errors());
    (gateway, diagnostics, compiler.referenced)
}

impl Compiler<'_> {
    /// Returns what reports a problem with this code at a place.
    pub(super) fn at(&mut self, place: Place, code: &'static str) -> Reporter<'_> {
        self.diagnostics.at(place, code)
    }

    fn gateway(&mut self) -> Option<Gateway> {
        metrics::admit(self.file, &self.world.metrics);
        let listeners = self.listeners();
        let acme = self.acme(&listeners);
        let admin = self.admin();
        self.beside_admin(&listeners, admin.address);
        let drain = self.drain();
        let audit = self.audit();
        let redis = self.redis();
        let tracing = self.tracing();
        self.shared.insert(Arc::new(Owners::default()));
        self.geo();
        let trusted = self.trusted();
        let bans = Bans::get(&self.world.zones, &self.world.clock, &self.world.metrics);
        let flood_guard = self.flood_guard();
        self.maps();
        self.rate_limits();
        self.media_types();
        let cache = self.cache();
        self.apps();
        let upstreams = self.upstreams();
        let fan_out = self.fan_out(|name| upstreams.get(name));
        self.check_listeners(&listeners);
        let slashes = self.slashes();
        let matches: Vec<_> = self
            .file
            .routes
            .iter()
            .map(|route| (&route.config.matches.value, route.place))
            .collect();
        let mut table = RouteTable::compile(&matches, slashes, &mut self.diagnostics);
        let mut used = HashSet::new();
        let sites = self.sites();
        let file = self.file;
        let section = file.cache.as_ref();
        let configured = section.and_then(|section| section.value.fan_out.as_ref());
        used.extend(configured.map(|configured| configured.upstream.value.as_str()));
        let routes: Vec<Option<Route>> = file
            .routes
            .iter()
            .map(|node| self.route(node, (&upstreams, &sites), &mut used))
            .collect();
        let reserved = self.reserved(&routes);
        if let Some(table) = &mut table {
            self.guard(table, &matches, &routes, slashes);
        }
        // A misspelled name is a use of the upstream that it was meant for.
        let is_unclear = self.diagnostics.has_errors();
        let fallback = self.fallback();
        let pages = pages_of(&routes, &fallback);
        self.page_upstreams(pages, &mut used);
        let named = self.named(&routes, &fallback);
        if !is_unclear {
            self.unused_upstreams(&used, &routes);
            self.unused_rate_limits();
            self.unused_maps();
            self.likely_mistakes(&routes);
            self.check_profiles();
        }
        let routes = routes.into_iter().collect::<Option<Vec<_>>>()?;
        Some(Gateway {
            accel_upstreams: accel_upstreams(&routes),
            app_files: self.of_apps(&upstreams, |app| app.files.clone()),
            app_images: self.of_apps(&upstreams, |app| app.images.clone()),
            app_builds: self.of_apps(&upstreams, |app| app.build.clone()),
            app_releases: self.of_apps(&upstreams, |app| app.releases.clone()),
            sends_hosts: routes.iter().all(|route| sends_host(&route.action)),
            listeners,
            acme,
            admin,
            drain,
            watch: file
                .watch
                .as_ref()
                .filter(|watch| watch.value.enabled)
                .map(|watch| watch.value.debounce.0),
            audit,
            redis,
            tracing,
            trusted,
            reserved,
            slashes,
            driver: file.driver.as_ref().map(|it| it.value).unwrap_or_default(),
            cache,
            fan_out,
            profiles: Profiles::new(file, self.profile, self.world),
            bans,
            flood_guard,
            table: table?,
            routes: routes.into(),
            named,
            upstreams,
            limits: file
                .rate_limits
                .iter()
                .map(|(key, _)| key.name.as_str().into())
                .collect(),
            fallback,
            work: std::mem::take(&mut self.work),
        })
    }

    /// Returns what requests without a route get.
    fn fallback(&mut self) -> Fallback {
        let chain = Chain::new(self.filters(Place::default(), NO_ROUTE, &[]).0);
        let secrets = &self.secret_names;
        let usual = || Arc::new(Redactor::with_secrets(secret::NAMES.split(' '), secrets));
        Fallback {
            error_pages: chain.extension(),
            redactor: chain.extension().unwrap_or_else(usual),
            metrics: RouteMetrics::new(&self.world.metrics, &self.world.clock, &NO_ROUTE.into()),
            chain,
        }
    }

    /// Returns the compile context for the item at `place`.
    pub(super) fn cx<'c>(&'c mut self, place: Place, route: &'c str) -> CompileContext<'c> {
        self.cx_with(place, route, &[])
    }

    fn cx_with<'c>(
        &'c mut self,
        place: Place,
        route: &'c str,
        secret_names: &'c [String],
    ) -> CompileContext<'c> {
        CompileContext {
            place,
            route,
            folder: self.folder,
            upstreams: &self.names,
            secret_names,
            clock: &self.world.clock,
            metrics: &self.world.metrics,
            zones: &self.world.zones,
            shared: &self.shared,
            work: &mut self.work,
            referenced: &mut self.referenced,
            diagnostics: &mut self.diagnostics,
        }
    }

    /// Returns what `check` returns, unless it reported an error.
    pub(super) fn checked<T>(&mut self, check: impl FnOnce(&mut Self) -> T) -> Option<T> {
        let before = self.diagnostics.errors();
        let checked = check(self);
        (self.diagnostics.errors() == before).then_some(checked)
    }

    fn drain(&mut self) -> Drain {
        let Spanned { value, place } = &self.file.drain;
        let (idle, deadline) = (value.idle().0, value.deadline.0);
        if deadline.is_zero() {
            self.at(*place, "edgeway::drain::deadline").error(
                "`deadline: 0s` would end every request in flight",
                "write a time such as `30s`",
            );
        } else if idle.is_zero() {
            self.at(*place, "edgeway::drain::idle").error(
                "`idle: 0s` would close connections whose client has sent its next request",
                "write a time such as `1s`",
            );
        }
        if idle > deadline {
            self.at(*place, "edgeway::drain::deadline").error(
                format!(
                    "idle connections would stay for `{}`, longer than requests in flight",
                    value.idle()
                ),
                "write a `deadline` that is longer than `idle`",
            );
        }
        Drain {
            announce: value.announce.0,
            idle,
            deadline,
        }
    }

    pub(super) fn slashes(&mut self) -> Slashes {
        let merges = self.file.merge_slashes.as_ref();
        let slashes = if merges.is_none_or(|merges| merges.value) {
            Slashes::Merge
        } else {
            Slashes::Keep
        };
        self.shared.insert(Arc::new(slashes));
        slashes
    }

    fn trusted(&mut self) -> TrustedProxies {
        let written = &self.file.trusted_proxies;
        for Spanned { value, place } in written {
            if value
                .parse::<Cidr>()
                .is_ok_and(|network| network.parts().1 == 0)
            {
                self.at(*place, "edgeway::trusted_proxies::everyone").warn(
                    format!(
                        "`{value}` trusts every client: each chooses its own address, and so \
                         passes limits and `access`"
                    ),
                    "write the networks of the proxies alone, such as `[10.0.0.0/8]`",
                );
            }
        }
        TrustedProxies::new(self.networks("edgeway::trusted_proxies", written))
    }

    /// Returns the networks of a list without those that are invalid, each of which is reported.
    pub(super) fn networks(&mut self, code: &'static str, written: &[Spanned<String>]) -> CidrSet {
        let networks = written.iter().filter_map(|Spanned { value, place }| {
            self.at(*place, code).reported(value.parse::<Cidr>())
        });
        networks.collect()
    }

    fn route<'n>(
        &mut self,
        node: &'n RouteNode,
        (upstreams, sites): (&HashMap<Arc<str>, Arc<Upstream>>, &Sites),
        used: &mut HashSet<&'n str>,
    ) -> Option<Route> {
        let name: Arc<str> = node.name.as_str().into();
        let mut upstream = None;
        if let Some(Spanned { value, .. }) = &node.config.upstream {
            used.insert(value);
            upstream = upstreams.get(value.as_str()).map(Arc::clone);
            let websocket = node.config.websocket.as_ref().filter(|w| w.value.enabled);
            if let (Some(websocket), Some(upstream)) = (websocket, &upstream)
                && upstream.protocol() == Protocol::H2
            {
                self.at(websocket.place, "edgeway::route::websocket_over_h2")
                    .error(
                        format!("no WebSocket can reach `{value}`, which uses HTTP/2"),
                        "remove `websocket`, or send these requests to an upstream without \
                         `protocol: h2`",
                    );
            }
        }
        if node.config.files.is_some()
            && node.config.upstream.is_none()
            && let Some((key, _)) = node.filters.iter().find(|(key, _)| key.name == "cache")
        {
            self.at(key.place, "edgeway::route::cache_of_files").warn(
                "`cache` has no effect with `files`, which are on this machine already",
                "leave it out; `max_age` and `immutable` of `files` are for browsers",
            );
        }
        let (filters, guards, open) = self.filters(node.place, &name, &node.filters);
        let (chain, guards) = match self.alternatives(node, &filters) {
            Some(any) => {
                let guards = self.guards.with_any(&any, guards);
                (Chain::satisfying_any(filters, &any), guards)
            }
            None => (Chain::new(filters), guards),
        };
        self.check_identity(node, &chain);
        let pass_headers = self.pass_headers(node);
        let (rules, site) = self.rules(node, &name, sites);
        let mut cx = self.cx(node.place, &name);
        let action = Action::compile(&node.config, &mut cx)?;
        let cache = self.route_cache(node, &name, (&action, &chain), &pass_headers);
        self.check_upstream_request(node, &action, cache.is_some());
        let guarding = RouteProtection {
            open,
            ..self.guarding(
                node,
                &guards,
                &chain,
                &action,
                (rules.as_ref(), site.as_deref()),
            )
        };
        Some(Route {
            matches: describe(&node.config.matches.value),
            template: template(&node.config.matches.value, &name),
            place: node.place,
            redactor: chain.extension(),
            error_pages: chain.extension(),
            chain,
            pass_headers,
            reads_written: self.reads_written(node),
            guarding,
            guards,
            action,
            upstream,
            metrics: RouteMetrics::new(&self.world.metrics, &self.world.clock, &name),
            cache,
            rules,
            site,
            is_internal: node.config.matches.value.internal,
            websocket_hint: Once::new(),
            name,
        })
    }

    /// Returns the filters of a route of which one is enough, if it has `satisfy: any`.
    fn alternatives(&mut self, node: &RouteNode, filters: &[CompiledFilter]) -> Option<Arc<AnyOf>> {
        let satisfy = node.config.satisfy.as_ref();
        let satisfy = satisfy.filter(|satisfy| satisfy.value == SatisfyConfig::Any)?;
        let any = AnyOf::from_filters(filters).map(Arc::new);
        // One that is refused is reported already.
        let written = effective::filters(self.file, node.place, &node.filters);
        let written = written.filter(|(entry, _)| ALTERNATIVES.contains(&entry.name));
        if any.is_none() && written.count() < 2 {
            self.at(satisfy.place, "edgeway::route::satisfy").error(
                "`satisfy: any` needs two filters of which one is enough",
                format!(
                    "leave it out, or give the route two of `{}`",
                    ALTERNATIVES.join("`, `")
                ),
            );
        }
        any
    }

    /// Compiles one filter of a route, or returns one that another route has with these settings.
    fn filter(
        &mut self,
        entry: &Entry,
        node: &Node,
        route: &str,
        secret_names: &[String],
    ) -> Option<CompiledFilter> {
        if entry.is_shareable
            && let Some(filter) = self.shared_filters.get(entry.name, node)
        {
            return Some(filter);
        }
        let problems = self.diagnostics.list().len();
        let mut cx = self.cx_with(node.place, route, secret_names);
        let filter = (entry.compile)(node, &mut cx)?;
        // A problem is reported for each route that has it.
        if entry.is_shareable && self.diagnostics.list().len() == problems {
            self.shared_filters.insert(node, &filter);
        }
        Some(filter)
    }

    /// Returns the filters of one route, in the registry's order, those that protect it, and the
    /// numbers of those that only may seem to.
    fn filters(
        &mut self,
        place: Place,
        route: &str,
        written: &[(Key, Node)],
    ) -> (Vec<CompiledFilter>, Box<[DetachedGuard]>, BTreeSet<u32>) {
        let mut filters = Vec::new();
        let mut guards = Vec::new();
        let mut open = BTreeSet::new();
        let secret_names = Arc::clone(&self.secret_names);
        for (entry, mut node) in effective::filters(self.file, place, written) {
            if let Some((_, profile)) = self.profile
                && entry.name == "cache"
            {
                node = profiles::overlaid(node, profile, route);
            }
            if let Some(filter) = self.filter(entry, &node, route, &secret_names) {
                let guard = filter.traits.guard;
                if guard.protects() {
                    let number = self.guards.number(entry.name, &node);
                    guards.push(DetachedGuard::new(number, &filter));
                } else if guard.may_seem_to_protect() {
                    open.insert(self.guards.number(entry.name, &node));
                }
                filters.push(filter);
            }
        }
        (filters, guards.into(), open)
    }
}

/// Returns the pages of errors of all routes.
pub(super) fn pages_of<'r>(
    routes: &'r [Option<Route>],
    fallback: &'r Fallback,
) -> impl Iterator<Item = &'r ErrorPages> {
    let routes = routes.iter().flatten().map(|route| &route.error_pages);
    { routes }
        .chain([&fallback.error_pages])
        .filter_map(Option::as_deref)
}

/// Returns true unless the action names another host to its backend than that of the request.
fn sends_host(action: &Action) -> bool {
    let host = action.forward().and_then(|forward| forward.host.as_ref());
    host.is_none_or(|host| matches!(host, HostHeader::Name))
}

/// Returns the upstreams that some internal route names.
fn accel_upstreams(routes: &[Route]) -> Box<[Arc<str>]> {
    let internal = routes.iter().filter_map(|route| match &route.action {
        Action::Files(serve) => serve.internal.as_ref(),
        Action::Forward(_) | Action::Redirect(_) | Action::Respond(_) => None,
    });
    let names: BTreeSet<&Arc<str>> = internal.flatten().collect();
    names.into_iter().cloned().collect()
}

/// Returns the secret query parameters of all routes.
fn secret_names(file: &File) -> Arc<[String]> {
    let routes = file.routes.iter();
    let names: BTreeSet<String> = routes
        .flat_map(|route| effective::filters(file, route.place, &route.filters))
        .flat_map(|(entry, node)| (entry.secret_names)(&node))
        .collect();
    names.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load_text;

    #[test]
    fn a_cache_before_files_is_a_warning() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("www")).unwrap();
        let yaml = "listeners: [{ address: 127.0.0.1:8080 }]\n\
                    routes: [{ match: {}, files: www, cache: {} }]\n";
        let file = load_text("t.yaml", yaml).file.unwrap();
        let (gateway, diagnostics) = compile(&file, folder.path(), &World::default());
        assert!(gateway.is_some());
        let [warning] = diagnostics.list() else {
            panic!("{diagnostics:#?}");
        };
        assert_eq!(warning.code, "edgeway::route::cache_of_files");
    }
}
