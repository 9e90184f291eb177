//! Selects the certificate for a server name.
//!
//! Each listener has one resolver. Its contents are swapped as a whole, so a handshake never waits
//! for a change and sees either all of it or none.

use std::{cmp::Reverse, collections::HashMap, sync::Arc};

use ahash::RandomState;
use arc_swap::ArcSwap;
use rustls::{
    SignatureAlgorithm, SignatureScheme,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

use super::{
    expiry::{self, Expiries},
    pair::Certificate,
};
use crate::{base::clock::Clock, config::model::UnknownNamesConfig};

/// The only protocol that a client of RFC 8737 offers.
pub(super) const ACME_TLS: &[u8] = b"acme-tls/1";

type ByName<T> = HashMap<Box<str>, T, RandomState>;

/// The certificates of a listener, from files and from ACME.
pub struct Certificates {
    clock: Clock,
    unknown_names: UnknownNamesConfig,
    files: ArcSwap<Index>,
    /// Names managed by ACME, in the order of the configuration.
    pub acme_names: Box<[Box<str>]>,
    managed: ArcSwap<ByName<Arc<CertifiedKey>>>,
    challenges: ArcSwap<ByName<Arc<CertifiedKey>>>,
    pub(super) expiries: Expiries,
}

/// Certificates from files, by name.
#[derive(Debug, Default)]
struct Index {
    exact: ByName<CertificatesByKey>,
    /// `*.example.com` is stored under `example.com`.
    wildcard: ByName<CertificatesByKey>,
    /// The first certificate in the configuration, for clients that request no known name.
    default: Option<CertificatesByKey>,
}

/// Certificates for a name. The cheapest kind of key comes first, and of a kind the certificate that
/// expires last.
#[derive(Clone, Debug, Default)]
struct CertificatesByKey(Vec<Arc<Certificate>>);

impl Certificates {
    /// Creates an empty resolver. `acme_names` are the names that [`Self::set_managed`] will be
    /// called with.
    pub(super) fn new(
        unknown_names: UnknownNamesConfig,
        acme_names: Box<[Box<str>]>,
        expiries: Expiries,
        clock: Clock,
    ) -> Self {
        Self {
            clock,
            unknown_names,
            files: ArcSwap::default(),
            acme_names,
            managed: ArcSwap::default(),
            challenges: ArcSwap::default(),
            expiries,
        }
    }

    /// Returns the names of certificates from files and the ends of their validity, in seconds since
    /// 1970.
    pub fn ends_of_validity(&self) -> Vec<(Box<str>, i64)> {
        self.expiries.of_files()
    }

    /// Replaces all certificates from files.
    pub(super) fn set_files(&self, certificates: &[Arc<Certificate>]) {
        self.files.store(Arc::new(Index::new(certificates)));
        self.expiries.set_files(certificates);
    }

    /// Serves `certificate` to clients that request `name`, from the next handshake on. A
    /// certificate from a file takes precedence.
    pub fn set_managed(&self, name: &str, certificate: Arc<CertifiedKey>) {
        self.expiries.set_managed(name, &certificate);
        let name = name.to_ascii_lowercase().into_boxed_str();
        self.managed.rcu(move |managed| {
            let mut managed = ByName::clone(managed);
            managed.insert(name.clone(), Arc::clone(&certificate));
            managed
        });
    }

    /// The certificate that [`Self::set_managed`] received for `name`.
    pub fn managed(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        self.managed
            .load()
            .get(&*name.to_ascii_lowercase())
            .cloned()
    }

    /// Serves this certificate to the TLS-ALPN-01 challenge for `name` (RFC 8737). `None` ends it.
    pub fn set_challenge(&self, name: &str, certificate: Option<Arc<CertifiedKey>>) {
        let name = name.to_ascii_lowercase().into_boxed_str();
        self.challenges.rcu(move |challenges| {
            let mut challenges = ByName::clone(challenges);
            match &certificate {
                Some(certificate) => challenges.insert(name.clone(), Arc::clone(certificate)),
                None => challenges.remove(&name),
            };
            challenges
        });
    }

    /// Returns true if a file has a certificate for `name`, in lower case.
    pub(super) fn is_in_files(&self, name: &str) -> bool {
        self.files.load().find(name).is_some()
    }

    /// Returns true if a handshake that requests `name` is refused.
    pub(super) fn refuses(&self, name: Option<&str>) -> bool {
        match self.unknown_names {
            UnknownNamesConfig::Default => false,
            UnknownNamesConfig::Refuse => {
                let Some(name) = name.map(without_dot) else {
                    return true;
                };
                self.files.load().find(name).is_none() && !self.managed.load().contains_key(name)
            }
        }
    }

    /// The certificate for a client that requests `name`, in lower case, and can verify signatures
    /// of these `schemes`.
    fn choose(&self, name: Option<&str>, schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let files = self.files.load();
        let name = name.map(without_dot);
        if let Some(name) = name {
            if let Some(kinds) = files.find(name) {
                return kinds.choose(schemes, &self.clock);
            }
            if let Some(managed) = self.managed.load().get(name) {
                return Some(Arc::clone(managed));
            }
        }
        if self.unknown_names == UnknownNamesConfig::Refuse {
            return None;
        }
        if let Some(kinds) = &files.default {
            return kinds.choose(schemes, &self.clock);
        }
        let managed = self.managed.load();
        let first = self.acme_names.iter().find_map(|name| managed.get(name))?;
        Some(Arc::clone(first))
    }

    /// The challenge certificate for `name`.
    pub(super) fn challenge(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        self.challenges.load().get(without_dot(name)).cloned()
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.choose(hello.server_name(), hello.signature_schemes())
    }
}

edgeway_base::opaque_debug!(Certificates, acme_names);

/// Removes the final dot: `example.com.` becomes `example.com`.
fn without_dot(name: &str) -> &str {
    name.strip_suffix('.').unwrap_or(name)
}

/// Returns true if the client only validates a challenge (RFC 8737, 3).
pub(super) fn is_challenge(hello: &ClientHello<'_>) -> bool {
    hello.alpn().is_some_and(|mut protocols| {
        protocols.next().is_some_and(|first| first == ACME_TLS) && protocols.next().is_none()
    })
}

/// Resolver that serves challenge certificates and no others.
#[derive(Debug)]
pub(super) struct Challenges(pub(super) Arc<Certificates>);

impl ResolvesServerCert for Challenges {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.challenge(hello.server_name()?)
    }
}

