//! Compiles the `acme:` section and the names of listeners.

use std::{net::IpAddr, sync::Arc};

use edgeway_net::fetch;
use http::Uri;
use instant_acme::LetsEncrypt;
use rustls::RootCertStore;

use super::{
    Acme, Role,
    account::CaClient,
    follower::Issuer,
    issuer::{IssuerState, Issuing},
    managed::{ConfiguredName, ManagedName},
    store::Store,
};
use crate::{
    Certificates,
    base::host::is_host_name,
    chain::CompileContext,
    config::{
        diagnostic::Place,
        model::{AcmeConfig, ChallengeConfig},
        tree::Spanned,
    },
    zones::Zones,
};

/// Listener settings that ACME depends on.
#[derive(Debug, Default)]
pub struct ListenerUses<'a> {
    pub names: Vec<ListenerUse<'a>>,
    /// Ports of listeners without TLS. 0 for a unix socket.
    pub plain_ports: Vec<u16>,
    /// Addresses of listeners as written.
    pub addresses: Vec<&'a str>,
}

/// The names of one listener.
#[derive(Debug)]
pub struct ListenerUse<'a> {
    pub names: &'a [Spanned<String>],
    pub port: u16,
    /// `None` if the listener's TLS has errors.
    pub certificates: Option<Arc<Certificates>>,
}

impl Acme {
    /// Compiles the section, and loads stored certificates from its folder.
    pub fn compile(
        config: Option<&Spanned<AcmeConfig>>,
        uses: &ListenerUses<'_>,
        zones: &Zones,
        cx: &mut CompileContext<'_>,
    ) -> Option<Arc<Self>> {
        let first = uses.names.iter().find_map(|of| of.names.first());
        let (config, first) = match (config, first) {
            (None, None) => return None,
            (None, Some(name)) => {
                return cx.at(name.place, "edgeway::acme::missing").refuse(
                    "names for ACME, but no section `acme` with a folder for the certificates",
                    "write `acme: { folder: /var/lib/edgeway/acme, email: you@example.com }` at \
                     the top level",
                );
            }
            (Some(config), None) => {
                cx.place = config.place;
                cx.here("edgeway::acme::unused").warn(
                    "no listener has names for ACME",
                    "write them at a listener as `tls: { acme: [shop.example.com] }`, or remove \
                     this section",
                );
                return None;
            }
            (Some(config), Some(first)) => (config, first),
        };
        let (config, place) = (&config.value, config.place);
        let store = Store::new(cx.folder.join(&config.folder.value));
        // Checked on followers too, so that one file can serve all gateways.
        let shared = zones.get_or_create("acme", IssuerState::default);
        let ca_client = ca_client(config, &shared, cx);
        let role = match &config.issuer {
            Some(issuer) => follow(config, issuer, &store, uses, cx),
            None => issue(config, &store, ca_client, shared, cx),
        };
        let names = names(config, place, uses, cx);
        if names.is_empty() {
            debug_assert!(cx.diagnostics.has_errors(), "{first:?}");
            return None;
        }
        let role = role?;
        if cx.diagnostics.has_errors() {
            return None;
        }
        let now = cx.clock.wall();
        let names = names.into_iter().map(|acme_name| {
            // Keyed by folder: a different folder holds different certificates.
            let zone = format!("acme {} in {}", acme_name.name, store.folder.display());
            let metrics = cx.metrics;
            let managed = zones.get_or_create(&zone, || ManagedName::new(acme_name.name, metrics));
            managed.begin(&store, now);
            for listener in &acme_name.listeners {
                managed.add(listener);
            }
            ConfiguredName {
                managed,
                challenges: acme_name.challenges.into(),
            }
        });
        let names = names.collect();
        Some(Arc::new(Self { role, names }))
    }
}

fn issue(
    config: &AcmeConfig,
    store: &Store,
    ca_client: Option<CaClient>,
    shared: Arc<IssuerState>,
    cx: &mut CompileContext<'_>,
) -> Option<Role> {
    if let Err(error) = store.is_writable() {
        cx.at(config.folder.place, "edgeway::acme::folder").error(
            format!(
                "cannot store account and certificates in `{}`: {error}",
                config.folder.value.display()
            ),
            "name a folder that the gateway's user may write to",
        );
    }
    Some(Role::Issues(Arc::new(Issuing {
        ca: ca_client?,
        store: store.clone(),
        shared,
        clock: cx.clock.clone(),
    })))
}

fn ca_client(
    config: &AcmeConfig,
    shared: &IssuerState,
    cx: &mut CompileContext<'_>,
) -> Option<CaClient> {
    let email = config.email.as_ref().and_then(|email| {
        if is_email(&email.value) {
            return Some(email.value.clone());
        }
        cx.at(email.place, "edgeway::acme::email").refuse(
            format!("invalid mail address `{}`", email.value),
            "write one such as `ops@example.com`, without `mailto:`",
        )
    });
    let roots = config.ca.as_ref().and_then(|ca| roots(ca, cx));
    Some(CaClient {
        directory: directory(config.directory.as_ref(), cx)?,
        roots,
        email,
        making: Arc::clone(&shared.making),
    })
}

