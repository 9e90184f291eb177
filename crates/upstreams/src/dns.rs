//! DNS names of backends: resolved again when their TTL is over, without a reload.

use std::{net::IpAddr, time::Duration};

use hickory_resolver::{
    Hosts, TokioResolver,
    config::{LookupIpStrategy, ResolveHosts},
    lookup::Lookup,
    net::NetError,
    proto::{
        op::Query,
        rr::{Name, RecordType},
    },
};

use super::eject::nanos;
use crate::chain::BoxFuture;

const MIN_TTL: Duration = Duration::from_secs(1);
const MAX_TTL: Duration = Duration::from_mins(5);
/// TTL of the hosts file, which has none; reading it costs next to nothing.
const HOSTS_FILE: Duration = Duration::from_secs(5);
const MAX_RETRY: Duration = Duration::from_secs(30);
/// The same while no address of the name is known: all requests wait for one.
const MAX_FIRST_RETRY: Duration = Duration::from_secs(2);
/// Deadline of one whole lookup, with all its attempts.
const LOOKUP: Duration = Duration::from_secs(10);

/// Resolver that finds the addresses of a name.
pub trait Resolve: Send + Sync + 'static {
    fn resolve<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Resolved, DnsError>>;
}

/// Addresses and their TTL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// Sorted, each once: servers rotate their responses, and that is no change.
    pub addresses: Vec<IpAddr>,
    pub ttl: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DnsError {
    #[error("no such host")]
    NoSuchHost,
    #[error("no response within {0:?}")]
    Timeout(Duration),
    #[error("{0}")]
    Other(String),
}

impl Resolved {
    pub fn new(addresses: impl IntoIterator<Item = IpAddr>, ttl: Duration) -> Self {
        let mut addresses: Vec<IpAddr> = addresses.into_iter().collect();
        addresses.sort_unstable();
        addresses.dedup();
        Self { addresses, ttl }
    }
}

/// Resolver of the machine: the hosts file, then the servers of `resolv.conf`. Both are read for
/// each lookup, so an edit counts without a reload. Returns IPv4 addresses if there are any, else
/// IPv6: an app that listens on one of both would fail every other request.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemResolver;

/// Resolver of the machine like [`SystemResolver`], which returns all addresses of both families: for
/// a caller that has to check each of them.
#[derive(Clone, Copy, Debug, Default)]
pub struct EveryAddress;

impl Resolve for SystemResolver {
    fn resolve<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Resolved, DnsError>> {
        Box::pin(resolve(name, LookupIpStrategy::Ipv4thenIpv6))
    }
}

impl Resolve for EveryAddress {
    fn resolve<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Resolved, DnsError>> {
        Box::pin(resolve(name, LookupIpStrategy::Ipv4AndIpv6))
    }
}

/// Next step of a lookup, after the files of the machine were read.
enum LookupStep {
    Found(Resolved),
    Ask(Box<TokioResolver>),
}

async fn resolve(name: &str, strategy: LookupIpStrategy) -> Result<Resolved, DnsError> {
    let owned_name = name.to_owned();
    // Both files may be on a disk that takes its time.
    let read = tokio::task::spawn_blocking(move || match in_hosts_file(&owned_name, strategy) {
        Some(resolved) => Ok(LookupStep::Found(resolved)),
        None => resolver(strategy).map(|resolver| LookupStep::Ask(Box::new(resolver))),
    });
    let read = read.await.map_err(|e| DnsError::Other(e.to_string()))?;
    match read? {
        LookupStep::Found(resolved) => Ok(resolved),
        LookupStep::Ask(resolver) => tokio::time::timeout(LOOKUP, ask_servers(&resolver, name))
            .await
            .unwrap_or(Err(DnsError::Timeout(LOOKUP))),
    }
}

fn in_hosts_file(name: &str, strategy: LookupIpStrategy) -> Option<Resolved> {
    let hosts = Hosts::from_system().ok()?;
    let name = Name::from_utf8(name).ok()?;
    let [v4, v6] = [RecordType::A, RecordType::AAAA].map(|kind| {
        let lookup = hosts.lookup_static_host(&Query::query(name.clone(), kind));
        lookup.map_or(Vec::new(), |lookup| addresses(&lookup).collect())
    });
    let resolved = match strategy {
        LookupIpStrategy::Ipv4AndIpv6 => [v4, v6].concat(),
        _ if v4.is_empty() => v6,
        _ => v4,
    };
    (!resolved.is_empty()).then(|| Resolved::new(resolved, HOSTS_FILE))
}

