//! Compiles the section `cache` before the routes that use it, and the settings of upstreams that a
//! route's cache needs.

use std::{collections::HashMap, sync::Arc};

use edgeway_base::net::CidrSet;
use edgeway_cache::{
    Cache, CacheSettings,
    budget::{Crawlers, RenderBudget, RenderLimits},
    metrics::RouteCacheMetrics,
    nextjs::{BuildWatch, NextRules, PathSet, Releases},
    policy::UnchangedHeaders,
    route::{Mode, RouteCachePolicy, TagTemplate},
    store::{Quota, RouteRules},
    tier::{DiskSettings, WaitHistograms},
};
use edgeway_config::{
    model::{
        self, CacheConfig, DiskConfig, PurgeLinkLost, RouteNode, SharedConfig, SharedPlace,
        UpstreamConfig,
    },
    tree::{Key, Spanned},
};
use edgeway_core::{chain::Chain, limits::key::Source};
use edgeway_core_filters::{
    cache::{CompiledCache, RequestValues},
    compression::CompressionRules,
};
use edgeway_net::redis::Redis;
use edgeway_routes::{Action, ParamNames, ParamSlot};
use edgeway_upstreams::Upstream;
use http::HeaderName;

use super::{
    app_files::AppFiles,
    app_images::AppImages,
    compile::Compiler,
    route_identity::{RouteIdentity, RouteKeyParts},
    written::WrittenValues,
};

/// Lower bound on `memory`: less cannot hold what a fill needs.
const MIN_MEMORY: u64 = 1 << 20;

/// Lower bound on the size of a disk cache: less cannot hold a few responses.
const MIN_DISK: u64 = 1 << 20;

/// Upper bound on one value in Redis: a larger one would delay all other clients.
const MAX_SHARED: u64 = 64 << 20;

/// Cache of one route.
pub struct RouteCache {
    pub policy: Arc<RouteCachePolicy>,
    /// Settings as the filter has them, with the values that requests go by.
    compiled: Arc<CompiledCache>,
    pub tags: Box<[TagTemplate<ParamSlot>]>,
    pub cache: Arc<Cache>,
    pub metrics: RouteCacheMetrics,
    /// Time limits of its requests for level 2, if that is used.
    pub waits: Option<WaitHistograms>,
    /// Settings of its stored responses.
    pub stored: Arc<RouteRules>,
    /// Encoder that compresses its responses on their way to clients.
    pub coder: Option<Arc<CompressionRules>>,
    /// Values of requests that the route writes, and that are part of the key.
    pub(super) written: WrittenValues,
    /// Request headers that the origin gets unchanged.
    pub unchanged: Arc<UnchangedHeaders>,
    /// Prefix of its keys for requests to the route's own upstream.
    pub(super) key_parts: Option<RouteKeyParts>,
    /// Digest of everything that the route changes in requests and in stored responses.
    pub(super) identity: RouteIdentity,
    /// True if some cookie names are part of the key or bypass the cache.
    pub(super) goes_by_cookies: bool,
    /// Headers of `pass_headers` that are not in the key: the origin's response depends on them.
    pub(super) passing: Box<[HeaderName]>,
    /// Settings per upstream: a filter may choose another one than the route's.
    upstreams: Box<[(Arc<str>, UpstreamFetch)]>,
}

/// Cache settings of one upstream for one route.
pub struct UpstreamFetch {
    /// Rules of Next.js, if they apply.
    pub nextjs: Option<NextRules>,
    /// Limit on concurrent origin requests that no person waits for.
    pub budget: Arc<RenderBudget>,
    /// Crawlers whose misses wait in the budget's queue; none if absent.
    pub crawlers: Option<Arc<Crawlers>>,
}

impl RouteCache {
    /// Returns the values of requests that the cache goes by, if there are some.
    pub(super) fn values(&self) -> Option<&RequestValues> {
        self.compiled.values.as_ref()
    }

