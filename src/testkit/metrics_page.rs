//! The reference of metrics, `docs/metrics.md`, generated from the registered families.

use std::fmt::Write as _;

use edgeway_base::metrics::{FamilyInfo, Metrics, SECONDS};

/// Renders the page for every family that `metrics` knows.
pub fn markdown(metrics: &Metrics) -> String {
    let mut out = String::from(
        "# Metrics\n\n\
         <!-- Generated from the code by `make metrics-page`. -->\n\n\
         `GET /metrics` on the admin listener returns them in Prometheus' text format 0.0.4, or as \
         OpenMetrics with exemplars.\n\
         Label values come from the configuration or from a fixed list, never from a client: \
         an unknown method, and a status that HTTP does not define, count as `other`.\n\
         A series appears when it is first counted, and ends with the route, upstream, backend or \
         listener of its labels.\n\
         [Monitoring](guides/monitoring.md) has a dashboard and alerts that use them.\n\n\
         | metric | type | labels | meaning |\n|---|---|---|---|\n",
    );
    for family in metrics.families() {
        put_row(&mut out, &family);
    }
    let buckets: Vec<String> = SECONDS.iter().map(f64::to_string).collect();
    // Writing to a String cannot fail.
    let _infallible = writeln!(
        out,
        "\nHistograms are in seconds, in buckets of {}; a description names any others.",
        buckets.join(", ")
    );
    out
}

fn put_row(out: &mut String, family: &FamilyInfo) {
    let labels: Vec<String> = family
        .labels
        .iter()
        .map(|label| format!("`{label}`"))
        .collect();
    // Writing to a String cannot fail.
    let _infallible = writeln!(
        out,
        "| `{}` | {} | {} | {} |",
        family.name,
        family.kind,
        labels.join(", "),
        family.help.replace('|', "\\|"),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_is_a_row() {
        let metrics = Metrics::default();
        metrics.counter("edgeway_x_total", "a | b", &[("route", "r"), ("kind", "k")]);
        let page = markdown(&metrics);
        let row = "| `edgeway_x_total` | counter | `route`, `kind` | a \\| b |\n";
        assert!(page.contains(row), "{page}");
    }
}
