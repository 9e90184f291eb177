//! Validated connection settings of Redis, and their conversion for the `redis` crate.

use std::{fmt, future::poll_fn, path::PathBuf, str::FromStr, task::Poll, time::Duration};

use edgeway_base::secret::Secret;
use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, ConnectionAddr, ConnectionInfo, ErrorKind,
    IntoConnectionInfo, ProtocolVersion, RedisConnectionInfo, RedisError, TlsCertificates, TlsMode,
    cluster::ClusterClient,
    sentinel::{SentinelClient, SentinelClientBuilder, SentinelServerType},
};
use tokio::time::timeout;

use super::Signer;

/// Time after which the client of a cluster gives up on one node and looks for another.
const NODE_TIMEOUT: Duration = Duration::from_millis(300);
/// Time for a sentinel to name the master, and for the master to confirm that it is one.
const SENTINEL_TIMEOUT: Duration = Duration::from_secs(1);
/// Commands that may be queued per connection; further ones wait for space in the queue.
const QUEUE_LEN: usize = 1024;
const PORT: u16 = 6379;

/// All settings of the client. Equal settings mean the same Redis, and the same keys in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisSettings {
    pub mode: Mode,
    /// The instance in [`Mode::Single`]; the nodes to contact first in a cluster; else the
    /// sentinels.
    pub nodes: Vec<Node>,
    pub identity: Identity,
    pub database: u16,
    /// TLS to Redis and to sentinels, if present.
    pub tls: Option<Tls>,
    /// Longest wait for any command.
    pub timeout: Duration,
    pub connections: usize,
    /// Prefix of every key.
    pub prefix: String,
    /// Signs data that gateways trust from one another. `None`: they share no such data.
    pub signer: Option<Signer>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    Single,
    Cluster,
    Sentinel {
        /// Name of the primary at the sentinels.
        master: String,
        /// Credentials for the sentinels themselves.
        identity: Identity,
    },
}

impl Mode {
    pub fn name(&self) -> &'static str {
        match self {
            Self::Single => "single",
            Self::Cluster => "cluster",
            Self::Sentinel { .. } => "sentinel",
        }
    }
}

/// Credentials sent to Redis.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    pub user: Option<String>,
    pub password: Option<Secret>,
}

/// Address of an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    Tcp { host: String, port: u16 },
    Unix(PathBuf),
}

/// Verification of the peer, and our client certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// CA certificates in PEM; those of the system if absent.
    pub ca: Option<Vec<u8>>,
    /// Client certificate and its key in PEM.
    pub certificate: Option<(Vec<u8>, Secret)>,
    /// True if certificates are not verified.
    pub insecure: bool,
}

/// Settings contained in a URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    pub node: Node,
    pub is_tls: bool,
    pub identity: Identity,
    pub database: u16,
}

/// Reason why a setting is invalid. Never repeats a URL, which may hold a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SettingsError(String);

impl FromStr for Url {
    type Err = SettingsError;

    fn from_str(text: &str) -> Result<Self, SettingsError> {
        let no_url = || SettingsError("invalid Redis URL".to_owned());
        let url = redis::parse_redis_url(text).ok_or_else(no_url)?;
        if url.fragment().is_some() || url.query().is_some() {
            return Err(SettingsError(
                "a Redis URL has no query and no fragment".to_owned(),
            ));
        }
        let info = url.into_connection_info().map_err(|error| {
            let detail = error.detail().unwrap_or_default();
            SettingsError(format!("{}{detail}", no_url()))
        })?;
        let (node, is_tls) = match info.addr() {
            ConnectionAddr::Tcp(host, port) => (tcp(host, *port), false),
            ConnectionAddr::TcpTls { host, port, .. } => (tcp(host, *port), true),
            ConnectionAddr::Unix(path) => (Node::Unix(path.clone()), false),
            _ => return Err(no_url()),
        };
        let redis = info.redis_settings();
        Ok(Self {
            node,
            is_tls,
            identity: Identity {
                user: redis.username().map(str::to_owned),
                password: redis.password().map(Secret::new),
            },
            database: u16::try_from(redis.db())
                .map_err(|_| SettingsError(format!("invalid database number {}", redis.db())))?,
        })
    }
}

