//! Checks the `geo:` section and reads its files, which are kept as long as they are unchanged.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Weak},
    time::SystemTime,
};

use edgeway_base::geo::{Database, Geo};
use edgeway_core::zones::Zone;
use parking_lot::Mutex;

use super::compile::Compiler;

const ZONE: &str = "geo";

/// Files that some configuration uses. A reload reads only those that have changed.
#[derive(Default)]
struct Databases(Mutex<HashMap<PathBuf, (FileStamp, Weak<Database>)>>);

impl Zone for Databases {}

/// Properties of a file that reveal a change.
#[derive(Clone, Copy, PartialEq, Eq)]
struct FileStamp {
    changed: SystemTime,
    bytes: u64,
}

impl FileStamp {
    fn read(path: &Path) -> io::Result<Self> {
        let metadata = fs::metadata(path)?;
        Ok(Self {
            changed: metadata.modified()?,
            bytes: metadata.len(),
        })
    }
}

impl Databases {
    fn get(&self, path: PathBuf) -> Result<Arc<Database>, String> {
        // Taken before reading: a file that is written meanwhile is read again the next time.
        let stamp = FileStamp::read(&path).map_err(|error| error.to_string())?;
        let mut all = self.0.lock();
        all.retain(|_, (_, database)| database.strong_count() > 0);
        if let Some((known, database)) = all.get(&path)
            && *known == stamp
            && let Some(database) = database.upgrade()
        {
            return Ok(database);
        }
        let database = Database::read(&path).map_err(|error| error.to_string())?;
        let database = Arc::new(database);
        all.insert(path, (stamp, Arc::downgrade(&database)));
        Ok(database)
    }
}

impl Compiler<'_> {
    /// Provides the files as a [`Geo`] through [`edgeway_core::chain::Shared`].
    pub(super) fn geo(&mut self) {
        let Some(config) = &self.file.geo else {
            return;
        };
        let databases = self.world.zones.get_or_create(ZONE, Databases::default);
        let mut all = Vec::new();
        for file in &config.value.file.0 {
            let path = self.folder.join(&file.value);
            self.referenced.missed(path.clone());
            match databases.get(path) {
                Ok(database) => all.push(database),
                Err(why) => self.at(file.place, "edgeway::geo::file").error(
                    format!("cannot read `{}`: {why}", file.value),
                    "name a file in MaxMind's format, such as `GeoLite2-City.mmdb`, from the \
                     folder of this configuration",
                ),
            }
        }
        self.shared.insert(Arc::new(Geo::new(all)));
    }
}
