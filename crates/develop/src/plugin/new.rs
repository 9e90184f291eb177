//! `edgeway plugin new NAME`.

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use super::{Outcome, out};

/// Files of a new plugin. `NAME` is replaced by its name.
const FILES: [(&str, &str); 4] = [
    ("plugin.js", include_str!("template/plugin.js")),
    ("plugin.test.js", include_str!("template/plugin.test.js")),
    (
        "config.schema.json",
        include_str!("template/config.schema.json"),
    ),
    ("README.md", include_str!("template/README.md")),
];

/// Usual name of the folder of plugins.
const PLUGINS: &str = "plugins";

#[derive(Debug, clap::Args)]
pub(super) struct PluginNewOptions {
    /// The plugin's name: letters, digits, `-` and `_`
    name: String,
    /// The folder in which to create the plugin's folder [default: plugins, or the current folder if
    /// that is its name]
    #[arg(long = "in", value_name = "FOLDER")]
    within: Option<PathBuf>,
}

pub(super) fn run(options: &PluginNewOptions) -> Outcome {
    let name = &options.name;
    let is_name = |letter: char| letter.is_ascii_alphanumeric() || letter == '-' || letter == '_';
    if name.is_empty() || name.starts_with('-') || !name.chars().all(is_name) {
        return Err(format!(
            "invalid plugin name `{name}`: it has letters, digits, `-` and `_`, such as `ab-split`"
        ));
    }
    let current = std::env::current_dir().unwrap_or_default();
    let is_inside = options.within.is_none() && current.ends_with(PLUGINS);
    let folder = match &options.within {
        Some(within) => within.join(name),
        None if is_inside => PathBuf::from(name),
        None => Path::new(PLUGINS).join(name),
    };
    write(&folder, name)?;
    // The configuration is expected beside the folder of all plugins.
    let from_configuration = if is_inside {
        Path::new(PLUGINS).join(name)
    } else {
        folder.clone()
    };
    let (folder, file) = (folder.display(), from_configuration.join("plugin.js"));
    let file = file.display();
    out::data(&format!(
        "Made {folder}. Its tests: {} plugin test {folder}\n\
         On a route:\n\n    plugins:\n      - file: {file}\n        on_error: continue\n\n\
         `on_error` says what becomes of requests when it fails: `continue`, or `refuse` (503).\n\
         One that decides who may pass has `role: auth` instead.\n",
        out::program()
    ));
    Ok(true)
}

fn write(folder: &Path, name: &str) -> Result<(), String> {
    let cannot =
        |path: &Path, error: std::io::Error| format!("cannot make {}: {error}", path.display());
    if let Some(parent) = folder.parent() {
        fs::create_dir_all(parent).map_err(|error| cannot(parent, error))?;
    }
    // Fails if the folder exists, so existing files are never overwritten.
    fs::create_dir(folder).map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => format!("{} exists already", folder.display()),
        _ => cannot(folder, error),
    })?;
    for (file, text) in FILES {
        let path = folder.join(file);
        let text = text.replace("NAME", name);
        fs::write(&path, text).map_err(|error| cannot(&path, error))?;
    }
    Ok(())
}
