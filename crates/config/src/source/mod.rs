//! Sources of a configuration: the main file, its includes, and the environment.

mod expand;
mod extends;
mod local_site;
mod locator;
mod merge;
mod referenced_files;
mod source_texts;
#[cfg(test)]
mod tests;

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

use self::expand::{Expander, set_file_paths};
pub(crate) use self::locator::{Lines, Locator};
pub use self::{
    local_site::LocalSite, referenced_files::ReferencedFiles, source_texts::SourceTexts,
};
use super::{
    base::named_file,
    diagnostic::{Diagnostic, Diagnostics, Place, suggest},
    model::ExtendsConfig,
    presets,
    tree::{Node, Value, parse, parse_with, read},
};

/// Size limit. A configuration of hundreds of thousands of lines is a mistake.
const MAX_BYTES: u64 = 16 << 20;
const MAX_FILES: usize = 1000;

/// Beginning of the path that stands for a preset, which is no file.
const PRESET_PREFIX: &str = "preset:";

/// The texts that places point into.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// Paths as the user sees them; the main file comes first.
    pub files: Vec<(PathBuf, String)>,
    /// Patterns of `include`, which may match other files later.
    pub patterns: Vec<PathBuf>,
    /// Other files that compiling has read; empty before.
    pub referenced: ReferencedFiles,
    /// Number of the preset among the files, and the place that extends it.
    pub extends: Option<(u16, Place)>,
    /// Values that name variables of the environment, and their expanded texts.
    pub expanded: Vec<(Place, String)>,
    /// Text that was laid over the files; it is not a file itself.
    pub overlay: Option<Overlay>,
}

/// Changes that the program itself makes to a configuration, as a text.
///
/// Mappings join the file's own, `null` removes a key, and any other value replaces the file's (RFC
/// 7396); `routes` are added to the file's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overlay {
    /// Name of the text in messages.
    pub name: PathBuf,
    pub text: String,
    /// Site that is served at the names of this machine as well.
    pub local_site: Option<LocalSite>,
}

/// File number of places in an [`Overlay`]; there are fewer files.
const OVERLAY: u16 = u16::MAX;

/// A place for people: counted from 1, columns in characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    pub file: String,
    pub line: usize,
    pub column: usize,
    pub end_line: usize,
    /// The column after the last character.
    pub end_column: usize,
}

/// Reads `path`, its includes and the environment's values into one tree.
///
/// Problems are in the diagnostics; the tree is `None` if nothing could be parsed. A tree may come
/// with errors: callers must check [`Diagnostics::has_errors`] at the end.
pub fn load(path: &Path) -> (Sources, Option<Node>, Diagnostics) {
    Loader::new(path, &environment).main(|loader| loader.file(path, None))
}

/// Reads `path` like [`load`], with the changes of `overlay`.
pub fn load_with(path: &Path, overlay: &Overlay) -> (Sources, Option<Node>, Diagnostics) {
    let (mut sources, mut node, mut diagnostics) = load(path);
    let over = parse(&overlay.text, OVERLAY, &mut diagnostics);
    sources.overlay = Some(overlay.clone());
    if let (Some(node), Some(site)) = (&mut node, &overlay.local_site) {
        site.lay_over(node);
    }
    if let (Some(node), Some(over)) = (&mut node, over) {
        merge::over(node, over);
    }
    (sources, node, diagnostics)
}

/// Reads a text that is in no file, like [`load`]; `name` stands for it in messages.
pub fn load_text(name: &str, text: &str) -> (Sources, Option<Node>, Diagnostics) {
    let path = Path::new(name);
    Loader::new(path, &environment).main(|loader| loader.text(path, text.to_owned()))
}

/// Reads the texts that were kept when `path` was read, like [`load`] but without reading files or
/// listing folders. Values still come from the environment.
pub fn load_stored(path: &Path, stored: &SourceTexts) -> (Sources, Option<Node>, Diagnostics) {
    let mut loader = Loader::new(path, &environment);
    loader.stored = Some(stored);
    loader.main(|loader| loader.file(path, None))
}

