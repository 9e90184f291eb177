//! A cache key in the making: parts that cannot run into one another.

/// Collects the parts of a cache key, each framed by its length.
///
/// `("ab", "c")` and `("a", "bc")` are different keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyBuilder(Vec<u8>);

impl KeyBuilder {
    /// Adds one part. `name` says what it is, so that two filters never collide.
    pub fn part(&mut self, name: &'static str, value: &[u8]) {
        for bytes in [name.as_bytes(), value] {
            self.0
                .extend_from_slice(&(bytes.len() as u64).to_le_bytes());
            self.0.extend_from_slice(bytes);
        }
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_do_not_run_into_one_another() {
        let key = |parts: &[(&'static str, &str)]| {
            let mut key = KeyBuilder::default();
            for (name, value) in parts {
                key.part(name, value.as_bytes());
            }
            key
        };
        assert_ne!(key(&[("a", "bc")]), key(&[("ab", "c")]));
        assert_ne!(key(&[("a", "b"), ("c", "d")]), key(&[("a", "bcd")]));
        assert_eq!(key(&[("a", "b")]), key(&[("a", "b")]));
    }
}
