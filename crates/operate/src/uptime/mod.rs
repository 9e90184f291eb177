//! `edgeway uptime`: the availability of a site from the log of `edgeway healthcheck --log`.

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufReader},
    path::{Path, PathBuf},
};

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use edgeway_base::{
    clock::Clock,
    private_file::if_there,
    units::{Percent, Span},
};
use edgeway_status::table;
use serde::{Deserialize, Deserializer, Serialize, de};

use super::{Failure, healthcheck, monitor::as_number, out};

/// Multiple of the usual interval from which on nothing was measured in between.
const GAP: i32 = 3;

#[derive(Debug, clap::Args)]
pub struct UptimeOptions {
    /// The log; the older file with `.1` at the end of its name is read too
    #[arg(
        value_name = "FILE",
        default_value = "/var/lib/edgeway-healthcheck/checks.log"
    )]
    file: PathBuf,
    /// Time up to now that counts
    #[arg(long, value_name = "TIME", default_value = "30d")]
    window: Span,
    /// The availability to reach
    #[arg(long, value_name = "PERCENT", default_value = "99.9%")]
    target: Percent,
    /// Count only the checks of this probe, such as the probe of the front end
    #[arg(long, value_name = "NAME")]
    probe: Option<String>,
    /// Print it as JSON
    #[arg(long)]
    json: bool,
}

pub fn run(options: &UptimeOptions) -> Result<(), Failure> {
    let report = report(options, Clock::machine().wall().into())?;
    if options.json {
        out::data(&serde_json::to_string(&report).expect("plain data"));
    } else {
        out::data(&report.text());
    }
    Failure::unless(report.kept)
}

fn report(options: &UptimeOptions, now: DateTime<Utc>) -> Result<Report, String> {
    let path = &options.file;
    let cannot = |error: &io::Error| format!("cannot read `{}`: {error}", path.display());
    let window = TimeDelta::from_std(options.window.0).unwrap_or(TimeDelta::MAX);
    let from = now.checked_sub_signed(window).unwrap_or_default();
    let mut log = Log::default();
    let older = if_there(open(&healthcheck::older(path))).map_err(|error| cannot(&error))?;
    if let Some(file) = older {
        log.read(file, from, now).map_err(|error| cannot(&error))?;
    }
    let file = open(path).map_err(|error| cannot(&error))?;
    log.read(file, from, now).map_err(|error| cannot(&error))?;
    if log.unreadable > 0 {
        let path = path.display();
        out::note(&format!(
            "edgeway: {} lines of `{path}` are no checks",
            log.unreadable
        ));
    }
    if let Some(name) = &options.probe {
        log.only(name)?;
    }
    log.report(options.target.0, now).ok_or_else(|| {
        format!(
            "no checks of the last {} in `{path}`; write some with \
             `edgeway healthcheck --log {path}`",
            options.window,
            path = path.display()
        )
    })
}

fn open(path: &Path) -> io::Result<BufReader<File>> {
    File::open(path).map(BufReader::new)
}

/// A line of the log, as far as it counts.
#[derive(Debug, Deserialize)]
struct Check {
    #[serde(deserialize_with = "time")]
    at: DateTime<Utc>,
    ok: bool,
    #[serde(default)]
    probes: Vec<ProbeResult>,
}

#[derive(Debug, Deserialize)]
struct ProbeResult {
    name: String,
    ok: bool,
}

fn time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<DateTime<Utc>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let parsed = DateTime::parse_from_rfc3339(&text);
    parsed.map(Into::into).map_err(de::Error::custom)
}

/// Checks in a span of time.
#[derive(Debug, Default)]
struct Log {
    checks: Vec<Check>,
    unreadable: u64,
}

/// Availability of a site.
#[derive(Debug, Default, PartialEq, Serialize)]
struct Report {
    from: String,
    to: String,
    checks: u64,
    passed: u64,
    /// Per cent of the checks that passed.
    availability: f64,
    target: f64,
    kept: bool,
    /// Checks in a row that failed are one outage.
    outages: u64,
    longest_outage_seconds: u64,
    /// Time without checks, as while this machine was off.
    unmeasured_seconds: u64,
    /// Per cent by probe.
    probes: BTreeMap<String, f64>,
}

impl Log {
    /// Adds the checks of a file that lie between two times.
    fn read(
        &mut self,
        file: impl io::BufRead,
        from: DateTime<Utc>,
        to: DateTime<Utc>,
    ) -> io::Result<()> {
        for line in file.split(b'\n') {
            // A machine that lost power may leave bytes of any kind.
            match serde_json::from_slice::<Check>(&line?) {
                Ok(check) if check.at >= from && check.at <= to => self.checks.push(check),
                Ok(_) => {}
                Err(_) => self.unreadable += 1,
            }
        }
        self.checks.sort_by_key(|check| check.at);
        Ok(())
    }

