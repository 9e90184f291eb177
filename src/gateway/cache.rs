//! The section `cache`, compiled before the routes that use it, and what a route's cache
//! needs of its upstream.

use std::sync::Arc;

use super::compile::Compiler;
use crate::{
    base::{net::CidrSet, redis::Redis},
    cache::{
        Cache, Settings,
        metrics::RouteMetrics,
        nextjs::{BuildWatch, CookieNames, NextRules, Paths},
        route::{Mode, Policy, TagTemplate},
        store::Quota,
    },
    chain::Chain,
    config::{
        diagnostic::{Diagnostic, Place},
        model::{self, CacheConfig, PurgeLinkLost, RouteNode},
        tree::Key,
    },
    filters::compression::Coder,
    routes::{ParamNames, Slot},
};

/// Less would not hold what a fill needs.
const LEAST: u64 = 1 << 20;

/// One route's cache.
pub struct RouteCache {
    pub policy: Arc<Policy>,
    pub tags: Box<[TagTemplate<Slot>]>,
    pub cache: Arc<Cache>,
    pub metrics: RouteMetrics,
    pub quota: Option<Arc<Quota>>,
    /// What codes its answers on their way to clients.
    pub coder: Option<Arc<Coder>>,
    /// The rules of Next.js for each upstream that has them: a filter may choose another
    /// upstream than the route's.
    nextjs: Box<[(Arc<str>, NextRules)]>,
}

impl RouteCache {
    /// The rules of Next.js for this upstream, if they hold.
    pub fn nextjs(&self, upstream: &str) -> Option<&NextRules> {
        let mut all = self.nextjs.iter();
        all.find(|(name, _)| **name == *upstream)
            .map(|(_, rules)| rules)
    }
}

