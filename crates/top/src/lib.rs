//! `edgeway top`: the running gateway in the terminal, refreshed each second; or once, as text or
//! JSON.

mod alarms;
mod live;
mod observe;
mod report;
mod screen;
mod view;

#[cfg(test)]
mod tests;

use std::io::{self, IsTerminal};

use edgeway_base::{
    out::{self, Failure},
    units::Span,
};
use edgeway_cli::admin::{AdminOption, OutputFormat};
use edgeway_operate::monitor::{as_number, interval};
use tokio::time::sleep;

use self::observe::Observer;

#[derive(Debug, clap::Args)]
pub struct TopOptions {
    /// Time between refreshes, at least 100ms
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = interval)]
    interval: Span,
    /// Measure for one interval and print everything as text; needs no terminal
    #[arg(long)]
    once: bool,
    /// With --once: print everything as JSON
    #[arg(long, requires = "once")]
    json: bool,
    /// More systemd units to show, such as 'shop@*.service'; node-app@* and units of `scale` are
    /// always shown
    #[arg(long = "unit", value_name = "PATTERN")]
    units: Vec<String>,
    #[command(flatten)]
    admin: AdminOption,
}

pub fn run(options: &TopOptions) -> Result<(), Failure> {
    let form = OutputFormat::from_flag(options.json);
    let is_live = !options.once && io::stdout().is_terminal() && !out::is_dumb();
    let interval = options.interval.0;
    let done = options.admin.ask(form, async |client| {
        let mut observer = Observer::new(client, &options.units);
        // A gateway that cannot be found is reported as by other commands, before the screen is
        // taken.
        let first = observer.observe().await?;
        if is_live {
            return Ok(live::run(observer, first, interval).await);
        }
        // CPU times of units and requests of backends are counts: a rate takes two of each.
        sleep(interval).await;
        let observation = observer.observe().await?;
        match form {
            OutputFormat::Json => out::data(&report::json(&observation)),
            OutputFormat::Text => out::data(&view::text(&observation)),
        }
        Ok(Ok(()))
    });
    done?
}
