//! A plugin's files.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Component, Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use parking_lot::Mutex;
use ring::digest::{Context, SHA256};
use rquickjs::{
    Ctx, Error, Module, Result,
    loader::{ImportAttributes, Loader, Resolver},
    module::Declared,
};

use super::error::Failure;
use crate::config::source::Beside;

/// The largest file of a plugin.
const LARGEST: u64 = 4 << 20;

/// What a `proxy.js` of Next.js imports; all of it is there without.
const NEXT_SERVER: &str = "next/server";
const NEXT_SERVER_MODULE: &str = "export const { NextRequest, NextResponse } = globalThis;";

/// What tests of plugins import, and nothing else can.
const TESTS: &str = "edgeway:test";
const TESTS_MODULE: &str = "const kit = globalThis[Symbol.for('edgeway:test')];
export const { assert, plugin, test } = kit;
export default test;";

/// The module that a plugin begins with, and those that it imports: all as they were read
/// first, so that every isolate of it runs the same.
#[derive(Debug)]
pub struct Source {
    /// What traces call the folder.
    name: String,
    folder: PathBuf,
    entry: String,
    /// It is not a plugin, but tests of one.
    is_test: bool,
    files: Mutex<BTreeMap<String, Arc<str>>>,
    /// What was asked for and could not be read.
    missed: Mutex<BTreeSet<String>>,
    /// No further file is read: by now it may be of another version.
    is_whole: AtomicBool,
}

impl Source {
    /// `file` is the path of the first module; `name` is what logs call its folder.
    pub fn read(name: &str, file: &Path) -> std::result::Result<Arc<Self>, Failure> {
        Self::read_as(name, file, false)
    }

    /// The same of a file with tests.
    pub(super) fn read_tests(name: &str, file: &Path) -> std::result::Result<Arc<Self>, Failure> {
        Self::read_as(name, file, true)
    }

    fn read_as(name: &str, file: &Path, is_test: bool) -> std::result::Result<Arc<Self>, Failure> {
        let entry = file.file_name().and_then(|name| name.to_str());
        let Some(entry) = entry else {
            return Err(Failure::load(format!("{} is no file", file.display())));
        };
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

    /// The name of the first module, as traces show it.
    pub(super) fn entry(&self) -> String {
        self.shown(&self.entry)
    }

    /// The files that were read, relative to the folder.
    pub fn files(&self) -> Vec<String> {
        self.files.lock().keys().cloned().collect()
    }

    /// Whether the files that were read are still the same.
    pub fn is_current(&self) -> bool {
        let files = self.files.lock().clone();
        let mut files = files.iter();
        let missed = self.missed.lock().clone();
        files.all(|(file, text)| read(&self.folder.join(file)).is_ok_and(|now| *now == **text))
            && missed
                .iter()
                .all(|file| read(&self.folder.join(file)).is_err())
    }

    /// Which files it goes by.
    pub fn note(&self, beside: &mut Beside) {
        for (file, text) in &*self.files.lock() {
            beside.read(self.folder.join(file), text.as_bytes());
        }
        for file in &*self.missed.lock() {
            beside.missed(self.folder.join(file));
        }
    }

    /// A short hash of its files, by which versions are told apart.
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
        // Six bytes of it.
        format!(
            "{:012x}",
            u64::from_be_bytes(start.unwrap_or_default()) >> 16
        )
    }

    /// What was read by now is all that it has.
    pub(super) fn close(&self) {
        self.is_whole.store(true, Ordering::Relaxed);
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn shown(&self, file: &str) -> String {
        format!("{}/{file}", self.name)
    }

    fn file(&self, file: &str) -> std::result::Result<Arc<str>, Failure> {
        if let Some(known) = self.files.lock().get(file) {
            return Ok(Arc::clone(known));
        }
        if self.is_whole.load(Ordering::Relaxed) {
            return Err(Failure::load(format!(
                "{}: it was not imported when the plugin was loaded, and is not read later",
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

pub(super) fn read(path: &Path) -> io::Result<String> {
    let length = fs::metadata(path)?.len();
    if length > LARGEST {
        let why = format!("it has {length} bytes, and {LARGEST} may be loaded");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, why));
    }
    fs::read_to_string(path)
}

/// Finds and reads what a plugin imports: files of its own folder, named relatively.
#[derive(Clone, Debug)]
pub(super) struct Modules(pub(super) Arc<Source>);

impl Resolver for Modules {
    fn resolve<'js>(
        &mut self,
        _ctx: &Ctx<'js>,
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
        let refuse = |why: &str| Error::new_resolving_message(base, name, why);
        if !name.starts_with("./") && !name.starts_with("../") {
            return Err(refuse(
                "a plugin imports files of its own folder, by a path that begins with ./",
            ));
        }
        let base = base.strip_prefix(&prefix).unwrap_or(base);
        let from = Path::new(base).parent().unwrap_or(Path::new(""));
        let file = normal(&from.join(name)).ok_or_else(|| refuse("it is outside of the plugin"))?;
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

/// The path without `.` and `..`; none if it leaves the folder.
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
