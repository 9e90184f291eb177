//! Huffman codes with the fewest bits for the symbols that occur.

/// Codes of symbols.
pub(super) struct Codes {
    /// Number of codes of each length, from 1 bit on.
    counts: [u8; 16],
    /// Symbols, those with the shortest codes first.
    symbols: Vec<u8>,
    pub(super) bits: [u32; 256],
    /// Bits of each code; 0 for a symbol that does not occur.
    pub(super) lengths: [u8; 256],
}

/// Longest code before codes are shortened to 16 bits.
const MAX_LENGTH: usize = 32;

impl Codes {
    /// Returns the codes for symbols that occur so many times (ITU-T T.81, K.2).
    pub(super) fn of(counts: &[u32; 256]) -> Self {
        let (mut numbers, before) = numbers_of_lengths(counts);
        for length in (17..=MAX_LENGTH).rev() {
            while numbers[length] > 0 {
                let mut shorter = length - 2;
                while numbers[shorter] == 0 {
                    shorter -= 1;
                }
                numbers[length] -= 2;
                numbers[length - 1] += 1;
                numbers[shorter + 1] += 2;
                numbers[shorter] -= 1;
            }
        }
        // The longest code is all ones, which is no code.
        if let Some(longest) = numbers.iter_mut().rev().find(|number| **number > 0) {
            *longest -= 1;
        }
        let mut symbols: Vec<u8> = (0..=255)
            .filter(|it| before[usize::from(*it)] > 0)
            .collect();
        symbols.sort_by_key(|symbol| before[usize::from(*symbol)]);
        let mut counts = [0; 16];
        counts.copy_from_slice(&numbers[1..17]);
        Self::new(counts, symbols)
    }

    /// Returns the codes of a table as it is in a file.
    pub(super) fn new(counts: [u8; 16], symbols: Vec<u8>) -> Self {
        let (mut bits, mut lengths) = ([0; 256], [0; 256]);
        let (mut next, mut rest) = (0, symbols.iter());
        for (length, count) in (1..).zip(counts) {
            for symbol in rest.by_ref().take(usize::from(count)) {
                bits[usize::from(*symbol)] = next;
                lengths[usize::from(*symbol)] = length;
                next += 1;
            }
            next <<= 1;
        }
        Self {
            counts,
            symbols,
            bits,
            lengths,
        }
    }

    /// Writes the segment of a table with this class and number.
    #[expect(clippy::cast_possible_truncation, reason = "at most 256 symbols")]
    pub(super) fn write(&self, id: u8, out: &mut Vec<u8>) {
        let length = (3 + 16 + self.symbols.len()) as u16;
        out.extend([0xff, 0xc4]);
        out.extend(length.to_be_bytes());
        out.push(id);
        out.extend(self.counts);
        out.extend(&self.symbols);
    }

    /// Returns the number of bytes of its segment.
    pub(super) fn size(&self) -> usize {
        2 + 3 + 16 + self.symbols.len()
    }
}

/// Returns the number of codes of each length, with one that is none, and the length of each
/// symbol's code.
fn numbers_of_lengths(counts: &[u32; 256]) -> ([u8; MAX_LENGTH + 1], [u8; 256]) {
    // Groups of symbols: their count, and where they are in a chain.
    let mut groups: Vec<(u32, Vec<u16>)> = (0..)
        .zip(counts)
        .filter(|(_, count)| **count > 0)
        .map(|(symbol, count)| (*count, vec![symbol]))
        .chain([(1, vec![256])])
        .collect();
    let mut lengths = [0u8; 257];
    while groups.len() > 1 {
        // Of equal counts the last symbol's group comes first.
        let first = least(&groups, usize::MAX);
        let second = least(&groups, first);
        let (count, members) = std::mem::take(&mut groups[second]);
        groups[first].0 += count;
        groups[first].1.extend(members);
        for member in &groups[first].1 {
            lengths[usize::from(*member)] += 1;
        }
        groups.remove(second);
    }
    let mut numbers = [0; MAX_LENGTH + 1];
    for length in lengths.iter().filter(|length| **length > 0) {
        numbers[usize::from(*length)] += 1;
    }
    let mut own = [0; 256];
    own.copy_from_slice(&lengths[..256]);
    (numbers, own)
}

/// Returns the group with the least count, and the last of those, that is not `but`.
fn least(groups: &[(u32, Vec<u16>)], but: usize) -> usize {
    let mut found = (u32::MAX, 0);
    for (at, (count, _)) in groups.iter().enumerate() {
        if *count <= found.0 && at != but {
            found = (*count, at);
        }
    }
    found.1
}
