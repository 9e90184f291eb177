//! `edgeway demo`: a gateway in front of built-in apps, with a page that lists what to try.

mod apps;
mod page;

use std::{
    fs::{self, DirBuilder},
    io,
    net::SocketAddr,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use edgeway_base::shell::shown;
use edgeway_config::scalar::quoted;
use edgeway_process::log::{self, LogFormat};
use edgeway_status::admin_socket;

use self::{apps::DemoApps, page::Page};
use super::{
    Failure,
    foreground::{self, Foreground},
    out,
    proxy::address::ListenAddress,
};

/// The configuration, with placeholders for the real addresses.
const CONFIG: &str = include_str!("demo.yaml");

/// The plugin of the demonstration, one of those in `plugins/`.
const PLUGIN: [(&str, &str); 2] = [
    (
        "plugin.js",
        include_str!("../../../../plugins/ab-split/plugin.js"),
    ),
    (
        "config.schema.json",
        include_str!("../../../../plugins/ab-split/config.schema.json"),
    ),
];

#[derive(Debug, clap::Args)]
pub struct DemoOptions {
    /// Address to listen on: a port of this machine, `IP:PORT`, or `:PORT` for all its addresses
    #[arg(
        long,
        aliases = ["address", "port"],
        value_name = "ADDRESS",
        default_value = "127.0.0.1:8080"
    )]
    listen: ListenAddress,
    /// The address of the admin listener [default: 127.0.0.1:9900, or none if it is taken]
    #[arg(long, value_name = "IP:PORT")]
    admin: Option<SocketAddr>,
    /// Print the configuration, and serve nothing
    #[arg(long)]
    print: bool,
}

/// First lines of the printed configuration.
const PRINTED: &str =
    "# The ports change with each start. The plugin is in `plugins/` of Edgeway's sources.\n";

pub fn run(options: &DemoOptions) -> Result<(), Failure> {
    if options.print {
        out::data(&printed(options));
        return Ok(());
    }
    // Until the gateway has printed what to try, nothing but problems.
    log::init_with(LogFormat::Text, "warn");
    let birth = foreground::launched()?;
    let socket = foreground::admin_socket(options.listen.port());
    let base = base(options.listen);
    let started = PluginFolder::make().and_then(|plugin| {
        let mut apps = DemoApps::listen()?;
        let file = plugin.0.join(PLUGIN[0].0);
        let yaml = yaml(options, &apps.addresses()?, &file, &socket);
        let program = std::env::args_os().next().unwrap_or_default();
        let page = Page {
            base: &base,
            program: &shown(&[program.to_string_lossy().into_owned()]),
            socket: &shown(&[socket.display().to_string()]),
            yaml: &yaml,
        };
        apps.start(&page.to_string());
        Ok((apps, plugin, yaml))
    });
    let (_apps, _plugin, yaml) = match started {
        Ok(started) => started,
        Err(error) => {
            let message = format!("edgeway: cannot start the apps of the demonstration: {error}");
            birth.inherited.report().refuses(&message);
            out::note(&message);
            return Err(Failure::FAILED);
        }
    };
    foreground::serve(
        birth,
        Foreground {
            name: "demo.yaml",
            yaml: &yaml,
            hello: hello(&base, &socket),
        },
    )
}

/// Returns the URL at which a browser of this machine finds the listener.
fn base(listen: ListenAddress) -> String {
    match listen {
        ListenAddress::At(address) if !address.ip().is_unspecified() => format!("http://{address}"),
        ListenAddress::At(_) | ListenAddress::All(_) => {
            format!("http://{}:{}", listen.host(), listen.port())
        }
    }
}

/// Returns the configuration for a reader: as it is on a machine without another gateway.
fn printed(options: &DemoOptions) -> String {
    let options = DemoOptions {
        admin: options.admin.or(Some(foreground::ADMIN)),
        ..*options
    };
    let plugin = Path::new("plugins/ab-split/plugin.js");
    let yaml = yaml(
        &options,
        &DemoApps::sample(),
        plugin,
        &admin_socket::usual(),
    );
    format!("{PRINTED}{yaml}")
}

