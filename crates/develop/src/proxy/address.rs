//! Addresses as people type them: `3000`, `localhost:3000`, `https://api.internal`, `unix:/run/a`.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
};

use derive_more::Display;
use edgeway_config::scalar::quoted;
use url::{Host, Url};

/// An app's address.
#[derive(Clone, Debug, PartialEq, Eq, Display)]
pub(crate) enum AppAddress {
    /// A port of this machine, by IPv4 or IPv6: frameworks differ in what `localhost` is.
    #[display("localhost:{_0}")]
    Local(u16),
    Ip(SocketAddr),
    #[display("{}{name}:{port}", if *tls { "https://" } else { "" })]
    Name {
        name: String,
        port: u16,
        /// True for `https://`.
        tls: bool,
    },
    #[display("unix:{_0}")]
    Unix(String),
}

const APP_HELP: &str = "write a port such as `3000`, `HOST:PORT`, `http://HOST:PORT` or \
                        `unix:/path/of.sock`";

const LISTEN_HELP: &str =
    "write a port such as `8080`, `IP:PORT`, or `:PORT` for all addresses of this machine";

const NO_PORT: &str = "ports are numbers from 1 to 65535";

impl FromStr for AppAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return match path {
                "" => Err(format!("no path after `unix:`; {APP_HELP}")),
                path => Ok(Self::Unix(path.to_owned())),
            };
        }
        if let Ok(address) = text.parse::<SocketAddr>() {
            return match address.port() {
                0 => Err(format!("no app listens on port 0; {APP_HELP}")),
                _ => Ok(Self::Ip(address)),
            };
        }
        let bare = text.strip_prefix(':').unwrap_or(text);
        if let Some(port) = port(bare) {
            return Ok(Self::Local(port));
        }
        if is_number(bare) {
            return Err(format!("{NO_PORT}; {APP_HELP}"));
        }
        let (url, is_url) = if text.contains("://") {
            (text.to_owned(), true)
        } else {
            (format!("http://{text}"), false)
        };
        let unknown = |why: &str| format!("{why}; {APP_HELP}");
        let url = Url::parse(&url).map_err(|error| unknown(&error.to_string()))?;
        let tls = match url.scheme() {
            "http" => false,
            "https" => true,
            other => return Err(unknown(&format!("unknown scheme `{other}`"))),
        };
        let is_address = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
        if !is_address || !url.username().is_empty() || url.password().is_some() {
            return Err(unknown("an app's address has neither path nor user"));
        }
        // `url` omits the scheme's own port. Without a scheme, a port must be written.
        let written = url.port().or_else(|| {
            let ends = text
                .trim_end_matches('/')
                .ends_with(if tls { ":443" } else { ":80" });
            (is_url || ends).then_some(if tls { 443 } else { 80 })
        });
        let port = written.ok_or_else(|| unknown("no port"))?;
        if port == 0 {
            return Err(unknown("no app listens on port 0"));
        }
        match url.host() {
            Some(Host::Domain("localhost")) if !tls => Ok(Self::Local(port)),
            Some(Host::Domain(name)) => Ok(Self::Name {
                name: name.to_owned(),
                port,
                tls,
            }),
            Some(_) if tls => Err(
                "with `https://` a name is needed, which the certificate is for; \
                 for an address write a file with `tls: { name: … }` (docs/upstreams.md)"
                    .to_owned(),
            ),
            // `url` reads the `3000` of `3000:8080` as 0.0.11.184.
            Some(Host::Ipv4(ip)) if !text.contains(&ip.to_string()) => {
                Err(unknown("the host is a number"))
            }
            Some(Host::Ipv4(ip)) => Ok(Self::Ip((ip, port).into())),
            Some(Host::Ipv6(ip)) => Ok(Self::Ip((ip, port).into())),
            None => Err(unknown("no host")),
        }
    }
}

impl AppAddress {
    /// Returns the address to connect to, if no name has to be resolved. `listens` tells if a
    /// program accepts connections at an address.
    pub(super) fn socket(&self, listens: impl Fn(SocketAddr) -> bool) -> Option<SocketAddr> {
        match self {
            Self::Local(port) => {
                let both = [
                    SocketAddr::from((Ipv4Addr::LOCALHOST, *port)),
                    SocketAddr::from((Ipv6Addr::LOCALHOST, *port)),
                ];
                Some(both.into_iter().find(|at| listens(*at)).unwrap_or(both[0]))
            }
            Self::Ip(address) => Some(*address),
            Self::Name { .. } | Self::Unix(_) => None,
        }
    }

