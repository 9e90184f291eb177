//! Compares the store with a list that is searched from its beginning.

use futures_util::FutureExt;
use proptest::prelude::*;

use super::*;

const PATHS: u8 = 6;
const TAGS: [&str; 4] = ["a", "b", "ab", "product:1"];
const LANGS: [&str; 3] = ["", "de", "en"];

#[derive(Clone, Debug)]
enum Step {
    /// A fill of this many bytes, in pieces of that many; it may fail.
    Fill(Page, u32, u16, bool),
    Insert(Page, u32),
    Refresh(Page),
    Form(Page, u32),
    File(Page),
    Purge(u8, bool),
    Remove(u8),
    Budget(u32),
    Find(Page),
}

/// Path, language (a response without one does not vary) and tags of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Page {
    path: u8,
    lang: u8,
    tags: u8,
}

impl Page {
    fn key(self) -> Key {
        key(&format!("/{}?q={}", self.path / 2, self.path % 2))
    }

    fn tags(self) -> impl Iterator<Item = &'static str> {
        let has = move |(n, _): &(usize, &&str)| self.tags & (1 << n) != 0;
        TAGS.iter().enumerate().filter(has).map(|(_, tag)| *tag)
    }

    fn draft(self, bench: &Bench, number: usize) -> EntryDraft {
        let key = self.key();
        let mut draft = match self.lang {
            0 => bench.draft(&key),
            lang => bench.varied(&key, "accept-language", LANGS[usize::from(lang)]),
        };
        draft.about.tags = self.tags().map(Into::into).collect();
        draft.headers.insert(header::ETAG, number.into());
        draft
    }

    fn find(self, bench: &Bench) -> Option<Arc<Entry>> {
        let lang = LANGS[usize::from(self.lang)];
        let request = headers(&[("accept-language", lang)]);
        bench
            .store
            .find(&self.key(), SentHeaders::whole(&request))
            .entry
    }
}

/// An entry that should be stored.
#[derive(Debug)]
struct ModelEntry {
    page: Page,
    number: usize,
    is_stale: bool,
}

/// The last stored entry first.
#[derive(Debug, Default)]
struct Model(Vec<ModelEntry>);

impl Model {
    fn put(&mut self, page: Page, number: usize) {
        self.0.retain(|item| {
            let is_same = item.page.lang == page.lang || page.lang == 0;
            item.page.path != page.path || !is_same
        });
        let is_stale = false;
        self.0.insert(
            0,
            ModelEntry {
                page,
                number,
                is_stale,
            },
        );
    }

    fn purge(&mut self, effect: PurgeEffect, is_about: impl Fn(&Page) -> bool) -> u64 {
        let before = self.0.len();
        if effect == PurgeEffect::Hard {
            self.0.retain(|item| !is_about(&item.page));
            return (before - self.0.len()) as u64;
        }
        let mut count = 0;
        for item in self.0.iter_mut().filter(|item| is_about(&item.page)) {
            count += u64::from(!item.is_stale);
            item.is_stale = true;
        }
        count
    }
}

fn number_of(entry: &Entry) -> usize {
    entry.headers()[header::ETAG]
        .to_str()
        .unwrap()
        .parse()
        .unwrap()
}

fn page() -> impl Strategy<Value = Page> {
    (0..PATHS, 0..3u8, 0..16u8).prop_map(|(path, lang, tags)| Page { path, lang, tags })
}

fn steps(most: u32) -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (page(), 0..most, 1..9000u16, any::<bool>()).prop_map(|(page, len, piece, dies)| Step::Fill(page, len, piece, dies)),
        3 => (page(), 0..most).prop_map(|(page, len)| Step::Insert(page, len)),
        1 => page().prop_map(Step::Refresh),
        1 => (page(), 0..most).prop_map(|(page, len)| Step::Form(page, len)),
        1 => page().prop_map(Step::File),
        2 => (0..11u8, any::<bool>()).prop_map(|(kind, soft)| Step::Purge(kind, soft)),
        1 => (0..PATHS).prop_map(Step::Remove),
        1 => (0..1_000_000u32).prop_map(Step::Budget),
        4 => page().prop_map(Step::Find),
    ];
    prop::collection::vec(step, 1..60)
}

/// Returns a body that is derived from the number.
fn body(number: usize, len: u32) -> Bytes {
    Bytes::from(vec![u8::try_from(number % 251).unwrap(); len as usize])
}

struct Run {
    bench: Bench,
    model: Model,
    /// True if nothing is evicted: every entry of the model is stored.
    is_exact: bool,
}

