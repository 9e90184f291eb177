//! Memory at which an app is restarted. The gateway itself restarts nothing: it shows which app has
//! reached the limit, and `edgeway rollout --watch` acts.

use std::fmt;

use derive_more::Display;
use serde::{Deserialize, Serialize};
use serde_with_macros::skip_serializing_none;

use super::{
    NodeStatus,
    node::{MAX_BYTES, mebibytes},
};
use crate::{
    base::units::ByteSize,
    chain::CompileContext,
    config::{
        model::{ProtocolConfig, UpstreamConfig},
        tree::Spanned,
    },
};

const CODE: &str = "edgeway::upstream::bad_restart_at";

/// Limits of an app's memory, at least one of both.
#[skip_serializing_none]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RestartAt {
    /// Resident memory of the process.
    pub rss_bytes: Option<u64>,
    /// Heap in use.
    pub heap_bytes: Option<u64>,
}

/// Memory of an app that has reached its limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Display)]
#[display("`restart_at` reached: {kind} {} MiB, limit {}", mebibytes(*bytes), ByteSize(*limit))]
pub struct MemoryExcess {
    /// `rss` or `heap`.
    kind: &'static str,
    bytes: u64,
    limit: u64,
}

impl fmt::Display for RestartAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let both = [("rss", self.rss_bytes), ("heap", self.heap_bytes)];
        let set = both
            .iter()
            .filter_map(|(kind, limit)| Some(format!("{kind} {}", ByteSize((*limit)?))));
        f.write_str(&set.collect::<Vec<_>>().join(", "))
    }
}

impl RestartAt {
    /// Compiles the limits; `None` if a problem was reported or nothing is configured.
    pub(super) fn compile(config: &UpstreamConfig, cx: &mut CompileContext<'_>) -> Option<Self> {
        let Spanned { value, place } = config.restart_at.as_ref()?;
        let mut limit = |name: &str, written: &Option<Spanned<ByteSize>>| {
            let written = written.as_ref()?;
            let bytes = written.value.0;
            let (message, help) = if bytes == 0 {
                (
                    format!("`restart_at.{name}` must be more than zero"),
                    "write a size below the limit at which the app is killed, such as `900MiB`",
                )
            } else if bytes > MAX_BYTES {
                (
                    format!("`restart_at.{name}` is larger than any app"),
                    "write a size of at most 256 TiB, such as `900MiB`",
                )
            } else {
                return Some(bytes);
            };
            cx.at(written.place, CODE).refuse(message, help)
        };
        let limits = Self {
            rss_bytes: limit("rss", &value.rss),
            heap_bytes: limit("heap", &value.heap),
        };
        if value.rss.is_none() && value.heap.is_none() {
            cx.at(*place, CODE).error(
                "`restart_at` has no limit",
                "write `rss`, `heap` or both, such as `restart_at: { rss: 900MiB }`",
            );
        }
        if config.protocol == ProtocolConfig::H2 {
            cx.at(*place, CODE).error(
                "`restart_at` has no effect with `protocol: h2`",
                "apps report their memory over HTTP/1.1 only: remove one of the two",
            );
        }
        Some(limits)
    }

    /// Returns the resident memory of a process without reports, if it has reached its limit.
    pub fn rss_excess(&self, bytes: u64) -> Option<MemoryExcess> {
        excess("rss", bytes, self.rss_bytes)
    }

    /// Returns the memory that has reached its limit according to a report, unless that is too old.
    pub fn excess(&self, node: &NodeStatus) -> Option<MemoryExcess> {
        if !node.is_fresh() {
            return None;
        }
        let rss = self.rss_excess(node.rss_bytes);
        rss.or_else(|| excess("heap", node.heap_bytes, self.heap_bytes))
    }
}

