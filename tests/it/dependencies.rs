//! The dependencies against `deny.toml`: licences, banned crates, duplicates and sources, as
//! `cargo deny check` reads them. `scripts/advisories` checks advisories, whose database is fetched.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    process::Command,
};

use serde_json::Value;
use spdx::{Expression, ParseMode};

/// Packages of the lock file that are compiled on this platform, and their direct dependents.
struct Tree {
    packages: Vec<Value>,
    dependents: BTreeMap<String, BTreeSet<String>>,
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

fn tree() -> Tree {
    let rustc = Command::new("rustc")
        .arg("-vV")
        .output()
        .expect("rustc runs");
    let version = String::from_utf8(rustc.stdout).expect("the version is text");
    let host = version
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .expect("rustc names its host");
    let metadata = Command::new(env!("CARGO"))
        .args(["metadata", "--locked", "--offline", "--format-version", "1"])
        .args(["--filter-platform", host])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    let stderr = String::from_utf8_lossy(&metadata.stderr);
    assert!(metadata.status.success(), "{stderr}");
    let metadata: Value = serde_json::from_slice(&metadata.stdout).expect("metadata is JSON");
    let all = metadata["packages"].as_array().expect("a list of packages");
    let by_id: BTreeMap<&str, &Value> = all.iter().map(|p| (text(p, "id"), p)).collect();
    let mut tree = Tree {
        packages: Vec::new(),
        dependents: BTreeMap::new(),
    };
    for node in metadata["resolve"]["nodes"].as_array().expect("a graph") {
        let package = by_id[text(node, "id")];
        tree.packages.push(package.clone());
        for dependency in node["deps"].as_array().expect("a list") {
            let name = text(by_id[text(dependency, "pkg")], "name").to_owned();
            let dependents = tree.dependents.entry(name).or_default();
            dependents.insert(text(package, "name").to_owned());
        }
    }
    tree
}

fn rules() -> toml::Table {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deny.toml");
    let text = std::fs::read_to_string(path).expect("deny.toml is there");
    text.parse().expect("deny.toml is TOML")
}

fn strings(list: &toml::Value) -> BTreeSet<&str> {
    let list = list.as_array().expect("a list");
    list.iter().filter_map(toml::Value::as_str).collect()
}

/// Returns the problems of a tree, each with the package's name.
fn problems(tree: &Tree, rules: &toml::Table) -> Vec<String> {
    let mut found = Vec::new();
    let allowed = strings(&rules["licenses"]["allow"]);
    for package in &tree.packages {
        let name = text(package, "name");
        let license = text(package, "license");
        let is_allowed = Expression::parse_mode(license, ParseMode::LAX).is_ok_and(|expression| {
            expression.evaluate(|requirement| allowed.contains(&*requirement.to_string()))
        });
        if !is_allowed {
            found.push(format!("{name}: the licence `{license}` is not allowed"));
        }
        let source = text(package, "source");
        if !source.is_empty() && !source.starts_with("registry+") {
            found.push(format!("{name}: its source is not the registry: {source}"));
        }
    }
    for ban in rules["bans"]["deny"].as_array().expect("a list") {
        let name = ban["crate"].as_str().expect("a name");
        let wrappers = ban.get("wrappers").map(strings).unwrap_or_default();
        for dependent in tree.dependents.get(name).into_iter().flatten() {
            if !wrappers.contains(&**dependent) {
                found.push(format!("{dependent} depends on `{name}`, which is banned"));
            }
        }
    }
    let skipped = strings(&rules["bans"]["skip"]);
    let mut versions: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let mut unused = skipped.clone();
    for package in &tree.packages {
        let (name, version) = (text(package, "name"), text(package, "version"));
        let full = format!("{name}@{version}");
        if skipped.contains(&*full) {
            unused.remove(&*full);
        } else {
            versions.entry(name).or_default().insert(version);
        }
    }
    for (name, versions) in versions {
        if versions.len() > 1 {
            found.push(format!("{name} is there in several versions: {versions:?}"));
        }
    }
    found.extend(
        unused
            .into_iter()
            .map(|full| format!("{full} is skipped and not in the tree")),
    );
    found
}

#[test]
fn dependencies_keep_the_rules() {
    let (tree, rules) = (tree(), rules());
    assert!(tree.packages.len() > 300, "{}", tree.packages.len());
    let found = problems(&tree, &rules);
    assert!(found.is_empty(), "{found:#?}");
}

/// Limit on the packages that the binary is built from, ours and procedural macros among them. Each is
/// built by everyone, audited and updated; a change that raises the limit says why in the commit's body.
const MAX_PACKAGES: usize = 460;

/// Returns the lines of `cargo tree`, without marks of repetition.
fn cargo_tree(arguments: &[&str]) -> BTreeSet<String> {
    let tree = Command::new(env!("CARGO"))
        .args(["tree", "--locked", "--offline", "--prefix", "none"])
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    let stderr = String::from_utf8_lossy(&tree.stderr);
    assert!(tree.status.success(), "{stderr}");
    let tree = String::from_utf8(tree.stdout).expect("the tree is text");
    tree.lines().map(|line| line.replace(" (*)", "")).collect()
}

/// Returns the packages that a package of ours needs, without those of its tests and build scripts.
fn packages_of(package: &str) -> BTreeSet<String> {
    cargo_tree(&["--edges", "normal", "--package", package])
}

#[test]
fn tests_are_built_with_the_packages_of_the_demonstration() {
    let format = ["--workspace", "--format", "{p} {f}", "--edges"];
    let built = |edges| cargo_tree(&[&format[..], &[edges]].concat());
    let (demo, tests) = (built("normal,build"), built("normal,build,dev"));
    let again: Vec<_> = demo.difference(&tests).collect();
    assert!(
        again.is_empty(),
        "tests have other features of {again:#?}: add them to `[dependencies]` in Cargo.toml"
    );
}

#[test]
fn the_binary_is_built_from_no_more_packages() {
    let packages = packages_of("edgeway");
    let count = packages.len();
    assert!(
        packages
            .iter()
            .any(|package| package.starts_with("pingora "))
    );
    assert!(
        count <= MAX_PACKAGES,
        "the binary needs {count} packages, {MAX_PACKAGES} at most"
    );
}

#[test]
fn reading_a_configuration_waits_for_nothing_that_waits_on_others() {
    let heavy = ["h2", "hyper", "pingora", "redis", "rustls", "tokio"];
    for package in ["edgeway-base", "edgeway-config"] {
        let packages = packages_of(package);
        let is_heavy =
            |package: &&String| heavy.iter().any(|h| package.starts_with(&format!("{h} ")));
        let found: Vec<_> = packages.iter().filter(is_heavy).collect();
        assert!(found.is_empty(), "{package} needs {found:?}");
    }
}

#[test]
fn a_dependency_that_breaks_a_rule_is_found() {
    let (mut tree, rules) = (tree(), rules());
    let package = |name: &str, license: &str, source: &str| serde_json::json!({ "name": name, "version": "0.0.1", "license": license, "source": source });
    tree.packages
        .push(package("a", "GPL-3.0-only", "registry+x"));
    tree.packages
        .push(package("b", "MIT", "git+https://b.test"));
    tree.packages.push(package("serde", "MIT", "registry+x"));
    let dependents = tree.dependents.entry("openssl".to_owned()).or_default();
    dependents.insert("b".to_owned());
    let found = problems(&tree, &rules);
    assert_eq!(found.len(), 4, "{found:#?}");
}