    pub fn upstream(&self, name: &str) -> Option<&UpstreamFetch> {
        let mut all = self.upstreams.iter();
        all.find(|(own, _)| **own == *name).map(|(_, fetch)| fetch)
    }
}

impl Compiler<'_> {
    /// Creates the store for everything that is compiled after it, if anything uses it.
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
        let (memory, max_object) = (config.memory.value.0, config.max_object().0);
        if memory < MIN_MEMORY {
            return self
                .at(config.memory.place, "edgeway::cache::memory")
                .refuse(
                    format!("`memory: {}` is too small", config.memory.value),
                    "write `1MiB` or more, such as `256MiB`",
                );
        }
        if let Some(written) = &config.max_object
            && (max_object == 0 || max_object > memory / 4)
        {
            return self.at(written.place, "edgeway::cache::max_object").refuse(
                format!(
                    "`max_object: {}` must be above 0 and at most a quarter of `memory: {}`",
                    written.value, config.memory.value
                ),
                "write a smaller `max_object`, or a larger `memory`",
            );
        }
        if let Some(place) = place.filter(|_| !is_used) {
            self.at(place, "edgeway::cache::unused").warn(
                "no route has a cache",
                "write `cache: {}` on a route or in `defaults`, or remove the section",
            );
        }
        self.signed_redis()?;
        let (shared, disk) = (config.shared.as_ref(), config.disk.as_ref());
        let shared = self.checked(|own| own.shared_cache(shared?, max_object))?;
        let disk = self.checked(|own| own.disk_cache(disk?, max_object))?;
        let settings = CacheSettings {
            memory,
            max_object,
            shared,
            disk,
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

    /// Returns the largest body in level 2, if there is one.
    fn shared_cache(&mut self, config: &Spanned<SharedConfig>, max: u64) -> Option<u64> {
        let Spanned { value, place } = config;
        if value.place == SharedPlace::None {
            return None;
        }
        if self.file.redis.is_none() {
            return self.at(*place, "edgeway::cache::shared").refuse(
                "there is no Redis to share responses in",
                "add `redis: { url: redis://HOST:PORT, secret: file:PATH }`, or remove `shared`",
            );
        }
        let max_object = &value.max_object.value;
        if max_object.0 == 0 || max_object.0 > MAX_SHARED {
            return self.at(value.max_object.place, "edgeway::cache::shared").refuse(
                format!("`max_object: {max_object}` is out of range"),
                "write from `1KiB` to `64MiB`, such as `1MiB`: while Redis sends a large value, \
                 every other command waits for it",
            );
        }
        Some(max_object.0.min(max))
    }

    /// Returns the disk settings. The folder itself is not checked: the gateway must serve even if
    /// the folder is unusable.
    fn disk_cache(&mut self, config: &Spanned<DiskConfig>, max: u64) -> Option<DiskSettings> {
        let value = &config.value;
        if value.folder.value.trim().is_empty() {
            return self.at(value.folder.place, "edgeway::cache::disk").refuse(
                "`folder` is empty",
                "write a folder for this gateway alone, such as `/var/cache/edgeway`",
            );
        }
        let size = value.size.value.0;
        if size < MIN_DISK {
            return self.at(value.size.place, "edgeway::cache::disk").refuse(
                format!("`size: {}` is too small", value.size.value),
                "write `1MiB` or more, such as `2GiB`",
            );
        }
        let max_object = value.max_object.as_ref();
        if let Some(limit) = max_object.filter(|it| it.value.0 == 0 || it.value.0 > size) {
            return self.at(limit.place, "edgeway::cache::disk").refuse(
                format!(
                    "`max_object: {}` must be above 0 and at most `size: {}`",
                    limit.value, value.size.value
                ),
                "write a smaller `max_object`, or leave it out",
            );
        }
        Some(DiskSettings {
            folder: self.folder.join(&value.folder.value),
            size,
            max_object: max_object.map_or(max.min(size), |it| it.value.0.min(max)),
        })
    }

    /// Returns the cache of a route whose filters are compiled.
    pub(super) fn route_cache(
        &mut self,
        node: &RouteNode,
        route: &str,
        (action, chain): (&Action, &Chain),
        passing: &[HeaderName],
    ) -> Option<RouteCache> {
        let compiled = chain.extension::<CompiledCache>()?;
        let policy = Arc::clone(&compiled.policy);
        let cache = self.shared.get::<Cache>()?;
        self.build_unknown(node, &policy);
        self.shared_beside_plugin(node, &policy, chain);
        let names = ParamNames::collect(&node.config.matches.value);
        let mut tags = Vec::new();
        for tag in &policy.tags {
            match tag.bind(|name| names.slot(name)) {
                Ok(tag) => tags.push(tag),
                Err(problem) => self.at(node.place, "edgeway::cache::tag").error(
                    problem.to_string(),
                    "name a parameter of the route's path, such as `/products/{id}`",
                ),
            }
        }
        let unchanged = UnchangedHeaders::new(chain.request_changes());
        for source in policy.key.sources() {
            if let Source::Header(name) = source
                && unchanged.names(name)
            {
                self.at(node.place, "edgeway::cache::key").error(
                    format!(
                        "`key.by` names `header:{name}`, which a filter of this route writes: the \
                         client's own value is not what the origin gets"
                    ),
                    "name the filter's input, such as `jwt.sub`, `user` or `client.ip`",
                );
            }
        }
        let is_unkeyed = |name: &&HeaderName| {
            let mut sources = policy.key.sources();
            !sources.any(|source| matches!(source, Source::Header(keyed) if keyed == *name))
        };
        let identity = self.route_identity(node, chain, passing);
        let upstream = node.config.upstream.as_ref();
        let key_parts = upstream.map(|name| RouteKeyParts::new(&name.value, identity));
        let upstreams = self.fetching(&policy);
        let is_nextjs = |(name, fetch): &(Arc<str>, UpstreamFetch)| {
            fetch.nextjs.is_some() && upstream.is_some_and(|own| *own.value == **name)
        };
        let rules = policy.rules(upstreams.iter().any(is_nextjs));
        Some(RouteCache {
            written: WrittenValues::collect(action, chain),
            unchanged: Arc::new(unchanged),
            key_parts,
            identity,
            goes_by_cookies: policy.goes_by_cookies()
                || compiled
                    .values
                    .as_ref()
                    .is_some_and(RequestValues::read_cookies),
            passing: passing.iter().filter(is_unkeyed).cloned().collect(),
            upstreams,
            metrics: RouteCacheMetrics::new(&self.world.metrics, route),
            waits: cache.waits(&self.world.metrics, route),
            tags: tags.into(),
            stored: Arc::new(RouteRules {
                name: route.into(),
                max_object: policy.max_object,
                quota: policy.quota.map(|bytes| self.quota(&cache, route, bytes)),
                keeps_private: policy.keeps_private(),
                rules: Some(Box::new(rules.clone())),
            }),
            coder: chain.extension::<CompressionRules>(),
            policy,
            compiled,
            cache,
        })
    }

    /// Returns the quota of a route, whose limit changes once this configuration serves alone.
    fn quota(&mut self, cache: &Cache, route: &str, limit: u64) -> Arc<Quota> {
        let store = cache.store();
        let quota = store.quota(route, limit);
        let limited = Arc::clone(&quota);
        self.work.add_alone(move || store.limit(&limited, limit));
        quota
    }

    /// Returns the settings of each upstream for one route.
    fn fetching(&mut self, policy: &RouteCachePolicy) -> Box<[(Arc<str>, UpstreamFetch)]> {
        let apps = self.shared.get::<Apps>().unwrap_or_default();
        let of = |(name, app): &(Arc<str>, App)| {
            let rules = || NextRules {
                pages: policy.pages,
                cookies: policy.anonymous.clone(),
                guarded: app.guarded.clone(),
                build: app.build.clone(),
                releases: app.releases.clone(),
                ..NextRules::default()
            };
            let has_rules = app.is_nextjs && policy.mode == Mode::App;
            let fetching = UpstreamFetch {
                nextjs: has_rules.then(rules),
                budget: Arc::clone(&app.budget),
                crawlers: app.crawlers.clone(),
            };
            (Arc::clone(name), fetching)
        };
        apps.0.iter().map(of).collect()
    }

    /// Collects the properties of the upstreams' apps before any route is compiled.
    pub(super) fn apps(&mut self) {
        let mut apps = Apps::default();
        let file = self.file;
        for (key, config) in &file.upstreams {
            let upstream = &config.value;
            let is_nextjs = upstream.app == model::App::Nextjs;
            if !is_nextjs {
                self.only_of_nextjs(key, config);
            }
            let guarded = upstream.guarded.as_ref();
            let guarded = guarded.map(|paths| PathSet::new(paths.iter().map(|path| &*path.value)));
            let serves_files = self.serves_files(key, upstream);
            let makes_images = is_nextjs && self.makes_images(key, upstream);
            let build = upstream.folder.as_ref().map(|folder| {
                let name = key.name.as_str();
                let path = self.folder.join(&folder.value);
                let (watch, error) = BuildWatch::new(name, &path, serves_files || makes_images);
                if let Some(error) = error {
                    self.at(folder.place, "edgeway::upstream::folder").warn(
                        format!("cannot read the build of `{name}`: {error}"),
                        "no page is shared until there is a build: run `next build`, or write the \
                         folder in which it leaves `BUILD_ID`, usually `.next`",
                    );
                }
                let watch = Arc::new(watch);
                let watched = Arc::clone(&watch);
                self.work
                    .add_about(format!("build of {name}"), &watch, move || {
                        Arc::clone(&watched).watch()
                    });
                watch
            });
            let releases = is_nextjs.then(|| self.releases(key, upstream)).flatten();
            let clock = &self.world.clock;
            let files = match (&build, &releases) {
                (_, Some(releases)) => Some(AppFiles::of_releases(
                    releases,
                    serves_files,
                    guarded.clone(),
                    clock,
                )),
                (Some(build), None) if serves_files => {
                    Some(AppFiles::new(build, guarded.clone(), clock))
                }
                _ => None,
            };
            let images = makes_images.then(|| {
                let name = key.name.as_str();
                let builds = (build.as_ref(), releases.as_ref());
                self.images(name, upstream, builds, guarded.as_ref())
            });
            let app = App {
                is_nextjs,
                files,
                images: images.flatten(),
                releases,
                guarded,
                build,
                budget: self.budget(key, upstream),
                crawlers: is_nextjs.then(|| self.crawlers(config)).flatten(),
            };
            apps.0.push((key.name.as_str().into(), app));
        }
        self.shared.insert(Arc::new(apps));
    }

    /// Returns true if the build of an app is known, and its middleware runs for every page.
    pub(super) fn is_every_page_guarded(&self, name: &str) -> bool {
        let apps = self.shared.get::<Apps>().unwrap_or_default();
        let app = apps.0.iter().find(|(own, _)| **own == *name);
        let build = app.and_then(|(_, app)| Some(app.build.as_ref()?.now()));
        build.is_some_and(|build| {
            // A path that no app has stands for all others.
            let pages = [&b"/"[..], b"/edgeway/any/page"];
            build.mark != 0 && pages.into_iter().all(|page| build.is_guarded(page))
        })
    }

    /// Returns true if a release of an app was deployed.
    pub(super) fn has_releases(&self, name: &str) -> bool {
        let apps = self.shared.get::<Apps>().unwrap_or_default();
        let app = apps.0.iter().find(|(own, _)| **own == *name);
        let releases = app.and_then(|(_, app)| app.releases.as_ref());
        releases.is_some_and(|releases| releases.now().names().next().is_some())
    }

    /// Returns what each app has of a kind.
    pub(super) fn of_apps<T>(
        &self,
        upstreams: &HashMap<Arc<str>, Arc<Upstream>>,
        part_of: impl Fn(&App) -> Option<T>,
    ) -> Box<[(Arc<Upstream>, T)]> {
        let apps = self.shared.get::<Apps>().unwrap_or_default();
        let of =
            |(name, app): &(Arc<str>, App)| Some((Arc::clone(upstreams.get(name)?), part_of(app)?));
        apps.0.iter().filter_map(of).collect()
    }

    /// Returns true if the files of this app are served from its folder.
    fn serves_files(&mut self, key: &Key, upstream: &UpstreamConfig) -> bool {
        let Some(Spanned { value: true, place }) = upstream.static_files else {
            return false;
        };
        if upstream.folder.is_none() && upstream.releases.is_none() {
            self.at(place, "edgeway::upstream::static_files").error(
                format!("the files of `{}` cannot be found", key.name),
                "write the folder of its build: `folder: /srv/web/.next`",
            );
        }
        true
    }

    fn only_of_nextjs(&mut self, key: &Key, config: &Spanned<UpstreamConfig>) {
        let upstream = &config.value;
        let folder = upstream.folder.as_ref().map(|folder| folder.place);
        let guarded = upstream.guarded.as_ref().map(|_| config.place);
        let crawlers = upstream.crawlers.as_ref().map(|crawlers| crawlers.place);
        let files = upstream.static_files.as_ref().map(|files| files.place);
        let images = upstream.images.as_ref().map(|images| images.place);
        for place in [folder, files, images, guarded, crawlers]
            .into_iter()
            .flatten()
        {
            self.at(place, "edgeway::upstream::nextjs").error(
                format!("`{}` is not a Next.js app", key.name),
                "add `app: nextjs`, or remove `folder`, `static_files`, `images`, `guarded` and \
                 `crawlers`",
            );
        }
    }

    /// Returns the budget of an upstream, which outlives reloads.
    fn budget(&mut self, key: &Key, upstream: &UpstreamConfig) -> Arc<RenderBudget> {
        let Spanned { value, place } = upstream.revalidations;
        if value == 0 {
            self.at(place, "edgeway::upstream::revalidations").error(
                "`revalidations: 0` would leave every stale response as it is",
                "write how many responses may be revalidated at once, such as `4`",
            );
        }
        let limits = RenderLimits {
            renders: value.max(1),
            ..RenderLimits::default()
        };
        let world = self.world;
        let zone = format!("renders {}", key.name);
        let budget = world.zones.get_or_create(&zone, || {
            RenderBudget::new(&key.name, limits, world.clock.clone(), &world.metrics)
        });
        let serving = Arc::clone(&budget);
        self.work.add_alone(move || serving.set(limits));
        budget
    }

    fn crawlers(&mut self, config: &Spanned<UpstreamConfig>) -> Option<Arc<Crawlers>> {
        let Some(Spanned { value, place }) = &config.value.crawlers else {
            return Some(Arc::default());
        };
        if value.is_empty() {
            return None;
        }
        match Crawlers::new(value.iter().map(String::as_str)) {
            Ok(crawlers) => Some(Arc::new(crawlers)),
            Err(error) => self.at(*place, "edgeway::upstream::crawlers").refuse(
                format!("invalid list of crawlers: {error}"),
                "write fewer names, such as `[Googlebot, bingbot]`",
            ),
        }
    }
}

/// Apps of the upstreams, by name.
#[derive(Default)]
struct Apps(Vec<(Arc<str>, App)>);

pub(super) struct App {
    is_nextjs: bool,
    pub(super) files: Option<AppFiles>,
    pub(super) images: Option<AppImages>,
    budget: Arc<RenderBudget>,
    crawlers: Option<Arc<Crawlers>>,
    guarded: Option<PathSet>,
    pub(super) build: Option<Arc<BuildWatch>>,
    pub(super) releases: Option<Arc<Releases>>,
}
