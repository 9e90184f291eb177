//! Upstreams of a configuration, and a warning for those that no route uses.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use edgeway_core::chain::Phase;
use edgeway_routes::values::Maps;
use edgeway_upstreams::Upstream;

use super::{Route, compile::Compiler};

impl Compiler<'_> {
    pub(super) fn upstreams(&mut self) -> HashMap<Arc<str>, Arc<Upstream>> {
        let mut upstreams = HashMap::new();
        let keeper = Arc::clone(&self.world.keeper);
        self.work
            .add("decisions", move || Arc::clone(&keeper).supervise());
        let file = self.file;
        for (key, config) in &file.upstreams {
            let world = self.world;
            let mut cx = self.cx(config.place, "");
            if let Some(upstream) =
                Upstream::compile(key, config, &world.zones, &world.keeper, &mut cx)
            {
                let serving = Arc::clone(&upstream);
                self.work.add_alone(move || serving.tidy_decisions());
                upstreams.insert(Arc::clone(&upstream.name), upstream);
            }
        }
        self.shared_ports(&upstreams);
        upstreams
    }

    pub(super) fn unused_upstreams(&mut self, used: &HashSet<&str>, routes: &[Option<Route>]) {
        // A plugin with `onRoute` may choose any upstream.
        let mut filters = routes
            .iter()
            .flatten()
            .flat_map(|route| route.chain.filters());
        if filters.any(|each| each.name == "plugins" && each.traits.phases.wants(Phase::Route)) {
            return;
        }
        let maps = self.shared.get::<Maps>().unwrap_or_default();
        for (key, _) in &self.file.upstreams {
            if !used.contains(key.name.as_str()) && !maps.result_in(&key.name) {
                self.at(key.place, "edgeway::upstream::unused").warn(
                    format!("no route uses the upstream `{}`", key.name),
                    "remove it, or send a route to it with `upstream:`",
                );
            }
        }
    }
}
