//! The image, the compose file and the Kubernetes example: each agrees with itself, with the other
//! files and with the gateway.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use edgeway::filter::Span;
use edgeway_config::{diagnostic::Diagnostics, tree};
use serde_json::Value;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn text(path: &str) -> String {
    fs::read_to_string(root().join(path)).expect("the file is there")
}

fn yaml(text: &str) -> Value {
    let mut diagnostics = Diagnostics::default();
    let value =
        tree::parse(text, 0, &mut diagnostics).and_then(|node| tree::read(&node, &mut diagnostics));
    value.unwrap_or_else(|| unreadable(&diagnostics))
}

#[allow(clippy::panic, reason = "a broken example fails the test")]
fn unreadable(diagnostics: &Diagnostics) -> Value {
    panic!("{diagnostics:#?}")
}

/// Runs `edgeway check` on a configuration in its folder.
fn check(path: &Path) {
    let output = Command::new(env!("CARGO_BIN_EXE_edgeway"))
        .args(["check", "-c"])
        .arg(path)
        .env("EDGEWAY_ADMIN_TOKEN", "0123456789abcdef0123456789abcdef")
        .env("EDGEWAY_REDIS_SECRET", "0123456789abcdef0123456789abcdef")
        .output()
        .expect("the program runs");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    assert!(!stderr.contains("warning"), "{stderr}");
}

fn duration(value: &Value) -> Duration {
    let text = value.as_str().expect("a duration");
    text.parse::<Span>().expect("a duration").0
}

/// Time from the order to stop until the gateway ends at the latest.
fn drain_of(config: &Value) -> Duration {
    let schema: Value = serde_json::from_str(&text("conf/schema.json")).expect("it is JSON");
    let known = &schema["$defs"]["DrainConfig"]["properties"];
    let given = |key: &str| {
        let written = config["drain"].get(key);
        duration(written.unwrap_or(&known[key]["default"]))
    };
    given("announce") + given("deadline")
}

fn names(list: &Value) -> BTreeSet<&str> {
    let list = list.as_array().expect("a list").iter();
    list.map(|entry| entry["name"].as_str().expect("a name"))
        .collect()
}

/// Port of `:8080` and of `0.0.0.0:8080`.
fn port(address: &Value) -> u64 {
    let address = address.as_str().expect("an address");
    let (_, port) = address.rsplit_once(':').expect("it has a port");
    port.parse().expect("a number")
}

