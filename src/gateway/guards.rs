//! Which routes are guarded, by what, and where the configuration leaves a way around.

use std::{collections::BTreeSet, sync::Arc};

use super::{Route, compile::Compiler};
use crate::{
    chain::{Chain, Guard, Named},
    config::{
        diagnostic::{Diagnostic, Place},
        model::{MatchConfig, RouteNode, SpellingConfig},
        tree::Node,
    },
    routes::{Action, Guarding, RouteTable, Slashes},
};

/// What protects routes, each thing once: two routes that write the same are protected alike.
#[derive(Default)]
pub(super) struct Guards(Vec<Option<(&'static str, Node)>>);

impl Guards {
    /// The number of a filter that is written so.
    pub(super) fn number(&mut self, name: &'static str, node: &Node) -> u32 {
        let same = |known: &Option<(&'static str, Node)>| {
            let known = known.as_ref();
            known.is_some_and(|(own, at)| *own == name && at.says_the_same(node))
        };
        let index = self.0.iter().position(same).unwrap_or_else(|| {
            self.0.push(Some((name, node.clone())));
            self.0.len() - 1
        });
        u32::try_from(index).unwrap_or(u32::MAX)
    }

    /// The number of what no other route has.
    fn another(&mut self) -> u32 {
        self.0.push(None);
        u32::try_from(self.0.len() - 1).unwrap_or(u32::MAX)
    }
}

/// The filters of a route that say who may pass, for requests that another route takes.
pub(super) fn access(filters: &[Named]) -> Chain {
    let access = filters.iter().filter_map(|named| {
        let is_access = named.filter.guard() == Guard::Access;
        is_access.then(|| Named {
            name: named.name,
            filter: named
                .filter
                .guard_alone()
                .unwrap_or_else(|| Arc::clone(&named.filter)),
        })
    });
    Chain::new(access.collect())
}

impl Compiler<'_> {
    /// How a route is protected: by its filters, and by an action that refuses.
    pub(super) fn guarding(
        &mut self,
        node: &RouteNode,
        mut guards: BTreeSet<u32>,
        action: &Action,
    ) -> Guarding {
        if matches!(action, Action::Respond(respond) if respond.status().as_u16() >= 400) {
            guards.insert(self.guards.another());
        }
        let spelling = node.config.spelling.as_ref();
        Guarding {
            guards,
            reaches_app: matches!(action, Action::Forward(_)),
            is_exact: spelling.is_some_and(|spelling| spelling.value == SpellingConfig::Exact),
        }
    }

    /// Has the table guard every spelling, and tells where it cannot.
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
        let Some(guarding) = known.collect::<Option<Vec<Guarding>>>() else {
            return;
        };
        table.guard(matches, &guarding, slashes, &mut self.diagnostics);
        let nodes = self.file.routes.iter();
        let all: Vec<(&RouteNode, &Guarding)> = nodes.zip(&guarding).collect();
        for (guarded, guarding) in &all {
            let lacks = |own: &Guarding| own.reaches_app && !guarding.guards.is_subset(&own.guards);
            if let Some(spelling) = &guarded.config.spelling
                && !all.iter().any(|(_, own)| lacks(own))
            {
                self.diagnostics.push(needless(spelling.place));
            }
            if guarding.guards.is_empty() || guarding.is_exact {
                continue;
            }
            let beside = |(other, own): &&(&RouteNode, &Guarding)| {
                lacks(own) && upstream(other) == upstream(guarded)
            };
            let mut open = all.iter().filter(beside);
            if let Some(regex) = &guarded.config.matches.value.path_regex
                && let Some((other, _)) = open.clone().next()
            {
                self.diagnostics.push(beside_regex(regex.place, other));
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
        "`spelling` says nothing here: no other route lacks a filter that protects this one",
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
    .related(other.place, "takes the others without these filters")
}

/// Whether a rewrite of `other` can make a path of `guarded` that the client chooses.
fn leads_into(other: &RouteNode, guarded: &RouteNode) -> bool {
    let Some(rewrite) = other.config.rewrite.as_ref() else {
        return false;
    };
    if rewrite.value.prefix.is_none() || other.config.upstream.is_none() {
        return false;
    }
    let with = rewrite.value.with.value.trim_end_matches('/');
    let mut paths = guarded.config.matches.value.path.0.iter();
    paths.any(|path| {
        let rest = path.value.strip_prefix(with);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    })
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
