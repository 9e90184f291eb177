//! Metrics of the process itself, with the names and units that Prometheus' client libraries use.

use prometheus::proto::{Counter, Gauge, Metric, MetricFamily, MetricType};

use crate::system;

/// A value of the process, with its name and its description.
struct Sample {
    name: &'static str,
    help: &'static str,
    kind: MetricType,
    value: f64,
}

/// Returns the families of this process; those that the kernel does not tell are absent.
pub(super) fn families() -> Vec<MetricFamily> {
    read().into_iter().map(Sample::family).collect()
}

/// Reads the values. Nothing is kept between two reads, so two scrapers see the same.
#[expect(clippy::cast_precision_loss, reason = "exact up to 2^53 bytes")]
fn read() -> Vec<Sample> {
    let counts = system::process_counts();
    let mut values = Vec::with_capacity(7);
    let mut gauge = |name, help, value: Option<u64>| {
        if let Some(value) = value {
            values.push(Sample {
                name,
                help,
                kind: MetricType::GAUGE,
                value: value as f64,
            });
        }
    };
    gauge(
        "process_open_fds",
        "Open file descriptors.",
        counts.open_files,
    );
    gauge(
        "process_max_fds",
        "Limit on open file descriptors.",
        counts.max_files,
    );
    gauge(
        "process_resident_memory_bytes",
        "Resident memory.",
        counts.resident,
    );
    gauge(
        "process_virtual_memory_bytes",
        "Virtual memory.",
        counts.virtual_memory,
    );
    gauge("process_threads", "Threads of the process.", counts.threads);
    gauge(
        "process_start_time_seconds",
        "Start of the process in seconds since 1970.",
        counts.started,
    );
    values.extend(counts.cpu_seconds.map(|value| Sample {
        name: "process_cpu_seconds_total",
        help: "CPU time of the process, user and system.",
        kind: MetricType::COUNTER,
        value,
    }));
    values
}

impl Sample {
    fn family(self) -> MetricFamily {
        let mut metric = Metric::default();
        if self.kind == MetricType::COUNTER {
            let mut counter = Counter::default();
            counter.set_value(self.value);
            metric.set_counter(counter);
        } else {
            let mut gauge = Gauge::default();
            gauge.set_value(self.value);
            metric.set_gauge(gauge);
        }
        let mut family = MetricFamily::default();
        family.set_name(self.name.to_owned());
        family.set_help(self.help.to_owned());
        family.set_field_type(self.kind);
        family.set_metric(vec![metric]);
        family
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_is_described_as_the_kernel_sees_it() {
        let value = |name: &str| {
            let found = read().into_iter().find(|value| value.name == name);
            found.unwrap_or_else(|| panic!("{name}")).value
        };
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .unwrap();
        let kib: f64 = line.trim().trim_end_matches(" kB").parse().unwrap();
        let ratio = value("process_resident_memory_bytes") / (kib * 1024.0);
        assert!((0.5..2.0).contains(&ratio), "{ratio}");
        let files: Vec<_> = (0..20)
            .map(|_| std::fs::File::open("/proc/self/status").unwrap())
            .collect();
        assert!(value("process_open_fds") > 20.0);
        assert!(value("process_max_fds") > value("process_open_fds"));
        drop(files);
        assert!(value("process_threads") >= 1.0);
        let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap();
        let age = now.as_secs_f64() - value("process_start_time_seconds");
        assert!((-2.0..3600.0).contains(&age), "{age}");
        let before = value("process_cpu_seconds_total");
        let mut sum = 0_u64;
        while value("process_cpu_seconds_total") < before + 0.02 {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        assert!(value("process_cpu_seconds_total") < before + 5.0);
    }
}
