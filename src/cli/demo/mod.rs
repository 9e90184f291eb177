//! `edgeway demo`: a gateway in front of built-in apps, with a page that lists what to try.

mod apps;

use std::{
    fs::{self, DirBuilder},
    io,
    net::SocketAddr,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

use self::apps::DemoApps;
use super::{
    foreground::{self, Foreground, quoted},
    out,
    program::shown,
    proxy::address::ListenAddress,
};
use crate::process::log;

/// The configuration, with placeholders for the real addresses.
const CONFIG: &str = include_str!("demo.yaml");

/// The plugin of the demonstration, one of those in `plugins/`.
const PLUGIN: [(&str, &str); 2] = [
    (
        "plugin.js",
        include_str!("../../../plugins/ab-split/plugin.js"),
    ),
    (
        "config.schema.json",
        include_str!("../../../plugins/ab-split/config.schema.json"),
    ),
];

#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// Address to listen on: a port of this machine, `IP:PORT`, or `:PORT` for all its addresses
    #[arg(
        long,
        alias = "address",
        value_name = "ADDRESS",
        default_value = "127.0.0.1:8080"
    )]
    listen: ListenAddress,
    /// The address of the admin listener [default: 127.0.0.1:9900, or none if it is taken]
    #[arg(long, value_name = "IP:PORT")]
    admin: Option<SocketAddr>,
}

pub(super) fn run(options: &Options) -> ExitCode {
    log::init();
    let birth = match foreground::launched() {
        Ok(birth) => birth,
        Err(status) => return status,
    };
    let started = PluginFolder::make().and_then(|plugin| {
        let listen = options.listen;
        let socket = foreground::admin_socket(listen.port());
        let base = match listen {
            ListenAddress::At(address) if !address.ip().is_unspecified() => {
                format!("http://{address}")
            }
            ListenAddress::At(_) | ListenAddress::All(_) => {
                format!("http://{}:{}", listen.host(), listen.port())
            }
        };
        let page = Page {
            base: base.clone(),
            socket: shown(&[socket.display().to_string()]),
        };
        Ok((DemoApps::start(&page)?, plugin, socket, base))
    });
    let (apps, plugin, socket, base) = match started {
        Ok(started) => started,
        Err(error) => {
            let message = format!("edgeway: cannot start the apps of the demonstration: {error}");
            birth.inherited.report().refuses(&message);
            out::note(&message);
            return ExitCode::FAILURE;
        }
    };
    let yaml = yaml(options, &apps, &plugin, &socket);
    let status = foreground::serve(
        birth,
        Foreground {
            name: "demo.yaml",
            yaml: &yaml,
            hello: hello(&base, &socket),
        },
    );
    apps.stop();
    status
}

/// Addresses for the page.
struct Page {
    base: String,
    socket: String,
}

fn yaml(options: &Options, apps: &DemoApps, plugin: &PluginFolder, socket: &Path) -> String {
    let admin = options
        .admin
        .map_or_else(foreground::admin_address, |at| at.to_string());
    // The folder of the usual one is made if need be.
    let own_socket = if foreground::is_usual(socket) {
        String::new()
    } else {
        format!(", socket: {}", quoted(&socket.display().to_string()))
    };
    let mut text = CONFIG
        .replace("{listen}", &options.listen.written())
        .replace("{admin}", &admin)
        .replace("{socket}", &own_socket)
        .replace(
            "{admin-backend}",
            &quoted(&format!("unix:{}", socket.display())),
        )
        .replace(
            "{plugin}",
            &quoted(&plugin.0.join("plugin.js").display().to_string()),
        );
    for (name, address) in &apps.addresses {
        text = text.replace(&format!("{{{name}}}"), &address.to_string());
    }
    text
}

fn hello(base: &str, socket: &Path) -> Vec<String> {
    let socket = shown(&[socket.display().to_string()]);
    let lines = format!(
        "\nEdgeway serves a demonstration: open {base}/ and press the buttons, or try here:\n\n  \
         # rendered once, then from the cache: MISS, HIT\n  \
         curl -si {base}/product | grep -i x-cache-status\n  \
         # the fourth request gets 429, and when to come back\n  \
         for i in 1 2 3 4; do curl -si {base}/limited | grep -iE '^(HTTP|retry-after)'; done\n  \
         # a plugin splits visitors into A and B\n  \
         for i in 1 2 3 4; do curl -s {base}/split; done\n  \
         # a slow backend leaves rotation\n  \
         curl -s -X POST {base}/stock/slow; sleep 3; curl -s {base}/stock/items\n  \
         # routes, upstreams, health\n  \
         edgeway status --socket {socket}\n\n\
         The configuration is src/cli/demo/demo.yaml. Ctrl-C ends it.\n"
    );
    lines.lines().map(str::to_owned).collect()
}

/// Folder of the plugin, which is read from files; removed when dropped.
struct PluginFolder(PathBuf);

impl PluginFolder {
    fn make() -> io::Result<Self> {
        let name = format!("edgeway-demo-{:016x}", fastrand::u64(..));
        let folder = std::env::temp_dir().join(name);
        // It fails if the folder exists: another user may have put it there.
        DirBuilder::new().mode(0o700).create(&folder)?;
        let made = Self(folder.join("ab-split"));
        fs::create_dir(&made.0)?;
        for (name, text) in PLUGIN {
            fs::write(made.0.join(name), text)?;
        }
        Ok(made)
    }
}

impl Drop for PluginFolder {
    fn drop(&mut self) {
        if let Some(folder) = self.0.parent() {
            // What is left in the temporary folder does no harm.
            let _removed = fs::remove_dir_all(folder);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::{self, World};

    /// Invariant: the configuration of the demonstration has no findings.
    #[test]
    fn the_demonstration_is_a_valid_configuration() {
        let plugin = PluginFolder::make().unwrap();
        let folder = plugin.0.parent().unwrap().to_owned();
        let names = ["shop-1", "shop-2", "stock-1", "stock-2", "api", "chat"];
        let apps = names
            .iter()
            .zip(1..)
            .map(|(name, port)| (*name, ([127, 0, 0, 1], port).into()));
        let apps = DemoApps::for_test(apps);
        let options = Options {
            listen: "127.0.0.1:8080".parse().unwrap(),
            admin: Some("127.0.0.1:9900".parse().unwrap()),
        };
        let text = yaml(&options, &apps, &plugin, Path::new("/run/a b.sock"));
        let loaded = gateway::load_text("demo.yaml", &text);
        let json = crate::config::diagnostic::Style::Json;
        let report = loaded.diagnostics.render(&loaded.sources, json);
        let file = loaded.file.expect(&report);
        let (gateway, found) = gateway::compile(&file, Path::new(""), &World::default());
        let report = found.render(&loaded.sources, crate::config::diagnostic::Style::Json);
        assert!(gateway.is_some() && found.list().is_empty(), "{report}");
        drop(plugin);
        assert!(!folder.exists());
    }
}
