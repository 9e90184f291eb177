//! Lines to syslog in the form of RFC 5424: over a unix socket, UDP, or TCP with octet counting
//! (RFC 6587, 3.4.1).

use std::{
    io::{self, Write as _},
    net::{SocketAddr, TcpStream, ToSocketAddrs as _, UdpSocket},
    os::unix::net::UnixDatagram,
    path::PathBuf,
    process,
    str::FromStr,
    time::{Duration, SystemTime},
};

use chrono::{DateTime, SecondsFormat, Utc};
use derive_more::Display;

use super::output::FULL_QUEUE_WAIT;

/// Path of the local syslog.
const LOCAL: &str = "/dev/log";
/// Facility `local0`, severity `informational`.
const PRIORITY: u8 = 16 * 8 + 6;
/// Time for a server to accept a connection, or bytes.
const PATIENCE: Duration = Duration::from_secs(1);

/// Address of a syslog server.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Display)]
pub enum SyslogAddress {
    /// A datagram socket of this machine.
    #[display("syslog:unix:{}", _0.display())]
    Unix(PathBuf),
    /// Host and port.
    #[display("syslog:udp://{_0}")]
    Udp(String),
    /// Host and port.
    #[display("syslog:tcp://{_0}")]
    Tcp(String),
}

/// Error of an address that is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid address of a syslog server `{0}`")]
pub struct SyslogAddressError(String);

impl FromStr for SyslogAddress {
    type Err = SyslogAddressError;

    /// Parses `syslog`, `syslog:unix:PATH`, `syslog:udp://HOST:PORT` or `syslog:tcp://HOST:PORT`.
    fn from_str(text: &str) -> Result<Self, SyslogAddressError> {
        let error = || SyslogAddressError(text.to_owned());
        let host = |text: &str| {
            let (host, port) = text.rsplit_once(':').ok_or_else(error)?;
            let is_good = !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0);
            is_good.then(|| text.to_owned()).ok_or_else(error)
        };
        let Some(place) = text.strip_prefix("syslog").and_then(|rest| {
            if rest.is_empty() {
                Some("")
            } else {
                rest.strip_prefix(':')
            }
        }) else {
            return Err(error());
        };
        if place.is_empty() {
            return Ok(Self::Unix(LOCAL.into()));
        }
        if let Some(path) = place.strip_prefix("unix:") {
            let is_absolute = path.starts_with('/');
            return is_absolute
                .then(|| Self::Unix(path.into()))
                .ok_or_else(error);
        }
        if let Some(address) = place.strip_prefix("udp://") {
            return host(address).map(Self::Udp);
        }
        match place.strip_prefix("tcp://") {
            Some(address) => host(address).map(Self::Tcp),
            None => Err(error()),
        }
    }
}

/// An open connection to a syslog server.
pub(super) struct Syslog {
    host: String,
    socket: Socket,
}

enum Socket {
    Unix(UnixDatagram),
    Udp(UdpSocket),
    Tcp(TcpStream),
}

impl Syslog {
    pub(super) fn open(address: &SyslogAddress) -> io::Result<Self> {
        let socket = match address {
            SyslogAddress::Unix(path) => {
                let socket = UnixDatagram::unbound()?;
                socket.connect(path)?;
                socket.set_write_timeout(Some(FULL_QUEUE_WAIT))?;
                Socket::Unix(socket)
            }
            SyslogAddress::Udp(address) => {
                let to = resolve(address)?;
                let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                let socket = UdpSocket::bind(any)?;
                socket.connect(to)?;
                Socket::Udp(socket)
            }
            SyslogAddress::Tcp(address) => {
                let stream = TcpStream::connect_timeout(&resolve(address)?, PATIENCE)?;
                stream.set_write_timeout(Some(PATIENCE))?;
                Socket::Tcp(stream)
            }
        };
        let system = rustix::system::uname();
        let is_plain = |c: &char| c.is_ascii_graphic();
        let host: String = system
            .nodename()
            .to_string_lossy()
            .chars()
            .filter(is_plain)
            .take(255)
            .collect();
        Ok(Self {
            host: if host.is_empty() {
                "-".to_owned()
            } else {
                host
            },
            socket,
        })
    }

    /// Sends one line, without its end. A line that no datagram can carry is refused with
    /// `EMSGSIZE`. An error of TCP is never `WouldBlock`: the connection must be opened again,
    /// because part of the message may have been sent.
    pub(super) fn send(&mut self, kind: &str, line: &[u8], wall: SystemTime) -> io::Result<()> {
        let message = message(&self.host, kind, line, wall);
        match &mut self.socket {
            Socket::Unix(socket) => socket.send(&message).map(drop),
            Socket::Udp(socket) => match socket.send(&message) {
                // An earlier message found no server. There is no way to know about this one.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    socket.send(&message).map(drop)
                }
                sent => sent.map(drop),
            },
            Socket::Tcp(stream) => {
                let mut counted = format!("{} ", message.len()).into_bytes();
                counted.extend_from_slice(&message);
                stream.write_all(&counted).map_err(|error| {
                    // The time limit for writing, which Linux reports as EAGAIN.
                    if error.kind() == io::ErrorKind::WouldBlock {
                        io::Error::new(io::ErrorKind::TimedOut, error)
                    } else {
                        error
                    }
                })
            }
        }
    }
}

fn resolve(address: &str) -> io::Result<SocketAddr> {
    let first = address.to_socket_addrs()?.next();
    first.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no such host"))
}

/// Returns `<PRI>1 TIME HOST edgeway PID KIND - LINE`.
fn message(host: &str, kind: &str, line: &[u8], wall: SystemTime) -> Vec<u8> {
    let time = DateTime::<Utc>::from(wall).to_rfc3339_opts(SecondsFormat::Millis, true);
    let kind: String = kind.split_whitespace().collect::<Vec<_>>().join("-");
    let pid = process::id();
    let mut out = format!("<{PRIORITY}>1 {time} {host} edgeway {pid} {kind} - ").into_bytes();
    out.extend_from_slice(line);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_they_are_written() {
        for text in [
            "syslog:unix:/run/log",
            "syslog:udp://10.0.0.1:514",
            "syslog:tcp://[::1]:601",
            "syslog:tcp://logs.internal:601",
        ] {
            assert_eq!(text.parse::<SyslogAddress>().unwrap().to_string(), text);
        }
        let local = SyslogAddress::Unix(LOCAL.into());
        assert_eq!("syslog".parse::<SyslogAddress>(), Ok(local));
        for text in [
            "",
            "syslogs",
            "syslog:x",
            "syslog:unix:log",
            "syslog:udp://host",
            "syslog:tcp://:1",
            "syslog:udp://host:0",
            "syslog:udp://host:99999",
        ] {
            assert!(text.parse::<SyslogAddress>().is_err(), "{text}");
        }
    }
}
