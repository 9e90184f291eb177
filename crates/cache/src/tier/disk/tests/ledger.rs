//! Tests of the ledger of purges and of the journal that holds it.

use super::{super::ledger::Pending, *};

#[test]
fn a_full_ledger_fits_into_the_journal() {
    let written = |number: u128| {
        Stamp::Written(WriteChange {
            place: number.to_be_bytes(),
            region: 0,
            url: None,
        })
    };
    let mut ledger = DiskLedger::new(1);
    ledger.purges.note_at(1 << 40, Stamp::Everywhere([1; 16]));
    let [digests, prefixes, writes] = Stamp::MAX;
    for number in 0..digests.0 {
        ledger.note(&Stamp::Everywhere((number as u128).to_be_bytes()));
    }
    for number in 0..writes.0 {
        ledger.note(&written(1 << 100 | number as u128));
    }
    for number in 0..prefixes.0 {
        let mut prefix = vec![b'x'; prefixes.1 / prefixes.0];
        prefix[..8].copy_from_slice(&number.to_be_bytes());
        ledger.note(&Stamp::Prefix(prefix.into()));
    }
    let records = ledger.records();
    assert_eq!(records.len(), 1 + digests.0 + writes.0 + prefixes.0);
    let temp = tempfile::tempdir().unwrap();
    Journal::create(&temp.path().join("journal"), open::JOURNAL, &records).unwrap();
    assert_eq!(
        DiskLedger::read(records.clone()).unwrap().records(),
        records
    );
}

/// Invariant: however many writes the journal has, none is lost with a restart, and they cost the
/// hosts of their region at most.
#[test]
fn a_restart_widens_writes_to_their_region_and_no_further() {
    let mut ledger = DiskLedger::new(1);
    let before = ledger.purges.position();
    let mut records = ledger.records();
    let [.., (most, _)] = Stamp::MAX;
    for number in 0..most + 5000 {
        for stamp in Stamp::for_target(&PurgeTarget::Written(format!("http://flooded/{number}"))) {
            ledger.note(&stamp);
        }
        if number % 5000 == 0
            && let Pending::Append(some) = ledger.take_pending()
        {
            records.extend(some);
        }
    }
    let Pending::Append(rest) = ledger.take_pending() else {
        panic!("they all fit");
    };
    records.extend(rest);
    let again = DiskLedger::read(DiskLedger::read(records.clone()).unwrap().records());
    for ledger in [ledger, DiskLedger::read(records).unwrap(), again.unwrap()] {
        let is_purged = |host: &str, path: &str| {
            let key = Key::new("http", host, path.as_bytes(), None, b"");
            ledger.purges.is_purged_since(before, &key, &[])
        };
        for number in [0, 1, most / 2, most + 4999] {
            assert!(is_purged("flooded", &format!("/{number}")), "{number}");
        }
        let others = (0..64).filter(|n| is_purged(&format!("host{n}"), "/0"));
        assert!(others.count() < 16);
    }
}

fn followed(number: u64) -> Record {
    Record::Followed(Position {
        id: Id(number, 0),
        drawn: number.to_string(),
    })
}

fn record() -> impl Strategy<Value = Record> {
    prop_oneof![
        (1_u64..99, any::<[u8; 16]>()).prop_map(|(at, digest)| Record::Digest(at, digest)),
        (1_u64..99, vec(any::<u8>(), 0..20)).prop_map(|(at, it)| Record::Prefix(at, it.into())),
        (1_u64..99).prop_map(Record::All),
        (1_u64..99, 0_u8..32, any::<[u8; 16]>())
            .prop_map(|(at, region, digest)| Record::Written(at, region, digest)),
        vec("[a-z]{1,8}", 1..4).prop_map(Record::Vary),
        (1_u64..99).prop_map(followed),
    ]
}

proptest! {
    /// Invariant: a journal that was truncated or changed anywhere counts as lost; it never has
    /// fewer purges than there were. Only an append that was never written can be zeros.
    #[test]
    fn a_journal_with_anything_wrong_is_lost(
        records in vec(record(), 1..12),
        truncated_len in 0_usize..2048,
        flip in 0_usize..2048,
        bit in 0_u32..8,
    ) {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("journal");
        let mut all = vec![Record::Begin { id: 7, position: 3, floor: 2 }];
        let mut journal = Journal::create(&path, 2048, &all).unwrap();
        for record in &records {
            match journal.append(std::slice::from_ref(record)) {
                Ok(()) => all.push(record.clone()),
                Err(AppendError::Full) => break,
                Err(AppendError::Io(error)) => panic!("{error}"),
            }
        }
        let Some((_, found)) = Journal::open(&path).unwrap() else {
            panic!("it is complete");
        };
        prop_assert_eq!(&found, &all);
        let bytes = std::fs::read(&path).unwrap();
        prop_assert!(journal::read(&bytes[..truncated_len]).is_none());
        let mut flipped = bytes.clone();
        flipped[flip] ^= 1 << bit;
        prop_assert!(journal::read(&flipped).is_none());
        // State after a power failure during an append that was not synced.
        let mut blank = bytes;
        blank[truncated_len..].fill(0);
        if let Some((found, _)) = journal::read(&blank) {
            prop_assert_eq!(&found[..], &all[..found.len()]);
        }
    }

    /// Invariant: a ledger survives being written and read.
    #[test]
    fn a_ledger_is_read_as_it_was(
        purges in vec((0_u8..5, 0_u8..6), 0..40),
        requested in vec((0_u64..50, 0_u8..6), 20),
    ) {
        let mut ledger = DiskLedger::new(1);
        for (kind, number) in purges {
            let target = match kind {
                0 => PurgeTarget::Url(format!("/{number}")),
                1 => PurgeTarget::Prefix(format!("/{number}")),
                2 => PurgeTarget::Tag(number.to_string()),
                3 => PurgeTarget::Written(format!("http://shop/{number}")),
                _ if number == 0 => PurgeTarget::All,
                _ => PurgeTarget::Url(format!("other/{number}")),
            };
            for stamp in Stamp::for_target(&target) {
                ledger.note(&stamp);
            }
        }
        ledger.follow(Position { id: Id(3, 1), drawn: "x".to_owned() });
        let again = DiskLedger::read(ledger.records()).unwrap();
        prop_assert_eq!(again.records(), ledger.records());
        for (position, number) in requested {
            let key = key(&format!("/{number}"));
            let tags = [number.to_string().into_boxed_str()];
            prop_assert_eq!(
                again.purges.is_purged_since(position, &key, &tags),
                ledger.purges.is_purged_since(position, &key, &tags)
            );
        }
    }
}
