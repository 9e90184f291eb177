//! Availability, outages and gaps of written and drawn logs.

use proptest::prelude::*;

use super::*;

fn at(minutes: i64) -> DateTime<Utc> {
    let start = DateTime::parse_from_rfc3339("2027-01-01T00:00:00Z").unwrap();
    DateTime::<Utc>::from(start) + TimeDelta::minutes(minutes)
}

fn line(minutes: i64, ok: bool) -> String {
    let at = at(minutes).to_rfc3339_opts(SecondsFormat::Millis, true);
    format!(
        "{{\"at\":\"{at}\",\"ok\":{ok},\"probes\":[{{\"name\":\"api\",\"ok\":{ok}}},\
         {{\"name\":\"redis\",\"ok\":true}}]}}\n"
    )
}

fn log(lines: &str) -> Log {
    let mut log = Log::default();
    log.read(lines.as_bytes(), at(0), at(30 * 24 * 60)).unwrap();
    log
}

#[test]
fn a_month_of_checks_against_the_target() {
    // 30 days of checks each 5 minutes may fail 8 times.
    for (failures, kept) in [(0, true), (8, true), (9, false)] {
        let lines: String = (0..8640_i64)
            .map(|check| line(5 * check, check % 100 != 7 || check / 100 >= failures))
            .collect();
        let report = log(&lines).report(99.9, at(8640 * 5)).unwrap();
        assert_eq!((report.checks, report.kept), (8640, kept), "{report:?}");
        assert_eq!(report.outages, u64::try_from(failures).unwrap());
        assert_eq!(report.unmeasured_seconds, 0);
        assert_eq!(report.text().matches("redis 100%").count(), 1);
        assert_eq!(report.availability < 100.0, failures > 0);
    }
}

#[test]
fn outages_and_gaps_are_measured() {
    let checks = [
        (0, true),
        (5, true),
        (10, false),
        (15, false),
        (20, true),
        (80, true),
        (85, false),
    ];
    let lines: String = checks.map(|(minutes, ok)| line(minutes, ok)).concat();
    let mut log = log(&lines);
    let report = log.report(50.0, at(85)).unwrap();
    assert_eq!((report.outages, report.longest_outage_seconds), (2, 600));
    assert_eq!(report.unmeasured_seconds, 55 * 60);
    assert_eq!(
        report.text(),
        "2027-01-01T00:00:00Z to 2027-01-01T01:25:00Z: 4 of 7 checks passed\n\
         availability 57.1428%, target 50% reached\n\
         outages 2, the longest 10min 0s\n\
         not measured 55min 0s\n\
         probe api 57.1428%\n\
         probe redis 100%"
    );
    // One probe alone.
    let unknown = log.only("front").unwrap_err();
    assert_eq!(unknown, "unknown probe `front`; there is `api`, `redis`");
    log.only("redis").unwrap();
    let report = log.report(100.0, at(85)).unwrap();
    assert_eq!((report.checks, report.passed, report.outages), (7, 7, 0));
}

#[test]
fn time_without_checks_is_no_outage() {
    let checks = [0, 5, 10, 500, 505, 510];
    let failing = |minutes| line(minutes, !(10..=500).contains(&minutes));
    let lines: String = checks.map(failing).concat();
    let report = log(&lines).report(99.9, at(512)).unwrap();
    // The machine was off between two failed checks: they are not one outage of eight hours.
    assert_eq!((report.outages, report.longest_outage_seconds), (2, 300));
    assert_eq!(report.unmeasured_seconds, (490 - 5) * 60);
    // The timer is off: nothing is known since the last check.
    let report = log(&lines).report(99.9, at(610)).unwrap();
    assert_eq!(report.unmeasured_seconds, (490 - 5 + 100 - 5) * 60);
}

#[test]
fn other_lines_and_other_times_do_not_count() {
    let lines = [
        line(-5, false),
        "half a li\n".to_owned(),
        line(5, true),
        line(50_000, false),
    ];
    let read = log(&lines.concat());
    assert_eq!(read.unreadable, 1);
    let report = read.report(99.9, at(5)).unwrap();
    assert_eq!((report.checks, report.passed), (1, 1));
    assert_eq!(log("").report(99.9, at(0)), None);
}

proptest! {
    /// The report of drawn checks, against counts made in another way.
    #[test]
    fn counts_are_those_of_the_log(
        results in proptest::collection::vec(any::<bool>(), 1..400),
        tenths in 0_u16..=1000,
    ) {
        let lines: String = (0..).zip(&results).map(|(at, ok)| line(5 * at, *ok)).collect();
        let report = log(&lines).report(f64::from(tenths) / 10.0, at(0)).unwrap();
        let failed = results.iter().filter(|ok| !**ok).count();
        prop_assert_eq!(report.checks - report.passed, failed as u64);
        prop_assert_eq!(report.availability < 100.0, failed > 0);
        // In whole numbers: tenths of a per cent of the checks.
        let needed = usize::from(tenths) * results.len();
        prop_assert_eq!(report.kept, 1000 * (results.len() - failed) >= needed);
        let text: String = results.iter().map(|ok| if *ok { '+' } else { '-' }).collect();
        let outages: Vec<&str> = text.split('+').filter(|run| !run.is_empty()).collect();
        prop_assert_eq!(report.outages, outages.len() as u64);
        let longest = outages.iter().map(|run| run.len()).max().unwrap_or(0) as u64;
        // A single check has no interval.
        let minutes = if results.len() == 1 { 0 } else { 5 };
        prop_assert_eq!(report.longest_outage_seconds, longest * minutes * 60);
    }
}
