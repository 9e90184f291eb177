//! What writes have changed and the others are to hear of. Anybody can write, so it is bounded
//! by host, and never comes to a purge of everything.

use std::{
    collections::{BTreeMap, HashSet},
    ops::Bound,
};

use super::super::{How, Purge, What};

/// Paths of one host. With more, all of that host goes at the others, and of no other.
const MAX_OF_HOST: usize = 16 * 1024;
/// Of all hosts. With more, what comes first is told.
const MAX: usize = 64 * 1024;
const MAX_BYTES: usize = 8 << 20;

#[derive(Debug, Default)]
pub(super) struct Writes {
    hosts: BTreeMap<Box<str>, Host>,
    count: usize,
    bytes: usize,
    /// Whose turn was last.
    last: Box<str>,
}

#[derive(Debug)]
enum Host {
    Paths(HashSet<Box<str>>),
    All,
}

/// What became of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pushed {
    Kept,
    /// All of its host is to go.
    Folded,
    /// It is not told: there are too many hosts.
    Lost,
}

impl Writes {
    pub(super) fn len(&self) -> usize {
        self.count
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// `url` has a scheme, a host and a path.
    pub(super) fn push(&mut self, url: &str) -> Pushed {
        let after_scheme = url.find("://").map_or(0, |at| at + 3);
        let path_at = url[after_scheme..].find('/');
        let path_at = path_at.map_or(url.len(), |at| after_scheme + at);
        let (host, path) = url.split_at(path_at);
        let bytes = host.len() + path.len();
        let is_full = self.count >= MAX || self.bytes + bytes > MAX_BYTES;
        let known = self.hosts.get_mut(host);
        let (is_new, is_many) = match &known {
            Some(Host::All) => return Pushed::Folded,
            Some(Host::Paths(paths)) if paths.contains(path) => return Pushed::Kept,
            Some(Host::Paths(paths)) => (false, paths.len() >= MAX_OF_HOST),
            None => (true, false),
        };
        if is_many || (is_full && !is_new) {
            if let Some(Host::Paths(paths)) = self.hosts.insert(host.into(), Host::All) {
                self.count -= paths.len() - 1;
                let freed: usize = paths.iter().map(|path| path.len() + host.len()).sum();
                self.bytes -= freed - host.len();
            }
            return Pushed::Folded;
        }
        if is_full {
            return Pushed::Lost;
        }
        let of_host = self.hosts.entry(host.into());
        if let Host::Paths(paths) = of_host.or_insert_with(|| Host::Paths(HashSet::new())) {
            paths.insert(path.into());
        }
        self.count += 1;
        self.bytes += bytes;
        Pushed::Kept
    }

    /// Some of them, about so many bytes: of each host in turn, so that nobody waits for
    /// another one's flood.
    pub(super) fn take(&mut self, most: usize) -> Vec<Purge> {
        let mut taken = Vec::new();
        let mut bytes = 0;
        while bytes < most {
            let after = (Bound::Excluded(&*self.last), Bound::Unbounded);
            let mut later = self.hosts.range::<str, _>(after);
            let next = later.next().or_else(|| self.hosts.iter().next());
            let Some(host) = next.map(|(host, _)| host.clone()) else {
                break;
            };
            taken.extend(self.pop(&host).map(|(what, len)| {
                bytes += len + ROUND_IT;
                let how = How::Hard;
                Purge { what, how }
            }));
            self.last = host;
        }
        taken
    }

    /// And how long its URL is.
    fn pop(&mut self, host: &str) -> Option<(What, usize)> {
        let paths = match self.hosts.get_mut(host)? {
            Host::All => {
                self.hosts.remove(host);
                self.count -= 1;
                self.bytes -= host.len();
                let prefix = format!("{host}/");
                let len = prefix.len();
                return Some((What::Prefix(prefix), len));
            }
            Host::Paths(paths) => paths,
        };
        let path = paths.iter().next()?.clone();
        paths.remove(&path);
        if paths.is_empty() {
            self.hosts.remove(host);
        }
        self.count -= 1;
        self.bytes -= host.len() + path.len();
        let url = format!("{host}{path}");
        let len = url.len();
        Some((What::Written(url), len))
    }
}

/// Bytes of a purge in JSON beside its URL.
const ROUND_IT: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever is written to, and however often: nothing is told but that, or at most of its
    /// host.
    #[test]
    fn writes_are_told_once_or_by_host_and_never_as_everything() {
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        for _ in 0..20 {
            let mut writes = Writes::default();
            let (mut wanted, mut folded) = (HashSet::new(), HashSet::new());
            let hosts = random.u32(1..50);
            let flooded = random.bool();
            for n in 0..random.u32(1..30_000) {
                let host = if flooded { 0 } else { random.u32(..hosts) };
                let (host, path) = (format!("h{host}"), format!("/{}", n / 2));
                match writes.push(&format!("https://{host}{path}")) {
                    Pushed::Kept => drop(wanted.insert((host, path))),
                    Pushed::Folded => drop(folded.insert(host)),
                    Pushed::Lost => panic!("there is room"),
                }
            }
            let mut told = HashSet::new();
            loop {
                let some = writes.take(4096);
                if some.is_empty() {
                    break;
                }
                for purge in some {
                    match purge.what {
                        What::Written(url) => {
                            let rest = url.strip_prefix("https://").unwrap();
                            let (host, path) = rest.split_at(rest.find('/').unwrap());
                            let told_once = told.insert((host.to_owned(), path.to_owned()));
                            assert!(
                                told_once && wanted.contains(&(host.to_owned(), path.to_owned()))
                            );
                        }
                        What::Prefix(url) => {
                            let host = url.strip_prefix("https://").unwrap().trim_end_matches('/');
                            assert!(folded.contains(host), "{url}");
                        }
                        what => panic!("{what:?}"),
                    }
                }
            }
            wanted.retain(|(host, _)| !folded.contains(host));
            assert!(wanted.iter().all(|one| told.contains(one)));
            assert_eq!((writes.len(), writes.bytes), (0, 0));
        }
    }

    #[test]
    fn a_flood_of_hosts_is_lost_rather_than_everything() {
        let mut writes = Writes::default();
        for n in 0..MAX {
            assert_eq!(writes.push(&format!("http://h{n}/a")), Pushed::Kept);
        }
        assert_eq!(writes.push("http://more/a"), Pushed::Lost);
        assert_eq!(writes.push("http://h1/b"), Pushed::Folded);
        assert_eq!(writes.len(), MAX);
        assert_eq!(writes.take(1).len(), 1);
        assert_eq!(writes.push("http://more/a"), Pushed::Kept);
    }
}
