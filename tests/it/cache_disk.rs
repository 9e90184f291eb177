//! The cache on disk: responses that survive the process, purges that hold, and requests while the
//! disk does not work.

use std::{
    fs::{self, OpenOptions},
    io::Write as _,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use rustix::{fs::statvfs, process::Signal};
use serde_json::json;
use tokio::task::JoinSet;

use crate::support::{
    client::{self, Request, Response, get, post},
    gateway::Gateway,
    namespaces,
    origins::{NumberedOrigin, Origin},
    redis::Redis,
    wait::{pass, wait_for},
};

const SOON: Duration = Duration::from_secs(20);
const MINUTE: &[(&str, &str)] = &[
    ("cache-control", "max-age=60"),
    ("etag", "\"a\""),
    ("cache-tag", "posts"),
];
const WRITTEN: &str = "edgeway_cache_disk_writes_total{outcome=\"stored\"}";
const FOUND: &str = "edgeway_cache_disk_lookup_duration_seconds_count{result=\"hit\"}";
const DAMAGED: &str = "edgeway_cache_disk_dropped_total{why=\"damaged\"}";
const UP: &str = "edgeway_cache_disk_up";
const DISK: &str = "{ disk: { folder: kept, size: 64MiB } }";

fn yaml(origin: SocketAddr, cache: &str, more: &str) -> String {
    format!(
        "cache: {cache}\n\
         {more}\
         upstreams: {{ app: {{ backends: ['{origin}'], health: false }} }}\n\
         routes:\n\
         - {{ name: app, match: {{ path: '/*' }}, upstream: app, \
              cache: {{}} }}\n"
    )
}

async fn up(gateway: &Gateway) {
    wait_for("the disk is used", SOON, async || {
        (gateway.metric(UP).await > 0.0).then_some(())
    })
    .await;
}

/// Waits until the status shows this state of the disk.
async fn stands(gateway: &Gateway, state: &str) {
    wait_for(&format!("the disk is {state}"), SOON, async || {
        let status = gateway.status().await;
        (status["cache_disk"]["state"] == state).then_some(())
    })
    .await;
}

async fn front(origin: &Origin<NumberedOrigin>) -> Gateway {
    let gateway = Gateway::start(&yaml(origin.address(), DISK, "")).await;
    up(&gateway).await;
    gateway
}

async fn origin(paths: &[&str]) -> Origin<NumberedOrigin> {
    let origin = NumberedOrigin::start().await;
    for path in paths {
        origin.settings().tell(path, 200, MINUTE);
    }
    origin
}

/// Builds a request with a fixed host, so that the key does not depend on the gateway's port.
fn page(path: &str) -> Request {
    get(path).header("host", "shop.test")
}

async fn ask(gateway: &Gateway, path: &str) -> Response {
    gateway.send(&page(path)).await
}

/// Requests a response that is on disk until it is read in time, without a request to the origin: on
/// a busy machine a read may take longer than a request waits for it.
async fn from_disk(gateway: &Gateway, request: Request) -> Response {
    let request = request.header("cache-control", "only-if-cached");
    wait_for("it is read in time", SOON, async || {
        let response = gateway.send(&request).await;
        (response.status() != 504).then_some(response)
    })
    .await
}

/// Sends a request, and waits until the disk has the response.
async fn written(gateway: &Gateway, request: &Request) -> Response {
    let before = gateway.metric(WRITTEN).await;
    let response = gateway.send(request).await;
    wait_for("it is on disk", SOON, async || {
        (gateway.metric(WRITTEN).await > before).then_some(())
    })
    .await;
    response
}

async fn end(gateway: &mut Gateway, signal: Signal) {
    gateway.signal(signal);
    gateway.leaves(SOON).await;
}

async fn restart(gateway: &mut Gateway, signal: Signal) {
    end(gateway, signal).await;
    gateway.start_again(&[], &[]).await;
    up(gateway).await;
}

/// Lists the files of entries.
fn objects(folder: &Path) -> Vec<PathBuf> {
    let folders = fs::read_dir(folder.join("v1/objects")).expect("it is there");
    let folders = folders.map(|it| it.expect("it can be read").path());
    let files = folders.filter(|path| path.is_dir()).flat_map(|path| {
        let files = fs::read_dir(path).expect("it is there");
        files.map(|it| it.expect("it can be read").path())
    });
    files.collect()
}

#[tokio::test]
async fn stored_responses_survive_the_process_however_it_ends() {
    let origin = origin(&["/a", "/h"]).await;
    let headers = [
        ("cache-control", "max-age=60"),
        ("vary", "accept-language, x-kind"),
    ];
    origin.settings().tell("/v", 200, &headers);
    let stale = [("cache-control", "max-age=1, stale-while-revalidate=60")];
    origin.settings().tell("/s", 200, &stale);
    let mut gateway = front(&origin).await;
    let of = |language: &str| page("/v").header("accept-language", language);
    for request in [page("/a"), of("de"), of("fr"), page("/s")] {
        let response = written(&gateway, &request).await;
        assert_eq!(response.cache_status(), "MISS");
    }
    pass(Duration::from_millis(1100)).await;
    for (round, signal) in [Signal::TERM, Signal::KILL].into_iter().enumerate() {
        restart(&mut gateway, signal).await;
        let before = gateway.count(FOUND).await;
        let response = from_disk(&gateway, page("/a")).await;
        response.assert_cached("HIT", "/a #1");
        assert_eq!(response.header("etag"), Some("\"a\""));
        let age: u64 = response.header("age").unwrap().parse().unwrap();
        assert!((1..60).contains(&age), "{age}");
        assert_eq!(gateway.count(FOUND).await, before + 1);
        // From now on it is in memory.
        ask(&gateway, "/a").await.assert_cached("HIT", "/a #1");
        assert_eq!(gateway.count(FOUND).await, before + 1);
        from_disk(&gateway, of("fr"))
            .await
            .assert_cached("HIT", "/v #2");
        from_disk(&gateway, of("de"))
            .await
            .assert_cached("HIT", "/v #1");
        let number = 3 + round;
        let response = gateway.send(&of(&format!("x{number}"))).await;
        response.assert_cached("MISS", &format!("/v #{number}"));
        ask(&gateway, "/s")
            .await
            .assert_cached("STALE", &format!("/s #{}", 1 + round));
        wait_for("a new one is on disk", SOON, async || {
            (gateway.count(WRITTEN).await >= 2).then_some(())
        })
        .await;
        pass(Duration::from_millis(1100)).await;
    }
    // Kinds of a first request, each after its own restart.
    restart(&mut gateway, Signal::KILL).await;
    let response = from_disk(&gateway, page("/a").header("if-none-match", "\"a\"")).await;
    assert_eq!((response.status(), response.cache_status()), (304, "HIT"));
    restart(&mut gateway, Signal::KILL).await;
    let response = from_disk(&gateway, page("/a").header("range", "bytes=1-2")).await;
    assert_eq!((response.status(), &*response.text()), (206, "a "));
    assert_eq!(origin.settings().requests("/a"), 1);
}

/// The control for the tests of this file.
#[tokio::test]
async fn without_a_disk_no_stored_response_survives() {
    let origin = origin(&["/a"]).await;
    let mut gateway = Gateway::start(&yaml(origin.address(), "{ memory: 64MiB }", "")).await;
    ask(&gateway, "/a").await.assert_cached("MISS", "/a #1");
    end(&mut gateway, Signal::TERM).await;
    gateway.start_again(&[], &[]).await;
    ask(&gateway, "/a").await.assert_cached("MISS", "/a #2");
    let metrics = gateway.admin_get("/metrics").await.text();
    assert!(!metrics.contains("edgeway_cache_disk"), "{metrics}");
    assert!(gateway.status().await["cache_disk"].is_null());
}

#[tokio::test]
async fn corrupt_objects_are_dropped_and_fetched_again() {
    let origin = origin(&["/a"]).await;
    let mut gateway = front(&origin).await;
    let folder = gateway.folder().join("kept");
    written(&gateway, &page("/a")).await;
    let damages: [fn(&mut Vec<u8>); 5] = [
        Vec::clear,
        |bytes| bytes.truncate(bytes.len() / 2),
        |bytes| *bytes.last_mut().unwrap() ^= 0x20,
        |bytes| bytes[40] ^= 1,
        // Another version of the file format.
        |bytes| bytes[7] += 1,
    ];
    for (number, damage) in damages.iter().enumerate() {
        end(&mut gateway, Signal::KILL).await;
        let [file] = &objects(&folder)[..] else {
            panic!("one file: {:?}", objects(&folder));
        };
        let mut bytes = fs::read(file).unwrap();
        damage(&mut bytes);
        fs::write(file, bytes).unwrap();
        gateway.start_again(&[], &[]).await;
        up(&gateway).await;
        let response = written(&gateway, &page("/a")).await;
        response.assert_cached("MISS", &format!("/a #{}", number + 2));
        assert_eq!(gateway.count(DAMAGED).await, 1, "{number}");
    }
    // The control: an unchanged file is served.
    restart(&mut gateway, Signal::KILL).await;
    from_disk(&gateway, page("/a"))
        .await
        .assert_cached("HIT", "/a #6");
    assert_eq!(gateway.count(DAMAGED).await, 0);
}

#[tokio::test]
async fn a_folder_that_others_can_read_is_not_used() {
    let origin = origin(&["/a"]).await;
    let gateway = front(&origin).await;
    written(&gateway, &page("/a")).await;
    let folder = gateway.folder().join("kept");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let file = objects(&folder).remove(0);
    for folder in [&*folder, &folder.join("v1"), file.parent().unwrap()] {
        assert_eq!(mode(folder), 0o700, "{}", folder.display());
    }
    for file in [&file, &folder.join("v1/journal"), &folder.join("v1/lock")] {
        assert_eq!(mode(file), 0o600, "{}", file.display());
    }
    drop(gateway);
    let gateway = Gateway::start_in(&yaml(origin.address(), DISK, ""), |folder| {
        let cache_folder = folder.join("kept");
        fs::create_dir(&cache_folder).unwrap();
        fs::set_permissions(&cache_folder, fs::Permissions::from_mode(0o777)).unwrap();
    })
    .await;
    stands(&gateway, "permission").await;
    assert_eq!(ask(&gateway, "/a").await.cache_status(), "MISS");
    assert!(gateway.stderr().contains("is accessible to other users"));
    let cache_folder = gateway.folder().join("kept");
    fs::set_permissions(&cache_folder, fs::Permissions::from_mode(0o755)).unwrap();
    stands(&gateway, "up").await;
}

#[tokio::test]
async fn purged_responses_do_not_come_back() {
    let paths = ["/u/a", "/p/a", "/t/a", "/k/a", "/w/a"];
    let origin = origin(&[]).await;
    let plain = [("cache-control", "max-age=60")];
    for path in paths {
        origin.settings().tell(path, 200, &plain);
    }
    origin.settings().tell("/t/a", 200, MINUTE);
    let mut gateway = front(&origin).await;
    for path in paths {
        written(&gateway, &page(path)).await;
    }
    assert_eq!(gateway.purge(&json!({ "url": "/u/a" })).await.0, 200);
    assert_eq!(
        gateway
            .purge(&json!({ "prefix": "/p/", "soft": true }))
            .await
            .0,
        200
    );
    assert_eq!(gateway.purge(&json!({ "tag": "posts" })).await.0, 200);
    // RFC 9111, 4.4.
    let write = post("/w/a", "x").header("host", "shop.test");
    assert_eq!(gateway.send(&write).await.status(), 200);
    restart(&mut gateway, Signal::KILL).await;
    from_disk(&gateway, page("/k/a"))
        .await
        .assert_cached("HIT", "/k/a #1");
    for path in ["/u/a", "/p/a", "/t/a"] {
        ask(&gateway, path)
            .await
            .assert_cached("MISS", &format!("{path} #2"));
    }
    ask(&gateway, "/w/a").await.assert_cached("MISS", "/w/a #3");
    wait_for("they are on disk again", SOON, async || {
        (gateway.count(WRITTEN).await == 4).then_some(())
    })
    .await;
    restart(&mut gateway, Signal::KILL).await;
    from_disk(&gateway, page("/u/a"))
        .await
        .assert_cached("HIT", "/u/a #2");
    assert_eq!(gateway.purge(&json!({ "all": true })).await.0, 200);
    restart(&mut gateway, Signal::KILL).await;
    for path in paths {
        assert_eq!(ask(&gateway, path).await.cache_status(), "MISS", "{path}");
    }
}

#[tokio::test]
async fn a_truncated_journal_is_discarded() {
    let origin = origin(&["/a"]).await;
    let mut gateway = front(&origin).await;
    written(&gateway, &page("/a")).await;
    assert_eq!(gateway.purge(&json!({ "url": "/b" })).await.0, 200);
    let journal = gateway.folder().join("kept/v1/journal");
    for (number, length) in [0, 20, 4000].into_iter().enumerate() {
        end(&mut gateway, Signal::KILL).await;
        let bytes = fs::read(&journal).unwrap();
        fs::write(&journal, &bytes[..length]).unwrap();
        gateway.start_again(&[], &[]).await;
        up(&gateway).await;
        let response = written(&gateway, &page("/a")).await;
        response.assert_cached("MISS", &format!("/a #{}", number + 2));
    }
}

#[tokio::test]
async fn responses_purged_by_peers_while_stopped_do_not_come_back() {
    let redis = Redis::start().await;
    let more = format!("redis: {}\n", redis.section(", timeout: 1s"));
    let origin = origin(&["/a", "/b"]).await;
    let mut gateway = Gateway::start(&yaml(origin.address(), DISK, &more)).await;
    up(&gateway).await;
    gateway.follows_purges().await;
    for path in ["/a", "/b"] {
        written(&gateway, &page(path)).await;
    }
    // The position in the log is saved a moment after it is reached.
    let other = Gateway::start(&yaml(origin.address(), "{ memory: 64MiB }", &more)).await;
    other.follows_purges().await;
    for signal in [Signal::TERM, Signal::KILL] {
        restart(&mut gateway, signal).await;
        from_disk(&gateway, page("/a"))
            .await
            .assert_cached("HIT", "/a #1");
        gateway.follows_purges().await;
    }
    end(&mut gateway, Signal::KILL).await;
    // From the point of view of `other`, the gateways that were killed may still serve it.
    let (status, receipt) = other.purge(&json!({ "url": "/a" })).await;
    assert_eq!(
        (status, &receipt["others"]),
        (200, &"linked".into()),
        "{receipt}"
    );
    gateway.start_again(&[], &[]).await;
    up(&gateway).await;
    ask(&gateway, "/a").await.assert_cached("MISS", "/a #2");
    from_disk(&gateway, page("/b"))
        .await
        .assert_cached("HIT", "/b #1");
    gateway.follows_purges().await;
    // The log has lost the gateway's position: anything may have been purged.
    end(&mut gateway, Signal::KILL).await;
    redis.flush();
    other.follows_purges().await;
    gateway.start_again(&[], &[]).await;
    up(&gateway).await;
    ask(&gateway, "/b").await.assert_cached("MISS", "/b #2");
}

#[tokio::test]
async fn without_redis_the_disk_is_used_after_a_lease_as_configured() {
    let origin = origin(&["/a"]).await;
    for (lost, expected) in [("serve", "HIT"), ("revalidate", "REVALIDATED")] {
        let mut redis = Redis::start().await;
        let more = format!("redis: {}\n", redis.section(", timeout: 1s"));
        let cache =
            format!("{{ disk: {{ folder: kept, size: 64MiB }}, on_purge_link_lost: {lost} }}");
        let mut gateway = Gateway::start(&yaml(origin.address(), &cache, &more)).await;
        up(&gateway).await;
        gateway.follows_purges().await;
        let mut paths = (0..8).map(|number| format!("/a?{number}"));
        for path in paths.clone() {
            written(&gateway, &page(&path)).await;
        }
        restart(&mut gateway, Signal::KILL).await;
        end(&mut gateway, Signal::KILL).await;
        redis.kill();
        gateway.start_again(&[], &[]).await;
        stands(&gateway, "catching_up").await;
        up(&gateway).await;
        // On a busy machine a read may take longer than a request waits for it.
        let is_expected =
            async |path: String| ask(&gateway, &path).await.cache_status() == expected;
        wait_for("one is read in time", SOON, async || {
            let path = paths.next().expect("one of them is read");
            is_expected(path).await.then_some(())
        })
        .await;
        assert_eq!(gateway.count(FOUND).await, 1, "{lost}");
    }
}

#[tokio::test]
async fn one_process_has_the_folder_and_another_serves_without_it() {
    let origin = origin(&["/a"]).await;
    let mut first = front(&origin).await;
    written(&first, &page("/a")).await;
    let folder = first.folder().join("kept");
    let cache = format!(
        "{{ disk: {{ folder: {}, size: 64MiB }} }}",
        folder.display()
    );
    let second = Gateway::start(&yaml(origin.address(), &cache, "")).await;
    stands(&second, "busy").await;
    assert_eq!(second.count(UP).await, 0);
    wait_for("the log says so", SOON, async || {
        let log = second.stderr();
        log.contains("folder in use by another process")
            .then_some(())
    })
    .await;
    ask(&second, "/a").await.assert_cached("MISS", "/a #2");
    ask(&first, "/a").await.assert_cached("HIT", "/a #1");
    // A purge that it received meanwhile holds once it owns the folder.
    assert_eq!(second.purge(&json!({ "url": "/a" })).await.0, 200);
    end(&mut first, Signal::KILL).await;
    up(&second).await;
    ask(&second, "/a").await.assert_cached("MISS", "/a #3");
}

#[tokio::test]
async fn purges_sent_to_a_gateway_without_the_folder_outlive_it() {
    let origin = origin(&["/a", "/b"]).await;
    let mut first = front(&origin).await;
    for path in ["/a", "/b"] {
        written(&first, &page(path)).await;
    }
    let folder = first.folder().join("kept");
    let cache = format!(
        "{{ disk: {{ folder: {}, size: 64MiB }} }}",
        folder.display()
    );
    let mut second = Gateway::start(&yaml(origin.address(), &cache, "")).await;
    stands(&second, "busy").await;
    assert_eq!(second.purge(&json!({ "url": "/a" })).await.0, 200);
    end(&mut second, Signal::TERM).await;
    restart(&mut first, Signal::KILL).await;
    ask(&first, "/a").await.assert_cached("MISS", "/a #2");
    from_disk(&first, page("/b"))
        .await
        .assert_cached("HIT", "/b #1");
    // An upgrade of it does not bring anything back either.
    second.start_again(&[], &[]).await;
    stands(&second, "busy").await;
    assert_eq!(second.purge(&json!({ "url": "/b" })).await.0, 200);
    second.upgrade().await;
    end(&mut first, Signal::KILL).await;
    up(&second).await;
    ask(&second, "/b").await.assert_cached("MISS", "/b #2");
}

#[tokio::test]
async fn after_an_upgrade_everything_is_there() {
    let paths: Vec<String> = (0..50).map(|number| format!("/{number}")).collect();
    let names: Vec<&str> = paths.iter().map(String::as_str).collect();
    let origin = origin(&names).await;
    let mut gateway = front(&origin).await;
    for path in &paths {
        ask(&gateway, path).await;
    }
    // The client may have a response before it is stored. Queued ones are written at exit.
    gateway.counts("edgeway_cache_objects", 50).await;
    gateway.upgrade().await;
    up(&gateway).await;
    for path in &paths {
        from_disk(&gateway, page(path))
            .await
            .assert_cached("HIT", &format!("{path} #1"));
    }
    // Some responses may have been transferred in memory: the disk has all of them.
    gateway.counts("edgeway_cache_disk_objects", 50).await;
    assert!(!gateway.stderr().contains("another process uses the folder"));
}

/// A write is still in flight at the old process when the new one serves.
#[tokio::test]
async fn responses_removed_by_the_old_process_are_gone_in_the_new_one() {
    let origin = origin(&["/a", "/b"]).await;
    let mut gateway = front(&origin).await;
    for path in ["/a", "/b"] {
        written(&gateway, &page(path)).await;
    }
    origin.settings().slow("/a", Duration::from_secs(3));
    let address = gateway.address();
    let mut writing = JoinSet::new();
    writing.spawn(async move {
        let write = post("/a", "x").header("host", "shop.test");
        client::send(address, &write).await
    });
    wait_for("the write is in flight", SOON, async || {
        (origin.settings().requests("/a") == 2).then_some(())
    })
    .await;
    gateway.upgrade().await;
    up(&gateway).await;
    from_disk(&gateway, page("/b"))
        .await
        .assert_cached("HIT", "/b #1");
    let response = writing.join_all().await.remove(0);
    let response = response.expect("the old process responds");
    assert_eq!(response.status(), 200);
    origin.settings().slow("/a", Duration::ZERO);
    // The response was sent after the new process knew of the purge.
    ask(&gateway, "/a").await.assert_cached("MISS", "/a #3");
}

#[tokio::test]
async fn a_reload_switches_it_on_and_off_and_elsewhere() {
    let origin = origin(&["/a", "/b"]).await;
    let mut gateway = front(&origin).await;
    for path in ["/a", "/b"] {
        written(&gateway, &page(path)).await;
    }
    let off = yaml(origin.address(), "{ memory: 64MiB }", "");
    assert!(gateway.reload(&off).await);
    assert!(gateway.status().await["cache_disk"].is_null());
    assert_eq!(gateway.purge(&json!({ "url": "/b" })).await.0, 200);
    let on = yaml(origin.address(), DISK, "");
    assert!(gateway.reload(&on).await);
    up(&gateway).await;
    restart(&mut gateway, Signal::TERM).await;
    from_disk(&gateway, page("/a"))
        .await
        .assert_cached("HIT", "/a #1");
    // It was purged while the disk was off.
    let response = written(&gateway, &page("/b")).await;
    response.assert_cached("MISS", "/b #2");
    // Another folder begins empty, and this one stays as it is.
    let elsewhere = "{ disk: { folder: other, size: 8MiB } }";
    let before = objects(&gateway.folder().join("kept"));
    let elsewhere = yaml(origin.address(), elsewhere, "");
    assert!(gateway.reload(&elsewhere).await);
    wait_for("the other folder is used", SOON, async || {
        let disk = &gateway.status().await["cache_disk"];
        (disk["state"] == "up" && disk["budget_bytes"] == 8 << 20).then_some(())
    })
    .await;
    assert!(objects(&gateway.folder().join("other")).is_empty());
    assert_eq!(objects(&gateway.folder().join("kept")), before);
    // A smaller folder takes less at once.
    origin.settings().pad("/c", 900 << 10);
    origin.settings().tell("/c", 200, MINUTE);
    for number in 0..3 {
        written(&gateway, &page(&format!("/c?{number}"))).await;
    }
    let smaller = "{ disk: { folder: other, size: 2MiB } }";
    assert!(gateway.reload(&yaml(origin.address(), smaller, "")).await);
    wait_for("it has shrunk", SOON, async || {
        let objects = gateway.count("edgeway_cache_disk_objects").await;
        let bytes = gateway.count("edgeway_cache_disk_bytes").await;
        (objects == 2 && bytes <= 2 << 20).then_some(())
    })
    .await;
    let evicted = "edgeway_cache_disk_dropped_total{why=\"evicted\"}";
    assert_eq!(gateway.count(evicted).await, 1);
    assert_eq!(objects(&gateway.folder().join("other")).len(), 2);
}

/// Gateway with its folder on a separate disk, which disappears with the process.
struct Mounted {
    gateway: Gateway,
    has_user_namespace: bool,
}

impl Mounted {
    /// Returns `None` where nothing can be mounted.
    async fn start(origin: &Origin<NumberedOrigin>, size: &str) -> Option<Self> {
        let mounted = Self::begin(origin, size).await?;
        up(&mounted.gateway).await;
        Some(mounted)
    }

    async fn begin(origin: &Origin<NumberedOrigin>, options: &str) -> Option<Self> {
        Self::begin_with(origin, options, "").await
    }

    async fn begin_with(
        origin: &Origin<NumberedOrigin>,
        options: &str,
        more: &str,
    ) -> Option<Self> {
        let own = namespaces::unshare(&["--mount"], "mount -t tmpfs none /mnt")?;
        let has_user_namespace = own.contains(&"--user");
        let own = own.join(" ");
        let yaml = yaml(origin.address(), DISK, more);
        let gateway = Gateway::start_in(&yaml, |folder| {
            let cache_folder = folder.join("kept");
            fs::create_dir(&cache_folder).expect("the folder is the test's own");
            let program = folder.join("edgeway");
            let script = format!(
                "#!/bin/sh\nexec unshare {own} sh -c 'mount -t tmpfs -o \
                 {options},mode=700 none {} && exec {} \"$@\"' sh \"$@\"\n",
                cache_folder.display(),
                env!("CARGO_BIN_EXE_edgeway"),
            );
            fs::write(&program, script).expect("the folder takes files");
            let may_run = fs::Permissions::from_mode(0o755);
            fs::set_permissions(&program, may_run).expect("the file is ours");
        })
        .await;
        Some(Self {
            gateway,
            has_user_namespace,
        })
    }

    /// Path of the folder as the gateway's process sees it.
    fn cache_folder(&self) -> PathBuf {
        let folder = self.gateway.folder().join("kept");
        let inside = folder.strip_prefix("/").expect("it begins there");
        PathBuf::from(format!("/proc/{}/root", self.gateway.pid())).join(inside)
    }

    /// Mounts in the process' mount namespace.
    fn mount(&self, arguments: &[&str]) {
        let pid = self.gateway.pid().to_string();
        let mut command = Command::new("nsenter");
        command.args(["--target", &pid, "--mount"]);
        if self.has_user_namespace {
            command.args(["--user", "--preserve-credentials"]);
        }
        let done = command.args(arguments).status();
        assert!(done.expect("nsenter is part of any Linux").success());
    }
}

#[tokio::test]
async fn a_full_disk_fails_no_request() {
    let origin = origin(&["/a", "/b", "/c"]).await;
    // The journal's space is reserved from the beginning.
    let Some(mounted) = Mounted::start(&origin, "size=6m").await else {
        return;
    };
    let gateway = &mounted.gateway;
    written(gateway, &page("/a")).await;
    let filler = mounted.cache_folder().join("filler");
    fs::write(&filler, vec![1; 4 << 20]).expect_err("there is no room for that");
    for path in ["/b", "/b?1"] {
        assert_eq!(ask(gateway, path).await.cache_status(), "MISS");
    }
    stands(gateway, "full").await;
    assert_eq!(gateway.count(UP).await, 0);
    assert!(
        gateway
            .count("edgeway_cache_disk_errors_total{kind=\"full\"}")
            .await
            > 0
    );
    ask(gateway, "/b").await.assert_cached("HIT", "/b #1");
    // Purges still hold, and existing entries are read.
    assert_eq!(gateway.purge(&json!({ "url": "/b" })).await.0, 200);
    ask(gateway, "/b").await.assert_cached("MISS", "/b #3");
    // One line, however often it is retried.
    pass(Duration::from_secs(4)).await;
    let lines = gateway.stderr();
    let reports = lines.matches("cache disk failed").count();
    assert_eq!(reports, 1, "{lines}");
    fs::remove_file(&filler).unwrap();
    stands(gateway, "up").await;
    written(gateway, &page("/c")).await;
}

/// Invariant: whatever `size` says, and whatever others write, the cache leaves them room, and takes it
/// back when they need it no more.
#[tokio::test]
async fn what_shares_the_disk_keeps_its_room() {
    let origin = origin(&[]).await;
    let log = "access_log: { file: kept/access.log }\n";
    let Some(mounted) = Mounted::begin_with(&origin, "size=8m", log).await else {
        return;
    };
    let gateway = &mounted.gateway;
    up(gateway).await;
    let disk = mounted.cache_folder();
    let free = || {
        let space = statvfs(&disk).expect("it is there");
        100 * space.f_bavail / space.f_blocks
    };
    let logged = |path: &str| {
        let log = fs::read_to_string(disk.join("access.log")).unwrap_or_default();
        let path = format!("\"path\":\"{path}\"");
        log.lines().filter(|line| line.contains(&path)).count()
    };
    // Each takes a block of 4 KiB, and all of them twice the room that there is.
    let flood = async |path: &str| {
        origin.settings().tell(path, 200, MINUTE);
        for number in 0..1600 {
            let response = ask(gateway, &format!("{path}?{number}")).await;
            assert_eq!(response.status(), 200);
        }
        wait_for("each request has its line", SOON, async || {
            (logged(path) == 1600).then_some(())
        })
        .await;
        let evicted = "edgeway_cache_disk_dropped_total{why=\"evicted\"}";
        assert!(gateway.count(evicted).await > 0, "it is more than fits");
        assert!(free() >= 3, "{} % are free", free());
    };
    flood("/a").await;
    // A response beyond all room is not written, and the next one is.
    origin.settings().tell("/large", 200, MINUTE);
    origin.settings().pad("/large", 4 << 20);
    origin.settings().tell("/small", 200, MINUTE);
    assert_eq!(ask(gateway, "/large").await.status(), 200);
    wait_for("it is given up", SOON, async || {
        let given_up = "edgeway_cache_disk_writes_total{outcome=\"error\"}";
        (gateway.count(given_up).await > 0).then_some(())
    })
    .await;
    written(gateway, &page("/small")).await;
    // Another program takes what is left, and more than once.
    let filler = disk.join("filler");
    for round in 1..=3 {
        let taken = fs::metadata(&filler).map_or(0, |it| it.len());
        let more = vec![1; 1 << 20];
        let mut file = OpenOptions::new()
            .append(true)
            .create(true)
            .open(&filler)
            .unwrap();
        let _full = file.write_all(&more);
        assert!(file.metadata().unwrap().len() > taken, "round {round}");
        wait_for("there is room again", SOON, async || {
            (free() >= 3).then_some(())
        })
        .await;
    }
    flood("/b").await;
    let budget = async || {
        let status = gateway.status().await;
        status["cache_disk"]["budget_bytes"].as_u64().unwrap()
    };
    let before = budget().await;
    let filled = fs::metadata(&filler).unwrap().len();
    fs::remove_file(&filler).unwrap();
    wait_for("the cache has its room again", SOON, async || {
        (budget().await >= before + filled / 2).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_read_only_disk_fails_no_request() {
    let origin = origin(&["/a", "/b"]).await;
    let Some(mounted) = Mounted::start(&origin, "size=16m").await else {
        return;
    };
    let gateway = &mounted.gateway;
    written(gateway, &page("/a")).await;
    // No file there is open; a remount of a whole disk would fail on open files.
    let objects = gateway.folder().join("kept/v1/objects");
    let objects = objects.to_str().expect("the path is ASCII");
    mounted.mount(&["mount", "--bind", objects, objects]);
    mounted.mount(&["mount", "-o", "remount,bind,ro", objects]);
    assert_eq!(ask(gateway, "/b").await.cache_status(), "MISS");
    stands(gateway, "read_only").await;
    ask(gateway, "/b").await.assert_cached("HIT", "/b #1");
    ask(gateway, "/a").await.assert_cached("HIT", "/a #1");
    assert_eq!(gateway.purge(&json!({ "url": "/a" })).await.0, 200);
    ask(gateway, "/a").await.assert_cached("MISS", "/a #2");
    mounted.mount(&["umount", objects]);
    stands(gateway, "up").await;
    let response = written(gateway, &page("/b?2")).await;
    assert_eq!(response.cache_status(), "MISS");
}

#[tokio::test]
async fn a_gateway_starts_with_a_folder_that_cannot_be_written() {
    let origin = origin(&["/a"]).await;
    let Some(mounted) = Mounted::begin(&origin, "size=16m,ro").await else {
        return;
    };
    let gateway = &mounted.gateway;
    stands(gateway, "read_only").await;
    assert_eq!(ask(gateway, "/a").await.cache_status(), "MISS");
    ask(gateway, "/a").await.assert_cached("HIT", "/a #1");
    let cache_folder = gateway.folder().join("kept");
    let cache_folder = cache_folder.to_str().expect("the path is ASCII");
    mounted.mount(&["mount", "-o", "remount,rw", cache_folder]);
    stands(gateway, "up").await;
    // It was requested before the purges since then were known.
    let response = written(gateway, &page("/a?1")).await;
    assert_eq!(response.cache_status(), "MISS");
}

#[tokio::test]
async fn a_folder_that_was_removed_is_created_again() {
    let origin = origin(&["/a", "/b"]).await;
    let mut gateway = front(&origin).await;
    written(&gateway, &page("/a")).await;
    let folder = gateway.folder().join("kept");
    fs::remove_dir_all(&folder).unwrap();
    assert_eq!(ask(&gateway, "/b").await.cache_status(), "MISS");
    ask(&gateway, "/a").await.assert_cached("HIT", "/a #1");
    wait_for("the folder is used again", SOON, async || {
        let is_there = folder.join("v1/lock").exists();
        (is_there && gateway.count(UP).await == 1).then_some(())
    })
    .await;
    let response = written(&gateway, &page("/b?1")).await;
    assert_eq!(response.cache_status(), "MISS");
    restart(&mut gateway, Signal::KILL).await;
    assert_eq!(ask(&gateway, "/b?1").await.cache_status(), "HIT");
}

/// Opening a pipe blocks until the other end is open.
#[tokio::test]
async fn files_that_cannot_be_read_are_dropped_one_by_one() {
    let origin = origin(&["/a"]).await;
    let mut gateway = front(&origin).await;
    for number in 0..4 {
        written(&gateway, &page(&format!("/a?{number}"))).await;
    }
    end(&mut gateway, Signal::TERM).await;
    let files = objects(&gateway.folder().join("kept"));
    assert_eq!(files.len(), 4);
    for file in &files[1..] {
        fs::remove_file(file).unwrap();
        let made = Command::new("mkfifo").arg(file).status();
        assert!(made.expect("mkfifo is part of any Linux").success());
    }
    gateway.start_again(&[], &[]).await;
    up(&gateway).await;
    let mut hits = 0;
    for number in 0..4 {
        let response = ask(&gateway, &format!("/a?{number}")).await;
        hits += usize::from(response.cache_status() == "HIT");
    }
    assert_eq!(hits, 1);
    assert_eq!(gateway.count(DAMAGED).await, 3);
    stands(&gateway, "up").await;
}
