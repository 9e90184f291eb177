//! Guards of routes, and warnings about configurations that leave a way around them.

use std::{collections::BTreeSet, sync::Arc};

use super::{Route, compile::Compiler};
use crate::{
    chain::{Chain, Guard, Named},
    config::{
        diagnostic::{Diagnostic, Place},
        model::{MatchConfig, RouteNode, SpellingConfig},
        tree::Node,
    },
    routes::{Action, RouteProtection, RouteTable, Slashes},
};

/// Guards of all routes, each once: two routes with the same setting have the same protection.
#[derive(Default)]
pub(super) struct Guards(Vec<Option<(&'static str, Node)>>);

impl Guards {
    /// Returns the number of a filter with these settings.
    pub(super) fn number(&mut self, name: &'static str, node: &Node) -> u32 {
        let same = |known: &Option<(&'static str, Node)>| {
            let known = known.as_ref();
            known.is_some_and(|(own, at)| *own == name && at.has_same_value(node))
        };
        let index = self.0.iter().position(same).unwrap_or_else(|| {
            self.0.push(Some((name, node.clone())));
            self.0.len() - 1
        });
        u32::try_from(index).unwrap_or(u32::MAX)
    }

    /// Returns a number that no other route has.
    fn another(&mut self) -> u32 {
        self.0.push(None);
        u32::try_from(self.0.len() - 1).unwrap_or(u32::MAX)
    }
}

/// Filter that guards a route, applied to requests that another route takes.
pub struct DetachedGuard {
    /// Number that is the same for identical settings.
    number: u32,
    is_access: bool,
    named: Named,
}

impl DetachedGuard {
    pub(super) fn new(number: u32, named: &Named) -> Self {
        let alone = named.filter.guard_alone();
        Self {
            number,
            is_access: named.filter.guard() == Guard::Access,
            named: Named {
                name: named.name,
                filter: alone.unwrap_or_else(|| Arc::clone(&named.filter)),
            },
        }
    }
}

impl Route {
    /// Returns the guards of this route that have not checked a request yet, and marks them in
    /// `asked`.
    pub fn guards_beside(&self, covered: &mut BTreeSet<u32>) -> Chain {
        let guards = self.guards.iter();
        let missing = guards.filter(|guard| covered.insert(guard.number));
        Chain::new(missing.map(|guard| guard.named.clone()).collect())
    }
}

impl Compiler<'_> {
    /// Returns the protection of a route: by its filters, and by an action that refuses.
    pub(super) fn guarding(
        &mut self,
        node: &RouteNode,
        filters: &[DetachedGuard],
        action: &Action,
    ) -> RouteProtection {
        let mut guards: BTreeSet<u32> = filters.iter().map(|guard| guard.number).collect();
        let refuses =
            matches!(action, Action::Respond(respond) if respond.status().as_u16() >= 400);
        if refuses {
            guards.insert(self.guards.another());
        }
        let spelling = node.config.spelling.as_ref();
        let (upstream, rewrites) = match action {
            Action::Forward(forward) => (
                Some(Arc::clone(&forward.upstream)),
                forward.rewrite.is_some(),
            ),
            // Two routes of one root lead to the same files, as two of one upstream lead to the
            // same app. No upstream has such a name.
            Action::Files(serve) if serve.internal.is_none() => {
                let root = serve.files.root();
                let root = root.canonicalize().unwrap_or_else(|_| root.to_path_buf());
                let root = format!("files {}", root.display());
                (Some(Arc::from(root)), serve.rewrite.is_some())
            }
            Action::Files(_) | Action::Redirect(_) | Action::Respond(_) => (None, false),
        };
        RouteProtection {
            guards,
            has_access: refuses || filters.iter().any(|guard| guard.is_access),
            upstream,
            rewrites,
            is_exact: spelling.is_some_and(|spelling| spelling.value == SpellingConfig::Exact),
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
        let nodes = self.file.routes.iter();
        let all: Vec<(&RouteNode, &RouteProtection)> = nodes.zip(&guarding).collect();
        for (guarded, guarding) in &all {
            if let Some(spelling) = &guarded.config.spelling
                && !all.iter().any(|(_, own)| own.leads_past(guarding))
            {
                self.diagnostics.push(needless(spelling.place));
            }
            if guarding.guards.is_empty() || guarding.is_exact {
                continue;
            }
            let mut lacking = all.iter().filter(|(_, own)| own.leads_past(guarding));
            let beside =
                |(other, _): &&(&RouteNode, &RouteProtection)| upstream(other) == upstream(guarded);
            let mut open = lacking.clone().filter(beside);
            if let Some(regex) = &guarded.config.matches.value.path_regex {
                // A route that refuses does so for any app.
                let other = match upstream(guarded) {
                    Some(_) => open.clone().next(),
                    None => lacking.next(),
                };
                if let Some((other, _)) = other {
                    self.diagnostics.push(beside_regex(regex.place, other));
                }
            }
            let any_host = open
                .clone()
                .find(|(other, _)| takes_other_hosts(other, guarded));
            if let Some((other, _)) = any_host {
                self.diagnostics.push(beside_host(other, guarded));
            }
            if let Some((other, _)) = open.find(|(other, _)| leads_into(other, guarded)) {
                self.diagnostics.push(behind_rewrite(other, guarded));
            }
        }
    }
}

fn upstream(node: &RouteNode) -> Option<&str> {
    node.config
        .upstream
        .as_ref()
        .map(|name| name.value.as_str())
}

fn needless(place: Place) -> Diagnostic {
    Diagnostic::warning(
        "edgeway::route::spelling",
        place,
        "`spelling` has no effect here: no other route lacks a filter that protects this one",
    )
    .help("remove it; every route takes its paths in their normal form")
}

fn beside_regex(place: Place, other: &RouteNode) -> Diagnostic {
    Diagnostic::warning(
        "edgeway::route::guarded_regex",
        place,
        format!(
            "of the spellings that an app may take for these paths, a regular expression finds only \
             some; the others go to `{}` and the same upstream",
            other.name()
        ),
    )
    .help("write the paths in `path`, or give the other route the same filters")
    .related(other.place, "matches the others without these filters")
}

/// Returns true if a rewrite of `other` can produce a path of `guarded`.
fn leads_into(other: &RouteNode, guarded: &RouteNode) -> bool {
    let Some(rewrite) = other.config.rewrite.as_ref() else {
        return false;
    };
    if other.config.upstream.is_none() {
        return false;
    }
    let with = rewrite.value.with.value.as_str();
    let fixed = with.split(['{', '$']).next().unwrap_or_default();
    let is_open = rewrite.value.prefix.is_some() || fixed.len() < with.len();
    let fixed = fixed.trim_end_matches('/');
    let mut paths = guarded.config.matches.value.path.0.iter();
    paths.any(|path| {
        let own = path.value.split(['{', '*']).next().unwrap_or_default();
        let is_pattern = own.len() < path.value.len();
        let own = own.trim_end_matches('/');
        own == fixed || is_open && own.starts_with(fixed) || is_pattern && is_below(fixed, own)
    })
}

/// Returns true if `path` lies below `other`.
fn is_below(path: &str, other: &str) -> bool {
    let rest = path.strip_prefix(other);
    rest.is_some_and(|rest| rest.starts_with('/'))
}

/// Returns true if `other` takes the paths of `guarded` for hosts that `guarded` does not name.
fn takes_other_hosts(other: &RouteNode, guarded: &RouteNode) -> bool {
    let (open, own) = (&other.config.matches.value, &guarded.config.matches.value);
    if own.host.0.is_empty() || !open.host.0.is_empty() || other.config.rewrite.is_some() {
        return false;
    }
    let covers = |path: &str| {
        let mut wide = open
            .path
            .0
            .iter()
            .filter_map(|path| path.value.strip_suffix("/*"));
        open.path.0.is_empty() && open.path_regex.is_none()
            || wide.any(|wide| wide.is_empty() || wide == path || is_below(path, wide))
    };
    // An app that selects by host has all its paths below one host.
    let mut paths = own.path.0.iter().map(|path| path.value.as_str());
    paths.any(|path| path != "/*" && covers(path))
}

fn beside_host(other: &RouteNode, guarded: &RouteNode) -> Diagnostic {
    Diagnostic::warning(
        "edgeway::route::guarded_host",
        guarded.config.matches.place,
        format!(
            "these paths are guarded for the hosts that are named; for any other host they go to \
             `{}` and the same upstream",
            other.name()
        ),
    )
    .help("leave `host` out here, name hosts at the other route, or give it the same filters")
    .related(other.place, "matches any host")
}

fn behind_rewrite(other: &RouteNode, guarded: &RouteNode) -> Diagnostic {
    Diagnostic::warning(
        "edgeway::route::rewritten_past_guard",
        other.config.rewrite.as_ref().map_or(other.place, |rewrite| rewrite.place),
        format!(
            "this rewrite leads to paths that `{}` guards, at the same upstream and without its filters",
            guarded.name()
        ),
    )
    .help("give this route the same filters, or rewrite to a path beside the guarded one")
    .related(guarded.place, "guards them")
}
