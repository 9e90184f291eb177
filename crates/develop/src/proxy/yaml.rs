//! The configuration of a gateway that has no file, as a text.

use std::fmt::Write as _;

use edgeway_config::scalar::quoted;

use super::address::ListenAddress;

use crate::{ca::Leaf, project::App};

/// Everything that the text says.
pub(crate) struct ProxyYaml {
    /// First lines, as comments.
    pub comment: String,
    pub listen: ListenAddress,
    /// The listener with TLS, and the certificate.
    pub https: Option<Https>,
    /// The `admin` section, if there is one.
    pub admin: String,
    pub app: App,
    /// The build folder of a Next.js app.
    pub build: Option<String>,
    /// Items of `backends`.
    pub backends: Vec<String>,
    /// TLS to the backends.
    pub tls: bool,
    pub hosts: Vec<String>,
    pub cache: bool,
    /// Further top-level sections.
    pub more: String,
    /// An app that compiles each page at its first request.
    pub is_slow: bool,
}

pub(crate) struct Https {
    /// `None` if the only listener speaks TLS.
    pub listen: Option<ListenAddress>,
    pub leaf: Leaf,
}

impl ProxyYaml {
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        for line in self.comment.lines() {
            let _infallible = writeln!(text, "# {line}");
        }
        text.push_str(&self.listeners());
        if !self.admin.is_empty() {
            text.push('\n');
            text.push_str(&self.admin);
        }
        let _infallible = writeln!(
            text,
            "\nupstreams:\n  app:\n    app: {}\n    backends: [{}]",
            self.app.key(),
            self.backends.join(", ")
        );
        if let Some(build) = &self.build {
            line(&mut text, &format!("    folder: {}", quoted(build)));
        }
        if self.tls {
            line(&mut text, "    tls: true");
        }
        if self.is_slow {
            line(&mut text, "    timeouts: { first_byte: 5min }");
        }
        if self.https.is_some() {
            text.push_str(
                "\n# Browsers would insist on HTTPS for other programs on this machine too.\n\
                 defaults:\n  security_headers: { hsts: false }\n",
            );
        }
        text.push_str("\nroutes:\n");
        let hosts: Vec<String> = self.hosts.iter().map(|host| quoted(host)).collect();
        let hosts = match hosts.as_slice() {
            [] => String::new(),
            [one] => format!("host: {one}, "),
            several => format!("host: [{}], ", several.join(", ")),
        };
        let mut listener = "";
        if let Some(secure) = self.https.as_ref().and_then(|https| https.listen) {
            listener = "listener: https, ";
            // `redirect: https` of a listener is permanent, and browsers keep that.
            let to = format!("https://{{host}}:{}{{path}}?{{query}}", secure.port());
            let _infallible = writeln!(
                text,
                "  # For now only: browsers would keep a permanent redirect, also for other programs\n  \
                 # on this port.\n  - match: {{ listener: http, {hosts}path: /* }}\n    \
                 redirect: {{ to: \"{to}\", status: 307 }}"
            );
        }
        let _infallible = writeln!(
            text,
            "  - match: {{ {listener}{hosts}path: /* }}\n    upstream: app\n    websocket: true"
        );
        if self.cache && self.stores_pages() {
            line(&mut text, "    cache: {}");
        } else if self.cache {
            text.push_str(
                "    # Which pages are guarded is known from a build: run `next build` first.\n    \
                 cache: { pages: off }\n",
            );
        }
        text.push_str(&self.more);
        text
    }
}

impl ProxyYaml {
    /// Returns true if pages may be stored: those of a Next.js app only with its build, which says
    /// which of them are guarded.
    pub(crate) fn stores_pages(&self) -> bool {
        self.app != App::Nextjs || self.build.is_some()
    }

    /// Returns the section `listeners`.
    pub(crate) fn listeners(&self) -> String {
        let own = self.listen.written();
        let listener = match &self.https {
            None => format!("address: {own}\n"),
            Some(Https { listen: None, leaf }) => format!("address: {own}\n{}", tls(leaf)),
            Some(Https {
                listen: Some(other),
                leaf,
            }) => format!(
                "name: http\n    address: {own}\n  - name: https\n    address: {}\n{}",
                other.written(),
                tls(leaf)
            ),
        };
        format!("listeners:\n  - {listener}")
    }
}

/// Returns the section of a listener with this certificate.
fn tls(leaf: &Leaf) -> String {
    let file = |path: &std::path::Path| quoted(&path.display().to_string());
    format!(
        "    tls:\n      certificates:\n        cert: {}\n        key: {}\n",
        file(&leaf.certificate),
        file(&leaf.key)
    )
}

fn line(text: &mut String, line: &str) {
    text.push_str(line);
    text.push('\n');
}
