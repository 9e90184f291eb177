//! Users whose passwords the command line hashed, at a running gateway.

use base64::{Engine as _, engine::general_purpose::STANDARD};

use crate::{
    cli::edgeway_fed,
    support::{
        client::get,
        gateway::Gateway,
        origins::{EchoOrigin, echoed},
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

    // Who is taken off the list is out at once, whatever was remembered of him.
    std::fs::write(gateway.folder().join("users.htpasswd"), &alice).unwrap();
    assert!(gateway.reload(&yaml).await);
    assert_eq!(ask("/", "bob:builder").await.status(), 401);
    assert_eq!(ask("/", "alice:wonderland").await.status(), 200);
}
