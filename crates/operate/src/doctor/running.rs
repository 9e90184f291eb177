//! Checks of the running gateway, by its own status: the problems that the status page shows, and
//! what needs to be there for none.

use edgeway_status::{
    client::ClientError,
    problems::{self, Severity, is_in_rotation},
    snapshot::{Snapshot, State, UpstreamStatus},
};

use super::{super::admin::AdminOption, Findings, Level};

/// Requests the status of the running gateway; the error says why there is none.
pub(super) async fn snapshot(admin: &AdminOption) -> Result<Snapshot, String> {
    let client = admin.client().map_err(|error| error.message)?;
    let snapshot = client.snapshot().await;
    snapshot.map_err(|error| match error {
        ClientError::Refused { refused, .. } => refused.message,
        other => other.to_string(),
    })
}

pub(super) fn check(findings: &mut Findings, snapshot: Result<Snapshot, String>) {
    const CHECK: &str = "gateway";
    let snapshot = match snapshot {
        Ok(snapshot) => snapshot,
        Err(why) => {
            let (why, help) = why
                .split_once("\nhelp: ")
                .map_or((&*why, None), |(why, help)| (why, Some(help.to_owned())));
            findings.push(CHECK, Level::Skipped, format!("not asked: {why}"), help);
            return;
        }
    };
    if snapshot.state == State::Serving && snapshot.not_ready.is_empty() {
        let (pid, generation) = (snapshot.pid, snapshot.config.generation);
        findings.ok(
            CHECK,
            format!("process {pid} serves configuration {generation}"),
        );
    }
    if snapshot.version != edgeway_base::VERSION {
        let running = &snapshot.version;
        findings.warning(
            CHECK,
            format!(
                "version {running} is running, this is {}",
                edgeway_base::VERSION
            ),
            "run `edgeway upgrade` to replace it without losing a request",
        );
    }
    let time = problems::time_of(&snapshot).unwrap_or_default();
    for problem in problems::find(&snapshot, time) {
        let level = match problem.severity {
            Severity::Error => Level::Error,
            Severity::Warning => Level::Warning,
        };
        let (what, look) = problem.cause_and_look();
        let remedy = format!("look at {look}");
        findings.push(problem.kind, level, what.to_owned(), Some(remedy));
    }
    for upstream in &snapshot.upstreams {
        memory(findings, upstream);
        let (name, all) = (&upstream.name, upstream.backends.len());
        let used = upstream.backends.iter().filter(|it| is_in_rotation(it));
        let used = used.count();
        if used > 0 {
            findings.ok("rotation", format!("`{name}`: {used} of {all} backends"));
        }
    }
}

/// Checks the apps of an upstream with `restart_at`: those that do not report have no such limit.
fn memory(findings: &mut Findings, upstream: &UpstreamStatus) {
    const CHECK: &str = "memory";
    if upstream.restart_at.is_none() {
        return;
    }
    let name = &upstream.name;
    let silent: Vec<&str> = upstream
        .backends
        .iter()
        .filter(|backend| backend.node.is_none() && backend.process_rss_bytes.is_none())
        .map(|backend| backend.address.as_str())
        .collect();
    if !silent.is_empty() {
        findings.warning(
            CHECK,
            format!(
                "`{name}` has `restart_at`, but no report from: {}",
                silent.join(", ")
            ),
            "start the app with `--import edgeway-node`; it reports with its responses",
        );
    }
}
