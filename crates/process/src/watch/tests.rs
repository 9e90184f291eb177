//! Tests with files that change under a configuration that no gateway serves.

use std::{
    fs,
    os::unix::fs::symlink,
    sync::atomic::{AtomicUsize, Ordering},
};

use tempfile::TempDir;
use tokio::task::JoinSet;

use super::*;

const SOON: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(50);

/// Reads the sources on request, as a reload does.
struct Reader {
    path: PathBuf,
    read: watch::Sender<Arc<Sources>>,
    times: AtomicUsize,
}

impl WatchSettings for Arc<Reader> {
    fn debounce(&self) -> Option<Duration> {
        Some(PAUSE)
    }

    fn changed(&self) -> Reaction<'_> {
        Box::pin(async {
            let (sources, ..) = source::load(&self.path);
            self.times.fetch_add(1, Ordering::SeqCst);
            self.read.send_replace(Arc::new(sources));
        })
    }
}

struct Setup {
    folder: TempDir,
    reader: Arc<Reader>,
    read: watch::Receiver<Arc<Sources>>,
    _task: JoinSet<()>,
}

impl Setup {
    /// Watches `edgeway.yaml` in a folder that `prepare` fills.
    fn new(prepare: impl FnOnce(&Path)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        prepare(folder.path());
        let path = folder.path().join("edgeway.yaml");
        let (sources, ..) = source::load(&path);
        let (sender, read) = watch::channel(Arc::new(sources));
        let reader = Arc::new(Reader {
            path: path.clone(),
            read: sender,
            times: AtomicUsize::new(0),
        });
        let mut task = JoinSet::new();
        task.spawn(run(path, read.clone(), Arc::clone(&reader)));
        Self {
            folder,
            reader,
            read,
            _task: task,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Waits until the sources read last contain `text`.
    async fn until(&mut self, text: &str) {
        let has_text =
            |read: &Arc<Sources>| read.files.iter().any(|(_, content)| content.contains(text));
        let seen = tokio::time::timeout(SOON, self.read.wait_for(has_text)).await;
        assert!(seen.is_ok(), "`{text}` was not seen");
    }

    fn times(&self) -> usize {
        self.reader.times.load(Ordering::SeqCst)
    }
}

#[tokio::test]
async fn what_is_written_renamed_or_linked_is_read() {
    let mut setup = Setup::new(|folder| fs::write(folder.join("edgeway.yaml"), "a: 0").unwrap());
    let main = setup.path("edgeway.yaml");
    fs::write(&main, "a: one").unwrap();
    setup.until("one").await;
    // As editors do it.
    fs::write(setup.path("edgeway.yaml.new"), "a: two").unwrap();
    fs::rename(setup.path("edgeway.yaml.new"), &main).unwrap();
    setup.until("two").await;
    fs::write(setup.path("other.yaml"), "a: three").unwrap();
    symlink("other.yaml", setup.path("link")).unwrap();
    fs::rename(setup.path("link"), &main).unwrap();
    setup.until("three").await;
    // Now the file that the link leads to.
    fs::write(setup.path("other.yaml"), "a: four").unwrap();
    setup.until("four").await;
    // The file is removed and created again.
    fs::remove_file(&main).unwrap();
    fs::write(&main, "a: five").unwrap();
    setup.until("five").await;
}

#[tokio::test]
async fn the_swap_of_a_mounted_folder_is_seen() {
    let mut setup = Setup::new(|folder| {
        for (name, text) in [("..1", "a: one"), ("..2", "a: two"), ("..3", "a: three")] {
            fs::create_dir(folder.join(name)).unwrap();
            fs::write(folder.join(name).join("edgeway.yaml"), text).unwrap();
        }
        symlink("..1", folder.join("..data")).unwrap();
        symlink("..data/edgeway.yaml", folder.join("edgeway.yaml")).unwrap();
    });
    for (folder, text) in [("..2", "two"), ("..3", "three")] {
        symlink(folder, setup.path("..data_tmp")).unwrap();
        fs::rename(setup.path("..data_tmp"), setup.path("..data")).unwrap();
        setup.until(text).await;
    }
}

#[tokio::test]
async fn files_that_a_pattern_finds_later_are_read_and_watched() {
    let mut setup = Setup::new(|folder| {
        fs::create_dir(folder.join("d")).unwrap();
        fs::write(folder.join("edgeway.yaml"), "include: 'd/*.yaml'").unwrap();
    });
    fs::write(setup.path("d/a.yaml"), "a: one").unwrap();
    setup.until("one").await;
    fs::write(setup.path("d/a.yaml"), "a: two").unwrap();
    setup.until("two").await;
    // Another file, and one written beside it, in a folder that was not watched before.
    fs::create_dir(setup.path("e")).unwrap();
    fs::write(setup.path("e/b.yaml"), "b: three").unwrap();
    fs::write(
        setup.path("edgeway.yaml"),
        "include: ['d/*.yaml', e/b.yaml]",
    )
    .unwrap();
    setup.until("three").await;
    fs::write(setup.path("e/b.yaml"), "b: four").unwrap();
    setup.until("four").await;
}

#[tokio::test]
async fn a_burst_is_one_reload_and_an_unchanged_file_is_none() {
    let mut setup = Setup::new(|folder| fs::write(folder.join("edgeway.yaml"), "a: 0").unwrap());
    let main = setup.path("edgeway.yaml");
    for count in 0..20 {
        fs::write(&main, format!("a: part{count}")).unwrap();
    }
    fs::write(&main, "a: last").unwrap();
    setup.until("last").await;
    let after_burst = setup.times();
    assert!(after_burst <= 2, "{after_burst}");
    // The same content, and unrelated files beside it: each triggers a check, none a reload.
    fs::write(&main, "a: last").unwrap();
    fs::write(setup.path("access.log"), "a line").unwrap();
    // Only the change after them is read.
    fs::write(setup.path("new"), "a: end").unwrap();
    fs::rename(setup.path("new"), &main).unwrap();
    setup.until("end").await;
    assert_eq!(setup.times(), after_burst + 1);
}

#[tokio::test]
async fn a_file_that_another_reload_has_read_is_not_read_again() {
    let mut setup = Setup::new(|folder| fs::write(folder.join("edgeway.yaml"), "a: 0").unwrap());
    let main = setup.path("edgeway.yaml");
    fs::write(&main, "a: one").unwrap();
    setup
        .reader
        .read
        .send_replace(Arc::new(source::load(&main).0));
    fs::write(setup.path("new"), "a: two").unwrap();
    fs::rename(setup.path("new"), &main).unwrap();
    setup.until("two").await;
    assert_eq!(setup.times(), 1);
}
