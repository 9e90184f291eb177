//! Index of the routes that lead to an app without some guard, by the ways on which a request for a
//! guarded path can reach them.

#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};

use edgeway_config::{
    diagnostic::Place,
    model::{OneOrMany, RouteNode, RuleConfig, SiteConfig, ThenConfig},
    tree::{Key, Spanned},
};
use edgeway_routes::{LackedGuards, LackedGuardsBy, RouteProtection};

/// The routes of a configuration, by upstream or root.
#[derive(Default)]
pub(super) struct OpenRoutes<'a> {
    all: LackedGuards,
    /// Routes with an upstream.
    apps: ByAudience<'a>,
    /// Places of the rewrites of all routes, in their order.
    pub(super) rewrites: Vec<Place>,
    by_upstream: HashMap<&'a str, OpenRoutesOfUpstream<'a>>,
    /// Routes to which others lead by their names.
    pub(super) named: HashMap<&'a str, (&'a RouteNode, &'a RouteProtection)>,
}

#[derive(Default)]
struct OpenRoutesOfUpstream<'a> {
    apps: ByAudience<'a>,
    /// Routes for any host, by the paths that they have everything below of.
    any_host: LackedGuardsBy<&'a str>,
    /// Routes by the beginning of the paths that their rewrite produces.
    rewritten: LackedGuardsBy<&'a str>,
    /// Rewriting routes whose paths may continue in any way.
    rewritten_open: LackedGuardsBy<&'a str>,
    /// Rewriting routes by the folders above the beginning of these paths.
    rewritten_below: LackedGuardsBy<&'a str>,
    /// Routes by hosts and by the paths that they have everything below of, with the numbers of
    /// filters that only may seem to protect.
    by_code: LackedGuardsBy<(String, &'a str)>,
}

/// Routes by a listener and a host that they take: `""` where it may be any, and `"*"` for every
/// route.
#[derive(Default)]
struct ByAudience<'a>(LackedGuardsBy<(&'a str, &'a str)>);

impl<'a> ByAudience<'a> {
    /// Adds a route, unless it has files alone: another spelling of a path is another file.
    fn push(&mut self, number: usize, node: &'a RouteNode, guards: &BTreeSet<u32>) {
        if cfg!(target_os = "linux") && node.config.upstream.is_none() {
            return;
        }
        let matches = &node.config.matches.value;
        let keys = |list| {
            exact(list)
                .unwrap_or_else(|| vec![""])
                .into_iter()
                .chain(["*"])
        };
        for listener in keys(&matches.listener) {
            for host in keys(&matches.host) {
                self.0.push((listener, host), number, guards);
            }
        }
    }

    /// Returns the first route that takes requests of the listeners and hosts of `guarded`, and lacks
    /// one of its guards.
    fn first_beside(&self, guarded: &'a RouteNode, guards: &BTreeSet<u32>) -> Option<usize> {
        let matches = &guarded.config.matches.value;
        let keys = |list| exact(list).map_or_else(|| vec!["*"], |list| [&list[..], &[""]].concat());
        let hosts = keys(&matches.host);
        let listeners = keys(&matches.listener).into_iter();
        listeners
            .flat_map(|listener| hosts.iter().map(move |host| (listener, *host)))
            .filter_map(|key| self.0.first_without(&key, guards))
            .min()
    }
}

/// Returns the values of a list; `None` if there may be others.
fn exact(list: &OneOrMany<Spanned<String>>) -> Option<Vec<&str>> {
    let values: Vec<&str> = list.0.iter().map(|value| &*value.value).collect();
    // A host in capitals or with a dot at its end is another spelling.
    let is_wide = |value: &&str| {
        value.starts_with('~')
            || value.ends_with('.')
            || value.contains(|c: char| c == '*' || c.is_ascii_uppercase())
    };
    (!values.is_empty() && !values.iter().any(is_wide)).then_some(values)
}

