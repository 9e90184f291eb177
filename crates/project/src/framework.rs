//! Frameworks of apps, and what they do if nothing says otherwise.

use super::App;

/// Ports that frameworks listen on if nothing says otherwise.
const PORT: u16 = 3000;
const VITE_PREVIEW_PORT: u16 = 4173;

/// Framework of an app.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framework {
    Next {
        standalone: bool,
    },
    Nest,
    Fastify,
    Hono,
    Express,
    Koa,
    /// A server-rendered site of React Router 7, by its own server.
    ReactRouter,
    Remix,
    /// A site of `SvelteKit` as a program for Node, which `vite build` has made.
    SvelteKit,
    /// A site that Vite has built, served by `vite preview`.
    VitePreview,
    /// Any other program.
    Node,
}

/// Packages of servers, and their frameworks.
pub(super) const SERVERS: [(&str, Framework); 5] = [
    ("@nestjs/core", Framework::Nest),
    ("fastify", Framework::Fastify),
    ("hono", Framework::Hono),
    ("express", Framework::Express),
    ("koa", Framework::Koa),
];

impl Framework {
    pub fn title(self) -> &'static str {
        match self {
            Self::Next { standalone: true } => "Next.js with `output: standalone`",
            Self::Next { standalone: false } => "Next.js",
            Self::Nest => "NestJS",
            Self::Fastify => "Fastify",
            Self::Hono => "Hono",
            Self::Express => "Express",
            Self::Koa => "Koa",
            Self::ReactRouter => "React Router",
            Self::Remix => "Remix",
            Self::SvelteKit => "SvelteKit",
            Self::VitePreview => "Vite (preview)",
            Self::Node => "Node",
        }
    }

    /// Returns the title without the way in which it is built.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Next { .. } => "Next.js",
            other => other.title(),
        }
    }

    pub(super) fn default_port(self) -> u16 {
        match self {
            Self::VitePreview => VITE_PREVIEW_PORT,
            _ => PORT,
        }
    }

    pub fn app(self) -> App {
        match self {
            Self::Next { .. } => App::Nextjs,
            _ => App::Node,
        }
    }
}
