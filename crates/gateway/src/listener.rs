//! Compiled listeners: their addresses, protocols and limits on clients.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use edgeway_base::{net::CidrSet, target::PathRule};
use edgeway_config::{
    diagnostic::{Diagnostic, Place},
    model::{Http2Config, LimitsConfig, ListenerConfig, ProxyProtocolConfig, UnderscoresConfig},
    presets,
    tree::Spanned,
};
use edgeway_tls as tls;

use super::{ListenAddress, compile::Compiler, metrics};

/// Socket that clients connect to.
#[derive(Clone, Debug)]
pub struct Listener {
    pub name: Arc<str>,
    pub address: ListenAddress,
    pub tls: Option<Arc<tls::Server>>,
    pub redirect: Option<ToHttps>,
    pub proxy_protocol: Option<ProxyProtocol>,
    pub http2: Http2Config,
    pub limits: LimitsConfig,
    pub underscores: UnderscoresConfig,
}

impl Listener {
    /// Returns true if both have the same socket: they are at the same address, whatever their names;
    /// where the system chooses the port, the names are the same.
    pub fn is_same(&self, other: &Self) -> bool {
        self.address.is_same(&other.address)
            && (!self.address.is_any_port() || self.name == other.name)
    }
}

/// Redirect of requests without TLS to HTTPS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToHttps {
    /// Public HTTPS port, as in the browser's address bar.
    pub port: u16,
    /// Paths that are served without TLS.
    pub except: Box<[PathRule]>,
}

impl ToHttps {
    /// Returns true if a request for `path` must be redirected. `*` is not a path to redirect to.
    pub fn takes(&self, path: &[u8]) -> bool {
        path.starts_with(b"/") && !self.except.iter().any(|except| except.takes(path))
    }
}

/// Requires connections to begin with the PROXY protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyProtocol {
    /// Networks that may connect at all.
    pub from: CidrSet,
    pub timeout: Duration,
}

/// Paths that are always served without TLS: ACME challenges (RFC 8555, 8.3), and the health checks
/// of load balancers.
const ALWAYS_PLAIN: [&str; 3] = ["/.well-known/acme-challenge/*", "/healthz", "/readyz"];

/// Describes a listener that cannot listen beside another one.
fn overlap(address: &ListenAddress, place: Place, other: &ListenAddress) -> Diagnostic {
    if address.is_same(other) {
        return Diagnostic::error(
            "edgeway::listener::twice",
            place,
            format!("two listeners for `{address}`"),
        )
        .help("remove one of them");
    }
    Diagnostic::error(
        "edgeway::listener::overlap",
        place,
        format!("`{address}` and `{other}` overlap: the system lets only one of them listen"),
    )
    .help(
        "remove one of them, or write each address in place of the one that stands for all; \
         routes can tell connections apart by `match: { listener: NAME }`",
    )
}

