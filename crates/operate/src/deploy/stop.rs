//! `edgeway deploys --stop`: ends what `releases` has started, also where no gateway runs any more.

use std::path::Path;

use edgeway_cli::check;
use edgeway_upstreams::ReleaseSettings;

use super::{Instance, ListOptions, folder::ReleaseFolder, settings};
use crate::{
    Failure,
    backends::{Gateway as _, Interrupt, RequestFailure},
    client::{self, Remote},
    out,
};

pub(super) fn run(options: &ListOptions) -> Result<(), Failure> {
    client::ask_interruptible(&options.admin, async |gateway, interrupt| {
        let name = &options.upstream;
        match gateway.upstream(name).await {
            Ok(_) => {
                let (_, releases) = settings(&gateway, name).await?;
                stop(Some(&gateway), name, &releases, &interrupt).await
            }
            Err(RequestFailure::Refused(why)) => Err(why.into()),
            Err(_) => {
                let releases = written(options.admin.configuration(), name)?;
                stop(None, name, &releases, &interrupt).await
            }
        }
    })
}

/// Returns the settings in the configuration, where no gateway serves it.
fn written(path: &Path, upstream: &str) -> Result<ReleaseSettings, Failure> {
    let checked = check::load(path);
    let Some(gateway) = &checked.gateway else {
        out::note(&checked.report());
        return Err(Failure::CONFIG);
    };
    let releases = gateway.upstreams.get(upstream);
    let releases = releases.and_then(|upstream| upstream.snapshot().releases);
    Ok(releases.ok_or_else(|| {
        let path = path.display();
        format!(
            "no gateway runs, and `{path}` has no upstream `{upstream}` with `releases`: name the \
             file with `--config FILE`"
        )
    })?)
}

/// Ends the process that ends replaced releases, and all instances.
async fn stop(
    gateway: Option<&Remote>,
    upstream: &str,
    releases: &ReleaseSettings,
    interrupt: &Interrupt,
) -> Result<(), Failure> {
    let folder = ReleaseFolder::new(releases);
    if !releases.folder.exists() {
        return Err(format!(
            "no release was deployed: there is no `{}`",
            releases.folder.display()
        )
        .into());
    }
    let _alone = folder.lock("deploy", "another deploy of this upstream has not ended")?;
    releases.stop_retiring();
    let instances = folder.instances();
    for (port, release) in &instances {
        if let Some(instance) = Instance::on(upstream, releases, *port, release) {
            instance.end(gateway, releases, &folder, interrupt).await?;
            out::note(&format!("{release}: {instance} is stopped"));
        }
    }
    if let Some(release) = folder.state()?.current() {
        out::note(&format!(
            "upstream `{upstream}` has no instance any more; `edgeway switch {upstream} {release}` \
             starts the release again"
        ));
    }
    Ok(())
}
