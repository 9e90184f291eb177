//! Configuration of most gateways in the tests: one upstream, and one route to it for all paths.

use std::fmt::{self, Display, Formatter};

use super::{
    apps::App,
    gateway::Gateway,
    grpc::TalkServer,
    origins::{Http2Origin, Origin, SecureOrigin, WsOrigin},
};

/// Configuration with the upstream `app` and one route to it; each part takes further options, in YAML.
#[derive(Clone, Debug)]
pub(crate) struct Front {
    sections: String,
    backends: String,
    upstream: String,
    route: String,
}

impl Front {
    pub(crate) fn to(backend: impl Display) -> Self {
        Self::to_all(&format!("['{backend}']"))
    }

    /// Leads to several backends, a list in YAML.
    pub(crate) fn to_all(backends: &str) -> Self {
        Self {
            sections: String::new(),
            backends: backends.to_owned(),
            upstream: String::new(),
            route: String::new(),
        }
    }

    /// Adds sections beside those of the upstream and the route.
    pub(crate) fn with(mut self, sections: &str) -> Self {
        self.sections.push_str(sections);
        self.sections.push('\n');
        self
    }

    /// Sets options of the listener.
    pub(crate) fn listener(self, options: &str) -> Self {
        self.with(&format!(
            "listeners: [{{ address: '127.0.0.1:0', name: web, {options} }}]"
        ))
    }

    /// Makes the listener speak HTTP/2 without TLS too.
    pub(crate) fn http2(self) -> Self {
        self.listener("http2: { cleartext: true }")
    }

    /// Sets options of the upstream, whose health is checked only if they say so.
    pub(crate) fn upstream(mut self, options: &str) -> Self {
        options.clone_into(&mut self.upstream);
        self
    }

    /// Sets options of the route.
    pub(crate) fn route(mut self, options: &str) -> Self {
        options.clone_into(&mut self.route);
        self
    }

    pub(crate) fn yaml(&self) -> String {
        let Self {
            sections,
            backends,
            upstream,
            route,
        } = self;
        let is_checked = upstream.contains("health:");
        let health = if is_checked { "" } else { "health: false, " };
        format!(
            "{sections}
upstreams: {{ app: {{ backends: {backends}, {health}{upstream} }} }}
routes: [{{ match: {{ path: /* }}, upstream: app, {route} }}]
"
        )
    }

    pub(crate) async fn start(&self) -> Gateway {
        Gateway::start(&self.yaml()).await
    }
}

/// Makes origins appear as their addresses: that is what a configuration has of them.
macro_rules! appear_as_addresses {
    ($($origin:ty),+) => {$(
        impl Display for $origin {
            fn fmt(&self, to: &mut Formatter<'_>) -> fmt::Result {
                self.address().fmt(to)
            }
        }
    )+};
}

appear_as_addresses!(
    App,
    Gateway,
    Http2Origin,
    SecureOrigin,
    TalkServer,
    WsOrigin
);

impl<S> Display for Origin<S> {
    fn fmt(&self, to: &mut Formatter<'_>) -> fmt::Result {
        self.address().fmt(to)
    }
}
