//! Admin endpoints for operators, and the token that protects them.

use std::{net::SocketAddr, path::PathBuf};

use edgeway_base::secret::Secret;
use edgeway_config::tree::Spanned;

use super::compile::Compiler;

/// Length limit of a token; shorter ones can be guessed.
const MIN_TOKEN_LEN: usize = 16;

/// Admin listener.
#[derive(Clone, Debug, Default)]
pub struct Admin {
    pub address: Option<SocketAddr>,
    /// True if the configuration does not say which address it is.
    pub has_usual_address: bool,
    pub socket: AdminSocket,
    /// Token that clients must send. It is always set if `address` is not a loopback address.
    pub token: Option<Secret>,
}

/// Location of the admin socket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AdminSocket {
    /// Default location, which commands look in too: it depends on machine and user.
    #[default]
    Usual,
    At(PathBuf),
    Off,
}

impl Compiler<'_> {
    pub(super) fn admin(&mut self) -> Admin {
        let file = self.file;
        let config = &file.admin;
        let socket = match &config.socket {
            None => AdminSocket::Usual,
            Some(socket) if socket.value.as_os_str() == "off" => AdminSocket::Off,
            Some(socket) => AdminSocket::At(self.folder.join(&socket.value)),
        };
        Admin {
            has_usual_address: config.address.is_none(),
            address: self.admin_address(),
            socket,
            token: self.admin_token(),
        }
    }

    fn admin_address(&mut self) -> Option<SocketAddr> {
        let config = &self.file.admin;
        let Some(Spanned { value, place }) = &config.address else {
            return Some(SocketAddr::from(([127, 0, 0, 1], 9900)));
        };
        if value == "off" {
            return None;
        }
        match value.parse::<SocketAddr>() {
            Ok(address) if address.ip().is_loopback() || config.token.is_some() => Some(address),
            Ok(_) => self.at(*place, "edgeway::admin::not_loopback").refuse(
                format!("the admin listener on `{value}` would be open to others"),
                "add a `token` beside it, such as `token: file:admin.token`, or write a \
                 loopback address such as `127.0.0.1:9900`",
            ),
            Err(_) => self.at(*place, "edgeway::admin::address").refuse(
                format!("invalid address `{value}`"),
                "write `IP:PORT` such as `127.0.0.1:9900`, or `off`",
            ),
        }
    }

    fn admin_token(&mut self) -> Option<Secret> {
        let Spanned { value, place } = self.file.admin.token.clone()?;
        let token = value.reveal();
        let problem = if token.len() < MIN_TOKEN_LEN {
            format!(
                "the admin token has {} characters, at least {MIN_TOKEN_LEN} are needed",
                token.chars().count()
            )
        } else if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            "the admin token has characters that are not allowed in a header".to_owned()
        } else {
            return Some(value);
        };
        self.at(place, "edgeway::admin::token").refuse(
            problem,
            "`openssl rand -hex 32 > admin.token` makes one; then write `token: file:admin.token`",
        )
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::AdminSocket;
    use crate::{World, compile, load_text};

    fn messages(admin: &str) -> Vec<String> {
        let yaml = format!(
            "listeners: [{{ address: 127.0.0.1:8080 }}]\nroutes: [{{ match: {{}}, respond: ok }}]\n\
             admin: {admin}\n"
        );
        let loaded = load_text("t.yaml", &yaml);
        let file = loaded.file.unwrap();
        let (gateway, diagnostics) = compile(&file, Path::new("."), &World::default());
        assert_eq!(gateway.is_some(), diagnostics.list().is_empty());
        if let Some(gateway) = gateway {
            let printed = crate::print::yaml(&file, &gateway, &[]);
            assert!(!printed.contains("0123456789"), "{printed}");
            assert!(!format!("{:?}", gateway.admin).contains("0123456789"));
        }
        let problems = diagnostics.list().iter();
        problems
            .map(|d| format!("{}; {}", d.message, d.help.clone().unwrap_or_default()))
            .collect()
    }

    #[test]
    fn other_machines_need_a_token() {
        assert_eq!(messages("{ address: 127.0.0.1:9900 }"), [""; 0]);
        assert_eq!(
            messages("{ address: 0.0.0.0:9900, token: 0123456789abcdef }"),
            [""; 0]
        );
        assert_eq!(
            messages("{ address: 0.0.0.0:9900 }"),
            [
                "the admin listener on `0.0.0.0:9900` would be open to others; add a `token` \
                 beside it, such as `token: file:admin.token`, or write a loopback address such \
                 as `127.0.0.1:9900`"
            ]
        );
    }

    #[test]
    fn there_is_a_socket_unless_it_is_off() {
        let socket = |admin: &str| {
            let yaml = format!(
                "listeners: [{{ address: 127.0.0.1:8080 }}]\n\
                 routes: [{{ match: {{}}, respond: ok }}]\n{admin}"
            );
            let file = load_text("t.yaml", &yaml).file.unwrap();
            let (gateway, _) = compile(&file, Path::new("/etc"), &World::default());
            gateway.unwrap().admin.socket
        };
        assert_eq!(socket(""), AdminSocket::Usual);
        assert_eq!(socket("admin: { address: off }"), AdminSocket::Usual);
        assert_eq!(socket("admin: { socket: off }"), AdminSocket::Off);
        let at = AdminSocket::At("/etc/a.sock".into());
        assert_eq!(socket("admin: { socket: a.sock }"), at);
    }

    #[test]
    fn a_token_is_long_and_fits_a_header() {
        let help = "`openssl rand -hex 32 > admin.token` makes one; then write `token: \
                    file:admin.token`";
        assert_eq!(
            messages("{ address: 0.0.0.0:9900, token: short }"),
            [format!(
                "the admin token has 5 characters, at least 16 are needed; {help}"
            )]
        );
        assert_eq!(
            messages("{ token: 'a token of many words' }"),
            [format!(
                "the admin token has characters that are not allowed in a header; {help}"
            )]
        );
    }
}
