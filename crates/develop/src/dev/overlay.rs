//! Changes of a project's configuration while it is developed: one listener, and the `dev` script
//! in place of the app. `templates/overlay.yml` has its text.

use askama::Template;
use edgeway_config::scalar::quoted;
use edgeway_config::{
    model::{App, File},
    source::LocalSite,
    tree::Value,
};

use crate::proxy::{address::ListenAddress, yaml::ProxyYaml};

/// Returns the site of the app at the names of this machine: its own leads to another one.
pub(super) fn local_site(upstream: &str, listen: ListenAddress) -> LocalSite {
    let mut names: Vec<String> = ["localhost", "*.localhost", "127.0.0.1", "[::1]"]
        .map(str::to_owned)
        .into();
    let host = listen.host();
    names.extend((!names.contains(&host)).then_some(host));
    LocalSite {
        upstream: upstream.to_owned(),
        names,
    }
}

/// Returns the upstream that the `dev` script takes the place of.
pub(super) fn upstream(file: &File, wanted: Option<&str>) -> Result<String, String> {
    let names: Vec<&str> = file
        .upstreams
        .iter()
        .map(|(key, _)| key.name.as_str())
        .collect();
    let list = || match names.as_slice() {
        [] => "the file has none".to_owned(),
        some => format!("there is `{}`", some.join("`, `")),
    };
    if let Some(wanted) = wanted {
        let is_known = names.contains(&wanted);
        return if is_known {
            Ok(wanted.to_owned())
        } else {
            Err(format!("unknown upstream `{wanted}`; {}", list()))
        };
    }
    let next = file
        .upstreams
        .iter()
        .find(|(_, upstream)| upstream.value.app == App::Nextjs);
    match (next, names.as_slice()) {
        (Some((key, _)), _) => Ok(key.name.clone()),
        (None, [one]) => Ok((*one).to_owned()),
        (None, _) => Err(format!(
            "no upstream has `app: nextjs`; {}\n\
             help: name the upstream that the app replaces: `--upstream NAME`",
            list()
        )),
    }
}

#[derive(Template)]
#[template(path = "overlay.yml")]
struct OverlayText<'a> {
    base: &'a ProxyYaml,
    name: String,
    is_next: bool,
    /// True if the file says nothing about an access log.
    is_quiet: bool,
    /// True if HSTS, which the file asks for, would be sent from this machine.
    is_hsts_off: bool,
    /// Condition for the hosts of the site.
    hosts: String,
    /// Conditions for the WebSockets of hot module replacement.
    clients: Vec<String>,
}

