//! End of replaced releases: a process that `edgeway deploy` leaves behind stops their instances
//! once browsers had time to leave them, and removes releases that nobody needs any more.

use std::{collections::BTreeMap, io::Write as _, process::Stdio, time::Duration};

use edgeway_status::snapshot::UpstreamStatus;
use edgeway_upstreams::ReleaseSettings;
use rustix::process::setsid;
use tokio::time::sleep;

use super::{
    folder::{ReleaseFolder, now},
    instances::Instance,
    left_behind, settings,
};
use crate::{
    Failure,
    admin::AdminOption,
    backends::{Gateway as _, Interrupt, interruptible, until_idle},
    client::{self, Remote},
};

/// Interval of checks: a gateway may be upgraded, and an operator may go back to a release.
const EVERY: Duration = Duration::from_secs(5);
/// Interval of checks whether there is still a gateway to come back.
const LOST_EVERY: Duration = Duration::from_secs(2);
/// Time for requests in flight on an instance that is stopped.
const DRAIN: Duration = Duration::from_mins(1);
/// Failed checks in a row after which the process ends; the next deploy begins another one.
const MAX_FAILURES: u32 = 720;
/// The same before the first check that succeeds: the folder of releases is not known yet.
const MAX_FIRST_FAILURES: u32 = 12;
/// Attempts to take the place of another such process, a second each. Within them it has looked at
/// what the gateway does now, or has ended.
const ATTEMPTS: u32 = 11;

#[derive(Debug, clap::Args)]
pub struct Options {
    upstream: String,
    #[command(flatten)]
    admin: AdminOption,
}

/// Begins a process that ends replaced releases.
pub(super) fn begin(upstream: &str, admin: &AdminOption) -> Result<(), String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut process = std::process::Command::new(program);
    process
        .arg("retire-releases")
        .arg(upstream)
        .args(admin.arguments())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    left_behind::begin(&mut process)
        .map_err(|error| format!("cannot start the process that ends releases: {error}"))
}

pub fn run(options: &Options) -> Result<(), Failure> {
    // Signals of the terminal that the deploy was started in do not reach it. It fails only if the
    // process leads a session already.
    let _leads = setsid();
    client::ask(&options.admin, async |gateway| {
        interruptible(|interrupt| async {
            tokio::select! {
                retired = retire(&gateway, &options.upstream, interrupt) => Ok(retired?),
                () = lost(&gateway, &options.upstream) => Err("the gateway and its folder are gone".into()),
            }
        })
        .await
    })
}

async fn retire(gateway: &Remote, upstream: &str, interrupt: Interrupt) -> Result<(), String> {
    let own = first_settings(gateway, upstream, &interrupt).await?;
    let folder = ReleaseFolder::new(&own);
    let lock = |_| {
        // It would be made again where it was removed.
        let is_there = own.folder.exists();
        is_there
            .then(|| folder.lock("retire", "another process ends releases").ok())
            .flatten()
    };
    let Some(mut alone) = (0..ATTEMPTS).find_map(lock) else {
        return Ok(());
    };
    // For an operator who looks for it.
    write!(alone, "{}", std::process::id()).map_err(|error| error.to_string())?;
    let mut failures = 0;
    while !*interrupt.borrow() {
        match round(gateway, upstream, &folder, &interrupt).await {
            Ok(Round::Over) => return Ok(()),
            Ok(Round::Again) => failures = 0,
            Err(why) => {
                failures += 1;
                if failures >= MAX_FAILURES || !own.folder.exists() {
                    return Err(why);
                }
            }
        }
        sleep(EVERY).await;
    }
    Ok(())
}

/// Fetches the settings from a gateway that may be restarting.
async fn first_settings(
    gateway: &Remote,
    upstream: &str,
    interrupt: &Interrupt,
) -> Result<ReleaseSettings, String> {
    let mut failures = 0;
    loop {
        match settings(gateway, upstream).await {
            Ok((_, own)) => return Ok(own),
            Err(why) if failures == MAX_FIRST_FAILURES || *interrupt.borrow() => return Err(why),
            Err(_) => failures += 1,
        }
        sleep(EVERY).await;
    }
}

/// Waits until the gateway cannot be reached and the folder is gone that the process was started in:
/// it would not find the configuration again.
async fn lost(gateway: &Remote, upstream: &str) {
    loop {
        sleep(LOST_EVERY).await;
        if std::env::current_dir().is_err() && settings(gateway, upstream).await.is_err() {
            return;
        }
    }
}

enum Round {
    Again,
    Over,
}

/// Ends the releases whose time is over.
async fn round(
    gateway: &Remote,
    upstream: &str,
    folder: &ReleaseFolder,
    interrupt: &Interrupt,
) -> Result<Round, String> {
    let (mut status, own) = settings(gateway, upstream).await?;
    let linger = Duration::from_secs(own.linger);
    let mut state = folder.state()?;
    if state.settle(&status, linger) {
        let Ok(_alone) = folder.lock("deploy", "a deploy has not ended") else {
            // It decides itself.
            return Ok(Round::Again);
        };
        (status, _) = settings(gateway, upstream).await?;
        folder.change(|state| state.settle(&status, linger))?;
        state = folder.state()?;
    }
    let replaced = replaced(&status, &own);
    let mut running: Vec<String> = status.current_release.iter().cloned().collect();
    let mut has_stopped = false;
    for (release, instances) in &replaced {
        let until = state.releases.get(release).and_then(|state| state.until);
        // An unfinished deploy may have left it: it is not the business of this process.
        let Some(until) = until else {
            running.push(release.clone());
            continue;
        };
        if until > now() {
            running.push(release.clone());
            continue;
        }
        has_stopped = true;
        for instance in instances {
            let name = &instance.name;
            gateway.drain(name, false).await?;
            // What is still in flight then is aborted.
            drop(until_idle(gateway, name, DRAIN, interrupt).await);
            gateway.remove(name, true).await?;
            instance.stop(&own, folder).await?;
        }
    }
    folder.prune(&own, &running)?;
    let lingers = replaced
        .keys()
        .any(|release| running.contains(release) && state.releases.contains_key(release));
    // A release may have been deployed while instances were stopped.
    Ok(if lingers || has_stopped || status.canary.is_some() {
        Round::Again
    } else {
        Round::Over
    })
}

/// Returns the instances of releases that are not the current one.
fn replaced(status: &UpstreamStatus, own: &ReleaseSettings) -> BTreeMap<String, Vec<Instance>> {
    let mut replaced: BTreeMap<String, Vec<Instance>> = BTreeMap::new();
    for backend in &status.backends {
        let Some(release) = &backend.release else {
            continue;
        };
        if status.current_release.as_ref() == Some(release) {
            continue;
        }
        let instance = Instance::at(&status.name, own, &backend.address, release);
        let instances = replaced.entry(release.clone()).or_default();
        instances.extend(instance);
    }
    replaced
}
