//! Files of a plugin.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{self, Read},
    path::{Component, Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use parking_lot::Mutex;
use ring::digest::{Context, SHA256};
use rquickjs::{
    Ctx, Error, Exception, Module, Result,
    loader::{ImportAttributes, Loader, Resolver},
    module::Declared,
};

use super::error::Failure;
use crate::config::source::ReferencedFiles;

/// Largest file of a plugin.
const MAX_SOURCE_LEN: u64 = 4 << 20;

/// Longest path of an import, as in file systems.
const MAX_PATH_LEN: usize = 4096;

/// Import of a `proxy.js` of Next.js; its exports are available without it too.
const NEXT_SERVER: &str = "next/server";
const NEXT_SERVER_MODULE: &str = "export const { NextRequest, NextResponse } = globalThis;";

/// Import that only tests of plugins may use.
const TESTS: &str = "edgeway:test";
const TESTS_MODULE: &str = "const kit = globalThis[Symbol.for('edgeway:test')];
export const { assert, plugin, test } = kit;
export default test;";

/// Entry module of a plugin and the modules that it imports. Each file is kept as first read, so
/// that every isolate runs the same code.
#[derive(Debug)]
pub struct Source {
    /// Name of the folder in stack traces.
    name: String,
    pub folder: PathBuf,
    entry: String,
    /// True if the file holds tests, and is not a plugin.
    is_test: bool,
    files: Mutex<BTreeMap<String, Arc<str>>>,
    /// Files that were requested and could not be read.
    missed: Mutex<BTreeSet<String>>,
    /// Set once no further file is read: files may be of another version by now.
    is_whole: AtomicBool,
}

impl Source {
    /// Reads a plugin. `file` is the path of the entry module; `name` is the name of its folder in
    /// logs.
    pub fn read(name: &str, file: &Path) -> std::result::Result<Arc<Self>, Failure> {
        Self::read_as(name, file, false)
    }

    /// Reads a file with tests.
    pub(super) fn read_tests(name: &str, file: &Path) -> std::result::Result<Arc<Self>, Failure> {
        Self::read_as(name, file, true)
    }

    fn read_as(name: &str, file: &Path, is_test: bool) -> std::result::Result<Arc<Self>, Failure> {
        let entry = file.file_name().and_then(|name| name.to_str());
        let Some(entry) = entry else {
            return Err(Failure::load(format!("{} is not a file", file.display())));
        };
        // For a file that is written without a folder.
        let name = if name.is_empty() { "." } else { name };
        let folder = file.parent().unwrap_or(Path::new("")).to_owned();
        let source = Self {
            name: name.to_owned(),
            folder,
            entry: entry.to_owned(),
            is_test,
            files: Mutex::default(),
            missed: Mutex::default(),
            is_whole: AtomicBool::new(false),
        };
        source.file(entry)?;
        Ok(Arc::new(source))
    }

    /// Name of the entry module, as stack traces show it.
    pub(super) fn entry(&self) -> String {
        self.shown(&self.entry)
    }

    /// Files that were read, relative to the folder.
    pub fn files(&self) -> Vec<String> {
        self.files.lock().keys().cloned().collect()
    }

    /// Returns true if the files that were read have not changed.
    pub fn is_current(&self) -> bool {
        let files = self.files.lock().clone();
        let mut files = files.iter();
        let missed = self.missed.lock().clone();
        files.all(|(file, text)| read(&self.folder.join(file)).is_ok_and(|now| *now == **text))
            && missed
                .iter()
                .all(|file| read(&self.folder.join(file)).is_err())
    }

    /// Notes the plugin's files in `referenced`.
    pub fn note(&self, referenced: &mut ReferencedFiles) {
        for (file, text) in &*self.files.lock() {
            referenced.code(self.folder.join(file), Some(text.as_bytes()));
        }
        for file in &*self.missed.lock() {
            referenced.code(self.folder.join(file), None);
        }
    }

    /// Short hash of the plugin's files, which identifies the version.
    pub(super) fn version(&self) -> String {
        let mut digest = Context::new(&SHA256);
        for (file, text) in &*self.files.lock() {
            for part in [file.as_bytes(), text.as_bytes()] {
                digest.update(&(part.len() as u64).to_be_bytes());
                digest.update(part);
            }
        }
        let digest = digest.finish();
        let start = digest.as_ref().first_chunk::<8>().copied();
        // Its first six bytes.
        format!(
            "{:012x}",
            u64::from_be_bytes(start.unwrap_or_default()) >> 16
        )
    }

    /// Ends reading: what was read so far is the whole plugin.
    pub(super) fn close(&self) {
        self.is_whole.store(true, Ordering::Relaxed);
    }

    /// Returns the stack trace line of an import, if it is found. An import in a hook is not
    /// searched for: that would take time of the hook, and it has a stack trace of its own.
    fn place_of(&self, importer: &str, name: &str) -> Option<String> {
        if self.is_whole.load(Ordering::Relaxed) {
            return None;
        }
        let text = Arc::clone(self.files.lock().get(importer)?);
        let quoted = |quote: char| text.find(&format!("{quote}{name}{quote}"));
        let end = quoted('\'').or_else(|| quoted('"'))?;
        let before = &text[..end];
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or(before).chars().count() + 1;
        Some(format!("    at {}:{line}:{column}", self.shown(importer)))
    }

    /// Returns the ending that the path of a missing file may lack.
    fn meant(&self, file: &str) -> Option<&'static str> {
        if self.is_whole.load(Ordering::Relaxed) {
            return None;
        }
        let endings = [".js", ".mjs", "/index.js"];
        let is_there = |ending: &&&str| self.folder.join(format!("{file}{ending}")).is_file();
        endings.iter().find(is_there).copied()
    }

    fn shown(&self, file: &str) -> String {
        format!("{}/{file}", self.name)
    }

    fn file(&self, file: &str) -> std::result::Result<Arc<str>, Failure> {
        if let Some(known) = self.files.lock().get(file) {
            return Ok(Arc::clone(known));
        }
        if let Some(why) = not_javascript(file) {
            return Err(Failure::load(format!("{}: {why}", self.shown(file))));
        }
        if self.is_whole.load(Ordering::Relaxed) {
            return Err(Failure::load(format!(
                "{}: not imported when the plugin was loaded, and not loaded later",
                self.shown(file)
            )));
        }
        let text = read(&self.folder.join(file)).map_err(|error| {
            self.missed.lock().insert(file.to_owned());
            Failure::load(format!("{}: {error}", self.shown(file)))
        })?;
        let text: Arc<str> = text.into();
        let mut files = self.files.lock();
        Ok(Arc::clone(files.entry(file.to_owned()).or_insert(text)))
    }
}

