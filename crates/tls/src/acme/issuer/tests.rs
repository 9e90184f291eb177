//! Tests of the issuer against a fake CA with scripted responses.

use std::{fmt::Write as _, sync::Arc};

use parking_lot::Mutex;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    task::JoinSet,
};

use super::*;
use crate::{
    Certificates,
    acme::certificate,
    base::metrics::Metrics,
    config::model::{ChallengeConfig, UnknownNamesConfig},
    expiry::Expiries,
};

/// Response of the fake CA: status, headers, body.
type CaResponse = (u16, Vec<(&'static str, String)>, String);

/// Fake CA over plain HTTP on loopback. It verifies no signatures.
struct FakeCa {
    url: String,
    requests: Arc<Mutex<Vec<String>>>,
    _serving: JoinSet<()>,
}

impl FakeCa {
    async fn start(respond: impl Fn(&str, usize) -> CaResponse + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let requests: Arc<Mutex<Vec<String>>> = Arc::default();
        let (base, log) = (url.clone(), Arc::clone(&requests));
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            loop {
                let (mut socket, _) = listener.accept().await.unwrap();
                let path = read_request(&mut socket).await;
                let before = {
                    let mut log = log.lock();
                    log.push(path.clone());
                    log.iter().filter(|request| **request == path).count() - 1
                };
                let (status, headers, body) = match path.as_str() {
                    "/directory" => (200, vec![], directory(&base)),
                    "/nonce" => (200, vec![], String::new()),
                    "/account" => {
                        let url = format!("{base}/account/{before}");
                        (201, vec![("location", url)], "{}".to_owned())
                    }
                    path => respond(path, before),
                };
                let mut response =
                    format!("HTTP/1.1 {status} X\r\nreplay-nonce: n\r\nconnection: close\r\n");
                for (name, value) in headers {
                    write!(response, "{name}: {value}\r\n").unwrap();
                }
                write!(response, "content-length: {}\r\n\r\n{body}", body.len()).unwrap();
                socket.write_all(response.as_bytes()).await.unwrap();
            }
        });
        Self {
            url,
            requests,
            _serving: serving,
        }
    }

    fn times(&self, path: &str) -> usize {
        let requests = self.requests.lock();
        requests.iter().filter(|request| *request == path).count()
    }
}

async fn read_request(socket: &mut tokio::net::TcpStream) -> String {
    let mut request = Vec::new();
    loop {
        socket.read_buf(&mut request).await.unwrap();
        let text = String::from_utf8_lossy(&request).to_ascii_lowercase();
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        let length = head
            .lines()
            .find_map(|l| l.strip_prefix("content-length: "));
        let length = length.map_or(0, |length| length.parse().unwrap());
        if body.len() >= length {
            let text = String::from_utf8_lossy(&request).into_owned();
            return text.split(' ').nth(1).unwrap().to_owned();
        }
    }
}

fn directory(base: &str) -> String {
    serde_json::json!({
        "newNonce": format!("{base}/nonce"),
        "newAccount": format!("{base}/account"),
        "newOrder": format!("{base}/order"),
        "renewalInfo": format!("{base}/renewal"),
    })
    .to_string()
}

fn problem(status: u16, kind: &str) -> CaResponse {
    let body = serde_json::json!({
        "type": format!("urn:ietf:params:acme:error:{kind}"),
        "detail": "as it is told",
        "status": status,
    });
    (status, vec![], body.to_string())
}

struct Setup {
    issuing: Arc<Issuing>,
    managed: Arc<ManagedName>,
    name: ConfiguredName,
    metrics: Metrics,
    _folder: TempDir,
}

fn setup(directory: &str) -> Setup {
    let folder = tempfile::tempdir().unwrap();
    let metrics = Metrics::default();
    let shared = Arc::<IssuerState>::default();
    let managed = Arc::new(ManagedName::new("shop.example".into(), &metrics));
    let name = ConfiguredName {
        managed: Arc::clone(&managed),
        challenges: [ChallengeConfig::TlsAlpn01, ChallengeConfig::Http01].into(),
    };
    Setup {
        issuing: Arc::new(Issuing {
            ca: CaClient {
                directory: directory.to_owned(),
                roots: Some(Arc::new(rustls::RootCertStore::empty())),
                email: None,
                making: Arc::clone(&shared.making),
            },
            store: Store::new(folder.path().to_owned()),
            shared,
            clock: Clock::test(),
        }),
        managed,
        name,
        metrics,
        _folder: folder,
    }
}

