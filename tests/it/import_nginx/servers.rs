//! A shape behind nginx and behind the gateway: the same text, with ports and folders of the test.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use regex::Regex;
use serde::Deserialize;
use tokio::{
    net::TcpStream,
    process::{Child, Command},
};

use super::{conf, origin::Origins};
use crate::support::{gateway::Gateway, ports::free_port, wait::until};

/// Texts of a shape that stand for something of the test, besides ports.
const NETWORKS: [(&str, &str); 3] = [
    ("10.0.0.0/8", "127.10.0.0/16"),
    ("192.168.0.0/16", "127.168.0.0/16"),
    ("203.0.113.", "127.113.1."),
];

/// Port of a backend that is never there.
pub(super) const GONE: u16 = 3999;

/// Files of one shape as written.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    pub(super) name: String,
    files: BTreeMap<String, String>,
}

impl Shape {
    /// Reads all shapes, in the order of their names.
    pub(super) fn all() -> Vec<Self> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/import_nginx/shapes");
        let read = |path: &Path| fs::read_to_string(path).expect("a shape is UTF-8");
        let entries = |folder: &Path| {
            let entries = fs::read_dir(folder).expect("the folder is there");
            let paths = entries.map(|entry| entry.expect("it can be read").path());
            let mut paths: Vec<PathBuf> = paths.collect();
            paths.sort();
            paths
        };
        let within = |folder: &Path| {
            let mut files = BTreeMap::new();
            let mut left = vec![folder.to_owned()];
            while let Some(next) = left.pop() {
                for path in entries(&next) {
                    if path.is_dir() {
                        left.push(path);
                        continue;
                    }
                    let name = path.strip_prefix(folder).expect("it is below");
                    files.insert(name.to_string_lossy().into_owned(), read(&path));
                }
            }
            files
        };
        let mut snippets = BTreeMap::new();
        for (name, text) in within(&folder.join("snippets")) {
            snippets.insert(format!("snippets/{name}"), text);
        }
        let shape = |path: &PathBuf| {
            let mut files = snippets.clone();
            if path.is_dir() {
                files.extend(within(path));
            } else {
                files.insert("nginx.conf".to_owned(), read(path));
            }
            let name = path.file_stem().expect("it has a name").to_string_lossy();
            Self {
                name: name.into_owned(),
                files,
            }
        };
        let shapes = entries(&folder).into_iter();
        let shapes = shapes.filter(|path| !path.ends_with("snippets"));
        shapes.map(|path| shape(&path)).collect()
    }

    /// Returns a shape of one file.
    pub(super) fn of(name: &str, text: String) -> Self {
        Self {
            name: name.to_owned(),
            files: BTreeMap::from([("nginx.conf".to_owned(), text)]),
        }
    }

    pub(super) fn tree(&self) -> conf::Directive {
        conf::read(&self.files)
    }

    pub(super) fn text(&self) -> &str {
        &self.files["nginx.conf"]
    }

    /// Returns the number of its lines with something on them, those of files that it includes too.
    pub(super) fn lines(&self) -> usize {
        let files = self.files.iter();
        let is_used = |name: &str| {
            let folder = format!("{}/", name.split('/').next().unwrap_or_default());
            name == "nginx.conf" || self.files.values().any(|text| text.contains(&folder))
        };
        let used = files.filter(|(name, _)| is_used(name));
        used.map(|(_, text)| filled(text)).sum()
    }

    /// Returns the ports that the shape listens on.
    pub(super) fn listens(&self) -> BTreeSet<u16> {
        let all = self.files.values();
        all.flat_map(|text| numbers(r"\blisten\s+(\d+)", text))
            .collect()
    }

    /// Returns the ports of its backends.
    pub(super) fn backends(&self) -> Vec<u16> {
        let all = self.files.values();
        let ports = all.flat_map(|text| numbers(r"127\.0\.0\.1:(\d{4})\b", text));
        let ports: BTreeSet<u16> = ports.filter(|port| *port != GONE).collect();
        ports.into_iter().collect()
    }

    /// Returns the first backend of the upstream of each.
    fn groups(&self) -> BTreeMap<u16, u16> {
        let mut groups = BTreeMap::new();
        self.tree().walk(&mut Vec::new(), &mut |directive, _| {
            if directive.name() != "upstream" {
                return;
            }
            let servers = directive.all("server");
            let ports =
                servers.filter_map(|server| server.first().rsplit(':').next()?.parse().ok());
            let ports: Vec<u16> = ports.collect();
            groups.extend(ports.iter().map(|port| (*port, ports[0])));
        });
        groups
    }

    /// Puts ports and folders of the test into its files.
    fn rendered(&self, side: &Side) -> BTreeMap<String, String> {
        let listen = Regex::new(r"\blisten(\s+)(\d+)\b").expect("it is valid");
        let own = Regex::new(r":(\d{4,5})\b").expect("it is valid");
        let backend = Regex::new(r"127\.0\.0\.1:(\d{4})\b").expect("it is valid");
        let render = |text: &String| {
            let mut text = text.clone();
            for (written, used) in NETWORKS {
                text = text.replace(written, used);
            }
            let text = own.replace_all(&text, |found: &regex::Captures<'_>| {
                let port = found[1].parse().ok().and_then(|port| side.ports.get(&port));
                port.map_or_else(|| found[0].to_owned(), |port| format!(":{port}"))
            });
            let text = backend.replace_all(&text, |found: &regex::Captures<'_>| {
                let port: u16 = found[1].parse().unwrap_or_default();
                let address = side.origins.addresses().get(&port);
                let address = address.map(ToString::to_string);
                address.unwrap_or_else(|| "127.0.0.1:9".to_owned())
            });
            let text = listen.replace_all(&text, |found: &regex::Captures<'_>| {
                let port = found[2].parse().ok().and_then(|port| side.ports.get(&port));
                let port = port.expect("each port was read");
                format!("listen{}127.0.0.1:{port}", &found[1])
            });
            let at = |folder: &str| side.shared.join(folder).display().to_string();
            text.replace("/var/www/", &at("www/"))
                .replace("/etc/letsencrypt/live/", &at("certs/"))
                .replace("/etc/nginx/", &format!("{}/", side.folder.display()))
                .replace(
                    "/var/cache/nginx",
                    &format!("{}/cache", side.folder.display()),
                )
                .replace("/var/log/nginx", &side.folder.display().to_string())
        };
        let files = self.files.iter();
        files
            .map(|(name, text)| (name.clone(), render(text)))
            .collect()
    }
}