impl<'a> OpenRoutes<'a> {
    pub(super) fn new(
        routes: &[(&'a RouteNode, &'a RouteProtection)],
        sites: &'a [(Key, Spanned<SiteConfig>)],
    ) -> Self {
        let mut open = Self::default();
        let mut named = HashMap::new();
        for (node, guarding) in routes {
            if let Some(name) = &node.config.name
                && node.config.matches.value.named
            {
                named.insert(name.value.as_str(), (*node, *guarding));
            }
        }
        let named_upstreams = routes.iter().filter_map(|(node, _)| {
            let upstream = node.config.upstream.as_ref()?;
            Some(upstream.value.as_str())
        });
        let upstreams: BTreeSet<_> = named_upstreams.collect();
        let own_rules = routes.iter().map(|(node, _)| &node.config.rules);
        let lists = own_rules.chain(sites.iter().map(|(_, site)| &site.value.rules));
        for rules in lists {
            open.push_leads(rules, &named);
        }
        open.named = named;
        for (number, (node, guarding)) in routes.iter().enumerate() {
            // A route without an app leads past nothing.
            if guarding.upstream.is_none() {
                continue;
            }
            open.all.push(number, &guarding.guards);
            open.apps.push(number, node, &guarding.guards);
            let apps: BTreeSet<&str> = guarding.apps().map(|app| &**app).collect();
            for app in &apps {
                let beside = open.by_upstream.entry(app).or_default();
                beside.push(number, node, guarding);
            }
            let others = upstreams.iter().filter(|_| guarding.chooses);
            let others = others.filter(|app| !apps.contains(*app));
            for app in apps.iter().chain(others) {
                for (with, is_open, place) in rewrites(node).chain(replaced_files(node)) {
                    let beside = open.by_upstream.entry(app).or_default();
                    beside.push_rewrite(open.rewrites.len(), (with, is_open), &guarding.guards);
                    open.rewrites.push(place);
                }
            }
        }
        for (node, guarding) in routes {
            open.push_root(node, guarding);
        }
        open
    }

    /// Adds the files of a route whose root lies below that of other routes: they have these files at
    /// other paths.
    fn push_root(&mut self, node: &RouteNode, guarding: &'a RouteProtection) {
        let Some(files) = &node.config.files else {
            return;
        };
        for app in guarding.apps() {
            for (slash, _) in app.match_indices('/') {
                let (outer, folder) = app.split_at(slash);
                if !has_paths_below(node, folder)
                    && let Some(beside) = self.by_upstream.get_mut(outer)
                {
                    beside.push_rewrite(self.rewrites.len(), (folder, true), &guarding.guards);
                    self.rewrites.push(files.place);
                }
            }
        }
    }

    /// Adds the rewrites of rules that lead to routes by their names: the path that they send is
    /// looked up nowhere.
    fn push_leads(
        &mut self,
        rules: &'a [Spanned<RuleConfig>],
        named: &HashMap<&'a str, (&'a RouteNode, &'a RouteProtection)>,
    ) {
        let names = rules.iter().filter_map(|rule| rule.value.route.as_ref());
        for (_, guarding) in names.filter_map(|name| named.get(name.value.as_str())) {
            for app in guarding.apps() {
                for (with, is_open, place) in rewrites_of(rules) {
                    let beside = self.by_upstream.entry(app).or_default();
                    beside.push_rewrite(self.rewrites.len(), (with, is_open), &guarding.guards);
                    self.rewrites.push(place);
                }
            }
        }
    }

    /// Returns the first route to the app of `guarded` that takes other spellings of its paths, and
    /// that lacks one of these filters.
    pub(super) fn without_code_of(
        &self,
        guarded: &RouteNode,
        guarding: &RouteProtection,
    ) -> Option<usize> {
        let open = &guarding.open;
        if open.is_empty() {
            return None;
        }
        let matches = &guarded.config.matches.value;
        let paths = matches.path.0.iter().map(|path| path.value.as_str());
        let hosts = [String::new(), hosts(guarded)];
        paths
            .filter(|path| *path != "/*")
            .flat_map(|path| folders(path.trim_end_matches("/*")).chain([""]))
            .flat_map(|folder| hosts.iter().map(move |hosts| (hosts.clone(), folder)))
            .flat_map(|key| {
                let beside = self.beside(guarding);
                beside.filter_map(move |own| own.by_code.first_without(&key, open))
            })
            .min()
    }

