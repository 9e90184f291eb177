//! Who belongs to an upstream: addresses as written, and those that DNS gives. Members
//! are swapped whole; a backend whose address stays keeps its state and its object.

use std::{collections::HashSet, fmt, net::IpAddr, sync::Arc};

use super::{
    Upstream,
    backend::{Backend, Target},
    balance::Members,
    compile::pool_group,
    metrics::BackendMetrics,
    peer::PeerTemplate,
};

/// One backend as written: an address, or a name that stands for some.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Fixed {
        target: Target,
        weight: u16,
    },
    Dns {
        name: String,
        port: u16,
        /// Of each of its addresses.
        weight: u16,
    },
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed { target, .. } => target.fmt(f),
            Self::Dns { name, port, .. } => write!(f, "{name}:{port}"),
        }
    }
}

#[derive(Debug)]
pub(super) struct Sources(Box<[Source]>);

impl Sources {
    pub(super) fn new(list: Vec<Source>) -> Self {
        Self(list.into_boxed_slice())
    }

    /// The names to look up, each once.
    pub(super) fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for source in &self.0 {
            if let Source::Dns { name, .. } = source
                && !names.contains(&name.as_str())
            {
                names.push(name);
            }
        }
        names
    }

    /// All targets with their weights, each once, in the order written; `resolved` gives
    /// the addresses of a name.
    fn targets(&self, resolved: impl Fn(&str) -> Vec<IpAddr>) -> Vec<(Target, u16)> {
        let mut seen = HashSet::new();
        self.0
            .iter()
            .flat_map(|source| match source {
                Source::Fixed { target, weight } => vec![(target.clone(), *weight)],
                Source::Dns { name, port, weight } => resolved(name)
                    .into_iter()
                    .map(|ip| (Target::Inet((ip, *port).into()), *weight))
                    .collect(),
            })
            .filter(|(target, _)| seen.insert(target.clone()))
            .collect()
    }
}

impl Upstream {
    /// Makes the members anew from what is written and what DNS said last.
    pub(super) fn rebuild(&self) {
        let known = self.shared.live.resolved();
        let targets = self
            .sources
            .targets(|name| known.get(name).cloned().unwrap_or_default());
        let old = self.members.load();
        let list: Vec<Arc<Backend>> = targets
            .into_iter()
            .filter_map(|(target, weight)| {
                old.list
                    .iter()
                    .find(|backend| backend.target == target && backend.weight == weight)
                    .cloned()
                    .or_else(|| self.backend(target, weight))
            })
            .collect();
        let states = list.iter().map(|backend| backend.state.clone()).collect();
        self.shared.roster.store(Arc::new(states));
        self.members
            .store(Arc::new(Members::new(list, &self.balance)));
        self.shared.live.queue.wake();
    }

    fn backend(&self, target: Target, weight: u16) -> Option<Arc<Backend>> {
        let address = target.to_string();
        let group = pool_group(&self.name);
        // Checked when the configuration was; addresses from DNS always fit.
        let peer = PeerTemplate::new(&target, &self.timeouts, group)?;
        let state = self.shared.state(&address, self.probing.starts_up());
        let metrics = BackendMetrics::new(&self.shared.registry, &self.name, &address);
        let sticky = self.sticky.as_ref();
        Some(Arc::new(Backend {
            cookie: sticky.map(|sticky| sticky.value(&self.name, &address)),
            shared: self.shared.clone(),
            state,
            target,
            weight,
            peer,
            metrics,
        }))
    }
}
