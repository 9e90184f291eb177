//! `package.json`: dependencies and scripts.

use std::{fs, io, path::Path};

use serde_json::{Map, Value};

#[derive(Debug)]
pub(super) struct Package(Map<String, Value>);

impl Package {
    /// Reads the file of a folder; `None` if there is none.
    pub(super) fn read(folder: &Path) -> Result<Option<Self>, String> {
        let path = folder.join("package.json");
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(format!("cannot read {}: {error}", path.display())),
        };
        match serde_json::from_str(text.trim_start_matches('\u{feff}')) {
            Ok(Value::Object(package)) => Ok(Some(Self(package))),
            Ok(_) => Err(format!("{} is not an object", path.display())),
            Err(error) => Err(format!("{} is not JSON: {error}", path.display())),
        }
    }

    /// Returns true if the app or its build needs this package.
    pub(super) fn has(&self, name: &str) -> bool {
        self.depends_on(name) || self.lists("devDependencies", name)
    }

    /// Returns true if the app needs this package while it runs.
    pub(super) fn depends_on(&self, name: &str) -> bool {
        self.lists("dependencies", name) || self.lists("optionalDependencies", name)
    }

    fn lists(&self, section: &str, name: &str) -> bool {
        self.0
            .get(section)
            .is_some_and(|section| section.get(name).is_some())
    }

    pub(super) fn script(&self, name: &str) -> Option<&str> {
        self.0.get("scripts")?.get(name)?.as_str()
    }

    pub(super) fn scripts(&self) -> impl Iterator<Item = (&str, &str)> {
        let scripts = self.0.get("scripts").and_then(Value::as_object);
        let scripts = scripts.into_iter().flatten();
        scripts.filter_map(|(name, script)| Some((name.as_str(), script.as_str()?)))
    }

    /// Returns the value of `packageManager`, such as `pnpm@10.4.1`.
    pub(super) fn manager(&self) -> Option<&str> {
        self.0.get("packageManager")?.as_str()
    }

    #[cfg(test)]
    pub(super) fn from_value(value: Value) -> Self {
        match value {
            Value::Object(package) => Self(package),
            _ => Self(Map::new()),
        }
    }

    /// Returns the patterns of the folders of a workspace's packages.
    pub(super) fn workspaces(&self) -> impl Iterator<Item = &str> {
        let listed = self.0.get("workspaces");
        let listed = listed.map(|listed| listed.get("packages").unwrap_or(listed));
        let patterns = listed.and_then(Value::as_array).into_iter().flatten();
        patterns.filter_map(Value::as_str)
    }

    /// Returns true if the build of the project is that of `VitePress`, which apps have beside them
    /// for their documentation.
    pub(super) fn builds_vitepress(&self, folder: &Path) -> bool {
        match self.script("build") {
            Some(build) => build.contains("vitepress"),
            None => !folder.join("index.html").is_file(),
        }
    }

    /// Returns the folder of the pages that a script builds: `docs` of `vitepress build docs`.
    pub(super) fn vitepress_root(&self) -> Option<&str> {
        let mut builds = self.scripts().filter_map(|(_, script)| {
            let (_, arguments) = script.split_once("vitepress build")?;
            let root = arguments.split_whitespace().next()?;
            let root = root.trim_start_matches("./");
            root.starts_with(|c: char| c.is_ascii_alphanumeric())
                .then_some(root)
        });
        builds.next()
    }

    /// Returns the path that Create React App makes a site for: `/shop` of `homepage`.
    pub(super) fn homepage(&self) -> Option<String> {
        let page = self.0.get("homepage")?.as_str()?;
        let page = page.split_once("://").map_or(page, |(_, rest)| rest);
        let path = page
            .find('/')
            .map(|slash| page[slash..].trim_end_matches('/'))?;
        (!path.is_empty() && !page.starts_with('.')).then(|| path.to_owned())
    }

    /// Returns the first module of the app, as `main` names it.
    pub(super) fn main(&self) -> Option<&str> {
        self.0.get("main")?.as_str()
    }
}
