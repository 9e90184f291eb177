//! Named overrides of the routes' `cache` settings, which operators switch on while the gateway
//! serves.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use edgeway_base::metrics::IntGauge;
use edgeway_cache::policy::{self, CacheRules, Lifetime};
use edgeway_config::{
    diagnostic::suggest,
    model::{File, ProfileConfig, RouteNode},
    tree::{Key, Node, Value, read},
};
use edgeway_core::zones::{Zone, Zones};
use parking_lot::Mutex;
use serde_json::{Value as Json, json};

use super::{Gateway, World, compile::Compiler, effective};

/// Filter that profiles override.
const CACHE: &str = "cache";

/// Keys that a profile overrides only where the route sets them itself: a TTL for responses that
/// nothing allows to store would not be an override.
const TTL_KEYS: [&str; 2] = ["ttl", "browser_ttl"];

/// Profiles of one configuration, and the one that it was compiled with.
pub struct Profiles {
    pub active: Option<Arc<str>>,
    all: Box<[(Arc<str>, IntGauge)]>,
    switch: Option<Arc<ProfileSwitch>>,
}

/// Profile selected by operators, for all configurations of a process and its successors.
#[derive(Debug, Default)]
struct ProfileSwitch(Mutex<Option<String>>);

impl Zone for ProfileSwitch {
    fn export(&self) -> Option<Json> {
        self.0.lock().as_ref().map(|name| json!(name))
    }

    fn import(&self, exported: &Json) {
        *self.0.lock() = exported.as_str().map(str::to_owned);
    }
}

/// Profile selection for compiling a configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProfileSelection<'a> {
    /// The active profile, if the file has one of that name.
    Same,
    Named(&'a str),
    Nothing,
}

impl ProfileSelection<'_> {
    /// Returns the selected profile of `file`.
    pub(super) fn select<'f>(self, file: &'f File, zones: &Zones) -> Option<&'f (Key, Node)> {
        let name = match self {
            Self::Nothing => return None,
            Self::Named(name) => name.to_owned(),
            Self::Same => switch(file, zones)?.0.lock().clone()?,
        };
        file.profiles.iter().find(|(key, _)| key.name == name)
    }
}

/// Returns the switch of the process. A file without profiles forgets which one was active.
fn switch(file: &File, zones: &Zones) -> Option<Arc<ProfileSwitch>> {
    (!file.profiles.is_empty()).then(|| zones.get_or_create("profile", ProfileSwitch::default))
}

impl Profiles {
    pub(super) fn new(file: &File, active: Option<&(Key, Node)>, world: &World) -> Self {
        let gauge = |(key, _): &(Key, Node)| {
            let name: Arc<str> = key.name.as_str().into();
            let gauge = world.metrics.gauge(
                "edgeway_profile_active",
                "1 for the active profile.",
                &[("profile", &name)],
            );
            (name, gauge)
        };
        Self {
            active: active.map(|(key, _)| key.name.as_str().into()),
            all: file.profiles.iter().map(gauge).collect(),
            switch: switch(file, &world.zones),
        }
    }

    pub fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.all.iter().map(|(name, _)| name)
    }

    /// Marks the profile of this configuration as active, once the configuration serves.
    pub fn hold(&self) {
        if let Some(switch) = &self.switch {
            *switch.0.lock() = self.active.as_deref().map(str::to_owned);
        }
        for (name, gauge) in &self.all {
            gauge.set((self.active.as_ref() == Some(name)).into());
        }
    }
}

edgeway_base::opaque_debug!(Profiles, active);

/// Returns the cache settings of `route` with the overrides of the profile.
pub(super) fn overlaid(mut cache: Node, profile: &Node, route: &str) -> Node {
    let of_route = profile.get("routes").and_then(|routes| routes.get(route));
    let of_route = of_route.and_then(|route| route.get(CACHE));
    for (section, is_for_all) in [(profile.get(CACHE), true), (of_route, false)] {
        for (key, node) in section.map_or(&[][..], Node::entries) {
            let Value::Map(entries) = &mut cache.value else {
                continue;
            };
            let is_empty = matches!(node.value, Value::Null);
            let entry = entries.iter_mut().find(|(entry, _)| entry.name == key.name);
            match entry {
                _ if is_empty => {}
                Some((_, value)) => *value = node.clone(),
                None if is_for_all && TTL_KEYS.contains(&key.name.as_str()) => {}
                None => entries.push((key.clone(), node.clone())),
            }
        }
    }
    cache
}

