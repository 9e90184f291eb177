//! `edgeway hash password` and `edgeway hash api-key`: lines for files that hold no secret.

use std::io::{self, IsTerminal, Read};

use clap::Subcommand;
use edgeway_base::credential::{ApiKeyHash, hash_password, new_api_key};

use super::{Failure, out};

/// Size limit of a password. Longer input is no password.
const MAX_INPUT_LEN: u64 = 4096;

#[derive(Debug, clap::Args)]
pub struct HashOptions {
    #[command(subcommand)]
    command: HashCommand,
}

#[derive(Debug, Subcommand)]
enum HashCommand {
    /// Print the hash of a password, for `basic_auth`
    ///
    /// Asks for the password twice; without a terminal, the first line of the input is taken.
    Password {
        /// Print a whole line for the file of users
        #[arg(long, value_name = "NAME")]
        user: Option<String>,
    },
    /// Make a new API key and print the line for it, for `api_key`
    ///
    /// The key itself goes to stderr, once: it cannot be recovered.
    ApiKey {
        /// The name of the key's owner
        name: String,
        /// Hash a key that exists: the first line of the input
        #[arg(long)]
        stdin: bool,
    },
}

pub fn run(options: &HashOptions) -> Result<(), Failure> {
    out::data(&match &options.command {
        HashCommand::Password { user } => password(user.as_deref())?,
        HashCommand::ApiKey { name, stdin } => api_key(name, *stdin)?,
    });
    Ok(())
}

fn password(user: Option<&str>) -> Result<String, String> {
    if user.is_some_and(|user| user.is_empty() || user.contains([':', '\n', '\r'])) {
        return Err(
            "a user's name has at least one character, and neither `:` nor a line end".to_owned(),
        );
    }
    let password = if io::stdin().is_terminal() {
        let ask = |prompt: &str| {
            rpassword::prompt_password(prompt)
                .map_err(|error| format!("cannot read the password: {error}"))
        };
        let password = ask("Password: ")?;
        if ask("Repeat password: ")? != password {
            return Err("the passwords differ".to_owned());
        }
        password
    } else {
        first_line()?
    };
    if password.is_empty() {
        return Err("the password is empty".to_owned());
    }
    let hash = hash_password(password.as_bytes())?;
    Ok(match user {
        Some(user) => format!("{user}:{hash}"),
        None => hash,
    })
}

fn api_key(name: &str, from_input: bool) -> Result<String, String> {
    if name.is_empty() || name.contains(char::is_whitespace) || name.contains('#') {
        return Err(
            "a key's name has at least one character, and neither spaces nor `#`".to_owned(),
        );
    }
    let key = if from_input {
        let key = first_line()?;
        if key.len() < 20 {
            return Err(
                "this key is short enough to be guessed: leave `--stdin` out to get a long one"
                    .to_owned(),
            );
        }
        key
    } else {
        let key = new_api_key().map_err(|_| "the system has no random bits".to_owned())?;
        out::note(&format!("The key of {name}, shown only this once: {key}"));
        key
    };
    Ok(format!("{name} {}", ApiKeyHash::from_key(key.as_bytes())))
}

/// Reads the first line of the input, without its line ending.
fn first_line() -> Result<String, String> {
    let mut text = String::new();
    io::stdin()
        .take(MAX_INPUT_LEN)
        .read_to_string(&mut text)
        .map_err(|error| format!("cannot read the input: {error}"))?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}
