//! Invariants of any text that is presented as a token; `fuzzing` runs them.

use std::sync::LazyLock;

use super::{
    keys::{self, Algorithm, Key},
    token::{MAX_TOKEN_LEN, Token, TokenRules},
};

/// Secret that only the seeds are signed with.
const SECRET: &str = "the secret of the seeds, 32 bytes and more";

static KEYS: LazyLock<Vec<Key>> =
    LazyLock::new(|| keys::read(SECRET).expect("it is long enough for a secret"));

/// Checks that only signed tokens pass, and only as they were signed: changed seeds are refused.
pub fn token(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let rules = rules();
    let Ok(token) = Token::parse(text, &rules) else {
        return;
    };
    assert!(text.len() <= MAX_TOKEN_LEN && text.bytes().filter(|b| *b == b'.').count() == 2);
    if let Ok(verified) = token.verify(&KEYS, &rules) {
        assert_eq!(verified.user.as_deref(), Some("seed"), "{text}");
        assert_eq!(verified.forward.len(), 2);
    }
    // If the text is a set of keys, it holds no secrets.
    if let Ok(keys) = keys::set(data, keys::SecretKeys::Refused, |_, _| {}) {
        assert!(keys.iter().all(|key| key.kind != keys::KeyKind::Secret));
    }
}

fn rules() -> TokenRules {
    TokenRules {
        algorithms: [Algorithm::HS256].into(),
        needs_exp: true,
        forward: ["sub".into(), "roles".into()].into(),
        ..TokenRules::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The control: if no seed passed, the check would prove nothing.
    #[test]
    fn the_seeds_that_are_signed_pass_and_no_others() {
        let rules = rules();
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds/jwt");
        let mut passed = Vec::new();
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let text = std::fs::read_to_string(&path).unwrap();
            let token = Token::parse(&text, &rules);
            if token.is_ok_and(|token| token.verify(&KEYS, &rules).is_ok()) {
                passed.push(path.file_name().unwrap().to_owned());
            }
        }
        passed.sort();
        assert_eq!(passed, ["signed", "signed_with_kid"]);
    }
}
