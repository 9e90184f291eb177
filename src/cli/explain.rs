//! `edgeway explain METHOD URL`.

use std::{fmt::Write as _, net::IpAddr, process::ExitCode};

use super::{ConfigOption, EX_CONFIG, check, out};
use crate::gateway::explain::{Considered, Explanation, explain};

#[derive(Debug, clap::Args)]
pub(super) struct Options {
    #[command(flatten)]
    config: ConfigOption,
    /// The request's method, such as GET
    method: String,
    /// A path, or a whole http URL
    url: String,
    /// A header of the request, as with curl: `Name: value`
    #[arg(short = 'H', long = "header", value_name = "HEADER")]
    headers: Vec<String>,
    /// The client's address
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    client: IpAddr,
    /// How to print
    #[arg(long, value_enum, default_value = "text")]
    format: check::Format,
}

pub(super) fn run(options: &Options) -> ExitCode {
    let checked = check::load(&options.config.config);
    let Some(gateway) = &checked.gateway else {
        out::note(&checked.report());
        return ExitCode::from(EX_CONFIG);
    };
    let explained = explain(
        gateway,
        &options.method,
        &options.url,
        &options.headers,
        options.client,
    );
    match explained {
        Ok(explanation) => {
            let printed = match options.format {
                check::Format::Text => text(&explanation),
                check::Format::Json => {
                    serde_json::to_string_pretty(&explanation).expect("plain data")
                }
            };
            out::data(&printed);
            ExitCode::SUCCESS
        }
        Err(error) => {
            out::note(&format!("edgeway: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn text(explanation: &Explanation) -> String {
    let mut out = String::new();
    let mut line = |key: &str, value: &str| {
        // Writing to a string cannot fail.
        let _infallible = writeln!(out, "{key:<12}{value}");
    };
    line("host", &explanation.host);
    match &explanation.rewritten_from {
        Some(from) => line(
            "target",
            &format!("{} (asked as {from})", explanation.target),
        ),
        None => line("target", &explanation.target),
    }
    line("class", explanation.class);
    line(
        "route",
        match (&explanation.route, explanation.without_route) {
            (Some(route), _) => route,
            (None, Some(421)) => "none: 421, no route is for this host",
            (None, _) => "none: 404",
        },
    );
    if let Some(action) = &explanation.action {
        line("action", action);
    }
    if let Some(target) = &explanation.upstream_target {
        line("sent on as", target);
    }
    for (name, value) in &explanation.parameters {
        line("parameter", &format!("{{{name}}} = {value}"));
    }
    for (index, filter) in explanation.filters.iter().enumerate() {
        let key = if index == 0 { "filters" } else { "" };
        line(
            key,
            &format!("{} ({})", filter.name, filter.phases.join(", ")),
        );
        for note in &filter.notes {
            line("", &format!("  {note}"));
        }
    }
    for (index, Considered { route, why }) in explanation.considered.iter().enumerate() {
        let key = if index == 0 { "considered" } else { "" };
        line(key, &format!("{route}: {why}"));
    }
    out
}
