//! Purges caused by writes for the other gateways. Any client can cause them, so they are bounded
//! by host, and never turn into a purge of everything. A long URL counts as much as a short one,
//! since it is sent in few bytes ([`WriteTarget::short`]).

use std::{
    collections::{BTreeMap, HashSet},
    ops::Bound,
};

use super::super::{Purge, PurgeEffect, PurgeTarget, WriteTarget};

/// Maximum number of paths of one host. With more, the others purge that host and no other.
const MAX_OF_HOST: usize = 16 * 1024;
/// Maximum number for all hosts, each of a few hundred bytes at most. With more, the host with the
/// most paths is purged as a whole at the others, if it exceeds its share.
const MAX: usize = 64 * 1024;
/// Share of any host. If no host exceeds it, the first writes are sent and later ones are lost.
const SHARE: usize = MAX / 16;
/// Maximum bytes of scheme and host.
const MAX_HOST_LEN: usize = 300;

#[derive(Debug, Default)]
pub(super) struct WriteBatch {
    hosts: BTreeMap<Box<str>, Host>,
    count: usize,
    /// The host whose turn was last.
    last: Box<str>,
    /// True if no host exceeds its share, and none has gained paths since that was checked.
    are_all_small: bool,
}

#[derive(Debug)]
enum Host {
    Paths(HashSet<Box<str>>),
    All,
}

/// Outcome of adding a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PushOutcome {
    Added,
    /// A host will be purged as a whole, this one or one that exceeds its share.
    Folded,
    /// The write is not sent: there are too many hosts.
    Lost,
}

impl WriteBatch {
    pub(super) fn len(&self) -> usize {
        self.count
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Adds a write. `url` has a scheme, a host and a path.
    pub(super) fn push(&mut self, url: &str) -> PushOutcome {
        let url = WriteTarget::short(url);
        let (host, path) = split(&url);
        if host.len() > MAX_HOST_LEN {
            return PushOutcome::Lost;
        }
        match self.hosts.get(host) {
            Some(Host::All) => return PushOutcome::Folded,
            Some(Host::Paths(paths)) if paths.contains(path) => return PushOutcome::Added,
            Some(Host::Paths(paths)) if paths.len() >= MAX_OF_HOST => {
                self.fold(host.into());
                return PushOutcome::Folded;
            }
            Some(Host::Paths(_)) | None => {}
        }
        let mut pushed = PushOutcome::Added;
        if self.count >= MAX {
            let Some(largest) = self.largest() else {
                return PushOutcome::Lost;
            };
            pushed = PushOutcome::Folded;
            let is_own = *largest == *host;
            self.fold(largest);
            if is_own {
                return pushed;
            }
        }
        let of_host = self.hosts.entry(host.into());
        if let Host::Paths(paths) = of_host.or_insert_with(|| Host::Paths(HashSet::new())) {
            paths.insert(path.into());
            self.are_all_small &= paths.len() <= SHARE;
        }
        self.count += 1;
        pushed
    }

    /// Returns true if a write, or a purge of its whole host, waits here.
    pub(super) fn contains(&self, url: &str) -> bool {
        let url = WriteTarget::short(url);
        let (host, path) = split(&url);
        match self.hosts.get(host) {
            Some(Host::All) => true,
            Some(Host::Paths(paths)) => paths.contains(path),
            None => false,
        }
    }

    /// Returns the host with the most paths, if it exceeds its share.
    fn largest(&mut self) -> Option<Box<str>> {
        if self.are_all_small {
            return None;
        }
        let count = |host: &Host| match host {
            Host::Paths(paths) => paths.len(),
            Host::All => 1,
        };
        let hosts = self.hosts.iter().map(|(name, host)| (count(host), name));
        let largest = hosts.max().filter(|(count, _)| *count > SHARE);
        let largest = largest.map(|(_, name)| name.clone());
        self.are_all_small = largest.is_none();
        largest
    }

    fn fold(&mut self, host: Box<str>) {
        if let Some(Host::Paths(paths)) = self.hosts.insert(host, Host::All) {
            self.count -= paths.len() - 1;
        }
    }

    /// Removes purges of about `max` bytes, of each host in turn, so that a flood at one host does
    /// not delay others.
    pub(super) fn take(&mut self, max: usize) -> Vec<Purge> {
        let mut purges = Vec::new();
        let mut bytes = 0;
        while bytes < max {
            let after = (Bound::Excluded(&*self.last), Bound::Unbounded);
            let mut later = self.hosts.range::<str, _>(after);
            let next = later.next().or_else(|| self.hosts.iter().next());
            let Some(host) = next.map(|(host, _)| host.clone()) else {
                break;
            };
            purges.extend(self.pop(&host).map(|(target, len)| {
                bytes += len + JSON_OVERHEAD;
                let effect = PurgeEffect::Hard;
                Purge { target, effect }
            }));
            self.last = host;
        }
        purges
    }

    /// Removes a purge of a host. Returns it with the length of its URL.
    fn pop(&mut self, host: &str) -> Option<(PurgeTarget, usize)> {
        let paths = match self.hosts.get_mut(host)? {
            Host::All => {
                self.hosts.remove(host);
                self.count -= 1;
                let prefix = format!("{host}/");
                let len = prefix.len();
                return Some((PurgeTarget::Prefix(prefix), len));
            }
            Host::Paths(paths) => paths,
        };
        let path = paths.iter().next()?.clone();
        paths.remove(&path);
        if paths.is_empty() {
            self.hosts.remove(host);
        }
        self.count -= 1;
        let url = format!("{host}{path}");
        let len = url.len();
        Some((PurgeTarget::Written(url), len))
    }
}

/// Splits a short URL before its path.
fn split(url: &str) -> (&str, &str) {
    let after_scheme = url.find("://").map_or(0, |at| at + 3);
    let path_at = url[after_scheme..].find(['/', '#']);
    url.split_at(path_at.map_or(url.len(), |at| after_scheme + at))
}

/// Bytes of a purge in JSON in addition to its URL.
const JSON_OVERHEAD: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    /// Invariant: whatever is written, and however often, only that is sent, or a purge of its host
    /// at most.
    #[test]
    fn writes_are_sent_once_or_by_host_and_never_as_everything() {
        let mut random = fastrand::Rng::with_seed(edgeway_testkit::drawn());
        for _ in 0..edgeway_testkit::cases(6, 20) {
            let mut writes = WriteBatch::default();
            let (mut wanted, mut folded) = (HashSet::new(), HashSet::new());
            let hosts = random.u32(1..50);
            let flooded = random.bool();
            for n in 0..random.u32(1..30_000) {
                let host = if flooded { 0 } else { random.u32(..hosts) };
                let (host, path) = (format!("h{host}"), format!("/{}", n / 2));
                match writes.push(&format!("https://{host}{path}")) {
                    PushOutcome::Added => drop(wanted.insert((host, path))),
                    PushOutcome::Folded => drop(folded.insert(host)),
                    PushOutcome::Lost => panic!("there is room"),
                }
            }
            let mut sent = HashSet::new();
            loop {
                let some = writes.take(4096);
                if some.is_empty() {
                    break;
                }
                for purge in some {
                    match purge.target {
                        PurgeTarget::Written(url) => {
                            let rest = url.strip_prefix("https://").unwrap();
                            let (host, path) = rest.split_at(rest.find('/').unwrap());
                            let is_new = sent.insert((host.to_owned(), path.to_owned()));
                            assert!(is_new && wanted.contains(&(host.to_owned(), path.to_owned())));
                        }
                        PurgeTarget::Prefix(url) => {
                            let host = url.strip_prefix("https://").unwrap().trim_end_matches('/');
                            assert!(folded.contains(host), "{url}");
                        }
                        target => panic!("{target:?}"),
                    }
                }
            }
            wanted.retain(|(host, _)| !folded.contains(host));
            assert!(wanted.iter().all(|one| sent.contains(one)));
            assert_eq!(writes.len(), 0);
        }
    }

