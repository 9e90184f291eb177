//! Users with passwords that the command line hashed, at a running gateway.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use tokio::{task::JoinSet, time::Instant};

use crate::{
    cli::edgeway_fed,
    support::{
        client::{Connection, get},
        front::Front,
        gateway::Gateway,
        origins::{EchoOrigin, echoed},
        wait::pass,
    },
};

#[tokio::test]
async fn a_hashed_password_lets_its_user_in_until_the_line_is_gone() {
    let hashed = |user: &str, password: &str| {
        let ran = edgeway_fed(&["hash", "password", "--user", user], password);
        assert_eq!(ran.status, 0, "{}", ran.stderr);
        assert!(!ran.stdout.contains(password), "{}", ran.stdout);
        ran.stdout
    };
    let (alice, bob) = (hashed("alice", "wonderland"), hashed("bob", "builder"));
    let origin = EchoOrigin::start().await;
    let yaml = format!(
        "upstreams: {{ web: {{ backends: [\"{}\"] }} }}
routes:
  - match: {{ path: /* }}
    upstream: web
    basic_auth: {{ realm: Staff, file: users.htpasswd, forward: X-Remote-User }}
  - match: {{ path: /open }}
    upstream: web
",
        origin.address()
    );
    let gateway = Gateway::start_in(&yaml, |folder| {
        std::fs::write(folder.join("users.htpasswd"), format!("{alice}{bob}")).unwrap();
    })
    .await;
    let ask = async |path: &str, credentials: &str| {
        let shown = format!("Basic {}", STANDARD.encode(credentials));
        gateway
            .send(&get(path).header("Authorization", shown))
            .await
    };
    let nobody = gateway.get("/").await;
    assert_eq!(nobody.status(), 401);
    let asked = nobody.header("www-authenticate");
    assert_eq!(asked, Some("Basic realm=\"Staff\", charset=\"UTF-8\""));
    assert_eq!(gateway.get("/open").await.status(), 200);
    assert_eq!(ask("/", "alice:builder").await.status(), 401);
    let right = ask("/", "alice:wonderland").await;
    assert_eq!(right.status(), 200);
    let seen = right.json();
    assert_eq!(echoed(&seen, "x-remote-user"), Some("alice"));
    assert_eq!(echoed(&seen, "authorization"), None);
    assert_eq!(ask("/", "bob:builder").await.status(), 200);

    // A user who is removed from the list is refused at once, although the login was cached.
    std::fs::write(gateway.folder().join("users.htpasswd"), &alice).unwrap();
    assert!(gateway.reload(&yaml).await);
    assert_eq!(ask("/", "bob:builder").await.status(), 401);
    assert_eq!(ask("/", "alice:wonderland").await.status(), 200);
}

/// Returns the status of a request to `to` with these credentials, sent from the address `from`.
async fn login(to: SocketAddr, from: &str, credentials: String) -> u16 {
    let from: IpAddr = from.parse().expect("an address");
    let open = Connection::open_from(from, to).await;
    let shown = format!("Basic {}", STANDARD.encode(credentials));
    let request = get("/").header("Authorization", shown);
    let response = open.expect("it listens").send(&request).await;
    response.expect("it responds").status()
}

#[tokio::test]
async fn one_guessing_address_locks_no_other_out() {
    const FLOOD: usize = 90;
    let users = ["ann", "bob", "eve"].map(|user| {
        let ran = edgeway_fed(&["hash", "password", "--user", user], "wonderland");
        assert_eq!(ran.status, 0, "{}", ran.stderr);
        ran.stdout
    });
    let origin = EchoOrigin::start().await;
    let yaml = Front::to(&origin)
        .route("basic_auth: { file: users }")
        .yaml();
    let gateway = Gateway::start_in(&yaml, |folder| {
        std::fs::write(folder.join("users"), users.concat()).unwrap();
    })
    .await;
    let to = gateway.address();
    let began = Instant::now();
    assert_eq!(login(to, "127.0.0.3", "ann:wrong".to_owned()).await, 401);
    let one = began.elapsed();

    let stop = Arc::new(AtomicBool::new(false));
    let mut flood = JoinSet::new();
    for client in 0..FLOOD {
        let stop = Arc::clone(&stop);
        flood.spawn(async move {
            let mut statuses = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                let guess = format!("ann:guess-{client}-{}", statuses.len());
                statuses.push(login(to, "127.0.0.1", guess).await);
            }
            statuses
        });
    }
    // The flood is running.
    pass(one * 4).await;
    for user in ["ann", "bob", "eve"] {
        let began = Instant::now();
        assert_eq!(
            login(to, "127.0.0.2", format!("{user}:wonderland")).await,
            200
        );
        let took = began.elapsed();
        // A comparison of the flood that is running, one more of its address, and the user's own.
        assert!(
            took < one * 20 + Duration::from_secs(2),
            "{took:?}, one takes {one:?}"
        );
    }
    stop.store(true, Ordering::Relaxed);
    let statuses = flood.join_all().await.concat();
    // The control: the flood was one, and most of its requests got 503.
    let busy = statuses.iter().filter(|status| **status == 503).count();
    assert!(busy > statuses.len() / 2, "{busy} of {}", statuses.len());
    assert!(statuses.iter().all(|status| [401, 503].contains(status)));
}
