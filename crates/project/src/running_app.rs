//! An app that a project runs, and its WebSockets.

use std::path::PathBuf;

use edgeway_base::units::ByteSize;

use super::{Framework, Site};

/// An app that the project runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunningApp {
    pub name: String,
    pub framework: Framework,
    /// Ports of its instances; at least one, unless it is a `site`.
    pub ports: Vec<u16>,
    /// Place where the ports were found.
    pub source: String,
    /// Processes that share one port, if there are several.
    pub workers: u32,
    /// Folder with its package.json, relative to the project.
    pub folder: PathBuf,
    /// Folder of the app within its workspace, under which `standalone` of the build has it.
    pub nested: PathBuf,
    /// Folder of its build below its own, for a Next.js app.
    pub dist: PathBuf,
    /// True if that holds a build.
    pub has_build: bool,
    /// True if it will hold one: a script of the folder builds, and no container runs the app.
    pub can_build: bool,
    /// Largest body of a server action of a Next.js app, if its configuration says so.
    pub body_limit: Option<ByteSize>,
    /// True if its server speaks TLS.
    pub tls: bool,
    /// Files in place of a server.
    pub site: Option<Site>,
    pub websocket: Option<WebSocket>,
    /// Path of its health check.
    pub health: Option<String>,
}

/// WebSockets of an app.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebSocket {
    pub dependency: String,
    /// Path of the endpoint; `None` if it may be any.
    pub path: Option<&'static str>,
}

impl RunningApp {
    /// Makes the app a server, whatever its build is.
    pub fn set_server(&mut self) {
        if self.site.take().is_some() {
            self.ports = vec![self.framework.default_port()];
        }
    }

    /// Returns true for a Next.js app whose build has a server of its own.
    pub fn is_standalone(&self) -> bool {
        self.framework == (Framework::Next { standalone: true })
    }

    /// Returns the folder of that server, relative to the app's.
    pub fn standalone(&self) -> PathBuf {
        let place = self.dist.join("standalone").join(&self.nested);
        // Without a slash at the end where the app is not nested.
        place.components().collect()
    }
}

impl WebSocket {
    /// Returns true for Socket.IO, whose clients begin with several requests to one instance.
    pub fn is_socket_io(&self) -> bool {
        self.dependency.ends_with("socket.io")
    }
}
