//! Guards of routes, and warnings about configurations that leave a way around them.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use edgeway_cache::nextjs::Build;
use edgeway_config::{
    diagnostic::{Diagnostic, Diagnostics, Place},
    model::{MatchConfig, RouteConfig, RouteNode, SiteConfig, SpellingConfig},
    tree::{Key, Node, Spanned},
};
use edgeway_core::chain::{AnyOf, Chain, CompiledFilter, Guard, Phase, Reply, RequestFacts};
use edgeway_core_filters::error_pages::ErrorPages;
use edgeway_files::Files;
use edgeway_routes::{
    Action, GuardSearchResult, LiteralMatch, Otherwise, Params, Respond, RouteProtection,
    RouteTable, Rules, Slashes, Target, action_of,
};
use edgeway_upstreams::Upstream;
use http::HeaderValue;
use pingora::http::RequestHeader;

use super::{Gateway, Route, compile::Compiler, open_routes::OpenRoutes};

/// Guards of all routes, each once: two routes with the same setting have the same protection.
#[derive(Default)]
pub(super) struct Guards {
    /// Numbers and settings, by the digests of the settings.
    known: HashMap<(&'static str, u64), Vec<(u32, Node)>>,
    /// Numbers of the rules of sites that refuse requests.
    sites: HashMap<String, u32>,
    /// Numbers of filters of which one is enough, by their own numbers.
    alternatives: HashMap<Vec<u32>, u32>,
    count: u32,
}

impl Guards {
    /// Returns `guards` with `any` in place of its members.
    pub(super) fn with_any(
        &mut self,
        any: &AnyOf,
        guards: Box<[DetachedGuard]>,
    ) -> Box<[DetachedGuard]> {
        let names = any.names();
        let is_member = |guard: &DetachedGuard| names.contains(&guard.filter.name);
        let (members, mut rest): (Vec<_>, Vec<_>) = guards.into_iter().partition(is_member);
        let numbers: Vec<u32> = members.iter().map(|guard| guard.number).collect();
        let known = self.alternatives.get(&numbers).copied();
        let number = known.unwrap_or_else(|| self.another());
        self.alternatives.insert(numbers, number);
        rest.push(DetachedGuard {
            number,
            is_access: true,
            filter: CompiledFilter::new("satisfy", Arc::new(any.guards_alone())),
        });
        rest.into()
    }

    /// Returns the number of a filter with these settings.
    pub(super) fn number(&mut self, name: &'static str, node: &Node) -> u32 {
        let alike = self.known.entry((name, node.value_digest())).or_default();
        if let Some((number, _)) = alike.iter().find(|(_, at)| at.has_same_value(node)) {
            return *number;
        }
        alike.push((self.count, node.clone()));
        self.another()
    }

    /// Returns the number of the rules of a site.
    fn of_site(&mut self, name: &str) -> u32 {
        let known = self.sites.get(name).copied();
        let number = known.unwrap_or_else(|| self.another());
        self.sites.insert(name.to_owned(), number);
        number
    }