impl Compiler<'_> {
    /// Reports problems of every profile, active or not.
    pub(super) fn check_profiles(&mut self) {
        let file = self.file;
        for profile in &file.profiles {
            if read::<ProfileConfig>(&profile.1, &mut self.diagnostics).is_some() {
                self.check_profile(profile);
            }
        }
    }

    fn check_profile(&mut self, (key, profile): &(Key, Node)) {
        let file = self.file;
        let of_routes = profile.get("routes").map_or(&[][..], Node::entries);
        let names: HashSet<&str> = file.routes.iter().map(|node| &*node.name).collect();
        let mut is_wrong = false;
        for (route, section) in of_routes {
            let mut of_name = file.routes.iter().filter(|node| node.name == route.name);
            let problem = if !names.contains(&*route.name) {
                let help = suggest(&route.name, names.iter().copied(), "the routes are");
                Some((format!("unknown route `{}`", route.name), help))
            } else if !of_name.any(|node| cache_of(file, node).is_some()) {
                let message = format!("the route `{}` has no cache to change", route.name);
                Some((
                    message,
                    "write `cache: {}` on the route, or remove it here".into(),
                ))
            } else if !has_entries(section.get(CACHE)) {
                let message = format!("nothing is set for the route `{}`", route.name);
                Some((
                    message,
                    "write `cache: { ttl: 30min }`, or remove it".into(),
                ))
            } else {
                None
            };
            if let Some((message, help)) = problem {
                is_wrong = true;
                self.at(route.place, "edgeway::profile::route")
                    .error(message, help);
            }
        }
        if is_wrong {
            return;
        }
        let changes = |node: &RouteNode| {
            let cache = cache_of(file, node)?;
            let overlaid = overlaid(cache.clone(), profile, &node.name);
            (!overlaid.has_same_value(&cache)).then_some(())
        };
        if file.routes.iter().any(|node| changes(node).is_some()) {
            return;
        }
        let help = if has_entries(profile.get(CACHE)) {
            "its routes have the same values already, or no `ttl` to raise: name the \
             route, `routes: { NAME: { cache: { ttl: 30min } } }`"
        } else {
            "write a setting, such as `cache: { ttl: 30min }`, or remove it"
        };
        let message = format!("the profile `{}` changes nothing", key.name);
        self.at(key.place, "edgeway::profile::empty")
            .error(message, help);
    }
}

fn has_entries(cache: Option<&Node>) -> bool {
    let entries = cache.map_or(&[][..], Node::entries);
    entries.iter().any(|(_, node)| node.value != Value::Null)
}

/// Returns the cache settings of a route as written, including defaults.
fn cache_of(file: &File, node: &RouteNode) -> Option<Node> {
    effective::filters(file, node.place, &node.filters)
        .find(|(entry, _)| entry.name == CACHE)
        .map(|(_, node)| node)
}

/// Updates the lifetimes of stored responses from the configuration `before` to the one that serves
/// `now`, where they came from the former. Lifetimes that the origin set stay. Returns the number
/// of updated responses.
pub fn reset_lifetimes(before: &Gateway, now: &Gateway) -> usize {
    let Some(cache) = &now.cache else {
        return 0;
    };
    let old: HashMap<&str, &CacheRules> = rules(before).collect();
    let changed: HashMap<&str, (&CacheRules, &CacheRules)> = rules(now)
        .filter_map(|(name, new)| Some((name, (*old.get(name)?, new))))
        .filter(|(_, (old, new))| old != new)
        .collect();
    if changed.is_empty() {
        return 0;
    }
    let store = cache.store();
    let mut count = 0;
    store.for_each(|entry| {
        let Some((old, new)) = changed.get(entry.route()) else {
            return;
        };
        let mark = store.mark();
        let lifetime = entry.lifetime();
        let headers = entry.headers();
        let by = |rules| policy::again(entry.status, &headers, &lifetime, rules);
        if by(old).as_ref() != Some(&lifetime) {
            return;
        }
        // What the new rules would not store is used no more without validation.
        let new = by(new).unwrap_or_else(|| Lifetime {
            fresh_for: Duration::ZERO,
            stale_while_revalidate: Duration::ZERO,
            stale_if_error: Duration::ZERO,
            ..lifetime.clone()
        });
        if new != lifetime {
            count += usize::from(store.set_lifetime(entry, new, mark));
        }
    });
    count
}

/// Returns the freshness rules of routes with a cache, by route name.
fn rules(gateway: &Gateway) -> impl Iterator<Item = (&str, &CacheRules)> {
    gateway.routes.iter().filter_map(|route| {
        let cache = route.cache.as_ref()?;
        let upstream = route.upstream.as_ref();
        let is_nextjs = upstream.is_some_and(|it| cache.nextjs(&it.name).is_some());
        Some((&*route.name, cache.policy.rules(is_nextjs)))
    })
}

#[cfg(test)]
mod tests {
    use std::{path::Path, time::Duration};

    use super::*;
    use crate::{compile_with, load_text};

