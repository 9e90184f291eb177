//! Metrics of a plugin on a route.

use std::time::Duration;

use edgeway_base::metrics::{IntCounter, Metrics};
use edgeway_core::zones::Zone;
use edgeway_script::{FailureKind, Hook, Plugin};

const FAILURES: &str = "edgeway_plugin_failures_total";
const FAILURES_HELP: &str = "Plugin hooks that failed, by kind: `script` threw, `cpu`, `wall` and `memory` \
     exceeded a limit, `stuck` held a thread beyond it or found none free, `breaker` were skipped \
     after too many failures, and `busy` (`onLog` only) were skipped because too many were running.";

edgeway_base::metric_handles! {
    #[derive(Debug)]
    pub(super) struct PluginMetrics(route, plugin) {
        calls: [IntCounter; hook: Hook::name] = "edgeway_plugin_calls_total",
            "Plugin hooks that were run.";
        pub(super) failures: [IntCounter; kind: FailureKind::word] = FAILURES, FAILURES_HELP;
        /// Hooks that were skipped because the breaker was open.
        pub(super) left_out { kind: "breaker" },
        /// `onLog` hooks that were skipped because too many others were waiting.
        pub(super) busy { kind: "busy" }: IntCounter = FAILURES, FAILURES_HELP;
        seconds: Histogram = "edgeway_plugin_duration_seconds",
            "Duration of plugin hooks, waiting included.";
        isolates: IntGauge = "edgeway_plugin_isolates", "Instances of a plugin that are loaded.";
        pub(super) is_open: IntGauge = "edgeway_plugin_breaker_open",
            "1 while a plugin is paused after too many failures.";
        heap: IntGauge = "edgeway_plugin_heap_bytes",
            "Heap size of a plugin's instances when last measured.";
        stuck: IntGauge = "edgeway_plugin_stuck_threads",
            "Threads of a plugin (`isolation: thread`) stuck beyond the deadline of a hook when \
             last measured.";
    }
}

impl PluginMetrics {
    /// Sets the gauges when the configuration takes over: until then they belong to the previous
    /// configuration, and the new one may be refused.
    pub(super) fn taken(&self, plugin: &Plugin) {
        // Each configuration calls the plugin again.
        self.is_open.set(0);
        self.isolates
            .set(i64::try_from(plugin.isolates()).unwrap_or(i64::MAX));
    }

    pub(super) fn called(&self, hook: Hook, took: Duration) {
        self.calls[hook].inc();
        self.seconds.observe(took.as_secs_f64());
    }

    pub(super) fn stuck(&self, plugin: &Plugin) {
        self.stuck
            .set(i64::try_from(plugin.stuck()).unwrap_or(i64::MAX));
    }

    pub(super) fn calls(&self) -> u64 {
        self.calls.iter().map(IntCounter::get).sum()
    }

    /// Returns the failures by kind; only kinds with a count above zero.
    pub(super) fn failures(&self) -> Vec<(&'static str, u64)> {
        let kinds = FailureKind::ALL.iter().map(|kind| kind.word());
        let kinds = kinds.zip(self.failures.iter().map(IntCounter::get));
        let others = [("breaker", self.left_out.get()), ("busy", self.busy.get())];
        let all = kinds.chain(others);
        all.filter(|(_, count)| *count > 0).collect()
    }

    pub(super) fn last_heap(&self) -> u64 {
        u64::try_from(self.heap.get()).unwrap_or(0)
    }

    pub(super) fn heap(&self, plugin: &Plugin) {
        self.heap
            .set(i64::try_from(plugin.heap()).unwrap_or(i64::MAX));
        self.stuck(plugin);
    }
}

edgeway_base::metric_handles! {
    struct VersionGauge(route, plugin, version) {
        is_loaded: IntGauge = "edgeway_plugin_info",
            "Always 1; labels show the loaded version of a plugin, as a short hash of its files.";
    }
}

/// Version of a plugin on a route, as a metric that exists while the version is loaded.
pub(super) struct VersionMetric {
    metrics: Metrics,
    /// Route, plugin and version.
    values: [String; 3],
}

impl VersionMetric {
    pub(super) fn new(metrics: &Metrics, values: [&str; 3]) -> Self {
        let [route, plugin, version] = values;
        let gauge = VersionGauge::new(metrics, route, plugin, version);
        gauge.is_loaded.set(1);
        Self {
            metrics: metrics.clone(),
            values: values.map(str::to_owned),
        }
    }
}

impl Zone for VersionMetric {}

impl Drop for VersionMetric {
    fn drop(&mut self) {
        let [route, plugin, version] = &self.values;
        VersionGauge::forget(&self.metrics, route, plugin, version);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use edgeway_script::{HookLimits, capabilities::Capabilities, source::Source};

    #[test]
    fn a_configuration_that_is_not_taken_leaves_the_gauges_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("plugin.js");
        std::fs::write(&path, "export function onRequest() {}").unwrap();
        let load = |isolates| {
            let source = Source::read("x", &path).unwrap();
            let (limits, capabilities) = (HookLimits::default(), Capabilities::default());
            Plugin::load("x", source, "{}".to_owned(), limits, capabilities, isolates).unwrap()
        };
        let (metrics, one, two) = (Metrics::default(), load(1), load(2));
        let shows = |open: u8, isolates: u8| {
            let text = String::from_utf8(metrics.text()).unwrap();
            for (name, value) in [("breaker_open", open), ("isolates", isolates)] {
                let line = format!("edgeway_plugin_{name}{{plugin=\"x\",route=\"r\"}} {value}\n");
                assert!(text.contains(&line), "{line}: {text}");
            }
        };
        let runs = PluginMetrics::new(&metrics, "r", one.name());
        runs.taken(&one);
        runs.is_open.set(1);
        let candidate = PluginMetrics::new(&metrics, "r", two.name());
        shows(1, 1);
        candidate.taken(&two);
        shows(0, 2);
    }
}
