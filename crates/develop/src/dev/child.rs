//! The process of the `dev` script: it ends with the gateway, however that ends, and the gateway
//! ends with it.

use std::{
    net::{Ipv4Addr, SocketAddr},
    os::unix::process::CommandExt as _,
    process::{Child, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use derive_more::Display;
use edgeway_base::clock::Clock;
use edgeway_base::node_app::{LOCALHOST, options};
use edgeway_base::process_group::ProcessGroup;
use edgeway_base::shell::shown;
use rustix::process::{Pid, Signal, getpid, kill_process};

use super::LOOK;
use crate::{foreground, out, project::PackageManager};

/// Time that the script has to end after SIGTERM.
const END: Duration = Duration::from_secs(5);

/// The command that runs the script on a port.
#[derive(Display)]
#[display("{}", shown(words))]
pub(super) struct Command {
    words: Vec<String>,
    pub(super) port: u16,
}

impl Command {
    /// Returns the command of the project's package manager for a script named `name`.
    pub(super) fn new(manager: PackageManager, name: &str, script: &str, port: u16) -> Self {
        let mut words = vec![manager.name().to_owned(), "run".to_owned(), name.to_owned()];
        let port_text = port.to_string();
        // Arguments go to the last command of a script.
        let last = script.rsplit(['&', '|', ';']).next().unwrap_or_default();
        let runs = |program: &str| {
            let mut words = last.split_whitespace();
            words.any(|word| word.rsplit('/').next() == Some(program))
        };
        let is_vite = ["vite", "react-router", "remix"].into_iter().any(runs);
        let mut without_variable = [
            "astro",
            "docusaurus",
            "vitepress",
            "vue-cli-service",
            "webpack",
        ]
        .into_iter();
        let arguments: &[&str] = if runs("next") {
            &["-p", &port_text, "-H", LOCALHOST]
        } else if is_vite {
            &["--port", &port_text, "--strictPort", "--host", "127.0.0.1"]
        } else if runs("ng") {
            // A server of Angular refuses requests for other names.
            &["--port", &port_text, "--host", LOCALHOST]
        } else if without_variable.any(runs) {
            &["--port", &port_text, "--host", "127.0.0.1"]
        } else {
            &[]
        };
        if manager == PackageManager::Npm && !arguments.is_empty() {
            words.push("--".to_owned());
        }
        words.extend(arguments.iter().map(|word| (*word).to_owned()));
        Self { words, port }
    }
}

/// The running script.
pub(super) struct DevServer {
    group: ProcessGroup,
    shared: Arc<ChildState>,
    waiting: JoinHandle<()>,
}

#[derive(Default)]
struct ChildState {
    /// The gateway is ending, so the script's end is expected.
    is_ending: AtomicBool,
    /// True if the script ended by itself, with a failure.
    has_failed: AtomicBool,
}

impl DevServer {
    /// Starts the script. When it ends by itself, this process gets SIGTERM.
    pub(super) fn start(command: Command, url: &str) -> Result<Self, String> {
        let [program, arguments @ ..] = command.words.as_slice() else {
            return Err("there is no command".to_owned());
        };
        let set = std::env::var("NODE_OPTIONS").ok();
        let child = std::process::Command::new(program)
            .args(arguments)
            .env("PORT", command.port.to_string())
            .env("NODE_OPTIONS", options(set.as_deref()))
            .stdin(Stdio::null())
            // A group of its own: the script's own children get our signals too, and Ctrl-C reaches
            // the gateway alone, which finishes first.
            .process_group(0)
            .spawn();
        let child = child.map_err(|error| format!("cannot run `{command}`: {error}"))?;
        let group = ProcessGroup::guard(Pid::from_child(&child), END);
        let shared = Arc::new(ChildState::default());
        let waiting = std::thread::spawn({
            let (shared, url) = (Arc::clone(&shared), url.to_owned());
            move || wait(child, &command, &url, &shared)
        });
        Ok(Self {
            group,
            shared,
            waiting,
        })
    }

    /// Ends the script. Returns true if it had failed by itself.
    pub(super) fn end(self) -> bool {
        self.shared.is_ending.store(true, Ordering::SeqCst);
        self.group.send(Signal::TERM);
        let clock = Clock::machine();
        let limit = clock.now() + END;
        // Children of the script may outlive it for a moment.
        while self.group.is_alive() && clock.now() < limit {
            pause();
        }
        self.group.send(Signal::KILL);
        let _ended = self.waiting.join();
        self.shared.has_failed.load(Ordering::SeqCst)
    }
}

/// Reports when the app listens, and waits for its end.
fn wait(mut child: Child, command: &Command, url: &str, shared: &ChildState) {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, command.port));
    let mut is_ready = false;
    let ended = loop {
        match child.try_wait() {
            Ok(None) => {}
            Ok(Some(status)) => break Ok(status),
            Err(error) => break Err(error),
        }
        if !is_ready && foreground::listens(address) {
            is_ready = true;
            out::note(&format!("edgeway: the app listens; open {url}"));
        }
        pause();
    };
    if shared.is_ending.load(Ordering::SeqCst) {
        return;
    }
    let (how, has_failed) = match ended {
        Ok(status) => (status.to_string(), !status.success()),
        Err(error) => (error.to_string(), true),
    };
    shared.has_failed.store(has_failed, Ordering::SeqCst);
    out::note(&format!(
        "edgeway: `{command}` has ended ({how}), so the gateway ends too"
    ));
    // Handled like the signal of an operator.
    let _sent = kill_process(getpid(), Signal::TERM);
}

#[expect(clippy::disallowed_methods, reason = "a thread of its own may wait")]
fn pause() {
    std::thread::sleep(LOOK);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_script_gets_its_port_in_the_way_that_its_program_reads_it() {
        let words =
            |script: &str| Command::new(PackageManager::Npm, "dev", script, 41000).to_string();
        assert_eq!(words("next dev"), "npm run dev -- -p 41000 -H localhost");
        assert_eq!(
            words("prisma generate && node_modules/.bin/next dev --turbopack"),
            "npm run dev -- -p 41000 -H localhost"
        );
        assert_eq!(
            words("vite"),
            "npm run dev -- --port 41000 --strictPort --host 127.0.0.1"
        );
        assert_eq!(
            words("react-router typegen && react-router dev"),
            "npm run dev -- --port 41000 --strictPort --host 127.0.0.1"
        );
        assert_eq!(
            words("remix vite:dev"),
            "npm run dev -- --port 41000 --strictPort --host 127.0.0.1"
        );
        assert_eq!(
            words("astro check && astro dev"),
            "npm run dev -- --port 41000 --host 127.0.0.1"
        );
        assert_eq!(
            words("ng serve"),
            "npm run dev -- --port 41000 --host localhost"
        );
        // It reads PORT, or its own configuration.
        assert_eq!(words("node --watch server.js"), "npm run dev");
        assert_eq!(words("next dev & node worker.js"), "npm run dev");
        let pnpm = Command::new(PackageManager::Pnpm, "dev", "next dev", 41000);
        assert_eq!(pnpm.to_string(), "pnpm run dev -p 41000 -H localhost");
    }
}
