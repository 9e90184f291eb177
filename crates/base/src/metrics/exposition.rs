//! OpenMetrics 1.0.0, for clients that ask for it: the text format with exemplars.
//!
//! The `prometheus` crate writes the older text format only.

use std::{collections::HashSet, time::SystemTime};

use prometheus::proto::{LabelPair, Metric, MetricFamily, MetricType};

use super::exemplars::{Exemplar, Exemplars};

/// Media type of the format.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Media type of Prometheus' older format.
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Text format of the metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Exposition {
    /// Prometheus' text format 0.0.4.
    #[default]
    Text,
    /// OpenMetrics 1.0.0.
    OpenMetrics,
}

impl Exposition {
    /// Media type of responses in this format.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Text => TEXT,
            Self::OpenMetrics => OPEN_METRICS,
        }
    }
}

/// Writes all families. `exemplars` returns those of a series.
pub(super) fn write<'e>(
    families: &[MetricFamily],
    exemplars: impl Fn(&str, &[LabelPair]) -> Option<&'e Exemplars>,
    out: &mut Vec<u8>,
) {
    let names: HashSet<&str> = families.iter().map(MetricFamily::name).collect();
    for family in families {
        let name = family.name();
        let kind = family.get_field_type();
        // A family of counters is named without the suffix of its samples. Where a gauge has that
        // name already, the counter cannot be one here: two families of one name are an error.
        let base = name
            .strip_suffix("_total")
            .filter(|base| kind == MetricType::COUNTER && !names.contains(base));
        let (title, word) = match (kind, base) {
            (MetricType::COUNTER, Some(base)) => (base, "counter"),
            (MetricType::GAUGE, _) => (name, "gauge"),
            (MetricType::HISTOGRAM, _) => (name, "histogram"),
            (MetricType::COUNTER | MetricType::SUMMARY | MetricType::UNTYPED, _) => {
                (name, "unknown")
            }
        };
        put(out, &["# HELP ", title, " "]);
        escape(out, family.help());
        put(out, &["\n# TYPE ", title, " ", word, "\n"]);
        for metric in family.get_metric() {
            let labels = metric.get_label();
            if kind == MetricType::HISTOGRAM {
                histogram(out, name, metric, exemplars(name, labels));
                continue;
            }
            let value = match kind {
                MetricType::COUNTER => metric.get_counter().get_value(),
                _ => metric.get_gauge().get_value(),
            };
            sample(out, name, "", labels, None);
            number(out, value);
            out.push(b'\n');
        }
    }
    out.extend_from_slice(b"# EOF\n");
}

#[expect(clippy::cast_precision_loss, reason = "exact up to 2^53")]
fn histogram(out: &mut Vec<u8>, name: &str, metric: &Metric, exemplars: Option<&Exemplars>) {
    let histogram = metric.get_histogram();
    let labels = metric.get_label();
    let count = histogram.get_sample_count();
    let buckets = histogram.get_bucket();
    let bounded = buckets
        .iter()
        // The canonical form has a fraction: `1.0`.
        .map(|bucket| {
            (
                format!("{:?}", bucket.upper_bound()),
                bucket.cumulative_count(),
            )
        });
    let all = bounded.chain([("+Inf".to_owned(), count)]);
    for (index, (bound, below)) in all.enumerate() {
        sample(out, name, "_bucket", labels, Some(&bound));
        number(out, below as f64);
        if let Some(exemplar) = exemplars.and_then(|exemplars| exemplars.get(index)) {
            put_exemplar(out, &exemplar);
        }
        out.push(b'\n');
    }
    sample(out, name, "_sum", labels, None);
    number(out, histogram.get_sample_sum());
    out.push(b'\n');
    sample(out, name, "_count", labels, None);
    number(out, count as f64);
    out.push(b'\n');
}

fn put_exemplar(out: &mut Vec<u8>, exemplar: &Exemplar) {
    let since = exemplar.at.duration_since(SystemTime::UNIX_EPOCH);
    put(out, &[" # {trace_id=\"", exemplar.trace.as_str(), "\"} "]);
    number(out, exemplar.value);
    let time = since.unwrap_or_default();
    put(
        out,
        &[&format!(" {}.{:03}", time.as_secs(), time.subsec_millis())],
    );
}

