//! `edgeway reload`: makes the running gateway read its configuration again.

use std::time::Duration;

use edgeway_base::units::{Percent, Span};
use edgeway_proxy::live::trial::TrialOutcome;
use edgeway_status::{
    actions::{NewConfigTrial, ReloadResult},
    client::{ACTION, Client, ClientError},
    snapshot::ConfigVerdictStatus,
};
use serde::Serialize;
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::{
    Failure,
    admin::{AdminOption, OutputFormat},
    out,
};

const EVERY: Duration = Duration::from_secs(1);
/// Time for which the gateway may not respond: it may be upgraded meanwhile.
const PATIENCE: Duration = Duration::from_mins(1);

#[derive(Debug, clap::Args)]
pub struct ReloadOptions {
    /// Show the configuration to a share of the clients for this time, such as `10min`, and go back
    /// to the previous one if a route is slower with it or fails more often; the command waits for
    /// the verdict
    #[arg(long, value_name = "TIME")]
    canary: Option<Span>,
    /// Share of the clients, such as `25%`
    #[arg(long, value_name = "SHARE", requires = "canary", default_value = "10%")]
    share: Percent,
    #[command(flatten)]
    admin: AdminOption,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// Reload with the verdict on its trial.
#[derive(Debug, Serialize)]
struct Reloaded {
    #[serde(flatten)]
    reload: ReloadResult,
    verdict: Option<ConfigVerdictStatus>,
}

pub fn run(options: &ReloadOptions) -> Result<(), Failure> {
    let form = OutputFormat::from_flag(options.json);
    let body = match options.canary {
        Some(canary) => json!({ "canary": canary, "share": options.share }),
        None => json!({}),
    };
    let reloaded = options.admin.ask(form, async |client| {
        let reload: ReloadResult = client.post("/v1/reload", &body, ACTION).await?;
        if !options.json {
            print(&reload, options.canary);
        }
        let verdict = match reload.trial {
            Some(_) => Some(verdict_on(&client, reload.generation).await?),
            None => None,
        };
        Ok(Reloaded { reload, verdict })
    });
    let reloaded = reloaded?;
    if options.json {
        out::json(&reloaded);
    } else if let Some(verdict) = &reloaded.verdict {
        out::note(&verdict.text);
    }
    match reloaded.verdict {
        Some(verdict) if verdict.outcome == TrialOutcome::TakenBack => Err(Failure::FAILED),
        _ => Ok(()),
    }
}

/// Prints the changes to stdout, and everything else to stderr.
fn print(reloaded: &ReloadResult, canary: Option<Span>) {
    for warning in &reloaded.warnings {
        out::note(warning);
    }
    out::data(&reloaded.changes.to_string());
    out::note(&format!(
        "generation {} serves, after {:.0} ms",
        reloaded.generation, reloaded.took_ms
    ));
    match (reloaded.trial, canary) {
        (Some(length), _) => out::note(&format!(
            "it is on trial for {length}, for {} of the clients",
            reloaded.share.unwrap_or(NewConfigTrial::SHARE)
        )),
        (None, Some(_)) => out::note("nothing changed, so there is no trial"),
        (None, None) => {}
    }
}

/// Waits for the verdict on a configuration.
async fn verdict_on(client: &Client, generation: u64) -> Result<ConfigVerdictStatus, ClientError> {
    let mut seen = Instant::now();
    loop {
        sleep(EVERY).await;
        let config = match client.snapshot().await {
            Ok(snapshot) => snapshot.config,
            Err(error) if seen.elapsed() > PATIENCE => return Err(error),
            Err(_) => continue,
        };
        seen = Instant::now();
        let verdict = config.canary_verdict;
        if let Some(verdict) = verdict.filter(|verdict| verdict.generation == generation) {
            return Ok(verdict);
        }
        if config
            .canary
            .is_none_or(|trial| trial.generation != generation)
        {
            return Ok(ConfigVerdictStatus {
                generation,
                text: "the trial was ended by an upgrade or another reload".to_owned(),
                ..ConfigVerdictStatus::default()
            });
        }
    }
}