fn yaml(
    options: &DemoOptions,
    apps: &[(&'static str, SocketAddr)],
    plugin: &Path,
    socket: &Path,
) -> String {
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
        .replace("{plugin}", &quoted(&plugin.display().to_string()));
    for (name, address) in apps {
        text = text.replace(&format!("{{{name}}}"), &address.to_string());
    }
    text
}

fn hello(base: &str, socket: &Path) -> Vec<String> {
    let socket = shown(&[socket.display().to_string()]);
    let lines = format!(
        "\nEdgeway serves a demonstration at {base}/\n\
         Open it in a browser: each request that you send is seen on its way. Or try here:\n\n  \
         # rendered once, then from the cache: MISS, HIT\n  \
         curl -si {base}/product | grep -i x-cache-status\n  \
         # the fourth request gets 429, and when to come back\n  \
         for i in 1 2 3 4; do curl -si {base}/limited | grep -iE '^(HTTP|retry-after)'; done\n  \
         # a plugin splits visitors into A and B\n  \
         for i in 1 2 3 4; do curl -s {base}/split; done\n  \
         # a backend is stopped, and no request fails\n  \
         curl -s -X POST {base}/stop; for i in 1 2 3 4; do curl -s {base}/stock; done\n  \
         # routes, upstreams, health\n  \
         {} status --socket {socket}\n\n\
         `edgeway demo --print` prints the configuration. Ctrl-C ends it.\n",
        out::program()
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
        let demo = Self(folder.join("ab-split"));
        fs::create_dir(&demo.0)?;
        for (name, text) in PLUGIN {
            fs::write(demo.0.join(name), text)?;
        }
        Ok(demo)
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
    use edgeway_gateway::{self as gateway, World};

    /// Invariant: the configuration of the demonstration has no findings.
    #[test]
    fn the_demonstration_is_a_valid_configuration() {
        let plugin = PluginFolder::make().unwrap();
        let folder = plugin.0.parent().unwrap().to_owned();
        let options = DemoOptions {
            listen: "127.0.0.1:8080".parse().unwrap(),
            admin: Some("127.0.0.1:9900".parse().unwrap()),
            print: false,
        };
        let file = plugin.0.join("plugin.js");
        let socket = Path::new("/run/a b.sock");
        let text = yaml(&options, &DemoApps::sample(), &file, socket);
        edgeway_filters::register();
        let loaded = gateway::load_text("demo.yaml", &text);
        let json = edgeway_config::diagnostic::Style::Json;
        let report = loaded.diagnostics.render(&loaded.sources, json);
        let file = loaded.file.expect(&report);
        let (gateway, found) = gateway::compile(&file, Path::new(""), &World::default());
        let report = found.render(&loaded.sources, edgeway_config::diagnostic::Style::Json);
        assert!(gateway.is_some() && found.list().is_empty(), "{report}");
        drop(plugin);
        assert!(!folder.exists());
    }

    /// Invariant: the printed file is what is served, with the plugin of the sources.
    #[test]
    fn the_printed_configuration_is_valid_in_the_folder_of_the_sources() {
        let options = DemoOptions {
            listen: "127.0.0.1:8080".parse().unwrap(),
            admin: None,
            print: true,
        };
        let text = printed(&options);
        assert!(
            text.starts_with('#') && !text.contains("{listen}"),
            "{text}"
        );
        edgeway_filters::register();
        let loaded = gateway::load_text("demo.yaml", &text);
        let file = loaded.file.unwrap();
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let (gateway, found) = gateway::compile(&file, &sources, &World::default());
        assert!(gateway.is_some() && found.list().is_empty(), "{text}");
    }
}
