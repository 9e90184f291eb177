//! The conventions of the code base, as tests: layers, file headers, sizes, and agreement of
//! generated or duplicated lists.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use edgeway::testkit::FILTERS;

use crate::support::certificates::files_of_examples;

/// Modules within a crate by layer; each may import those of lower layers. Between crates cargo keeps
/// the order. What the list does not name is the rest of its crate.
const LAYERS: &[(&str, &[&[&str]])] = &[
    ("core", &[&["zones", "chain"], &["limits", "registry"]]),
    ("routes", &[&["values"], &["routes"]]),
    (
        "proxy",
        &[
            &["connection", "message"],
            &["session"],
            &["proxy"],
            &["hooks"],
            &["driver"],
            &["edge"],
        ],
    ),
];

/// Pingora's crates, and the modules that may name each. Header types (`pingora::http`) may be used
/// everywhere above `config`.
const PINGORA: &[(&str, &[&str])] = &[
    (
        "pingora",
        &[
            "proxy",
            "edge",
            "message",
            "session",
            "hooks",
            "driver",
            "upstreams",
            "cache",
        ],
    ),
    (
        "pingora_proxy",
        &["proxy", "edge", "session", "hooks", "driver"],
    ),
    ("pingora_cache", &["cache", "proxy"]),
    ("pingora_load_balancing", &["upstreams"]),
    ("pingora_limits", &["limits"]),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("the folder is there") {
        let path = entry.expect("the folder can be read").path();
        if path.is_dir() {
            found.extend(files(&path, ending));
        } else if path.to_string_lossy().ends_with(ending) {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn sources() -> Vec<(String, String)> {
    ["src", "crates"]
        .iter()
        .flat_map(|folder| files(&root().join(folder), ".rs"))
        .map(|path| {
            let text = fs::read_to_string(&path).expect("source is UTF-8");
            let name = path
                .strip_prefix(root())
                .expect("below the root")
                .to_string_lossy()
                .into_owned();
            (name, text)
        })
        .collect()
}

/// `crates/filters/src/cors/mod.rs` → `filters`, `crates/core/src/chain/mod.rs` → `chain`; `None` for
/// the package at the top.
fn module(file: &str) -> Option<&str> {
    let (name, rest) = file.strip_prefix("crates/")?.split_once("/src/")?;
    let layers = LAYERS.iter().find(|(own, _)| *own == name);
    let first = rest.split(['/', '.']).next().unwrap_or_default();
    let is_named = |(_, layers): &(&str, &[&[&str]])| layers.iter().any(|l| l.contains(&first));
    Some(match layers {
        Some(own) if is_named(own) => first,
        _ if name == "script" => "plugins",
        _ => name,
    })
}

/// Returns the modules that a file names with `crate::`, braces included.
fn imports(text: &str) -> BTreeSet<String> {
    let code: String = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect::<Vec<_>>()
        .join("\n");
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        if let Some(list) = rest.strip_prefix('{') {
            let mut depth = 1;
            let mut word = String::new();
            let mut takes = true;
            for c in list.chars() {
                match c {
                    '{' => depth += 1,
                    '}' => depth -= 1,
                    _ => {}
                }
                if depth == 0 {
                    break;
                }
                if depth == 1 && c == ',' {
                    takes = true;
                    word.clear();
                } else if depth == 1 && takes && (c.is_alphanumeric() || c == '_') {
                    word.push(c);
                } else if takes && !word.is_empty() && !c.is_whitespace() {
                    found.insert(word.clone());
                    takes = false;
                }
            }
        } else {
            found.insert(
                rest.chars()
                    .take_while(|c| c.is_alphanumeric() || *c == '_')
                    .collect(),
            );
        }
    }
    found
}

#[test]
fn imports_point_down() {
    let mut wrong = Vec::new();
    let mut seen = 0;
    for (file, text) in sources() {
        let Some(own) = module(&file) else { continue };
        let of_crate = |(name, _): &&(&str, _)| file.starts_with(&format!("crates/{name}/src/"));
        let Some((name, layers)) = LAYERS.iter().find(of_crate) else {
            continue;
        };
        let layer = |module: &str| layers.iter().position(|layer| layer.contains(&module));
        // `lib.rs` joins the modules of its crate.
        if file.ends_with("/src/lib.rs") {
            continue;
        }
        for import in imports(&text) {
            let to = if layer(&import).is_some() {
                &*import
            } else {
                name
            };
            seen += 1;
            // The contract may name live state, as its own row of the table says.
            let is_chain = own == "chain" && to == "zones";
            if !(layer(to) < layer(own) || to == own || is_chain) {
                wrong.push(format!("{file} imports {import}"));
            }
        }
        if own == "chain" && text.contains("edgeway_config::model") {
            wrong.push(format!("{file} imports edgeway_config::model"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(seen > 100, "only {seen} imports were found");
}

/// Crates of commands.
const COMMANDS: [&str; 6] = ["cli", "develop", "import", "operate", "project", "top"];

/// Returns the crates of ours that are compiled before each one, tests aside.
fn crates_below() -> BTreeMap<String, BTreeSet<String>> {
    let mut below = BTreeMap::new();
    for file in files(&root().join("crates"), "Cargo.toml") {
        let text = fs::read_to_string(&file).expect("a manifest is UTF-8");
        let manifest: toml::Table = text.parse().expect("it is TOML");
        let all = manifest["dependencies"].as_table();
        let own = |name: &str| name.strip_prefix("edgeway-").map(str::to_owned);
        let all = all.into_iter().flat_map(|all| all.keys());
        let name = manifest["package"]["name"].as_str().and_then(own);
        let all: BTreeSet<String> = all.filter_map(|name| own(name)).collect();
        below.insert(name.expect("a crate of ours"), all);
    }
    for _ in 0..below.len() {
        let before = below.clone();
        for all in below.values_mut() {
            let further: Vec<_> = all.iter().flat_map(|name| &before[name]).cloned().collect();
            all.extend(further);
        }
    }
    below
}

/// Invariant: an edit of a filter compiles no command, and an edit of a command no data plane.
#[test]
fn an_edit_compiles_what_it_concerns() {
    let below = crates_below();
    let above = |name: &str| -> Vec<&str> {
        let all = below.iter().filter(|(_, below)| below.contains(name));
        all.map(|(above, _)| &**above).collect()
    };
    assert_eq!(above("filters"), [""; 0], "only the package at the top");
    for command in COMMANDS {
        let others = above(command);
        let others = others.iter().filter(|name| !COMMANDS.contains(name));
        assert_eq!(others.count(), 0, "{command}: {:?}", above(command));
    }
    // The control: what every crate is made with is below all others.
    assert_eq!(above("base").len(), below.len() - 2);
    assert!(above("core-filters").contains(&"proxy"));
}

/// Crates whose modules form no circle: what two of them share lies below both.
const WITHOUT_CIRCLES: [&str; 1] = ["proxy"];

/// Modules that a module of the same crate imports.
type Imports = BTreeMap<String, BTreeSet<String>>;

fn imports_within(name: &str) -> Imports {
    let mut found = Imports::new();
    for (file, text) in sources() {
        let prefix = format!("crates/{name}/src/");
        let Some(rest) = file.strip_prefix(&prefix).filter(|rest| *rest != "lib.rs") else {
            continue;
        };
        let is_top = !rest.trim_end_matches("/mod.rs").contains('/');
        let text = if is_top {
            text.replace("super::", "crate::")
        } else {
            text
        };
        let own = rest.split(['/', '.']).next().unwrap_or_default().to_owned();
        let imports = found.entry(own.clone()).or_default();
        imports.extend(self::imports(&text).into_iter().filter(|it| *it != own));
    }
    let modules: BTreeSet<String> = found.keys().cloned().collect();
    for imports in found.values_mut() {
        imports.retain(|import| modules.contains(import));
    }
    found
}

/// Returns the modules that are part of a circle, or import one.
fn circles(mut imports: Imports) -> Imports {
    loop {
        let settled: Vec<String> = imports
            .iter()
            .filter(|(_, own)| own.is_empty())
            .map(|(module, _)| module.clone())
            .collect();
        if settled.is_empty() {
            return imports;
        }
        for module in &settled {
            imports.remove(module);
        }
        for own in imports.values_mut() {
            own.retain(|import| !settled.contains(import));
        }
    }
}

#[test]
fn modules_form_no_circle() {
    for name in WITHOUT_CIRCLES {
        let mut imports = imports_within(name);
        assert!(imports.len() > 15, "{name} has {} modules", imports.len());
        assert_eq!(circles(imports.clone()), Imports::new(), "{name}");
        let (first, below) = imports
            .iter()
            .find(|(_, own)| !own.is_empty())
            .expect("one");
        let (first, below) = (first.clone(), below.first().expect("one").clone());
        imports.entry(below).or_default().insert(first);
        assert_ne!(circles(imports), Imports::new(), "a circle is found");
    }
}

/// Folders of the filters.
const FILTER_FOLDERS: [&str; 2] = ["crates/core-filters/src", "crates/filters/src"];

#[test]
fn a_filter_imports_no_other_filter() {
    let mut wrong = Vec::new();
    for (file, text) in sources() {
        let mut folders = FILTER_FOLDERS.iter();
        let below = folders.find_map(|folder| file.strip_prefix(folder)?.strip_prefix('/'));
        let Some((own, _)) = below.and_then(|rest| rest.split_once('/')) else {
            continue;
        };
        for import in imports(&text.replace("edgeway_core_filters::", "crate::")) {
            if import != own && FILTERS.iter().any(|entry| entry.name == import) {
                wrong.push(format!("{file} imports {import}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn pingora_is_named_where_it_may_be() {
    let mut wrong = Vec::new();
    for (file, text) in sources() {
        let own = module(&file).unwrap_or_default();
        for line in text.lines().filter(|l| !l.trim_start().starts_with("//")) {
            for (name, modules) in PINGORA {
                let names_it = line
                    .match_indices(name)
                    .map(|(at, _)| &line[at + name.len()..])
                    .any(|rest| rest.starts_with("::") && !rest.starts_with("::http"));
                if names_it && !modules.contains(&own) {
                    wrong.push(format!("{file}: {}", line.trim()));
                }
            }
            if line.contains("pingora") && own == "config" {
                wrong.push(format!("{file}: {}", line.trim()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_file_begins_with_its_purpose() {
    let silent: Vec<_> = sources()
        .into_iter()
        .filter(|(_, text)| !text.starts_with("//! "))
        .map(|(file, _)| file)
        .collect();
    assert!(silent.is_empty(), "{silent:#?}");
}

#[test]
fn no_file_is_scrolled_for_long() {
    let long: Vec<_> = sources()
        .into_iter()
        .map(|(file, text)| {
            let most = if file == "crates/proxy/src/lib.rs" {
                400
            } else {
                600
            };
            (text.lines().count(), most, file)
        })
        .filter(|(lines, most, _)| lines > most)
        .collect();
    assert!(long.is_empty(), "{long:#?}");
}

#[test]
fn every_filter_has_its_folder_its_page_and_its_example() {
    let names: BTreeSet<String> = FILTERS.iter().map(|e| e.name.to_owned()).collect();
    assert_eq!(names.len(), FILTERS.len(), "a name stands twice");
    let stems = |folder: &str, ending: &str| -> BTreeSet<String> {
        fs::read_dir(root().join(folder))
            .unwrap_or_else(|error| panic!("{folder}: {error}"))
            .filter_map(|entry| {
                let name = entry.expect("can be read").file_name();
                let name = name.to_string_lossy().into_owned();
                name.strip_suffix(ending).map(str::to_owned)
            })
            .collect()
    };
    let folders = FILTER_FOLDERS.iter().flat_map(|folder| stems(folder, ""));
    let folders: BTreeSet<String> = folders.filter(|name| !name.contains('.')).collect();
    assert_eq!(folders, names, "{FILTER_FOLDERS:?}");
    assert_eq!(stems("docs/filters", ".md"), names, "docs/filters/");
    let examples = stems("conf/examples", ".yaml");
    assert!(
        names.is_subset(&examples),
        "conf/examples/: {:?}",
        names.difference(&examples)
    );
}

#[test]
fn the_tables_name_every_filter_in_the_order_of_the_registry() {
    let names: Vec<&str> = FILTERS.iter().map(|entry| entry.name).collect();
    let read = |page: &str| fs::read_to_string(root().join(page)).expect("the page is there");
    let features = read("docs/features.md");
    let row = features
        .lines()
        .find(|line| line.starts_with("| [Filters]"));
    let named: Vec<&str> = row
        .unwrap_or_default()
        .split('`')
        .skip(1)
        .step_by(2)
        .collect();
    let help = "name each filter in the order of `FILTERS`";
    assert_eq!(named, names, "docs/features.md: {help}");
    let overview = read("docs/README.md");
    let rows = overview.lines().filter(|line| line.contains("](filters/"));
    let named: Vec<&str> = rows.filter_map(|row| row.split('`').nth(1)).collect();
    assert_eq!(named, names, "docs/README.md: {help}");
}

#[test]
fn the_schema_in_the_repository_is_fresh() {
    let path = root().join("conf/schema.json");
    let stored = fs::read_to_string(&path).expect("conf/schema.json is there");
    let stored: serde_json::Value = serde_json::from_str(&stored).expect("it is JSON");
    assert!(
        stored == edgeway::testkit::gateway::schema(),
        "conf/schema.json is stale: run `make config-page`"
    );
}

#[test]
fn every_example_configuration_is_well_formed() {
    let mut seen = 0;
    for path in files(&root().join("conf"), ".yaml") {
        let loaded = edgeway::testkit::gateway::load(&path);
        let file = loaded
            .file
            .unwrap_or_else(|| panic!("{}: {:#?}", path.display(), loaded.diagnostics));
        let world = edgeway::testkit::gateway::World::default();
        let folder = files_of_examples();
        let (gateway, diagnostics) = edgeway::testkit::gateway::compile(&file, folder, &world);
        assert!(gateway.is_some(), "{}: {diagnostics:#?}", path.display());
        // A warning in an example would teach readers to ignore warnings.
        let problems = diagnostics.list().iter().chain(loaded.diagnostics.list());
        assert_eq!(problems.count(), 0, "{}: {diagnostics:#?}", path.display());
        seen += 1;
    }
    assert!(seen > FILTERS.len(), "only {seen} examples were found");
}

#[test]
fn the_example_of_a_filter_uses_it() {
    for entry in FILTERS {
        let path = root().join(format!("conf/examples/{}.yaml", entry.name));
        let loaded = edgeway::testkit::gateway::load(&path);
        let file = loaded.file.expect("another test says what is wrong");
        let routes = file.routes.iter().flat_map(|route| &route.filters);
        let mut written = routes.chain(&file.defaults).chain(&file.access_log);
        assert!(
            written.any(|(key, _)| key.name == entry.name),
            "{}",
            path.display()
        );
    }
}

#[test]
fn every_word_of_yaml_in_the_readme_is_well_formed() {
    let readme = fs::read_to_string(root().join("README.md")).expect("README.md is there");
    let (_, rest) = readme
        .split_once("```yaml\n")
        .expect("it shows a configuration");
    let (yaml, _) = rest.split_once("```").expect("the block ends");
    let loaded = edgeway::testkit::gateway::load_text("README.md", yaml);
    let file = loaded
        .file
        .unwrap_or_else(|| panic!("{:#?}", loaded.diagnostics));
    let world = edgeway::testkit::gateway::World::default();
    let (gateway, diagnostics) = edgeway::testkit::gateway::compile(&file, root(), &world);
    assert!(gateway.is_some(), "{diagnostics:#?}");
}

#[test]
fn no_test_is_left_out() {
    let mark = concat!("#[", "ignore");
    let mut left_out = Vec::new();
    for folder in ["src", "crates", "tests/it"] {
        for path in files(&root().join(folder), ".rs") {
            let text = fs::read_to_string(&path).expect("source is UTF-8");
            if text.contains(mark) {
                left_out.push(path);
            }
        }
    }
    assert!(left_out.is_empty(), "{left_out:#?}");
}

#[test]
fn lock_files_name_no_registry() {
    for folder in [
        "apps/next",
        "apps/next15",
        "apps/next14",
        "apps/express",
        "browser",
    ] {
        let path = root().join("tests").join(folder).join("package-lock.json");
        let text = fs::read_to_string(&path).expect("the lock file is there");
        assert!(!text.contains("\"resolved\""), "{}", path.display());
    }
}

#[test]
fn the_import_reader_reads_braces() {
    let text = "use crate::{\n    base::{clock::Clock, net},\n    config::model::File,\n};\nuse crate::zones::Zones;\n// crate::cli\n";
    let found: Vec<_> = imports(text).into_iter().collect();
    assert_eq!(found, ["base", "config", "zones"]);
}

/// Hooks that Pingora would call and that do nothing: they have no place in the order of a request.
const UNUSED_HOOKS: [&str; 3] = [
    "init_downstream_modules",
    "upstream_peer",
    "suppress_error_log",
];

/// Returns the names of the hooks, in the order of the code.
fn hooks(code: &str) -> Vec<&str> {
    let (_, hooks) = code
        .split_once("impl ProxyHttp for Proxy {\n")
        .expect("the hooks are there");
    let (hooks, _) = hooks.split_once("\n}\n").expect("they end");
    let functions = hooks.lines().filter_map(|line| {
        let line = line.strip_prefix("    ")?;
        line.strip_prefix("boxed!(")
            .or_else(|| line.strip_prefix("fn "))
    });
    functions
        .filter_map(|function| function.split(['(', '<']).next())
        .collect()
}

/// Returns the first code of each item of the numbered list below `heading`.
fn numbered<'p>(page: &'p str, heading: &str) -> Vec<&'p str> {
    let (_, section) = page.split_once(heading).expect("the section is there");
    let (section, _) = section.split_once("\n## ").expect("it ends");
    let items = section
        .lines()
        .filter(|line| line.starts_with(|c: char| c.is_ascii_digit()));
    items.filter_map(|item| item.split('`').nth(1)).collect()
}

#[test]
fn the_architecture_lists_the_hooks_in_their_order() {
    let read = |file: &str| fs::read_to_string(root().join(file)).expect("it is there");
    let (code, page) = (
        read("crates/proxy/src/hooks.rs"),
        read("docs/architecture.md"),
    );
    let (unused, order): (Vec<&str>, Vec<&str>) = hooks(&code)
        .into_iter()
        .partition(|hook| UNUSED_HOOKS.contains(hook));
    assert_eq!(unused, UNUSED_HOOKS);
    assert_eq!(numbered(&page, "\n## Order of a request\n"), order);
    let missing = unused
        .iter()
        .find(|hook| !page.contains(&format!("`{hook}`")));
    assert_eq!(missing, None, "docs/architecture.md");
}

/// Begins the line of an unresolved conflict, which stays unseen in a page that no program reads.
fn is_conflict(line: &str) -> bool {
    let marks = ["<", ">"].map(|mark| mark.repeat(7) + " ");
    marks.iter().any(|mark| line.starts_with(mark))
}

#[test]
fn no_file_has_an_unresolved_conflict() {
    assert!(is_conflict(&format!("{} HEAD", "<".repeat(7))));
    let texts = [
        "src",
        "crates",
        "docs",
        "conf",
        "scripts",
        "tests/it",
        "load-tests",
    ];
    let folders = texts
        .iter()
        .flat_map(|folder| files(&root().join(folder), ""));
    let pages = fs::read_dir(root()).expect("the folder can be read");
    let pages = pages.map(|page| page.expect("it can be read").path());
    let mut seen = 0;
    for path in folders.chain(pages.filter(|page| page.is_file())) {
        let Ok(text) = fs::read_to_string(&path) else {
            continue;
        };
        seen += 1;
        let found = text.lines().find(|line| is_conflict(line));
        assert_eq!(found, None, "{}", path.display());
    }
    assert!(seen > 1000, "only {seen} files were read");
}

/// Checks that each test that `SECURITY.md` names exists.
#[test]
fn tests_that_are_promised_exist() {
    let text = fs::read_to_string(root().join("SECURITY.md")).expect("it is there");
    let named: Vec<(&str, &str)> = text
        .split('`')
        .skip(1)
        .step_by(2)
        .filter_map(|code| code.split_once(".rs::"))
        .collect();
    assert!(named.len() > 20, "the page names {} tests", named.len());
    let missing: Vec<String> = named
        .into_iter()
        .filter(|(file, name)| {
            let path = root().join("tests").join(format!("{file}.rs"));
            let source = fs::read_to_string(path).unwrap_or_default();
            !source.contains(&format!("fn {name}("))
        })
        .map(|(file, name)| format!("{file}.rs::{name}"))
        .collect();
    assert!(missing.is_empty(), "no such test: {missing:#?}");
}

/// Traits of `core::chain` that authors of filters read, with their numbers of functions. What the
/// gateway knows about a filter is a field of `Traits`, and no function.
const CONTRACT: [(&str, &str, usize); 3] = [
    ("mod.rs", "Filter", 14),
    ("mod.rs", "FilterKind", 2),
    ("async_filter.rs", "AsyncFilter", 8),
];

#[test]
fn the_contract_of_filters_stays_small() {
    for (file, name, bound) in CONTRACT {
        let path = root().join("crates/core/src/chain").join(file);
        let text = fs::read_to_string(path).expect("it is there");
        let (_, body) = text
            .split_once(&format!("pub trait {name}: "))
            .unwrap_or_else(|| panic!("`{file}` has no `{name}`"));
        let (body, _) = body.split_once("\n}\n").expect("it ends");
        let functions = body.lines().filter(|line| line.starts_with("    fn "));
        assert_eq!(
            functions.count(),
            bound,
            "functions of `{name}` in `{file}`"
        );
    }
}