    /// Returns the address as an item of `backends`. The app may come later, at either address of
    /// `localhost`.
    pub(super) fn backend(&self, listens: impl Fn(SocketAddr) -> bool) -> String {
        match (self, self.socket(&listens)) {
            (Self::Local(port), Some(address)) if !listens(address) => {
                format!("127.0.0.1:{port}, {{ address: \"[::1]:{port}\", backup: true }}")
            }
            (_, Some(address)) if address.is_ipv4() => address.to_string(),
            (_, Some(address)) => format!("\"{address}\""),
            (Self::Name { name, port, .. }, _) => {
                format!("{{ dns: {} }}", quoted(&format!("{name}:{port}")))
            }
            (Self::Unix(path), _) => quoted(&format!("unix:{path}")),
            (Self::Local(_) | Self::Ip(_), None) => String::new(),
        }
    }
}

/// An address for the gateway itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ListenAddress {
    At(SocketAddr),
    /// Every address of the machine.
    All(u16),
}

impl FromStr for ListenAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(port) = port(text) {
            return Ok(Self::local(port));
        }
        if let Some(port) = text.strip_prefix(':').and_then(port) {
            return Ok(Self::All(port));
        }
        if let Some(port) = text.strip_prefix("localhost:").and_then(port) {
            return Ok(Self::local(port));
        }
        match text.parse::<SocketAddr>() {
            Ok(address) if address.port() != 0 => Ok(Self::At(address)),
            _ if is_number(text.strip_prefix(':').unwrap_or(text)) => {
                Err(format!("{NO_PORT}; {LISTEN_HELP}"))
            }
            _ => Err(LISTEN_HELP.to_owned()),
        }
    }
}

impl ListenAddress {
    /// Returns the port on this machine's own address, which no other machine reaches.
    pub(crate) fn local(port: u16) -> Self {
        Self::At((Ipv4Addr::LOCALHOST, port).into())
    }

    pub(crate) fn port(self) -> u16 {
        match self {
            Self::At(address) => address.port(),
            Self::All(port) => port,
        }
    }

    /// Returns the address as the configuration writes it.
    pub(crate) fn written(self) -> String {
        match self {
            Self::At(address) if address.is_ipv4() => address.to_string(),
            Self::At(address) => format!("\"{address}\""),
            Self::All(port) => format!("\":{port}\""),
        }
    }

    /// Returns the host to type into a browser on this machine.
    pub(crate) fn host(self) -> String {
        let local = || "localhost".to_owned();
        match self {
            Self::At(address) => match address.ip() {
                ip if ip == Ipv4Addr::LOCALHOST || ip == Ipv6Addr::LOCALHOST => local(),
                ip if ip.is_unspecified() => local(),
                IpAddr::V4(ip) => ip.to_string(),
                IpAddr::V6(ip) => format!("[{ip}]"),
            },
            Self::All(_) => local(),
        }
    }

    /// Returns true if a connection to `address` would reach this listener.
    pub(super) fn takes(self, address: SocketAddr) -> bool {
        match self {
            Self::At(own) => {
                let is_wildcard = own.ip().is_unspecified()
                    && own.is_ipv4() == address.is_ipv4()
                    && is_here(address);
                own.port() == address.port() && (own.ip() == address.ip() || is_wildcard)
            }
            Self::All(port) => port == address.port() && is_here(address),
        }
    }
}

/// Returns true for an address that is surely of this machine. A connection to 0.0.0.0 or [::]
/// reaches it too.
fn is_here(address: SocketAddr) -> bool {
    address.ip().is_loopback() || address.ip().is_unspecified()
}

