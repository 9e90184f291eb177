//! Checks of the running gateway, by its own status.

use std::path::Path;

use edgeway_status::{
    client::ClientError,
    problems::is_in_rotation,
    snapshot::{Snapshot, State, UpstreamStatus},
};

use super::{super::admin::AdminOption, Findings};

/// Requests the status of the running gateway; the error says why there is none.
pub(super) async fn snapshot(admin: &AdminOption) -> Result<Snapshot, String> {
    let client = admin.client().map_err(|error| error.message)?;
    let snapshot = client.snapshot().await;
    snapshot.map_err(|error| match error {
        ClientError::Refused { refused, .. } => refused.message,
        other => other.to_string(),
    })
}

pub(super) fn check(findings: &mut Findings, path: &Path, snapshot: Result<Snapshot, String>) {
    const CHECK: &str = "gateway";
    let snapshot = match snapshot {
        Ok(snapshot) => snapshot,
        Err(why) => {
            findings.skipped(CHECK, format!("not asked: {why}"));
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
    for why in &snapshot.not_ready {
        findings.error(
            CHECK,
            format!("not ready: {why}"),
            "`edgeway status` and the log say more",
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
    if let Some(why) = &snapshot.config.last_error {
        findings.error(
            "reload",
            format!("the last one was refused: {why}"),
            format!(
                "run `edgeway check -c {}`, correct the file, and run `edgeway reload`",
                path.display()
            ),
        );
    }
    services(findings, &snapshot);
    backends(findings, &snapshot);
}

fn services(findings: &mut Findings, snapshot: &Snapshot) {
    for log in &snapshot.failing_logs {
        findings.error(
            "log",
            format!(
                "the {} {} cannot be written: {}",
                log.log, log.target, log.error
            ),
            "free space there, or correct its permissions; the gateway tries again each second",
        );
    }
    if let Some(redis) = snapshot.redis.as_ref().filter(|redis| !redis.up) {
        let why = redis.last_error.as_deref().unwrap_or("no response");
        findings.error(
            "redis",
            format!("the gateway lost it at {}: {why}", redis.since),
            "until it is back, each gateway continues with its own limits and cache",
        );
    }
    let rejection = snapshot.redis.as_ref().map(|redis| &redis.rejection);
    if let Some(Some(why)) = rejection {
        findings.error(
            "redis",
            format!("it rejects commands of the gateway: {why}"),
            "give it memory, or its user the permissions of docs/redis.md; until then each gateway \
             continues with its own limits and cache",
        );
    }
    let disk = snapshot.cache_disk.as_ref();
    if let Some(disk) =
        disk.filter(|disk| !matches!(&*disk.state, "up" | "opening" | "catching_up"))
    {
        let why = disk.last_error.as_deref().unwrap_or("no error");
        findings.warning(
            "cache folder",
            format!("{} is `{}`: {why}", disk.folder, disk.state),
            "free space, or correct its permissions; the gateway tries again by itself",
        );
    }
    for certificate in &snapshot.certificates {
        if let Some(problem) = &certificate.problem {
            let (name, failures) = (&certificate.name, certificate.failures);
            findings.error(
                "certificate",
                format!("`{name}` was not issued, {failures} failures: {problem}"),
                "check that the name points here and that the CA reaches port 80 or 443",
            );
        }
    }
    for plugin in &snapshot.plugins {
        for on in &plugin.routes {
            let (name, file, route) = (&plugin.name, &plugin.file, &on.route);
            let why = on
                .last_failure
                .as_deref()
                .unwrap_or("the log has its errors");
            let remedy = "correct the file and run `edgeway reload`";
            if on.left_out {
                let what = format!("`{name}` ({file}) is suspended on `{route}`: {why}");
                findings.error("plugin", what, remedy);
            } else if on.recent_failures > 0 {
                let count = on.recent_failures;
                let what = format!(
                    "`{name}` ({file}) failed {count} times in a minute on `{route}`: {why}"
                );
                findings.warning("plugin", what, remedy);
            }
        }
    }
}

fn backends(findings: &mut Findings, snapshot: &Snapshot) {
    const CHECK: &str = "rotation";
    for upstream in &snapshot.upstreams {
        memory(findings, upstream);
        let is_out = |state: &str| matches!(state, "down" | "ejected");
        let out: Vec<&str> = upstream
            .backends
            .iter()
            .filter(|backend| is_out(&backend.state))
            .map(|backend| backend.address.as_str())
            .collect();
        let (name, all) = (&upstream.name, upstream.backends.len());
        let used = upstream.backends.iter().filter(|it| is_in_rotation(it));
        let used = used.count();
        if used > 0 && out.is_empty() {
            findings.ok(CHECK, format!("`{name}`: {used} of {all} backends"));
            continue;
        }
        let message = if out.is_empty() {
            format!("`{name}`: 0 of {all} backends")
        } else {
            format!("`{name}`: out of rotation: {}", out.join(", "))
        };
        let remedy = "`edgeway status` shows the last check of each; look into the app's log";
        if used == 0 {
            findings.error(CHECK, message, remedy);
        } else {
            findings.warning(CHECK, message, remedy);
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
    for backend in &upstream.backends {
        if let Some(excess) = upstream.excess(backend) {
            findings.warning(
                CHECK,
                format!("`{name}`: {}: {excess}", backend.address),
                "`edgeway rollout --watch` restarts such apps: is its unit running?",
            );
        }
    }
}
