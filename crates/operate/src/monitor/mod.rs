//! `edgeway monitor`: CPU, memory, disks, network, processes and units of this machine, as one line
//! of JSON.

mod machine;
mod rates;

use std::{io, time::Duration};

use edgeway_base::{
    clock::{Clock, rfc3339},
    units::Span,
};
use serde_json::{Map, Value, json};
use tokio::time::sleep;

use self::{machine::Sample, rates::since};
use super::{Failure, out, runtime, units::Units};

/// Unit of the gateway, as this project installs it.
const GATEWAY: &str = "edgeway.service";

/// Shortest interval: more requests would show nothing more, as rates are those of ten seconds.
const SHORTEST: Duration = Duration::from_millis(100);

#[derive(Debug, clap::Args)]
pub struct MonitorOptions {
    /// Print a line for each interval, until it is interrupted
    #[arg(long)]
    watch: bool,
    /// Time over which use and rates are measured, at least 100ms
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = interval)]
    interval: Span,
    /// More systemd units to report, such as 'shop@*.service'; edgeway and node-app@* are always
    /// reported
    #[arg(long = "unit", value_name = "PATTERN")]
    units: Vec<String>,
}

/// Parses the time between two observations.
pub fn interval(text: &str) -> Result<Span, String> {
    let span: Span = text.parse().map_err(|error| format!("{error}"))?;
    if span.0 < SHORTEST {
        return Err("the shortest interval is 100ms".to_owned());
    }
    Ok(span)
}

/// Returns a count as a number to compute with: a screen shows three digits of it.
#[expect(clippy::cast_precision_loss, reason = "far fewer digits are shown")]
pub fn as_number(count: u64) -> f64 {
    count as f64
}

pub fn run(options: &MonitorOptions) -> Result<(), Failure> {
    match runtime()?.block_on(measure(options)) {
        Ok(()) => Ok(()),
        // The reader of a pipe wants no more.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(format!("cannot measure this machine: {error}").into()),
    }
}

async fn measure(options: &MonitorOptions) -> io::Result<()> {
    let clock = Clock::machine();
    let mut units = Units::new(&[], &[]);
    let mut patterns = vec![GATEWAY.to_owned()];
    patterns.extend_from_slice(&options.units);
    let mut before = Sample::take(clock.now())?;
    units.of_this_machine(&patterns).await;
    loop {
        sleep(options.interval.0).await;
        let now = Sample::take(clock.now())?;
        let time = rfc3339(clock.wall());
        let mut line = Map::from_iter([("at".to_owned(), json!(time))]);
        line.extend(since(&now, &before));
        // State, CPU, memory and restarts of each unit, and why there may be more.
        let instances = units.of_this_machine(&patterns).await;
        line.insert("units".to_owned(), json!(instances.list));
        if let Some(problem) = instances.problem {
            line.insert("units_problem".to_owned(), json!(problem));
        }
        out::line(&Value::Object(line).to_string())?;
        if !options.watch {
            return Ok(());
        }
        before = now;
    }
}