impl Run {
    fn step(&mut self, number: usize, step: &Step) {
        let Self {
            bench,
            model,
            is_exact,
        } = self;
        bench.clock.advance(Duration::from_millis(1));
        match step {
            Step::Fill(page, len, piece, dies) => self.fill(number, *page, *len, *piece, *dies),
            Step::Insert(page, len) => {
                let entry = bench.put(&page.draft(bench, number), &body(number, *len));
                assert!(entry.is_some() || !*is_exact);
                if entry.is_some() {
                    model.put(*page, number);
                }
            }
            Step::Refresh(page) => {
                let Some(old) = page.find(bench) else { return };
                let refresh = Refresh {
                    headers: old.headers(),
                    lifetime: old.lifetime(),
                    vary: old.vary().clone(),
                    variance: old.variance(),
                    mark: bench.store.mark(),
                    old: Arc::clone(&old),
                };
                assert!(bench.store.refresh(&refresh).is_some());
                let item = model
                    .0
                    .iter_mut()
                    .find(|item| item.number == number_of(&old));
                item.unwrap().is_stale = false;
            }
            Step::Form(page, len) => {
                if let Some(entry) = page.find(bench) {
                    bench
                        .store
                        .add_form(&entry, Encoding::Br, &body(number, *len));
                }
            }
            Step::File(page) => {
                if let Some(entry) = page.find(bench) {
                    bench.store.add_file(&entry).unwrap();
                }
            }
            Step::Purge(kind, soft) => self.purge(*kind, *soft),
            Step::Remove(path) => {
                let page = Page {
                    path: *path,
                    lang: 0,
                    tags: 0,
                };
                let removed = bench.store.remove(&page.key());
                let expected = model.purge(PurgeEffect::Hard, |it| it.path == *path);
                assert!(removed == expected || (!*is_exact && removed <= expected));
            }
            Step::Budget(budget) if !*is_exact => bench.store.set_budget(u64::from(*budget)),
            Step::Budget(_) => {}
            Step::Find(page) => {
                let entry = page.find(bench);
                let item = model.0.iter().filter(|item| item.page.path == page.path);
                let mut item = item.filter(|item| [0, page.lang].contains(&item.page.lang));
                let Some(entry) = entry else {
                    assert!(!*is_exact || item.next().is_none());
                    return;
                };
                let number = number_of(&entry);
                let item = if *is_exact {
                    item.next()
                } else {
                    item.find(|item| item.number == number)
                };
                let item = item.expect("what is found is known");
                assert_eq!(item.number, number);
                assert_eq!(entry.stale_since().is_some(), item.is_stale);
                let whole = entry.body.whole().unwrap();
                let fill = u8::try_from(number % 251).unwrap();
                assert!(whole.segments().flatten().all(|byte| *byte == fill));
                if let Some(file) = entry.file() {
                    assert_eq!(content(&file), whole.concat());
                }
            }
        }
    }

    fn fill(&mut self, number: usize, page: Page, len: u32, piece: u16, dies: bool) {
        let Self {
            bench,
            model,
            is_exact,
        } = self;

        let mut draft = page.draft(bench, number);
        if number.is_multiple_of(2) {
            draft.headers.insert(header::CONTENT_LENGTH, (len).into());
        }
        let mut fill = bench.store.begin(&draft);
        let reader = fill.own_reader();
        for chunk in body(number, len).chunks(usize::from(piece)) {
            let chunk = Bytes::copy_from_slice(chunk);
            fill.write(chunk).now_or_never().unwrap().unwrap();
        }
        if dies {
            drop(fill);
            let read = read_all(reader).now_or_never().unwrap();
            assert_eq!(read, Err(FillEnd::Writer));
            return;
        }
        let is_stored = fill.finish().unwrap().is_some();
        let read = read_all(reader).now_or_never().unwrap();
        assert_eq!(read.unwrap(), body(number, len));
        assert!(is_stored || !*is_exact);
        if is_stored {
            model.put(page, number);
        }
    }

