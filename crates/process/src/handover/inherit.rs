//! The taking side: adopts the files that a predecessor or the service manager has left open for
//! us.

use std::{
    fs::File,
    io::{self, Read, Seek, Write},
    net::SocketAddr,
    os::{
        fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd},
        unix::fs::FileTypeExt,
    },
    path::Path,
    sync::Arc,
};

use edgeway_gateway::ListenAddress;
use edgeway_net::unix_socket::SocketFiles;
use log::{debug, info, warn};
use rustix::{
    io::{Errno, FdFlags, fcntl_getfd, fcntl_setfd},
    net::sockopt::socket_acceptconn,
};
use serde_json::{Map, Value};
use socket2::SockRef;

use super::{HandoverManifest, SuccessorReport, Upgrades, VARIABLE};
use crate::upgrade::SOCKET_FILES;

/// Files and state passed to a process at its start, as both sides of a handover have them. Empty
/// after a fresh start.
#[derive(Debug, Default)]
pub struct InheritedState {
    /// Listening sockets by name: the address in the configuration, or a name set by another
    /// program.
    pub(crate) sockets: Vec<(String, OwnedFd)>,
    pub state: Map<String, Value>,
    /// Files of the predecessor's unix sockets, a part of the state.
    pub(crate) socket_files: SocketFiles,
    /// The reading ends of the reports of draining processes, for a successor including our own.
    pub predecessors: Vec<OwnedFd>,
    /// The writing end of the pipe that process 1 of a container reads.
    pub init: Option<OwnedFd>,
    /// The reading end of the pipe for the cache.
    pub cache: Option<OwnedFd>,
    /// Upgrades of the predecessors. For a successor this one is counted as successful: only then
    /// is there a successor to report it.
    pub upgrades: Upgrades,
    pub(crate) report: ReadinessReport,
}