    /// Returns the first route to any app that lacks one of these guards.
    pub(super) fn of_any_app(&self, guards: &BTreeSet<u32>) -> Option<usize> {
        self.all.first_without(guards)
    }

    /// Returns the first route that takes other spellings of paths of `guarded`, to its app if it has
    /// one, and that lacks one of its guards.
    pub(super) fn of_other_spellings(
        &self,
        guarded: &'a RouteNode,
        guarding: &RouteProtection,
    ) -> Option<usize> {
        // A route that refuses does so for any app.
        if guarding.upstream.is_none() {
            return self.apps.first_beside(guarded, &guarding.guards);
        }
        let beside = self.beside(guarding);
        beside
            .filter_map(|own| own.apps.first_beside(guarded, &guarding.guards))
            .min()
    }

    /// Returns the first route to the app of `guarded` that takes the same paths for hosts that
    /// `guarded` does not name, and that lacks one of its guards.
    pub(super) fn of_other_hosts(
        &self,
        guarded: &RouteNode,
        guarding: &RouteProtection,
    ) -> Option<usize> {
        let matches = &guarded.config.matches.value;
        if matches.host.0.is_empty() {
            return None;
        }
        // An app that selects by host has all its paths below one host.
        let paths = matches.path.0.iter().map(|path| path.value.as_str());
        paths
            .filter(|path| *path != "/*")
            .flat_map(|path| folders(path).chain(["", path]))
            .flat_map(|folder| {
                let beside = self.beside(guarding);
                beside.filter_map(move |own| own.any_host.first_without(&folder, &guarding.guards))
            })
            .min()
    }

    /// Returns the number of the first rewrite, of a route to the app of `guarded` that lacks one of
    /// its guards, which can produce a path of `guarded`.
    pub(super) fn rewritten_into(
        &self,
        guarded: &RouteNode,
        guarding: &RouteProtection,
    ) -> Option<usize> {
        let beside = self.beside(guarding);
        beside
            .filter_map(|own| own.rewritten_into(guarded, &guarding.guards))
            .min()
    }

    fn beside<'s>(
        &'s self,
        guarding: &'s RouteProtection,
    ) -> impl Iterator<Item = &'s OpenRoutesOfUpstream<'a>> {
        let apps = guarding.apps();
        apps.filter_map(|app| self.by_upstream.get(&**app))
    }
}

impl<'a> OpenRoutesOfUpstream<'a> {
    fn push(&mut self, number: usize, node: &'a RouteNode, guarding: &RouteProtection) {
        self.apps.push(number, node, &guarding.guards);
        let matches = &node.config.matches.value;
        if node.config.rewrite.is_some() {
            return;
        }
        let any = matches.takes_every_path().then_some("");
        let paths = matches.path.0.iter();
        let wide = paths.filter_map(|path| path.value.strip_suffix("/*"));
        for folder in any.into_iter().chain(wide.filter(|wide| !wide.is_empty())) {
            if matches.host.0.is_empty() {
                self.any_host.push(folder, number, &guarding.guards);
            }
            let key = (hosts(node), folder);
            self.by_code.push(key, number, &guarding.open);
        }
    }

    /// Returns the number of the first rewrite, by a route that lacks one of these guards, which can
    /// produce a path of `guarded`.
    fn rewritten_into(&self, guarded: &RouteNode, guards: &BTreeSet<u32>) -> Option<usize> {
        let matches = &guarded.config.matches.value;
        let paths = matches.path.0.iter().map(|path| {
            let text = path.value.split(['{', '*']).next().unwrap_or_default();
            (text, text.len() < path.value.len())
        });
        let location = matches.location.as_ref().map(|text| text.value.trim());
        let location = location.filter(|text| !text.starts_with('~'));
        let location = location.map(|text| match text.strip_prefix('=') {
            Some(exact) => (exact.trim_start(), false),
            None => (text.trim_start_matches("^~").trim_start(), true),
        });
        let rewrites = paths.chain(location).flat_map(|(text, is_pattern)| {
            let text = text.trim_end_matches('/');
            let ends = text.char_indices().map(|(end, _)| end).chain([text.len()]);
            let beginnings = ends.map(|end| &text[..end]);
            let below = is_pattern.then(|| self.rewritten_below.first_without(&text, guards));
            beginnings
                .map(|beginning| self.rewritten_open.first_without(&beginning, guards))
                .chain([self.rewritten.first_without(&text, guards)])
                .chain(below)
                .flatten()
        });
        rewrites.min()
    }