/// Returns the number of lines with something on them.
pub(super) fn filled(text: &str) -> usize {
    text.lines().filter(|line| !line.trim().is_empty()).count()
}

fn numbers(pattern: &str, text: &str) -> BTreeSet<u16> {
    let pattern = Regex::new(pattern).expect("it is valid");
    let found = pattern.captures_iter(text);
    found.filter_map(|found| found[1].parse().ok()).collect()
}

/// Program that serves a shape, with its own backends, ports and folder.
pub(super) struct Side {
    pub(super) origins: Origins,
    /// Real ports by those that the shape writes.
    pub(super) ports: BTreeMap<u16, u16>,
    /// First backend of an upstream by each: which of them is asked depends on the moment.
    groups: BTreeMap<u16, u16>,
    folder: PathBuf,
    /// Folder with the files that all sides serve.
    shared: PathBuf,
}

impl Side {
    pub(super) async fn new(shape: &Shape, shared: &Path, name: &str) -> Self {
        let folder = shared.join(name);
        for name in shape.files.keys() {
            let above = folder.join(name);
            let above = above.parent().expect("it is below the folder");
            fs::create_dir_all(above).expect("the folder takes folders");
        }
        for file in [
            "mime.types",
            "users.htpasswd",
            "old-md5.htpasswd",
            "old-sha.htpasswd",
        ] {
            let from = shared.join(file);
            fs::copy(from, folder.join(file)).expect("the folder takes files");
        }
        let listens = shape.listens().into_iter();
        Self {
            origins: Origins::start(&shape.backends()).await,
            ports: listens.map(|port| (port, free_port())).collect(),
            groups: shape.groups(),
            folder,
            shared: shared.to_owned(),
        }
    }

