//! Links of the pages: each leads to a file that exists, and to a heading in it.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Component, Path, PathBuf},
};

use regex::Regex;

use super::{files, read, root};

/// Returns every page of the repository that people read.
fn pages() -> Vec<String> {
    let mut found: Vec<String> = ["docs", "systemd", "plugins", "examples", "load-tests"]
        .iter()
        .flat_map(|folder| files(folder, ".md"))
        .collect();
    let above = std::fs::read_dir(root()).expect("the folder is there");
    found.extend(above.filter_map(|entry| {
        let name = entry.expect("it can be read").file_name();
        let name = name.to_string_lossy().into_owned();
        let is_page = Path::new(&name).extension().is_some_and(|it| it == "md");
        is_page.then_some(name)
    }));
    found.push("tests/README.md".to_owned());
    found
}

/// Returns the lines of a page outside of blocks of code, with their numbers.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut is_code = false;
    text.lines().enumerate().filter_map(move |(at, line)| {
        if line.trim_start().starts_with("```") {
            is_code = !is_code;
            return None;
        }
        (!is_code).then_some((at + 1, line))
    })
}

/// Returns the anchors of a page, as GitHub makes them of headings.
fn anchors(text: &str) -> BTreeSet<String> {
    let link = Regex::new(r"\[([^\]]*)\]\([^)]*\)").expect("it is valid");
    let mut seen = BTreeMap::<String, usize>::new();
    let mut found = BTreeSet::new();
    for (_, line) in prose(text) {
        let heading = line.trim_start_matches('#');
        if heading.len() == line.len() || !heading.starts_with(' ') {
            continue;
        }
        let heading = link.replace_all(heading.trim(), "$1").to_lowercase();
        let anchor: String = heading
            .chars()
            .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
            .map(|c| if c == ' ' { '-' } else { c })
            .collect();
        let count = seen.entry(anchor.clone()).or_default();
        found.insert(match *count {
            0 => anchor,
            again => format!("{anchor}-{again}"),
        });
        *count += 1;
    }
    found
}

/// Returns the targets of links, with their lines.
fn links(text: &str) -> Vec<(usize, String)> {
    let code = Regex::new("`[^`]*`").expect("it is valid");
    let link = Regex::new(r"\]\(([^)\s]+)\)").expect("it is valid");
    let mut found = Vec::new();
    for (at, line) in prose(text) {
        let line = code.replace_all(line, "``");
        for target in link.captures_iter(&line) {
            found.push((at, target[1].to_owned()));
        }
    }
    found
}

/// Returns a path without `..`.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(plain.pop()),
            Component::CurDir => {}
            part => plain.push(part),
        }
    }
    plain
}

/// Returns the problem of a link.
fn problem(page: &str, target: &str) -> Option<String> {
    if target.contains("://") || target.starts_with("mailto:") {
        return None;
    }
    let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
    let folder = Path::new(page).parent().unwrap_or(Path::new(""));
    let path = if file.is_empty() {
        PathBuf::from(page)
    } else {
        plain(&folder.join(file))
    };
    if !root().join(&path).exists() {
        return Some(format!("no file `{}`", path.display()));
    }
    if anchor.is_empty() {
        return None;
    }
    let has = anchors(&read(&path.to_string_lossy())).contains(anchor);
    (!has).then(|| format!("no heading `#{anchor}` in `{}`", path.display()))
}

