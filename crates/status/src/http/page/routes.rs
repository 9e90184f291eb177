//! The section of the routes.

use maud::{Markup, html};

use super::tables::{mark, milliseconds, none, per_cent, rate, table};
use crate::{problems, snapshot::RouteStatus};

/// Number of routes without requests that are shown as the others are.
const QUIET_SHOWN: usize = 5;

/// The routes, those first that fail, then the busiest. Many that had no requests are folded.
pub(super) fn routes(routes: &[RouteStatus]) -> Markup {
    let is_quiet =
        |route: &RouteStatus| route.traffic.p50_ms.is_none() && route.traffic.rate == 0.0;
    let mut order: Vec<&RouteStatus> = routes.iter().collect();
    order.sort_by(|a, b| {
        let (a, b) = (&a.traffic, &b.traffic);
        let failing = problems::is_failing(b).cmp(&problems::is_failing(a));
        failing.then(b.rate.total_cmp(&a.rate))
    });
    let quiet = order.iter().filter(|route| is_quiet(route)).count();
    let (busy, quiet): (Vec<_>, Vec<_>) = order
        .into_iter()
        .partition(|route| quiet <= QUIET_SHOWN || !is_quiet(route));
    html! {
        h2 { "Routes" }
        @if !busy.is_empty() || quiet.is_empty() { (route_table(&busy)) }
        @if !quiet.is_empty() {
            details class="folded" data-key="quiet routes" {
                summary { (quiet.len()) " routes without requests in the last minute" }
                (route_table(&quiet))
            }
        }
    }
}

fn route_table(routes: &[&RouteStatus]) -> Markup {
    let rows = html! {
        @for route in routes { tr { (route_cells(route)) } }
        @if routes.is_empty() { (none(8)) }
    };
    let columns = [
        "Route",
        "#Requests/s",
        "#4xx/s",
        "#Failed/s",
        "#p50 ms",
        "#p95 ms",
        "#p99 ms",
        "#Hits of lookups",
    ];
    table(&columns, &rows)
}

fn route_cells(route: &RouteStatus) -> Markup {
    let traffic = &route.traffic;
    html! {
        td {
            details data-key={ "route " (route.name) } {
                summary { (route.name) }
                p { code { (route.matches) } }
                p { (route.action) }
                p class="soft" { (route.filters.join(" ")) }
            }
        }
        td class="number" { (rate(traffic.rate)) }
        td class="number" { (rate(traffic.client_error_rate)) }
        td class="number" {
            @if problems::is_failing(traffic) {
                (mark(false, &rate(traffic.server_error_rate)))
            } @else { (rate(traffic.server_error_rate)) }
        }
        td class="number" { (milliseconds(traffic.p50_ms)) }
        td class="number" { (milliseconds(traffic.p95_ms)) }
        td class="number" { (milliseconds(traffic.p99_ms)) }
        td class="number" { (per_cent(traffic.hit_ratio)) }
    }
}