    /// Returns a number that no other route has.
    fn another(&mut self) -> u32 {
        let number = self.count;
        self.count = number.saturating_add(1);
        number
    }
}

/// Filter that guards a route, applied to requests that another route takes.
pub struct DetachedGuard {
    /// Number that is the same for identical settings.
    number: u32,
    is_access: bool,
    filter: CompiledFilter,
}

impl DetachedGuard {
    pub(super) fn new(number: u32, filter: &CompiledFilter) -> Self {
        Self {
            number,
            is_access: matches!(filter.traits.guard, Guard::Access | Guard::Identity),
            filter: filter.guard_alone(),
        }
    }
}

impl Route {
    /// Returns the guards of this route that have not checked a request yet, and marks them in
    /// `asked`.
    pub fn guards_beside(&self, covered: &mut BTreeSet<u32>) -> Chain {
        let guards = self.guards.iter();
        let missing = guards.filter(|guard| covered.insert(guard.number));
        Chain::new(missing.map(|guard| guard.filter.clone()).collect())
    }
}

impl Gateway {
    /// Returns the guards of other routes that a request has to pass besides those of its own route
    /// (see [`RouteTable::guarded`]). The last member of the lookup is true if some app may read the
    /// request as one for another path.
    #[cold]
    pub fn guarded(
        &self,
        (target, request, has_spellings): (&Target<'_>, &RequestHeader, bool),
        literal: &LiteralMatch,
        params: &mut Params,
    ) -> Option<GuardSearchResult> {
        let lacks_guards = self.lacks_guards(literal.route, request, has_spellings);
        let (actions, pages) =
            lacks_guards.then(|| self.other_pages(target, request, literal.route))?;
        let pages = pages.as_deref();
        self.table
            .guarded(target, request, literal, (&actions, pages), params)
    }

    /// Returns true if another route may have to guard a request of this one: for another spelling of
    /// its path, or since its app may have its page at another path.
    #[inline]
    pub fn lacks_guards(&self, route: usize, request: &RequestHeader, has_spellings: bool) -> bool {
        self.table.lacks_guards(route, has_spellings)
            || self.table.lacks_guards(route, true) && self.may_have_other_pages(request)
    }

    fn may_have_other_pages(&self, request: &RequestHeader) -> bool {
        let mut may_have = action_of(request).is_some();
        self.each_build(|_, build| may_have |= build.may_have_other_paths());
        may_have
    }

    /// Returns paths of the pages that have the server action of a request, which Next.js runs
    /// whatever the path of the request is; and other paths of its page, `None` if those are too many.
    fn other_pages(
        &self,
        target: &Target<'_>,
        request: &RequestHeader,
        route: usize,
    ) -> (Vec<Box<[u8]>>, Option<Vec<String>>) {
        let id = action_of(request).map(HeaderValue::as_bytes);
        let route = self.route(route).filter(|route| !route.guarding.chooses);
        let app = route.and_then(|route| route.upstream.as_ref());
        let (mut actions, mut pages) = (Vec::new(), Some(Vec::new()));
        let host = if self.sends_hosts { target.host } else { "" };
        let sent = Target { host, ..*target };
        self.each_build(|upstream, build| {
            let of_action = id.and_then(|id| build.pages_of_action(id));
            actions.extend_from_slice(of_action.unwrap_or_default());
            if app.is_none_or(|app| Arc::ptr_eq(app, upstream)) {
                let others = build.other_paths(&sent, &request.headers);
                pages = pages
                    .take()
                    .zip(others)
                    .map(|(pages, others)| [pages, others].concat());
            }
        });
        (actions, pages)
    }

    pub(super) fn each_build(&self, mut look: impl FnMut(&Arc<Upstream>, &Build)) {
        for (upstream, build) in &self.app_builds {
            look(upstream, &build.now());
        }
        for (upstream, releases) in &self.app_releases {
            releases
                .now()
                .builds()
                .for_each(|build| look(upstream, build));
        }
    }
}

impl Route {
    /// Returns the response of this route to a request of another one that some app may read as one
    /// of its own, if it refuses that.
    pub fn refusal(&self, request: &RequestHeader, facts: &mut RequestFacts) -> Option<Reply> {
        let mut rules = self.site.as_deref().into_iter().chain(&self.rules);
        rules
            .find_map(|rules| Some(rules.refusal(0, request, facts)?.0))
            .or_else(|| refusing(self.rules.as_ref(), &self.action).map(|own| own.reply(request)))
    }
}

/// Returns the action of a route, if that refuses requests. Rules that respond to all of them come
/// before it.
fn refusing<'a>(rules: Option<&Rules>, action: &'a Action) -> Option<&'a Respond> {
    let is_asked = rules.is_none_or(|rules| !rules.respond_to_all());
    match action {
        Action::Respond(respond) => Some(respond).filter(|own| is_asked && own.refuses()),
        // A backend refuses by itself, whatever the spelling; a redirect and a file that is missing
        // protect nothing.
        Action::Forward(_) | Action::Redirect(_) | Action::Files(_) => None,
    }
}

