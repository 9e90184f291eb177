//! The `apr1` hash of `htpasswd -m` and `openssl passwd -apr1`: a thousand rounds of MD5. Fast to
//! guess; kept so that users of an older gateway can still log in.

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
    let once = md5(&[password, salt, password].concat());
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
    let mut last = md5(&input);
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
        last = md5(&input);
    }
    text(&last)
}

/// Writes a digest in the hash's own order, six bits for each letter.
fn text(digest: &[u8; 16]) -> String {
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

/// MD5 (RFC 1321).
fn md5(message: &[u8]) -> [u8; 16] {
    const SHIFTS: [[u32; 4]; 4] = [
        [7, 12, 17, 22],
        [5, 9, 14, 20],
        [4, 11, 16, 23],
        [6, 10, 15, 21],
    ];
    let mut padded = message.to_vec();
    padded.push(0x80);
    padded.resize(padded.len().next_multiple_of(64), 0);
    if padded.len() - message.len() < 9 {
        padded.resize(padded.len() + 64, 0);
    }
    let length = padded.len();
    let bits = (message.len() as u64).wrapping_mul(8);
    padded[length - 8..].copy_from_slice(&bits.to_le_bytes());
    let mut state = [0x6745_2301_u32, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476];
    for block in padded.chunks_exact(64) {
        let mut words = [0_u32; 16];
        for (word, bytes) in words.iter_mut().zip(block.chunks_exact(4)) {
            *word = bytes
                .iter()
                .rev()
                .fold(0, |all, byte| (all << 8) | u32::from(*byte));
        }
        let [mut a, mut b, mut c, mut d] = state;
        for step in 0..64 {
            let (mixed, at) = match step / 16 {
                0 => ((b & c) | (!b & d), step),
                1 => ((d & b) | (!d & c), (5 * step + 1) % 16),
                2 => (b ^ c ^ d, (3 * step + 5) % 16),
                _ => (c ^ (b | !d), 7 * step % 16),
            };
            let sum = a
                .wrapping_add(mixed)
                .wrapping_add(sine(step))
                .wrapping_add(words[at]);
            let rotated = sum.rotate_left(SHIFTS[step / 16][step % 4]);
            (a, d, c, b) = (d, c, b, b.wrapping_add(rotated));
        }
        for (own, new) in state.iter_mut().zip([a, b, c, d]) {
            *own = own.wrapping_add(new);
        }
    }
    let mut digest = [0; 16];
    for (bytes, word) in digest.chunks_exact_mut(4).zip(state) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    digest
}

/// Returns the first 32 bits of the fraction of a step's sine.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "the value is between 0 and 2^32"
)]
fn sine(step: usize) -> u32 {
    (((step + 1) as f64).sin().abs() * 4_294_967_296.0) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn md5_is_that_of_the_rfc() {
        for (message, digest) in [
            ("", "d41d8cd98f00b204e9800998ecf8427e"),
            ("abc", "900150983cd24fb0d6963f7d28e17f72"),
            (
                "abcdefghijklmnopqrstuvwxyz",
                "c3fcd3d76192e4007dfb496cca67e13b",
            ),
            (
                "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789",
                "d174ab98d277d9f5a5611c2c9f419d9f",
            ),
            (
                "12345678901234567890123456789012345678901234567890123456789012345678901234567890",
                "57edf4a22be3c955ac49da2e2107b67a",
            ),
        ] {
            assert_eq!(hex::encode(md5(message.as_bytes())), digest, "{message}");
        }
    }

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
