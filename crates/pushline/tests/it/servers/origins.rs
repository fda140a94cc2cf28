//! Servers that answer themselves and record each request in a file. Most close idle connections after 300 ms.

use std::{fs, process::Command};

use super::{proxies::KEEP_ALIVE_MILLIS, site::Site};
use crate::packages;

/// Servers from PyPI, with the parser that uvicorn uses where it is installed.
const FROM_PYPI: [&str; 3] = ["uvicorn==0.54.0", "httptools==0.9.0", "hypercorn==0.18.0"];

/// The module of Apache that runs PHP, by Debian's name.
const PHP: &str = "/usr/lib/apache2/modules/libphp";

/// Go's net/http.
pub(super) fn go(site: &Site) -> Command {
    with_arguments(Command::new(packages::go_program("server.go", include_str!("origins/server.go"))), site)
}

/// Node's http, https or http2.
pub(super) fn node(site: &Site) -> Command {
    let mut command = Command::new("node");
    command.arg(site.write("server.js", include_str!("origins/server.js")));
    with_arguments(command, site)
}

/// Python's http.server, with connections that are kept.
pub(super) fn python(site: &Site) -> Command {
    http_server(site, "HTTP/1.1")
}

/// Python's http.server as it is by default: HTTP/1.0, a connection for each request.
pub(super) fn python_without_keep_alive(site: &Site) -> Command {
    http_server(site, "HTTP/1.0")
}

fn http_server(site: &Site, protocol: &str) -> Command {
    let mut command = Command::new("python3");
    command.arg(site.write("http_server.py", include_str!("origins/http_server.py")));
    command.args([&site.port.to_string(), &site.file(""), protocol, site.transport.arguments()[1]]);
    command
}

/// uvicorn, which speaks HTTP/1.1 alone.
pub(super) fn uvicorn(site: &Site) -> Command {
    let mut command = asgi(site, "uvicorn");
    command.args(["asgi:app", "--host", "127.0.0.1", "--port", &site.port.to_string(), "--timeout-keep-alive", "1", "--no-access-log"]);
    if site.transport.is_tls() {
        command.args(["--ssl-certfile", &site.file("server.pem"), "--ssl-keyfile", &site.file("server.key")]);
    }
    if site.transport.wants_client_certificate() {
        // Python's `ssl.CERT_REQUIRED`.
        command.args(["--ssl-ca-certs", &site.file("ca.pem"), "--ssl-cert-reqs", "2"]);
    }
    command
}

/// hypercorn. It may not end a connection of HTTP/2 after so many requests: it forgets the responses of the streams that it has processed by then, and
/// Pushline has to send their messages again.
pub(super) fn hypercorn(site: &Site) -> Command {
    let alpn = site.transport.alpn();
    // Not within the pauses between bursts, in which the other servers close connections. When its timer for an idle connection has fired, hypercorn 0.18
    // closes the connection though a request has come meanwhile: `_idle_timeout` in its asyncio/tcp_server.py shields the closing, so what cancels the timer
    // doesn't stop it. The application then takes a request that gets no response, and Pushline sends that message again under its id. It isn't ours: a
    // client of plain sockets that sent its second request within 12 ms of the timeout got no response to 74 of 708, and 35 of these were recorded.
    let mut configuration = format!(
        "bind = [\"127.0.0.1:{}\"]\nkeep_alive_timeout = 2\nkeep_alive_max_requests = 1000000\nh2_max_concurrent_streams = 5\nalpn_protocols = {alpn:?}\n",
        site.port
    );
    if site.transport.is_tls() {
        configuration += &format!("certfile = \"{}\"\nkeyfile = \"{}\"\n", site.file("server.pem"), site.file("server.key"));
    }
    if site.transport.wants_client_certificate() {
        // Python's `ssl.CERT_REQUIRED`.
        configuration += &format!("ca_certs = \"{}\"\nverify_mode = 2\n", site.file("ca.pem"));
    }
    let path = site.write("hypercorn.toml", &configuration);
    let mut command = asgi(site, "hypercorn");
    command.args(["--config", &path, "asgi:app"]);
    command
}

/// A server from PyPI with the application for it.
fn asgi(site: &Site, server: &str) -> Command {
    site.write("asgi.py", include_str!("origins/asgi.py"));
    let path = format!("{}:{}", packages::of_pypi(&FROM_PYPI).display(), site.file(""));
    let mut command = Command::new("python3");
    command.args(["-m", server]).env("PYTHONPATH", path).env("RECORD", site.file("record"));
    command
}

/// Apache with PHP as its module.
pub(super) fn apache(site: &Site) -> Command {
    let modules = fs::read_dir("/usr/lib/apache2/modules").expect("Apache is installed (Debian: apt-get install libapache2-mod-php)");
    let mut modules = modules.filter_map(|entry| Some(entry.ok()?.path().display().to_string()));
    let php = modules.find(|path| path.starts_with(PHP)).expect("Apache's PHP is installed (Debian: apt-get install libapache2-mod-php)");
    let tls = if site.transport.is_tls() {
        let (certificate, key) = (site.file("server.pem"), site.file("server.key"));
        let client = if site.transport.wants_client_certificate() {
            format!("SSLCACertificateFile {}\nSSLVerifyClient require\n", site.file("ca.pem"))
        } else {
            String::new()
        };
        format!(
            "LoadModule ssl_module /usr/lib/apache2/modules/mod_ssl.so\nSSLSessionCache none\nSSLEngine on\nSSLCertificateFile {certificate}\n\
             SSLCertificateKeyFile {key}\n{client}"
        )
    } else {
        String::new()
    };
    site.write("www/push.php", include_str!("origins/push.php"));
    let configuration = format!(
        "ServerRoot {folder}
ServerName localhost
DefaultRuntimeDir {folder}
PidFile apache.pid
ErrorLog /dev/stderr
Listen 127.0.0.1:{port}
LoadModule mpm_prefork_module /usr/lib/apache2/modules/mod_mpm_prefork.so
LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so
LoadModule env_module /usr/lib/apache2/modules/mod_env.so
LoadModule php_module {php}
{user}
KeepAliveTimeout {KEEP_ALIVE_MILLIS}ms
MaxKeepAliveRequests 50
MaxRequestWorkers 32
DocumentRoot {folder}/www
SetEnv RECORD {record}
<FilesMatch \"\\.php$\">
    SetHandler application/x-httpd-php
</FilesMatch>
{tls}",
        folder = site.file("").trim_end_matches('/'),
        port = site.port,
        record = site.file("record"),
        // Apache refuses to answer as root.
        user = if rustix::process::geteuid().is_root() { "User nobody\nGroup nogroup" } else { "" },
    );
    let path = site.write("apache.conf", &configuration);
    let mut command = Command::new("apache2");
    command.args(["-f", &path, "-D", "FOREGROUND"]);
    command
}

/// What the programs of `origins/` take.
fn with_arguments(mut command: Command, site: &Site) -> Command {
    command.args([&site.port.to_string(), &site.file("")]).args(site.transport.arguments());
    command
}