impl Compiler<'_> {
    /// Returns the protection of a route: by its filters, its rules and those of its site, by an
    /// action that refuses, and by what only other routes lead to.
    pub(super) fn guarding(
        &mut self,
        node: &RouteNode,
        filters: &[DetachedGuard],
        chain: &Chain,
        action: &Action,
        (rules, site): (Option<&Rules>, Option<&Rules>),
    ) -> RouteProtection {
        // All keys beside those of filters, so that a new one is one of the three kinds.
        let RouteConfig {
            // They may refuse, and `rules` and `action` are what they compile to.
            matches,
            rules: _,
            site: site_name,
            respond: _,
            // About the guards themselves.
            satisfy: _,
            spelling,
            // They refuse nothing. Without `websocket` a request is refused for its protocol, which
            // an app need not speak either.
            name: _,
            upstream: _,
            redirect: _,
            files: _,
            rewrite: _,
            websocket: _,
            timeouts: _,
            host_header: _,
            upstream_request: _,
            pass_headers: _,
        } = &node.config;
        let mut guards: BTreeSet<u32> = filters.iter().map(|guard| guard.number).collect();
        let is_internal = matches.value.internal;
        let refuses =
            is_internal || rules.is_some_and(Rules::refuse) || refusing(rules, action).is_some();
        if refuses {
            guards.insert(self.guards.another());
        }
        let mut all_rules = rules.into_iter().chain(site);
        let pages = chain.extension::<ErrorPages>();
        let leads_on = all_rules.any(|rules| rules.names().next().is_some())
            || pages.is_some_and(|pages| pages.lead_on());
        let site = site_name
            .as_ref()
            .filter(|_| site.is_some_and(Rules::refuse));
        guards.extend(site.map(|site| self.guards.of_site(&site.value)));
        // Two routes of one root lead to the same files, as two of one upstream lead to the same
        // app. No upstream has such a name.
        let named = |files: &Files| {
            let root = files.root();
            let root = root.canonicalize().unwrap_or_else(|_| root.to_path_buf());
            Arc::<str>::from(format!("files {}", root.display()))
        };
        let files = match action {
            Action::Forward(forward) => forward.files.as_deref().map(named),
            Action::Files(_) | Action::Redirect(_) | Action::Respond(_) => None,
        };
        let (upstream, rewrites) = match action {
            Action::Forward(forward) => (
                Some(Arc::clone(&forward.upstream)),
                forward.rewrite.is_some(),
            ),
            Action::Files(serve) if serve.internal.is_none() => {
                let folder = named(&serve.files);
                // Where there is no file, the one leads to an app, and the other to nothing.
                let whole = match &serve.otherwise {
                    Some(Otherwise::Named(route, _)) => format!("{folder} or {route}").into(),
                    Some(Otherwise::Path(_) | Otherwise::Status(_)) | None => folder,
                };
                (Some(whole), serve.rewrite.is_some())
            }
            Action::Files(_) | Action::Redirect(_) | Action::Respond(_) => (None, false),
        };
        RouteProtection {
            guards,
            has_access: refuses || site.is_some() || filters.iter().any(|guard| guard.is_access),
            upstream,
            chooses: chain.has(Phase::Route),
            files,
            leads_on,
            open: BTreeSet::new(),
            rewrites,
            is_exact: spelling
                .as_ref()
                .is_some_and(|spelling| spelling.value == SpellingConfig::Exact),
        }
    }

    /// Makes the table guard every spelling, and warns where it cannot.
    pub(super) fn guard(
        &mut self,
        table: &mut RouteTable,
        matches: &[(&MatchConfig, Place)],
        routes: &[Option<Route>],
        slashes: Slashes,
    ) {
        let known = routes
            .iter()
            .map(|route| route.as_ref().map(|r| r.guarding.clone()));
        let Some(guarding) = known.collect::<Option<Vec<RouteProtection>>>() else {
            return;
        };
        table.guard(matches, &guarding, slashes, &mut self.diagnostics);
        let all: Vec<(&RouteNode, &RouteProtection)> =
            self.file.routes.iter().zip(&guarding).collect();
        self.diagnostics.extend(ways_around(&all, &self.file.sites));
    }
}

