//! Keeps web pages away from what the admin server changes and from payloads. The server has no users: every client that reaches its address may use it, and
//! a browser on the same machine reaches it for every page that it shows. Tools (curl, `pushline dead-letters`, Prometheus) pass.
//!
//! | rule | against |
//! |---|---|
//! | `Host` is an IP address, `localhost`, this machine's name, a name without a dot, or a name that no public DNS zone can hold | DNS rebinding: a page's own name that suddenly resolves to 127.0.0.1 |
//! | a change has no `Origin` but the server's own (RFC 6454), and no `Sec-Fetch-Site` but `same-origin` or `none` | a page that posts to http://127.0.0.1:9090 |
//!
//! A client that is refused for its `Host` can send the address instead: `curl -H 'Host: 127.0.0.1' …`.

use std::net::IpAddr;

use axum::{
    extract::Request,
    http::{HeaderMap, Method, StatusCode, header::HOST, header::ORIGIN, uri::Authority},
    middleware::Next,
    response::Response,
};

use super::response::text;

const SEC_FETCH_SITE: &str = "sec-fetch-site";

/// Top-level names that are reserved for local use (RFC 6761, RFC 6762, RFC 8375, ICANN's `internal`), and Kubernetes' own.
const LOCAL_ZONES: [&str; 6] = ["localhost", "local", "internal", "home.arpa", "svc", "cluster.local"];

/// Answers 403 to a web page's request.
pub(super) async fn refuse_web_pages(request: Request, next: Next) -> Response {
    let this_machine = rustix::system::uname();
    let this_machine = this_machine.nodename().to_string_lossy();
    match check(request.method(), request.headers(), &this_machine) {
        Ok(()) => next.run(request).await,
        Err(why) => text(StatusCode::FORBIDDEN, format!("{why}\n")),
    }
}

/// # Errors
/// Why the request is refused.
fn check(method: &Method, headers: &HeaderMap, this_machine: &str) -> Result<(), String> {
    // HTTP/1.0 has requests without it; a browser's have one.
    let host = headers.get(HOST).map(|host| host.to_str().unwrap_or("not ASCII"));
    if let Some(host) = host.filter(|host| !is_ours(host, this_machine)) {
        return Err(format!("Host {host:?} isn't a name of this server (DNS rebinding?); send its address: Host: 127.0.0.1"));
    }
    if method == Method::GET || method == Method::HEAD {
        return Ok(());
    }
    if let Some(site) = headers.get(SEC_FETCH_SITE).filter(|site| *site != "same-origin" && *site != "none") {
        return Err(format!("a web page of another site may not change anything here (Sec-Fetch-Site: {site:?})"));
    }
    let own = host.map(|host| format!("http://{host}"));
    match headers.get(ORIGIN) {
        Some(origin) if own.is_none_or(|own| *origin != *own) => {
            Err(format!("a web page of another origin may not change anything here (Origin: {origin:?})"))
        }
        _ => Ok(()),
    }
}

fn is_ours(host: &str, this_machine: &str) -> bool {
    let Ok(authority) = host.parse::<Authority>() else { return false };
    let name = authority.host().to_ascii_lowercase();
    let name = name.strip_suffix('.').unwrap_or(&name);
    let is_address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok();
    let is_local = LOCAL_ZONES.iter().any(|zone| name.strip_suffix(zone).is_some_and(|rest| rest.ends_with('.')));
    !name.is_empty() && (is_address || is_local || !name.contains('.') || name.eq_ignore_ascii_case(this_machine))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(method: &Method, headers: &[(&'static str, &'static str)]) -> bool {
        let headers: HeaderMap = headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        check(method, &headers, "Box-7.example.com").is_ok()
    }

    #[test]
    fn a_tool_passes_whatever_name_of_the_server_it_uses() {
        for host in [
            "127.0.0.1:9090",
            "[::1]:9090",
            "10.1.2.3",
            "localhost:9090",
            "LOCALHOST",
            "pushline-deliver:9090",
            "pushline.monitoring.svc",
            "pushline.monitoring.svc.cluster.local.:9090",
            "box-7.local",
            "box-7.example.com:9090",
        ] {
            assert!(checked(&Method::POST, &[("host", host)]) && checked(&Method::GET, &[("host", host)]), "{host}");
        }
        assert!(checked(&Method::POST, &[]), "HTTP/1.0");
    }

    #[test]
    fn a_page_whose_name_resolves_to_this_machine_neither_reads_nor_changes() {
        for host in ["evil.example:9090", "127.0.0.1.evil.example", "localhost.evil.example", "evil.localhos", "notlocal.xlocal.com", "@"] {
            assert!(!checked(&Method::GET, &[("host", host)]), "{host}");
            assert!(!checked(&Method::POST, &[("host", host)]), "{host}");
        }
        assert!(!checked(&Method::POST, &[("host", "evil.example:9090"), ("origin", "http://evil.example:9090")]));
    }

    #[test]
    fn a_page_of_another_origin_changes_nothing_and_one_of_the_servers_own_may() {
        let host = ("host", "127.0.0.1:9090");
        for header in [
            ("origin", "http://evil.example"),
            ("origin", "null"),
            ("origin", "http://127.0.0.1:8000"),
            ("origin", "https://127.0.0.1:9090"),
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-site", "same-site"),
        ] {
            assert!(!checked(&Method::POST, &[host, header]), "{header:?}");
            assert!(
                checked(&Method::GET, &[host, header]),
                "{header:?}: the browser gives the response to no page, or to the person who typed the address"
            );
        }
        assert!(checked(&Method::POST, &[host, ("origin", "http://127.0.0.1:9090"), ("sec-fetch-site", "same-origin")]));
    }
}
