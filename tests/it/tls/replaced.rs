//! Certificates that are replaced while clients connect. Invariants: whatever happens to the files, each
//! handshake succeeds with the last good certificate, and a bad one shows in metric, log and status; and
//! what could not be read is read as soon as it can be.

use std::{
    collections::HashSet,
    fs,
    os::unix::fs::symlink,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use fastrand::Rng;
use rcgen::DnType;
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use tokio::task::JoinSet;

use super::{SOON, Site, WATCHED};
use crate::support::{
    certificates::{Ca, Issued, Wanted, replace},
    client::{Connection, get},
    gateway::Gateway,
    origins::EchoOrigin,
    pebble::trusting,
    ports::free_port,
    seed::{cases, drawn},
    wait::{pass, wait_for},
};

const WELL: &str = "edgeway_certificate_last_reload_success{listener=\"web\"}";

/// State in which a pair is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    Good,
    Half,
    Mismatched,
    Expired,
    NotYet,
    Empty,
    Gone,
}

const ALL: [Left; 8] = [
    Left::Good,
    Left::Good,
    Left::Half,
    Left::Mismatched,
    Left::Expired,
    Left::NotYet,
    Left::Empty,
    Left::Gone,
];

/// Leaves a new pair in `folder`, and returns it.
fn leave(left: Left, ca: &Ca, folder: &Path, is_in_place: bool) -> Issued {
    let wanted = Wanted::site(&["a.test"]);
    let pair = ca.issue(&match left {
        Left::Expired => wanted.days(-20, -10),
        Left::NotYet => wanted.days(5, 20),
        _ => wanted,
    });
    let (cert, key) = (folder.join("a.pem"), folder.join("a.key"));
    let text = match left {
        Left::Half => &pair.cert[..pair.cert.len() / 2],
        Left::Empty => "",
        _ => &pair.cert,
    };
    let write = |path: &Path, text: &str| {
        if is_in_place {
            fs::write(path, text).unwrap();
        } else {
            replace(path, text);
        }
    };
    if left != Left::Mismatched {
        write(&key, &pair.key);
    }
    write(&cert, text);
    if left == Left::Gone {
        fs::remove_file(&cert).unwrap();
    }
    pair
}

#[tokio::test]
async fn the_last_good_certificate_is_served_whatever_happens_to_the_files() {
    let random = &mut Rng::with_seed(drawn());
    let tls = "{ certificates: { cert: live/a.pem, key: live/a.key } }";
    let site = Site::start(tls, |ca, folder| {
        fs::create_dir(folder.join("v0")).unwrap();
        ca.site(&["a.test"]).write(&folder.join("v0"), "a");
        symlink("v0", folder.join("live")).unwrap();
    })
    .await;
    let folder = site.gateway.folder().to_owned();
    let is_over = Arc::new(AtomicBool::new(false));
    let count = Arc::new(AtomicUsize::new(0));
    let mut visitor = JoinSet::new();
    visitor.spawn({
        let (to, trust) = (site.gateway.address(), site.trust());
        let (is_over, count) = (Arc::clone(&is_over), Arc::clone(&count));
        async move {
            while !is_over.load(Ordering::Relaxed) {
                let mut open = Connection::open_tls(to, "a.test", &trust).await.unwrap();
                assert_eq!(open.send(&get("/")).await.unwrap().status(), 200);
                count.fetch_add(1, Ordering::Relaxed);
                pass(Duration::from_millis(20)).await;
            }
        }
    });
    let mut good = site.serial("a.test").await;
    for step in 1..=cases(12, 100) {
        let left = *random.choice(&ALL).expect("there are some");
        let is_swapped = random.bool();
        let at = folder.join(format!("v{step}"));
        let pair = if is_swapped {
            // As certbot and Kubernetes do it: a new folder, and a link that leads to it.
            let live = fs::canonicalize(folder.join("live")).unwrap();
            fs::create_dir(&at).unwrap();
            for file in ["a.pem", "a.key"] {
                if live.join(file).exists() {
                    fs::copy(live.join(file), at.join(file)).unwrap();
                }
            }
            let pair = leave(left, &site.ca, &at, true);
            symlink(&at, folder.join("draft")).unwrap();
            fs::rename(folder.join("draft"), folder.join("live")).unwrap();
            pair
        } else {
            leave(left, &site.ca, &folder.join("live"), random.bool())
        };
        if left == Left::Good {
            good = pair.serial;
        }
        let what = format!("step {step}: {left:?}, by a link: {is_swapped}");
        wait_for(&what, WATCHED, async || {
            let is_well = site.gateway.count(WELL).await == 1;
            (is_well == (left == Left::Good) && site.serial("a.test").await == good).then_some(())
        })
        .await;
        let status = site.gateway.status().await;
        let bad = status["unusable_certificates"].as_array().unwrap().len();
        assert_eq!(bad, usize::from(left != Left::Good), "{what}: {status}");
        let log = site.gateway.stderr();
        let is_logged = log.contains("changed certificate unusable");
        assert!(is_logged || left == Left::Good, "{what}: {log}");
    }
    is_over.store(true, Ordering::Relaxed);
    let ended = visitor.join_next().await.expect("it visits");
    ended.expect("each handshake succeeds");
    assert!(count.load(Ordering::Relaxed) > 10);
}