#[test]
fn every_link_leads_somewhere() {
    let mut wrong = Vec::new();
    let mut count = 0;
    for page in pages() {
        for (line, target) in links(&read(&page)) {
            count += 1;
            if let Some(problem) = problem(&page, &target) {
                wrong.push(format!("{page}:{line}: {problem}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(count > 200, "only {count} links were found");
}

/// Files that prose names without a link.
#[test]
fn every_file_that_a_page_names_exists() {
    let named = Regex::new(
        r"`((?:docs|conf|plugins|examples|load-tests|systemd|tests|scripts)/[A-Za-z0-9_./-]+)`",
    );
    let named = named.expect("it is valid");
    let mut wrong = Vec::new();
    // The changelog names files of earlier builds, too.
    for page in pages().iter().filter(|page| *page != "CHANGELOG.md") {
        for (line, text) in prose(&read(page)).map(|(line, text)| (line, text.to_owned())) {
            for found in named.captures_iter(&text) {
                let path = root().join(&found[1]);
                let is_there = path.exists() || path.with_extension("rs").exists();
                if !is_there {
                    wrong.push(format!("{page}:{line}: no `{}`", &found[1]));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_metric_that_a_page_names_exists() {
    let name = Regex::new(r"\bedgeway_[a-z][a-z0-9_]+").expect("it is valid");
    let listed = read("docs/metrics.md");
    let listed: BTreeSet<&str> = name.find_iter(&listed).map(|it| it.as_str()).collect();
    let mut wrong = Vec::new();
    for page in files("docs", ".md") {
        for (at, line) in read(&page).lines().enumerate() {
            for found in name.find_iter(line).map(|it| it.as_str()) {
                let parts = ["_bucket", "_sum", "_count"].iter();
                let mut whole = parts.filter_map(|part| found.strip_suffix(part));
                let is_part = found.ends_with('_');
                let is_listed = listed.contains(found) || whole.any(|it| listed.contains(it));
                let is_plugins = found.starts_with("edgeway_plugin_user_");
                // Targets of log lines name crates.
                let name = found.strip_prefix("edgeway_").unwrap_or(found);
                let is_crate = root().join("crates").join(name).is_dir();
                if !is_listed && !is_part && !is_plugins && !is_crate {
                    wrong.push(format!("{page}:{}: no metric `{found}`", at + 1));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Filters whose source says that they guard, beside plugins, of which the configuration says it.
#[test]
fn the_page_of_routes_names_every_guard() {
    let names = |text: &str| -> BTreeSet<String> {
        let words = text.split('`').skip(1).step_by(2);
        words.map(str::to_owned).collect()
    };
    let page = read("docs/routing.md");
    let (_, list) = page.split_once("because of its path: ").expect("the list");
    let listed = names(list.split(" or rules").next().unwrap_or_default());
    let guards = Regex::new(r"Guard::(Access|Identity|Limit)\b").expect("it is valid");
    let folders = ["crates/core-filters/src", "crates/filters/src"];
    let sources = folders
        .into_iter()
        .flat_map(|folder| files(folder, "mod.rs"));
    let found = sources.filter(|source| guards.is_match(&read(source)));
    let folder = |source: String| {
        source
            .split('/')
            .rev()
            .nth(1)
            .unwrap_or_default()
            .to_owned()
    };
    let mut found: BTreeSet<String> = found.map(folder).collect();
    assert!(found.remove("plugins"));
    let help = "docs/routing.md: name each filter that guards below \"A route is guarded if\"";
    assert_eq!(listed, found, "{help}");
}

#[test]
fn the_page_of_exit_statuses_has_each() {
    let rows = Regex::new(r"(?m)^\| (\d+) \|").expect("it is valid");
    let page = read("docs/exit-status.md");
    let listed = rows.captures_iter(&page).map(|row| row[1].to_owned());
    let listed: BTreeSet<String> = listed.collect();
    let constant = Regex::new(r"Self = Self::Status\((\w+)\)").expect("it is valid");
    let source = read("crates/base/src/out.rs").replace("EX_CONFIG)", "78)");
    let known = constant.captures_iter(&source).map(|own| own[1].to_owned());
    let known: BTreeSet<String> = known.chain(["0".to_owned()]).collect();
    assert_eq!(listed, known);
}

#[test]
fn the_index_has_every_page() {
    let index = read("docs/README.md");
    let listed: BTreeSet<String> = links(&index)
        .into_iter()
        .map(|(_, target)| target.split('#').next().unwrap_or_default().to_owned())
        .collect();
    let missing: Vec<String> = files("docs", ".md")
        .into_iter()
        .filter_map(|page| page.strip_prefix("docs/").map(str::to_owned))
        .filter(|page| page != "README.md" && !listed.contains(page))
        .collect();
    assert!(missing.is_empty(), "docs/README.md lacks {missing:?}");
}

/// Editors find the schema by the first line of a file.
#[test]
fn every_example_file_names_the_schema() {
    let mut count = 0;
    for path in files("conf", ".yaml")
        .into_iter()
        .chain(files("conf", ".yml"))
    {
        let text = read(&path);
        let first = text.lines().next().unwrap_or_default();
        let schema = first.strip_prefix("# yaml-language-server: $schema=");
        let schema = schema.unwrap_or_else(|| panic!("{path} does not name the schema"));
        let folder = Path::new(&path).parent().expect("it is in a folder");
        assert_eq!(plain(&folder.join(schema)), Path::new("conf/schema.json"));
        count += 1;
    }
    assert!(count > 20, "{count}");
}

#[test]
fn a_link_to_nothing_is_found() {
    let text =
        "# A `b` [c](d): E_f\n\n[a](x.md) and `[b](y.md)`\n```\n[c](z.md)\n```\n# A b c: e_f\n";
    assert_eq!(links(text), [(1, "d".to_owned()), (3, "x.md".to_owned())]);
    let expected = ["a-b-c-e_f", "a-b-c-e_f-1"].map(str::to_owned);
    assert_eq!(anchors(text), BTreeSet::from(expected));
    assert_eq!(problem("docs/x.md", "https://example.com/"), None);
    assert_eq!(problem("docs/x.md", "../README.md"), None);
    assert!(problem("docs/x.md", "gone.md").is_some());
    assert!(problem("docs/x.md", "../README.md#try-it").is_none());
    assert!(problem("docs/x.md", "../README.md#gone").is_some());
}