fn follow(
    config: &AcmeConfig,
    issuer: &Spanned<String>,
    store: &Store,
    uses: &ListenerUses<'_>,
    cx: &mut CompileContext<'_>,
) -> Option<Role> {
    if let Some(challenge) = &config.challenge
        && challenge.value == ChallengeConfig::TlsAlpn01
    {
        cx.at(challenge.place, "edgeway::acme::challenge").error(
            "tls-alpn-01 challenges cannot be forwarded to the issuer",
            "write `challenge: http-01` at all gateways that share these names",
        );
    }
    let Spanned { value, place } = issuer;
    let code = "edgeway::acme::issuer";
    let is_address = value.parse::<http::uri::Authority>().is_ok_and(|parsed| {
        parsed.port_u16().is_some() && !parsed.host().is_empty() && !value.contains('@')
    });
    if !is_address {
        return cx.at(*place, code).refuse(
            format!("invalid gateway address `{value}`"),
            "write `HOST:PORT` of a listener without TLS, such as `10.0.0.5:80`",
        );
    }
    if uses.addresses.contains(&value.as_str()) {
        return cx.at(*place, code).refuse(
            format!("`{value}` is this gateway: it would forward challenges to itself"),
            "remove `issuer` from the gateway that asks for certificates",
        );
    }
    Some(Role::Follows {
        issuer: Box::new(Issuer::new(value.clone())),
        store: store.clone(),
    })
}

/// A name, its listeners and its challenges.
struct FoundName {
    name: Arc<str>,
    listeners: Vec<Arc<Certificates>>,
    challenges: Vec<ChallengeConfig>,
}

