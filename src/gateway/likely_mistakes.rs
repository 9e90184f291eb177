//! Warnings about settings that are valid, and that users of other gateways rarely mean.

use super::compile::Compiler;
use crate::{
    cache::{
        nextjs::PageCache,
        route::{Mode, RouteCachePolicy},
    },
    config::{
        diagnostic::Diagnostic,
        model::{App, MatchConfig, OneOrMany, RouteNode},
        tree::Spanned,
    },
};

impl Compiler<'_> {
    /// Warns of routes that take `/` alone where no other route takes the rest of the site: nginx,
    /// Traefik and Express mean every path by that.
    pub(super) fn roots_alone(&mut self) {
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
            self.diagnostics.push(
                Diagnostic::warning(
                    "edgeway::route::root_alone",
                    path.place,
                    "`path: /` is the path `/` alone, and no route takes the rest of the site",
                )
                .help(
                    "write `path: /*` for every path; if the start page alone is meant, add a \
                     route for the rest, such as `{ match: { path: /* }, respond: 404 }`",
                ),
            );
        }
    }

    /// Warns of stored pages of a Next.js app whose build is not known.
    pub(super) fn build_unknown(&mut self, route: &RouteNode, policy: &RouteCachePolicy) {
        if policy.mode != Mode::App || policy.pages == PageCache::Off {
            return;
        }
        let Some(name) = &route.config.upstream else {
            return;
        };
        let mut upstreams = self.file.upstreams.iter();
        let Some((key, upstream)) = upstreams.find(|(key, _)| key.name == name.value) else {
            return;
        };
        let app = &upstream.value;
        if app.app != App::Nextjs || app.folder.is_some() || app.guarded.is_some() {
            return;
        }
        self.diagnostics.push(
            Diagnostic::warning(
                "edgeway::upstream::build_unknown",
                key.place,
                format!(
                    "pages of `{}` are cached, and its build is not known: stored pages outlive a \
                     deploy, and the paths that its middleware guards are unknown",
                    key.name
                ),
            )
            .help(format!(
                "write `folder: /srv/{}/.next`, the folder in which `next build` leaves \
                 `BUILD_ID`; where the gateway cannot read it, write `guarded: [/account/*]` with \
                 the paths that are never shared, and purge after a deploy; or write `pages: off` \
                 in the route's `cache`",
                key.name
            )),
        );
    }
}

/// Returns true if requests for other paths, with everything else that `root` demands, match.
fn takes_rest(other: &MatchConfig, root: &MatchConfig) -> bool {
    let is_catch_all = match &other.path_regex {
        Some(_) => false,
        None => other.path.0.is_empty() || other.path.0.iter().any(|path| path.value == "/*"),
    };
    let takes = |other: &OneOrMany<Spanned<String>>, root: &OneOrMany<Spanned<String>>| {
        let has = |text: &Spanned<String>| other.0.iter().any(|own| own.value == text.value);
        other.is_empty() || (!root.is_empty() && root.0.iter().all(has))
    };
    let has_conditions =
        !(other.header.is_empty() && other.query.is_empty() && other.cookie.is_empty());
    is_catch_all
        && !has_conditions
        && takes(&other.host, &root.host)
        && takes(&other.method, &root.method)
        && takes(&other.listener, &root.listener)
}