    fn purge(&mut self, kind: u8, soft: bool) {
        let Self {
            bench,
            model,
            is_exact,
        } = self;

        let effect = if soft {
            PurgeEffect::Soft
        } else {
            PurgeEffect::Hard
        };
        let number = usize::from(kind);
        let (target, expected) = match kind {
            0..4 => {
                let tag = TAGS[number];
                let about = |page: &Page| page.tags().any(|it| it == tag);
                (PurgeTarget::Tag(tag.into()), model.purge(effect, about))
            }
            4..10 => {
                let path = kind - 4;
                let url = format!("/{}?q={}", path / 2, path % 2);
                let about = |page: &Page| page.path == path;
                (PurgeTarget::Url(url), model.purge(effect, about))
            }
            _ => {
                let about = |page: &Page| page.path / 2 == 1;
                (
                    PurgeTarget::Prefix("https://shop/1".into()),
                    model.purge(effect, about),
                )
            }
        };
        let purged = bench.purge(target, effect);
        assert!(purged == expected || (!*is_exact && purged <= expected));
    }

    fn check(&self) {
        let store = self.bench.store;
        let budget = store.budget();
        let is_within =
            store.bytes() <= budget || MemoryLedger::get(&store.ledger.stored) <= budget / 2;
        assert!(is_within, "{} of {budget}", store.bytes());
        let mut entries = Vec::new();
        store.for_each(|entry| entries.push(Arc::clone(entry)));
        assert_eq!(entries.len(), store.objects());
        if self.is_exact {
            assert_eq!(entries.len(), self.model.0.len());
        }
        let bytes = |entry: &Arc<Entry>| entry.body.eviction.size().bytes();
        let stored: u64 = entries.iter().map(bytes).sum();
        assert_eq!(stored, MemoryLedger::get(&store.ledger.stored));
        let queues = store.queues.lock();
        assert_eq!(stored, queues.0.bytes());
        assert_eq!(entries.len(), queues.0.len());
        drop(queues);
        let targets = TAGS.map(|tag| PurgeMatcher::new(&PurgeTarget::Tag(tag.into())));
        let urls = (0..PATHS).map(|path| PurgeTarget::Url(format!("/{}?q={}", path / 2, path % 2)));
        for target in targets
            .into_iter()
            .chain(urls.map(|url| PurgeMatcher::new(&url)))
        {
            let about = |entry: &&Arc<Entry>| target.is_about(entry.key(), entry.tags());
            let shards = store.shards.iter().map(|shard| {
                let part = shard.read();
                let found = part.shard.candidates(&store.hashes, &target).unwrap();
                let found = found.into_iter().map(|at| part.shard.at(at).unwrap());
                found.filter(about).count()
            });
            assert_eq!(shards.sum::<usize>(), entries.iter().filter(about).count());
        }
    }
}

fn run(budget: u64, is_exact: bool, steps: &[Step]) {
    let mut run = Run {
        bench: bench(budget),
        model: Model::default(),
        is_exact,
    };
    for (number, step) in steps.iter().enumerate() {
        run.step(number, step);
        run.check();
    }
    run.bench.purge(PurgeTarget::All, PurgeEffect::Hard);
    run.bench.expect_empty();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn with_room_for_all_it_is_the_list(steps in steps(20_000)) {
        run(100 * MIB, true, &steps);
    }

    #[test]
    fn without_room_the_store_never_has_more_than_the_list(steps in steps(200_000)) {
        run(400_000, false, &steps);
    }
}

/// Draws from 1,000 keys, two thirds of which fit; the n-th is requested 1/n as often as the first.
#[test]
fn popular_responses_stay() {
    let bench = bench(100 * MIB);
    let body = vec![1; 4000];
    for n in 0..1000 {
        bench
            .put(&bench.draft(&key(&format!("/{n}"))), &body)
            .unwrap();
    }
    let size = bench.store.bytes() / 1000;
    bench.purge(PurgeTarget::All, PurgeEffect::Hard);
    bench.store.set_budget(size * 671);
    let mut random = fastrand::Rng::with_seed(1);
    let weights: Vec<f64> = (1..=1000).map(|n| 1.0 / f64::from(n)).collect();
    let sum: f64 = weights.iter().sum();
    let mut hits = 0;
    for round in 0..30_000 {
        let mut at = random.f64() * sum;
        let page = weights.iter().position(|weight| {
            at -= weight;
            at < 0.0
        });
        let page = key(&format!("/{}", page.unwrap_or(999)));
        let is_hit = bench.get(&page).is_some();
        hits += i32::from(is_hit && round >= 10_000);
        if !is_hit {
            bench.put(&bench.draft(&page), &body).unwrap();
        }
        // A scan: URLs that are requested only once.
        if round % 10 == 0 {
            bench
                .put(&bench.draft(&key(&format!("/scan/{round}"))), &body)
                .unwrap();
        }
    }
    let ratio = f64::from(hits) / 20_000.0;
    assert!(ratio >= 0.8, "{ratio}");
}