impl Index {
    fn new(certificates: &[Arc<Certificate>]) -> Self {
        let mut index = Self::default();
        for certificate in certificates {
            for name in &certificate.names {
                let (map, name) = match name.strip_prefix("*.") {
                    Some(parent) => (&mut index.wildcard, parent),
                    None => (&mut index.exact, &**name),
                };
                map.entry(name.into()).or_default().add(certificate);
            }
        }
        if let Some(first) = certificates.first() {
            let named = first.names.first();
            let same = named.and_then(|name| match name.strip_prefix("*.") {
                Some(parent) => index.wildcard.get(parent),
                None => index.exact.get(name),
            });
            index.default = Some(match same {
                Some(kinds) => kinds.clone(),
                // The certificate is for addresses only.
                None => CertificatesByKey(vec![Arc::clone(first)]),
            });
        }
        index
    }

    fn find(&self, name: &str) -> Option<&CertificatesByKey> {
        if let Some(exact) = self.exact.get(name) {
            return Some(exact);
        }
        // RFC 6125, 6.4.3: a wildcard stands for one label.
        let (_, parent) = name.split_once('.')?;
        self.wildcard.get(parent)
    }
}

impl CertificatesByKey {
    fn add(&mut self, certificate: &Arc<Certificate>) {
        self.0.push(Arc::clone(certificate));
        self.0
            .sort_by_key(|known| (kind(&known.key), Reverse(known.not_after)));
    }

