//! Lua scripts, sent by their hash.

use redis::{Cmd, ToRedisArgs};

/// A Lua script and its SHA-1, by which Redis identifies it once it has run.
#[derive(Debug)]
pub struct Script {
    text: &'static str,
    hash: String,
}

impl Script {
    pub fn new(text: &'static str) -> Self {
        // Redis identifies scripts by SHA-1; no security depends on its strength.
        let digest = ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes());
        Self {
            text,
            hash: hex::encode(digest),
        }
    }

    pub(super) fn by_hash(&self, keys: &[&[u8]], args: &[impl ToRedisArgs]) -> Cmd {
        call("EVALSHA", &self.hash, keys, args)
    }

    /// Builds a call with the script's text; Redis stores the script from then on.
    pub(super) fn by_text(&self, keys: &[&[u8]], args: &[impl ToRedisArgs]) -> Cmd {
        call("EVAL", self.text, keys, args)
    }
}

fn call(command: &str, script: &str, keys: &[&[u8]], args: &[impl ToRedisArgs]) -> Cmd {
    let mut cmd = Cmd::with_capacity(3 + keys.len() + args.len(), 256);
    cmd.arg(command)
        .arg(script)
        .arg(keys.len())
        .arg(keys)
        .arg(args);
    cmd
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_is_called_by_the_hash_that_redis_gives_it() {
        let script = Script::new("return 1");
        let sent = script.by_hash(&[b"a", b"b"], &[1, 22]).get_packed_command();
        let sent = String::from_utf8(sent).unwrap();
        // As returned by `SCRIPT LOAD`.
        assert!(
            sent.contains("e0e1f9fabfc9d4800c877a703b823ac0578ff8db"),
            "{sent}"
        );
        assert!(
            sent.ends_with("$1\r\n2\r\n$1\r\na\r\n$1\r\nb\r\n$1\r\n1\r\n$2\r\n22\r\n"),
            "{sent}"
        );
    }
}
