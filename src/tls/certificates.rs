//! Which certificate answers for a name.
//!
//! One resolver for each listener. What it knows is swapped whole, so a handshake never
//! waits for a change and sees either all of it or none.

use std::{collections::HashMap, fmt, sync::Arc};

use ahash::RandomState;
use arc_swap::ArcSwap;
use rustls::{
    SignatureAlgorithm, SignatureScheme,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

use super::{expiry::Expiries, pair::Certificate};
use crate::config::model::UnknownNamesConfig;

/// The one protocol that a client of RFC 8737 offers.
pub(super) const ACME_TLS: &[u8] = b"acme-tls/1";

type ByName<T> = HashMap<Box<str>, T, RandomState>;

/// The certificates of a listener, from files and from ACME.
pub struct Certificates {
    unknown_names: UnknownNamesConfig,
    files: ArcSwap<Index>,
    /// Names that ACME looks after, in the order of the configuration.
    acme_names: Box<[Box<str>]>,
    managed: ArcSwap<ByName<Arc<CertifiedKey>>>,
    challenges: ArcSwap<ByName<Arc<CertifiedKey>>>,
    expiries: Expiries,
}

/// Certificates from files, by the names that they are for.
#[derive(Debug, Default)]
struct Index {
    exact: ByName<Kinds>,
    /// `*.example.com` under `example.com`.
    wildcard: ByName<Kinds>,
    /// What is written first answers for those who ask for no name that is known.
    default: Option<Kinds>,
}

/// Certificates for one name, with keys of different kinds; the cheapest kind first.
#[derive(Clone, Debug, Default)]
struct Kinds(Vec<Arc<Certificate>>);

impl Certificates {
    /// Without any certificate yet. `acme_names` are those that [`Self::set_managed`] is
    /// going to be called with.
    pub(super) fn new(
        unknown_names: UnknownNamesConfig,
        acme_names: Box<[Box<str>]>,
        expiries: Expiries,
    ) -> Self {
        Self {
            unknown_names,
            files: ArcSwap::default(),
            acme_names,
            managed: ArcSwap::default(),
            challenges: ArcSwap::default(),
            expiries,
        }
    }

    /// Names that ACME looks after, in lower case.
    pub fn acme_names(&self) -> &[Box<str>] {
        &self.acme_names
    }

    /// Replaces all that came from files.
    pub(super) fn set_files(&self, certificates: &[Arc<Certificate>]) {
        self.files.store(Arc::new(Index::new(certificates)));
        self.expiries.set_files(certificates);
    }

    /// Shows `certificate` to clients that ask for `name`, from the next handshake on,
    /// unless there is one from a file.
    pub fn set_managed(&self, name: &str, certificate: Arc<CertifiedKey>) {
        self.expiries.set_managed(name, &certificate);
        let name = name.to_ascii_lowercase().into_boxed_str();
        self.managed.rcu(move |managed| {
            let mut managed = ByName::clone(managed);
            managed.insert(name.clone(), Arc::clone(&certificate));
            managed
        });
    }

    /// What [`Self::set_managed`] was given for `name`.
    pub fn managed(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        self.managed
            .load()
            .get(&*name.to_ascii_lowercase())
            .cloned()
    }

    /// Answers an authority's TLS-ALPN-01 challenge for `name` (RFC 8737) with this
    /// certificate; `None` ends it.
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

    /// Whether a file has a certificate for `name`, in lower case.
    pub(super) fn is_in_files(&self, name: &str) -> bool {
        self.files.load().find(name).is_some()
    }

    /// Whether a handshake that asks for `name` is refused.
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

    /// The certificate for a client that asks for `name`, in lower case, and can verify
    /// signatures of these `schemes`.
    fn choose(&self, name: Option<&str>, schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let files = self.files.load();
        let name = name.map(without_dot);
        if let Some(name) = name {
            if let Some(kinds) = files.find(name) {
                return kinds.choose(schemes);
            }
            if let Some(managed) = self.managed.load().get(name) {
                return Some(Arc::clone(managed));
            }
        }
        if self.unknown_names == UnknownNamesConfig::Refuse {
            return None;
        }
        if let Some(kinds) = &files.default {
            return kinds.choose(schemes);
        }
        let managed = self.managed.load();
        let first = self.acme_names.iter().find_map(|name| managed.get(name))?;
        Some(Arc::clone(first))
    }

    /// The answer to an authority's challenge for `name`.
    pub(super) fn challenge(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        self.challenges.load().get(without_dot(name)).cloned()
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.choose(hello.server_name(), hello.signature_schemes())
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificates")
            .field("files", &self.files.load().exact.keys())
            .field("acme_names", &self.acme_names)
            .finish_non_exhaustive()
    }
}

/// `example.com.` is `example.com`.
fn without_dot(name: &str) -> &str {
    name.strip_suffix('.').unwrap_or(name)
}

/// Whether a client wants nothing but an answer to its challenge (RFC 8737, 3).
pub(super) fn is_challenge(hello: &ClientHello<'_>) -> bool {
    hello.alpn().is_some_and(|mut protocols| {
        protocols.next().is_some_and(|first| first == ACME_TLS) && protocols.next().is_none()
    })
}

/// Shows an authority what its challenge asks for, and nobody else anything.
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
                // It is for addresses only.
                None => Kinds(vec![Arc::clone(first)]),
            });
        }
        index
    }

    fn find(&self, name: &str) -> Option<&Kinds> {
        if let Some(exact) = self.exact.get(name) {
            return Some(exact);
        }
        // RFC 6125, 6.4.3: a wildcard stands for one label.
        let (_, parent) = name.split_once('.')?;
        self.wildcard.get(parent)
    }
}

impl Kinds {
    /// Of two with the same kind of key the one that lasts longer stays.
    fn add(&mut self, certificate: &Arc<Certificate>) {
        let kind = kind(&certificate.key);
        match self
            .0
            .iter_mut()
            .find(|known| self::kind(&known.key) == kind)
        {
            Some(known) if known.not_after < certificate.not_after => {
                *known = Arc::clone(certificate);
            }
            Some(_) => {}
            None => {
                self.0.push(Arc::clone(certificate));
                self.0.sort_by_key(|known| self::kind(&known.key));
            }
        }
    }

    /// The first that the client can verify; any, so that the handshake fails with a
    /// proper alert, if it can verify none.
    fn choose(&self, schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let fits = |known: &&Arc<Certificate>| known.key.key.choose_scheme(schemes).is_some();
        let chosen = match &self.0[..] {
            [only] => only,
            several => several.iter().find(fits).or(several.first())?,
        };
        Some(Arc::clone(&chosen.key))
    }
}

/// Orders the kinds of keys by what a signature costs us.
fn kind(key: &CertifiedKey) -> u8 {
    match key.key.algorithm() {
        SignatureAlgorithm::ECDSA => 0,
        SignatureAlgorithm::ED25519 => 1,
        SignatureAlgorithm::RSA => 2,
        _ => 3,
    }
}