/// Creates a resolver with the servers of `resolv.conf`.
fn resolver(strategy: LookupIpStrategy) -> Result<TokioResolver, DnsError> {
    let mut builder = TokioResolver::builder_tokio().map_err(|e| explain(&e))?;
    let options = builder.options_mut();
    options.ip_strategy = strategy;
    options.use_hosts_file = ResolveHosts::Never;
    options.cache_size = 0;
    builder.build().map_err(|e| explain(&e))
}

async fn ask_servers(resolver: &TokioResolver, name: &str) -> Result<Resolved, DnsError> {
    let response = resolver.lookup_ip(name).await.map_err(|e| explain(&e))?;
    let mut lookup = Lookup::from(response);
    let is_exclusive = resolver.options().ip_strategy == LookupIpStrategy::Ipv4thenIpv6;
    if is_exclusive && lookup.query().query_type() == RecordType::AAAA {
        // The resolver asks for IPv6 after a failure too, which does not mean that there is no IPv4.
        let mut name = lookup.query().name().clone();
        name.set_fqdn(true);
        match resolver
            .lookup(name, RecordType::A)
            .await
            .map_err(|e| explain(&e))
        {
            Ok(v4) if addresses(&v4).next().is_some() => lookup = v4,
            Ok(_) | Err(DnsError::NoSuchHost) => {}
            Err(error) => return Err(error),
        }
    }
    // Aliases count as well: the shortest TTL limits the whole chain.
    let ttl = lookup.answers().iter().map(|record| record.ttl).min();
    let ttl = ttl.unwrap_or(0);
    Ok(Resolved::new(
        addresses(&lookup),
        Duration::from_secs(ttl.into()),
    ))
}

fn addresses(lookup: &Lookup) -> impl Iterator<Item = IpAddr> {
    let records = lookup.answers().iter();
    records.filter_map(|record| record.data.ip_addr())
}

fn explain(error: &NetError) -> DnsError {
    if error.is_nx_domain() || error.is_no_records_found() {
        DnsError::NoSuchHost
    } else {
        DnsError::Other(error.to_string())
    }
}

/// Schedule of lookups of a name. Pure: times are nanoseconds of the upstream's epoch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Schedule {
    pub(super) next: u64,
    failures: u32,
    has_addresses: bool,
    /// Set once a lookup has ended.
    pub(super) is_tried: bool,
}

/// Change in the result of lookups that is worth a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LookupChange {
    None,
    /// Lookups fail, and did not before.
    Fails,
    /// Lookups work again.
    Works,
}

