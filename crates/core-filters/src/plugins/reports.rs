//! Reports about a route's plugins, for the gateway's status.

use std::sync::Arc;

use edgeway_script::report::{Report, Reports};

use super::{Plugins, RoutePlugin};

impl Plugins {
    pub(super) fn reports(&self) -> Reports {
        let uses = Arc::clone(&self.uses);
        Reports::new(move || uses.iter().map(RoutePlugin::report).collect())
    }
}

impl RoutePlugin {
    fn report(&self) -> Report {
        Report {
            name: Arc::clone(self.plugin.name()),
            file: Arc::clone(&self.file),
            version: Arc::clone(&self.plugin.version),
            loaded: self.plugin.loaded(self.clock.wall()),
            isolates: self.plugin.isolates(),
            heap: self.metrics.last_heap(),
            calls: self.metrics.calls(),
            failures: self.metrics.failures(),
            recent: self.recent.recent(),
            is_left_out: (self.breaker.as_ref())
                .is_some_and(|breaker| breaker.is_open(|| self.clock.now())),
        }
    }
}
