//! Commands with `--config`. Invariant: a command reaches the gateway that its file names, or none: a
//! file that is broken is reported as `check` reports it, with the same exit status, and the gateway
//! at the usual socket sees nothing of the command.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::{fs::symlink, net::UnixStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use fastrand::Rng;
use tempfile::TempDir;
use tokio::{net::UnixListener, task::JoinSet};

use crate::{
    cli::{EX_CONFIG, Ran},
    support::{gateway::Gateway, seed, wait::wait_for},
};

/// Commands that ask a gateway. `explain` without `--live` reads the file itself.
const COMMANDS: [&[&str]; 28] = [
    &["reload"],
    &["reload", "--json"],
    &["reload", "--canary", "10s"],
    &["status"],
    &["status", "--json"],
    &["top", "--once"],
    &["purge", "--all"],
    &["purge", "--tag", "a"],
    &["drain", "app/127.0.0.1:3000"],
    &["undrain", "app/127.0.0.1:3000"],
    &["rollout", "app", "--", "true"],
    &["upgrade"],
    &["logs"],
    &["logs", "--follow"],
    &["bans"],
    &["ban", "192.0.2.1"],
    &["unban", "192.0.2.1"],
    &["profile"],
    &["page"],
    &["explain", "GET", "/"],
    &["explain", "--live", "GET", "/"],
    &["deploys", "app"],
    &["deploy", "app", "."],
    &["rollback", "app"],
    &["resume", "app"],
    &["upstream", "add", "app", "127.0.0.1:3000"],
    &["scale", "app", "2"],
    &["healthcheck", "--gateway", "--attempts", "1"],
];

/// Files that are broken, each in its way.
const BROKEN: [(&str, &str); 9] = [
    ("syntax.yaml", "routes: [\n"),
    (
        "key.yaml",
        "listeners: [{ address: '127.0.0.1:0' }]\nroutes: []\npaths: []\n",
    ),
    // The key that is misspelt is the one that names the gateway.
    (
        "admin.yaml",
        "administration: { socket: own.sock }\nlisteners: [{ address: '127.0.0.1:0' }]\nroutes: []\n",
    ),
    (
        "socket.yaml",
        "admin: { sockets: own.sock }\nlisteners: [{ address: '127.0.0.1:0' }]\nroutes: []\n",
    ),
    (
        "type.yaml",
        "admin: on\nlisteners: [{ address: '127.0.0.1:0' }]\nroutes: []\n",
    ),
    (
        "address.yaml",
        "admin: { address: here }\nlisteners: [{ address: '127.0.0.1:0' }]\nroutes: []\n",
    ),
    ("include.yaml", "include: [none.yaml]\nlisteners: []\n"),
    ("tab.yaml", "routes:\n\t- a\n"),
    ("empty.yaml", ""),
];

/// Files that cannot be read.
const UNREADABLE: [&str; 4] = ["missing.yaml", "folder.yaml", "loop.yaml", "bytes.yaml"];

fn folder() -> TempDir {
    let folder = tempfile::tempdir().expect("a folder for the test can be made");
    let path = |name: &str| folder.path().join(name);
    for (name, text) in BROKEN {
        fs::write(path(name), text).expect("the folder takes files");
    }
    fs::create_dir(path("folder.yaml")).expect("it can be made");
    symlink("loop.yaml", path("loop.yaml")).expect("the folder takes links");
    fs::write(path("bytes.yaml"), [0xff, 0xfe]).expect("the folder takes files");
    folder
}

