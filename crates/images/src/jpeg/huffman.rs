//! Bits of a scan, and the Huffman codes in them.

use super::Broken;

/// Bits of a code that one lookup finds.
const LOOKUP: u32 = 9;

/// Table of codes.
#[derive(Clone)]
pub(super) struct Table {
    /// Length and symbol of the code that begins with these bits; length 0 if it is longer.
    lookup: Box<[(u8, u8); 1 << LOOKUP]>,
    /// Smallest number, aligned to 16 bits, that is no code of this length.
    ends: [u32; 17],
    /// Distance from a code of this length to its symbol.
    offsets: [i32; 17],
    symbols: Box<[u8]>,
}

impl Table {
    /// Builds the table of `counts` codes of each length.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        reason = "codes have 16 bits, symbols are at most 256"
    )]
    pub(super) fn new(counts: &[u8; 16], symbols: &[u8]) -> Result<Self, Broken> {
        let mut table = Self {
            lookup: Box::new([(0, 0); 1 << LOOKUP]),
            ends: [0; 17],
            offsets: [0; 17],
            symbols: symbols.into(),
        };
        let mut code = 0u32;
        let mut next = 0usize;
        for (length, count) in (1u32..).zip(counts) {
            table.offsets[length as usize] = next as i32 - code as i32;
            for _ in 0..*count {
                if code >= 1 << length {
                    return Err(Broken);
                }
                let symbol = *symbols.get(next).ok_or(Broken)?;
                if length <= LOOKUP {
                    let first = (code << (LOOKUP - length)) as usize;
                    let last = first + (1 << (LOOKUP - length));
                    table.lookup[first..last].fill((length as u8, symbol));
                }
                code += 1;
                next += 1;
            }
            table.ends[length as usize] = code << (16 - length);
            code <<= 1;
        }
        Ok(table)
    }
}

/// Reader of a scan's bits. Behind the end it reads zeros, and remembers that it did.
pub(super) struct Bits<'b> {
    bytes: &'b [u8],
    at: usize,
    /// Next bits, from the highest.
    buffer: u64,
    count: u32,
    /// Bits in the buffer, at its end, that are not in the file.
    invented: u32,
}

impl<'b> Bits<'b> {
    pub(super) fn new(bytes: &'b [u8], at: usize) -> Self {
        Self {
            bytes,
            at,
            buffer: 0,
            count: 0,
            invented: 0,
        }
    }

    /// Fails if bits were read that are not in the file.
    pub(super) fn check(&self) -> Result<(), Broken> {
        if self.count < self.invented {
            return Err(Broken);
        }
        Ok(())
    }

    /// Ends a scan or a part of it. Returns the place of the marker that follows.
    pub(super) fn end(&self) -> Result<usize, Broken> {
        self.check()?;
        if self.count - self.invented >= 8 {
            // There is more than this decoder knows of.
            return Err(Broken);
        }
        Ok(self.at)
    }

    #[inline]
    fn fill(&mut self) {
        if let Some(eight) = self.bytes.get(self.at..).and_then(<[u8]>::first_chunk::<8>) {
            let next = u64::from_be_bytes(*eight);
            // No byte is 0xff: then none of them begins a marker.
            let inverse = !next;
            let has_marker =
                inverse.wrapping_sub(0x0101_0101_0101_0101) & !inverse & 0x8080_8080_8080_8080;
            if has_marker == 0 && self.invented == 0 {
                let room = (64 - self.count) / 8;
                if room > 0 {
                    let kept = next >> (64 - room * 8) << (64 - room * 8);
                    self.buffer |= kept >> self.count;
                    self.at += room as usize;
                    self.count += room * 8;
                }
                return;
            }
        }
        self.fill_slowly();
    }

    #[cold]
    fn fill_slowly(&mut self) {
        while self.count <= 56 {
            let byte = match (self.bytes.get(self.at), self.bytes.get(self.at + 1)) {
                (Some(0xff), Some(0)) => {
                    self.at += 2;
                    0xff
                }
                (Some(0xff) | None, _) => {
                    self.invented += 8;
                    0
                }
                (Some(byte), _) => {
                    self.at += 1;
                    *byte
                }
            };
            self.buffer |= u64::from(byte) << (56 - self.count);
            self.count += 8;
        }
    }

    #[inline]
    fn skip(&mut self, bits: u32) {
        self.buffer <<= bits;
        self.count -= bits;
    }

    /// Reads a symbol, and makes sure that 16 more bits are in the buffer.
    #[inline]
    pub(super) fn symbol(&mut self, table: &Table) -> Result<u8, Broken> {
        if self.count < 32 {
            self.fill();
        }
        let (length, symbol) = table.lookup[(self.buffer >> (64 - LOOKUP)) as usize];
        if length > 0 {
            self.skip(u32::from(length));
            return Ok(symbol);
        }
        self.long_symbol(table)
    }

    #[cold]
    fn long_symbol(&mut self, table: &Table) -> Result<u8, Broken> {
        let next = u32::try_from(self.buffer >> 48).unwrap_or_default();
        for length in LOOKUP + 1..=16 {
            if next < table.ends[length as usize] {
                let code = (next >> (16 - length)).cast_signed();
                let at = code + table.offsets[length as usize];
                self.skip(length);
                let symbol = usize::try_from(at)
                    .ok()
                    .and_then(|at| table.symbols.get(at));
                return symbol.copied().ok_or(Broken);
            }
        }
        Err(Broken)
    }

    /// Reads a number of `bits` bits, which are at most 16.
    #[inline]
    pub(super) fn number(&mut self, bits: u32) -> i32 {
        if bits == 0 {
            return 0;
        }
        if self.count < bits {
            self.fill();
        }
        let number = i32::try_from(self.buffer >> (64 - bits)).unwrap_or_default();
        self.skip(bits);
        number
    }

    /// Reads a value of `bits` bits: the lower half of the numbers stands for negative ones.
    #[inline]
    pub(super) fn value(&mut self, bits: u32) -> i32 {
        let number = self.number(bits);
        if bits > 0 && number < 1 << (bits - 1) {
            number - (1 << bits) + 1
        } else {
            number
        }
    }
}