/// Returns the reason why a file with this ending cannot be a module.
fn not_javascript(file: &str) -> Option<&'static str> {
    let ending = Path::new(file).extension()?.to_str()?;
    match ending {
        "ts" | "mts" | "cts" | "tsx" => Some(
            "it is TypeScript, and the gateway runs JavaScript: convert it with `npx esbuild \
             plugin.ts --bundle --format=esm --target=es2022 --external:next/server \
             --outfile=plugin.js`",
        ),
        "json" => Some("JSON cannot be imported: write it as a module, `export default { … };`"),
        _ => None,
    }
}

pub(super) fn read(path: &Path) -> io::Result<String> {
    let known = fs::metadata(path)?;
    // A pipe or a device may block for ever.
    if !known.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    let mut text = String::new();
    // The file may grow meanwhile.
    let read = fs::File::open(path)?
        .take(MAX_SOURCE_LEN + 1)
        .read_to_string(&mut text);
    let length = known.len().max(text.len() as u64);
    if length > MAX_SOURCE_LEN {
        let why = format!("it has {length} bytes, and at most {MAX_SOURCE_LEN} can be loaded");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, why));
    }
    read.map(|_| text)
}

/// Resolves and loads a plugin's imports: files of its own folder, named relatively.
#[derive(Clone, Debug)]
pub(super) struct Modules(pub(super) Arc<Source>);