impl Sources {
    /// Returns the paths on disk: a preset has none.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        let preset = self.extends.map(|(file, _)| usize::from(file));
        let files = self.files.iter().enumerate();
        files
            .filter(move |(at, _)| Some(*at) != preset)
            .map(|(_, (path, _))| path.as_path())
    }

    /// Returns the folder of the main file, to which paths are relative.
    pub fn folder(&self) -> PathBuf {
        self.files
            .first()
            .map_or_else(|| PathBuf::from("."), |(path, _)| folder_of(path))
    }

    pub fn text(&self, file: u16) -> &str {
        self.file(file).map_or("", |(_, text)| text)
    }

    fn file(&self, file: u16) -> Option<(&Path, &str)> {
        if file == OVERLAY {
            let overlay = self.overlay.as_ref()?;
            return Some((&overlay.name, &overlay.text));
        }
        let (path, text) = self.files.get(usize::from(file))?;
        Some((path, text))
    }

    pub fn locate(&self, place: Place) -> Location {
        Locator::new(self).locate(place)
    }
}

fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// Returns a variable of the environment; `None` if it is absent, or not valid text.
fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

struct Loader<'a> {
    sources: Sources,
    diagnostics: Diagnostics,
    environment: Environment<'a>,
    /// Texts to read instead of the files on disk.
    stored: Option<&'a SourceTexts>,
    /// Absolute folder of the main file.
    folder: PathBuf,
    /// Canonical paths of the files being read, outermost first, and of all files read so far.
    open: Vec<PathBuf>,
    read: Vec<(PathBuf, Option<Place>)>,
}

impl<'a> Loader<'a> {
    fn new(path: &Path, environment: Environment<'a>) -> Self {
        let folder = folder_of(path);
        Self {
            sources: Sources::default(),
            diagnostics: Diagnostics::default(),
            environment,
            stored: None,
            folder: std::path::absolute(&folder).unwrap_or(folder),
            open: Vec::new(),
            read: Vec::new(),
        }
    }

    fn main(
        mut self,
        read: impl FnOnce(&mut Self) -> Option<Node>,
    ) -> (Sources, Option<Node>, Diagnostics) {
        let node = read(&mut self);
        let node = node.map(|node| self.extended(node));
        (self.sources, node, self.diagnostics)
    }

    /// Lays a file over the preset that it extends, if it does.
    fn extended(&mut self, file: Node) -> Node {
        let Some((_, written)) = file.entry("extends").cloned() else {
            return file;
        };
        // Problems of its form are reported with those of the other sections.
        let config = read::<ExtendsConfig>(&written, &mut Diagnostics::default());
        let Some(config) = config else { return file };
        let Some(preset) = presets::find(&config.preset) else {
            let names = presets::PRESETS.iter().map(|preset| preset.name);
            self.diagnostics
                .at(written.place, "edgeway::extends::unknown")
                .error(
                    format!("unknown preset `{}`", config.preset),
                    suggest(&config.preset, names, "the presets are"),
                );
            return file;
        };
        let path = PathBuf::from(format!("{PRESET_PREFIX}{}", preset.name));
        let text = match self.stored {
            Some(stored) => stored.text(&path, &self.sources).ok(),
            None => None,
        };
        let Some(below) = self.text(&path, text.unwrap_or_else(|| preset.text.to_owned())) else {
            return file;
        };
        self.sources.extends = Some((below.place.file, written.place));
        let merged = extends::laid_over(file, below);
        for need in preset.needs {
            let lacking = (need.lacking)(&merged);
            let Some(first) = lacking.first() else {
                continue;
            };
            let problem = Diagnostic::error("edgeway::extends::needs", written.place, need.message);
            let problem = problem.help(need.help).related(first.place, "used here");
            self.diagnostics.push(problem);
            for node in lacking {
                self.diagnostics.undetermined(node.place);
            }
        }
        merged
    }

