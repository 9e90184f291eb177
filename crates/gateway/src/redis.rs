//! Checks the `redis:` section and creates its client, which is kept as long as the section is
//! unchanged.

use std::{path::Path, sync::Arc, time::Duration};

use edgeway_base::{named_file, secret::Secret};
use edgeway_config::{
    diagnostic::Place,
    model::{RedisConfig, RedisMode, RedisTlsConfig, SentinelConfig},
    tree::Spanned,
};
use edgeway_core::zones::InUse;
use edgeway_net::redis::{Identity, Mode, Node, Redis, RedisSettings, Signer, Tls, Url};

use super::compile::Compiler;

const ZONE: &str = "redis";
const SENTINEL_PORT: u16 = 26_379;
const MIN_TIMEOUT: Duration = Duration::from_millis(2);
const MAX_TIMEOUT: Duration = Duration::from_secs(1);
const CONNECTIONS: std::ops::RangeInclusive<u32> = 1..=64;

/// Result of `url`, `nodes` or `sentinel`.
struct RedisTarget {
    mode: Mode,
    nodes: Vec<Node>,
    /// Credentials in the URL.
    identity: Identity,
    database: u16,
    /// Use of TLS; `None` where only `tls` decides.
    is_tls: Option<bool>,
}

impl Compiler<'_> {
    /// Creates the client and provides it through [`edgeway_core::chain::Shared`].
    pub(super) fn redis(&mut self) -> Option<Arc<Redis>> {
        let Spanned { value, place } = self.file.redis.as_ref()?;
        let settings = self.checked(|own| own.redis_settings(value, *place))??;
        let world = self.world;
        let clients = world.zones.get_or_create(ZONE, InUse::<Redis>::default);
        let is_same = |client: &Redis| client.settings == settings;
        let redis = clients.get_or_create(is_same, || {
            let clock = world.clock.clone();
            Redis::new(
                settings.clone(),
                clock,
                &world.metrics,
                world.workers.clone(),
            )
        });
        self.shared.insert(Arc::clone(&redis));
        let supervised = Arc::clone(&redis);
        self.work
            .add_about("redis", &redis, move || Arc::clone(&supervised).supervise());
        Some(redis)
    }

    fn redis_settings(&mut self, config: &RedisConfig, place: Place) -> Option<RedisSettings> {
        let errors = self.diagnostics.errors();
        let target = self.redis_target(config, place);
        let timeout = config.timeout.value.0;
        if !(MIN_TIMEOUT..=MAX_TIMEOUT).contains(&timeout) {
            self.at(config.timeout.place, "edgeway::redis::timeout")
                .error(
                    format!("`timeout: {}` is out of range", config.timeout.value),
                    "every request that asks Redis may wait this long: write from `2ms` to `1s`, \
                     such as `20ms`",
                );
        }
        if !CONNECTIONS.contains(&config.connections.value) {
            self.at(config.connections.place, "edgeway::redis::connections")
                .error(
                    format!(
                        "`connections: {}` is out of range",
                        config.connections.value
                    ),
                    "write a number from 1 to 64; commands share connections, so 2 are plenty",
                );
        }
        let prefix = &config.prefix.value;
        let is_odd = |c: char| c.is_control() || c.is_whitespace() || "{}".contains(c);
        if prefix.is_empty() || prefix.len() > 64 || prefix.contains(is_odd) {
            self.at(config.prefix.place, "edgeway::redis::prefix")
                .error(
                    format!("invalid key prefix `{}`", prefix.escape_debug()),
                    "write from 1 to 64 characters without spaces and braces, such as `edgeway:`",
                );
        }
        let secrets = self.redis_secrets(config);
        let target = target?;
        let (mode, database) = (target.mode, target.database);
        let identity = self.redis_identity(config, target.identity);
        let tls = self.redis_tls(config.tls.as_ref(), target.is_tls);
        if matches!(mode, Mode::Cluster) && database != 0 {
            self.at(
                config.url.as_ref().map_or(place, |url| url.place),
                "edgeway::redis::database",
            )
            .error(
                format!("a cluster has no database {database}"),
                "leave the number out: a cluster has database 0 only",
            );
        }
        if self.diagnostics.errors() > errors {
            return None;
        }
        let settings = RedisSettings {
            mode,
            nodes: target.nodes,
            identity,
            database,
            tls,
            timeout,
            connections: config.connections.value.try_into().unwrap_or(1),
            prefix: prefix.clone(),
            signer: Signer::new(&secrets),
        };
        if let Err(error) = settings.check() {
            return self
                .at(
                    config.tls.as_ref().map_or(place, |tls| tls.place),
                    "edgeway::redis::tls",
                )
                .refuse(
                    format!("cannot connect with these settings: {error}"),
                    "check the files of `tls`: certificates and keys in PEM",
                );
        }
        Some(settings)
    }

    fn redis_target(&mut self, config: &RedisConfig, place: Place) -> Option<RedisTarget> {
        const WAYS: &str = "write one of `url: redis://127.0.0.1:6379`, `mode: cluster` with \
                            `nodes: [HOST:PORT, …]`, or `sentinel: { master: NAME, nodes: [HOST:PORT, …] }`";
        let mode = config.mode.as_ref();
        let mode_of = |is_cluster: bool| {
            if is_cluster {
                Mode::Cluster
            } else {
                Mode::Single
            }
        };
        match (&config.url, &config.nodes[..], &config.sentinel) {
            (Some(url), [], None) => {
                let parsed: Result<Url, _> = url.value.reveal().parse();
                let parsed = match parsed {
                    Ok(parsed) => parsed,
                    Err(error) => {
                        let is_short = url.place == Place::default();
                        let place = if is_short { place } else { url.place };
                        return self.at(place, "edgeway::redis::url").refuse(
                            error.to_string(),
                            "write `redis://HOST:PORT`, `rediss://HOST:PORT` with TLS, or \
                             `unix:///PATH`; in a password write `@`, `/` and `:` as `%40`, `%2F` \
                             and `%3A`",
                        );
                    }
                };
                let is_cluster = mode.is_some_and(|mode| mode.value == RedisMode::Cluster);
                Some(RedisTarget {
                    mode: mode_of(is_cluster),
                    is_tls: Some(parsed.is_tls),
                    identity: parsed.identity,
                    database: parsed.database,
                    nodes: vec![parsed.node],
                })
            }
            (None, [first, more @ ..], None) => {
                let is_cluster = mode.map(|mode| mode.value == RedisMode::Cluster);
                if is_cluster != Some(true) && !(is_cluster == Some(false) && more.is_empty()) {
                    return self
                        .at(
                            mode.map_or(first.place, |mode| mode.place),
                            "edgeway::redis::mode",
                        )
                        .refuse(
                            "`nodes` is for a cluster",
                            "add `mode: cluster`; for one machine write `url`, for sentinels \
                             `sentinel`",
                        );
                }
                let nodes = self.redis_nodes(&config.nodes, RedisSettings::PORT)?;
                Some(RedisTarget {
                    mode: mode_of(is_cluster == Some(true)),
                    nodes,
                    identity: Identity::default(),
                    database: 0,
                    is_tls: None,
                })
            }
            (None, [], Some(sentinel)) => {
                if let Some(mode) = mode {
                    return self
                        .at(mode.place, "edgeway::redis::mode")
                        .refuse("`mode` does not go with `sentinel`", "remove `mode`");
                }
                self.redis_sentinel(sentinel)
            }
            (url, nodes, sentinel) => {
                let message = match (url, nodes, sentinel) {
                    (None, [], None) => "`redis` has no address",
                    _ => "`redis` has more than one address",
                };
                let code = "edgeway::redis::address";
                self.at(place, code).refuse(message, WAYS)
            }
        }
    }

    fn redis_sentinel(
        &mut self,
        Spanned { value, place }: &Spanned<SentinelConfig>,
    ) -> Option<RedisTarget> {
        if value.master.value.is_empty() || value.nodes.is_empty() {
            return self.at(*place, "edgeway::redis::sentinel").refuse(
                "`sentinel` needs addresses and the name of the master",
                "write `sentinel: { master: NAME, nodes: [HOST:26379, …] }`",
            );
        }
        let nodes = self.redis_nodes(&value.nodes, SENTINEL_PORT)?;
        let identity = Identity {
            user: value.username.clone(),
            password: value.password.clone(),
        };
        if identity.user.is_some() && identity.password.is_none() {
            self.no_password("edgeway::redis::sentinel", *place);
        }
        Some(RedisTarget {
            mode: Mode::Sentinel {
                master: value.master.value.clone(),
                identity,
            },
            nodes,
            identity: Identity::default(),
            database: 0,
            is_tls: None,
        })
    }

    fn redis_nodes(&mut self, written: &[Spanned<String>], port: u16) -> Option<Vec<Node>> {
        let mut nodes = Vec::with_capacity(written.len());
        for Spanned { value, place } in written {
            match Node::parse(value, port) {
                Ok(node) => nodes.push(node),
                Err(error) => self
                    .at(*place, "edgeway::redis::address")
                    .error(error.to_string(), "write `HOST:PORT`"),
            }
        }
        (nodes.len() == written.len()).then_some(nodes)
    }

    /// Returns the gateway's credentials, from the URL or from the keys beside it.
    fn redis_identity(&mut self, config: &RedisConfig, url: Identity) -> Identity {
        let mut twice = |place, key: &str| {
            self.at(place, "edgeway::redis::identity").error(
                format!("`{key}` is also in the URL"),
                "write it in one of the two places",
            );
        };
        if let (Some(user), Some(_)) = (&config.username, &url.user) {
            twice(user.place, "username");
        }
        if let (Some(password), Some(_)) = (&config.password, &url.password) {
            twice(password.place, "password");
        }
        let value = |password: &Spanned<Secret>| password.value.clone();
        let identity = Identity {
            user: url
                .user
                .or(config.username.as_ref().map(|u| u.value.clone())),
            password: url.password.or(config.password.as_ref().map(value)),
        };
        if identity.user.is_some() && identity.password.is_none() {
            let written = config.username.as_ref().map(|user| user.place);
            let place = written.or(config.url.as_ref().map(|url| url.place));
            self.no_password("edgeway::redis::identity", place.unwrap_or_default());
        }
        identity
    }

    fn no_password(&mut self, code: &'static str, place: Place) {
        self.at(place, code).error(
            "a user without a password",
            "add `password: file:PATH` or `${NAME}`",
        );
    }

    fn redis_tls(
        &mut self,
        config: Option<&Spanned<RedisTlsConfig>>,
        url: Option<bool>,
    ) -> Option<Tls> {
        let Some(Spanned { value, place }) = config else {
            return (url == Some(true)).then(Tls::default);
        };
        if url.is_some_and(|is_tls| is_tls != value.enabled) {
            let (scheme, other) = if value.enabled {
                ("redis", "rediss")
            } else {
                ("rediss", "redis")
            };
            self.at(*place, "edgeway::redis::tls").error(
                format!("`tls` contradicts `{scheme}://`"),
                format!("write the URL with `{other}://`, or remove `tls`"),
            );
        }
        if !value.enabled {
            return None;
        }
        if value.insecure {
            self.at(*place, "edgeway::redis::insecure").warn(
                "the certificate of Redis is not verified",
                "write `tls: { ca: FILE }` with the CA certificate that signed it",
            );
        }
        let certificate = match (&value.cert, &value.key) {
            (None, None) => None,
            (Some(cert), Some(key)) => {
                let cert = self.redis_file(&cert.value, cert.place);
                let key = self.redis_file(&key.value, key.place);
                let key = key.map(|key| Secret::new(String::from_utf8_lossy(&key)));
                cert.zip(key)
            }
            (Some(one), None) | (None, Some(one)) => {
                self.at(one.place, "edgeway::redis::tls").refuse(
                    "a certificate and its key go together",
                    "write both `cert` and `key`, or neither",
                )
            }
        };
        let ca = value.ca.as_ref();
        Some(Tls {
            ca: ca.and_then(|ca| self.redis_file(&ca.value, ca.place)),
            certificate,
            insecure: value.insecure,
        })
    }

    fn redis_file(&mut self, written: &Path, place: Place) -> Option<Vec<u8>> {
        // Secrets beside it are written as `file:PATH`.
        let path = written.to_str().and_then(|path| path.strip_prefix("file:"));
        let path = path.map_or(written, Path::new);
        let whole = self.folder.join(path);
        self.referenced.missed(whole.clone());
        match named_file::read(&whole, named_file::MAX_LEN) {
            Ok(content) => Some(content),
            Err(error) => self.at(place, "edgeway::redis::tls").refuse(
                format!("cannot read `{}`: {error}", path.display()),
                "write the path of a file in PEM, from the folder of the configuration",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Gateway, World, compile, load_text};

    fn gateway(section: &str, world: &World) -> (Option<Gateway>, Vec<String>) {
        let yaml = format!(
            "listeners: [{{ address: 127.0.0.1:8080 }}]\nroutes: [{{ match: {{}}, respond: ok }}]\n\
             redis: {section}\n"
        );
        let loaded = load_text("t.yaml", &yaml);
        let problems = format!("{:?}", loaded.diagnostics);
        let file = loaded.file.unwrap_or_else(|| panic!("{problems}"));
        let (gateway, diagnostics) = compile(&file, Path::new("."), world);
        let messages = diagnostics.list().iter();
        let messages = messages
            .map(|d| format!("{}: {}", d.code, d.message))
            .collect();
        (gateway, messages)
    }

    #[track_caller]
    fn settings(section: &str) -> RedisSettings {
        let (gateway, messages) = gateway(section, &World::default());
        let gateway = gateway.unwrap_or_else(|| panic!("{messages:?}"));
        gateway.redis.unwrap().settings.clone()
    }

    #[test]
    fn the_short_form_is_a_url() {
        let short = settings("redis://127.0.0.1:7001");
        assert_eq!(short, settings("{ url: redis://127.0.0.1:7001 }"));
        assert_eq!(short.address(), "127.0.0.1:7001");
        assert_eq!(short.timeout, Duration::from_millis(20));
        assert_eq!((short.connections, &*short.prefix), (2, "edgeway:"));
    }

    #[test]
    fn there_are_three_modes() {
        let cluster = settings("{ mode: cluster, nodes: [a:1, b] }");
        assert_eq!(cluster.mode, Mode::Cluster);
        assert_eq!(cluster.address(), "a:1,b:6379");
        let sentinel = settings(
            "{ sentinel: { master: m, nodes: [a, 'b:2'], password: x }, username: u, password: y }",
        );
        assert_eq!(sentinel.mode.name(), "sentinel");
        assert_eq!(sentinel.address(), "m by a:26379,b:2");
        assert_eq!(sentinel.identity.user.as_deref(), Some("u"));
        let through = settings("{ url: rediss://a:1, mode: cluster }");
        assert_eq!((through.mode, through.tls.is_some()), (Mode::Cluster, true));
    }

    #[test]
    fn an_impossible_section_is_reported_with_its_reason() {
        for (section, expected) in [
            ("{}", "edgeway::redis::address: `redis` has no address"),
            (
                "{ url: redis://a, nodes: [b], mode: cluster }",
                "edgeway::redis::address: `redis` has more than one address",
            ),
            (
                "{ nodes: [a, b] }",
                "edgeway::redis::mode: `nodes` is for a cluster",
            ),
            (
                "{ mode: cluster, nodes: ['a b'] }",
                "edgeway::redis::address: invalid Redis address `a b`",
            ),
            (
                "http://u:hunter2@a",
                "edgeway::redis::url: invalid Redis URL",
            ),
            (
                "{ url: redis://a/1, mode: cluster }",
                "edgeway::redis::database: a cluster has no database 1",
            ),
            (
                "{ url: 'redis://u:hunter2@a', username: v }",
                "edgeway::redis::identity: `username` is also in the URL",
            ),
            (
                "{ url: redis://a, username: v }",
                "edgeway::redis::identity: a user without a password",
            ),
            (
                "{ url: redis://a, tls: true }",
                "edgeway::redis::tls: `tls` contradicts `redis://`",
            ),
            (
                "{ url: rediss://a, tls: { cert: c.pem } }",
                "edgeway::redis::tls: a certificate and its key go together",
            ),
            (
                "{ url: rediss://a, tls: { ca: nowhere.pem } }",
                "edgeway::redis::tls: cannot read `nowhere.pem`: No such file or directory (os error 2)",
            ),
            (
                "{ url: redis://a, timeout: 1min }",
                "edgeway::redis::timeout: `timeout: 1min` is out of range",
            ),
            (
                "{ url: redis://a, connections: 0 }",
                "edgeway::redis::connections: `connections: 0` is out of range",
            ),
            (
                "{ url: redis://a, prefix: '{x}' }",
                "edgeway::redis::prefix: invalid key prefix `{x}`",
            ),
        ] {
            let (gateway, messages) = gateway(section, &World::default());
            assert_eq!(messages, [expected], "{section}");
            assert!(gateway.is_none(), "{section}");
        }
        let (gateway, messages) = gateway(
            "{ url: rediss://a, tls: { insecure: true } }",
            &World::default(),
        );
        assert_eq!(
            messages,
            ["edgeway::redis::insecure: the certificate of Redis is not verified"]
        );
        assert!(gateway.is_some());
    }

    #[test]
    fn the_client_is_retained_as_long_as_the_section_is_the_same() {
        let world = World::default();
        let client = |section: &str| {
            world.zones.begin();
            let (gateway, _) = gateway(section, &world);
            world.zones.settle();
            gateway.unwrap().redis.unwrap()
        };
        let first = client("redis://a");
        assert!(Arc::ptr_eq(&first, &client("{ url: redis://a }")));
        let other = client("{ url: redis://a, prefix: 'other:' }");
        assert!(!Arc::ptr_eq(&first, &other));
    }
}