/// Creates a CA-signed certificate, valid for 90 days from now.
fn signed(now: SystemTime) -> Pem {
    let mut own = CertificateParams::default();
    own.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = Issuer::new(own, KeyPair::generate().unwrap());
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(["shop.example".to_owned()]).unwrap();
    params.use_authority_key_identifier_extension = true;
    params.not_before = now.into();
    params.not_after = (now + Duration::from_hours(90 * 24)).into();
    Pem {
        chain: params.signed_by(&key, &issuer).unwrap().pem(),
        key: key.serialize_pem(),
    }
}

impl Setup {
    fn counted(&self, outcome: &str) -> bool {
        let text = String::from_utf8(self.metrics.text()).unwrap();
        text.contains(&format!(
            "{{name=\"shop.example\",outcome=\"{outcome}\"}} 1"
        ))
    }

    fn due(&self) -> Duration {
        let now = self.issuing.clock.wall();
        let due = self.managed.due(&self.issuing.ca.directory, now);
        due.duration_since(now).unwrap()
    }

    fn keep(&self, directory: &str) -> Pem {
        let now = self.issuing.clock.wall();
        let pem = signed(now);
        let state = NameState {
            directory: directory.to_owned(),
            obtained: seconds(now),
            ..NameState::default()
        };
        self.issuing
            .store
            .save("shop.example", &pem, &state)
            .unwrap();
        pem
    }
}

#[tokio::test]
async fn the_retry_after_of_the_ca_is_respected() {
    let ca = FakeCa::start(|_, _| {
        let (status, _, body) = problem(429, "rateLimited");
        (status, vec![("retry-after", "7200".to_owned())], body)
    })
    .await;
    let setup = setup(&format!("{}/directory", ca.url));
    assert_eq!(setup.due(), Duration::ZERO);
    assert!(setup.issuing.attempt(&setup.name).await.unwrap());
    assert!(
        (7200..7202).contains(&setup.due().as_secs()),
        "{:?}",
        setup.due()
    );
    let state = setup.issuing.store.state("shop.example");
    assert_eq!(state.failures, 1);
    assert_eq!(
        state.problem.as_deref(),
        Some("as it is told (rateLimited)")
    );
    assert!(setup.counted("refused"));

    // A restart waits as well, since the CA requested the delay.
    setup
        .managed
        .begin(&setup.issuing.store, setup.issuing.clock.wall());
    assert!(
        (7200..7202).contains(&setup.due().as_secs()),
        "{:?}",
        setup.due()
    );
    setup.issuing.clock.advance(Duration::from_secs(7202));
    assert_eq!(setup.due(), Duration::ZERO);
}

/// Operators change the CA because of a refusal: what one has demanded says nothing about the next.
#[tokio::test]
async fn another_ca_is_asked_at_once() {
    let refusing = FakeCa::start(|_, _| {
        let (status, _, body) = problem(429, "rateLimited");
        (status, vec![("retry-after", "7200".to_owned())], body)
    })
    .await;
    let other = FakeCa::start(|_, _| problem(403, "rejectedIdentifier")).await;
    let setup = setup(&format!("{}/directory", refusing.url));
    for _ in 0..4 {
        assert!(setup.issuing.attempt(&setup.name).await.unwrap());
    }
    assert!(setup.due() >= Duration::from_hours(2), "the control");
    let next = format!("{}/directory", other.url);
    let now = setup.issuing.clock.wall();
    assert_eq!(setup.managed.due(&next, now), now);
    // Its own refusals count from the first.
    let issuing = Issuing {
        ca: CaClient {
            directory: next.clone(),
            roots: None,
            email: None,
            making: Arc::clone(&setup.issuing.shared.making),
        },
        store: setup.issuing.store.clone(),
        shared: Arc::clone(&setup.issuing.shared),
        clock: setup.issuing.clock.clone(),
    };
    assert!(Arc::new(issuing).attempt(&setup.name).await.unwrap());
    assert_eq!(other.times("/order"), 1);
    let due = setup.managed.due(&next, now).duration_since(now).unwrap();
    assert!((120..140).contains(&due.as_secs()), "{due:?}");
    assert_eq!(setup.managed.state().failures, 1);
}