#[test]
fn the_pod_has_time_to_drain_and_its_parts_fit_together() {
    let documents = text("deploy/kubernetes/edgeway.yaml");
    let documents: Vec<Value> = documents.split("\n---\n").map(yaml).collect();
    let kind = |kind: &str| {
        let found = documents.iter().find(|document| document["kind"] == kind);
        found.expect("the kind is there")
    };
    let config = kind("ConfigMap")["data"]["edgeway.yaml"]
        .as_str()
        .expect("the configuration");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("edgeway.yaml");
    fs::write(&file, config).unwrap();
    check(&file);
    let config = yaml(config);

    let deployment = &kind("Deployment")["spec"];
    let pod = &deployment["template"]["spec"];
    let container = &pod["containers"][0];
    let grace = pod["terminationGracePeriodSeconds"].as_u64().unwrap();
    let pre_stop = container["lifecycle"]["preStop"]["sleep"]["seconds"].as_u64();
    let needed = drain_of(&config) + Duration::from_secs(pre_stop.unwrap());
    assert!(needed + Duration::from_secs(5) <= Duration::from_secs(grace));
    // Longer than it takes until a failed readiness probe is seen.
    assert!(duration(&config["drain"]["announce"]) >= Duration::from_secs(5));

    let ports = names(&container["ports"]);
    for (probe, path) in [
        ("startupProbe", "/healthz"),
        ("readinessProbe", "/readyz"),
        ("livenessProbe", "/healthz"),
    ] {
        let get = &container[probe]["httpGet"];
        assert_eq!(get["path"], path, "{probe}");
        assert!(ports.contains(get["port"].as_str().unwrap()), "{probe}");
    }
    let container_port = |name: &str| {
        let list = container["ports"].as_array().unwrap();
        let found = list.iter().find(|port| port["name"] == name).unwrap();
        found["containerPort"].as_u64().unwrap()
    };
    assert_eq!(
        container_port("http"),
        port(&config["listeners"][0]["address"])
    );
    assert_eq!(container_port("admin"), port(&config["admin"]["address"]));
    let service = &kind("Service")["spec"];
    assert!(ports.contains(service["ports"][0]["targetPort"].as_str().unwrap()));

    let labels = &deployment["template"]["metadata"]["labels"];
    for selector in [
        &deployment["selector"]["matchLabels"],
        &service["selector"],
        &kind("PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
    ] {
        assert_eq!(selector, labels);
    }
    assert_eq!(names(&container["volumeMounts"]), names(&pod["volumes"]));
    let secret = &container["env"][0]["valueFrom"]["secretKeyRef"];
    assert_eq!(secret["name"], kind("Secret")["metadata"]["name"]);
    let data = &kind("Secret")["stringData"];
    assert!(data.get(secret["key"].as_str().unwrap()).is_some());
    let tag = container["image"].as_str().unwrap();
    assert_eq!(tag, format!("edgeway:{}", env!("CARGO_PKG_VERSION")));
    let security = &container["securityContext"];
    assert_eq!(security["readOnlyRootFilesystem"], true);
    assert_eq!(security["allowPrivilegeEscalation"], false);
    assert_eq!(pod["securityContext"]["runAsUser"], 65532);
}

#[test]
fn the_compose_file_agrees_with_the_files_that_it_mounts() {
    let folder = root().join("deploy/compose");
    let compose = yaml(&text("deploy/compose/compose.yaml"));
    check(&folder.join("gateway/edgeway.yaml"));
    let config = yaml(&text("deploy/compose/gateway/edgeway.yaml"));
    let services = compose["services"].as_object().unwrap();
    let volumes = compose["volumes"].as_object().unwrap();
    for (name, service) in services {
        let image = service["image"].as_str().unwrap_or("built:here");
        assert!(!image.ends_with(":latest"), "{name}");
        let pulled = image.contains('/');
        assert!(
            !pulled || image.contains(':'),
            "{name}: {image} has no version"
        );
        for mount in service["volumes"].as_array().into_iter().flatten() {
            let source = mount.as_str().unwrap().split(':').next().unwrap();
            let exists = if source.starts_with('.') {
                folder.join(source).exists()
            } else {
                volumes.contains_key(source)
            };
            assert!(exists, "{name}: {source}");
        }
        if let Some(context) = service["build"]["context"].as_str() {
            assert!(folder.join(context).join("Dockerfile").exists(), "{name}");
        }
        let needs: Vec<&str> = match &service["depends_on"] {
            Value::Object(needs) => needs.keys().map(String::as_str).collect(),
            Value::Array(needs) => needs.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        };
        for need in needs {
            assert!(services.contains_key(need), "{name} needs {need}");
        }
    }
    let gateway = &services["gateway"];
    assert_eq!(gateway["read_only"], true);
    let grace = duration(&gateway["stop_grace_period"]);
    assert!(drain_of(&config) + Duration::from_secs(5) <= grace);
    let published = gateway["ports"][0].as_str().unwrap();
    let listener = port(&config["listeners"][0]["address"]);
    assert!(published.ends_with(&format!(":{listener}")));
    // Names of services as the gateway and Prometheus know them.
    let backend = config["upstreams"]["web"]["backends"][0]["dns"].as_str();
    assert_eq!(backend, Some("app:3000"));
    let redis = config["redis"]["url"].as_str().unwrap();
    assert_eq!(redis, "redis://redis:6379");
    let prometheus = yaml(&text("deploy/compose/prometheus.yml"));
    let scraped = &prometheus["scrape_configs"][0];
    let target = format!("gateway:{}", port(&config["admin"]["address"]));
    assert_eq!(scraped["static_configs"][0]["targets"][0], target);
    let token = text("deploy/compose/gateway/admin.token");
    assert_eq!(scraped["authorization"]["credentials"], token.trim());
    let rules = prometheus["rule_files"][0].as_str().expect("a file");
    let rules = rules
        .strip_prefix("rules/")
        .expect("the folder that is mounted");
    assert!(root().join("dashboards").join(rules).exists());
    // Files that Grafana reads on its own.
    for path in ["provisioning/datasources", "provisioning/dashboards"] {
        let entries = fs::read_dir(folder.join("grafana").join(path)).unwrap();
        for entry in entries {
            yaml(&fs::read_to_string(entry.unwrap().path()).unwrap());
        }
    }
}

/// Instructions of a Dockerfile, with continued lines joined.
fn instructions(path: &str) -> Vec<(String, String)> {
    let text = text(path).replace("\\\n", " ");
    let lines = text.lines().map(str::trim);
    lines
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| {
            let (name, rest) = line.split_once(' ').expect("an instruction");
            (name.to_owned(), rest.trim().to_owned())
        })
        .collect()
}

