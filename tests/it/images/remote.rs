//! Images whose source is on another server: `images: { at: edge, remote: true }`.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
    time::Duration,
};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::{Mutex, MutexGuard, OnceCell};

use super::{
    LEFT, REFUSED, WEBP, WIDTHS, compare::Comparison, drawn_images, front_with, made, script, storm,
};
use crate::support::{
    apps::{App, NextApp},
    certificates::Ca,
    client::{Request, get},
    gateway::Gateway,
    namespaces, seed,
    wait::wait_for,
};

const SOON: Duration = Duration::from_mins(2);

const REMOTE: &str = "images: { at: edge, remote: true }";

/// Servers with the drawn images, and a CA that signed the certificate of one of them.
struct Servers {
    plain: u16,
    secure: u16,
    ca_file: String,
    child: Child,
    _folder: TempDir,
}

impl Servers {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ca = Ca::new();
        let issued = ca.site(&["localhost"]);
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::write(&path, text).unwrap();
            path
        };
        let ca_file = file("ca.pem", ca.pem());
        let mut child = script("server.mjs")
            .arg(drawn_images().0.path())
            .arg(file("cert.pem", &issued.cert))
            .arg(file("key.pem", &issued.key))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let output = child.stdout.take().unwrap();
        BufReader::new(output).read_line(&mut line).unwrap();
        let [plain, secure] = serde_json::from_str(&line).unwrap();
        Self {
            plain,
            secure,
            ca_file: ca_file.display().to_string(),
            child,
            _folder: folder,
        }
    }

    /// Returns the settings of an app that allows these servers.
    fn settings(&self) -> Value {
        json!({
            "dangerouslyAllowLocalIP": true,
            "remotePatterns": [
                { "protocol": "http", "hostname": "127.0.0.1", "port": self.plain.to_string(), "pathname": "/img/**" },
                { "protocol": "https", "hostname": "localhost", "port": self.secure.to_string(), "pathname": "/img/**" },
                { "protocol": "http", "hostname": "127.0.0.1", "port": "1" },
            ],
        })
    }

    async fn app(&self, test: &'static str, settings: Value) -> App {
        let folder = drawn_images().0.path();
        let written = written(&settings);
        let environment = [("NODE_EXTRA_CA_CERTS", self.ca_file.as_str())];
        NextApp::start_with_image_settings(test, folder, (&settings, &written), &environment).await
    }

    async fn front(&self, app: &App, images: &str) -> Gateway {
        let environment = [("SSL_CERT_FILE", &*self.ca_file), ("SSL_CERT_DIR", "")];
        front_with(app, images, &environment).await
    }

    fn url(&self, how: &str, name: &str) -> String {
        format!("http://127.0.0.1:{}/img/{how}/{name}", self.plain)
    }

    /// Returns the requests that arrived since the last call: those of the gateway, which want no
    /// encoding, and those of the app.
    async fn requests(&self) -> (Vec<Value>, Vec<Value>) {
        let address = ([127, 0, 0, 1], self.plain).into();
        let log = crate::support::client::send(address, &get("/log")).await;
        let log: Value = log.unwrap().json();
        let all = log.as_array().unwrap().iter().cloned();
        all.partition(|it| it["headers"]["accept-encoding"] == "identity")
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// Returns servers and an app for the tests that need no others, one test after the other.
async fn shared() -> MutexGuard<'static, (Servers, App)> {
    static SHARED: OnceCell<Mutex<(Servers, App)>> = OnceCell::const_new();
    let start = async || {
        let servers = Servers::start();
        let app = servers.app("servers", servers.settings()).await;
        Mutex::new((servers, app))
    };
    let both = SHARED.get_or_init(start).await.lock().await;
    both.0.requests().await;
    both
}

