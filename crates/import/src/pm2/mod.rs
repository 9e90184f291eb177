//! `edgeway import pm2`: reads an ecosystem file, plans its apps as units and upstreams, and writes
//! them to a folder.

mod app;
mod ecosystem;
mod render;

use std::{
    fs, io,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use edgeway_base::out::{self, Failure};
use edgeway_project::Project;
use serde_json::Value;

use self::app::{App, Machine, TakenNames};
use super::{added, unusable};

#[derive(Debug, clap::Args)]
pub(super) struct Pm2Options {
    /// The ecosystem file: `.js`, `.cjs` or `.mjs`, which `node` reads, or `.json`, `.yaml`
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The environment, as in `pm2 start --env NAME`
    #[arg(long, value_name = "NAME", default_value = "production")]
    env: String,
    /// Adds a number to the port of each app, such as `+100`, for units beside PM2
    #[arg(long, value_name = "+N", default_value = "0", value_parser = added, hide_default_value = true)]
    ports: u16,
    /// The folder to write to; it must be empty or not exist
    #[arg(long, value_name = "DIR", default_value = "edgeway-import")]
    out: PathBuf,
}

/// A file to write, relative to the folder.
struct Output {
    path: String,
    text: String,
    /// True for files with secrets.
    is_private: bool,
}

pub(super) fn run(options: &Pm2Options) -> Result<(), Failure> {
    out::data(&import(options)?);
    Ok(())
}

/// Upstream of an app, with the ports of its processes.
pub(super) struct Processes {
    pub(super) name: String,
    /// Port that all of them share with PM2.
    pub(super) first: u16,
    pub(super) ports: Vec<u16>,
    /// Why that port is not one of theirs here.
    pub(super) moved: Option<String>,
    pub(super) upstream: Value,
}

/// Returns the upstreams of the apps of an ecosystem file that have ports.
///
/// # Errors
/// Returns a message with the name of the file.
pub(super) fn processes(file: &Path, env: &str) -> Result<Vec<Processes>, String> {
    let planned = planned(file, env, 0)?;
    let processes = planned.iter().filter_map(|app| {
        Some(Processes {
            name: app.name.clone(),
            first: app.first?,
            ports: app.ports.clone(),
            moved: app.moved.clone(),
            upstream: render::upstream(app, &planned)?,
        })
    });
    Ok(processes.collect())
}

/// Plans the apps of an ecosystem file, with a number added to their ports.
fn planned(file: &Path, env: &str, shift: u16) -> Result<Vec<App>, String> {
    let of_file = |why: String| format!("{}: {why}", file.display());
    let apps = ecosystem::read(file).map_err(of_file)?;
    let folder = std::path::absolute(file).map_err(|error| of_file(error.to_string()))?;
    let folder = folder.parent().unwrap_or(Path::new("/"));
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let machine = Machine {
        cpus: std::thread::available_parallelism().map_or(1, usize::from),
        folder,
        home: home.as_deref(),
        is_file: &|path| path.is_file(),
        is_binary: &is_binary,
        script: &|folder, name| Project::read(folder).script(name).map(str::to_owned),
        websocket: &|folder| Project::read(folder).websocket(),
        owner: &|path| fs::metadata(path).ok().map(|metadata| metadata.uid()),
    };
    let mut taken = TakenNames {
        shift,
        ..TakenNames::default()
    };
    let mut plan = |app| App::plan(app, env, &machine, &mut taken).map_err(of_file);
    apps.iter().map(&mut plan).collect()
}

fn import(options: &Pm2Options) -> Result<String, Failure> {
    let planned =
        planned(&options.file, &options.env, options.ports).map_err(|why| unusable(&why))?;
    let outputs = render::outputs(&planned);
    write(&options.out, &outputs).map_err(|error| {
        let folder = options.out.display();
        let hint = match error.kind() {
            io::ErrorKind::DirectoryNotEmpty => "; choose another one with `--out DIR`",
            _ => "",
        };
        let why = format!("cannot write to `{folder}`: {error}{hint}");
        Failure::Message(out::printable_lines(&why))
    })?;
    Ok(render::report(&planned, &options.out, options.ports))
}

/// Returns true for a compiled program.
fn is_binary(path: &Path) -> bool {
    let mut start = [0; 4];
    let read =
        fs::File::open(path).and_then(|mut file| io::Read::read_exact(&mut file, &mut start));
    read.is_ok() && start == *b"\x7fELF"
}

fn write(folder: &Path, outputs: &[Output]) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    if fs::read_dir(folder)?.next().is_some() {
        return Err(io::ErrorKind::DirectoryNotEmpty.into());
    }
    for output in outputs {
        let path = folder.join(&output.path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        let mode = if output.is_private { 0o600 } else { 0o644 };
        let mut options = fs::OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(mode).open(path)?;
        io::Write::write_all(&mut file, output.text.as_bytes())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_environment_that_no_app_has_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ecosystem.json");
        fs::write(&file, r#"[{ "script": "a.js", "env_staging": {} }]"#).unwrap();
        let left = |env: &str| planned(&file, env, 0).unwrap()[0].left.join("\n");
        assert!(left("stagign").contains("there is no `env_stagign`"));
        for env in ["staging", "production"] {
            assert!(!left(env).contains("there is no"), "{env}");
        }
    }

    #[test]
    fn the_gateway_and_the_apps_have_different_ports() {
        let folder = tempfile::tempdir().unwrap();
        let mut options = Pm2Options {
            file: folder.path().join("ecosystem.json"),
            env: "production".to_owned(),
            ports: 100,
            out: folder.path().join("out"),
        };
        let app = |name: &str, count: u16, port: u16| {
            format!(
                r#"{{ "name": "{name}", "script": "a.js", "instances": {count}, "port": {port} }}"#
            )
        };
        let apps = [app("a", 2, 7980), app("b", 40, 2900), app("c", 1, 5900)];
        let apps = [&apps[..], &[app("d", 1, 5910)]].concat().join(",");
        fs::write(&options.file, format!("[{apps}]")).unwrap();
        let report = import(&options).unwrap();
        assert!(report.contains("# http://127.0.0.1:8082\n"), "{report}");
        assert!(!report.contains("--ports"), "{report}");
        let written = fs::read_to_string(options.out.join("edgeway.yaml")).unwrap();
        assert!(written.contains("address: 127.0.0.1:8082\n"), "{written}");
        // Up to 32 apps, if no other one and not the gateway is among them.
        for ports in ["8080-8081", "3000-3039", "6000-6009", "6010-6041"] {
            assert!(
                written.contains(&format!("ports: {ports}\n")),
                "{ports}: {written}"
            );
        }
        options.ports = 0;
        options.out = folder.path().join("beside");
        assert!(
            import(&options)
                .unwrap()
                .contains("again with `--ports +100`")
        );
    }
}
