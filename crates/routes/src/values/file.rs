//! Files whose existence decides about requests: a switch for maintenance.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use edgeway_core::{chain::CompileContext, zones::Zone};

/// Time between two looks at a file.
const INTERVAL: Duration = Duration::from_secs(1);

/// File that is looked at once a second, since a request must not wait for a disk.
#[derive(Debug)]
pub(super) struct WatchedFile {
    exists: AtomicBool,
}

impl Zone for WatchedFile {}

impl WatchedFile {
    /// Looks at the file now, and while the configuration serves.
    pub(super) fn watch(path: PathBuf, cx: &mut CompileContext<'_>) -> Arc<Self> {
        let name = format!("file {}", path.display());
        let file = cx.zones.get_or_create(&name, || Self {
            exists: AtomicBool::new(false),
        });
        file.set(is_file(&path));
        let watched = Arc::clone(&file);
        cx.work.add(name, move || {
            let (watched, path) = (Arc::clone(&watched), path.clone());
            async move {
                loop {
                    tokio::time::sleep(INTERVAL).await;
                    let path = path.clone();
                    let looked = tokio::task::spawn_blocking(move || is_file(&path)).await;
                    watched.set(looked.unwrap_or_default());
                }
            }
        });
        file
    }

    pub(super) fn exists(&self) -> bool {
        self.exists.load(Ordering::Relaxed)
    }

    fn set(&self, exists: bool) {
        self.exists.store(exists, Ordering::Relaxed);
    }
}

fn is_file(path: &Path) -> bool {
    path.metadata().is_ok()
}
