//! Instances of a release: started and stopped as units of systemd, or under supervisors.

use std::{
    collections::HashSet,
    fs, io,
    net::{SocketAddr, TcpListener},
    os::unix::fs::symlink,
    path::Path,
    time::Duration,
};

use derive_more::Display;
use edgeway_base::{private_file::if_there, shell::shown};
use edgeway_status::snapshot::Snapshot;
use edgeway_upstreams::{ReleaseSettings, StartMethod};

use super::{folder::ReleaseFolder, supervise};
use crate::{
    backends::{Gateway as _, Interrupt, Name, until_idle},
    client::Remote,
    out,
    program::{Machine, Manager, Programs},
};

/// Time for requests in flight on an instance that is ended.
const DRAIN: Duration = Duration::from_mins(1);

/// An instance of a release, on a port.
#[derive(Display)]
#[display("instance on port {port}")]
pub(super) struct Instance {
    pub(super) name: Name,
    pub(super) port: u16,
    pub(super) release: String,
}

impl Instance {
    /// Returns an instance on a port that nothing uses: neither a backend nor an instance that is
    /// still being stopped.
    pub(super) fn free(
        upstream: &str,
        settings: &ReleaseSettings,
        folder: &ReleaseFolder,
        snapshot: &Snapshot,
        release: &str,
    ) -> Result<Self, String> {
        // An app of another upstream may be about to listen on its port.
        let backends = snapshot.upstreams.iter().flat_map(|it| &it.backends);
        let taken: HashSet<&str> = backends.map(|b| b.address.as_str()).collect();
        let is_free = |port: &u16| {
            let address = SocketAddr::new(settings.address, *port);
            !taken.contains(address.to_string().as_str())
                && !folder.instance(*port).is_symlink()
                && !supervise::is_running(folder, *port)
                && TcpListener::bind(address).is_ok()
        };
        let port = (settings.first_port..=settings.last_port).find(is_free);
        let free = port.map(|port| Self::on(upstream, settings, port, release));
        free.ok_or_else(|| {
            format!(
                "no port of {} to {} is free: extend `releases.ports` of upstream `{upstream}` and \
                 reload, or wait until an earlier release is stopped",
                settings.first_port, settings.last_port
            )
        })
    }

    /// Returns the running instance at an address, also outside of the present ports.
    pub(super) fn at(upstream: &str, address: &str, release: &str) -> Option<Self> {
        let address: SocketAddr = address.parse().ok()?;
        Some(Self {
            name: Name::new(upstream, address),
            port: address.port(),
            release: release.to_owned(),
        })
    }

    /// Returns the instance on a port.
    pub(super) fn on(upstream: &str, settings: &ReleaseSettings, port: u16, release: &str) -> Self {
        Self {
            name: Name::new(upstream, SocketAddr::new(settings.address, port)),
            port,
            release: release.to_owned(),
        }
    }

    pub(super) async fn start(
        &self,
        settings: &ReleaseSettings,
        folder: &ReleaseFolder,
    ) -> Result<(), String> {
        let link = folder.instance(self.port);
        let linked = relink(&link, Path::new("..").join(&self.release).as_path());
        linked.map_err(|error| format!("cannot link `{}`: {error}", link.display()))?;
        match &settings.start {
            StartMethod::Unit { name, manager } => {
                let unit = unit(name, self.port);
                if systemctl(manager, "start", &unit).await.is_err() {
                    // A release that ended again and again has used up the unit's starts. If there
                    // is nothing to reset, the start says what is wrong.
                    drop(systemctl(manager, "reset-failed", &unit).await);
                    systemctl(manager, "start", &unit).await?;
                }
                if let Err(why) = systemctl(manager, "enable", &unit).await {
                    out::note(&format!(
                        "edgeway: {self} will not start with the machine: {why}"
                    ));
                }
                Ok(())
            }
            StartMethod::Command(command) => {
                supervise::begin(settings, folder, &self.release, self.port, command)
            }
        }
    }