/// Writes a sample up to the space before its value.
fn sample(out: &mut Vec<u8>, name: &str, suffix: &str, labels: &[LabelPair], le: Option<&str>) {
    put(out, &[name, suffix]);
    let pairs = labels.iter().map(|pair| (pair.name(), pair.value()));
    let mut before = "{";
    for (label, value) in pairs.chain(le.map(|bound| ("le", bound))) {
        put(out, &[before, label, "=\""]);
        escape(out, value);
        out.push(b'"');
        before = ",";
    }
    put(out, &[if before == "," { "} " } else { " " }]);
}

fn number(out: &mut Vec<u8>, value: f64) {
    if value.is_infinite() {
        put(out, &[if value > 0.0 { "+Inf" } else { "-Inf" }]);
    } else if value.fract() == 0.0 && value.abs() < 9e15 {
        #[expect(clippy::cast_possible_truncation, reason = "it is an integer in range")]
        let whole = value as i64;
        put(out, &[itoa::Buffer::new().format(whole)]);
    } else {
        put(out, &[&value.to_string()]);
    }
}

fn escape(out: &mut Vec<u8>, text: &str) {
    for byte in text.bytes() {
        match byte {
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'"' => out.extend_from_slice(b"\\\""),
            b'\n' => out.extend_from_slice(b"\\n"),
            byte => out.push(byte),
        }
    }
}

fn put(out: &mut Vec<u8>, parts: &[&str]) {
    for part in parts {
        out.extend_from_slice(part.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{
        super::{Metrics, exemplars::TraceId},
        *,
    };
    use crate::clock::Clock;

    const ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    fn text(metrics: &Metrics) -> String {
        String::from_utf8(metrics.exposition(Exposition::OpenMetrics)).unwrap()
    }

    #[test]
    fn families_are_written_as_open_metrics_names_them() {
        let metrics = Metrics::default();
        let labels = [("route", "a\\\"\nb"), ("kind", "k")];
        metrics.counter("edgeway_x_total", "x \"y\"", &labels).inc();
        metrics.gauge("edgeway_y", "y", &[]).set(-3);
        // A gauge that has the name of the counter.
        metrics.gauge("edgeway_z", "z", &[]).set(1);
        metrics.counter("edgeway_z_total", "z", &[]).inc();
        assert_eq!(
            text(&metrics),
            "# HELP edgeway_x x \\\"y\\\"\n\
             # TYPE edgeway_x counter\n\
             edgeway_x_total{kind=\"k\",route=\"a\\\\\\\"\\nb\"} 1\n\
             # HELP edgeway_y y\n\
             # TYPE edgeway_y gauge\n\
             edgeway_y -3\n\
             # HELP edgeway_z z\n\
             # TYPE edgeway_z gauge\n\
             edgeway_z 1\n\
             # HELP edgeway_z_total z\n\
             # TYPE edgeway_z_total unknown\n\
             edgeway_z_total 1\n\
             # EOF\n"
        );
    }

    #[test]
    fn a_bucket_shows_the_trace_of_a_recent_observation() {
        let metrics = Metrics::default();
        let clock = Clock::default();
        let seconds = |route: &str| {
            metrics.traced_histogram("edgeway_s", "s", &[("route", route)], &[0.5, 1.0], &clock)
        };
        let at = clock.now() + Duration::from_secs(5);
        seconds("a").observe(0.75, at, || TraceId::parse(ID.as_bytes()));
        // The same series for the next configuration, and another one.
        seconds("a").observe(0.25, at, || None);
        seconds("b").observe(2.0, at, || None);
        let text = text(&metrics);
        let lines: Vec<&str> = text.lines().filter(|l| l.contains("\"a\"")).collect();
        let traced =
            format!("edgeway_s_bucket{{route=\"a\",le=\"1.0\"}} 2 # {{trace_id=\"{ID}\"}} 0.75 ");
        assert_eq!(lines[0], "edgeway_s_bucket{route=\"a\",le=\"0.5\"} 1");
        assert!(lines[1].starts_with(&traced), "{text}");
        assert_eq!(lines[2], "edgeway_s_bucket{route=\"a\",le=\"+Inf\"} 2");
        assert_eq!(lines[3], "edgeway_s_sum{route=\"a\"} 1");
        assert_eq!(lines[4], "edgeway_s_count{route=\"a\"} 2");
        assert_eq!(text.matches("trace_id").count(), 1, "{text}");
        // The older format has no exemplars, and a client that reads it would fail at one.
        let old = String::from_utf8(metrics.text()).unwrap();
        assert!(!old.contains("trace_id") && !old.contains("# EOF"), "{old}");
        metrics.forget("edgeway_s", &[("route", "a")]);
        assert!(!self::text(&metrics).contains("trace_id"));
    }
}