/// Runs a command on a machine where the usual socket is in the folder `run`.
fn edgeway(folder: &Path, run: &Path, arguments: &[&str]) -> Ran {
    let output = Command::new(env!("CARGO_BIN_EXE_edgeway"))
        .args(arguments)
        .current_dir(folder)
        .env("RUNTIME_DIRECTORY", run)
        .env("NO_COLOR", "1")
        .env_remove("EDGEWAY_ADMIN_SOCKET")
        .output()
        .expect("the program runs");
    Ran {
        status: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Listener at the usual socket, which counts its clients and sends them nothing.
struct Decoy {
    folder: TempDir,
    clients: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl Decoy {
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder for the test can be made");
        let listener = UnixListener::bind(folder.path().join("admin.sock"));
        let listener = listener.expect("the folder takes sockets");
        let clients = Arc::<AtomicUsize>::default();
        let seen = Arc::clone(&clients);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                seen.fetch_add(1, Ordering::SeqCst);
                drop(client);
            }
        });
        Self {
            folder,
            clients,
            _tasks: tasks,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_file_leads_to_no_other_gateway() {
    let seed = seed::drawn();
    let mut random = Rng::with_seed(seed);
    let (folder, decoy) = (folder(), Decoy::start());
    let run = |arguments: &[&str]| edgeway(folder.path(), decoy.folder.path(), arguments);
    let mut reports = BTreeMap::new();
    let files: Vec<&str> = BROKEN
        .map(|(name, _)| name)
        .into_iter()
        .chain(UNREADABLE)
        .collect();
    let mut cases = Vec::new();
    for _ in 0..seed::cases(40, 150) {
        let command = COMMANDS[random.usize(..COMMANDS.len())];
        cases.push((command, files[random.usize(..files.len())]));
    }
    // Each command and each file at least once.
    cases.extend(COMMANDS.map(|command| (command, files[random.usize(..files.len())])));
    cases.extend(files.iter().map(|file| (COMMANDS[0], *file)));
    for (command, file) in cases {
        let case = format!("{command:?} -c {file}");
        let checked: &Ran = reports
            .entry(file)
            .or_insert_with(|| run(&["check", "-c", file]));
        let (name, rest) = command.split_at(1 + usize::from(command[0] == "upstream"));
        let ran = run(&[name, &["-c", file], rest].concat());
        assert_eq!(checked.status, EX_CONFIG, "{case}: {}", checked.stderr);
        assert_eq!(
            ran.status, EX_CONFIG,
            "{case}: {}{}",
            ran.stdout, ran.stderr
        );
        if command.contains(&"--json") {
            let refusal: serde_json::Value =
                serde_json::from_str(&ran.stdout).expect("the refusal is JSON");
            let report = refusal["error"]["report"].as_str().unwrap_or_default();
            assert_eq!(report.trim_end(), checked.stderr.trim_end(), "{case}");
        } else {
            assert_eq!(ran.stderr, checked.stderr, "{case}");
        }
        assert_eq!(decoy.clients.load(Ordering::SeqCst), 0, "{case}");
    }
    // The control: the same command without a file asks there.
    let empty = tempfile::tempdir().expect("a folder for the test can be made");
    edgeway(empty.path(), decoy.folder.path(), &["reload"]);
    assert!(decoy.clients.load(Ordering::SeqCst) > 0);
}

/// A whole file whose gateway does not run, and one whose gateway has no admin listener.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_names_its_socket_leads_to_that_one_alone() {
    let decoy = Decoy::start();
    let folder = tempfile::tempdir().expect("a folder for the test can be made");
    let rest =
        "listeners: [{ address: '127.0.0.1:0' }]\nroutes: [{ match: { path: /* }, respond: ok }]\n";
    for (name, admin, words) in [
        (
            "gone.yaml",
            "admin: { socket: own.sock }",
            "own.sock: no such socket",
        ),
        (
            "off.yaml",
            "admin: { socket: off, address: off }",
            "has no admin listener",
        ),
    ] {
        let text = format!("{admin}\n{rest}");
        fs::write(folder.path().join(name), text).expect("the folder takes files");
        for command in [&["reload"][..], &["status"], &["purge", "--all"]] {
            let arguments = [command, &["-c", name]].concat();
            let ran = edgeway(folder.path(), decoy.folder.path(), &arguments);
            assert_eq!(ran.status, 1, "{arguments:?}: {}", ran.stderr);
            assert!(ran.stderr.contains(words), "{arguments:?}: {}", ran.stderr);
            assert!(
                !ran.stderr.contains("9900"),
                "{arguments:?}: {}",
                ran.stderr
            );
        }
    }
    assert_eq!(decoy.clients.load(Ordering::SeqCst), 0);
}

/// A mistake in a file that names its socket keeps no command from the gateway that serves it.
#[tokio::test]
async fn a_gateway_is_reached_by_the_socket_that_its_broken_file_names() {
    let decoy = Decoy::start();
    let own = "admin: { address: off, socket: own.sock }\n\
               routes: [{ match: { path: /* }, respond: ok }]\n";
    let gateway = Gateway::start(own).await;
    gateway.configure(&format!("{own}paths: []\n"));
    let file: PathBuf = gateway.folder().join("edgeway.yaml");
    let file = file.to_str().expect("the path is text");
    let run = |arguments: &[&str]| edgeway(gateway.folder(), decoy.folder.path(), arguments);
    let checked = run(&["check", "-c", file]);
    let reloaded = run(&["reload", "-c", file]);
    assert_eq!((reloaded.status, checked.status), (EX_CONFIG, EX_CONFIG));
    assert!(
        reloaded.stderr.contains("unknown key `paths`"),
        "{}",
        reloaded.stderr
    );
    let status = run(&["status", "-c", file]);
    assert_eq!(status.status, 0, "{}", status.stderr);
    assert_eq!(decoy.clients.load(Ordering::SeqCst), 0);
}

/// The fault as it was reported: the gateway at the usual socket was reloaded, with success.
#[tokio::test]
async fn a_reload_of_a_broken_file_reloads_no_other_gateway() {
    let other = Gateway::start("routes: [{ match: { path: /* }, respond: ok }]\n").await;
    other.configure("routes: [{ match: { path: /* }, respond: changed }]\n");
    let folder = folder();
    let run = other.folder().join("run");
    let ran = edgeway(folder.path(), &run, &["reload", "-c", "syntax.yaml"]);
    assert_eq!(ran.status, EX_CONFIG, "{}", ran.stderr);
    assert_eq!(other.get("/").await.text(), "ok");
    // The control: that gateway is there.
    let ran = edgeway(
        folder.path(),
        &run,
        &[
            "reload",
            "-c",
            other.folder().join("edgeway.yaml").to_str().expect("text"),
        ],
    );
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    assert_eq!(other.get("/").await.text(), "changed");
}

/// Gateways of one user side by side, without an `admin` section.
#[tokio::test]
async fn a_command_reaches_the_gateway_of_its_file_among_several() {
    let first = Gateway::start("routes: [{ match: { path: /* }, respond: ok }]\n").await;
    let run = first.folder().join("run");
    let folder = tempfile::tempdir().expect("a folder for the test can be made");
    let text =
        "listeners: [{ address: '127.0.0.1:0' }]\nroutes: [{ match: { path: /* }, respond: ok }]\n";
    for name in ["second.yaml", "third.yaml"] {
        fs::write(folder.path().join(name), text).expect("the folder takes files");
    }
    let second = tokio::process::Command::new(env!("CARGO_BIN_EXE_edgeway"))
        .args(["run", "-c", "second.yaml"])
        .current_dir(folder.path())
        .env("RUNTIME_DIRECTORY", &run)
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("the program starts");
    let socket = run.join("gateway-2.sock");
    wait_for("the second gateway", Duration::from_secs(20), async || {
        UnixStream::connect(&socket).ok()
    })
    .await;
    let own = first.folder().join("edgeway.yaml");
    let own = own.to_str().expect("the path is text");
    let asked = |arguments: &[&str]| edgeway(folder.path(), &run, arguments);
    for (file, name) in [("second.yaml", "second.yaml"), (own, "edgeway.yaml")] {
        let status = asked(&["status", "--json", "-c", file]);
        assert!(
            status.stdout.contains(name),
            "{}{}",
            status.stdout,
            status.stderr
        );
        let reloaded = asked(&["reload", "-c", file]);
        assert_eq!(reloaded.status, 0, "{}", reloaded.stderr);
    }
    // What the gateway of the file refuses is said, whichever was asked first.
    for command in [
        &["drain", "app/127.0.0.1:3000"][..],
        &["profile", "night"],
        &["purge", "--url", "nothing"],
    ] {
        let ran = asked(&[command, &["-c", "second.yaml"]].concat());
        let is_its = !ran.stderr.contains("no gateway of");
        assert!(ran.status != 0 && is_its, "{command:?}: {}", ran.stderr);
    }
    fs::write(folder.path().join("second.yaml"), "routes: 3\n").expect("the folder takes files");
    let reloaded = asked(&["reload", "-c", "second.yaml"]);
    assert_eq!(reloaded.status, EX_CONFIG, "{}", reloaded.stderr);
    // A file that no gateway serves: neither gateway sees the command.
    for command in [
        &["reload"][..],
        &["status"],
        &["purge", "--all"],
        &["top", "--once"],
    ] {
        let arguments = [command, &["-c", "third.yaml"]].concat();
        let ran = asked(&arguments);
        assert_eq!(ran.status, 1, "{arguments:?}: {}{}", ran.stdout, ran.stderr);
        assert!(
            ran.stderr.contains("no gateway of"),
            "{arguments:?}: {}",
            ran.stderr
        );
    }
    // The control: without a file, the usual socket is asked.
    let empty = tempfile::tempdir().expect("a folder for the test can be made");
    let ran = edgeway(empty.path(), &run, &["reload"]);
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    drop(second);
}
