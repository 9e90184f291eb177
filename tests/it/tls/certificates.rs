//! Certificates from files: by name, by key type, and after changes of the files.

use std::{
    fs,
    os::unix::fs::symlink,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use futures_util::future::join_all;
use parking_lot::Mutex;
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::CryptoProvider,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::task::JoinSet;

use super::{SOON, Site, WATCHED, serial, without_names};
use crate::support::{
    certificates::{Ca, Wanted},
    client::{Connection, get},
    wait::wait_for,
};

/// Returns a client that can verify handshakes with these schemes only.
fn limited(ca: &Ca, takes: impl Fn(SignatureScheme) -> bool) -> Arc<ClientConfig> {
    let defaults = rustls::crypto::ring::default_provider();
    let mut algorithms = defaults.signature_verification_algorithms;
    let mapping: Vec<_> = algorithms
        .mapping
        .iter()
        .filter(|(scheme, _)| takes(*scheme))
        .copied()
        .collect();
    algorithms.mapping = Box::leak(mapping.into_boxed_slice());
    let provider = CryptoProvider {
        signature_verification_algorithms: algorithms,
        ..defaults
    };
    let versions = rustls::DEFAULT_VERSIONS;
    Arc::new(ca.trust_through(provider, versions, None))
}

#[tokio::test]
async fn each_name_gets_its_own_certificate() {
    let mut serials = Vec::new();
    let site = Site::start(
        "{ certificates: [{ cert: first.pem, key: first.key }, { dir: sites }, { cert: plain.pem, key: plain.key }] }",
        |ca, folder| {
            let mut put = |folder: &Path, file: &str, names: &[&str]| {
                fs::create_dir_all(folder).unwrap();
                let issued = ca.site(names);
                issued.write(folder, file);
                serials.push(issued);
            };
            put(folder, "first", &["first.test", "www.first.test"]);
            put(&folder.join("sites"), "wild", &["*.shops.test"]);
            put(&folder.join("sites"), "exact", &["one.shops.test"]);
            put(folder, "plain", &["plain.test"]);
            // The layout of certbot.
            let live = folder.join("sites/bot.test");
            fs::create_dir_all(&live).unwrap();
            let issued = ca.site(&["bot.test"]);
            fs::write(live.join("fullchain.pem"), &issued.cert).unwrap();
            fs::write(live.join("privkey.pem"), &issued.key).unwrap();
            serials.push(issued);
        },
    )
    .await;
    let serials: Vec<u64> = serials.iter().map(|issued| issued.serial).collect();
    let [first, wild, exact, plain, bot] = serials[..] else {
        panic!("{serials:?}");
    };
    for (name, serial) in [
        ("first.test", first),
        ("www.first.test", first),
        ("WWW.First.Test", first),
        ("one.shops.test", exact),
        ("two.shops.test", wild),
        ("plain.test", plain),
        ("bot.test", bot),
    ] {
        assert_eq!(site.serial(name).await, serial, "{name}");
    }
    // A wildcard matches one label, and a client without SNI gets the first certificate.
    let refuses = site.connect("a.b.shops.test", &site.trust()).await;
    assert!(refuses.is_err());
    let nameless = Arc::new(without_names(site.ca.trust()));
    let open = site.connect("first.test", &nameless).await.unwrap();
    assert_eq!(serial(&open), first);
    // The expiry of each is a metric.
    let now = chrono::Utc::now().timestamp() as f64;
    for name in ["first.test", "*.shops.test", "bot.test"] {
        let series = format!(
            "edgeway_certificate_expiry_timestamp_seconds{{listener=\"web\",name=\"{name}\"}}"
        );
        let days = (site.gateway.metric(&series).await - now) / 86_400.0;
        assert!((87.0..91.0).contains(&days), "{name}: {days} days");
    }
}

#[tokio::test]
async fn unknown_names_are_refused_where_configured() {
    let prepare = |ca: &Ca, folder: &Path| {
        ca.site(&["known.test"]).write(folder, "a");
    };
    let strict = Site::start(
        "{ certificates: { cert: a.pem, key: a.key }, unknown_names: refuse }",
        prepare,
    )
    .await;
    strict.connect("known.test", &strict.trust()).await.unwrap();
    let nameless = Arc::new(without_names(strict.ca.trust()));
    for (name, config) in [("other.test", strict.trust()), ("known.test", nameless)] {
        let error = strict.connect(name, &config).await.unwrap_err();
        assert!(error.to_string().contains("UnrecognisedName"), "{error}");
    }
    strict.refuses("tls_unknown_name", 2).await;
    // The control: the server presents the first certificate, which is not valid for that name.
    let lax = Site::start("{ certificates: { cert: a.pem, key: a.key } }", prepare).await;
    let error = lax.connect("other.test", &lax.trust()).await.unwrap_err();
    assert!(error.to_string().contains("not valid for name"), "{error}");
    lax.refuses("tls_handshake", 1).await;
}

#[tokio::test]
async fn keys_of_two_kinds_are_served_side_by_side() {
    let mut issued = Vec::new();
    let site = Site::start(
        "{ certificates: [{ cert: rsa.pem, key: rsa.key }, { cert: ec.pem, key: ec.key }] }",
        |ca, folder| {
            for (file, wanted) in [
                ("rsa", Wanted::site(&["both.test"]).rsa()),
                ("ec", Wanted::site(&["both.test"])),
            ] {
                let pair = ca.issue(&wanted);
                pair.write(folder, file);
                issued.push(pair);
            }
        },
    )
    .await;
    let [rsa, ec] = &issued[..] else {
        panic!("{issued:?}");
    };
    assert_eq!(site.serial("both.test").await, ec.serial);
    let only = |words: &'static [&str]| {
        // The client must support the CA's own signature scheme, so only the scheme names of TLS
        // 1.3 distinguish a P-256 signature of a certificate from one of a handshake.
        limited(&site.ca, move |scheme| {
            let name = format!("{scheme:?}");
            words.iter().any(|word| name.contains(word))
        })
    };
    let open = site.connect("both.test", &only(&["RSA"])).await;
    assert_eq!(serial(&open.unwrap()), rsa.serial);
    let open = site.connect("both.test", &only(&["ECDSA"])).await;
    assert_eq!(serial(&open.unwrap()), ec.serial);
    // The control: a client that can verify neither gets an alert.
    assert!(
        site.connect("both.test", &only(&["ED25519"]))
            .await
            .is_err()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_are_replaced_under_load() {
    let site = Site::start(
        "{ certificates: { cert: a.pem, key: a.key } }",
        |ca, folder| ca.site(&["load.test"]).write(folder, "a"),
    )
    .await;
    let site = Arc::new(site);
    let is_over = Arc::new(AtomicBool::new(false));
    let served = Arc::new(AtomicU64::new(0));
    let mut load = JoinSet::new();
    for lane in 0..4 {
        let (site, is_over, served) =
            (Arc::clone(&site), Arc::clone(&is_over), Arc::clone(&served));
        // Two lanes keep their connection, two open a new one for each request.
        let keeps = lane % 2 == 0;
        load.spawn(async move {
            let config = site.trust();
            let address = site.gateway.address();
            let open = async || Connection::open_tls(address, "load.test", &config).await;
            let mut connection = open().await.expect("it is served");
            while !is_over.load(Ordering::Relaxed) {
                if !keeps {
                    connection = open().await.expect("it is served");
                }
                let response = connection
                    .send(&get("/"))
                    .await
                    .expect("it gets a response");
                assert_eq!(response.status(), 200);
                if response.header("connection") == Some("close") {
                    // The connection has had its maximum number of requests.
                    connection = open().await.expect("it is served");
                }
                served.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    for round in 0..3 {
        let before = served.load(Ordering::Relaxed);
        let next = site.ca.site(&["load.test"]);
        next.write(site.gateway.folder(), "a");
        wait_for("the new certificate is shown", WATCHED, async || {
            (site.serial("load.test").await == next.serial).then_some(())
        })
        .await;
        let now = served.load(Ordering::Relaxed);
        assert!(now > before, "round {round}: nobody was served");
    }
    is_over.store(true, Ordering::Relaxed);
    while let Some(lane) = load.join_next().await {
        lane.expect("no request failed");
    }
    assert_eq!(site.refused("tls_handshake").await, 0);
}

#[tokio::test]
async fn a_bad_pair_changes_nothing_and_is_logged_once() {
    // A listener each: only the new certificate without its key, a truncated file, an empty one, none.
    let names = ["other", "truncated", "empty", "missing"];
    let tls =
        names.map(|name| format!("{{ certificates: {{ cert: {name}.pem, key: {name}.key }} }}"));
    let listeners: Vec<_> = names
        .into_iter()
        .zip(tls.iter().map(|tls| &**tls))
        .collect();
    let site = Site::start_with(&listeners, |ca, folder| {
        let pair = ca.site(&["a.test"]);
        for name in names {
            pair.write(folder, name);
        }
    })
    .await;
    let folder = site.gateway.folder().to_owned();
    let served = async || {
        let trust = site.trust();
        let open = names.map(|name| site.connect_to(name, "a.test", &trust));
        join_all(open)
            .await
            .iter()
            .map(|open| serial(open.as_ref().unwrap()))
            .collect::<Vec<_>>()
    };
    let well = async || {
        let mut all = Vec::new();
        for name in names {
            let series = format!("edgeway_certificate_last_reload_success{{listener=\"{name}\"}}");
            all.push(site.gateway.count(&series).await);
        }
        all
    };
    let complaints = || {
        let text = site.gateway.stderr();
        let lines = text
            .lines()
            .filter(|line| line.contains("changed certificate unusable"));
        names.map(|name| {
            lines
                .clone()
                .filter(|line| line.contains(&format!("{name}.pem")))
                .count()
        })
    };
    let before = served().await;
    let next = site.ca.site(&["a.test"]);
    assert_eq!(well().await, [1; 4]);
    for (name, text) in [
        ("other", &*next.cert),
        ("truncated", &next.cert[..next.cert.len() / 2]),
        ("empty", ""),
    ] {
        fs::write(folder.join(format!("{name}.pem")), text).unwrap();
    }
    fs::remove_file(folder.join("missing.pem")).unwrap();
    wait_for("they are complained about", WATCHED, async || {
        (complaints() == [1; 4]).then_some(())
    })
    .await;
    assert_eq!(well().await, [0; 4]);
    assert_eq!(served().await, before);
    // The control: the complete new pair is loaded, without a restart.
    for name in names {
        next.write(&folder, name);
    }
    wait_for("the new pair responds", WATCHED, async || {
        (served().await == [next.serial; 4]).then_some(())
    })
    .await;
    wait_for("all is well", WATCHED, async || {
        (well().await == [1; 4]).then_some(())
    })
    .await;
    assert_eq!(complaints(), [1; 4]);
}

#[tokio::test]
async fn folders_and_symlinks_are_followed() {
    let site = Site::start("{ certificates: { dir: live } }", |ca, folder| {
        // Like mounted secrets: the files are links through a link that is replaced.
        fs::create_dir_all(folder.join("live/..one")).unwrap();
        let first = ca.site(&["a.test"]);
        fs::write(folder.join("live/..one/tls.crt"), &first.cert).unwrap();
        fs::write(folder.join("live/..one/tls.key"), &first.key).unwrap();
        symlink("..one", folder.join("live/..data")).unwrap();
        symlink("..data/tls.crt", folder.join("live/tls.crt")).unwrap();
        symlink("..data/tls.key", folder.join("live/tls.key")).unwrap();
    })
    .await;
    let live = site.gateway.folder().join("live");
    let next = site.ca.site(&["a.test"]);
    fs::create_dir_all(live.join("..two")).unwrap();
    fs::write(live.join("..two/tls.crt"), &next.cert).unwrap();
    fs::write(live.join("..two/tls.key"), &next.key).unwrap();
    symlink("..two", live.join("..draft")).unwrap();
    fs::rename(live.join("..draft"), live.join("..data")).unwrap();
    let shows = async |name: &str, serial: u64| {
        wait_for("the certificate responds", WATCHED, async || {
            let open = site.connect(name, &site.trust()).await;
            open.is_ok_and(|open| super::serial(&open) == serial)
                .then_some(())
        })
        .await;
    };
    shows("a.test", next.serial).await;
    // Another pair is added, and removed.
    let more = site.ca.site(&["b.test"]);
    more.write(&live, "b");
    shows("b.test", more.serial).await;
    fs::remove_file(live.join("b.key")).unwrap();
    fs::remove_file(live.join("b.pem")).unwrap();
    wait_for("the certificate is gone", WATCHED, async || {
        site.connect("b.test", &site.trust()).await.err()
    })
    .await;
    assert_eq!(site.serial("a.test").await, next.serial);
    // The control: an emptied folder is an error, not a request to serve nothing.
    fs::remove_file(live.join("tls.key")).unwrap();
    let well = "edgeway_certificate_last_reload_success{listener=\"web\"}";
    wait_for("it is complained about", WATCHED, async || {
        (site.gateway.count(well).await == 0).then_some(())
    })
    .await;
    assert_eq!(site.serial("a.test").await, next.serial);
}

#[tokio::test]
async fn a_certificate_that_expires_is_served_and_logged() {
    let site = Site::start(
        "{ certificates: [{ cert: old.pem, key: old.key }, { cert: new.pem, key: new.key }] }",
        |ca, folder| {
            let old = Wanted::site(&["old.test"]).days(-80, 10);
            ca.issue(&old).write(folder, "old");
            ca.site(&["new.test"]).write(folder, "new");
        },
    )
    .await;
    site.connect("old.test", &site.trust()).await.unwrap();
    let log = wait_for("it is complained about", SOON, async || {
        let text = site.gateway.stderr();
        text.contains("expires in 9 days").then_some(text)
    })
    .await;
    assert!(log.contains("old.test"), "{log}");
    // The control.
    assert!(!log.contains("new.test"), "{log}");
}

#[tokio::test]
async fn a_stapled_ocsp_response_is_sent_and_replaced() {
    let response = |byte: u8| {
        [
            &[
                0x30, 0x0b, 0x0a, 0x01, 0, 0xa0, 0x06, 0x30, 0x04, 0x04, 0x02, byte,
            ][..],
            &[byte],
        ]
        .concat()
    };
    let site = Site::start(
        "{ certificates: { cert: a.pem, key: a.key, ocsp: a.ocsp } }",
        |ca, folder| {
            ca.site(&["a.test"]).write(folder, "a");
            fs::write(folder.join("a.ocsp"), response(1)).unwrap();
        },
    )
    .await;
    let mut config = site.ca.trust();
    let stapled = Arc::new(Mutex::new(Vec::new()));
    let roots = Arc::new(site.ca.roots());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let inner = WebPkiServerVerifier::builder_with_provider(roots, provider)
        .build()
        .unwrap();
    let watcher = SeesStaples {
        inner,
        stapled: Arc::clone(&stapled),
    };
    config
        .dangerous()
        .set_certificate_verifier(Arc::new(watcher));
    // A resumed session presents no certificate.
    config.resumption = rustls::client::Resumption::disabled();
    let config = Arc::new(config);
    site.connect("a.test", &config).await.unwrap();
    assert_eq!(*stapled.lock(), response(1));
    fs::write(site.gateway.folder().join("a.ocsp"), response(2)).unwrap();
    wait_for("the new response is shown", WATCHED, async || {
        site.connect("a.test", &config).await.unwrap();
        (*stapled.lock() == response(2)).then_some(())
    })
    .await;
}

/// Verifies as usual, and records the stapled OCSP response.
#[derive(Debug)]
struct SeesStaples {
    inner: Arc<WebPkiServerVerifier>,
    stapled: Arc<Mutex<Vec<u8>>>,
}

impl ServerCertVerifier for SeesStaples {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        *self.stapled.lock() = ocsp.to_vec();
        self.inner
            .verify_server_cert(end_entity, intermediates, name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, cert, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, cert, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