fn tcp(host: &str, port: u16) -> Node {
    let host = host.to_owned();
    Node::Tcp { host, port }
}

impl Node {
    /// Parses `HOST:PORT`, `[::1]:PORT`, or either without a port, which is then `usual_port`.
    pub fn parse(text: &str, usual_port: u16) -> Result<Self, SettingsError> {
        let wrong = || SettingsError(format!("invalid Redis address `{text}`"));
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
                (host, port.parse().map_err(|_| wrong())?)
            }
            _ => (text, usual_port),
        };
        let host = match host.strip_prefix('[').map(|rest| rest.strip_suffix(']')) {
            Some(Some(inner)) if inner.contains(':') => inner,
            Some(_) => return Err(wrong()),
            None => host,
        };
        let is_odd = |c: char| !(c.is_ascii_alphanumeric() || "-._:%".contains(c));
        if host.is_empty() || host.contains(is_odd) || port == 0 {
            return Err(wrong());
        }
        Ok(tcp(host, port))
    }

    fn address(&self, tls: Option<&Tls>) -> ConnectionAddr {
        match (self, tls) {
            (Self::Unix(path), _) => ConnectionAddr::Unix(path.clone()),
            (Self::Tcp { host, port }, None) => ConnectionAddr::Tcp(host.clone(), *port),
            (Self::Tcp { host, port }, Some(tls)) => ConnectionAddr::TcpTls {
                host: host.clone(),
                port: *port,
                insecure: tls.insecure,
                tls_params: None,
            },
        }
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A client that opens connections.
pub(super) enum ClientFactory {
    Single(Box<Client>),
    Cluster(Box<ClusterClient>),
    /// A client for each sentinel.
    Sentinels(Vec<SentinelClient>),
}

impl ClientFactory {
    /// Returns the instance to connect to; `None` for a cluster. With sentinels it is the master
    /// that most of them name: one that is cut off from the others may name an old master, which
    /// may take writes, and one that hangs delays none. Of two that as many name it is `current`.
    pub(super) async fn instance(
        &mut self,
        current: Option<&ConnectionAddr>,
    ) -> Result<Option<Client>, RedisError> {
        let sentinels = match self {
            Self::Single(client) => return Ok(Some(client.as_ref().clone())),
            Self::Cluster(_) => return Ok(None),
            Self::Sentinels(sentinels) => sentinels,
        };
        let half = sentinels.len() / 2;
        let asked = sentinels.iter_mut();
        let asked = asked.map(|sentinel| timeout(SENTINEL_TIMEOUT, sentinel.async_get_client()));
        let mut asked: Vec<_> = asked.map(Box::pin).collect();
        let mut named: Vec<(Client, usize)> = Vec::new();
        let mut failed = (ErrorKind::Io, "no sentinel responds").into();
        while !asked.is_empty() && named.iter().all(|(_, votes)| *votes <= half) {
            let first = poll_fn(|cx| {
                let polled = asked.iter_mut().enumerate();
                let mut polled = polled.map(|(nth, one)| one.as_mut().poll(cx).map(|it| (nth, it)));
                polled.find(Poll::is_ready).unwrap_or(Poll::Pending)
            });
            let (nth, reply) = first.await;
            drop(asked.swap_remove(nth));
            match reply {
                Ok(Ok(master)) => match named.iter_mut().find(|(n, _)| at(n) == at(&master)) {
                    Some((_, votes)) => *votes += 1,
                    None => named.push((master, 1)),
                },
                Ok(Err(error)) => failed = error,
                Err(_elapsed) => {}
            }
        }
        let elected = named
            .into_iter()
            .max_by_key(|(n, votes)| (*votes, current == Some(at(n))));
        elected.map(|(master, _)| Some(master)).ok_or(failed)
    }
}

/// Returns the address of an instance.
pub(super) fn at(instance: &Client) -> &ConnectionAddr {
    instance.get_connection_info().addr()
}

impl RedisSettings {
    /// Default port of Redis.
    pub const PORT: u16 = PORT;

    /// Returns the address, without credentials.
    pub fn address(&self) -> String {
        let nodes: Vec<String> = self.nodes.iter().map(ToString::to_string).collect();
        let nodes = nodes.join(",");
        match &self.mode {
            Mode::Sentinel { master, .. } => format!("{master} by {nodes}"),
            Mode::Single | Mode::Cluster => nodes,
        }
    }

    /// Checks that a client can be built from these settings: this finds invalid certificates.
    pub fn check(&self) -> Result<(), SettingsError> {
        match self.maker() {
            Ok(_) => Ok(()),
            Err(error) => Err(SettingsError(error.to_string())),
        }
    }

    pub(super) fn maker(&self) -> Result<ClientFactory, RedisError> {
        match &self.mode {
            Mode::Single => {
                let node = self
                    .nodes
                    .first()
                    .ok_or((ErrorKind::InvalidClientConfig, "no address to connect to"))?;
                let info = self.info(node)?;
                let client = match (&self.tls, node) {
                    (Some(tls), Node::Tcp { .. }) => {
                        Client::build_with_tls(info, tls.certificates())?
                    }
                    _ => Client::open(info)?,
                };
                Ok(ClientFactory::Single(Box::new(client)))
            }
            Mode::Cluster => {
                let infos: Result<Vec<_>, _> = self.nodes.iter().map(|n| self.info(n)).collect();
                let mut builder = ClusterClient::builder(infos?)
                    .use_protocol(ProtocolVersion::RESP3)
                    .connection_timeout(NODE_TIMEOUT)
                    // The deadline of a command ends it.
                    .response_timeout(NODE_TIMEOUT.max(self.timeout))
                    .retries(2)
                    .min_retry_wait(2)
                    .max_retry_wait(50);
                if let Some(tls) = &self.tls {
                    builder = builder.tls(tls.mode()).certs(tls.certificates());
                }
                Ok(ClientFactory::Cluster(Box::new(builder.build()?)))
            }
            Mode::Sentinel { master, identity } => {
                let sentinels = self.nodes.iter();
                let sentinels = sentinels.map(|node| self.sentinel(node, master, identity));
                let sentinels: Result<Vec<_>, _> = sentinels.collect();
                Ok(ClientFactory::Sentinels(sentinels?))
            }
        }
    }

    /// Returns a client of one sentinel.
    fn sentinel(
        &self,
        node: &Node,
        master: &str,
        identity: &Identity,
    ) -> Result<SentinelClient, RedisError> {
        let node = [node.address(self.tls.as_ref())];
        let mut builder = SentinelClientBuilder::new(node, master, SentinelServerType::Master)?
            .set_client_to_redis_protocol(ProtocolVersion::RESP3)
            .set_client_to_redis_db(self.database.into());
        if let Some(user) = &self.identity.user {
            builder = builder.set_client_to_redis_username(user);
        }
        if let Some(password) = &self.identity.password {
            builder = builder.set_client_to_redis_password(password.reveal());
        }
        if let Some(user) = &identity.user {
            builder = builder.set_client_to_sentinel_username(user);
        }
        if let Some(password) = &identity.password {
            builder = builder.set_client_to_sentinel_password(password.reveal());
        }
        if let Some(tls) = &self.tls {
            builder = builder
                .set_client_to_redis_tls_mode(tls.mode())
                .set_client_to_redis_certificates(tls.certificates())
                .set_client_to_sentinel_tls_mode(tls.mode())
                .set_client_to_sentinel_certificates(tls.certificates());
        }
        builder.build()
    }

    fn info(&self, node: &Node) -> Result<ConnectionInfo, RedisError> {
        let mut redis = RedisConnectionInfo::default()
            .set_protocol(ProtocolVersion::RESP3)
            .set_db(self.database.into());
        if let Some(user) = &self.identity.user {
            redis = redis.set_username(user);
        }
        if let Some(password) = &self.identity.password {
            redis = redis.set_password(password.reveal());
        }
        let info = node.address(self.tls.as_ref()).into_connection_info()?;
        Ok(info.set_redis_settings(redis))
    }
}

/// Turns off the crate's own deadlines, because this module sets them.
pub(super) fn connection_config() -> AsyncConnectionConfig {
    AsyncConnectionConfig::new()
        .set_connection_timeout(None)
        .set_response_timeout(None)
        .set_pipeline_buffer_size(QUEUE_LEN)
}

impl Tls {
    fn mode(&self) -> TlsMode {
        if self.insecure {
            TlsMode::Insecure
        } else {
            TlsMode::Secure
        }
    }

    fn certificates(&self) -> TlsCertificates {
        let certificate = self.certificate.as_ref();
        TlsCertificates {
            client_tls: certificate.map(|(certificate, key)| ClientTlsConfig {
                client_cert: certificate.clone(),
                client_key: key.reveal().as_bytes().to_vec(),
            }),
            root_cert: self.ca.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_has_the_user_the_address_and_the_transport() {
        let url: Url = "rediss://alice:p%40ss@cache.internal:7000/3"
            .parse()
            .unwrap();
        assert_eq!(
            url,
            Url {
                node: tcp("cache.internal", 7000),
                is_tls: true,
                identity: Identity {
                    user: Some("alice".to_owned()),
                    password: Some(Secret::new("p@ss")),
                },
                database: 3,
            }
        );
        let url: Url = "redis://127.0.0.1".parse().unwrap();
        assert_eq!(url.node, tcp("127.0.0.1", 6379));
        let url: Url = "redis://[::1]:1".parse().unwrap();
        assert_eq!(url.node.to_string(), "[::1]:1");
        let url: Url = "unix:///run/redis.sock".parse().unwrap();
        assert_eq!(url.node, Node::Unix("/run/redis.sock".into()));
    }

    #[test]
    fn an_invalid_url_is_refused_without_repeating_it() {
        for text in [
            "127.0.0.1:6379",
            "http://u:hunter2@h/",
            "redis://u:hunter2@h/x",
            "redis://u:hunter2@h/-1",
            "redis://u:hunter2@h/99999999",
            "redis://u:hunter2@h/0?protocol=resp2",
            "rediss://u:hunter2@h/0#insecure",
            "redis://u:hunter2@/",
        ] {
            let error = text.parse::<Url>().unwrap_err().to_string();
            assert!(!error.contains("hunter2"), "{text}: {error}");
        }
    }

    #[test]
    fn an_address_may_lack_the_port() {
        let node = |text| Node::parse(text, 7000).map(|node| node.to_string());
        assert_eq!(node("a:1").unwrap(), "a:1");
        assert_eq!(node("a").unwrap(), "a:7000");
        assert_eq!(node("[::1]:5").unwrap(), "[::1]:5");
        assert_eq!(node("::1").unwrap(), "[::1]:7000");
        for wrong in ["", ":1", "a:", "a:x", "a:0", "a b:1", "[::1", "redis://a:1"] {
            assert!(node(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn nothing_secret_is_printed() {
        let settings = RedisSettings {
            mode: Mode::Sentinel {
                master: "m".to_owned(),
                identity: Identity {
                    user: None,
                    password: Some(Secret::new("hunter3")),
                },
            },
            nodes: vec![tcp("a", 1), tcp("b", 2)],
            identity: Identity {
                user: Some("u".to_owned()),
                password: Some(Secret::new("hunter2")),
            },
            database: 0,
            tls: None,
            timeout: Duration::from_millis(20),
            connections: 2,
            prefix: "p:".to_owned(),
            signer: Signer::new(&[Secret::new("hunter4")]),
        };
        assert!(!format!("{settings:?}").contains("hunter"));
        assert_eq!(settings.address(), "m by a:1,b:2");
    }
}
