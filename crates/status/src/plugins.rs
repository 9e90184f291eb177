//! A plugin as a row of the terminal's table.

use std::collections::BTreeMap;

use super::snapshot::PluginStatus;

pub(super) fn row(plugin: &PluginStatus) -> [String; 9] {
    let routes = plugin.routes.iter();
    let names: Vec<&str> = routes.clone().map(|route| route.route.as_str()).collect();
    let mut kinds: BTreeMap<&str, u64> = BTreeMap::new();
    for (kind, count) in routes.clone().flat_map(|route| &route.failures) {
        *kinds.entry(kind).or_default() += count;
    }
    let mut notes: Vec<String> = kinds
        .iter()
        .map(|(kind, count)| format!("{kind} {count}"))
        .collect();
    for route in routes.clone().filter(|route| route.recent_failures > 0) {
        let (count, name) = (route.recent_failures, &route.route);
        notes.push(format!("{count} in the last minute on {name}"));
    }
    for route in routes.clone().filter(|route| route.left_out) {
        notes.push(format!("left out on {}", route.route));
    }
    [
        plugin.name.clone(),
        plugin.file.clone(),
        plugin.version.clone(),
        plugin.loaded_at.clone(),
        names.join(" "),
        routes.map(|route| route.calls).sum::<u64>().to_string(),
        kinds.values().sum::<u64>().to_string(),
        format!("{} KiB in {}", plugin.heap_bytes / 1024, plugin.isolates),
        notes.join(", "),
    ]
}
