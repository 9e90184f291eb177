//! Releases of apps, and the one that a request belongs to while several of them run.

use std::{
    collections::HashMap,
    net::IpAddr,
    path::{self, Component, Path, PathBuf},
    sync::Arc,
};

use edgeway_base::out::counted;
use edgeway_cache::nextjs::{Destination, ReleaseRequest, Releases};
use edgeway_config::{
    model::UpstreamConfig,
    tree::{Key, Spanned},
};
use edgeway_upstreams::{TrialRequest, Upstream};

use super::{Gateway, compile::Compiler};

/// Release that a request goes to.
pub struct ReleaseChoice {
    pub destination: Destination,
    /// Release that the client gets wherever its request belongs to no other: the current one, or
    /// one on trial.
    pub own: Option<Arc<str>>,
    /// Comparison that the outcome of the request counts for.
    pub trial: Option<TrialRequest>,
}

impl Gateway {
    /// Returns the destination of a request to this upstream. `None` if the upstream has no
    /// releases.
    pub fn release_of(
        &self,
        upstream: &Arc<Upstream>,
        asked: &ReleaseRequest<'_>,
        client: IpAddr,
    ) -> Option<ReleaseChoice> {
        let mut apps = self.app_releases.iter();
        let (_, releases) = apps.find(|(own, _)| Arc::ptr_eq(own, upstream))?;
        let (own, trial) = upstream.release_for(client, asked.headers);
        let is_up = |release: &str| upstream.is_release_up(release);
        let destination = releases.now().destination(asked, own.as_deref(), is_up);
        Some(ReleaseChoice {
            trial: trial.filter(|_| destination == Destination::Current),
            destination,
            own,
        })
    }

    /// Returns warnings about instances of releases that no command reaches once `next` serves.
    pub fn lost_releases(&self, next: &Self) -> Vec<String> {
        let folder = |upstream: &Arc<Upstream>| Some(upstream.snapshot().releases?.folder);
        let mut lost = Vec::new();
        for (name, upstream) in &self.upstreams {
            let running = upstream.snapshot().backends.into_iter();
            let running = running.filter(|backend| backend.release.is_some()).count();
            let Some(before) = folder(upstream).filter(|_| running > 0) else {
                continue;
            };
            if next.upstreams.get(name).and_then(folder).as_ref() != Some(&before) {
                lost.push(format!(
                    "upstream `{name}` has {} of releases in `{}`, which no command stops any more: \
                     write it again, reload and run `edgeway deploys {name} --stop` first; if the \
                     upstream has another name now, run `edgeway resume` with that",
                    counted(running, "instance"),
                    before.display()
                ));
            }
        }
        lost
    }
}

impl Compiler<'_> {
    /// Reports ports that two upstreams have for instances: one site could get the app of the other.
    pub(super) fn shared_ports(&mut self, upstreams: &HashMap<Arc<str>, Arc<Upstream>>) {
        for (index, (key, Spanned { value, .. })) in self.file.upstreams.iter().enumerate() {
            let Some(upstream) = upstreams.get(&*key.name) else {
                continue;
            };
            let shares = |(other, _): &&(Key, _)| {
                let other = upstreams.get(&*other.name);
                other.is_some_and(|other| upstream.shares_ports(other))
            };
            let Some((other, _)) = self.file.upstreams[..index].iter().find(shares) else {
                continue;
            };
            let releases = value.releases.as_ref().map(|it| it.value.ports.place);
            let scale = value.scale.as_ref().map(|it| it.value.ports.place);
            let place = releases.or(scale).unwrap_or(key.place);
            let code = "edgeway::upstream::shared_ports";
            self.at(place, code).error(
                format!(
                    "instances of upstream `{}` have some of these ports",
                    other.name
                ),
                "write ports that no other upstream has, so that no site gets the app of another",
            );
        }
    }

    /// Returns the releases of this app, if it has some.
    pub(super) fn releases(
        &mut self,
        key: &Key,
        upstream: &UpstreamConfig,
    ) -> Option<Arc<Releases>> {
        let written = upstream.releases.as_ref()?;
        let folder = self.folder.join(&written.value.folder.value);
        let others = self.file.upstreams.iter();
        let mut others = others.take_while(|(other, _)| other.name != key.name);
        let is_same = |other: &UpstreamConfig| {
            let releases = other.releases.as_ref();
            releases
                .is_some_and(|it| is_same_place(&self.folder.join(&it.value.folder.value), &folder))
        };
        if let Some((other, _)) = others.find(|(_, other)| is_same(&other.value)) {
            self.at(
                written.value.folder.place,
                "edgeway::upstream::bad_releases",
            )
            .error(
                format!("the releases of `{}` are in this folder", other.name),
                "write a folder of its own for each app",
            );
        }
        let releases = Arc::new(Releases::new(&key.name, &folder));
        let watched = Arc::clone(&releases);
        self.work
            .add_about(format!("releases of {}", key.name), &releases, move || {
                Arc::clone(&watched).watch()
            });
        Some(releases)
    }
}

/// Returns true if two paths lead to one place.
fn is_same_place(one: &Path, other: &Path) -> bool {
    let whole = |path: &Path| {
        let path = path::absolute(path).unwrap_or_else(|_| path.to_owned());
        path.components().fold(PathBuf::new(), |mut place, part| {
            match part {
                Component::ParentDir => drop(place.pop()),
                part => place.push(part),
            }
            // What is not there yet is no link.
            place.canonicalize().unwrap_or(place)
        })
    };
    whole(one) == whole(other)
}
