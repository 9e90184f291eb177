//! The command of an app: PM2's `script`, `interpreter` and arguments as words of one command.

use std::path::Path;

use super::{Machine, PORT, keys::Keys};

/// Returns the words of the command that PM2 would run.
pub(super) fn command(
    keys: &mut Keys<'_>,
    script: &str,
    folder: &Path,
    machine: &Machine<'_>,
    left: &mut Vec<String>,
) -> Vec<String> {
    let interpreter = keys.text(&["interpreter", "exec_interpreter"]);
    let options = keys.words(&[
        "node_args",
        "nodeArgs",
        "interpreter_args",
        "interpreterArgs",
    ]);
    let arguments = keys.words(&["args"]);
    let file = folder.join(script);
    let is_file = (machine.is_file)(&file);
    if script.contains(' ') && !is_file {
        if !arguments.is_empty() {
            left.push("`args`: PM2 ignores them beside a `script` with spaces".to_owned());
        }
        return command_line(script);
    }
    let extension = Path::new(script)
        .extension()
        .and_then(|ending| ending.to_str());
    // A program of PATH, such as npm or java, or one by its path.
    let is_program = if is_file {
        (machine.is_binary)(&file)
    } else {
        !script.contains('/') && extension.is_none()
    };
    if script == "serve" && !is_file {
        left.push("`script: serve`: a route with `files` takes its place".to_owned());
    }
    let by_extension = match extension {
        Some("py") => "python3",
        Some("sh") => "bash",
        Some("rb") => "ruby",
        Some("php") => "php",
        Some("pl") => "perl",
        Some("ts" | "tsx") => "bun",
        _ => "node",
    };
    let interpreter = match interpreter.as_deref() {
        Some("none" | "") => None,
        Some(written) if written.starts_with("node@") => {
            left.push(format!(
                "`interpreter: {written}`: the node in PATH runs it; write the path of another one"
            ));
            Some("node".to_owned())
        }
        Some(written) => Some(written.to_owned()),
        None if is_program => None,
        None => Some(by_extension.to_owned()),
    };
    let mut command: Vec<String> = interpreter.into_iter().collect();
    if !command.is_empty() {
        command.extend(options);
    } else if !options.is_empty() {
        left.push(format!(
            "`node_args`: PM2 ignores them, as node does not start `{script}` itself; write \
             `NODE_OPTIONS` in `env`"
        ));
    }
    command.push(script.to_owned());
    command.extend(arguments);
    command
}

/// Returns the words of a `script` with spaces, such as `npm run start`, which PM2 gives to bash.
fn command_line(script: &str) -> Vec<String> {
    // `/usr/bin/env` sets the variables of `PORT=4000 node server.js`.
    let is_plain = |c: char| c.is_ascii_alphanumeric() || " -_./=:,@+".contains(c);
    if script.chars().all(is_plain) {
        return script.split_whitespace().map(str::to_owned).collect();
    }
    vec!["bash".to_owned(), "-c".to_owned(), script.to_owned()]
}

/// Takes the port out of a command, such as that of `-p 3000` and `--port=3000`, for [`PORT`].
pub(super) fn take_port(command: &mut [String]) -> Option<u64> {
    if let [shell, option, line] = command
        && shell == "bash"
        && option == "-c"
    {
        let mut words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let port = take_port_of_words(&mut words);
        *line = words.join(" ");
        return port;
    }
    take_port_of_words(command)
}

fn take_port_of_words(words: &mut [String]) -> Option<u64> {
    let mut port = None;
    for at in 0..words.len() {
        let word = words[at].clone();
        if matches!(word.as_str(), "-p" | "--port") {
            if let Some(next) = words.get_mut(at + 1)
                && let Ok(number) = next.parse()
            {
                PORT.clone_into(next);
                port = Some(number);
            }
            continue;
        }
        let starts = ["--port=", "-p=", "PORT=", "-p"];
        let split = starts
            .iter()
            .find_map(|start| Some((start, word.strip_prefix(start)?)));
        if let Some((start, digits)) = split
            && let Ok(number) = digits.parse()
        {
            words[at] = format!("{start}{PORT}");
            port = Some(number);
        }
    }
    port
}