    pub(super) fn address(&self, port: u16) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.ports[&port]).into()
    }

    /// Returns the first backend of the upstream of a backend.
    pub(super) fn group(&self, backend: &str) -> String {
        let first = backend.parse().ok().and_then(|port| self.groups.get(&port));
        first.map_or_else(|| backend.to_owned(), ToString::to_string)
    }

    /// Replaces the place of a backend in a neutral URL by that of the first of its upstream: a
    /// single request does not say which of them it gets.
    pub(super) fn grouped(&self, url: &str) -> String {
        let Some((before, rest)) = url.split_once("//127.0.0.1:@") else {
            return url.to_owned();
        };
        let end = rest.find(|letter: char| !letter.is_ascii_digit());
        let (port, rest) = rest.split_at(end.unwrap_or(rest.len()));
        format!("{before}//127.0.0.1:@{}{rest}", self.group(port))
    }

    /// Replaces real ports and folders by those that the shape writes.
    pub(super) fn neutral(&self, text: &str) -> String {
        let mut text = text.to_owned();
        let origins = self.origins.addresses().iter();
        let backends = origins.map(|(written, address)| (*written, address.port()));
        let own = self.ports.iter().map(|(written, port)| (*written, *port));
        for (written, port) in backends.chain(own) {
            text = text.replace(&format!(":{port}"), &format!(":@{written}"));
        }
        text
    }

    /// Replaces `:@80` by the real port.
    pub(super) fn real(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (written, port) in &self.ports {
            text = text.replace(&format!(":@{written}"), &format!(":{port}"));
        }
        text
    }

    fn write(&self, files: &BTreeMap<String, String>) {
        for (name, text) in files {
            fs::write(self.folder.join(name), text).expect("the folder takes files");
        }
    }
}

/// Running nginx; ends with this value.
pub(super) struct Nginx {
    _child: Child,
    pub(super) side: Side,
}

impl Nginx {
    /// Starts nginx with a shape; with `places` it records which blocks handled each request.
    pub(super) async fn start(shape: &Shape, side: Side, places: bool) -> Self {
        let folder = side.folder.display().to_string();
        let kinds = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
        let temp = kinds.map(|kind| format!("{kind}_temp_path {folder}/{kind};"));
        let log = format!(
            "log_format places '$realip_remote_addr:$realip_remote_port $connection_requests \
             $place'; access_log {folder}/places.log places;"
        );
        let left_out = r"(?m)(^|[;{}])(\s*)(user|pid|error_log|access_log|worker_\w+)\s[^;]*;";
        let left_out = Regex::new(left_out).expect("it is valid");
        let mut files = side_files(shape, &side, &left_out);
        let log = if places { log } else { String::new() };
        let temp = temp.concat() + if places { "" } else { " access_log off;" };
        files = conf::with_places(&files, &log, &temp);
        side.write(&files);
        let program = "daemon off; master_process off; error_log stderr warn; pid nginx.pid;";
        let errors = fs::File::create(side.folder.join("stderr")).expect("the folder takes files");
        let mut child = Command::new("/usr/sbin/nginx")
            .arg("-p")
            .arg(&side.folder)
            .arg("-c")
            .arg(side.folder.join("nginx.conf"))
            .args(["-g", program])
            .stdin(Stdio::null())
            .stderr(errors)
            .kill_on_drop(true)
            .spawn()
            .expect("`make setup-tests` installs nginx");
        for port in side.ports.values() {
            let ready = until(Duration::from_secs(20), &mut async || {
                let ended = child.try_wait().expect("a child of ours");
                if ended.is_some() {
                    return Some(false);
                }
                let opened = TcpStream::connect((Ipv4Addr::LOCALHOST, *port)).await;
                opened.ok().map(|_| true)
            })
            .await;
            let errors = fs::read_to_string(side.folder.join("stderr")).unwrap_or_default();
            assert_eq!(ready, Some(true), "{}: nginx: {errors}", shape.name);
        }
        Self {
            _child: child,
            side,
        }
    }

