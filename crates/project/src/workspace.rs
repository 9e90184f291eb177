//! Workspaces of npm, pnpm, yarn and bun: several packages below one folder, some of which are apps.

use std::{
    fs,
    path::{Path, PathBuf},
};

use edgeway_config::{
    diagnostic::Diagnostics,
    tree::{self, Node, Value},
};

use super::{
    Declared, Framework, Project, code::FoundPort, package::Package, pm2::name_of, script::Program,
};

/// Limit on packages that are read.
const MAX_PACKAGES: usize = 200;
/// Folders that `**` descends.
const MAX_DEPTH: usize = 4;

/// Returns the apps among the packages of a workspace.
pub(super) fn apps(root: &Project, problems: &mut Vec<String>) -> Vec<Declared> {
    let mut apps = Vec::<Declared>::new();
    for folder in packages(&root.folder, root.package.as_ref()) {
        let project = Project::read(&root.folder.join(&folder));
        problems.extend(project.problems.iter().cloned());
        // Another program may be a tool with a port, such as one that shows components.
        let is_app = project
            .started()
            .is_some_and(|started| started.program != Program::Other);
        if !is_app {
            continue;
        }
        let FoundPort { port, source } = project.port();
        let is_site = matches!(project.framework(), Framework::Static(_));
        let ports = if is_site { Vec::new() } else { vec![port] };
        let same = apps.iter().find(|other| other.ports == ports);
        if let Some(other) = same.filter(|_| !is_site) {
            problems.push(format!(
                "{} and {} both listen on port {port}: give one of them another port",
                other.folder.display(),
                folder.display()
            ));
        }
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        apps.push(Declared {
            name: name_of(&name),
            ports,
            source: format!("{}: {source}", folder.display()),
            workers: 1,
            command: None,
            folder,
        });
    }
    apps
}

/// Returns the folders of the packages, in the order of the patterns and then of their names.
fn packages(root: &Path, package: Option<&Package>) -> Vec<PathBuf> {
    let mut patterns = pnpm(root);
    patterns.extend(
        package
            .into_iter()
            .flat_map(|package| package.workspaces().map(str::to_owned)),
    );
    let mut folders = Vec::new();
    for pattern in patterns.iter().filter(|pattern| !pattern.starts_with('!')) {
        let parts: Vec<&str> = pattern
            .split('/')
            .filter(|part| !["", "."].contains(part))
            .collect();
        if !parts.contains(&"..") {
            expand(root, Path::new(""), &parts, &mut folders);
        }
    }
    let excluded = patterns
        .iter()
        .filter_map(|pattern| pattern.strip_prefix('!'));
    let excluded: Vec<glob::Pattern> = excluded
        .filter_map(|pattern| glob::Pattern::new(pattern.trim_start_matches("./")).ok())
        .collect();
    let is_excluded =
        |folder: &PathBuf| excluded.iter().any(|pattern| pattern.matches_path(folder));
    folders.retain(|folder| !is_excluded(folder));
    folders
}

/// Returns the patterns in `pnpm-workspace.yaml`.
fn pnpm(root: &Path) -> Vec<String> {
    let text = fs::read_to_string(root.join("pnpm-workspace.yaml")).unwrap_or_default();
    let file = tree::parse(&text, 0, &mut Diagnostics::default());
    let listed = file.as_ref().and_then(|file| file.get("packages"));
    let Some(Value::List(patterns)) = listed.map(|listed| &listed.value) else {
        return Vec::new();
    };
    let texts = patterns
        .iter()
        .filter_map(|pattern: &Node| match &pattern.value {
            Value::Text(text) => Some(text.clone()),
            _ => None,
        });
    texts.collect()
}

/// Adds the folders with a package.json that a pattern names.
fn expand(root: &Path, folder: &Path, parts: &[&str], packages: &mut Vec<PathBuf>) {
    if packages.len() >= MAX_PACKAGES || folder.components().count() > MAX_DEPTH {
        return;
    }
    let Some((part, rest)) = parts.split_first() else {
        let is_new = !packages.iter().any(|known| known == folder);
        if is_new && root.join(folder).join("package.json").is_file() {
            packages.push(folder.to_owned());
        }
        return;
    };
    let is_deep = *part == "**";
    if is_deep {
        expand(root, folder, rest, packages);
    }
    let Ok(pattern) = glob::Pattern::new(part) else {
        return;
    };
    for name in folders(&root.join(folder)) {
        if is_deep {
            expand(root, &folder.join(&name), parts, packages);
        } else if pattern.matches(&name) {
            expand(root, &folder.join(&name), rest, packages);
        }
    }
}

/// Returns the names of the folders in a folder, sorted, without those that hold no packages.
fn folders(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let folders = entries.filter(|entry| entry.path().is_dir());
    let names = folders.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names
        .filter(|name| name != "node_modules" && !name.starts_with('.'))
        .collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(files: &[(&str, &str)]) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let package = Package::read(folder.path()).unwrap();
        let found = packages(folder.path(), package.as_ref());
        found.iter().map(|at| at.display().to_string()).collect()
    }

    #[test]
    fn packages_are_those_that_the_package_managers_find() {
        let packages = [
            ("apps/web/package.json", "{}"),
            ("apps/api/package.json", "{}"),
            ("apps/notes/readme.md", ""),
            ("apps/web/node_modules/x/package.json", "{}"),
            ("libs/a/deep/package.json", "{}"),
            ("docs/package.json", "{}"),
        ];
        let of = |name, text| found(&[&packages[..], &[(name, text)]].concat());
        let npm = |text| of("package.json", text);
        assert_eq!(
            npm(r#"{ "workspaces": ["apps/*"] }"#),
            ["apps/api", "apps/web"]
        );
        assert_eq!(
            npm(r#"{ "workspaces": { "packages": ["./docs", "apps/w*"] } }"#),
            ["docs", "apps/web"]
        );
        let pnpm = |text| of("pnpm-workspace.yaml", text);
        assert_eq!(
            pnpm("packages: ['libs/**', 'apps/*', '!apps/api', '../x']"),
            ["libs/a/deep", "apps/web"]
        );
        assert_eq!(pnpm("catalog: { react: 19 }"), Vec::<String>::new());
        assert_eq!(npm("{}"), Vec::<String>::new());
    }
}
