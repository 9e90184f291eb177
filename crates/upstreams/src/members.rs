//! Members of an upstream: addresses as written, and those from DNS. Members are swapped whole; a
//! backend whose address stays keeps its state and its object.

use std::{collections::HashSet, net::IpAddr, sync::Arc};

use derive_more::Display;

use super::{
    Upstream,
    backend::{Backend, BackendOrigin},
    balance::Members,
    metrics::{BackendFirstByte, BackendMetrics, NodeMetrics},
    operator_decisions::AddedBackend,
    target::Target,
};

/// Backend as written: an address, or a name that stands for several.
#[derive(Clone, Debug, PartialEq, Eq, Display)]
pub(super) enum BackendSource {
    #[display("{target}")]
    Fixed {
        target: Target,
        weight: u16,
        is_backup: bool,
    },
    #[display("{name}:{port}")]
    Dns {
        name: String,
        port: u16,
        /// Weight of each address of the name.
        weight: u16,
        is_backup: bool,
    },
}

#[derive(Debug)]
pub(super) struct Sources(Box<[BackendSource]>);

impl Sources {
    pub(super) fn new(list: Vec<BackendSource>) -> Self {
        Self(list.into_boxed_slice())
    }

    /// Returns the names to resolve, each once.
    pub(super) fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for source in &self.0 {
            if let BackendSource::Dns { name, .. } = source
                && !names.contains(&name.as_str())
            {
                names.push(name);
            }
        }
        names
    }

    /// Returns true if `target` is written as an address.
    pub(super) fn has(&self, target: &Target) -> bool {
        self.0.iter().any(
            |source| matches!(source, BackendSource::Fixed { target: own, .. } if own == target),
        )
    }

    /// Returns all members, each address once, in the order written, then those `added`; `resolved`
    /// returns the addresses of a name.
    fn members(
        &self,
        resolved: impl Fn(&str) -> Vec<IpAddr>,
        added: &[AddedBackend],
    ) -> Vec<Member> {
        let mut seen = HashSet::new();
        let written = self.0.iter().flat_map(|source| match source {
            BackendSource::Fixed {
                target,
                weight,
                is_backup,
            } => vec![Member {
                is_backup: *is_backup,
                ..Member::at(target, *weight, BackendOrigin::File)
            }],
            BackendSource::Dns {
                name,
                port,
                weight,
                is_backup,
            } => resolved(name)
                .into_iter()
                .map(|ip| Member {
                    target: Target::Inet((ip, *port).into()),
                    authority: format!("{name}:{port}"),
                    weight: *weight,
                    is_backup: *is_backup,
                    origin: BackendOrigin::Dns,
                    release: None,
                })
                .collect(),
        });
        let added = added.iter().map(|added| Member {
            release: added.release.clone(),
            ..Member::at(&added.target, added.weight, BackendOrigin::Added)
        });
        written
            .chain(added)
            .filter(|member| seen.insert(member.target.clone()))
            .collect()
    }
}

/// Address and settings of one future member.
struct Member {
    target: Target,
    authority: String,
    weight: u16,
    is_backup: bool,
    origin: BackendOrigin,
    release: Option<Arc<str>>,
}

impl Member {
    fn at(target: &Target, weight: u16, origin: BackendOrigin) -> Self {
        Self {
            target: target.clone(),
            authority: match target {
                Target::Inet(address) => address.to_string(),
                Target::Unix(_) => "localhost".to_owned(),
            },
            weight,
            is_backup: false,
            origin,
            release: None,
        }
    }
}

impl Upstream {
    /// Rebuilds the members from the written sources, the last DNS results, and the added backends.
    pub(super) fn rebuild(&self) {
        // One at a time: DNS and an operator may change members concurrently.
        let _alone = self.rebuilding.lock();
        let known = self.shared.live.resolved();
        let decisions = self.shared.live.decisions().clone();
        let settings = self.releases.as_ref().map(|releases| &releases.canary);
        let live = &self.shared.live;
        let trial = live.trial(decisions.canary.as_ref(), settings, &self.shared.canary);
        let resolved = |name: &str| known.get(name).cloned().unwrap_or_default();
        let members = self.sources.members(resolved, &decisions.added);
        let old = self.members.load();
        let list: Vec<Arc<Backend>> = members
            .into_iter()
            .map(|member| {
                let existing = old.list.iter().find(|backend| {
                    backend.target == member.target
                        && backend.weight == member.weight
                        && backend.is_backup == member.is_backup
                        && backend.origin == member.origin
                        && backend.authority == member.authority
                        && backend.release == member.release
                });
                existing.cloned().unwrap_or_else(|| self.backend(member))
            })
            .collect();
        let states = list.iter().map(|backend| backend.state.clone()).collect();
        self.shared.roster.store(Arc::new(states));
        let mut members = Members::new(list, &self.balance, decisions.current);
        members.before = decisions.before;
        members.trial = trial;
        self.members.store(Arc::new(members));
        self.shared.live.queue.wake();
    }

    fn backend(&self, member: Member) -> Arc<Backend> {
        let address = member.target.to_string();
        let state = self.shared.state(&address, self.probing.starts_up());
        let tls = self.wire.backend_tls(&state);
        let (registry, upstream) = (&self.shared.registry, &*self.name);
        let sticky = self.sticky.as_ref();
        Arc::new(Backend {
            cookie: sticky.map(|sticky| sticky.value(&self.name, &address)),
            shared: self.shared.clone(),
            state,
            target: member.target,
            authority: member.authority,
            weight: member.weight,
            is_backup: member.is_backup,
            origin: member.origin,
            release: member.release,
            tls,
            metrics: BackendMetrics::register(registry, upstream, &address),
            first_byte: (self.optional_metrics.backends)
                .then(|| BackendFirstByte::new(registry, upstream, &address)),
            node_metrics: NodeMetrics::default(),
        })
    }
}
