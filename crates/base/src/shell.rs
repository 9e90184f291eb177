//! Words of a shell's command line.

/// Formats a command as a user would type it.
pub fn shown(arguments: &[String]) -> String {
    let words: Vec<String> = arguments.iter().map(|argument| quoted(argument)).collect();
    words.join(" ")
}

/// Quotes a word for the shell.
pub fn quoted(word: &str) -> String {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"@%_+=:,./-".contains(&b);
    if !word.is_empty() && word.bytes().all(is_plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_shown_as_it_would_be_typed() {
        let arguments = ["sh".to_owned(), "-c".to_owned(), "echo $HOME".to_owned()];
        assert_eq!(shown(&arguments), "sh -c 'echo $HOME'");
    }
}