/// RFC 8555, 6.5: the response with the error has the nonce for the next attempt.
#[tokio::test]
async fn a_nonce_that_the_ca_does_not_take_is_replaced() {
    let ca = FakeCa::start(|_, before| match before {
        0 | 1 => problem(400, "badNonce"),
        _ => problem(403, "rejectedIdentifier"),
    })
    .await;
    let setup = setup(&format!("{}/directory", ca.url));
    assert!(setup.issuing.attempt(&setup.name).await.unwrap());
    assert_eq!(ca.times("/order"), 3);
    // One for the account and one for the order.
    assert_eq!(ca.times("/nonce"), 2);
    let problem = setup.managed.state().problem.unwrap();
    assert!(problem.contains("rejectedIdentifier"), "{problem}");
}

/// A CA under load refuses every nonce for a while: that says nothing about the name.
#[tokio::test]
async fn nonces_that_are_never_taken_are_no_refusal() {
    let ca = FakeCa::start(|_, _| problem(400, "badNonce")).await;
    let setup = setup(&format!("{}/directory", ca.url));
    assert!(setup.issuing.attempt(&setup.name).await.unwrap());
    assert!(
        (30..36).contains(&setup.due().as_secs()),
        "{:?}",
        setup.due()
    );
    assert!(setup.counted("unanswered"));
}

#[tokio::test]
async fn an_account_that_was_forgotten_is_made_again() {
    let ca = FakeCa::start(|path, before| match (path, before) {
        ("/order", 0) => problem(400, "accountDoesNotExist"),
        _ => problem(403, "rejectedIdentifier"),
    })
    .await;
    let setup = setup(&format!("{}/directory", ca.url));
    assert!(setup.issuing.attempt(&setup.name).await.unwrap());
    assert_eq!(ca.times("/account"), 2);
    assert_eq!(ca.times("/order"), 2);
    assert!(setup.counted("refused"));
    // The control: a known account is not created again.
    assert!(setup.issuing.attempt(&setup.name).await.unwrap());
    assert_eq!(ca.times("/account"), 2);
}

#[tokio::test]
async fn an_unreachable_ca_is_tried_again_soon() {
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/directory", closed.local_addr().unwrap());
    drop(closed);
    let setup = setup(&url);
    assert_eq!(setup.name.challenge(), Some(ChallengeConfig::TlsAlpn01));
    assert!(setup.issuing.attempt(&setup.name).await.unwrap());
    assert!(
        (30..36).contains(&setup.due().as_secs()),
        "{:?}",
        setup.due()
    );
    assert!(setup.counted("unanswered"));
    let problem = setup.managed.state().problem.unwrap();
    assert!(problem.contains("Connection refused"), "{problem}");
    // The next attempt uses the other challenge.
    assert_eq!(setup.name.challenge(), Some(ChallengeConfig::Http01));
}

#[tokio::test]
async fn a_renewal_is_in_the_window_that_the_ca_suggests() {
    let ca = FakeCa::start(|path, _| {
        assert!(path.starts_with("/renewal/"), "{path}");
        let body = r#"{ "suggestedWindow":
            { "start": "2027-02-01T00:00:00Z", "end": "2027-02-02T00:00:00Z" } }"#;
        (
            200,
            vec![("retry-after", "21600".to_owned())],
            body.to_owned(),
        )
    })
    .await;
    let directory = format!("{}/directory", ca.url);
    let setup = setup(&directory);
    let Setup {
        issuing, managed, ..
    } = &setup;
    setup.keep(&directory);
    managed.begin(&issuing.store, issuing.clock.wall());
    let own = setup.due();
    assert!(
        (57 * 24..=60 * 24).contains(&(own.as_secs() / 3600)),
        "{own:?}"
    );

    // Without an account there is no request. With one there is none right after the start.
    issuing.ask_for_window(managed).await;
    let delay = RequestedDelay::default();
    let known = issuing
        .ca
        .account(&issuing.store, &issuing.clock, &delay, false);
    known.await.unwrap();
    issuing.ask_for_window(managed).await;
    assert_eq!(setup.due(), own);
    issuing.clock.advance(Duration::from_hours(2));
    issuing.ask_for_window(managed).await;
    let due = issuing.clock.wall() + setup.due();
    let first_of_february = SystemTime::UNIX_EPOCH + Duration::from_hours(500_400);
    let into = due.duration_since(first_of_february).unwrap();
    assert!(into <= Duration::from_hours(24), "{into:?}");
    assert!(managed.replaces().is_some());
}