fn excess(kind: &'static str, bytes: u64, limit: Option<u64>) -> Option<MemoryExcess> {
    let limit = limit.filter(|limit| bytes >= *limit)?;
    Some(MemoryExcess { kind, bytes, limit })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::tests::Bench;

    #[track_caller]
    fn messages(settings: &str) -> Vec<String> {
        let yaml = format!("{{ backends: ['127.0.0.1:3000'], {settings} }}");
        let (upstream, diagnostics) = Bench::new().try_compile(&yaml);
        assert_eq!(upstream.is_none(), diagnostics.has_errors());
        let list = diagnostics.list().iter();
        list.map(|d| d.message.clone()).collect()
    }

    #[test]
    fn mistakes_are_reported() {
        for (settings, expected) in [
            ("restart_at: {}", &["`restart_at` has no limit"][..]),
            (
                "restart_at: { rss: 0, heap: 0MiB }",
                &[
                    "`restart_at.rss` must be more than zero",
                    "`restart_at.heap` must be more than zero",
                ],
            ),
            (
                "restart_at: { rss: 2000000GiB }",
                &["`restart_at.rss` is larger than any app"],
            ),
            (
                "restart_at: { rss: 1MiB }, protocol: h2",
                &["`restart_at` has no effect with `protocol: h2`"],
            ),
            ("restart_at: { heap: 600MiB }", &[]),
        ] {
            assert_eq!(messages(settings), expected, "{settings}");
        }
        assert_eq!(messages("restart_at: { rss: 900 MiBit }").len(), 1);
        assert_eq!(messages("restart_at: { memory: 900MiB }").len(), 1);
        assert_eq!(messages("restart_at: 900MiB").len(), 1);
    }

    #[test]
    fn the_configured_limits_are_in_the_status_and_in_metrics() {
        let bench = Bench::new();
        let yaml = |rest: &str| format!("{{ backends: [10.0.0.1:80, 10.0.0.2:80] {rest} }}");
        let text = || String::from_utf8(bench.metrics.text()).unwrap();
        let series = |value: u8| {
            let labels = r#"{backend="10.0.0.1:80",upstream="web"}"#;
            format!("edgeway_backend_node_over_limit{labels} {value}\n")
        };
        let report = |upstream: &crate::Upstream, text: &str| {
            let header = http::HeaderValue::from_str(text).unwrap();
            upstream.backends()[0].learn_node_report(Some(&header), bench.clock.now());
            upstream.publish();
        };
        let limited = bench.upstream(&yaml(", restart_at: { rss: 8kB, heap: 4096 }"));
        let status = serde_json::to_value(limited.snapshot()).unwrap();
        assert_eq!(
            status["restart_at"],
            serde_json::json!({ "rss_bytes": 8000, "heap_bytes": 4096 })
        );
        report(&limited, "1 250 12 4095 7999");
        assert!(text().contains(&series(0)), "{}", text());
        report(&limited, "1 250 12 4096 7999");
        assert!(text().contains(&series(1)), "{}", text());
        let snapshot = limited.snapshot();
        let excess = snapshot.excess(&snapshot.backends[0]).unwrap();
        assert_eq!(
            excess.to_string(),
            "`restart_at` reached: heap 0 MiB, limit 4KiB"
        );
        assert_eq!(snapshot.excess(&snapshot.backends[1]), None, "no report");
        let count = || text().matches("edgeway_backend_node_over_limit{").count();
        assert_eq!(count(), 1, "only one reports");

        let reload = |upstream: &crate::Upstream| {
            let all = std::collections::HashMap::new();
            bench
                .metrics
                .retain(all, |series| upstream.has_series(series));
        };
        reload(&limited);
        assert_eq!(count(), 1);
        let free = bench.upstream(&yaml(""));
        reload(&free);
        assert_eq!(count(), 0, "{}", text());
        free.publish();
        assert_eq!(count(), 0, "{}", text());
        let status = serde_json::to_value(free.snapshot()).unwrap();
        assert!(status["restart_at"].is_null());
    }

    #[test]
    fn an_old_report_has_reached_no_limit() {
        let bench = Bench::new();
        let upstream = bench.upstream("{ backends: [10.0.0.1:80], restart_at: { rss: 1 } }");
        let header = http::HeaderValue::from_static("1 250 12 4096 8192");
        upstream.backends()[0].learn_node_report(Some(&header), bench.clock.now());
        for (advance, is_over) in [(0, true), (9, true), (2, false)] {
            bench.clock.advance(Duration::from_secs(advance));
            let snapshot = upstream.snapshot();
            let found = snapshot.excess(&snapshot.backends[0]);
            assert_eq!(found.is_some(), is_over, "after {advance} s");
            upstream.publish();
            let text = String::from_utf8(bench.metrics.text()).unwrap();
            let labels = r#"{backend="10.0.0.1:80",upstream="web"}"#;
            let value = u8::from(is_over);
            let series = format!("edgeway_backend_node_over_limit{labels} {value}\n");
            assert!(text.contains(&series), "after {advance} s: {text}");
        }
    }

    proptest! {
        #[test]
        fn memory_is_over_if_and_only_if_a_limit_is_reached(
            (rss, heap) in (0..40_u64, 0..40_u64),
            (of_rss, of_heap) in (prop::option::of(1..40_u64), prop::option::of(1..40_u64)),
        ) {
            let limits = RestartAt { rss_bytes: of_rss, heap_bytes: of_heap };
            let node = NodeStatus { rss_bytes: rss, heap_bytes: heap, ..NodeStatus::default() };
            let is_over = of_rss.is_some_and(|at| rss >= at) || of_heap.is_some_and(|at| heap >= at);
            prop_assert_eq!(limits.excess(&node).is_some(), is_over);
        }
    }
}
