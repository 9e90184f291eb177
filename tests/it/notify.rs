//! Messages to a service manager by the protocol of `sd_notify(3)`, and the sockets that it stores;
//! the test acts as the manager. `tests/systemd` has a real one.

use std::{
    io::IoSliceMut,
    mem::MaybeUninit,
    net::TcpListener,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::{
            net::{UnixDatagram, UnixListener},
            process::CommandExt,
        },
    },
    process::{Child, Command, Stdio},
    time::Duration,
};

use rustix::{
    io::fcntl_dupfd_cloexec,
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, recvmsg,
        sockopt::socket_acceptconn,
    },
    process::Signal,
};
use tempfile::TempDir;
use tokio::time::Instant;

use crate::support::{
    client::{self, get},
    gateway::Gateway,
    load::{Lanes, endless},
    ports::free_port,
    wait::{pass, wait_for},
};

const SOON: Duration = Duration::from_secs(10);

/// The manager's end of the notify socket.
struct Manager {
    socket: UnixDatagram,
    dir: TempDir,
    messages: Vec<Notification>,
}

/// Message of the gateway.
struct Notification {
    lines: Vec<String>,
    socket: Option<OwnedFd>,
}

impl Notification {
    fn has(&self, line: &str) -> bool {
        self.lines.iter().any(|l| l == line)
    }

    /// Returns the value of the line `key=value`.
    fn value(&self, key: &str) -> Option<&str> {
        let lines = &mut self.lines.iter();
        lines.find_map(|l| l.strip_prefix(key)?.strip_prefix('='))
    }
}

impl Manager {
    fn listen() -> Self {
        let dir = tempfile::tempdir().expect("a folder for the test can be made");
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(path).expect("the folder takes sockets");
        socket
            .set_nonblocking(true)
            .expect("an option of any socket");
        Self {
            socket,
            dir,
            messages: Vec::new(),
        }
    }

    fn path(&self) -> String {
        self.dir.path().join("notify").display().to_string()
    }

    fn receive(&mut self) {
        loop {
            let mut bytes = [0; 4096];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let received = recvmsg(
                &self.socket,
                &mut [IoSliceMut::new(&mut bytes)],
                &mut ancillary,
                RecvFlags::CMSG_CLOEXEC,
            );
            let Ok(received) = received else { return };
            assert!(!received.flags.contains(ReturnFlags::TRUNC));
            let socket = ancillary.drain().find_map(|message| match message {
                RecvAncillaryMessage::ScmRights(mut files) => files.next(),
                _ => None,
            });
            let text = String::from_utf8_lossy(&bytes[..received.bytes]).into_owned();
            self.messages.push(Notification {
                lines: text.lines().map(str::to_owned).collect(),
                socket,
            });
        }
    }

    /// Waits for the first message with this line and returns its index.
    async fn heard(&mut self, line: &str) -> usize {
        self.heard_after(line, 0).await
    }

    async fn heard_after(&mut self, line: &str, after: usize) -> usize {
        wait_for(&format!("{line} is reported"), SOON, async || {
            self.receive();
            let found = self.messages[after..]
                .iter()
                .position(|message| message.has(line))?;
            Some(after + found)
        })
        .await
    }

    /// Returns the sockets that the manager would pass to the next process.
    fn stored_sockets(&mut self) -> Vec<(String, OwnedFd)> {
        self.receive();
        let mut sockets: Vec<(String, OwnedFd)> = Vec::new();
        for message in self.messages.drain(..) {
            let name = message.value("FDNAME").unwrap_or_default().to_owned();
            if message.has("FDSTOREREMOVE=1") {
                sockets.retain(|(stored, _)| *stored != name);
            } else if message.has("FDSTORE=1") {
                sockets.push((name, message.socket.expect("a socket comes with it")));
            }
        }
        sockets
    }
}

fn config(listeners: &str) -> String {
    format!(
        "listeners: [{listeners}]\nroutes: [{{ match: {{ path: /* }}, respond: {{ status: 200, body: ok }} }}]\n"
    )
}

fn listener(port: u16, name: &str) -> String {
    format!("{{ address: \"127.0.0.1:{port}\", name: {name} }}")
}