    pub(super) async fn stop(
        &self,
        settings: &ReleaseSettings,
        folder: &ReleaseFolder,
    ) -> Result<(), String> {
        match &settings.start {
            StartMethod::Unit { name, manager } => {
                let unit = unit(name, self.port);
                systemctl(manager, "stop", &unit).await?;
                if let Err(why) = systemctl(manager, "disable", &unit).await {
                    out::note(&format!(
                        "edgeway: {self} may start with the machine: {why}"
                    ));
                }
            }
            StartMethod::Command(_) => supervise::end(folder, self.port).await?,
        }
        let removed = if_there(fs::remove_file(folder.instance(self.port)));
        removed
            .map(drop)
            .map_err(|error| format!("cannot remove its link: {error}"))
    }

    /// Ends the instance: it gets no new requests, those in flight have a minute, and it stops.
    /// Before each step `may_end` says with `None` that it must not end any more; then it gets requests
    /// again.
    pub(super) async fn end<T>(
        &self,
        gateway: Option<&Remote>,
        settings: &ReleaseSettings,
        folder: &ReleaseFolder,
        interrupt: &Interrupt,
        may_end: impl AsyncFn() -> Result<Option<T>, String>,
    ) -> Result<(), String> {
        let Some(alone) = may_end().await? else {
            return Ok(());
        };
        if let Some(gateway) = gateway
            && gateway.backend(&self.name).await.is_ok()
        {
            gateway.drain(&self.name, true).await?;
            drop(alone);
            // What is still in flight then is aborted.
            drop(until_idle(gateway, &self.name, DRAIN, interrupt).await);
            let Some(_alone) = may_end().await? else {
                gateway.undrain(&self.name).await?;
                return Ok(());
            };
            gateway.remove(&self.name, true).await?;
        }
        self.stop(settings, folder).await
    }

    /// Says where the output of the app is.
    pub(super) fn log_hint(&self, settings: &ReleaseSettings, folder: &ReleaseFolder) -> String {
        match &settings.start {
            StartMethod::Unit { name, manager } => {
                let user = if manager == "user" { "--user " } else { "" };
                let unit = unit(name, self.port);
                format!("see `journalctl {user}-u {unit}`")
            }
            StartMethod::Command(_) => {
                let log = supervise::log_path(folder, self.port);
                let output = fs::read(&log).unwrap_or_default();
                let end = last_lines(&String::from_utf8_lossy(&output));
                let ends = if end.is_empty() {
                    ""
                } else {
                    ", which ends with"
                };
                format!("its output is in `{}`{ends}{end}", log.display())
            }
        }
    }
}

/// Returns the end of the output of an app, long enough for what a crash of Node prints.
fn last_lines(output: &str) -> String {
    let lines: Vec<&str> = output.lines().filter(|line| !line.is_empty()).collect();
    let end = &lines[lines.len().saturating_sub(12)..];
    end.iter().fold(String::new(), |mut text, line| {
        let shown = line.chars().filter(|c| !c.is_control());
        text.extend("\n  ".chars().chain(shown));
        text
    })
}

fn unit(name: &str, port: u16) -> String {
    name.replace("{port}", &port.to_string())
}

/// Makes `link` lead to `to`, whatever it was before.
fn relink(link: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(link.parent().unwrap_or(Path::new("/")))?;
    let new = link.with_extension("new");
    if_there(fs::remove_file(&new))?;
    symlink(to, &new)?;
    fs::rename(&new, link)
}

async fn systemctl(manager: &str, verb: &str, unit: &str) -> Result<(), String> {
    // Hints on units that cannot be enabled are for people who enable them by hand.
    let line = Manager::named(manager).systemctl(&["--quiet", verb, "--", unit]);
    let ran = Machine.run(&line).await;
    ran.map_err(|why| format!("`{}` failed: {why}", shown(&line)))
}