impl Compiler<'_> {
    /// Makes the store known to whatever is compiled from now on, if anything uses it.
    pub(super) fn cache(&mut self) -> Option<Arc<Cache>> {
        let file = self.file;
        let names_it = |keys: &[(Key, _)]| keys.iter().any(|(key, _)| key.name == "cache");
        let is_used =
            names_it(&file.defaults) || file.routes.iter().any(|route| names_it(&route.filters));
        if file.cache.is_none() && !is_used {
            return None;
        }
        let (config, place) = match &file.cache {
            Some(section) => (section.value.clone(), Some(section.place)),
            None => (CacheConfig::default(), None),
        };
        let (memory, max_object) = (config.memory.value.0, config.max_object.value.0);
        if memory < LEAST {
            self.error(
                "edgeway::cache::memory",
                config.memory.place,
                format!("`memory: {}` holds next to nothing", config.memory.value),
                "write `1MiB` or more, such as `256MiB`",
            );
            return None;
        }
        if max_object == 0 || max_object > memory / 4 {
            let place = config.max_object.place;
            let place = if place == Place::default() {
                config.memory.place
            } else {
                place
            };
            self.error(
                "edgeway::cache::max_object",
                place,
                format!(
                    "`max_object: {}` must be above 0 and at most a quarter of `memory: {}`",
                    config.max_object.value, config.memory.value
                ),
                "write a smaller `max_object`, or a larger `memory`",
            );
            return None;
        }
        if let Some(place) = place.filter(|_| !is_used) {
            self.diagnostics.push(
                Diagnostic::warning(
                    "edgeway::cache::unused",
                    place,
                    "no route has a cache".to_owned(),
                )
                .help("write `cache: {}` on a route or in `defaults`, or remove the section"),
            );
        }
        let settings = Settings {
            memory,
            max_object,
            purgers: config.purge.allow.into_iter().collect::<CidrSet>(),
            validates_what_may_be_purged: config.on_purge_link_lost == PurgeLinkLost::Revalidate,
        };
        let world = self.world;
        let cache = Arc::new(Cache::new(
            settings,
            &world.zones,
            &world.clock,
            &world.metrics,
        ));
        self.shared.insert(Arc::clone(&cache));
        let (supervised, redis) = (Arc::clone(&cache), self.shared.get::<Redis>());
        self.work.add("cache", move || {
            Arc::clone(&supervised).supervise(redis.clone())
        });
        Some(cache)
    }

    /// The cache of a route whose filters are compiled.
    pub(super) fn route_cache(
        &mut self,
        node: &RouteNode,
        route: &str,
        chain: &Chain,
    ) -> Option<RouteCache> {
        let policy = chain.extension::<Policy>()?;
        let cache = self.shared.get::<Cache>()?;
        let names = ParamNames::of(&node.config.matches.value);
        let mut tags = Vec::new();
        for tag in &policy.tags {
            match tag.bind(|name| names.slot(name)) {
                Ok(tag) => tags.push(tag),
                Err(problem) => self.error(
                    "edgeway::cache::tag",
                    node.place,
                    problem.to_string(),
                    "name a parameter of the route's path, such as `/products/{id}`",
                ),
            }
        }
        Some(RouteCache {
            nextjs: match policy.mode {
                Mode::Strict => Box::default(),
                Mode::App => self.nextjs(&policy),
            },
            metrics: RouteMetrics::new(&self.world.metrics, route),
            tags: tags.into(),
            quota: policy.quota.map(|bytes| cache.store().quota(route, bytes)),
            coder: chain.extension::<Coder>(),
            policy,
            cache,
        })
    }

    /// The rules of Next.js of one route, for each upstream that has them.
    fn nextjs(&mut self, policy: &Policy) -> Box<[(Arc<str>, NextRules)]> {
        let apps = self.shared.get::<Apps>().unwrap_or_default();
        let cookies = match &policy.anonymous_cookies {
            Some(names) => CookieNames::new(names.iter().map(|name| &**name)),
            None => CookieNames::default(),
        };
        let rules = |(name, app): &(Arc<str>, App)| {
            let rules = NextRules {
                pages: policy.pages,
                cookies: cookies.clone(),
                guarded: app.guarded.clone(),
                build: app.build.clone(),
                ..NextRules::default()
            };
            (Arc::clone(name), rules)
        };
        apps.0.iter().map(rules).collect()
    }

    /// What is known of the apps of Next.js before any route is compiled.
    pub(super) fn nextjs_apps(&mut self) {
        let mut apps = Apps::default();
        let file = self.file;
        for (key, config) in &file.upstreams {
            let upstream = &config.value;
            if upstream.app != model::App::Nextjs {
                for place in [
                    upstream.folder.as_ref().map(|folder| folder.place),
                    upstream.guarded.as_ref().map(|_| config.place),
                ]
                .into_iter()
                .flatten()
                {
                    self.error(
                        "edgeway::upstream::nextjs",
                        place,
                        format!("`{}` is no app of Next.js", key.name),
                        "add `app: nextjs`, or remove `folder` and `guarded`",
                    );
                }
                continue;
            }
            let guarded = upstream.guarded.as_ref();
            let guarded = guarded.map(|paths| Paths::new(paths.iter().map(|path| &*path.value)));
            let build = upstream.folder.as_ref().map(|folder| {
                let name = key.name.as_str();
                let path = self.folder.join(&folder.value);
                let (watch, error) = BuildWatch::new(name, &path);
                if let Some(error) = error {
                    self.diagnostics.push(
                        Diagnostic::warning(
                            "edgeway::upstream::folder",
                            folder.place,
                            format!("the build of `{name}` cannot be read: {error}"),
                        )
                        .help(
                            "no page is shared until there is a build: write the folder in which \
                             `next build` leaves `BUILD_ID`, usually `.next`",
                        ),
                    );
                }
                let watch = Arc::new(watch);
                let watched = Arc::clone(&watch);
                self.work.add(format!("build of {name}"), move || {
                    Arc::clone(&watched).watch()
                });
                watch
            });
            let app = App { guarded, build };
            apps.0.push((key.name.as_str().into(), app));
        }
        self.shared.insert(Arc::new(apps));
    }
}

/// The apps of Next.js, by their upstreams' names.
#[derive(Default)]
struct Apps(Vec<(Arc<str>, App)>);

struct App {
    guarded: Option<Paths>,
    build: Option<Arc<BuildWatch>>,
}