    /// Adds a rewrite to paths that begin with `fixed`, and continue in any way if it is open.
    fn push_rewrite(
        &mut self,
        number: usize,
        (fixed, is_open): (&'a str, bool),
        guards: &BTreeSet<u32>,
    ) {
        self.rewritten.push(fixed, number, guards);
        if is_open {
            self.rewritten_open.push(fixed, number, guards);
        }
        for folder in folders(fixed) {
            self.rewritten_below.push(folder, number, guards);
        }
    }
}

/// Returns the rewrites with which a route sends another path to its upstream: the beginning that
/// all of their paths have, whether that is not all of it, and where they are written. A rewrite that
/// chooses a route meets the guards of that one.
fn rewrites(node: &RouteNode) -> impl Iterator<Item = (&str, bool, Place)> {
    let key = node.config.rewrite.as_ref().map(|rewrite| {
        let to = &rewrite.value;
        (to.with.value.as_str(), to.prefix.is_some(), rewrite.place)
    });
    key.into_iter()
        .map(fixed)
        .chain(rewrites_of(&node.config.rules))
}

/// Returns the rewrites of rules after which their path is sent, or left to a route that is named.
fn rewrites_of(rules: &[Spanned<RuleConfig>]) -> impl Iterator<Item = (&str, bool, Place)> {
    let rules = rules.iter().filter_map(|rule| {
        let with = rule.value.with.as_ref()?.value.as_str();
        match rule.value.then {
            None | Some(ThenConfig::Stop) => {}
            Some(ThenConfig::Reroute | ThenConfig::Later) => return None,
        }
        let path = with.split('?').next().unwrap_or_default();
        Some((path, false, rule.place))
    });
    rules.map(fixed)
}

/// Returns the beginning that all paths of a rewrite have, and whether that is not all of it.
fn fixed((with, is_open, place): (&str, bool, Place)) -> (&str, bool, Place) {
    let fixed = with.split(['{', '$']).next().unwrap_or_default();
    let is_open = is_open || fixed.len() < with.len();
    (fixed.trim_end_matches('/'), is_open, place)
}

/// Returns the folders that a path lies in, as their paths without the slash at the end.
fn folders(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/').map(|(at, _)| &path[..at])
}

/// Returns the hosts of a route as one text; an empty one for every host.
fn hosts(node: &RouteNode) -> String {
    let hosts = node.config.matches.value.host.0.iter();
    let mut hosts: Vec<&str> = hosts.map(|host| host.value.as_str()).collect();
    hosts.sort_unstable();
    hosts.join(" ")
}

/// Returns the paths at which a route finds files in place of its requests' own, as [`rewrites`]
/// does. A value that a client chooses may be any path.
fn replaced_files(node: &RouteNode) -> impl Iterator<Item = (&str, bool, Place)> {
    let files = node.config.files.iter();
    let paths = files.flat_map(|files| {
        let tried = files.value.candidates.iter();
        let tried = tried.filter(|path| !path.value.starts_with("{path}"));
        tried.chain(&files.value.fallback)
    });
    paths.map(|path| fixed((path.value.as_str(), false, path.place)))
}

/// Returns true if the paths of a route begin with those of a folder: it has the files at the paths
/// of the folder's own.
fn has_paths_below(node: &RouteNode, folder: &str) -> bool {
    let matches = &node.config.matches.value;
    let paths = matches.path.0.iter().chain(&matches.location);
    let mut paths = paths.map(|path| path.value.trim_start_matches(['^', '~', '=', ' ']));
    paths.any(|path| path.starts_with(folder))
}