/// Rules of hadolint, with its numbers.
#[test]
fn images_are_built_by_the_rules() {
    let files: [PathBuf; 2] = ["Dockerfile".into(), "deploy/compose/app/Dockerfile".into()];
    for file in files {
        let file = file.to_str().unwrap();
        let found = instructions(file);
        let all = |name: &str| -> Vec<&str> {
            let found = found.iter().filter(|(n, _)| n == name);
            found.map(|(_, rest)| rest.as_str()).collect()
        };
        let mut stages = BTreeSet::new();
        for from in all("FROM") {
            let mut words = from.split(' ');
            let image = words.next().unwrap();
            // DL3006, DL3007: a version, and not `latest`.
            let tag = image.rsplit_once(':').map(|(_, tag)| tag);
            assert!(tag.is_some_and(|tag| tag != "latest"), "{file}: {from}");
            // DL3026: no image of an unnamed registry.
            assert!(
                image.split('/').next().unwrap().contains('.'),
                "{file}: {from}"
            );
            if words.next() == Some("AS") {
                stages.insert(words.next().unwrap().to_owned());
            }
        }
        assert!(!stages.is_empty(), "{file}: one stage");
        // DL3020.
        assert!(all("ADD").is_empty(), "{file}");
        for copy in all("COPY") {
            if let Some(from) = copy.strip_prefix("--from=") {
                let stage = from.split(' ').next().unwrap();
                assert!(stages.contains(stage), "{file}: {copy}");
            }
        }
        for run in all("RUN") {
            // DL3004, DL3008, DL3009, DL3014, DL3015.
            assert!(!run.contains("sudo "), "{file}: {run}");
            if run.contains("apt-get install") {
                assert!(run.contains("--yes") && run.contains("--no-install-recommends"));
                assert!(run.contains("rm -rf /var/lib/apt/lists/*"), "{file}: {run}");
                assert!(run.contains('='), "{file}: {run}: no version");
            }
        }
        // DL3000, DL3025, DL3002: absolute folders, lists of words, and not root in the end.
        for folder in all("WORKDIR") {
            assert!(folder.starts_with('/'), "{file}: {folder}");
        }
        for command in ["CMD", "ENTRYPOINT"] {
            assert!(all(command).iter().all(|text| text.starts_with('[')));
        }
        let user = all("USER").last().copied().expect("a user");
        assert!(!["root", "0", "0:0"].contains(&user), "{file}: {user}");
    }
    let gateway = text("Dockerfile");
    assert!(gateway.contains("HEALTHCHECK"));
    assert!(gateway.contains("USER 65532:65532"));
    // The compiler that the package asks for.
    let rust = env!("CARGO_PKG_RUST_VERSION");
    assert!(gateway.contains(&format!("rust:{rust}-bookworm")));
}
