//! The commands of the first hour: gateways that a developer starts without a file (`proxy`, `dev`,
//! `demo`), a first configuration, the local CA, plugins.

pub mod ca;
pub mod demo;
pub mod dev;
pub mod init;
pub mod plugin;
pub mod proxy;

use edgeway_base::out::{self, Failure};
use edgeway_cli::{check, foreground};
use edgeway_project as project;
