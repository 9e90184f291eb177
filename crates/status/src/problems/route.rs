//! Problems of a route: its errors, and latency beyond its own history.

use edgeway_base::shell;

use super::{FAILING_FAST, ProblemList, Severity, duration, is_failing};
use crate::{
    latencies::Latencies,
    snapshot::{RouteStatus, SlowRoute, UpstreamStatus},
};

/// Part of the route's time that its backends take at least if they are why it is slow.
const PART_OF_BACKENDS: f64 = 0.125;

impl ProblemList {
    pub(super) fn route(&mut self, route: &RouteStatus, upstreams: &[UpstreamStatus]) {
        let (name, traffic) = (&route.name, &route.traffic);
        if is_failing(traffic) {
            let (failed, all) = (traffic.server_error_rate, traffic.rate);
            let percent = 100.0 * (failed / all.max(failed)).min(1.0);
            let frequent = match &traffic.most_errors {
                Some(frequent) => format!(", most of them {frequent}"),
                None => String::new(),
            };
            let text = format!("route {name}: {percent:.0}% of the requests failed{frequent}");
            let severity = if percent >= 50.0 && traffic.server_error_rate >= FAILING_FAST {
                Severity::Error
            } else {
                Severity::Warning
            };
            let look = format!("`edgeway logs --errors {}`", selection(name));
            self.add(severity, "route_failing", name, text, &look);
        }
        if let Some(slow) = &traffic.slow {
            let (cause, look) = cause(route, slow, upstreams);
            let text = format!(
                "route {name}: p95 of the first byte is {}, was {} before{cause}",
                duration(slow.p95_ms),
                duration(slow.usual_p95_ms)
            );
            self.warn("route_slow", name, text, &look);
        }
    }
}

/// Returns the option of a command for this route, which may have the name of its pattern.
fn selection(route: &str) -> String {
    format!("--route={}", shell::quoted(route))
}

/// Returns the part of the way that takes the time, and what to look at.
fn cause(route: &RouteStatus, slow: &SlowRoute, upstreams: &[UpstreamStatus]) -> (String, String) {
    let upstream = route.upstream.as_ref();
    let upstream = upstream.and_then(|name| upstreams.iter().find(|one| one.name == *name));
    let Some(upstream) = upstream else {
        let look = format!(
            "its filters and plugins, and `edgeway logs {}`",
            selection(&route.name)
        );
        return (String::new(), look);
    };
    let name = &upstream.name;
    let latencies = Latencies::new(upstream);
    let mut backends = upstream.backends.iter();
    let alone = backends.find_map(|one| Some((&one.address, latencies.slowness(one)?)));
    if let Some((address, slowness)) = alone {
        return (
            format!(": backend {name}/{address} is {slowness}"),
            "the load and the log of that app".to_owned(),
        );
    }
    let averages = upstream.backends.iter().filter_map(|one| one.ewma_ms);
    let longest = averages.fold(0.0, f64::max);
    if longest < PART_OF_BACKENDS * slow.p95_ms {
        return (
            format!(
                ": not by upstream {name}, whose backends take {}",
                duration(longest)
            ),
            "the route's filters and plugins".to_owned(),
        );
    }
    let all = match upstream.backends.len() {
        1 => format!(": its only backend {name}/{}", upstream.backends[0].address),
        count => format!(": all {count} backends of {name} alike"),
    };
    (
        all,
        "what is behind the app: its database, other services".to_owned(),
    )
}