/// Reads a port other than 0. Only digits: `+80` is a typing mistake.
fn port(text: &str) -> Option<u16> {
    let port = is_number(text).then(|| text.parse().ok())??;
    (port != 0).then_some(port)
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backend(text: &str) -> Result<String, String> {
        text.parse::<AppAddress>().map(|app| app.backend(|_| true))
    }

    #[test]
    fn an_app_is_named_in_the_ways_that_people_type() {
        for (text, expected) in [
            ("3000", "127.0.0.1:3000"),
            (":3000", "127.0.0.1:3000"),
            ("localhost:3000", "127.0.0.1:3000"),
            ("http://localhost:3000/", "127.0.0.1:3000"),
            ("http://localhost", "127.0.0.1:80"),
            ("127.0.0.2:3000", "127.0.0.2:3000"),
            ("http://10.0.0.7:80", "10.0.0.7:80"),
            ("[::1]:3000", "\"[::1]:3000\""),
            ("api.internal:5000", "{ dns: \"api.internal:5000\" }"),
            ("api.internal:80", "{ dns: \"api.internal:80\" }"),
            ("https://api.internal", "{ dns: \"api.internal:443\" }"),
            ("unix:/run/app.sock", "\"unix:/run/app.sock\""),
        ] {
            assert_eq!(backend(text).as_deref(), Ok(expected), "{text}");
        }
        for text in [
            "",
            "0",
            ":0",
            "65536",
            "+80",
            "api.internal",
            "127.0.0.1:0",
            "unix:",
            "ftp://a:1",
            "http://a:1/b",
            "http://u:p@a:1",
            "https://10.0.0.7",
            "a b:1",
            "http://a:1?x",
            // As for Docker, and a port out of range.
            "3000:8080",
            "99999:80",
            "http://0x7f.1:80",
        ] {
            let refused = backend(text).expect_err(text);
            assert!(refused.contains("write "), "{text}: {refused}");
        }
    }

    #[test]
    fn a_local_port_is_that_of_the_family_that_listens() {
        let app: AppAddress = "3000".parse().unwrap();
        assert_eq!(app.backend(|at| at.is_ipv6()), "\"[::1]:3000\"");
        assert_eq!(app.backend(|_| true), "127.0.0.1:3000");
        let later = "127.0.0.1:3000, { address: \"[::1]:3000\", backup: true }";
        assert_eq!(app.backend(|_| false), later);
    }

    #[test]
    fn the_gateway_listens_on_this_machine_by_default() {
        for (text, written, host) in [
            ("8081", "127.0.0.1:8081", "localhost"),
            ("localhost:8081", "127.0.0.1:8081", "localhost"),
            (":8081", "\":8081\"", "localhost"),
            ("0.0.0.0:80", "0.0.0.0:80", "localhost"),
            ("10.0.0.7:80", "10.0.0.7:80", "10.0.0.7"),
            ("[::1]:80", "\"[::1]:80\"", "localhost"),
        ] {
            let address: ListenAddress = text.parse().unwrap();
            assert_eq!(
                (address.written().as_str(), address.host().as_str()),
                (written, host)
            );
        }
        for text in ["", "0", "http", "shop.localhost:80", "127.0.0.1:0", "-1"] {
            assert!(text.parse::<ListenAddress>().is_err(), "{text}");
        }
        for text in ["99999", ":65536", "0"] {
            let refused = text.parse::<ListenAddress>().expect_err(text);
            assert!(refused.starts_with("ports are numbers from 1"), "{refused}");
            let refused = text.parse::<AppAddress>().expect_err(text);
            assert!(refused.starts_with("ports are numbers from 1"), "{refused}");
        }
    }

    #[test]
    fn a_gateway_in_front_of_itself_is_recognised() {
        for (listen, app, expected) in [
            ("3000", "127.0.0.1:3000", true),
            ("3000", "127.0.0.1:3001", false),
            (":3000", "[::1]:3000", true),
            (":3000", "127.0.0.1:3000", true),
            ("0.0.0.0:3000", "127.0.0.1:3000", true),
            ("0.0.0.0:3000", "127.0.0.2:3000", true),
            ("0.0.0.0:3000", "0.0.0.0:3000", true),
            ("0.0.0.0:3000", "[::1]:3000", false),
            ("[::]:3000", "[::1]:3000", true),
            ("0.0.0.0:3000", "10.0.0.7:3000", false),
            ("10.0.0.7:3000", "10.0.0.7:3000", true),
        ] {
            let listen: ListenAddress = listen.parse().unwrap();
            let app: SocketAddr = app.parse().unwrap();
            assert_eq!(listen.takes(app), expected, "{listen:?} {app}");
        }
    }
}
