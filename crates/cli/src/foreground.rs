//! Gateways that a developer starts in a terminal (`proxy`, `dev`, `demo`): they serve a text that
//! is no file, end with the terminal, and explain an address that is taken.

use std::{
    fmt::Write as _,
    io,
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::net::UnixStream,
    path::PathBuf,
    time::Duration,
};

use edgeway_base::{error, listening, system};
use edgeway_config::{scalar::quoted, source::Sources};
use edgeway_gateway as gateway;
use edgeway_process::{
    boot::{self, BootError, BootOptions, Hangup},
    handover::LaunchState,
};
use edgeway_status::admin_socket;

use super::{Failure, check, out};

/// Time limit for a connection to an app on this machine.
const CONNECT: Duration = Duration::from_millis(300);
/// Address of the admin listener if a configuration sets none.
pub const ADMIN: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9900);

/// A configuration that is no file.
pub struct Foreground<'a> {
    /// Name of the configuration in messages.
    pub name: &'a str,
    pub yaml: &'a str,
    /// Lines to print once the gateway serves.
    pub hello: Vec<String>,
}

/// Takes what the process was started with. Must be called once, before any file is opened.
pub fn launched() -> Result<LaunchState, Failure> {
    LaunchState::of_this_process().map_err(|error| error::chain(&error).into())
}

/// Serves until a stop signal. Problems are printed.
pub fn serve(birth: LaunchState, served: Foreground<'_>) -> Result<(), Failure> {
    let report = birth.inherited.report();
    let loaded = gateway::load_text(served.name, served.yaml);
    if !loaded.diagnostics.list().is_empty() {
        out::note(&check::report(&loaded));
    }
    let Some(file) = loaded.file else {
        report.refuses(&check::report(&loaded));
        return Err(Failure::CONFIG);
    };
    let outcome = boot::serve(BootOptions {
        birth,
        file,
        path: None,
        threads: None,
        hello: served.hello,
        sources: None,
        is_outdated: false,
        overlay: None,
        warn: check::note_of(&loaded.sources),
        hangup: hangup(),
        is_foreground: true,
    });
    ended(outcome, &loaded.sources, |message| {
        report.refuses(message);
        out::note(message);
    })
}

/// Ends the command of a gateway. `refuse` gets the reason why it could not be started.
pub fn ended(
    outcome: Result<u8, BootError>,
    sources: &Sources,
    refuse: impl FnOnce(&str),
) -> Result<(), Failure> {
    match outcome {
        Ok(status) => Failure::of_status(status),
        Err(BootError::Config { diagnostics }) => {
            refuse(&check::render(sources, &diagnostics));
            Err(Failure::CONFIG)
        }
        Err(error) => {
            refuse(&failure(&error));
            Err(Failure::FAILED)
        }
    }
}

/// Describes a failed start, with the remedy where an address is taken.
fn failure(error: &BootError) -> String {
    if error.is_admin() {
        return failure_of_file(error);
    }
    let mut message = format!("edgeway: {}", error::chain(error));
    let Some((address, holder)) = taken(error) else {
        return failure_of_file(error);
    };
    let port = address.port();
    let free = (port..port.saturating_add(100))
        .find(|port| TcpListener::bind(SocketAddr::new(address.ip(), *port)).is_ok());
    let other = free.map_or_else(String::new, |port| {
        let free = if address.ip().is_loopback() {
            port.to_string()
        } else {
            SocketAddr::new(address.ip(), port).to_string()
        };
        format!(", or use an address that is free: `--listen {free}`")
    });
    let _infallible = write!(message, "\nhelp: {holder}{other}");
    message
}

/// Describes the failed start of a configuration file, which has the addresses.
pub fn failure_of_file(error: &BootError) -> String {
    let mut message = format!("edgeway: {}", error::chain(error));
    if let Some((_, holder)) = taken(error) {
        let instead = if error.is_admin() {
            "or give this one another admin address: `admin: { address: 127.0.0.1:PORT }`, or `off`"
        } else {
            "or change the address in the file; a gateway that serves it already takes changes by \
             `edgeway reload`"
        };
        let _infallible = write!(message, "\nhelp: {holder}, {instead}");
    } else if let Some((address, kind)) = error.unbound_address() {
        message.push_str(&missing_right(&address, kind));
    }
    message
}

