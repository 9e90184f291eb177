//! Command lines and folders, as the files of a project write them.

use std::path::{Component, Path, PathBuf};

/// Returns a folder as the project's files write it, without `.`: the project's own is empty.
pub(super) fn relative(folder: &str) -> PathBuf {
    let parts = Path::new(folder).components();
    parts.filter(|part| *part != Component::CurDir).collect()
}

/// Returns true for a command line that may start the server of a Next.js app: Next.js itself, a
/// package manager, or a server of its own.
pub(super) fn is_next_server(command: &str) -> bool {
    let programs = ["next", "npm", "pnpm", "yarn", "bun"];
    command.split_whitespace().any(|word| {
        let name = word.rsplit('/').next().unwrap_or(word);
        programs.contains(&name) || name.starts_with("server.")
    })
}

/// Returns the port in a command line: `-p 3001`, `--port=3001`, `PORT=3001 node …`.
pub fn port_in_command(command: &str) -> Option<u16> {
    let words: Vec<&str> = command.split_whitespace().collect();
    let number = |text: &str| port_of(text.trim_matches(['"', '\'']));
    words.iter().enumerate().find_map(|(at, word)| {
        let next = || words.get(at + 1).and_then(|next| number(next));
        match *word {
            "-p" | "--port" => next(),
            _ => {
                let value = ["--port=", "-p=", "PORT="];
                let value = value.into_iter().find_map(|start| word.strip_prefix(start));
                value.or_else(|| word.strip_prefix("-p")).and_then(number)
            }
        }
    })
}

/// Reads a port other than 0.
pub(super) fn port_of(text: &str) -> Option<u16> {
    text.parse().ok().filter(|port| *port != 0)
}

/// Returns true if a command line runs this command of a program.
pub(super) fn runs(line: &str, program: &str, command: &str) -> bool {
    let words: Vec<&str> = line.split_whitespace().collect();
    words
        .windows(2)
        .any(|pair| pair[0].rsplit('/').next() == Some(program) && pair[1] == command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_found_in_command_lines() {
        for (line, port) in [
            ("next start -p 3001", Some(3001)),
            ("next start --port=3001", Some(3001)),
            ("next start -p3001", Some(3001)),
            ("PORT=4000 node server.js", Some(4000)),
            ("cross-env PORT=4000 node server.js", Some(4000)),
            ("vite preview --port 5000 --host", Some(5000)),
            ("next start", None),
            ("node -p 'x' server.js", None),
            ("next start -p $PORT", None),
            ("node server.js --port 0", None),
            ("tsc -project x", None),
        ] {
            assert_eq!(port_in_command(line), port, "{line}");
        }
    }

    #[test]
    fn a_folder_is_that_of_the_file() {
        for (written, folder) in [
            ("", ""),
            (".", ""),
            ("./web", "web"),
            ("./", ""),
            ("../web", "../web"),
            (".web", ".web"),
            ("/srv/web", "/srv/web"),
        ] {
            assert_eq!(relative(written), Path::new(folder), "{written}");
        }
    }

    #[test]
    fn a_command_is_recognised_behind_its_path() {
        for (line, expected) in [
            ("next dev", true),
            ("next dev --turbopack", true),
            ("NODE_OPTIONS=x node_modules/.bin/next dev", true),
            ("next build", false),
            ("nextdev", false),
        ] {
            assert_eq!(runs(line, "next", "dev"), expected, "{line}");
        }
    }
}
