//! The `apr1` hash of `htpasswd -m` and `openssl passwd -apr1`: a thousand rounds of MD5. Fast to
//! guess; kept so that users of an older gateway can still log in.

use md5::{Digest as _, Md5};

/// Rounds of the hash.
const ROUNDS: usize = 1000;

/// Letters of its text form.
const LETTERS: &[u8; 64] = b"./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// Longest salt.
const MAX_SALT: usize = 8;

/// Mark of the hash.
const MARK: &[u8] = b"$apr1$";

/// Returns salt and digest of `$apr1$SALT$DIGEST`.
pub(super) fn parts(text: &str) -> Option<(&str, &str)> {
    let (salt, digest) = text.strip_prefix("$apr1$")?.split_once('$')?;
    let are_letters = |text: &str| text.bytes().all(|byte| LETTERS.contains(&byte));
    let is_well = !salt.is_empty() && salt.len() <= MAX_SALT && digest.len() == 22;
    (is_well && are_letters(salt) && are_letters(digest)).then_some((salt, digest))
}

/// Returns the digest of a password in its text form.
pub(super) fn digest(password: &[u8], salt: &[u8]) -> String {
    let once = Md5::digest([password, salt, password].concat());
    let mut input = [password, MARK, salt].concat();
    for part in 0..password.len().div_ceil(16) {
        input.extend_from_slice(&once[..(password.len() - part * 16).min(16)]);
    }
    let mut bits = password.len();
    while bits > 0 {
        input.push(if bits & 1 == 1 {
            0
        } else {
            password.first().copied().unwrap_or_default()
        });
        bits >>= 1;
    }
    let mut last = Md5::digest(&input);
    for round in 0..ROUNDS {
        let is_odd = round % 2 == 1;
        let mut input = Vec::with_capacity(2 * password.len() + 32);
        input.extend_from_slice(if is_odd { password } else { &last });
        if round % 3 != 0 {
            input.extend_from_slice(salt);
        }
        if round % 7 != 0 {
            input.extend_from_slice(password);
        }
        input.extend_from_slice(if is_odd { &last } else { password });
        last = Md5::digest(&input);
    }
    text(&last)
}

/// Writes a digest in the hash's own order, six bits for each letter.
fn text(digest: &[u8]) -> String {
    const ORDER: [[usize; 3]; 5] = [[0, 6, 12], [1, 7, 13], [2, 8, 14], [3, 9, 15], [4, 10, 5]];
    let mut text = String::with_capacity(22);
    let mut push = |mut value: u32, letters: usize| {
        for _ in 0..letters {
            text.push(char::from(LETTERS[(value & 63) as usize]));
            value >>= 6;
        }
    };
    for places in ORDER {
        let [high, middle, low] = places.map(|place| u32::from(digest[place]));
        push((high << 16) | (middle << 8) | low, 4);
    }
    push(u32::from(digest[11]), 2);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_those_of_openssl() {
        // `openssl passwd -apr1 -salt SALT PASSWORD`
        for (salt, password, expected) in DIGESTS {
            assert_eq!(
                digest(password.as_bytes(), salt.as_bytes()),
                *expected,
                "{password}"
            );
        }
    }

    const DIGESTS: &[(&str, &str, &str)] = &[
        ("abcdefgh", "secret", "h9FWgUz3n9YxylKLlR5SQ/"),
        ("x", "", "tMwYqBfQwi3FYAr0aJc8M/"),
        ("r31....", "wonderland", ".4B0Iv6Xv8GqswiFrwdyz."),
        (
            "12345678",
            "a longer password of more than sixteen letters",
            "TqGBA311wCzm7yixDI/Uc1",
        ),
        ("zz", "1234567890123456", "j8xVGl3eIhQUebHJBopsQ1"),
        ("./ab", "12345678901234567", "nUTAfVkFC5ZD28fP5Rsw60"),
    ];

    #[test]
    fn broken_texts_are_refused() {
        for text in [
            "$apr1$",
            "$apr1$salt",
            "$apr1$$xxxxxxxxxxxxxxxxxxxxxx",
            "$apr1$saltsalts$xxxxxxxxxxxxxxxxxxxxxx",
            "$apr1$salt$short",
            "$apr1$sa-t$xxxxxxxxxxxxxxxxxxxxxx",
        ] {
            assert_eq!(parts(text), None, "{text}");
        }
    }
}
