//! Compiles the `files` section of a route.

use std::{
    num::NonZeroUsize,
    path::{Path, PathBuf},
};

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::{
    Files,
    chain::CompileContext,
    config::{diagnostic::Place, model::FilesConfig, tree::Spanned},
    media_types::MediaTypes,
    open_files::Settings,
    path::RelativePath,
    patterns::Patterns,
    root::Root,
    segment::Transfer,
};

const CODE: &str = "edgeway::route::bad_files";

impl Files {
    /// Compiles the section at `place`. Problems go to `cx`, and `None` means that one was an
    /// error.
    pub fn compile(
        config: &FilesConfig,
        place: Place,
        cx: &mut CompileContext<'_>,
    ) -> Option<Self> {
        let root = root(config, place, cx);
        let index = index(config, cx);
        let types = types(config, cx);
        let patterns = immutable(config, cx);
        let fallback = page("fallback", config.fallback.as_ref(), config, cx);
        let not_found = page("not_found", config.not_found.as_ref(), config, cx);
        let open_files = open_files(config, cx);
        let headers = headers(config, cx);
        let settings = Settings {
            root: Root::new(root?, config.symlinks, config.recheck.0),
            index: index?,
            fallback: fallback?,
            not_found: not_found?,
            encodings: config.precompressed.0.as_slice().into(),
            immutable: patterns?,
            max_age: config.max_age.map(|age| age.0),
            headers: headers?,
            serves_dot_files: config.dot_files,
            types: types?,
            transfer: if config.sendfile {
                Transfer::Sendfile
            } else {
                Transfer::Copy
            },
            if_modified_since: config.if_modified_since,
            announces_parts: false,
            open_files: open_files?,
            recheck: config.recheck.0,
        };
        Some(Self::new(settings, cx.clock))
    }
}

/// Returns the folder, after a check that it is one and is meant to be seen.
fn root(config: &FilesConfig, place: Place, cx: &mut CompileContext<'_>) -> Option<PathBuf> {
    let Spanned { value, place: at } = &config.root;
    let place = if *at == Place::default() { place } else { *at };
    let shown = value.display();
    if value.as_os_str().is_empty() {
        let help = "write the folder whose files are served, such as `/srv/www`";
        return cx.at(place, CODE).refuse("`root` is empty", help);
    }
    let path = cx.folder.join(value);
    let path = std::path::absolute(&path).unwrap_or(path);
    let Ok(real) = path.canonicalize() else {
        cx.at(place, CODE).warn(
            format!("the folder `{shown}` does not exist"),
            "every request gets 404 until there is one: create it, or correct `root`",
        );
        return Some(path);
    };
    if !real.is_dir() {
        let help = "write the folder that contains the files";
        return cx
            .at(place, CODE)
            .refuse(format!("`{shown}` is not a folder"), help);
    }
    if real.parent().is_none() {
        let help = "write a folder that contains nothing else than what clients may see";
        return cx
            .at(place, CODE)
            .refuse("`root: /` would serve every file of this machine", help);
    }
    let configuration = cx.folder.canonicalize();
    if configuration.is_ok_and(|folder| folder.starts_with(&real)) {
        return cx.at(place, CODE).refuse(
            format!("`{shown}` contains the folder of this configuration, which would be served"),
            "move the files into a folder of their own, such as `public`",
        );
    }
    Some(path)
}

fn index(config: &FilesConfig, cx: &mut CompileContext<'_>) -> Option<Box<[String]>> {
    let mut is_well = true;
    for Spanned { value, place } in &config.index.0 {
        let is_name = !value.is_empty() && !value.contains('/') && value != "." && value != "..";
        if !is_name {
            let message = format!("invalid index `{value}`");
            let help = "write the name of a file, such as `index.html`";
            cx.at(*place, CODE).error(message, help);
            is_well = false;
        }
    }
    let names = config.index.0.iter().map(|name| name.value.clone());
    is_well.then(|| names.collect())
}