/// Sets the number of files that a process may open: none besides those that it has, or 4096.
async fn let_open(gateway: &Gateway, is_free: bool) {
    let pid = i32::try_from(gateway.pid()).ok().and_then(Pid::from_raw);
    let limit = |most: u64| {
        let (current, maximum) = (Some(most), Some(4096));
        prlimit(pid, Resource::Nofile, Rlimit { current, maximum }).expect("it is ours");
    };
    if is_free {
        return limit(4096);
    }
    let lowest = || {
        let files = fs::read_dir(format!("/proc/{}/fd", gateway.pid())).unwrap();
        let names = files.map(|file| file.unwrap().file_name());
        let taken: HashSet<u64> = names.filter_map(|n| n.to_str()?.parse().ok()).collect();
        (0..4096).find(|number| !taken.contains(number)).unwrap()
    };
    wait_for("no file can be opened", SOON, async || {
        let free = lowest();
        limit(free);
        pass(Duration::from_millis(50)).await;
        (lowest() == free).then_some(())
    })
    .await;
}

#[tokio::test]
#[cfg_attr(edgeway_portable, ignore = "limits of another process need Linux")]
async fn what_could_not_be_opened_is_read_as_soon_as_it_can_be() {
    let (ca, other) = (Ca::new(), Ca::new());
    let origin = EchoOrigin::start().await;
    let yaml = format!(
        "listeners:
  - {{ address: '127.0.0.1:0', name: web, tls: {{ certificates: {{ cert: a.pem, key: a.key }}, client_ca: ca.pem }} }}
  - {{ address: '127.0.0.1:{}', name: shared, tls: {{ acme: [f.test] }} }}
  - {{ address: '127.0.0.1:0', name: plain }}
acme: {{ folder: acme, challenge: http-01, issuer: '127.0.0.1:9' }}
upstreams: {{ app: {{ backends: ['{}'], health: false }} }}
routes: [{{ match: {{ path: /* }}, upstream: app }}]
",
        free_port(),
        origin.address()
    );
    let gateway = Gateway::start_in(&yaml, |folder| {
        ca.site(&["a.test"]).write(folder, "a");
        fs::write(folder.join("ca.pem"), ca.pem()).unwrap();
        fs::create_dir_all(folder.join("acme/certificates/f.test")).unwrap();
    })
    .await;
    let [web, shared] = ["web", "shared"].map(|name| gateway.listener(name).parse().unwrap());
    let folder = gateway.folder().to_owned();
    let bob = other.issue(&Wanted::client(&[(DnType::CommonName, "bob")]));
    let bob = Arc::new(ca.trust_with(Some(&bob)));
    let (next, issued) = (ca.site(&["a.test"]), ca.site(&["f.test"]));
    let_open(&gateway, false).await;
    next.write(&folder, "a");
    replace(&folder.join("ca.pem"), other.pem());
    let managed = folder.join("acme/certificates/f.test");
    replace(&managed.join("privkey.pem"), &issued.key);
    replace(&managed.join("fullchain.pem"), &issued.cert);
    wait_for("nothing could be read", WATCHED, async || {
        let log = gateway.stderr();
        let is_logged = log.matches("changed certificate unusable").count() == 2
            && log.contains("certificate of the issuer unusable");
        is_logged.then_some(())
    })
    .await;
    let_open(&gateway, true).await;
    let any = Arc::new(trusting());
    wait_for("all was read", WATCHED, async || {
        let mut open = Connection::open_tls(web, "a.test", &bob).await.ok()?;
        let is_trusted = open
            .send(&get("/"))
            .await
            .is_ok_and(|it| it.status() == 200);
        let shared = Connection::open_tls(shared, "f.test", &any).await.ok()?;
        let serials = [super::serial(&open), super::serial(&shared)];
        (is_trusted && serials == [next.serial, issued.serial]).then_some(())
    })
    .await;
    wait_for("all is well", WATCHED, async || {
        (gateway.count(WELL).await == 1).then_some(())
    })
    .await;
    // Each of the two files was new once.
    let log = gateway.stderr();
    let lines = log.matches("certificate of the issuer unusable").count();
    assert!(lines <= 2, "{log}");
}