    /// The first certificate that is valid now and that the client can verify. If there is none, any
    /// certificate, so that the handshake fails with a proper alert.
    fn choose(&self, schemes: &[SignatureScheme], clock: &Clock) -> Option<Arc<CertifiedKey>> {
        let fits = |known: &&Arc<Certificate>| known.key.key.choose_scheme(schemes).is_some();
        let chosen = match &self.0[..] {
            [only] => only,
            several => {
                let now = expiry::seconds(clock.wall());
                let fitting = || several.iter().filter(fits);
                let valid = fitting().find(|known| known.is_valid(now));
                valid.or(fitting().next()).or(several.first())?
            }
        };
        Some(Arc::clone(&chosen.key))
    }
}

/// Orders the kinds of keys by the cost of a signature.
fn kind(key: &CertifiedKey) -> u8 {
    match key.key.algorithm() {
        SignatureAlgorithm::ECDSA => 0,
        SignatureAlgorithm::ED25519 => 1,
        SignatureAlgorithm::RSA => 2,
        _ => 3,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{base::metrics::Metrics, testkit::certificate};

    fn certificates(unknown: UnknownNamesConfig, acme: &[&str]) -> (Certificates, Metrics) {
        let metrics = Metrics::default();
        let expiries = Expiries::new(&metrics, &"web".into());
        let acme = acme.iter().map(|name| (*name).into()).collect();
        let made = Certificates::new(unknown, acme, expiries, Clock::test());
        (made, metrics)
    }

    const P256: &[SignatureScheme] = &[SignatureScheme::ECDSA_NISTP256_SHA256];

    #[test]
    fn files_come_before_acme_and_acme_before_the_default() {
        let (certificates, metrics) =
            certificates(UnknownNamesConfig::Default, &["one.test", "two.test"]);
        let same = |name: Option<&str>, wanted: Option<&Arc<Certificate>>| {
            let chosen = certificates.choose(name, P256).map(|key| key.cert.clone());
            assert_eq!(chosen, wanted.map(|c| c.key.cert.clone()), "{name:?}");
        };
        same(Some("one.test"), None);
        let two = certificate(&["two.test"], 2_000);
        certificates.set_managed("Two.Test", Arc::clone(&two.key));
        same(Some("two.test"), Some(&two));
        // The first name for which ACME has a certificate is the default for all others.
        same(Some("x.test"), Some(&two));
        let one = certificate(&["one.test"], 1_000);
        certificates.set_managed("one.test", Arc::clone(&one.key));
        assert!(Arc::ptr_eq(
            &certificates.managed("ONE.test").unwrap(),
            &one.key
        ));
        same(None, Some(&one));
        let file = certificate(&["*.test"], 3_000);
        certificates.set_files(&[Arc::clone(&file)]);
        for name in [Some("one.test"), Some("two.test."), Some("x.y.test"), None] {
            same(name, Some(&file));
        }
        let text = String::from_utf8(metrics.text()).unwrap();
        assert!(text.contains("name=\"*.test\"} 3000"), "{text}");
        assert!(text.contains("name=\"one.test\"}"), "{text}");
        certificates.set_files(&[]);
        same(Some("two.test"), Some(&two));
        let text = String::from_utf8(metrics.text()).unwrap();
        assert!(!text.contains("name=\"*.test\"}"), "{text}");
    }

    #[test]
    fn unknown_names_are_known_before_a_certificate_is_looked_for() {
        let (certificates, _) = certificates(UnknownNamesConfig::Refuse, &["acme.test"]);
        let file = certificate(&["*.a.test", "b.test"], 0);
        certificates.set_files(&[file]);
        for (name, refuses) in [
            (Some("x.a.test"), false),
            (Some("b.test."), false),
            (Some("a.test"), true),
            (Some("x.y.a.test"), true),
            (Some("acme.test"), true),
            (Some("127.0.0.1"), true),
            (None, true),
        ] {
            assert_eq!(certificates.refuses(name), refuses, "{name:?}");
            assert_eq!(
                certificates.choose(name, P256).is_none(),
                refuses,
                "{name:?}"
            );
        }
        let managed = certificate(&["acme.test"], 0);
        certificates.set_managed("acme.test", Arc::clone(&managed.key));
        assert!(!certificates.refuses(Some("acme.test")));
    }

    #[test]
    fn a_challenge_has_its_own_certificate_until_it_ends() {
        let (certificates, _) = certificates(UnknownNamesConfig::Default, &["a.test"]);
        let challenge = certificate(&["a.test"], 0);
        assert!(certificates.challenge("a.test").is_none());
        certificates.set_challenge("A.test", Some(Arc::clone(&challenge.key)));
        let found = certificates.challenge("a.test").unwrap();
        assert!(Arc::ptr_eq(&found, &challenge.key));
        assert!(certificates.choose(Some("a.test"), P256).is_none());
        certificates.set_challenge("a.test", None);
        assert!(certificates.challenge("a.test").is_none());
    }

    #[test]
    fn of_two_certificates_for_one_name_the_one_that_lasts_longer_is_served() {
        let early = certificate(&["a.test"], 1_000);
        let late = certificate(&["a.test", "b.test"], 2_000);
        for both in [[&early, &late], [&late, &early]] {
            let (certificates, metrics) = certificates(UnknownNamesConfig::Default, &[]);
            certificates.set_files(&both.map(Arc::clone));
            for name in [Some("a.test"), Some("b.test"), None] {
                let chosen = certificates.choose(name, P256).unwrap();
                assert!(Arc::ptr_eq(&chosen, &late.key), "{name:?}");
            }
            // The metric shows the expiry of what is served.
            let text = String::from_utf8(metrics.text()).unwrap();
            assert!(text.contains("name=\"a.test\"} 2000"), "{text}");
        }
    }

    #[test]
    fn a_certificate_that_is_valid_now_is_chosen_before_others() {
        let (certificates, _) = certificates(UnknownNamesConfig::Default, &[]);
        let now = expiry::seconds(certificates.clock.wall());
        let make = |from: i64, to: i64| {
            let mut made = certificate(&["a.test"], now + to);
            Arc::get_mut(&mut made).unwrap().not_before = now + from;
            made
        };
        let [past, present, future] = [make(-20, -10), make(-10, 10), make(5, 20)];
        for order in [[&past, &present, &future], [&future, &past, &present]] {
            certificates.set_files(&order.map(Arc::clone));
            let chosen = certificates.choose(Some("a.test"), P256).unwrap();
            assert!(Arc::ptr_eq(&chosen, &present.key));
        }
        certificates
            .clock
            .advance(std::time::Duration::from_secs(15));
        let chosen = certificates.choose(Some("a.test"), P256).unwrap();
        assert!(Arc::ptr_eq(&chosen, &future.key));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn the_index_finds_what_a_list_would(
            sets in prop::collection::vec(prop::collection::vec(0..12usize, 1..4), 1..5),
            server_name in "[ab]\\.(x\\.)?[ab]\\.test",
        ) {
            const NAMES: [&str; 12] = [
                "a.test", "b.test", "a.a.test", "b.a.test", "a.b.test", "b.b.test", "a.x.a.test",
                "*.test", "*.a.test", "*.b.test", "*.x.a.test", "*.x.b.test",
            ];
            let all: Vec<Arc<Certificate>> = sets
                .iter()
                .zip(0..)
                .map(|(set, age)| {
                    let names: Vec<&str> = set.iter().map(|index| NAMES[*index]).collect();
                    certificate(&names, -age)
                })
                .collect();
            let index = Index::new(&all);
            let exact = all.iter().find(|c| c.names.iter().any(|name| **name == *server_name));
            let wild = server_name.split_once('.').map(|(_, parent)| format!("*.{parent}"));
            let wild = wild.and_then(|wild| {
                all.iter().find(|c| c.names.iter().any(|name| **name == *wild))
            });
            let found = index.find(&server_name).map(|kinds| &kinds.0[0]);
            prop_assert_eq!(found.map(Arc::as_ptr), exact.or(wild).map(Arc::as_ptr));
        }
    }
}
