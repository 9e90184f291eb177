//! Metrics of the process itself, with the names and units that Prometheus' client libraries use.

use prometheus::{Counter, IntGauge, core::Collector as _, proto::MetricFamily};

use crate::system;

/// Returns the families of this process; those that the kernel does not tell are absent. Nothing
/// is kept between two reads, so two scrapers see the same.
pub(super) fn families() -> Vec<MetricFamily> {
    let counts = system::process_counts();
    let gauges = [
        (
            "process_open_fds",
            "Open file descriptors.",
            counts.open_files,
        ),
        (
            "process_max_fds",
            "Limit on open file descriptors.",
            counts.max_files,
        ),
        (
            "process_resident_memory_bytes",
            "Resident memory.",
            counts.resident,
        ),
        (
            "process_virtual_memory_bytes",
            "Virtual memory.",
            counts.virtual_memory,
        ),
        ("process_threads", "Threads of the process.", counts.threads),
        (
            "process_start_time_seconds",
            "Start of the process in seconds since 1970.",
            counts.started,
        ),
    ];
    let gauges = gauges.into_iter().filter_map(|(name, help, value)| {
        let gauge = IntGauge::new(name, help).expect("static name");
        gauge.set(i64::try_from(value?).unwrap_or(i64::MAX));
        Some(gauge.collect())
    });
    let cpu = counts.cpu_seconds.map(|seconds| {
        let help = "CPU time of the process, user and system.";
        let counter = Counter::new("process_cpu_seconds_total", help).expect("static name");
        counter.inc_by(seconds);
        counter.collect()
    });
    gauges.chain(cpu).flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_is_described_as_the_kernel_sees_it() {
        let value = |name: &str| {
            let found = families().into_iter().find(|family| family.name() == name);
            let family = found.unwrap_or_else(|| panic!("{name}"));
            let metric = &family.get_metric()[0];
            metric.get_gauge().get_value() + metric.get_counter().get_value()
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