    /// Reads a file; `from` is the place that names it, `None` for the main file.
    fn file(&mut self, path: &Path, from: Option<Place>) -> Option<Node> {
        let canonical = match self.stored {
            Some(_) => path.to_owned(),
            None => std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned()),
        };
        if !self.may_read(path, &canonical, from) {
            return None;
        }
        self.read.push((canonical.clone(), from));
        let text = match self.stored {
            Some(stored) => stored.text(path, &self.sources),
            None => read_text(path),
        };
        let text = match text {
            Ok(text) => text,
            Err(problem) => {
                let place = from.unwrap_or_else(|| self.add(path, String::new()));
                self.refuse_file(path, place, problem, from.is_none());
                return None;
            }
        };
        self.open.push(canonical);
        let node = self.text(path, text);
        self.open.pop();
        node
    }

    fn may_read(&mut self, path: &Path, canonical: &Path, from: Option<Place>) -> bool {
        let Some(place) = from else { return true };
        let name = path.display();
        let problem = if self.open.iter().any(|open| open == canonical) {
            let problem = Diagnostic::error(
                "edgeway::include::cycle",
                place,
                format!("`{name}` includes itself"),
            );
            problem.help("keep included files in a folder of their own, such as `routes.d/*.yaml`")
        } else if let Some((_, before)) = self.read.iter().find(|(read, _)| read == canonical) {
            let problem = Diagnostic::error(
                "edgeway::include::twice",
                place,
                format!("`{name}` is included twice"),
            )
            .help("include it once");
            match before {
                Some(before) if *before != place => {
                    problem.related(*before, "included here before")
                }
                _ => problem,
            }
        } else if self.sources.files.len() >= MAX_FILES {
            Diagnostic::error(
                "edgeway::include::too_many",
                place,
                format!("more than {MAX_FILES} files are included"),
            )
            .help("include fewer files")
        } else {
            return true;
        };
        self.diagnostics.push(problem);
        false
    }

    /// Stores a text for messages; returns its first place.
    fn add(&mut self, path: &Path, text: String) -> Place {
        let file = u16::try_from(self.sources.files.len()).unwrap_or(u16::MAX);
        self.sources.files.push((path.to_owned(), text));
        Place {
            file,
            ..Place::default()
        }
    }

    fn text(&mut self, path: &Path, text: String) -> Option<Node> {
        let Place { file, .. } = self.add(path, text);
        let text = self.sources.text(file);
        let mut expander = Expander {
            source: text,
            environment: self.environment,
        };
        let mut expanded = Vec::new();
        let node = parse_with(
            text,
            file,
            &mut self.diagnostics,
            &mut |scalar, place, diagnostics| {
                let now = expander.expand(scalar, place, diagnostics);
                expanded.extend(now.as_ref().map(|value| (place, value.clone())));
                now
            },
        );
        self.sources.expanded.extend(expanded);
        let mut node = node?;
        set_file_paths(&mut node, &self.folder);
        let Value::Map(entries) = &mut node.value else {
            return Some(node);
        };
        let Some(index) = entries.iter().position(|(key, _)| key.name == "include") else {
            return Some(node);
        };
        let (_, patterns) = entries.remove(index);
        for (place, pattern) in self.patterns(&patterns) {
            for included_path in self.matching(&folder_of(path), &pattern, place) {
                if let Some(included) = self.file(&included_path, Some(place)) {
                    merge::into(entries, included, &mut self.diagnostics);
                }
            }
        }
        Some(node)
    }

    /// Reads a pattern or a list of patterns.
    fn patterns(&mut self, node: &Node) -> Vec<(Place, String)> {
        let nodes = match &node.value {
            Value::List(items) => &items[..],
            _ => std::slice::from_ref(node),
        };
        let mut patterns = Vec::new();
        for node in nodes {
            match &node.value {
                Value::Text(pattern) if !pattern.is_empty() => {
                    patterns.push((node.place, pattern.clone()));
                }
                _ => self
                    .diagnostics
                    .at(node.place, "edgeway::config::wrong_type")
                    .error(
                        format!("expected a path or a list of paths, found {}", node.kind()),
                        "write `include: routes.d/*.yaml`",
                    ),
            }
        }
        patterns
    }

    /// Returns the files that match a pattern, sorted by name.
    fn matching(&mut self, folder: &Path, pattern: &str, place: Place) -> Vec<PathBuf> {
        let full = if folder == Path::new(".") {
            PathBuf::from(pattern)
        } else {
            folder.join(pattern)
        };
        if !pattern.contains(['*', '?', '[']) {
            return vec![full];
        }
        self.sources.patterns.push(full);
        let escaped = match folder.to_str() {
            _ if Path::new(pattern).is_absolute() || folder == Path::new(".") => pattern.to_owned(),
            Some(folder) => format!("{}/{pattern}", glob::Pattern::escape(folder)),
            None => {
                self.diagnostics
                    .at(place, "edgeway::include::pattern")
                    .error(
                        "patterns need a folder whose name is UTF-8",
                        "rename the folder, or list the files one by one",
                    );
                return Vec::new();
            }
        };
        let options = glob::MatchOptions {
            case_sensitive: true,
            require_literal_separator: true,
            require_literal_leading_dot: true,
        };
        if let Some(stored) = self.stored {
            let pattern = glob::Pattern::new(&escaped);
            return pattern.map_or_else(
                |_| Vec::new(),
                |pattern| stored.matching(&pattern, options, &self.sources),
            );
        }
        let paths = match glob::glob_with(&escaped, options) {
            Ok(paths) => paths,
            Err(error) => {
                self.diagnostics
                    .at(place, "edgeway::include::pattern")
                    .error(
                        format!("invalid pattern `{pattern}`: {}", error.msg),
                        "use `*` for a part of a name, `**` for any folders, `?` for one character",
                    );
                return Vec::new();
            }
        };
        let mut matching = Vec::new();
        for path in paths {
            match path {
                Ok(path) if path.is_dir() => {}
                Ok(path) => matching.push(path),
                Err(error) => {
                    let why = reason(error.error());
                    self.refuse_file(
                        error.path(),
                        place,
                        Unreadable { why, invalid: None },
                        false,
                    );
                }
            }
        }
        if matching.is_empty() {
            self.diagnostics
                .at(place, "edgeway::include::nothing")
                .warn(
                    format!("`{pattern}` matches no file"),
                    format!("patterns start from `{}`", folder.display()),
                );
        }
        matching
    }

    fn refuse_file(&mut self, path: &Path, mut place: Place, problem: Unreadable, is_main: bool) {
        if let Some((text, offset)) = problem.invalid {
            place = self.add(path, text);
            place.start = offset;
            place.end = offset + 3;
        }
        self.diagnostics.at(place, "edgeway::config::unreadable").error(
            format!("cannot read `{}`: {}", path.display(), problem.why),
            match problem.why.as_str() {
                "no such file" if is_main => {
                    "`edgeway init` writes one for the app in this folder; `edgeway proxy --to 3000` \
                     needs none"
                }
                "no such file" => "check the path; `include` starts from the folder of its file",
                "it is a folder, not a file" => {
                    "name a file in it, or `FOLDER/*.yaml` in `include`"
                }
                "it is no regular file" => "name a file with the text",
                "it is not UTF-8" => "save the file as UTF-8",
                _ => "the gateway must be allowed to read it",
            },
        );
    }
}

