//! Sites that are files alone, without a server of their own.

use std::path::Path;

use super::{code, package::Package};

/// Program whose build makes the files of a site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Generator {
    /// Next.js with `output: 'export'`.
    Next,
    /// The static adapter.
    SvelteKit,
    Astro,
    VitePress,
    Docusaurus,
    /// Create React App: an app with a router of its own.
    ReactScripts,
    /// An app with a router of its own.
    Vite,
}

/// Files of a site, as its build makes them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// Their folder, below that of the project.
    pub folder: String,
    /// Path that the site is below, such as `/docs`.
    pub base: Option<String>,
    /// Page of every path without a file, for an app with a router of its own.
    pub fallback: Option<String>,
    /// True if `/about` is the file `about.html`.
    pub has_html: bool,
    /// Paths of files that never change.
    pub immutable: &'static str,
}

impl Generator {
    /// Returns the site of a project, as its configuration says.
    pub(super) fn site(self, project: &Path, package: Option<&Package>) -> Site {
        let (folder, immutable, fallback) = match self {
            Self::Next => ("out", "/_next/static/*", None),
            Self::SvelteKit => ("build", "/_app/immutable/*", code::svelte_fallback(project)),
            Self::Astro => ("dist", "/_astro/*", None),
            Self::VitePress => (".vitepress/dist", "/assets/*", None),
            Self::Docusaurus => ("build", "/assets/*", None),
            Self::ReactScripts => ("build", "/static/*", Some("/index.html".to_owned())),
            Self::Vite => ("dist", "/assets/*", Some("/index.html".to_owned())),
        };
        let root = match self {
            Self::VitePress => package.and_then(Package::vitepress_root),
            _ => None,
        };
        let root = root.unwrap_or_default();
        let (set, base) = code::output(&project.join(root), self, package);
        let folder = Path::new(root).join(set.as_deref().unwrap_or(folder));
        Site {
            folder: folder.display().to_string(),
            base,
            fallback,
            has_html: !matches!(self, Self::Astro | Self::ReactScripts | Self::Vite),
            immutable,
        }
    }
}
