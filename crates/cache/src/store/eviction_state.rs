//! State of a stored response for eviction, and its other forms: compressed, and as a file.

use std::{
    mem::size_of,
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU32, Ordering},
    },
};

use bytes::Bytes;
use parking_lot::RwLock;
use smart_default::SmartDefault;

use super::{
    body_file::BodyFile,
    memory::{MemoryCharge, MemoryLedger},
};
use crate::{allocation::allocated, base::encoding::Encoding};

/// State of an entry for eviction. It is part of its body, and so outlives a refresh.
#[derive(Debug, SmartDefault)]
pub(super) struct EvictionState {
    #[default(RwLock::new(None))]
    forms: RwLock<Option<Box<Forms>>>,
    hits: AtomicU32,
    /// Position in the eviction queues; guarded by their lock.
    #[default(AtomicU32::new(Self::NOWHERE))]
    pub(super) node: AtomicU32,
    /// Counted bytes of headers, body and forms: a [`PackedSize`].
    size: AtomicU32,
    /// Hits since eviction last looked at the entry, at most [`EvictionState::MAX_FREQUENCY`].
    pub(super) frequency: AtomicU8,
    /// Popularity of the response that this one replaced, as a power of two.
    before: AtomicU8,
    /// Nonzero if a form was used since eviction last looked at the entry.
    form_used: AtomicU8,
}

/// A sum of allocations of up to 64 GiB in 32 bits: the allocator rounds each up to a multiple of
/// 16 bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct PackedSize(u32);

impl PackedSize {
    const UNIT: u64 = 16;

    fn new(bytes: u64) -> Self {
        debug_assert!(
            bytes.is_multiple_of(Self::UNIT),
            "{bytes} is no sum of allocations"
        );
        Self(u32::try_from(bytes.div_ceil(Self::UNIT)).unwrap_or(u32::MAX))
    }

    pub(super) fn bytes(self) -> u64 {
        u64::from(self.0) * Self::UNIT
    }
}

#[derive(Debug, Default)]
struct Forms {
    encoded: [Option<EncodedForm>; Encoding::ALL.len()],
    file: Option<FileForm>,
}

#[derive(Debug)]
struct EncodedForm {
    bytes: Bytes,
    charge: MemoryCharge,
}

#[derive(Debug)]
struct FileForm {
    body: BodyFile,
    charge: MemoryCharge,
}

impl Forms {
    /// Returns the bytes of the forms, without this list of them.
    fn bytes(&self) -> u64 {
        let encoded = self.encoded.iter().flatten().map(|form| &form.charge);
        let charges = encoded.chain(self.file.iter().map(|form| &form.charge));
        charges.map(MemoryCharge::bytes).sum()
    }
}

impl EvictionState {
    pub(super) const MAX_FREQUENCY: u8 = 3;

    /// Value of `node` for an entry that is in no queue.
    pub(super) const NOWHERE: u32 = u32::MAX;

    /// Counts a hit. Mostly this writes no more than one counter of the entry.
    pub(super) fn touch(&self) {
        self.hits.fetch_add(1, Ordering::Relaxed);
        let frequency = self.frequency.load(Ordering::Relaxed);
        if frequency < Self::MAX_FREQUENCY {
            self.frequency.store(frequency + 1, Ordering::Relaxed);
        }
    }

    pub(super) fn hits(&self) -> u32 {
        self.hits.load(Ordering::Relaxed)
    }

    /// Returns the hits, plus half the hits of the response before, and so on.
    pub(super) fn popularity(&self) -> u32 {
        let before = self.before.load(Ordering::Relaxed).min(31);
        self.hits().saturating_add((1 << before) >> 1)
    }

    /// Sets the popularity of the response that this one replaces.
    pub(super) fn succeed(&self, before: u32) {
        let before = before.checked_ilog2().unwrap_or(0);
        let before = u8::try_from(before).unwrap_or(u8::MAX);
        self.before.store(before, Ordering::Relaxed);
    }

    /// Returns the size that was last counted.
    pub(super) fn size(&self) -> PackedSize {
        PackedSize(self.size.load(Ordering::Relaxed))
    }

    /// Sets the counted bytes. Returns the change, wrapping, and so negative ones as complements.
    pub(super) fn count(&self, bytes: u64) -> u64 {
        let size = PackedSize::new(bytes);
        let before = PackedSize(self.size.swap(size.0, Ordering::Relaxed));
        size.bytes().wrapping_sub(before.bytes())
    }

    pub(super) fn form(&self, encoding: Encoding) -> Option<Bytes> {
        let forms = self.forms.read();
        let form = forms.as_ref()?.encoded[encoding as usize].as_ref()?;
        self.use_form();
        Some(form.bytes.clone())
    }

    pub(super) fn file(&self) -> Option<Arc<OwnedFd>> {
        let forms = self.forms.read();
        let form = forms.as_ref()?.file.as_ref()?;
        self.use_form();
        Some(Arc::clone(&form.body.file))
    }

    fn use_form(&self) {
        if self.form_used.load(Ordering::Relaxed) == 0 {
            self.form_used.store(1, Ordering::Relaxed);
        }
    }

    /// Adds a compressed form. Returns `None` if the entry has it already, else true if it is the
    /// first form.
    pub(super) fn set_form(
        &self,
        ledger: &'static MemoryLedger,
        encoding: Encoding,
        bytes: &Bytes,
    ) -> Option<bool> {
        let mut forms = self.forms.write();
        let (forms, list) = begun(&mut forms);
        let slot = &mut forms.encoded[encoding as usize];
        if slot.is_some() {
            return None;
        }
        // A slice would keep the larger buffer that it is part of.
        let bytes = Bytes::copy_from_slice(bytes);
        let size = allocated(bytes.len()) + 32 + list;
        let charge = MemoryCharge::new(ledger, size as u64);
        *slot = Some(EncodedForm { bytes, charge });
        Some(list > 0)
    }

    /// Adds the body as a file. Returns as [`Self::set_form`] does.
    pub(super) fn set_file(&self, ledger: &'static MemoryLedger, body: BodyFile) -> Option<bool> {
        let mut forms = self.forms.write();
        let (forms, list) = begun(&mut forms);
        if forms.file.is_some() {
            return None;
        }
        let charge = MemoryCharge::new(ledger, body.size() + list as u64);
        forms.file = Some(FileForm { body, charge });
        Some(list > 0)
    }

    pub(super) fn drop_forms(&self) {
        let forms = self.forms.write().take();
        drop(forms);
    }

    /// Returns the bytes of all forms.
    pub(super) fn forms_size(&self) -> u64 {
        self.forms.read().as_ref().map_or(0, |forms| forms.bytes())
    }

    /// Returns true if a form was used since the last call.
    pub(super) fn take_form_used(&self) -> bool {
        self.form_used.swap(0, Ordering::Relaxed) != 0
    }
}

/// Returns the list of forms, and the bytes that it takes if it is new.
fn begun(forms: &mut Option<Box<Forms>>) -> (&mut Forms, usize) {
    let list = if forms.is_none() {
        allocated(size_of::<Forms>())
    } else {
        0
    };
    (forms.get_or_insert_default(), list)
}