impl Schedule {
    /// Records the end of a lookup: the TTL of its result, or `None` for a failure.
    pub(super) fn observe(&mut self, ttl: Option<Duration>, now: u64) -> LookupChange {
        self.is_tried = true;
        let had_failed = self.failures > 0;
        if let Some(ttl) = ttl {
            self.failures = 0;
            self.has_addresses = true;
            self.next = now.saturating_add(nanos(ttl.clamp(MIN_TTL, MAX_TTL)));
            return if had_failed {
                LookupChange::Works
            } else {
                LookupChange::None
            };
        }
        let max = if self.has_addresses {
            MAX_RETRY
        } else {
            MAX_FIRST_RETRY
        };
        let wait = MIN_TTL.saturating_mul(1 << self.failures.min(5)).min(max);
        self.next = now.saturating_add(nanos(wait));
        self.failures += 1;
        if had_failed {
            LookupChange::None
        } else {
            LookupChange::Fails
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use hickory_resolver::{
        config::{NameServerConfig, ResolverConfig},
        net::runtime::TokioRuntimeProvider,
    };
    use tokio::{net::UdpSocket, task::JoinSet};

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn resolved_addresses_hold_for_their_ttl_within_bounds() {
        let mut schedule = Schedule::default();
        for (ttl, seconds) in [(0, 1), (1, 1), (30, 30), (300, 300), (86_400, 300)] {
            let news = schedule.observe(Some(Duration::from_secs(ttl)), 7 * SECOND);
            assert_eq!(news, LookupChange::None);
            assert_eq!(schedule.next, (7 + seconds) * SECOND, "ttl {ttl}");
        }
    }

    #[test]
    fn failures_are_reported_once_and_retried_ever_more_seldom() {
        let mut schedule = Schedule::default();
        schedule.observe(Some(MIN_TTL), 0);
        let mut waits = Vec::new();
        for index in 0..8 {
            let news = schedule.observe(None, 0);
            assert_eq!(
                news,
                if index == 0 {
                    LookupChange::Fails
                } else {
                    LookupChange::None
                }
            );
            waits.push(schedule.next / SECOND);
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30, 30]);
        assert_eq!(schedule.observe(Some(MIN_TTL), 0), LookupChange::Works);
        assert_eq!(schedule.observe(None, 0), LookupChange::Fails);
    }

    #[test]
    fn a_name_without_an_address_is_looked_up_soon_again() {
        let mut schedule = Schedule::default();
        for seconds in [1, 2, 2, 2] {
            schedule.observe(None, 0);
            assert_eq!(schedule.next, seconds * SECOND);
        }
    }

    #[test]
    fn the_order_of_addresses_is_no_change() {
        let ips =
            |list: &[&str]| -> Vec<IpAddr> { list.iter().map(|a| a.parse().unwrap()).collect() };
        let one = Resolved::new(ips(&["10.0.0.2", "10.0.0.1"]), MAX_TTL);
        let other = Resolved::new(ips(&["10.0.0.1", "10.0.0.2", "10.0.0.1"]), MAX_TTL);
        assert_eq!(one, other);
    }

    /// Returns a resolver of a server that has the address `::1` for every name, and responds to
    /// queries for IPv4 addresses with `code`, or with `127.0.0.1`, after it has left out `lost`
    /// of them.
    async fn resolver_of(code: u8, lost: usize) -> (TokioResolver, JoinSet<()>) {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let mut server = NameServerConfig::udp(Ipv4Addr::LOCALHOST.into());
        server.connections[0].port = socket.local_addr().unwrap().port();
        let mut serving = JoinSet::new();
        serving.spawn(serve_names(socket, code, lost));
        let config = ResolverConfig::from_name_servers(vec![server]);
        let mut builder =
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        let options = builder.options_mut();
        options.ip_strategy = LookupIpStrategy::Ipv4thenIpv6;
        options.cache_size = 0;
        options.attempts = 0;
        options.timeout = Duration::from_millis(200);
        (builder.build().unwrap(), serving)
    }

    async fn serve_names(socket: UdpSocket, code: u8, mut lost: usize) {
        let mut query = [0; 512];
        loop {
            let (_, client) = socket.recv_from(&mut query).await.unwrap();
            // RFC 1035, 4.1: 12 bytes, the name up to an empty label, the type and the class.
            let end = 12 + query[12..].iter().position(|byte| *byte == 0).unwrap() + 5;
            let is_v6 = query[end - 3] == 28;
            if !is_v6 && lost > 0 {
                lost -= 1;
                continue;
            }
            let (code, address) = match (is_v6, code) {
                (true, _) => (0, Ipv6Addr::LOCALHOST.octets().to_vec()),
                (false, 0) => (0, Ipv4Addr::LOCALHOST.octets().to_vec()),
                (false, code) => (code, Vec::new()),
            };
            let count = u8::from(!address.is_empty());
            let mut response = query[..2].to_vec();
            response.extend([0x81, 0x80 | code, 0, 1, 0, count, 0, 0, 0, 0]);
            response.extend(&query[12..end]);
            if count > 0 {
                response.extend([0xc0, 12, 0, query[end - 3], 0, 1, 0, 0, 0, 60, 0]);
                response.push(u8::try_from(address.len()).unwrap());
                response.extend(address);
            }
            socket.send_to(&response, client).await.unwrap();
        }
    }

    #[tokio::test]
    async fn ipv6_takes_over_only_where_there_is_no_ipv4() {
        const NOTHING: u8 = 3;
        const FAILURE: u8 = 2;
        let ask = async |code, lost| {
            let (resolver, _serving) = resolver_of(code, lost).await;
            let found = ask_servers(&resolver, "app.internal").await?;
            Ok(found.addresses)
        };
        let (v4, v6) = (Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into());
        assert_eq!(ask(0, 0).await, Ok(vec![v4]));
        assert_eq!(ask(NOTHING, 0).await, Ok(vec![v6]));
        assert_eq!(ask(0, 1).await, Ok(vec![v4]), "a packet was lost");
        let failed: Result<Vec<IpAddr>, DnsError> = ask(FAILURE, 0).await;
        assert!(matches!(failed, Err(DnsError::Other(_))), "{failed:?}");
    }

    #[tokio::test]
    async fn the_hosts_file_is_read() {
        // The hosts file of every machine has this name.
        let every = EveryAddress.resolve("localhost").await.unwrap();
        let found = SystemResolver.resolve("localhost").await.unwrap();
        assert!(
            found
                .addresses
                .iter()
                .all(|own| every.addresses.contains(own))
        );
        assert!(found.addresses.iter().all(IpAddr::is_loopback), "{found:?}");
        assert!(!found.addresses.is_empty());
    }
}
