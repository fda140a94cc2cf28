//! Real servers: each gets every packet, none twice. What counts is what the server received, never what it answered.
//!
//! | what | where |
//! |---|---|
//! | the load, and what must hold of it | `load.rs` |
//! | servers that pass requests on to a recording receiver | `proxies.rs` |
//! | servers that answer themselves, and their programs | `origins.rs`, `origins/` |
//! | where a server runs, and what it has recorded | `site.rs` |
//! | protocols, TLS, client certificates | `transport.rs`, `certificates.rs` |

mod certificates;
mod load;
mod origins;
mod proxies;
mod site;
mod transport;

use load::{Program, cause_without_a_client_certificate, every_packet_comes_once, every_packet_comes_once_through_reloads};
use origins::{apache, go, hypercorn, node, python, python_without_keep_alive, uvicorn};
use proxies::{haproxy, nghttpx, nginx};
use rustix::process::Signal;
use transport::Transport::{Http1, Http1Certificate, Http1Tls, Http2, Http2Certificate, Http2Tls};

#[tokio::test]
async fn nginx_gets_every_packet_once() {
    every_packet_comes_once(nginx, &[Http1, Http1Tls, Http2, Http2Tls, Http2Certificate]).await;
}

#[tokio::test]
async fn haproxy_gets_every_packet_once() {
    every_packet_comes_once(haproxy, &[Http1, Http1Tls, Http2, Http2Tls, Http2Certificate]).await;
}

#[tokio::test]
async fn nghttpx_gets_every_packet_once() {
    every_packet_comes_once(nghttpx, &[Http1, Http1Tls, Http2, Http2Tls, Http2Certificate]).await;
}

#[tokio::test]
async fn apache_with_php_gets_every_packet_once() {
    every_packet_comes_once(apache, &[Http1, Http1Tls, Http1Certificate]).await;
}

#[tokio::test]
async fn go_gets_every_packet_once() {
    every_packet_comes_once(go, &[Http1, Http1Tls, Http2Tls, Http2Certificate]).await;
}

#[tokio::test]
async fn node_gets_every_packet_once() {
    every_packet_comes_once(node, &[Http1, Http1Tls, Http1Certificate, Http2, Http2Tls, Http2Certificate]).await;
}

#[tokio::test]
async fn uvicorn_gets_every_packet_once() {
    every_packet_comes_once(uvicorn, &[Http1, Http1Tls, Http1Certificate]).await;
}

#[tokio::test]
async fn hypercorn_gets_every_packet_once() {
    every_packet_comes_once(hypercorn, &[Http1, Http1Tls, Http2, Http2Tls, Http2Certificate]).await;
}

#[tokio::test]
async fn python_gets_every_packet_once() {
    every_packet_comes_once(python, &[Http1, Http1Tls, Http1Certificate]).await;
}

#[tokio::test]
async fn python_without_keep_alive_gets_every_packet_once() {
    every_packet_comes_once(python_without_keep_alive, &[Http1]).await;
}

#[tokio::test]
async fn nginx_gets_every_packet_once_through_reloads() {
    every_packet_comes_once_through_reloads(nginx, Signal::HUP, &[Http1, Http2, Http2Tls]).await;
}

#[tokio::test]
async fn haproxy_gets_every_packet_once_through_reloads() {
    every_packet_comes_once_through_reloads(haproxy, Signal::USR2, &[Http1, Http2, Http2Tls]).await;
}

#[tokio::test]
async fn nghttpx_gets_every_packet_once_through_reloads() {
    every_packet_comes_once_through_reloads(nghttpx, Signal::HUP, &[Http1, Http2, Http2Tls]).await;
}

#[tokio::test]
async fn servers_that_demand_a_client_certificate_get_nothing_from_a_webhook_without_one_and_the_dead_letter_says_why() {
    for (server, transport) in [(go as Program, Http2Certificate), (node, Http1Certificate), (python, Http1Certificate)] {
        let cause = cause_without_a_client_certificate(server, transport).await;
        assert!(cause.contains("client certificate"), "{cause}");
    }
}