/// Why the inheritance cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TakeError {
    #[error("{VARIABLE} cannot be read; it is for successors only: do not set it")]
    Letter(#[source] serde_json::Error),
    #[error("file {fd} of {VARIABLE} is not open; it is for successors only: do not set it")]
    Closed { fd: RawFd },
    #[error("cannot read the state left by a predecessor")]
    State(#[source] io::Error),
    #[error("cannot find the file of this program")]
    Launch(#[source] io::Error),
    #[error("cannot take the sockets that the service manager keeps")]
    Manager(#[source] io::Error),
}

impl InheritedState {
    /// Adopts the files named in the environment. Must be called once, before any file is opened.
    pub fn take() -> Result<Self, TakeError> {
        match std::env::var(VARIABLE) {
            Ok(letter) => {
                let letter = serde_json::from_str(&letter).map_err(TakeError::Letter)?;
                Self::open(&letter)
            }
            Err(_) => Self::from_manager(),
        }
    }

    fn open(letter: &HandoverManifest) -> Result<Self, TakeError> {
        // The report pipe comes first, so that problems with the rest can be reported.
        let report = ReadinessReport(Some(Arc::new(own(letter.ready)?.into())));
        let opened = Self::open_rest(letter, report.clone());
        if let Err(error) = &opened {
            report.refuses(&edgeway_base::error::chain(error));
        }
        opened
    }

    fn open_rest(letter: &HandoverManifest, report: ReadinessReport) -> Result<Self, TakeError> {
        let mut state = File::from(own(letter.state)?);
        let mut text = String::new();
        state
            .rewind()
            .and_then(|()| state.read_to_string(&mut text))
            .map_err(TakeError::State)?;
        let mut state: Map<String, Value> =
            serde_json::from_str(&text).map_err(|e| TakeError::State(e.into()))?;
        let socket_files = state.remove(SOCKET_FILES);
        let socket_files = socket_files.and_then(|files| serde_json::from_value(files).ok());
        let sockets: Result<_, _> = letter
            .sockets
            .iter()
            .map(|socket| Ok((socket.place.clone(), own(socket.fd)?)))
            .collect();
        let predecessors: Result<_, _> = letter.predecessors.iter().copied().map(own).collect();
        Ok(Self {
            sockets: listening(sockets?),
            state,
            socket_files: socket_files.unwrap_or_default(),
            predecessors: predecessors?,
            init: letter.init.map(own).transpose()?,
            cache: letter.cache.map(own).transpose()?,
            upgrades: letter.upgrades,
            report,
        })
    }

    /// Sockets that systemd stored for us (`FileDescriptorStoreMax=`), or opened for us (socket
    /// units).
    fn from_manager() -> Result<Self, TakeError> {
        let passed = sd_notify::listen_fds_with_names().map_err(TakeError::Manager)?;
        let sockets: Result<_, _> = passed.map(|(fd, name)| Ok((name, own(fd)?))).collect();
        Ok(Self {
            sockets: listening(sockets?),
            ..Self::default()
        })
    }

    /// Report of success or failure to the process that started us.
    pub fn report(&self) -> ReadinessReport {
        self.report.clone()
    }

    /// Returns true if a predecessor serves until we do.
    pub fn is_succession(&self) -> bool {
        self.report.0.is_some()
    }

    /// Takes the socket of this name or, if there is none, the one that listens at the address in
    /// `place`.
    pub fn socket(&mut self, place: &str) -> Option<OwnedFd> {
        // Without its path, no client can find a unix socket any more.
        let is_lost =
            |path| !std::fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket());
        if place.strip_prefix("unix:").is_some_and(is_lost) {
            return None;
        }
        let named = |(name, _): &(String, OwnedFd)| name_of(name) == name_of(place);
        let position = self.sockets.iter().position(named).or_else(|| {
            let address = place.parse().ok()?;
            let fits = |(_, socket): &(String, OwnedFd)| listens_at(socket, &address);
            self.sockets.iter().position(fits)
        })?;
        let (name, socket) = self.sockets.remove(position);
        debug!(name:%, place:%; "took over a listening socket");
        Some(socket)
    }

    /// Closes the sockets that no listener claimed, and returns their names. New connections to
    /// them are refused, once the service manager has closed them as well.
    pub fn close_rest(&mut self) -> Vec<String> {
        let names = self.sockets.drain(..).map(|(name, _)| {
            info!(name:%; "closed an inherited socket: no listener is at its address");
            name
        });
        names.collect()
    }
}

/// Name of a socket in systemd's store, which allows no colon. No other character is replaced.
pub(crate) fn name_of(place: &str) -> String {
    place.replace(':', "~")
}

/// Reports once whether we serve. Does nothing if no process started us.
#[derive(Clone, Debug, Default)]
pub struct ReadinessReport(Option<Arc<File>>);

impl ReadinessReport {
    pub fn serves(&self) {
        self.say(&SuccessorReport::Ready {
            ready: true,
            version: edgeway_base::VERSION.to_owned(),
        });
    }

    pub fn refuses(&self, error: &str) {
        self.say(&SuccessorReport::Refused {
            error: error.to_owned(),
        });
    }

    fn say(&self, report: &SuccessorReport) {
        let Some(pipe) = &self.0 else { return };
        let written = serde_json::to_vec(report)
            .map_err(io::Error::from)
            .and_then(|mut line| {
                line.push(b'\n');
                (&**pipe).write_all(&line)
            });
        if let Err(error) = written {
            warn!(error:%; "cannot tell the predecessor that we serve");
        }
    }
}

/// Takes ownership of a file left open for us, and hides it from programs that we start.
#[allow(unsafe_code, reason = "files come by number, from the environment")]
fn own(fd: RawFd) -> Result<OwnedFd, TakeError> {
    // Standard streams belong to the runtime.
    if fd <= 2 {
        return Err(TakeError::Closed { fd });
    }
    // SAFETY: this only checks that the file is open, before any other use.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    let is_open = fcntl_getfd(borrowed).and_then(|_| fcntl_setfd(borrowed, FdFlags::CLOEXEC));
    if is_open == Err(Errno::BADF) {
        return Err(TakeError::Closed { fd });
    }
    // SAFETY: it is open and named once. This is called before we open files of our own, so it has
    // no other owner.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Keeps the sockets that listen. Any other would never accept.
fn listening(sockets: Vec<(String, OwnedFd)>) -> Vec<(String, OwnedFd)> {
    let listens = |(name, socket): &(String, OwnedFd)| {
        let listens = socket_acceptconn(socket).unwrap_or(false);
        if !listens {
            warn!(name:%; "ignored an inherited file that is not a listening socket");
        }
        listens
    };
    sockets.into_iter().filter(listens).collect()
}

fn listens_at(socket: &OwnedFd, address: &ListenAddress) -> bool {
    let socket = SockRef::from(socket);
    let Ok(local) = socket.local_addr() else {
        return false;
    };
    let takes_both = || !socket.only_v6().unwrap_or(true);
    match (address, local.as_socket()) {
        (ListenAddress::Tcp(wanted), Some(local)) => {
            *wanted == local && !(local.is_ipv6() && takes_both())
        }
        (ListenAddress::All(port), Some(local)) => {
            let is_whole = match local {
                SocketAddr::V4(local) => local.ip().is_unspecified(),
                SocketAddr::V6(local) => local.ip().is_unspecified() && takes_both(),
            };
            is_whole && local.port() == *port
        }
        (ListenAddress::Unix { path, .. }, None) => local.as_pathname() == Some(path as &Path),
        (ListenAddress::Tcp(_) | ListenAddress::All(_), None)
        | (ListenAddress::Unix { .. }, Some(_)) => false,
    }
}

#[cfg(test)]
mod tests {
    use std::{
        net::TcpListener,
        os::{fd::IntoRawFd, unix::net::UnixListener},
    };

    use rustix::pipe::{PipeFlags, pipe_with};

    use super::{super::ManifestSocket, *};

    fn tcp() -> TcpListener {
        TcpListener::bind("127.0.0.1:0").unwrap()
    }

    fn state(text: &str) -> RawFd {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file.into_raw_fd()
    }

    fn address(text: &str) -> ListenAddress {
        text.parse().unwrap()
    }

    fn given(sockets: Vec<(&str, OwnedFd)>) -> InheritedState {
        let named = sockets.into_iter().map(|(n, fd)| (n.to_owned(), fd));
        InheritedState {
            sockets: listening(named.collect()),
            ..InheritedState::default()
        }
    }

    #[test]
    fn a_handover_manifest_is_read_and_acknowledged() {
        let (mut report_reader, report_writer) = pipe_with(PipeFlags::CLOEXEC)
            .map(|(read, write)| (File::from(read), write.into_raw_fd()))
            .unwrap();
        let socket = tcp();
        let port = socket.local_addr().unwrap().port();
        let letter = HandoverManifest {
            ready: report_writer,
            state: state(r#"{"web":{"down":true}}"#),
            sockets: vec![ManifestSocket {
                place: "127.0.0.1:0".into(),
                fd: socket.into_raw_fd(),
            }],
            ..HandoverManifest::default()
        };
        let mut inherited = InheritedState::open(&letter).unwrap();
        assert!(inherited.is_succession());
        assert_eq!(inherited.state["web"]["down"], true);
        let socket = inherited.socket("127.0.0.1:0").unwrap();
        assert!(fcntl_getfd(&socket).unwrap().contains(FdFlags::CLOEXEC));
        assert_eq!(TcpListener::from(socket).local_addr().unwrap().port(), port);
        assert!(inherited.socket("127.0.0.1:0").is_none());
        inherited.report().serves();
        drop(inherited);
        let mut report = String::new();
        report_reader.read_to_string(&mut report).unwrap();
        let version = env!("CARGO_PKG_VERSION");
        assert_eq!(
            report,
            format!("{{\"ready\":true,\"version\":\"{version}\"}}\n")
        );
    }

    #[test]
    fn an_invalid_handover_manifest_is_reported_to_the_predecessor() {
        let (mut report_reader, report_writer) = pipe_with(PipeFlags::CLOEXEC)
            .map(|(read, write)| (File::from(read), write.into_raw_fd()))
            .unwrap();
        let letter = HandoverManifest {
            ready: report_writer,
            state: state("no JSON"),
            ..HandoverManifest::default()
        };
        let error = InheritedState::open(&letter).unwrap_err();
        assert!(matches!(error, TakeError::State(_)), "{error}");
        let mut report = String::new();
        report_reader.read_to_string(&mut report).unwrap();
        assert!(report.contains("cannot read the state"), "{report}");
    }

    #[test]
    fn a_letter_of_an_older_or_newer_build_is_understood() {
        let text = r#"{"ready":5,"state":6,"sockets":[],"what_comes_later":1}"#;
        let letter: HandoverManifest = serde_json::from_str(text).unwrap();
        assert_eq!((letter.ready, letter.state), (5, 6));
        assert!(letter.predecessors.is_empty() && letter.init.is_none());
    }

    #[test]
    fn files_that_are_not_open_are_not_taken() {
        for fd in [-1, 0, 2, 1_000_000] {
            assert!(matches!(own(fd), Err(TakeError::Closed { .. })), "{fd}");
        }
    }

    #[test]
    fn sockets_are_found_by_name_and_then_by_address() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let (first, second) = (tcp(), tcp());
        let known = second.local_addr().unwrap();
        let mut inherited = given(vec![
            ("127.0.0.1~80", first.into()),
            ("http", second.into()),
            ("any", UnixListener::bind(&path).unwrap().into()),
        ]);
        assert!(inherited.socket("127.0.0.1:81").is_none());
        assert!(inherited.socket("127.0.0.1:80").is_some());
        assert!(inherited.socket("127.0.0.1:80").is_none());
        assert!(inherited.socket(&known.to_string()).is_some());
        let unix = format!("unix:{}", path.display());
        assert!(inherited.socket(&unix).is_some());
        assert!(inherited.sockets.is_empty());
    }

    #[test]
    fn a_unix_socket_without_its_path_is_bound_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let place = format!("unix:{}", path.display());
        let mut inherited = given(vec![(&place, UnixListener::bind(&path).unwrap().into())]);
        std::fs::remove_file(&path).unwrap();
        assert!(inherited.socket(&place).is_none());
    }

    #[test]
    fn a_socket_for_both_families_is_no_socket_for_one() {
        let both = |only_v6| {
            let socket =
                socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::STREAM, None).unwrap();
            socket.set_only_v6(only_v6).unwrap();
            let any: SocketAddr = "[::]:0".parse().unwrap();
            socket.bind(&any.into()).unwrap();
            socket.listen(1).unwrap();
            let port = socket.local_addr().unwrap().as_socket().unwrap().port();
            (OwnedFd::from(socket), port)
        };
        let (socket, port) = both(false);
        assert!(listens_at(&socket, &ListenAddress::All(port)));
        assert!(!listens_at(&socket, &address(&format!("[::]:{port}"))));
        let (socket, port) = both(true);
        assert!(!listens_at(&socket, &ListenAddress::All(port)));
        assert!(listens_at(&socket, &address(&format!("[::]:{port}"))));
    }

    #[test]
    fn what_does_not_listen_is_left_alone() {
        let (read, _write) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let unbound = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
        let inherited = given(vec![("pipe", read), ("tcp", unbound.unwrap().into())]);
        assert!(inherited.sockets.is_empty());
    }
}
