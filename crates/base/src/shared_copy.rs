//! Copies of short texts that are shared at once.

use bytes::Bytes;

/// Copies `bytes` into memory that clones and slices of the copy share.
///
/// [`Bytes::copy_from_slice`] allocates again when its copy is shared for the first time. Every
/// request has copies of this kind, so theirs have their count beside them from the start.
pub fn shared_copy(bytes: &[u8]) -> Bytes {
    match bytes.len() {
        0 => Bytes::new(),
        1..=64 => Bytes::from_owner(Short::<64>::new(bytes)),
        65..=512 => Bytes::from_owner(Short::<512>::new(bytes)),
        513..=2048 => Bytes::from_owner(Short::<2048>::new(bytes)),
        _ => Bytes::copy_from_slice(bytes),
    }
}

/// At most `N` bytes.
struct Short<const N: usize> {
    length: usize,
    bytes: [u8; N],
}

impl<const N: usize> Short<N> {
    fn new(text: &[u8]) -> Self {
        let mut bytes = [0; N];
        bytes[..text.len()].copy_from_slice(text);
        Self {
            length: text.len(),
            bytes,
        }
    }
}

impl<const N: usize> AsRef<[u8]> for Short<N> {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_has_the_same_bytes_at_every_length() {
        let text: Vec<u8> = (0..3000u32).map(|at| (at % 251) as u8).collect();
        for length in (0..3000)
            .step_by(7)
            .chain([63, 64, 65, 512, 513, 2048, 2049])
        {
            let copy = shared_copy(&text[..length]);
            assert_eq!(copy, text[..length]);
            let (clone, slice) = (copy.clone(), copy.slice(length / 2..));
            drop(copy);
            assert_eq!(clone, text[..length]);
            assert_eq!(slice, text[length / 2..length]);
        }
    }
}