/// Returns the text that is laid over the file. `hmr` has the paths of hot module replacement.
pub(super) fn text(file: &File, base: &ProxyYaml, site: &LocalSite, hmr: &[String]) -> String {
    let is_next = file
        .upstreams
        .iter()
        .any(|(key, config)| key.name == site.upstream && config.value.app == App::Nextjs);
    let defaults = file
        .tree
        .get("defaults")
        .and_then(|node| node.get("security_headers"));
    let is_open = defaults.is_none_or(|node| matches!(node.value, Value::Map(_)));
    let paths = file
        .routes
        .iter()
        .flat_map(|route| &route.config.matches.value.path.0);
    let written: Vec<&str> = paths.map(|path| path.value.as_str()).collect();
    let missing: Vec<String> = hmr
        .iter()
        .filter(|path| !written.contains(&path.as_str()))
        .map(|path| quoted(path))
        .collect();
    let paths = (!missing.is_empty()).then(|| format!("path: [{}]", missing.join(", ")));
    // Those of Vite, also below Astro, Nuxt, React Router and SvelteKit, have any path.
    let vite = (!is_next).then(|| "header: { sec-websocket-protocol: \"~^vite-\" }".to_owned());
    // A route with a host comes before those without.
    let hosts = site.host(&file.tree).map_or_else(String::new, |host| {
        let hosts = std::iter::once(&host).chain(&site.names);
        let hosts: Vec<String> = hosts.map(|host| quoted(host)).collect();
        format!("host: [{}], ", hosts.join(", "))
    });
    let text = OverlayText {
        base,
        name: quoted(&site.upstream),
        is_next,
        is_quiet: file.access_log.is_none(),
        is_hsts_off: base.https.is_some() && is_open,
        hosts,
        clients: paths.into_iter().chain(vite).collect(),
    };
    text.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::project;
    use edgeway_config::source::Overlay;
    use edgeway_gateway::{
        self as gateway, World,
        explain::{ExplainRequest, ExplainScope, explain},
    };

    fn file(yaml: &str) -> File {
        edgeway_filters::register();
        gateway::load_text("t.yaml", yaml).file.unwrap()
    }

    fn base() -> ProxyYaml {
        ProxyYaml {
            comment: String::new(),
            listen: ListenAddress::local(8080),
            https: None,
            admin: String::new(),
            app: project::App::Nextjs,
            build: None,
            backends: vec!["127.0.0.1:41000".to_owned()],
            tls: false,
            hosts: Vec::new(),
            cache: false,
            more: super::super::DRAIN.to_owned(),
            settings: super::super::SLOW_PAGES,
        }
    }

    const PRODUCTION: &str = "
listeners:
  - { address: \":80\", redirect: https }
  - { address: \":443\", tls: { acme: [shop.example.com] } }
acme: { email: a@example.com, folder: /nowhere/acme }
drain: { deadline: 2min }
upstreams:
  api: { app: node, backends: [127.0.0.1:5005] }
  web:
    app: nextjs
    folder: /nowhere/.next
    backends: [10.0.0.7:3000, 10.0.0.8:3000]
    health: { path: /api/health }
    timeouts: { first_byte: 10s, connect: 2s }
routes:
  - match: { path: /* }
    upstream: web
    headers: { response: { set: { X-Own: yes } } }
    cache: {}
  - match: { path: /api/* }
    upstream: api
";

    /// Invariant: the routes and filters of the file stay, and nothing is left of what only the
    /// machine in production has.
    #[test]
    fn a_configuration_for_production_serves_the_dev_script() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("edgeway.yaml");
        std::fs::write(&path, PRODUCTION).unwrap();
        let written = file(PRODUCTION);
        let upstream = upstream(&written, None).unwrap();
        let site = local_site(&upstream, base().listen);
        let overlay = Overlay {
            name: "edgeway dev".into(),
            text: text(&written, &base(), &site, &["/docs/_next/hmr".to_owned()]),
            local_site: Some(site),
        };
        let loaded = gateway::load_with(&path, Some(&overlay));
        let report = loaded
            .diagnostics
            .render(&loaded.sources, edgeway_config::diagnostic::Style::Json);
        let file = loaded.file.expect(&report);
        let (gateway, found) = gateway::compile(&file, folder.path(), &World::default());
        let report = found.render(&loaded.sources, edgeway_config::diagnostic::Style::Json);
        assert!(found.list().is_empty(), "{report}");
        let gateway = gateway.unwrap();
        let listeners: Vec<String> = gateway
            .listeners
            .iter()
            .map(|listener| listener.address.to_string())
            .collect();
        assert_eq!(listeners, ["127.0.0.1:8080"]);
        assert!(gateway.acme.is_none() && gateway.watch.is_some());
        assert_eq!(gateway.drain.deadline.as_secs(), 1);
        assert_eq!(gateway.routes.len(), 3);
        let printed = gateway::print::yaml(&file, &gateway, &[]);
        assert!(
            printed.contains("X-Own") && printed.contains("127.0.0.1:5005"),
            "{printed}"
        );
        assert!(
            printed.contains("127.0.0.1:41000") && !printed.contains("10.0.0.7"),
            "{printed}"
        );
        assert!(
            printed.contains("5min")
                && printed.contains("/docs/_next/hmr")
                && !printed.contains("/nowhere"),
            "{printed}"
        );
    }

    /// Invariant: with a host on every route too, requests for this machine find the routes of the
    /// site, hot module replacement among them.
    #[test]
    fn a_site_with_a_host_is_served_at_the_names_of_this_machine() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("edgeway.yaml");
        let hosts = PRODUCTION
            .replace(
                "match: { path: /* }",
                "match: { host: shop.example.com, path: /* }",
            )
            .replace(
                "match: { path: /api/* }",
                "match: { host: api.example.com, path: /* }",
            );
        std::fs::write(&path, &hosts).unwrap();
        let written = file(&hosts);
        let site = local_site("web", "192.0.2.7:8080".parse().unwrap());
        assert_eq!(
            site.host(&written.tree).as_deref(),
            Some("shop.example.com")
        );
        let overlay = Overlay {
            name: "edgeway dev".into(),
            text: text(&written, &base(), &site, &["/_next/hmr".to_owned()]),
            local_site: Some(site),
        };
        let loaded = gateway::load_with(&path, Some(&overlay));
        let file = loaded.file.unwrap();
        let (gateway, found) = gateway::compile(&file, folder.path(), &World::default());
        assert!(found.list().is_empty());
        let gateway = gateway.unwrap();
        let route = |url: &str| {
            let request = ExplainRequest {
                method: "GET".to_owned(),
                url: url.to_owned(),
                headers: Vec::new(),
                client: [127, 0, 0, 1].into(),
                listener: None,
            };
            let explained = explain(&gateway, &request, ExplainScope::AtTheRules).unwrap();
            let explained = serde_json::to_value(explained).unwrap();
            explained["action"].as_str().unwrap_or_default().to_owned()
        };
        for host in [
            "localhost",
            "shop.localhost",
            "127.0.0.1",
            "[::1]",
            "192.0.2.7",
            "shop.example.com",
        ] {
            let page = route(&format!("http://{host}:8080/x"));
            assert!(page.contains("upstream web"), "{host}: {page}");
            let hmr = route(&format!("http://{host}:8080/_next/hmr"));
            assert!(hmr.contains("upstream web (websocket)"), "{host}: {hmr}");
        }
        let api = route("http://api.example.com/x");
        assert!(api.contains("upstream api"), "{api}");
    }

    /// Invariant: WebSockets of Vite and of the project's bundler pass, whatever the routes of the
    /// file allow, and no others.
    #[test]
    fn the_clients_of_other_bundlers_reach_the_dev_script() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("edgeway.yaml");
        let node = "
listeners: [{ address: 127.0.0.1:8080 }]
upstreams: { web: { app: node, backends: [127.0.0.1:3000] } }
routes:
  - match: { path: /* }
    upstream: web
    methods: [GET, POST]
";
        std::fs::write(&path, node).unwrap();
        let written = file(node);
        let site = local_site("web", base().listen);
        let overlay = Overlay {
            name: "edgeway dev".into(),
            text: text(&written, &base(), &site, &["/ws".to_owned()]),
            local_site: Some(site),
        };
        let file = gateway::load_with(&path, Some(&overlay)).file.unwrap();
        let (gateway, found) = gateway::compile(&file, folder.path(), &World::default());
        assert!(found.list().is_empty());
        let gateway = gateway.unwrap();
        for (path, protocol, expected) in [
            ("/_nuxt/", "vite-hmr", "web (websocket)"),
            ("/_nuxt/", "chat", "web"),
            ("/ws", "", "web (websocket)"),
        ] {
            let request = ExplainRequest {
                method: "GET".to_owned(),
                url: format!("http://localhost:8080{path}?token=x"),
                headers: vec![format!("sec-websocket-protocol: {protocol}")],
                client: [127, 0, 0, 1].into(),
                listener: None,
            };
            let explained = explain(&gateway, &request, ExplainScope::AtTheRules).unwrap();
            let explained = serde_json::to_value(explained).unwrap();
            let action = explained["action"].as_str().unwrap_or_default();
            assert!(action.ends_with(expected), "{path} {protocol}: {action}");
        }
    }

    #[test]
    fn the_upstream_of_the_app_is_found_or_asked_for() {
        let two = "upstreams: { a: { backends: [127.0.0.1:1] }, b: { backends: [127.0.0.1:2] } }\n\
                   listeners: [{ address: 127.0.0.1:8080 }]\nroutes: [{ match: {}, respond: ok }]\n";
        assert!(upstream(&file(two), None).unwrap_err().contains("`a`, `b`"));
        assert_eq!(upstream(&file(two), Some("b")).as_deref(), Ok("b"));
        assert!(upstream(&file(two), Some("c")).is_err());
        assert_eq!(upstream(&file(PRODUCTION), None).as_deref(), Ok("web"));
    }
}
