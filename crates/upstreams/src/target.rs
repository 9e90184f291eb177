//! Addresses of backends, parsed from the configuration.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    str::FromStr,
};

use derive_more::Display;
use pingora::{Error, ErrorType, protocols::l4::socket::SocketAddr as PingoraAddress};

use crate::base::error::InvalidValue;

/// Address on which a backend listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Display)]
pub enum Target {
    Inet(SocketAddr),
    #[display("unix:{}", _0.display())]
    Unix(PathBuf),
}

impl Target {
    /// Returns the address in the form of Pingora's checks.
    pub(super) fn socket_address(&self) -> Option<PingoraAddress> {
        match self {
            Self::Inet(address) => Some(PingoraAddress::Inet(*address)),
            Self::Unix(path) => PingoraAddress::from_str(&format!("unix:{}", path.display())).ok(),
        }
    }
}

impl TryFrom<&PingoraAddress> for Target {
    type Error = Box<Error>;

    fn try_from(address: &PingoraAddress) -> Result<Self, Box<Error>> {
        match address {
            PingoraAddress::Inet(address) => Ok(Self::Inet(*address)),
            PingoraAddress::Unix(address) => match address.as_pathname() {
                Some(path) => Ok(Self::Unix(path.to_owned())),
                None => Error::e_explain(ErrorType::SocketError, "a unix socket without a path"),
            },
        }
    }
}

/// Parses `IP:PORT` or `unix:PATH`; fails with message and help.
pub(super) fn parse_target(text: &str) -> Result<Target, InvalidValue> {
    if let Some(path) = text.strip_prefix("unix:") {
        let target = Target::Unix(PathBuf::from(path));
        return if !path.starts_with('/') || path.contains('\0') {
            Err(InvalidValue::new(
                format!("invalid unix socket path `{text}`"),
                "write an absolute path, such as `unix:/run/app.sock`".to_owned(),
            ))
        } else if target.socket_address().is_none() {
            Err(InvalidValue::new(
                format!("unix socket path `{text}` is too long"),
                "write a path of at most 107 bytes",
            ))
        } else {
            Ok(target)
        };
    }
    let bare = without_scheme(text);
    if let Ok(address) = text.parse::<SocketAddr>() {
        return match (address.port(), address.ip().is_unspecified()) {
            (0, _) => Err(InvalidValue::new(
                format!("`{text}` has port 0, which nothing listens on"),
                "write the port that the app listens on".to_owned(),
            )),
            (_, true) => Err(InvalidValue::new(
                format!("`{text}` is an address to listen on, not one to connect to"),
                format!("write `127.0.0.1:{}` for this machine", address.port()),
            )),
            (_, false) => Ok(Target::Inet(address)),
        };
    }
    let message = format!("invalid backend address `{text}`");
    if let (true, Ok(address)) = (bare != text, bare.parse::<SocketAddr>()) {
        return Err(InvalidValue::new(
            message,
            format!("write `{address}`, without scheme and path"),
        ));
    }
    // The last group of `::1:3000` is a port, as people mean it.
    let split = bare.rsplit_once(':').and_then(|(ip, port)| {
        let is_port = port.len() > 3 && port.bytes().all(|byte| byte.is_ascii_digit());
        let ip = ip.parse::<Ipv6Addr>().ok().filter(|_| is_port)?;
        Some(SocketAddr::new(ip.into(), port.parse().ok()?))
    });
    if let Some(address) = split {
        return Err(InvalidValue::new(message, format!("write `{address}`")));
    }
    if let Ok(ip) = bare.parse::<IpAddr>() {
        let example = SocketAddr::new(ip, 3000);
        return Err(InvalidValue::new(
            message,
            format!("the port is missing: write `{example}`"),
        ));
    }
    match parse_name(bare) {
        Ok((name, port)) if name == "localhost" => Err(InvalidValue::new(
            message,
            format!("write `127.0.0.1:{port}`, or `[::1]:{port}`: `localhost` may be either"),
        )),
        Ok((name, port)) => Err(InvalidValue::new(
            message,
            format!("for a name write `{{ dns: \"{name}:{port}\" }}`"),
        )),
        Err(_) => Err(InvalidValue::new(
            message,
            "write `IP:PORT`, `unix:PATH` or `{ dns: \"NAME:PORT\" }`".to_owned(),
        )),
    }
}

/// Returns the address part of a URL such as `http://127.0.0.1:3000/x`.
fn without_scheme(text: &str) -> &str {
    let rest = ["http://", "https://"]
        .iter()
        .find_map(|scheme| text.strip_prefix(scheme));
    match rest {
        Some(rest) => rest.split('/').next().unwrap_or(rest),
        None => text,
    }
}

/// Parses `NAME:PORT`; fails with message and help.
pub(super) fn parse_name(text: &str) -> Result<(String, u16), InvalidValue> {
    let is_address = text.parse::<SocketAddr>().is_ok() || text.parse::<IpAddr>().is_ok();
    if is_address {
        return Err(InvalidValue::new(
            format!("`{text}` is an address, not a name to look up"),
            format!("write `- {text}` instead of `- {{ dns: … }}`"),
        ));
    }
    let (name, port) = text.rsplit_once(':').ok_or_else(|| {
        InvalidValue::new(
            format!("`{text}` has no port"),
            format!("write `{{ dns: \"{text}:3000\" }}`"),
        )
    })?;
    let port = port.parse().ok().filter(|port| *port != 0);
    let port = port.ok_or_else(|| {
        InvalidValue::new(
            format!("`{text}` does not end in a port"),
            "write `NAME:PORT` with a port from 1 to 65535".to_owned(),
        )
    })?;
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    let bare = name.strip_suffix('.').unwrap_or(name);
    if bare.len() > 253 || !bare.split('.').all(is_label) {
        return Err(InvalidValue::new(
            format!("invalid host name `{name}`"),
            "write letters, digits and hyphens, with dots between, such as `api.internal`"
                .to_owned(),
        ));
    }
    Ok((name.to_ascii_lowercase(), port))
}