#[tokio::test]
async fn the_manager_is_notified_of_start_reload_and_stop() {
    let mut manager = Manager::listen();
    let (a, b) = (free_port(), free_port());
    let both = config(&format!("{}, {}", listener(a, "a"), listener(b, "b")));
    let environment = [("NOTIFY_SOCKET", &*manager.path())];
    let mut gateway = Gateway::start_with(&both, &environment).await;
    let ready = manager.heard("READY=1").await;
    let status = manager.messages[ready].value("STATUS").unwrap();
    assert!(status.contains(&format!("127.0.0.1:{a}")), "{status}");

    // A reload is announced before and after, and the socket of a removed listener is not stored.
    assert!(gateway.reload(&config(&listener(a, "a"))).await);
    let reloading = manager.heard("RELOADING=1").await;
    assert!(reloading > ready);
    let since = manager.messages[reloading].value("MONOTONIC_USEC").unwrap();
    assert!(since.parse::<u64>().unwrap() > 0);
    let again = manager.heard_after("READY=1", reloading).await;
    let names: Vec<_> = manager.messages[reloading..=again]
        .iter()
        .filter(|message| message.has("FDSTOREREMOVE=1"))
        .filter_map(|message| message.value("FDNAME"))
        .collect();
    assert_eq!(names, [format!("127.0.0.1~{b}")]);

    // A refused reload is over, too.
    assert!(!gateway.reload("nonsense: 1\n").await);
    let refused = manager.heard_after("RELOADING=1", again).await;
    manager.heard_after("READY=1", refused).await;

    assert!(gateway.terminate(SOON).await.success());
    let stopping = manager.heard_after("STOPPING=1", refused).await;
    let extended = manager.messages[stopping]
        .value("EXTEND_TIMEOUT_USEC")
        .unwrap();
    assert!(extended.parse::<u64>().unwrap() >= 30_000_000, "{extended}");
    assert!(manager.messages[stopping + 1..].is_empty());
}

#[tokio::test]
async fn the_watchdog_is_fed_at_half_of_its_time() {
    let mut manager = Manager::listen();
    let path = manager.path();
    let environment = [("NOTIFY_SOCKET", &*path), ("WATCHDOG_USEC", "400000")];
    let _gateway = Gateway::start_with(&config(&listener(0, "a")), &environment).await;
    let first = manager.heard("WATCHDOG=1").await;
    let begun = Instant::now();
    let second = manager.heard_after("WATCHDOG=1", first + 1).await;
    manager.heard_after("WATCHDOG=1", second + 1).await;
    let took = begun.elapsed();
    assert!(took > Duration::from_millis(250) && took < SOON, "{took:?}");
}

/// A successor that waited for half of the time, as it would without an upgrade, could exceed all of
/// it: its predecessor may have fed the watchdog almost as long ago.
#[tokio::test]
async fn a_successor_feeds_the_watchdog_as_soon_as_it_is_the_main_process() {
    let mut manager = Manager::listen();
    let path = manager.path();
    // Half of it is longer than this test waits.
    let environment = [("NOTIFY_SOCKET", &*path), ("WATCHDOG_USEC", "600000000")];
    let mut gateway = Gateway::start_with(&config(&listener(0, "a")), &environment).await;
    manager.heard("WATCHDOG=1").await;
    for _ in 0..5 {
        gateway.upgrade().await;
        let named = manager.heard(&format!("MAINPID={}", gateway.pid())).await;
        manager.heard_after("WATCHDOG=1", named + 1).await;
    }
}

#[tokio::test]
async fn an_upgrade_names_the_new_main_process_which_then_speaks_for_itself() {
    let mut manager = Manager::listen();
    let (a, b) = (free_port(), free_port());
    let environment = [("NOTIFY_SOCKET", &*manager.path())];
    let mut gateway = Gateway::start_with(&config(&listener(a, "a")), &environment).await;
    manager.heard("READY=1").await;
    gateway.configure(&config(&format!(
        "{}, {}",
        listener(a, "a"),
        listener(b, "b")
    )));
    gateway.upgrade().await;
    let main = format!("MAINPID={}", gateway.pid());
    let named = manager.heard(&main).await;
    assert!(manager.messages[named].has("READY=1"));
    // Messages before it are not from the new process: systemd would ignore those.
    let b_name = format!("FDNAME=127.0.0.1~{b}");
    let at = manager.heard(&b_name).await;
    assert!(at > named);
    manager.heard_after("READY=1", at).await;
    assert!(gateway.terminate_newest(SOON).await);
    manager.heard_after("STOPPING=1", at).await;
}

