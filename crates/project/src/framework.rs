//! Frameworks of apps, and what they do if nothing says otherwise.

use super::{App, Generator};

/// Ports that frameworks listen on if nothing says otherwise.
const PORT: u16 = 3000;
const VITE_PREVIEW_PORT: u16 = 4173;
const ASTRO_PORT: u16 = 4321;

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
    Nuxt,
    /// A site of Angular, rendered by a server of its own.
    Angular,
    /// A site of Astro with the adapter for Node.
    Astro,
    /// Files that a build has made.
    Static(Generator),
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
            Self::Nuxt => "Nuxt",
            Self::Angular => "Angular",
            Self::Astro => "Astro",
            Self::Static(Generator::Next) => "static files of Next.js",
            Self::Static(Generator::SvelteKit) => "static files of SvelteKit",
            Self::Static(Generator::Astro) => "static files of Astro",
            Self::Static(Generator::VitePress) => "static files of VitePress",
            Self::Static(Generator::Docusaurus) => "static files of Docusaurus",
            Self::Static(Generator::ReactScripts) => "static files of Create React App",
            Self::Static(Generator::Vite) => "static files of Vite",
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
            Self::VitePreview
            | Self::Static(Generator::Vite | Generator::SvelteKit | Generator::VitePress) => {
                VITE_PREVIEW_PORT
            }
            Self::Astro | Self::Static(Generator::Astro) => ASTRO_PORT,
            _ => PORT,
        }
    }

    pub fn app(self) -> App {
        match self {
            Self::Next { .. } | Self::Static(Generator::Next) => App::Nextjs,
            _ => App::Node,
        }
    }

    /// Returns the variables with which a server listens on this machine only, and learns host,
    /// scheme and client from the gateway.
    pub fn environment(self) -> Option<&'static str> {
        let svelte = "HOST=127.0.0.1 PROTOCOL_HEADER=x-forwarded-proto HOST_HEADER=x-forwarded-host ADDRESS_HEADER=x-real-ip";
        match self {
            Self::SvelteKit => Some(svelte),
            Self::Nuxt | Self::ReactRouter | Self::Remix => Some("HOST=127.0.0.1"),
            _ => None,
        }
    }

    /// Returns what the app's own configuration needs behind a gateway with a public name.
    pub fn origins(self) -> Option<&'static str> {
        match self {
            Self::Angular => Some(
                "`security: { allowedHosts: ['www.example.com'] }` in angular.json, and `trustProxyHeaders` \
                 for the engine in src/server.ts",
            ),
            Self::ReactRouter => {
                Some("`allowedActionOrigins: ['www.example.com']` in react-router.config")
            }
            Self::VitePreview => Some(
                "`preview: { allowedHosts: ['www.example.com'] }` in vite.config, or a server for production \
                 (adapter-node, Nitro)",
            ),
            Self::Astro => Some(
                "`security: { allowedDomains: [{ hostname: 'www.example.com' }] }` in astro.config",
            ),
            _ => None,
        }
    }
}