/// Returns the remedy for a port that this user may not listen on, or nothing for other reasons.
fn missing_right(address: &str, kind: io::ErrorKind) -> String {
    if kind != io::ErrorKind::PermissionDenied || address.starts_with("unix:") {
        return String::new();
    }
    let program = std::env::current_exe().unwrap_or_else(|_| "edgeway".into());
    format!(
        "\nhelp: ports below 1024 need a right, which the unit `edgeway.service` has: start that, \
         give the right to the program (`sudo setcap cap_net_bind_service=+ep {}`), or write \
         another port",
        program.display()
    )
}

/// Returns the address that another program has, and what to do with that program.
fn taken(error: &BootError) -> Option<(SocketAddr, String)> {
    let (address, kind) = error.unbound_address()?;
    if kind != io::ErrorKind::AddrInUse {
        return None;
    }
    let every = address.strip_prefix(':').map(|port| format!("[::]:{port}"));
    let address: SocketAddr = every.unwrap_or(address).parse().ok()?;
    let port = address.port();
    let holder = match holder(port) {
        Some(holder) => format!("{holder} listens there: end it"),
        None => format!("another program uses this port (`ss -tanp 'sport = :{port}'`): end it"),
    };
    Some((address, holder))
}

/// Returns what SIGHUP does: closing the terminal ends the gateway, unless `nohup` started it.
pub fn hangup() -> Hangup {
    if system::ignores_hangup() {
        Hangup::Reload
    } else {
        Hangup::Stop
    }
}

/// Returns true if a program accepts connections at this address.
pub fn listens(address: SocketAddr) -> bool {
    TcpStream::connect_timeout(&address, CONNECT).is_ok()
}

/// Returns the path of the admin socket for a gateway at `port`: the usual one, unless another
/// gateway listens there.
pub fn admin_socket(port: u16) -> PathBuf {
    let usual = admin_socket::usual();
    if UnixStream::connect(&usual).is_ok() {
        usual.with_file_name(format!("gateway-{port}.sock"))
    } else {
        usual
    }
}

/// Returns true if this is the usual path of the admin socket.
pub fn is_usual(socket: &std::path::Path) -> bool {
    socket == admin_socket::usual()
}

/// Returns the usual address of the admin listener, or `off` if another program has it.
pub fn admin_address() -> String {
    match TcpListener::bind(ADMIN) {
        Ok(_) => ADMIN.to_string(),
        Err(_) => "off".to_owned(),
    }
}

/// Returns the `admin` section for a gateway beside others: empty if no other gateway of this
/// machine uses the usual places.
pub fn admin_section(port: u16) -> String {
    let socket = admin_socket(port);
    if socket != admin_socket::usual() {
        return format!(
            "# Another gateway has the usual admin socket.\n\
             admin: {{ address: off, socket: {} }}\n",
            quoted(&socket.display().to_string())
        );
    }
    match admin_address().as_str() {
        "off" => format!("# Another program has {ADMIN}.\nadmin: {{ address: off }}\n"),
        _ => String::new(),
    }
}

/// Returns the program that listens on a TCP port of this machine, as far as this user may see.
pub fn holder(port: u16) -> Option<String> {
    let process = *listening::processes(&[port]).get(&port)?.first()?;
    Some(format!("`{}` (process {})", process.name()?, process.pid))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_at_a_port_is_found() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let pid = std::process::id().to_string();
        assert!(holder(port).unwrap().contains(&pid));
        drop(listener);
        assert_eq!(holder(port), None);
    }

    #[test]
    fn a_port_that_needs_a_right_has_a_remedy() {
        let denied = missing_right(":80", io::ErrorKind::PermissionDenied);
        assert!(
            denied.contains("setcap cap_net_bind_service=+ep /"),
            "{denied}"
        );
        // No right of ports opens a folder.
        assert_eq!(
            missing_right("unix:/a", io::ErrorKind::PermissionDenied),
            ""
        );
        assert_eq!(missing_right(":80", io::ErrorKind::AddrNotAvailable), "");
    }
}
