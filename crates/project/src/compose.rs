//! Compose files: the services that publish a port on this machine and are apps.

use std::path::Path;

use edgeway_config::{
    diagnostic::Diagnostics,
    tree::{self, Node, Value},
};

use super::{
    Declared,
    pm2::{first_file, name_of},
    port_of,
};

const NAMES: [&str; 4] = [
    "compose.yaml",
    "compose.yml",
    "docker-compose.yml",
    "docker-compose.yaml",
];

/// Parts of the names of images that are no apps: what stands behind or beside an app.
const OTHERS: &str = "redis valkey postgres mysql mariadb mongo memcached rabbitmq kafka zookeeper \
    elasticsearch opensearch minio mailhog mailpit adminer pgadmin prometheus grafana nginx \
    traefik caddy haproxy edgeway";

pub(super) fn apps(folder: &Path, problems: &mut Vec<String>) -> Vec<Declared> {
    let Some((name, text)) = first_file(folder, &NAMES) else {
        return Vec::new();
    };
    let Some(file) = tree::parse(&text, 0, &mut Diagnostics::default()) else {
        problems.push(format!("{name} is not YAML"));
        return Vec::new();
    };
    let services = file.get("services").map_or(&[][..], Node::entries);
    let apps = services
        .iter()
        .filter_map(|(key, service)| declared(&key.name, service, name));
    apps.collect()
}

fn declared(service: &str, node: &Node, file: &str) -> Option<Declared> {
    let image = node.get("image").map(text).unwrap_or_default();
    // `ghcr.io/a/redis:7` is `redis`.
    let image = image.rsplit('/').next().unwrap_or_default();
    let image = image
        .split([':', '@'])
        .next()
        .unwrap_or_default()
        .to_owned();
    let has_build = node.get("build").is_some();
    if !has_build && OTHERS.split(' ').any(|other| image.contains(other)) {
        return None;
    }
    let Some(Value::List(ports)) = node.get("ports").map(|ports| &ports.value) else {
        return None;
    };
    let ports: Vec<u16> = ports.iter().filter_map(published).collect();
    if ports.is_empty() {
        return None;
    }
    let context = node.get("build").map(|build| match &build.value {
        Value::Map(_) => build.get("context").map(text).unwrap_or_default(),
        _ => text(build),
    });
    let context = context.unwrap_or_default();
    Some(Declared {
        name: name_of(service),
        // Several published ports are several servers of one app; the first is the site.
        ports: vec![ports[0]],
        source: file.to_owned(),
        workers: 1,
        command: None,
        folder: super::relative(&context),
    })
}

/// Returns the port on this machine: `3000:3000`, `127.0.0.1:3000:80/tcp`, `{ published: 3000 }`.
fn published(node: &Node) -> Option<u16> {
    let written = if let Value::Map(_) = &node.value {
        node.get("published").map(text)?
    } else {
        let text = defaults(&text(node));
        let text = text.split('/').next()?;
        let mut parts = text.rsplit(':');
        parts.next()?;
        // A container's port alone is published on any port.
        parts.next()?.to_owned()
    };
    let first = defaults(&written);
    port_of(first.split('-').next()?)
}

/// Replaces `${NAME:-3000}` by its default; the environment of compose is not this one.
fn defaults(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, tail)) = rest.split_once("${") {
        out.push_str(before);
        let Some((inner, after)) = tail.split_once('}') else {
            return out;
        };
        out.push_str(inner.split_once('-').map_or("", |(_, default)| default));
        rest = after;
    }
    out.push_str(rest);
    out
}

fn text(node: &Node) -> String {
    match &node.value {
        Value::Text(text) => text.clone(),
        Value::Integer(number) => number.to_string(),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn found(yaml: &str) -> Vec<(String, Vec<u16>)> {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("compose.yaml"), yaml).unwrap();
        let mut problems = Vec::new();
        let apps = apps(folder.path(), &mut problems);
        assert_eq!(problems, Vec::<String>::new());
        apps.into_iter().map(|app| (app.name, app.ports)).collect()
    }

    #[test]
    fn published_ports_of_apps_are_found_and_those_of_databases_are_not() {
        let apps = found(
            "services:\n\
             \x20 web: { build: ., ports: [\"${WEB_PORT:-3005}:3000\"] }\n\
             \x20 api: { image: ghcr.io/a/api, ports: [\"127.0.0.1:5001:5000/tcp\"] }\n\
             \x20 new: { image: a, ports: [{ target: 80, published: \"8081\" }] }\n\
             \x20 any: { image: a, ports: [\"3000\"] }\n\
             \x20 job: { image: a }\n\
             \x20 db: { image: \"postgres:17\", ports: [\"5432:5432\"] }\n\
             \x20 cache: { image: docker.io/bitnami/redis, ports: [\"6379:6379\"] }\n",
        );
        let expected = [("web", 3005), ("api", 5001), ("new", 8081)];
        let expected = expected.map(|(name, port)| (name.to_owned(), vec![port]));
        assert_eq!(apps, expected);
    }
}