/// The names of all listeners, each once.
fn names(
    config: &AcmeConfig,
    place: Place,
    uses: &ListenerUses<'_>,
    cx: &mut CompileContext<'_>,
) -> Vec<FoundName> {
    let mut names: Vec<(Arc<str>, Vec<&ListenerUse<'_>>)> = Vec::new();
    for of in &uses.names {
        for Spanned { value, place } in of.names {
            let Some(name) = host_name(value, *place, cx) else {
                continue;
            };
            match names.iter_mut().find(|(known, _)| *known == name) {
                Some((_, listeners)) => listeners.push(of),
                None => names.push((name, vec![of])),
            }
        }
    }
    let challenge = config.challenge.as_ref();
    if let Some(chosen) = challenge
        && chosen.value == ChallengeConfig::Http01
        && uses.plain_ports.is_empty()
    {
        cx.at(chosen.place, "edgeway::acme::challenge").error(
            "no listener can respond to an http-01 challenge: all have TLS",
            "add a listener without `tls`, on port 80 as clients see it, or write `challenge: \
             tls-alpn-01`",
        );
    }
    let follows = config.issuer.is_some();
    if follows && uses.plain_ports.is_empty() {
        cx.at(place, "edgeway::acme::issuer").error(
            "no listener can take challenges for the issuer: all have TLS",
            "add a listener without `tls`, on port 80 as clients see it",
        );
    }
    names
        .into_iter()
        .map(|(name, of)| {
            let ports: Vec<u16> = of.iter().map(|of| of.port).collect();
            let challenges = match challenge {
                _ if follows => Vec::new(),
                Some(chosen) => vec![chosen.value],
                None => challenges(&ports, &uses.plain_ports),
            };
            let listeners = of.iter().filter_map(|of| of.certificates.clone());
            FoundName {
                name,
                listeners: listeners.collect(),
                challenges,
            }
        })
        .collect()
}

/// The challenges that can be served, the likeliest first. CAs connect to ports 443 and 80; whether
/// those map to our other ports is unknown.
fn challenges(tls_ports: &[u16], plain_ports: &[u16]) -> Vec<ChallengeConfig> {
    use ChallengeConfig::{Http01, TlsAlpn01};
    if plain_ports.is_empty() {
        return vec![TlsAlpn01];
    }
    if plain_ports.contains(&80) && !tls_ports.contains(&443) {
        return vec![Http01, TlsAlpn01];
    }
    vec![TlsAlpn01, Http01]
}

/// A name that a CA can validate with these challenges, in lower case.
fn host_name(text: &str, place: Place, cx: &mut CompileContext<'_>) -> Option<Arc<str>> {
    let Some(problem) = refused(text) else {
        return Some(text.to_ascii_lowercase().into());
    };
    let message = format!("`{text}` {}", problem.0);
    cx.at(place, "edgeway::acme::name")
        .refuse(message, problem.1)
}

/// Returns the problem with a name, and the help for it.
fn refused(text: &str) -> Option<(&'static str, &'static str)> {
    if text.contains('*') {
        return Some((
            "cannot be issued: http-01 and tls-alpn-01 prove single names only",
            "write each name, or get the wildcard by other means (dns-01) and name its files under `certificates`",
        ));
    }
    if text.parse::<IpAddr>().is_ok() {
        return Some((
            "is an address",
            "write a DNS name such as `shop.example.com`",
        ));
    }
    if !text.is_ascii() {
        return Some((
            "is not in its ASCII form",
            "write it in punycode, which begins with `xn--`",
        ));
    }
    if !is_host_name(text) {
        return Some((
            "is not a DNS name",
            "write a name such as `shop.example.com`, without scheme, port or path",
        ));
    }
    None
}

/// Checks that this can follow `mailto:` unchanged (RFC 8555, 7.3 allows no header fields).
fn is_email(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_graphic() && !",;?&<>()\"\\:%".contains(c);
    match text.split_once('@') {
        Some((user, host)) => {
            !user.is_empty()
                && user.chars().all(plain)
                && refused(host).is_none()
                && host.contains('.')
        }
        None => false,
    }
}

fn directory(config: Option<&Spanned<String>>, cx: &mut CompileContext<'_>) -> Option<String> {
    let Some(Spanned { value, place }) = config else {
        return Some(LetsEncrypt::Production.url().to_owned());
    };
    match value.as_str() {
        "letsencrypt" => return Some(LetsEncrypt::Production.url().to_owned()),
        "letsencrypt-staging" => return Some(LetsEncrypt::Staging.url().to_owned()),
        _ => {}
    }
    let code = "edgeway::acme::directory";
    let uri = value.parse::<Uri>().ok();
    let scheme_and_host = uri.as_ref().and_then(|uri| {
        let host = uri.host().filter(|host| !host.is_empty())?;
        Some((uri.scheme_str()?, host))
    });
    match scheme_and_host {
        Some(("https", _)) => Some(value.clone()),
        Some(("http", host)) if is_loopback(host) => Some(value.clone()),
        Some(("http", _)) => cx.at(*place, code).refuse(
            format!("the directory `{value}` does not use HTTPS"),
            "write `https:`; without TLS anyone on the path could forge certificates",
        ),
        _ => cx.at(*place, code).refuse(
            format!("unknown ACME directory `{value}`"),
            "write `letsencrypt`, `letsencrypt-staging`, or a URL such as \
                 `https://ca.example.com/acme/directory`",
        ),
    }
}

fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn roots(
    ca: &Spanned<std::path::PathBuf>,
    cx: &mut CompileContext<'_>,
) -> Option<Arc<RootCertStore>> {
    let path = cx.folder.join(&ca.value);
    match fetch::roots(&path) {
        Ok(roots) => Some(Arc::new(roots)),
        Err(problem) => cx.at(ca.place, "edgeway::acme::ca").refuse(
            format!("cannot use `{}`: {problem}", ca.value.display()),
            "name a PEM file with the CA certificate that signs the directory's own",
        ),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rustls_pki_types::DnsName;

    use super::*;

    #[test]
    fn names_are_dns_names() {
        for good in [
            "a.example",
            "A.Example",
            "xn--bcher-kva.example",
            "localhost",
            "1.a2",
        ] {
            assert_eq!(refused(good), None, "{good}");
        }
        let long = "a".repeat(64) + ".example";
        for bad in [
            "*.example.com",
            "10.0.0.1",
            "::1",
            "bücher.example",
            "",
            ".",
            "a..b",
            "a.example.",
            "a.example:443",
            "https://a.example",
            "a/b",
            "-a.example",
            "a-.example",
            "a_b.example",
            "../../etc",
            "1.2.3",
            &long,
        ] {
            assert!(refused(bad).is_some(), "{bad}");
        }
    }

    #[test]
    fn mail_goes_to_an_address() {
        for good in ["ops@example.com", "a.b+c@x.example"] {
            assert!(is_email(good), "{good}");
        }
        for bad in [
            "ops",
            "@example.com",
            "ops@",
            "ops@host",
            "mailto:ops@example.com",
            "a@b.c, d@e.f",
            "a b@example.com",
            "ops@example.com?subject=x",
            "a@b@example.com",
        ] {
            assert!(!is_email(bad), "{bad}");
        }
    }

    #[test]
    fn the_challenge_that_the_ca_can_reach_comes_first() {
        use ChallengeConfig::{Http01, TlsAlpn01};
        for (tls, plain, expected) in [
            (443, &[80][..], vec![TlsAlpn01, Http01]),
            (443, &[], vec![TlsAlpn01]),
            (8443, &[80], vec![Http01, TlsAlpn01]),
            (8443, &[8080], vec![TlsAlpn01, Http01]),
            (8443, &[], vec![TlsAlpn01]),
        ] {
            assert_eq!(challenges(&[tls], plain), expected, "{tls} {plain:?}");
        }
    }

    proptest! {
        /// A name becomes a folder name and a part of the certificate, so nothing else may pass.
        #[test]
        fn what_is_taken_for_a_name_is_one_for_rustls_too(text in "[-a-zA-Z0-9._*/:ä]{0,40}") {
            if refused(&text).is_none() {
                prop_assert!(DnsName::try_from(text.as_str()).is_ok(), "{text}");
                prop_assert!(!text.contains(['/', '*']) && !text.starts_with('.'));
            }
        }
    }
}