/// Starts the gateway as systemd does: sockets from 3 on, and the variables that name them.
fn start(yaml: &str, dir: &TempDir, sockets: &[(String, OwnedFd)], notify: &str) -> Child {
    let file = dir.path().join("edgeway.yaml");
    std::fs::write(&file, yaml).expect("the folder takes files");
    let names: Vec<&str> = sockets.iter().map(|(name, _)| name.as_str()).collect();
    // Out of the way of the numbers that they get.
    let moved: Vec<OwnedFd> = sockets
        .iter()
        .map(|(_, fd)| fcntl_dupfd_cloexec(fd, 64).expect("numbers are left"))
        .collect();
    let sockets: Vec<i32> = moved.iter().map(AsRawFd::as_raw_fd).collect();
    let mut command = Command::new("/bin/sh");
    command
        .args(["-c", "LISTEN_PID=$$ exec \"$0\" \"$@\""])
        .arg(env!("CARGO_BIN_EXE_edgeway"))
        .args(["run", "-c"])
        .arg(&file)
        .env("NOTIFY_SOCKET", notify)
        .env("XDG_STATE_HOME", dir.path())
        .env("RUNTIME_DIRECTORY", dir.path().join("run"))
        .current_dir(dir.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    if !sockets.is_empty() {
        command
            .env("LISTEN_FDS", sockets.len().to_string())
            .env("LISTEN_FDNAMES", names.join(":"));
    }
    let place = move || {
        for (at, socket) in sockets.iter().enumerate() {
            // SAFETY: only numbers are passed; the parent holds the sockets open, and the child,
            // which is about to run a program, uses nothing at these numbers.
            #[allow(unsafe_code, reason = "systemd gives sockets by number")]
            let moved = unsafe { libc::dup2(*socket, 3 + i32::try_from(at).unwrap_or(0)) };
            if moved < 0 {
                return Err(std::io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: only system calls.
    #[allow(unsafe_code, reason = "systemd gives sockets by number")]
    unsafe {
        command.pre_exec(place);
    }
    command.spawn().expect("there is a shell")
}

#[tokio::test(flavor = "multi_thread")]
async fn stored_sockets_refuse_no_connection_over_a_crash_and_a_restart() {
    let mut manager = Manager::listen();
    let dir = tempfile::tempdir().unwrap();
    let port = free_port();
    let path = dir.path().join("web.sock");
    let yaml = config(&format!(
        "{}, {{ address: \"unix:{}\", name: local }}",
        listener(port, "web"),
        path.display()
    ));
    let yaml = format!("admin: {{ address: off, socket: off }}\n{yaml}");
    let to = ([127, 0, 0, 1], port).into();
    let mut child = start(&yaml, &dir, &[], &manager.path());
    manager.heard("READY=1").await;
    let mut sockets = manager.stored_sockets();
    let mut names: Vec<&str> = sockets.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    let unix = format!("unix~{}", path.display());
    assert_eq!(names, [&*format!("127.0.0.1~{port}"), &unix]);
    assert!(sockets.iter().all(|(_, fd)| socket_acceptconn(fd).unwrap()));

    let fresh = endless(to, 4, Lanes::Fresh, |_| get("/"));
    for signal in [Signal::KILL, Signal::TERM] {
        pass(Duration::from_millis(100)).await;
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, signal).unwrap();
        wait_for("it has ended", SOON, async || child.try_wait().unwrap()).await;
        // A client connects while no gateway runs.
        let asked = get("/");
        let waiting = client::send(to, &asked);
        let again = async {
            pass(Duration::from_millis(50)).await;
            manager.messages.clear();
            child = start(&yaml, &dir, &sockets, &manager.path());
        };
        let (response, ()) = tokio::join!(waiting, again);
        assert_eq!(response.unwrap().status(), 200);
        manager.heard("READY=1").await;
        // The path of the socket stays, so clients still reach the socket.
        assert!(std::os::unix::net::UnixStream::connect(&path).is_ok());
        assert_eq!(manager.stored_sockets().len(), 2);
    }
    pass(Duration::from_millis(100)).await;
    let tally = fresh.stop().await;
    child.kill().unwrap();
    child.wait().unwrap();
    sockets.clear();
    let refused: Vec<_> = tally
        .failed
        .iter()
        .filter(|f| f.contains("cannot connect"))
        .collect();
    assert!(refused.is_empty(), "{refused:?}");
    // Requests in flight at the kill are lost, and no others.
    assert!(
        tally.failed.len() as u64 + tally.truncated <= 4,
        "{:?}",
        tally.failed
    );
    assert!(tally.status(200) > 50, "{:?}", tally.statuses);
}

#[tokio::test]
async fn stored_sockets_of_an_earlier_configuration_are_removed() {
    let mut manager = Manager::listen();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("web.sock");
    let gone = TcpListener::bind("127.0.0.1:0").unwrap();
    let gone_at = gone.local_addr().unwrap();
    let lost = UnixListener::bind(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let gone_name = gone_at.to_string().replace(':', "~");
    let lost_name = format!("unix~{}", path.display());
    let sockets = [
        (gone_name.clone(), OwnedFd::from(gone)),
        (lost_name.clone(), OwnedFd::from(lost)),
    ];
    let yaml = config(&format!(
        "{}, {{ address: \"unix:{}\", name: local }}",
        listener(free_port(), "web"),
        path.display()
    ));
    let yaml = format!("admin: {{ address: off, socket: off }}\n{yaml}");
    let mut child = start(&yaml, &dir, &sockets, &manager.path());
    drop(sockets);
    manager.heard("READY=1").await;
    child.kill().unwrap();
    child.wait().unwrap();
    let stored: Vec<(&str, bool)> = manager
        .messages
        .iter()
        .filter_map(|message| Some((message.value("FDNAME")?, message.has("FDSTOREREMOVE=1"))))
        .collect();
    assert!(stored.contains(&(&gone_name, true)), "{stored:?}");
    // A new socket replaces the old one, which would be found first.
    let of_lost: Vec<bool> = stored
        .iter()
        .filter(|(name, _)| *name == lost_name)
        .map(|(_, is_removed)| *is_removed)
        .collect();
    assert_eq!(of_lost, [true, false]);
}