/// Reason why a file could not be read.
struct Unreadable {
    why: String,
    /// Readable part of the text, and the offset of the first invalid byte.
    invalid: Option<(String, u32)>,
}

fn read_text(path: &Path) -> Result<String, Unreadable> {
    let unreadable = |why: String| Unreadable { why, invalid: None };
    let io = |error: io::Error| unreadable(reason(&error));
    let kind = fs::metadata(path).map_err(io)?;
    if kind.is_dir() {
        return Err(unreadable("it is a folder, not a file".to_owned()));
    }
    // Opening another pipe than that of a shell, as `/dev/stdin`, would wait for its writer.
    if !kind.is_file() && !named_file::is_passed(path) {
        return Err(unreadable("it is no regular file".to_owned()));
    }
    let file = File::open(path).map_err(io)?;
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(io)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(unreadable("it is larger than 16 MiB".to_owned()));
    }
    String::from_utf8(bytes).map_err(|error| {
        let byte = u32::try_from(error.utf8_error().valid_up_to()).unwrap_or(0);
        Unreadable {
            why: "it is not UTF-8".to_owned(),
            invalid: Some((String::from_utf8_lossy(error.as_bytes()).into_owned(), byte)),
        }
    })
}

fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "no such file".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        io::ErrorKind::IsADirectory => "it is a folder, not a file".to_owned(),
        _ => error.to_string(),
    }
}
