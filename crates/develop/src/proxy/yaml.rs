//! The configuration of a gateway that has no file, as a text: `templates/proxy.yml`.

use askama::Template;
use edgeway_config::scalar;

use super::address::ListenAddress;

use crate::{ca::LeafFiles, project::App};

#[derive(Template)]
#[template(path = "proxy.yml", blocks = ["listeners"])]
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
    /// Further settings of the upstream, each a line.
    pub settings: &'static str,
    /// Further top-level sections.
    pub more: String,
}

pub(crate) struct Https {
    /// `None` if the only listener speaks TLS.
    pub listen: Option<ListenAddress>,
    pub leaf: LeafFiles,
}

impl ProxyYaml {
    /// Returns true if pages may be stored: those of a Next.js app only with its build, which says
    /// which of them are guarded.
    pub(crate) fn stores_pages(&self) -> bool {
        self.app != App::Nextjs || self.build.is_some()
    }

    /// Returns the address of a listener with TLS beside the other one.
    fn secure(&self) -> Option<ListenAddress> {
        self.https.as_ref()?.listen
    }

    /// Returns the condition that a route has for the host.
    fn host(&self) -> String {
        let hosts: Vec<String> = self.hosts.iter().map(|host| scalar::quoted(host)).collect();
        match hosts.as_slice() {
            [] => String::new(),
            [one] => format!("host: {one}, "),
            several => format!("host: [{}], ", several.join(", ")),
        }
    }
}