fn types(config: &FilesConfig, cx: &mut CompileContext<'_>) -> Option<MediaTypes> {
    let common = cx.shared.get::<MediaTypes>();
    let types = MediaTypes::of_config(&config.types, config.charset.as_ref(), CODE, cx)?;
    Some(types.with(common))
}

/// Returns the headers of single files by their paths in normal form.
#[expect(clippy::type_complexity, reason = "a list of pairs")]
fn headers(
    config: &FilesConfig,
    cx: &mut CompileContext<'_>,
) -> Option<Box<[(Box<[u8]>, HeaderMap)]>> {
    let mut all = Vec::new();
    let mut is_well = true;
    for (path, Spanned { value, place }) in &config.headers {
        let mut report = |message: String, help: &str| {
            cx.at(*place, CODE).error(message, help);
            is_well = false;
        };
        let relative = RelativePath::parse(path.as_bytes(), config.dot_files);
        let relative = relative.filter(|relative| !relative.is_folder && path.starts_with('/'));
        let Some(relative) = relative else {
            report(
                format!("invalid `headers`: `{path}` is not the path of a file below the root"),
                "write it from the root, such as `/index.html`",
            );
            continue;
        };
        let mut headers = HeaderMap::new();
        for (name, value) in value {
            let parsed = name.parse::<HeaderName>().ok();
            match (parsed, HeaderValue::try_from(value.as_str())) {
                (Some(name), Ok(_)) if OF_FILES.split(' ').any(|own| name == own) => report(
                    format!("`{name}` of a file cannot be changed"),
                    "remove it: it follows from the file; media types are in `types`",
                ),
                (Some(name), Ok(_)) if headers.contains_key(&name) => report(
                    format!("`{name}` is written twice, in two spellings"),
                    "remove one of the two",
                ),
                (Some(name), Ok(value)) => {
                    headers.insert(name, value);
                }
                _ => report(
                    format!("invalid header `{name}: {value}`"),
                    "write a name such as `Cache-Control`, and a value on one line",
                ),
            }
        }
        all.push((relative.bytes.into(), headers));
    }
    is_well.then(|| all.into())
}

/// Headers that follow from the file itself.
const OF_FILES: &str = "accept-ranges connection content-encoding content-length content-range \
    content-type date etag last-modified transfer-encoding";

fn immutable(config: &FilesConfig, cx: &mut CompileContext<'_>) -> Option<Patterns> {
    let mut patterns = Patterns::default();
    let mut is_well = true;
    for Spanned { value, place } in &config.immutable.0 {
        is_well &= cx.at(*place, CODE).reported(patterns.add(value)).is_some();
    }
    is_well.then_some(patterns)
}

/// Returns the path of a page in its normal form.
#[expect(clippy::option_option, reason = "an error, no page, or one")]
fn page(
    key: &str,
    path: Option<&Spanned<String>>,
    config: &FilesConfig,
    cx: &mut CompileContext<'_>,
) -> Option<Option<Box<[u8]>>> {
    let Some(Spanned { value, place }) = path else {
        return Some(None);
    };
    let relative = RelativePath::parse(value.as_bytes(), config.dot_files);
    let is_file = relative.is_some_and(|relative| !relative.is_folder);
    if is_file && Path::new(value).is_absolute() {
        return Some(Some(value.as_bytes().into()));
    }
    cx.at(*place, CODE).refuse(
        format!("invalid `{key}`: `{value}` is not the path of a file below the root"),
        "write it from the root, such as `/index.html`",
    )
}

fn open_files(config: &FilesConfig, cx: &mut CompileContext<'_>) -> Option<NonZeroUsize> {
    let Spanned { value, place } = config.open_files;
    let number = usize::try_from(value).ok().and_then(NonZeroUsize::new);
    if number.is_none() {
        let help = "write how many files are kept open, such as `1024`; `recheck: 0s` compares them \
                    with the disk for each request";
        cx.at(place, CODE)
            .error("`open_files: 0` keeps no file open", help);
    }
    number
}
