//! The table of plugins.

use maud::{Markup, html};

use super::tables::{mark, table, when};
use crate::snapshot::PluginStatus;

pub(super) fn plugins(plugins: &[PluginStatus]) -> Markup {
    html! { @if !plugins.is_empty() { h2 { "Plugins" } (plugin_table(plugins)) } }
}

fn plugin_table(plugins: &[PluginStatus]) -> Markup {
    let rows = html! {
        @for plugin in plugins {
            @for (index, route) in plugin.routes.iter().enumerate() {
                @let is_first = index == 0;
                tr {
                    td { @if is_first { (plugin.name) } }
                    td { @if is_first { code { (plugin.file) } } }
                    td {
                        @if is_first {
                            code { (plugin.version) } " since " (when(&plugin.loaded_at))
                        }
                    }
                    td { (route.route) }
                    td class="number" { (route.calls) }
                    td class="number" { @if is_first { (plugin.heap_bytes.div_ceil(1024)) } }
                    td {
                        @if route.left_out { (mark(false, "left out")) " " }
                        @if route.recent_failures > 0 {
                            (mark(false, &format!("{} in the last minute", route.recent_failures)))
                            " "
                        }
                        span class="soft" {
                            @for (kind, count) in &route.failures { (kind) " " (count) " " }
                            @if let Some(why) = &route.last_failure { br; (why) }
                        }
                    }
                }
            }
        }
    };
    let columns = [
        "Name", "File", "Version", "Route", "#Calls", "#KiB", "Failed",
    ];
    table(&columns, &rows)
}
