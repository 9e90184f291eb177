//! Numbers as an operator reads them.

/// Formats a rate per second.
pub(super) fn rate(value: f64) -> String {
    if value >= 1000.0 {
        format!("{value:.0}/s")
    } else {
        format!("{value:.1}/s")
    }
}

pub(super) fn milliseconds(value: f64) -> String {
    if value >= 10_000.0 {
        format!("{:.1} s", value / 1000.0)
    } else if value >= 100.0 {
        format!("{value:.0} ms")
    } else {
        format!("{value:.1} ms")
    }
}

/// Formats a share of one: `0.825` is `82%`.
pub(super) fn percent(share: f64) -> String {
    format!("{:.0}%", 100.0 * share)
}

pub(super) fn bytes(count: f64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = count;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let decimals = usize::from(unit > 2 && value < 100.0);
    format!("{value:.decimals$} {}", UNITS[unit])
}

pub(super) use edgeway_status::table::uptime as age;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        assert_eq!(
            [rate(0.0), rate(12.34), rate(45_678.9)],
            ["0.0/s", "12.3/s", "45679/s"]
        );
        assert_eq!(
            [0.25, 99.96, 812.3, 12_345.0].map(milliseconds),
            ["0.2 ms", "100.0 ms", "812 ms", "12.3 s"]
        );
        assert_eq!(
            [0.0, 1023.0, 1024.0, 83_886_080.0, 1.6e9, 1e18].map(bytes),
            ["0 B", "1023 B", "1 KiB", "80 MiB", "1.5 GiB", "909495 TiB"]
        );
        assert_eq!([0.0, 0.826, 1.0].map(percent), ["0%", "83%", "100%"]);
    }
}