    /// Reduces the checks to those of one probe.
    fn only(&mut self, name: &str) -> Result<(), String> {
        let known: BTreeMap<String, f64> = self.probes();
        if !known.contains_key(name) {
            let known = match known.len() {
                0 => "the log has none".to_owned(),
                _ => format!("there is {}", out::listed(known.keys())),
            };
            return Err(format!("unknown probe `{name}`; {known}"));
        }
        self.checks.retain_mut(|check| {
            check.probes.retain(|probe| probe.name == name);
            check.ok = check.probes.iter().all(|probe| probe.ok);
            !check.probes.is_empty()
        });
        Ok(())
    }

    fn probes(&self) -> BTreeMap<String, f64> {
        let mut counts: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
        for probe in self.checks.iter().flat_map(|check| &check.probes) {
            let (all, passed) = counts.entry(&probe.name).or_default();
            *all += 1;
            *passed += u64::from(probe.ok);
        }
        let shares = counts.into_iter();
        shares
            .map(|(name, (all, passed))| (name.to_owned(), percent(passed, all)))
            .collect()
    }

    /// Computes the availability; `None` without checks.
    fn report(&self, target: f64, now: DateTime<Utc>) -> Option<Report> {
        let (from, to) = (self.checks.first()?.at, self.checks.last()?.at);
        let passed = self.checks.iter().filter(|check| check.ok).count() as u64;
        let all = self.checks.len() as u64;
        let mut report = Report {
            from: from.to_rfc3339_opts(SecondsFormat::Secs, true),
            to: to.to_rfc3339_opts(SecondsFormat::Secs, true),
            checks: all,
            passed,
            availability: percent(passed, all),
            target,
            // Of the counts: a rounded share may reach what they do not. The tolerance is that of
            // floating point, far below one check.
            kept: 100.0 * as_number(passed) >= target * as_number(all) - 1e-6,
            probes: self.probes(),
            ..Report::default()
        };
        let usual = self.interval();
        let mut since = None;
        let mut before = from;
        for check in &self.checks {
            let gap = check.at - before;
            if gap > usual * GAP {
                report.unmeasured_seconds += seconds(gap - usual);
                since = None;
            }
            before = check.at;
            if check.ok {
                since = None;
                continue;
            }
            if since.is_none() {
                report.outages += 1;
            }
            // A check stands for the time until the next one.
            let start = *since.get_or_insert(check.at);
            let length = seconds(check.at - start + usual);
            report.longest_outage_seconds = report.longest_outage_seconds.max(length);
        }
        // No check has come since, as while the timer is off.
        let gap = now - before;
        if usual > TimeDelta::zero() && gap > usual * GAP {
            report.unmeasured_seconds += seconds(gap - usual);
        }
        Some(report)
    }

    /// Returns the usual time between two checks: the median.
    fn interval(&self) -> TimeDelta {
        let pairs = self.checks.windows(2);
        let mut between: Vec<TimeDelta> = pairs.map(|pair| pair[1].at - pair[0].at).collect();
        between.sort();
        between.get(between.len() / 2).copied().unwrap_or_default()
    }
}

impl Report {
    fn text(&self) -> String {
        let (from, to, passed, outages) = (&self.from, &self.to, self.passed, self.outages);
        let (availability, target) = (self.availability, self.target);
        let kept = if self.kept { "reached" } else { "missed" };
        let mut lines = vec![
            format!("{from} to {to}: {passed} of {} checks passed", self.checks),
            format!("availability {availability}%, target {target}% {kept}"),
        ];
        if outages > 0 {
            let longest = table::uptime(self.longest_outage_seconds);
            lines.push(format!("outages {outages}, the longest {longest}"));
        }
        if self.unmeasured_seconds > 0 {
            let time = table::uptime(self.unmeasured_seconds);
            lines.push(format!("not measured {time}"));
        }
        let probes = self.probes.iter();
        lines
            .extend(probes.map(|(name, share)| format!("probe {} {share}%", out::printable(name))));
        lines.join("\n")
    }
}

/// Returns a share in per cent with four digits, rounded down: no failure turns into 100 %.
fn percent(part: u64, all: u64) -> f64 {
    (1_000_000.0 * as_number(part) / as_number(all.max(1))).floor() / 10_000.0
}

fn seconds(span: TimeDelta) -> u64 {
    u64::try_from(span.num_seconds()).unwrap_or(0)
}
