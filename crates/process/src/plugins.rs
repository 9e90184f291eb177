//! Plugins of the routes in the form of the admin API.

use std::collections::BTreeMap;

use edgeway_base::clock::rfc3339;
use edgeway_config::changes::Versions;
use edgeway_gateway::Gateway;
use edgeway_script::report::{Report, Reports};
use edgeway_status::snapshot::{PluginRouteStatus, PluginStatus};

/// Each version of each plugin once, with the routes that use it.
pub(super) fn status(gateway: &Gateway) -> Vec<PluginStatus> {
    let mut plugins: BTreeMap<_, PluginStatus> = BTreeMap::new();
    for route in &gateway.routes {
        let reports = route.chain.extension::<Reports>();
        for report in reports.iter().flat_map(|reports| reports.ask()) {
            let key = (
                report.name.clone(),
                report.file.clone(),
                report.version.clone(),
                report.loaded,
            );
            let plugin = plugins.entry(key).or_insert_with(|| plugin(&report));
            plugin.routes.push(PluginRouteStatus {
                route: route.name.to_string(),
                calls: report.calls,
                failures: report
                    .failures
                    .into_iter()
                    .map(|(kind, count)| (kind.to_owned(), count))
                    .collect(),
                recent_failures: report.recent.as_ref().map_or(0, |(count, _)| *count),
                last_failure: report.recent.map(|(_, text)| text),
                left_out: report.is_left_out,
            });
        }
    }
    plugins.into_values().collect()
}

/// The versions of each plugin by name.
pub(super) fn versions(gateway: &Gateway) -> Versions {
    let mut table = Versions::new();
    for plugin in status(gateway) {
        table.entry(plugin.name).or_default().insert(plugin.version);
    }
    table
}

fn plugin(report: &Report) -> PluginStatus {
    PluginStatus {
        name: report.name.to_string(),
        file: report.file.to_string(),
        version: report.version.to_string(),
        loaded_at: rfc3339(report.loaded),
        isolates: report.isolates,
        heap_bytes: report.heap,
        routes: Vec::new(),
    }
}
