//! Servers that pass requests on to the recording receiver. Each closes idle connections after [`KEEP_ALIVE_MILLIS`], and a connection after so many
//! requests; over HTTP/2 it takes five streams at once. So connections end all the time while messages are sent.

use std::process::Command;

use super::site::Site;

/// How long an idle connection is kept, in milliseconds.
pub(super) const KEEP_ALIVE_MILLIS: u64 = 300;

/// nginx. It reads its configuration again on SIGHUP: new worker processes take over, the old ones end their connections.
pub(super) fn nginx(site: &Site) -> Command {
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("    {kind}_temp_path {};\n", site.file(&format!("{kind}_temp"))))
        .concat();
    let protocol = if site.transport.is_http2() { " http2" } else { "" };
    let (listen, mut tls) = if site.transport.is_tls() {
        let (certificate, key) = (site.file("server.pem"), site.file("server.key"));
        (" ssl", format!("        ssl_certificate {certificate};\n        ssl_certificate_key {key};\n"))
    } else {
        ("", String::new())
    };
    if site.transport.wants_client_certificate() {
        tls += &format!("        ssl_client_certificate {};\n        ssl_verify_client on;\n", site.file("ca.pem"));
    }
    let configuration = format!(
        "daemon off;
worker_processes 2;
pid {pid};
error_log stderr notice;
{user}
events {{
    worker_connections 512;
}}
http {{
    access_log off;
{temporary}    keepalive_timeout {KEEP_ALIVE_MILLIS}ms;
    keepalive_requests 50;
    http2_max_concurrent_streams 5;
    underscores_in_headers on;
    upstream receiver {{
        server {receiver};
        keepalive 16;
    }}
    server {{
        listen 127.0.0.1:{port}{listen}{protocol};
{tls}        location / {{
            proxy_pass http://receiver;
            proxy_http_version 1.1;
            proxy_set_header Connection \"\";
            proxy_set_header X-Seen-Protocol $server_protocol;
            proxy_set_header X-Seen-Generation {generation};
        }}
    }}
}}
",
        pid = site.file("nginx.pid"),
        // Root's worker processes would be another user, who can't write into the folder.
        user = if rustix::process::geteuid().is_root() { "user root root;" } else { "" },
        receiver = site.receiver(),
        port = site.port,
        generation = site.generation,
    );
    let path = site.write("nginx.conf", &configuration);
    let mut command = Command::new("nginx");
    command.args(["-e", "stderr", "-p", &site.file(""), "-c", &path]);
    command
}

/// haproxy. Its master process starts a new worker on SIGUSR2, which takes the listening socket over from the old one.
pub(super) fn haproxy(site: &Site) -> Command {
    let alpn = site.transport.alpn().join(",");
    let mut bind = match (site.transport.is_tls(), site.transport.is_http2()) {
        (true, _) => format!(" ssl crt {} alpn {alpn}", site.file("server-with-key.pem")),
        (false, true) => " proto h2".into(),
        (false, false) => String::new(),
    };
    if site.transport.wants_client_certificate() {
        bind += &format!(" ca-file {} verify required", site.file("ca.pem"));
    }
    let configuration = format!(
        "global
    stats socket {socket} level admin expose-fd listeners
    hard-stop-after 30s
    tune.h2.max-concurrent-streams 5
defaults
    mode http
    timeout connect 5s
    timeout client 30s
    timeout server 30s
    timeout http-keep-alive {KEEP_ALIVE_MILLIS}ms
frontend webhooks
    bind 127.0.0.1:{port}{bind}
    http-request set-header X-Seen-Protocol %[req.ver]
    http-request set-header X-Seen-Generation {generation}
    default_backend receiver
backend receiver
    server receiver {receiver}
",
        socket = site.file("haproxy.sock"),
        port = site.port,
        generation = site.generation,
        receiver = site.receiver(),
    );
    let path = site.write("haproxy.cfg", &configuration);
    let mut command = Command::new("haproxy");
    command.args(["-W", "-f", &path, "-p", &site.file("haproxy.pid")]);
    command
}

/// nghttpx. It reads its configuration again on SIGHUP: a new worker process takes over, the old one ends its connections. It names the protocol of
/// a request in `Via`.
pub(super) fn nghttpx(site: &Site) -> Command {
    let (receiver, port) = (site.receiver(), site.port);
    let mut lines = vec![
        format!("frontend=127.0.0.1,{port}{}", if site.transport.is_tls() { "" } else { ";no-tls" }),
        format!("backend={},{}", receiver.ip(), receiver.port()),
        "workers=2".into(),
        format!("frontend-keep-alive-timeout={KEEP_ALIVE_MILLIS}ms"),
        "frontend-max-requests=50".into(),
        "frontend-http2-max-concurrent-streams=5".into(),
        format!("add-request-header=X-Seen-Generation: {}", site.generation),
        "accesslog-file=/dev/null".into(),
        "errorlog-file=/dev/stderr".into(),
        format!("pid-file={}", site.file("nghttpx.pid")),
    ];
    if site.transport.is_tls() {
        lines.push(format!("private-key-file={}", site.file("server.key")));
        lines.push(format!("certificate-file={}", site.file("server.pem")));
        lines.push(format!("npn-list={}", site.transport.alpn().join(",")));
    }
    if site.transport.wants_client_certificate() {
        lines.push("verify-client=yes".into());
        lines.push(format!("verify-client-cacert={}", site.file("ca.pem")));
    }
    let path = site.write("nghttpx.conf", &(lines.join("\n") + "\n"));
    let mut command = Command::new("nghttpx");
    command.arg(format!("--conf={path}"));
    command
}
