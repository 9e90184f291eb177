//! `edgeway status`: prints the state of the running gateway from its admin listener.

use edgeway_status::{snapshot::Readiness, table};

use super::{
    Failure,
    admin::{AdminOption, OutputFormat},
    out,
};

#[derive(Debug, clap::Args)]
pub struct StatusOptions {
    #[command(flatten)]
    admin: AdminOption,
    /// Print everything as JSON
    #[arg(long)]
    json: bool,
    /// Print only why the gateway is not ready, and then exit with status 1; for health checks of
    /// containers
    #[arg(long, conflicts_with = "json")]
    ready: bool,
}

pub fn run(options: &StatusOptions) -> Result<(), Failure> {
    if options.ready {
        let asked = options
            .admin
            .ask(OutputFormat::Text, async |client| client.readiness().await);
        return report(&asked?);
    }
    options.admin.print(
        options.json,
        async |client| client.snapshot().await,
        |snapshot| out::data(&table::render_text(snapshot, out::width())),
    )
}

fn report(readiness: &Readiness) -> Result<(), Failure> {
    for reason in &readiness.reasons {
        out::note(&format!("edgeway: not ready: {reason}"));
    }
    if readiness.ready {
        out::data("ready");
    }
    Failure::unless(readiness.ready)
}