impl Compiler<'_> {
    pub(super) fn listeners(&mut self) -> Vec<Arc<Listener>> {
        let mut seen: Vec<(ListenAddress, Place)> = Vec::new();
        let mut listeners = Vec::new();
        let file = self.file;
        let https_port = self.https_port();
        for listener in &file.listeners {
            let config = &listener.value;
            let Some(address) = self.listen_address(config) else {
                continue;
            };
            let name = config.name.clone().unwrap_or_else(|| address.to_string());
            let name: Arc<str> = name.into();
            self.world.metrics.admit(metrics::LISTENER, &name);
            let place = config.address.place;
            if let Some((other, first)) = seen.iter().find(|(other, _)| other.overlaps(&address)) {
                self.diagnostics
                    .push(overlap(&address, place, other).related(*first, "the first one"));
                continue;
            }
            seen.push((address.clone(), place));
            let tls = config.tls.as_ref().and_then(|tls| {
                let world = self.world;
                let mut cx = self.cx(tls.place, "");
                tls::Server::compile(&name, tls, &config.http2, &world.zones, &mut cx)
            });
            self.require_tls(config);
            let is_unix = matches!(address, ListenAddress::Unix { .. });
            self.check_limits(config, is_unix);
            listeners.push(Arc::new(Listener {
                name,
                address,
                tls,
                redirect: self.redirect_of(config, https_port),
                proxy_protocol: self.proxy_protocol(config.proxy_protocol.as_ref(), is_unix),
                http2: config.http2.clone(),
                limits: config.limits.value.clone(),
                underscores: config.underscores,
            }));
        }
        listeners
    }

    /// Reports a listener over which a preset that requires TLS would serve plain HTTP.
    fn require_tls(&mut self, config: &ListenerConfig) {
        let Some(Spanned { value, place }) = &self.file.extends else {
            return;
        };
        let requires_tls = presets::find(&value.preset).is_some_and(|preset| preset.requires_tls);
        if !requires_tls || value.allow_http || config.tls.is_some() || config.redirect.is_some() {
            return;
        }
        let preset = &value.preset;
        let problem = Diagnostic::error(
            "edgeway::extends::plain_http",
            config.address.place,
            format!("`preset:{preset}` requires TLS, and this listener serves plain HTTP"),
        )
        .help(format!(
            "write `tls: {{ certificates: [{{ cert: FILE, key: FILE }}] }}` or \
             `tls: {{ acme: [NAME] }}`, or `redirect: https` where another listener has TLS; if a \
             proxy in front has it, write `extends: {{ preset: {preset}, allow_http: true }}`"
        ))
        .related(*place, "the preset");
        self.diagnostics.push(problem);
    }

    /// Reports a listener that has the address of the admin listener.
    pub(super) fn beside_admin(&mut self, listeners: &[Arc<Listener>], admin: Option<SocketAddr>) {
        let Some(address) = admin.map(ListenAddress::Tcp) else {
            return;
        };
        let file = self.file;
        let written = file.admin.address.as_ref().map(|address| address.place);
        for listener in listeners {
            if !listener.address.overlaps(&address) {
                continue;
            }
            let at = file.listeners.iter().map(|config| &config.value.address);
            let mut at = at.filter(|at| at.value.parse().ok() == Some(listener.address.clone()));
            let place = at.next().map(|at| at.place).unwrap_or_default();
            let mut problem = Diagnostic::error(
                "edgeway::listener::admin",
                place,
                format!(
                    "`{}` is also the address of the admin listener, `{address}`",
                    listener.address
                ),
            )
            .help(
                "write another port, or another `address` in `admin`, or `admin: { address: off }`",
            );
            if let Some(written) = written {
                problem = problem.related(written, "the admin listener");
            }
            self.diagnostics.push(problem);
        }
    }

    /// Returns the public HTTPS port: 443 if a listener with TLS has it, or if none has TLS.
    fn https_port(&self) -> u16 {
        let listeners = self.file.listeners.iter();
        let with_tls = listeners.filter(|listener| listener.value.tls.is_some());
        let ports: Vec<u16> = with_tls
            .filter_map(|it| it.value.address.value.parse::<ListenAddress>().ok()?.port())
            .collect();
        match ports.first() {
            Some(first) if !ports.contains(&443) => *first,
            _ => 443,
        }
    }

    fn redirect_of(&mut self, config: &ListenerConfig, port: u16) -> Option<ToHttps> {
        let Spanned { value, place } = config.redirect.as_ref()?;
        if config.tls.is_some() {
            return self.at(*place, "edgeway::listener::redirect").refuse(
                "this listener has `tls`: its clients already use HTTPS",
                "remove `redirect`, or write it at the listener without `tls`",
            );
        }
        let health = self.file.upstreams.iter().filter_map(|(_, upstream)| {
            let health = upstream.value.health.as_ref()?;
            let path = &health.value.path.as_ref()?.value;
            Some(path.split_once('?').map_or(path.as_str(), |(path, _)| path))
        });
        let known = ALWAYS_PLAIN.into_iter().chain(health);
        let mut except: Vec<PathRule> = known.filter_map(PathRule::parse).collect();
        for Spanned { value, place } in &value.except {
            let rule = PathRule::parse(value);
            if rule.is_none() {
                self.at(*place, "edgeway::listener::redirect").error(
                    format!("invalid path `{value}`"),
                    "write a path such as `/health`, or `/public/*` for all below it",
                );
            }
            except.extend(rule);
        }
        Some(ToHttps {
            port: value.port.unwrap_or(port),
            except: except.into(),
        })
    }

    fn proxy_protocol(
        &mut self,
        config: Option<&Spanned<ProxyProtocolConfig>>,
        is_unix: bool,
    ) -> Option<ProxyProtocol> {
        let config = config?;
        // The mode of a unix socket decides who may connect to it.
        if config.value.from.is_empty() && !is_unix {
            self.at(config.place, "edgeway::listener::proxy_protocol")
                .error(
                    "no client may send the PROXY protocol: no connection could be served",
                    "write the networks of the balancers, such as `[10.0.0.0/8]`",
                );
        }
        if config.value.timeout.0.is_zero() {
            self.at(config.place, "edgeway::listener::proxy_protocol")
                .error(
                    "`timeout: 0s` leaves the header no time: no connection could be served",
                    "write a time such as `3s`",
                );
        }
        let code = "edgeway::listener::proxy_protocol";
        Some(ProxyProtocol {
            from: self.networks(code, &config.value.from),
            timeout: config.value.timeout.0,
        })
    }

    fn listen_address(&mut self, config: &ListenerConfig) -> Option<ListenAddress> {
        let Spanned { value: text, place } = &config.address;
        let mut address: ListenAddress = match text.parse() {
            Ok(address) => address,
            Err(help) => {
                return self
                    .at(*place, "edgeway::listener::address")
                    .refuse(format!("invalid listen address `{text}`"), help);
            }
        };
        if let Some(Spanned { value, place }) = &config.mode {
            let parsed = u32::from_str_radix(value, 8).ok().filter(|m| *m <= 0o777);
            match (&mut address, parsed) {
                (ListenAddress::Unix { mode, .. }, Some(parsed)) => *mode = parsed,
                (ListenAddress::Unix { .. }, None) => {
                    self.at(*place, "edgeway::listener::mode").error(
                        format!("invalid file mode `{value}`"),
                        "write it in octal, such as `\"0660\"`",
                    );
                }
                _ => self.at(*place, "edgeway::listener::mode").error(
                    "`mode` is for unix sockets only",
                    "remove it, or listen on `unix:/PATH`",
                ),
            }
        }
        Some(address)
    }
}
