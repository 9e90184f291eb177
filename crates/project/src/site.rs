//! Sites that are files alone, without a server of their own.

use std::path::Path;

use super::code;

/// Program whose build makes the files of a site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Generator {
    /// Next.js with `output: 'export'`.
    Next,
    /// The static adapter.
    SvelteKit,
    Astro,
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
    pub(super) fn site(self, project: &Path) -> Site {
        let (folder, immutable, fallback) = match self {
            Self::Next => ("out", "/_next/static/*", None),
            Self::SvelteKit => ("build", "/_app/immutable/*", code::svelte_fallback(project)),
            Self::Astro => ("dist", "/_astro/*", None),
            Self::Vite => ("dist", "/assets/*", Some("/index.html".to_owned())),
        };
        let (set, base) = code::output(project, self);
        Site {
            folder: set.unwrap_or_else(|| folder.to_owned()),
            base,
            fallback,
            has_html: matches!(self, Self::Next | Self::SvelteKit),
            immutable,
        }
    }
}