/// Most common imports of Node.js without the prefix `node:`.
const NODE_MODULES: &str = "buffer child_process crypto events fs fs/promises http https os path \
    stream util";

impl Modules {
    /// Returns the error of an import, at its place.
    fn refused(&self, ctx: &Ctx<'_>, importer: &str, name: &str, why: &str) -> Error {
        let message = format!("`{name}` cannot be imported: {why}");
        let place = self.0.place_of(importer, name);
        let thrown = Exception::from_message(ctx.clone(), &message).and_then(|exception| {
            if let Some(place) = place {
                exception.as_object().set("stack", place)?;
            }
            Ok(exception.throw())
        });
        thrown.unwrap_or_else(|error| error)
    }
}

impl Resolver for Modules {
    fn resolve<'js>(
        &mut self,
        ctx: &Ctx<'js>,
        base: &str,
        name: &str,
        _attributes: Option<ImportAttributes<'js>>,
    ) -> Result<String> {
        let prefix = format!("{}/", self.0.name);
        if base.is_empty() {
            return Ok(name.to_owned());
        }
        if name == NEXT_SERVER || name == "next/server.js" {
            return Ok(NEXT_SERVER.to_owned());
        }
        if name == TESTS && self.0.is_test {
            return Ok(TESTS.to_owned());
        }
        // The name of each missing file is kept.
        if name.len() > MAX_PATH_LEN {
            let start = &name[..name.floor_char_boundary(64)];
            let why = "its path is too long";
            return Err(Error::new_resolving_message(base, start, why));
        }
        let base = base.strip_prefix(&prefix).unwrap_or(base);
        let refuse = |why: &str| self.refused(ctx, base, name, why);
        if !name.starts_with("./") && !name.starts_with("../") {
            let what = if self.0.is_test {
                "; tests can import `test`, `plugin` and `assert` of `edgeway:test`"
            } else if name.starts_with("node:") || NODE_MODULES.split(' ').any(|one| one == name) {
                "; Node.js modules are not available"
            } else if name.starts_with('/') {
                ""
            } else {
                "; bundle packages into one file with it"
            };
            return Err(refuse(&format!(
                "a plugin can import files of its own folder, by a path that starts with ./{what}"
            )));
        }
        let from = Path::new(base).parent().unwrap_or(Path::new(""));
        let file =
            normal(&from.join(name)).ok_or_else(|| refuse("it is outside the plugin's folder"))?;
        // Here and not at loading: only here the importer is known.
        if let Err(failure) = self.0.file(&file) {
            let meant = self.0.meant(&file);
            let meant = meant.map(|ending| format!("; did you mean `{name}{ending}`?"));
            return Err(refuse(&format!(
                "{}{}",
                failure.message,
                meant.unwrap_or_default()
            )));
        }
        Ok(format!("{prefix}{file}"))
    }
}

impl Loader for Modules {
    fn load<'js>(
        &mut self,
        ctx: &Ctx<'js>,
        name: &str,
        _attributes: Option<ImportAttributes<'js>>,
    ) -> Result<Module<'js, Declared>> {
        if name == NEXT_SERVER {
            return Module::declare(ctx.clone(), name, NEXT_SERVER_MODULE);
        }
        if name == TESTS {
            return Module::declare(ctx.clone(), name, TESTS_MODULE);
        }
        let prefix = format!("{}/", self.0.name);
        let file = name.strip_prefix(&prefix).unwrap_or(name);
        let text = self.0.file(file);
        let text = text.map_err(|failure| Error::new_loading_message(name, failure.message))?;
        Module::declare(ctx.clone(), name, text.as_bytes())
    }
}

/// Returns the path without `.` and `..`; `None` if it leaves the folder.
fn normal(path: &Path) -> Option<String> {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                parts.pop()?;
            }
            Component::Normal(part) => parts.push(part.to_str()?),
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(parts.join("/"))
}