/// Returns the settings of images as `next build` writes them.
fn written(settings: &Value) -> Value {
    let mut manifest = script("manifest.mjs");
    let output = manifest.arg(settings.to_string()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

pub(super) fn encoded(url: &str) -> String {
    utf8_percent_encode(url, NON_ALPHANUMERIC).to_string()
}

fn image(url: &str, width: u32, quality: u32, accept: &str) -> Request {
    let target = format!("/_next/image?url={}&w={width}&q={quality}", encoded(url));
    get(&target).header("accept", accept)
}

/// Draws the way in which a server responds with a file.
fn drawn(draw: &mut fastrand::Rng) -> String {
    const ENCODINGS: [&str; 5] = ["gzip", "br", "deflate", "identity", "x-own"];
    const STATUSES: [u16; 19] = [
        200, 201, 203, 204, 206, 300, 301, 302, 304, 307, 400, 401, 403, 404, 410, 418, 500, 503,
        599,
    ];
    const TO: [&str; 10] = [
        "relative",
        "absolute",
        "other",
        "outside",
        "host",
        "credentials",
        "scheme",
        "bad",
        "closed",
        "none",
    ];
    let ways = [
        (70, format!("control={}", draw.u8(..14))),
        (40, format!("tag={}", draw.u8(..3))),
        (30, format!("type={}", draw.u8(..4))),
        (15, format!("hops={}", draw.u8(..6))),
        (5, "twice=1".to_owned()),
        (10, "cookie=1".to_owned()),
        (20, "pieces=1".to_owned()),
        (3, "empty=1".to_owned()),
        (3, "cut=1".to_owned()),
        (2, "close=1".to_owned()),
        (6, format!("encoding={}", ENCODINGS[draw.usize(..5)])),
        (10, format!("status={}", STATUSES[draw.usize(..19)])),
        (20, format!("to={}", TO[draw.usize(..10)])),
    ];
    let ways = ways.into_iter().filter(|(odds, _)| draw.u8(..100) < *odds);
    let mut how: Vec<String> = ways.map(|(_, way)| way).collect();
    how.push("n=1".to_owned());
    how.join(",")
}

/// Invariant: an image whose source is on another server has the status, the headers that matter and
/// the pixels that the app's own optimizer gives to a client that asks it.
#[tokio::test]
async fn images_of_other_servers_are_those_of_the_app() {
    let mut draw = fastrand::Rng::with_seed(seed::drawn());
    let servers = Servers::start();
    let app = servers.app("remote", servers.settings()).await;
    let gateway = servers.front(&app, REMOTE).await;
    let mut comparison = Comparison::between(&app, gateway);
    let names = &drawn_images().1;
    for _ in 0..seed::cases(80, 200) {
        let how = drawn(&mut draw);
        let name = &names[draw.usize(..names.len())];
        let at = match draw.u8(..4) {
            0 => format!("https://localhost:{}", servers.secure),
            _ => format!("http://127.0.0.1:{}", servers.plain),
        };
        let url = match draw.u8(..40) {
            0 => format!("{at}/img/{how}/missing.png"),
            1 => format!("{at}/elsewhere/{how}/{name}"),
            2 => format!("{at}/img/n=1/x%20y/../{name}?v=1"),
            3 => format!("{at}/img/n=1//{name}"),
            4 => format!("{at}/img/n=1/{name}#part"),
            5 => format!("http://user@127.0.0.1:{}/img/n=1/{name}", servers.plain),
            6 => "http://127.0.0.1:1/a.png".to_owned(),
            7 => format!("https://127.0.0.1:{}/img/n=1/{name}", servers.secure),
            8 => format!("http://localhost:{}/img/n=1/{name}", servers.plain),
            9 => format!("http://127.1:{}/img/n=1/{name}", servers.plain),
            10 => format!("{at}/img/n=1/%2E%2E/n=1/{name}"),
            _ => format!("{at}/img/{how}/{name}"),
        };
        let accept = if draw.u8(..4) == 0 { "*/*" } else { WEBP };
        let request = image(
            &url,
            WIDTHS[draw.usize(..4)],
            [40, 75, 90][draw.usize(..3)],
            accept,
        );
        comparison.send(&request, &url).await;
    }
    let (made, _) = comparison.finish().await;
    // The draw decides how many the edge can make: 45 with seed 2.
    assert!(made > seed::cases(8, 20), "{made}");
    let (ours, _) = servers.requests().await;
    assert!(
        ours.iter()
            .all(|it| it["url"].as_str().unwrap().starts_with("/img/"))
    );
}

/// Invariant: without `remote` the gateway connects to no other server.
#[tokio::test]
async fn other_servers_are_left_to_the_app_unless_they_are_wanted() {
    let both = shared().await;
    let (servers, app) = &*both;
    let request = image(&servers.url("n=1", "grey.jpg"), 64, 75, WEBP);
    for (images, expected) in [
        ("images: edge", 0),
        ("images: { at: edge }", 0),
        (REMOTE, 1),
    ] {
        let gateway = servers.front(app, images).await;
        assert_eq!(gateway.send(&request).await.status(), 200);
        assert_eq!(servers.requests().await.0.len(), expected, "{images}");
        assert_eq!(made(&gateway).await, expected as u64);
        assert_eq!(gateway.count(LEFT).await, 0);
    }
}

/// Invariant: a server of images gets what Next.js would send, and nothing of a visitor.
#[tokio::test]
async fn servers_get_no_header_of_a_visitor() {
    let both = shared().await;
    let (servers, app) = &*both;
    let gateway = servers.front(app, REMOTE).await;
    let request = |number: u32| {
        image(
            &servers.url(&format!("n={number}"), "grey.jpg"),
            64,
            75,
            WEBP,
        )
    };
    for (number, name, value) in [
        (1, "cookie", "session=secret"),
        (2, "authorization", "Bearer secret"),
        (3, "user-agent", "Mozilla/5.0"),
        (4, "accept-language", "de"),
        (5, "referer", "https://a.test/"),
        (6, "x-forwarded-for", "203.0.113.9"),
        (
            7,
            "traceparent",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ),
    ] {
        let response = gateway.send(&request(number).header(name, value)).await;
        assert_eq!(response.status(), 200);
    }
    app.send(&request(8)).await;
    let (ours, theirs) = servers.requests().await;
    let theirs = theirs[0]["headers"].clone();
    assert_eq!(ours.len(), 7);
    for own in ours {
        let mut own = own["headers"].clone();
        assert_eq!(own["connection"].take(), "close");
        assert_eq!(own["accept-encoding"].take(), "identity");
        let mut theirs = theirs.clone();
        theirs["connection"].take();
        theirs["accept-encoding"].take();
        assert_eq!(own, theirs);
    }
}

/// Invariant: no image is made of what a server sends that cannot show who it is, nor does that get
/// a request.
#[tokio::test]
async fn servers_without_a_valid_certificate_get_no_request() {
    let both = shared().await;
    let (servers, app) = &*both;
    let url = format!("https://localhost:{}/img/n=1/grey.jpg", servers.secure);
    let request = image(&url, 64, 75, WEBP);
    let folder = tempfile::tempdir().unwrap();
    let other = folder.path().join("other.pem");
    fs::write(&other, Ca::new().pem()).unwrap();
    for (ca, expected) in [(other.to_str().unwrap(), 0), (&servers.ca_file, 1)] {
        let environment = [("SSL_CERT_FILE", ca), ("SSL_CERT_DIR", "")];
        let gateway = front_with(app, REMOTE, &environment).await;
        // Otherwise the app makes it, which trusts the CA.
        assert_eq!(gateway.send(&request).await.status(), 200);
        assert_eq!(servers.requests().await.0.len(), expected);
        assert_eq!(made(&gateway).await, expected as u64);
        assert_eq!(gateway.count(LEFT).await, 1 - expected as u64);
    }
}

/// Invariant: a source is fetched once for all requests that want it meanwhile, an image is made
/// once, and neither waits without end nor keeps more than its bound.
#[tokio::test]
async fn slow_and_large_servers_stay_in_bounds() {
    let servers = Servers::start();
    let app = servers.app("slow", servers.settings()).await;
    let gateway = servers.front(&app, REMOTE).await;
    let one = image(&servers.url("late=400,control=1", "grey.jpg"), 64, 75, WEBP);
    let responses = storm(&gateway, &vec![one.clone(); 24]).await;
    assert!(responses.iter().all(|it| it.status() == 200));
    assert_eq!(servers.requests().await.0.len(), 1);
    let again = gateway.send(&one).await;
    assert_eq!(again.header("x-cache-status"), Some("HIT"));

    // More at once than there are places: they wait.
    let many = |how: &str| -> Vec<Request> {
        let urls = (0..24).map(|number| servers.url(&format!("{how},n={number}"), "grey.jpg"));
        urls.map(|url| image(&url, 64, 75, WEBP)).collect()
    };
    let responses = storm(&gateway, &many("late=600")).await;
    assert!(responses.iter().all(|it| it.status() == 200));
    assert_eq!(gateway.count(LEFT).await, 0);
    assert_eq!(servers.requests().await.0.len(), 24);

    let before = super::peak_of(gateway.pid());
    for (how, status, left) in [
        ("late=9000", 504, None),
        ("forever=1", 504, None),
        ("more=17", 200, Some("source")),
        ("more=60", 413, Some("source")),
        ("empty", 400, None),
    ] {
        let request = image(&servers.url(how, "grey.jpg"), 64, 75, WEBP);
        let counts = async || (gateway.count(LEFT).await, gateway.count(REFUSED).await);
        // On a busy machine a large source takes longer than it may.
        let both = wait_for("no time is over", SOON, async || {
            let before = counts().await;
            let ours = gateway.send(&request).await;
            let theirs = app.send(&request).await;
            let is_late = status != 504 && [ours.status(), theirs.status()].contains(&504);
            (!is_late).then_some((before, ours, theirs))
        });
        let ((was_left, was_refused), ours, theirs) = both.await;
        assert_eq!((ours.status(), theirs.status()), (status, status), "{how}");
        assert_eq!(ours.body, theirs.body, "{how}");
        let expected = match left {
            Some(_) => (was_left + 1, was_refused),
            None => (was_left, was_refused + 1),
        };
        assert_eq!(counts().await, expected, "{how}");
    }
    let more = super::peak_of(gateway.pid()) - before;
    assert!(more < 96 << 20, "{more}");
    // On a busy machine some wait longer than they may.
    let large = many("more=15,pieces=1");
    let responses = storm(&gateway, &large[..seed::cases(12, 24)]).await;
    assert!(responses.iter().all(|it| [200, 504].contains(&it.status())));
    let more = super::peak_of(gateway.pid()) - before;
    eprintln!(
        "sources of 15 MiB at once: the peak of memory rose by {} MiB",
        more >> 20
    );
    assert!(more < 600 << 20, "{more}");
}

/// Network with addresses of the internet and of private networks, all of them of this machine, and
/// a DNS server at the loopback address.
const NETWORK: &str = "
set -e
ip link set lo up
for address in 8.8.8.8/32 10.1.2.3/32 100.64.0.1/32 169.254.169.254/32; do ip addr add $address dev lo; done
for address in 2606:4700::1/128 fd00::1/128; do ip -6 addr add $address dev lo nodad; done
mount --bind \"$1/resolv.conf\" /etc/resolv.conf
mount --bind \"$1/hosts\" /etc/hosts
shift
exec node \"$@\"
";

/// Invariant: whatever a visitor asks for and whatever names resolve to, the gateway connects to no
/// address that is not public, and to no other address than the one that it has checked; the client
/// gets what the app alone gives it. The control is a client that checks a name before it connects.
#[test]
fn attacks_reach_no_local_address() {
    let probe = "ip link set lo up && ip -6 addr add 2606:4700::1/128 dev lo && \
                 mount --bind /etc/hosts /etc/hosts";
    let Some(unshare) = namespaces::unshare(&["--net", "--mount"], probe) else {
        return;
    };
    let settings = json!({ "remotePatterns": [{ "hostname": "**" }] });
    let images = drawn_images().0.path();
    let app =
        NextApp::lay_out_with_image_settings("attacks", images, (&settings, &written(&settings)));
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path
    };
    write("resolv.conf", "nameserver 127.0.0.1\n");
    write("hosts", "127.0.0.1 localhost\n");
    let config = write(
        "edgeway.yaml",
        &format!(
            "
listeners: [{{ address: 127.0.0.1:8080 }}]
admin: {{ socket: admin.sock }}
upstreams:
  web: {{ app: nextjs, folder: {}, {REMOTE}, backends: [127.0.0.1:3000], health: false }}
routes: [{{ match: {{ path: /* }}, upstream: web, cache: {{}}, compression: false }}]
",
            app.build().display()
        ),
    );
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/images/attack.mjs");
    let output = Command::new("unshare")
        .args(unshare)
        .args(["sh", "-c", NETWORK, "sh"])
        .arg(folder.path())
        .args([script, env!("CARGO_BIN_EXE_edgeway")])
        .arg(config)
        .arg(app.folder())
        .arg(images.join("grey.jpg"))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let outcomes: Value = serde_json::from_slice(&output.stdout).unwrap();
    let outcomes = outcomes.as_object().unwrap();
    assert!(outcomes.len() > 25, "{outcomes:?}");
    let mut made = Vec::new();
    for (what, outcome) in outcomes.iter().filter(|(what, _)| *what != "control") {
        assert_eq!(outcome["local"], json!([]), "{what}: {outcome}");
        // Next.js has another response to a name that is no longer what it was.
        if !what.starts_with("reb") && !what.contains("later") {
            assert_eq!(outcome["ours"], outcome["theirs"], "{what}: {outcome}");
            assert_eq!(outcome["isSame"], true, "{what}: {outcome}");
        }
        if outcome["ours"] == 200 {
            made.push(what.as_str());
            assert_ne!(outcome["public"], json!([]), "{what}: {outcome}");
        } else {
            assert_eq!(outcome["ours"], 400, "{what}: {outcome}");
        }
    }
    made.sort_unstable();
    let expected = [
        "both.test",
        "later.test",
        "rebinding.test",
        "steady.test",
        "to a page",
        "to another",
    ];
    assert_eq!(made, expected);
    let control = &outcomes["control"];
    assert_eq!(control["isPassed"], true);
    assert_eq!(control["local"], json!(["naive.test:8000/a.png"]));
}