#[tokio::test]
async fn certificates_of_another_process_are_taken_over() {
    let ca = FakeCa::start(|_, _| problem(403, "rejectedIdentifier")).await;
    let directory = format!("{}/directory", ca.url);
    let setup = setup(&directory);
    let busy = setup.issuing.store.lock("shop.example").unwrap();
    assert!(busy.is_some());
    assert!(!setup.issuing.attempt(&setup.name).await.unwrap());
    assert_eq!(ca.times("/order"), 0);

    setup.keep(&directory);
    assert!(setup.issuing.attempt(&setup.name).await.unwrap());
    assert_eq!(ca.times("/order"), 0);
    let stored = setup.issuing.store.load("shop.example").unwrap().unwrap();
    assert_eq!(setup.managed.serial(), Some(stored.certificate.serial));
    assert!(setup.due() > Duration::from_hours(57 * 24));

    // The control: a certificate of another CA is served, and replaced at once.
    setup.keep("https://staging.example/directory");
    let managed = ManagedName::new("shop.example".into(), &setup.metrics);
    let now = setup.issuing.clock.wall();
    managed.begin(&setup.issuing.store, now);
    assert!(managed.serial().is_some());
    assert_eq!(managed.due(&directory, now), now);
}

/// As in a reload: the tasks of a name stop at any point and start again.
#[tokio::test]
async fn a_hundred_reloads_order_once() {
    let ca = FakeCa::start(|_, _| problem(403, "rejectedIdentifier")).await;
    let setup = setup(&format!("{}/directory", ca.url));
    for _ in 0..100 {
        let (issuing, name) = (Arc::clone(&setup.issuing), setup.name.clone());
        let mut keeping = JoinSet::new();
        keeping.spawn(async move { issuing.keep(&name).await });
        tokio::time::sleep(Duration::from_millis(1)).await;
        keeping.shutdown().await;
    }
    // The order that the first of them began has completed, and its result holds.
    let _over = setup.managed.alone.lock().await;
    assert_eq!(ca.times("/order"), 1);
    assert_eq!(ca.times("/account"), 1);
    assert_eq!(setup.managed.state().failures, 1);
    assert!(setup.due() > Duration::from_mins(1));
    assert!(setup.counted("refused"));
}

#[test]
fn listeners_of_a_new_configuration_show_what_those_of_the_old_one_did() {
    let setup = setup("http://127.0.0.1:1/directory");
    let listener = || {
        let expiries = Expiries::new(&setup.metrics, &"web".into());
        let names = ["shop.example".into()].into();
        Arc::new(Certificates::new(
            UnknownNamesConfig::Default,
            names,
            expiries,
            Clock::test(),
        ))
    };
    let old = listener();
    setup.managed.add(&old);
    setup.keep("http://127.0.0.1:1/directory");
    setup
        .managed
        .begin(&setup.issuing.store, setup.issuing.clock.wall());
    let challenge = certificate::challenge("shop.example", &[7; 32]).unwrap();
    setup.managed.show_challenge(Some(Arc::clone(&challenge)));
    let new = listener();
    setup.managed.add(&new);
    let before = old.managed("shop.example").expect("it was there first");
    assert!(Arc::ptr_eq(&before, &new.managed("shop.example").unwrap()));
    // The CA may reach either of the two.
    for listener in [&old, &new] {
        assert!(Arc::ptr_eq(
            &challenge,
            &listener.challenge("shop.example").unwrap()
        ));
    }
    drop(old);
    setup.managed.show_challenge(None);
    assert!(new.challenge("shop.example").is_none());
    let late = listener();
    setup.managed.add(&late);
    assert!(late.challenge("shop.example").is_none());
}
