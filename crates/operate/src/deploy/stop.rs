//! `edgeway deploys --stop`: ends what `releases` has started, also where no gateway runs any more.

use std::path::Path;

use edgeway_cli::check;
use edgeway_upstreams::ReleaseSettings;
use futures_util::future::join_all;

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
                let file = gateway.snapshot().await?.config.file;
                stop(Some(&gateway), name, &releases, &file, &interrupt).await
            }
            Err(RequestFailure::Refused(why)) => Err(why.into()),
            Err(_) => {
                let path = options.admin.configuration();
                let releases = written(path, name)?;
                let file = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
                stop(None, name, &releases, &file.to_string_lossy(), &interrupt).await
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
    file: &str,
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
    let _alone = folder.begin_deploy(file)?;
    releases.stop_retiring();
    let (folder, instances) = (&folder, folder.instances());
    let ends = instances.iter().map(|(port, release)| async move {
        let instance = Instance::on(upstream, releases, *port, release);
        let may_end = async || Ok(Some(()));
        let ended = instance.end(gateway, releases, folder, interrupt, may_end);
        let ended = ended.await;
        match &ended {
            Ok(()) => out::note(&format!("{release}: {instance} is stopped")),
            Err(why) => out::note(&format!("edgeway: {release}: {instance}: {why}")),
        }
        ended.is_err()
    });
    let failed = join_all(ends).await.into_iter();
    let failed = failed.filter(|has_failed| *has_failed).count();
    if failed > 0 {
        let failed = out::counted(failed, "instance");
        return Err(format!("{failed} could not be stopped").into());
    }
    if let Some(release) = folder.state()?.current() {
        out::note(&format!(
            "upstream `{upstream}` has no instance any more; `edgeway switch {upstream} {release}` \
             starts the release again"
        ));
    }
    Ok(())
}