    fn write(writes: &mut WriteBatch, url: &str) -> PushOutcome {
        let pushed = writes.push(url);
        let counted = writes.hosts.values().map(|host| match host {
            Host::Paths(paths) => paths.len(),
            Host::All => 1,
        });
        assert_eq!(writes.len(), counted.sum::<usize>());
        pushed
    }

    #[test]
    fn a_flood_of_hosts_is_lost_rather_than_everything() {
        let mut writes = WriteBatch::default();
        for n in 0..MAX {
            assert_eq!(writes.push(&format!("http://h{n}/a")), PushOutcome::Added);
        }
        assert_eq!(write(&mut writes, "http://more/a"), PushOutcome::Lost);
        // For a host that waits already and does not exceed its share.
        assert_eq!(write(&mut writes, "http://h1/b"), PushOutcome::Lost);
        assert_eq!(writes.take(1).len(), 1);
        assert_eq!(write(&mut writes, "http://more/a"), PushOutcome::Added);
        let long = format!("http://{}/a", "h".repeat(MAX_HOST_LEN));
        assert_eq!(write(&mut writes, &long), PushOutcome::Lost);
    }

    /// The host that exceeds its share pays for it.
    #[test]
    fn a_full_log_costs_the_host_that_has_most_of_it() {
        let mut writes = WriteBatch::default();
        for n in 0..MAX_OF_HOST {
            assert_eq!(
                writes.push(&format!("http://flooded/{n}")),
                PushOutcome::Added
            );
        }
        for n in 0..MAX - MAX_OF_HOST {
            let url = format!("http://h{}/{n}", n % 100);
            assert_eq!(writes.push(&url), PushOutcome::Added);
        }
        assert_eq!(write(&mut writes, "http://h1/last"), PushOutcome::Folded);
        assert_eq!(
            write(&mut writes, "http://flooded/more"),
            PushOutcome::Folded
        );
        assert_eq!(writes.len(), MAX - MAX_OF_HOST + 2);
        assert_eq!(write(&mut writes, "http://more/a"), PushOutcome::Added);
        let mut folded = Vec::new();
        while writes.len() > 0 {
            for purge in writes.take(4096) {
                if let PurgeTarget::Prefix(prefix) = purge.target {
                    folded.push(prefix);
                }
            }
        }
        assert_eq!(folded, ["http://flooded/"]);
    }

    /// However long the URLs of one host are, another host has its turn soon.
    #[test]
    fn a_long_url_takes_little_room() {
        let mut writes = WriteBatch::default();
        let tail = "x".repeat(8000);
        for n in 0..1000 {
            let host = if n % 2 == 0 { 0 } else { n };
            let url = format!("http://h{host}/{n}/{tail}");
            assert_eq!(writes.push(&url), PushOutcome::Added);
        }
        assert_eq!(writes.push("http://shop/a"), PushOutcome::Added);
        let mut batches = 0;
        loop {
            batches += 1;
            let some = writes.take(4096);
            let json = serde_json::to_string(&some).unwrap();
            assert!(some.len() >= 15 && json.len() < 5000, "{json}");
            let shop = PurgeTarget::Written("http://shop/a".into());
            if some.iter().any(|purge| purge.target == shop) {
                break;
            }
        }
        assert!(batches < 501 / 15, "{batches}");
    }
}