    /// Returns true if nginx took a backend out for a while, as after a reset on a busy machine.
    pub(super) fn has_disabled(&self) -> bool {
        let errors = fs::read_to_string(self.side.folder.join("stderr")).expect("it is there");
        errors.contains("upstream server temporarily disabled")
    }

    /// Returns the blocks that handled each request, by client address and request number.
    pub(super) fn places(&self) -> BTreeMap<String, BTreeSet<String>> {
        let text = fs::read_to_string(self.side.folder.join("places.log")).unwrap_or_default();
        let mut all = BTreeMap::<String, BTreeSet<String>>::new();
        for line in text.lines() {
            let mut parts = line.splitn(3, ' ');
            let mut part = || parts.next().unwrap_or_default();
            let key = format!("{} {}", part(), part());
            let places = part().split('|').filter(|place| place.contains(':'));
            all.entry(key)
                .or_default()
                .extend(places.map(str::to_owned));
        }
        all
    }
}

fn side_files(shape: &Shape, side: &Side, left_out: &Regex) -> BTreeMap<String, String> {
    let files = shape.rendered(side).into_iter();
    let cleared = |text: &str| {
        let mut text = text.to_owned();
        while left_out.is_match(&text) {
            text = left_out.replace_all(&text, "$1$2").into_owned();
        }
        text
    };
    files.map(|(name, text)| (name, cleared(&text))).collect()
}

/// Entry of a report.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Entry {
    pub(super) file: String,
    pub(super) line: usize,
    pub(super) directive: String,
    pub(super) note: String,
}

/// Report of an import; no entry of what was carried over explains anything.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Report {
    pub(super) carried: Vec<Entry>,
    pub(super) changed: Vec<Entry>,
    pub(super) not_carried: Vec<Entry>,
}

impl Report {
    /// Returns the entries that may explain a difference.
    pub(super) fn explaining(&self) -> impl Iterator<Item = &Entry> {
        self.changed.iter().chain(&self.not_carried)
    }
}

/// Imports a shape; returns the configuration, and the report in this form.
pub(super) async fn imported(shape: &Shape, side: &Side, form: &str) -> (String, String) {
    side.write(&shape.rendered(side));
    let main = side.folder.join("nginx.conf");
    let out = side.folder.join("edgeway.yaml");
    // Another one would be kept.
    let _absent = fs::remove_file(&out);
    let ran = Command::new(env!("CARGO_BIN_EXE_edgeway"))
        .args(["import", "nginx"])
        .arg(&main)
        .arg("--out")
        .arg(&out)
        .args(["--report", form])
        .output()
        .await
        .expect("the program runs");
    let errors = String::from_utf8_lossy(&ran.stderr);
    let text = String::from_utf8_lossy(&ran.stdout).into_owned();
    assert!(ran.status.success(), "{}: {errors}\n{text}", shape.name);
    let yaml = fs::read_to_string(&out).expect("the import writes it");
    (yaml, text)
}

/// Gateway with an imported shape.
pub(super) struct Edge {
    pub(super) gateway: Gateway,
    pub(super) side: Side,
    pub(super) report: Report,
    pub(super) import_time: Duration,
}

impl Edge {
    pub(super) async fn start(shape: &Shape, side: Side) -> Self {
        let started = tokio::time::Instant::now();
        let (yaml, text) = imported(shape, &side, "json").await;
        let import_time = started.elapsed();
        let mut report: Report = serde_json::from_str(&text)
            .unwrap_or_else(|error| panic!("{}: {error}: {text}", shape.name));
        // Names of headers are compared without case.
        for entry in report.changed.iter_mut().chain(&mut report.not_carried) {
            entry.note = entry.note.to_lowercase();
        }
        Self {
            gateway: Gateway::start(&yaml).await,
            side,
            report,
            import_time,
        }
    }
}
