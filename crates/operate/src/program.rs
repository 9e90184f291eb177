//! External programs of commands: an operator's command line with placeholders, and systemctl.

use std::{future::pending, process::Stdio, time::Duration};

use edgeway_base::shell::quoted;
use rustix::process::{Pid, Signal, kill_process};
use tokio::{process::Command, time::timeout};

use super::backends::{Interrupt, Name, interrupted};

/// Time that a program has to end after a signal.
const END: Duration = Duration::from_secs(10);

/// Starts programs and waits for their end.
pub(crate) trait Programs {
    /// Runs a command. `Err` contains the reason of a failure.
    async fn run(&self, arguments: &[String]) -> Result<(), String>;
}

/// Runs programs on this machine.
pub(crate) struct Machine;

impl Programs for Machine {
    async fn run(&self, arguments: &[String]) -> Result<(), String> {
        run(arguments, pending()).await
    }
}

/// Runs programs on this machine, and ends the one that runs when the command is interrupted.
pub(crate) struct UntilInterrupted(pub(crate) Interrupt);

impl Programs for UntilInterrupted {
    async fn run(&self, arguments: &[String]) -> Result<(), String> {
        run(arguments, interrupted(&self.0)).await
    }
}

async fn run(arguments: &[String], is_over: impl Future<Output = ()>) -> Result<(), String> {
    let [program, arguments @ ..] = arguments else {
        return Err("there is no command".to_owned());
    };
    let failed = |error| format!("cannot run `{program}`: {error}");
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null());
    let mut child = command.spawn().map_err(failed)?;
    let ended = tokio::select! {
        ended = child.wait() => ended,
        () = is_over => {
            // A signal to this process alone has not reached the program.
            let id = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
            let _has_ended = id.map(|id| kill_process(id, Signal::TERM));
            if timeout(END, child.wait()).await.is_err() {
                child.start_kill().map_err(failed)?;
            }
            child.wait().await
        }
    };
    match ended.map_err(failed)? {
        status if status.success() => Ok(()),
        status => Err(status.to_string()),
    }
}

/// Manager of systemd units.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Manager {
    System,
    User,
}

impl Manager {
    /// Finds a manager by its name in `scale` and `releases`.
    pub(crate) fn named(name: &str) -> Self {
        match name {
            "user" => Self::User,
            _ => Self::System,
        }
    }

    /// Returns the option of systemctl that calls it.
    pub(crate) fn option(self) -> &'static [&'static str] {
        match self {
            Self::System => &[],
            Self::User => &["--user"],
        }
    }

    /// Returns the command line of systemctl with these words.
    pub(crate) fn systemctl(self, words: &[&str]) -> Vec<String> {
        let line = [&["systemctl"], self.option(), words].concat();
        line.into_iter().map(str::to_owned).collect()
    }
}

/// Values of placeholders in a command: the parts of a backend's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Placeholders {
    upstream: String,
    address: String,
    /// `None` for a unix socket, which has neither.
    host_and_port: Option<(String, String)>,
}

impl Placeholders {
    pub(crate) fn new(name: &Name) -> Self {
        let parsed = name.address.parse::<std::net::SocketAddr>().ok();
        Self {
            upstream: name.upstream.clone(),
            address: name.address.clone(),
            host_and_port: parsed.map(|at| (at.ip().to_string(), at.port().to_string())),
        }
    }

    /// Returns `text` with its placeholders replaced, each in the form that `write` returns.
    ///
    /// # Errors
    ///
    /// If a placeholder has no value for this backend.
    fn fill(&self, text: &str, write: impl Fn(&str) -> String) -> Result<String, String> {
        let mut filled = String::new();
        let mut rest = text;
        while let Some(start) = rest.find('{') {
            let (before, from) = rest.split_at(start);
            filled.push_str(before);
            let known = [
                ("{upstream}", Some(&self.upstream)),
                ("{address}", Some(&self.address)),
                ("{host}", self.host_and_port.as_ref().map(|(host, _)| host)),
                ("{port}", self.host_and_port.as_ref().map(|(_, port)| port)),
            ];
            match known.iter().find(|(name, _)| from.starts_with(name)) {
                Some((name, Some(value))) => {
                    filled.push_str(&write(value));
                    rest = &from[name.len()..];
                }
                Some((name, None)) => {
                    return Err(format!(
                        "`{}` has no `{name}`: it is not a TCP address",
                        self.address
                    ));
                }
                // Not one of our placeholders, as in `awk '{print}'`.
                None => {
                    filled.push('{');
                    rest = &from[1..];
                }
            }
        }
        filled.push_str(rest);
        Ok(filled)
    }

    /// Replaces the placeholders of each argument.
    pub(crate) fn arguments(&self, written: &[String]) -> Result<Vec<String>, String> {
        let each = written.iter();
        each.map(|argument| self.fill(argument, str::to_owned))
            .collect()
    }

    /// Creates a shell command line. Each value becomes a single word, whatever it contains.
    pub(crate) fn shell(&self, line: &str) -> Result<Vec<String>, String> {
        let line = self.fill(line, quoted)?;
        Ok(vec!["sh".to_owned(), "-c".to_owned(), line])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &str) -> Placeholders {
        Placeholders::new(&name.parse().unwrap())
    }

    fn words(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn placeholders_are_filled_in_wherever_they_stand() {
        let filled = of("web/127.0.0.1:3001").arguments(&words(
            "restart {upstream}@{port} {host} {address}{port} {print} { {por",
        ));
        let expected = words("restart web@3001 127.0.0.1 127.0.0.1:30013001 {print} { {por");
        assert_eq!(filled.unwrap(), expected);
        let filled = of("web/[::1]:3001").arguments(&words("{host} {port} {address}"));
        assert_eq!(filled.unwrap(), words("::1 3001 [::1]:3001"));
    }

    #[test]
    fn a_unix_socket_has_no_port() {
        let socket = of("web/unix:/run/app.sock");
        assert_eq!(
            socket.arguments(&words("{address}")).unwrap(),
            ["unix:/run/app.sock"]
        );
        let refused = socket.arguments(&words("restart {port}")).unwrap_err();
        assert!(
            refused.contains("`unix:/run/app.sock` has no `{port}`"),
            "{refused}"
        );
    }

    #[test]
    fn what_is_filled_into_a_line_of_the_shell_is_one_word() {
        let line = of("web/unix:/run/a b;it's.sock").shell("rollback {address} | tee {upstream}");
        let expected = r"rollback 'unix:/run/a b;it'\''s.sock' | tee web";
        assert_eq!(line.unwrap(), ["sh", "-c", expected]);
    }

    #[tokio::test]
    async fn the_way_a_program_ended_is_reported() {
        assert_eq!(Machine.run(&words("true")).await, Ok(()));
        let failed = Machine.run(&words("false")).await.unwrap_err();
        assert_eq!(failed, "exit status: 1");
        let lost = Machine.run(&words("/nowhere/at/all")).await.unwrap_err();
        assert!(lost.starts_with("cannot run `/nowhere/at/all`: "), "{lost}");
        assert!(Machine.run(&[]).await.is_err());
        // A signal to the command alone ends a program that hangs.
        let (sender, interrupt) = tokio::sync::watch::channel(false);
        let programs = UntilInterrupted(interrupt);
        let line = words("sleep 60");
        let ended = tokio::join!(programs.run(&line), async { sender.send(true).unwrap() }).0;
        assert_eq!(ended.unwrap_err(), "signal: 15 (SIGTERM)");
    }
}