    const BASE: &str = "\
listeners: [{ address: '127.0.0.1:0' }]
upstreams: { web: { backends: ['127.0.0.1:1'] } }
routes:
  - { name: products, match: { path: /products }, upstream: web, cache: { ttl: 5min } }
  - { name: pages, match: { path: /* }, upstream: web, cache: { stale_if_error: 1min } }
  - { name: live, match: { path: /live }, upstream: web }
";

    /// Returns the messages about `profiles`, and the gateway if there is none.
    fn compiled(
        profiles: &str,
        wanted: ProfileSelection<'_>,
        world: &World,
    ) -> (Vec<String>, Option<Gateway>) {
        let loaded = load_text("edgeway.yaml", &format!("{BASE}profiles: {profiles}\n"));
        let problems = format!("{:?}", loaded.diagnostics);
        let file = loaded.file.unwrap_or_else(|| panic!("{problems}"));
        let (gateway, diagnostics, _) = compile_with(&file, Path::new("."), world, wanted);
        let messages = diagnostics.list().iter().map(|it| it.message.clone());
        (messages.collect(), gateway)
    }

    #[track_caller]
    fn check(profiles: &str, message: &str) {
        let (messages, _) = compiled(profiles, ProfileSelection::Same, &World::default());
        assert_eq!(messages, [message], "{profiles}");
    }

    fn ttl(gateway: &Gateway, route: &str) -> Option<Duration> {
        let mut routes = gateway.routes.iter();
        let route = routes.find(|it| *it.name == *route).unwrap();
        route.cache.as_ref().unwrap().policy.plain.ttl
    }

    #[test]
    fn a_profile_is_checked_though_it_is_not_active() {
        check(
            "{ peak: { routes: { prodcts: { cache: { ttl: 1min } } } } }",
            "unknown route `prodcts`",
        );
        check(
            "{ peak: { routes: { live: { cache: { ttl: 1min } } } } }",
            "the route `live` has no cache to change",
        );
        check(
            "{ peak: { routes: { pages: {} } } }",
            "nothing is set for the route `pages`",
        );
        check("{ peak: {} }", "the profile `peak` changes nothing");
        check(
            "{ peak: { cache: { ttl: 5min } } }",
            "the profile `peak` changes nothing",
        );
        let (messages, _) = compiled(
            "{ peak: { cache: { tll: 5min } } }",
            ProfileSelection::Same,
            &World::default(),
        );
        assert!(messages[0].contains("tll"), "{messages:?}");
        let good = "{ peak: { cache: { ttl: 30min } } }";
        let (messages, gateway) = compiled(good, ProfileSelection::Same, &World::default());
        assert_eq!((messages, gateway.is_some()), (Vec::new(), true));
    }

    #[test]
    fn a_profile_raises_the_times_of_routes_and_nothing_else() {
        let profiles = "{ peak: { cache: { ttl: 30min, stale_if_error: 1h } }, \
                        all: { cache: { ttl: 10min }, routes: { pages: { cache: { ttl: 20min } } } } }";
        let world = World::default();
        let minutes = |minutes| Some(Duration::from_mins(minutes));
        let ttls = |wanted| {
            let gateway = compiled(profiles, wanted, &world).1.unwrap();
            (ttl(&gateway, "products"), ttl(&gateway, "pages"))
        };
        assert_eq!(ttls(ProfileSelection::Same), (minutes(5), None));
        assert_eq!(ttls(ProfileSelection::Named("peak")), (minutes(30), None));
        assert_eq!(
            ttls(ProfileSelection::Named("all")),
            (minutes(10), minutes(20))
        );
        assert_eq!(ttls(ProfileSelection::Named("other")), (minutes(5), None));
        let gateway = compiled(profiles, ProfileSelection::Named("peak"), &world)
            .1
            .unwrap();
        let cache = gateway.routes[1].cache.as_ref().unwrap();
        assert_eq!(cache.policy.plain.stale_if_error, minutes(60));
    }

    #[test]
    fn the_next_configuration_has_the_profile_of_the_one_that_serves() {
        let world = World::default();
        let peak = "{ peak: { cache: { ttl: 30min } } }";
        let active = |profiles| {
            let gateway = compiled(profiles, ProfileSelection::Same, &world)
                .1
                .unwrap();
            gateway.profiles.active
        };
        let serving = compiled(peak, ProfileSelection::Named("peak"), &world)
            .1
            .unwrap();
        assert_eq!(active(peak), None, "it does not serve yet");
        serving.profiles.hold();
        assert_eq!(active(peak).as_deref(), Some("peak"));
        let shown = String::from_utf8(world.metrics.text()).unwrap();
        assert!(
            shown.contains("edgeway_profile_active{profile=\"peak\"} 1"),
            "{shown}"
        );
        // State that a successor inherits.
        let next = World::default();
        next.zones.inherit(world.zones.export());
        let inherited = compiled(peak, ProfileSelection::Same, &next).1.unwrap();
        assert_eq!(inherited.profiles.active.as_deref(), Some("peak"));
        let other = "{ calm: { cache: { ttl: 1min } } }";
        let gone = compiled(other, ProfileSelection::Same, &world).1.unwrap();
        assert_eq!(gone.profiles.active, None);
        gone.profiles.hold();
        assert_eq!(active(peak), None);
    }
}
