//! nginx beside the gateway, as a counterpart.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    process::Stdio,
    time::Duration,
};

use tokio::{
    net::TcpStream,
    process::{Child, Command},
};

use super::{files::read_text, ports::free_port, wait::until};

/// Running nginx; ends with this value.
pub(crate) struct Nginx {
    pub(crate) address: SocketAddr,
    _child: Child,
}

impl Nginx {
    /// Starts nginx with files of its own in `home`. `http` returns the content of its `http`
    /// block, which listens on the given address.
    pub(crate) async fn start(home: &Path, http: impl FnOnce(SocketAddr) -> String) -> Self {
        let address: SocketAddr = (Ipv4Addr::LOCALHOST, free_port()).into();
        let at = home.display();
        let config = format!(
            "daemon off; master_process off; pid {at}/pid; error_log stderr;
events {{ worker_connections 1024; }}
http {{
  client_body_temp_path {at}/a; proxy_temp_path {at}/b; fastcgi_temp_path {at}/c;
  uwsgi_temp_path {at}/d; scgi_temp_path {at}/e;
{}
}}
",
            http(address)
        );
        let file = home.join("nginx.conf");
        fs::write(&file, config).expect("the folder takes files");
        let errors = fs::File::create(home.join("stderr")).expect("the folder takes files");
        let child = Command::new("/usr/sbin/nginx")
            .arg("-p")
            .arg(home)
            .arg("-c")
            .arg(&file)
            .stdin(Stdio::null())
            .stderr(errors)
            .kill_on_drop(true)
            .spawn()
            .expect("`make setup-tests` installs nginx");
        let ready = until(Duration::from_secs(20), &mut async || {
            TcpStream::connect(address).await.ok()
        })
        .await;
        let errors = read_text(home.join("stderr")).unwrap_or_default();
        assert!(ready.is_some(), "nginx does not start: {errors}");
        Self {
            address,
            _child: child,
        }
    }
}