/// Returns warnings of guards that do not keep requests from their app, and of needless spellings.
pub(super) fn ways_around(
    all: &[(&RouteNode, &RouteProtection)],
    sites: &[(Key, Spanned<SiteConfig>)],
) -> Diagnostics {
    let open = OpenRoutes::new(all, sites);
    let mut problems = Diagnostics::default();
    for (guarded, guarding) in all {
        let guards = &guarding.guards;
        if let Some(spelling) = &guarded.config.spelling
            && open.of_any_app(guards).is_none()
            && guarding.open.is_empty()
        {
            problems.push(needless(spelling.place));
        }
        if guarding.is_exact {
            continue;
        }
        if let Some(other) = open.without_code_of(guarded, guarding) {
            problems.push(beside_code(all[other].0, guarded));
        }
        if guards.is_empty() {
            continue;
        }
        let matches = &guarded.config.matches.value;
        let location = matches.location.as_ref();
        let regex = location.filter(|location| location.value.trim_start().starts_with('~'));
        if let Some(regex) = matches.path_regex.as_ref().or(regex)
            && let Some(other) = open.of_other_spellings(guarded, guarding)
        {
            problems.push(beside_regex(regex.place, all[other].0));
        }
        if let Some(other) = open.of_other_hosts(guarded, guarding) {
            problems.push(beside_host(all[other].0, guarded));
        }
        // The files of a route that rewrites are at other paths than its own.
        let is_moved = guarding.rewrites && guarded.config.upstream.is_none();
        if !is_moved && let Some(other) = open.rewritten_into(guarded, guarding) {
            problems.push(behind_rewrite(open.rewrites[other], guarded));
        }
        let rules = guarded.config.rules.iter();
        for name in rules.filter_map(|rule| rule.value.route.as_ref()) {
            let named = open.named.get(name.value.as_str());
            if let Some((other, theirs)) = named
                && theirs.upstream == guarding.upstream
                && !guards.is_subset(&theirs.guards)
            {
                problems.push(behind_rule(name.place, other, guarded));
            }
        }
    }
    problems
}

pub(super) fn needless(place: Place) -> Diagnostic {
    Diagnostic::warning(
        "edgeway::route::spelling",
        place,
        "`spelling` has no effect here: no other route lacks a filter that protects this one",
    )
    .help("remove it; every route takes its paths in their normal form")
}

pub(super) fn beside_regex(place: Place, other: &RouteNode) -> Diagnostic {
    Diagnostic::warning(
        "edgeway::route::guarded_regex",
        place,
        format!(
            "an app may treat more spellings as these paths than this regular expression matches; \
             the others go to `{}` and {}",
            other.name,
            same_place(other)
        ),
    )
    .help("write the paths in `path`, or give the other route the same filters")
    .related(
        other.place,
        "takes the other spellings, without these filters",
    )
}

pub(super) fn beside_code(other: &RouteNode, guarded: &RouteNode) -> Diagnostic {
    Diagnostic::warning(
        "edgeway::route::open_plugin",
        guarded.config.matches.place,
        format!(
            "the plugins of these paths may refuse requests, but guard nothing: other spellings go to \
             `{}` and {} without them",
            other.name,
            same_place(other)
        ),
    )
    .help(
        "write `role: auth` or `on_error: refuse` for a plugin that guards the paths; \
         `spelling: exact` says that none does",
    )
    .related(other.place, "takes the other spellings, without these plugins")
}

pub(super) fn beside_host(other: &RouteNode, guarded: &RouteNode) -> Diagnostic {
    Diagnostic::warning(
        "edgeway::route::guarded_host",
        guarded.config.matches.place,
        format!(
            "these paths are guarded for the hosts that are named; for any other host they go to \
             `{}` and {}",
            other.name,
            same_place(other)
        ),
    )
    .help("leave `host` out here, name hosts at the other route, or give it the same filters")
    .related(other.place, "matches any host")
}

pub(super) fn behind_rule(place: Place, other: &RouteNode, guarded: &RouteNode) -> Diagnostic {
    Diagnostic::warning(
        "edgeway::route::ruled_past_guard",
        place,
        format!(
            "this rule leads to `{}` at {}, before the filters of `{}` run and without some of them",
            other.name,
            same_place(guarded),
            guarded.name
        ),
    )
    .help("give that route the same filters")
    .related(other.place, "lacks some of them")
}

pub(super) fn behind_rewrite(place: Place, guarded: &RouteNode) -> Diagnostic {
    Diagnostic::warning(
        "edgeway::route::rewritten_past_guard",
        place,
        format!(
            "this leads to paths that `{}` guards, at {} and without its filters",
            guarded.name,
            same_place(guarded)
        ),
    )
    .help("give this route the same filters, or choose a path beside the guarded one")
    .related(guarded.place, "guards them")
}

/// Returns what two routes have in common of which one leads past the guards of the other.
fn same_place(node: &RouteNode) -> &'static str {
    match node.config.upstream {
        Some(_) => "the same upstream",
        None => "the same root",
    }
}
