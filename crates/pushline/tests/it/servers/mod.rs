//! Real servers: each gets every packet, none twice. What counts is what the server received, never what it answered.
//!
//! | what | where |
//! |---|---|
//! | the load, and what must hold of it | `load.rs` |
//! | servers that pass requests on to a recording receiver | `proxies.rs` |
//! | servers that answer themselves, and their programs | `origins.rs`, `origins/` |
//! | where a server runs, and what it has recorded | `site.rs` |
//! | protocols, TLS, client certificates | `transport.rs`, `certificates.rs` |
//! | the processes of a server | `process.rs` |
//! | what is made once: packages of PyPI, the program of Go | `packages.rs` |

mod certificates;
mod load;
mod origins;
mod packages;
mod process;
mod proxies;
mod site;
mod transport;

use load::{every_packet_comes_once, every_packet_comes_once_through_reloads};
use origins::{apache, go, hypercorn, node, python, python_without_keep_alive, uvicorn};
use proxies::{haproxy, nghttpx, nginx};
use rustix::process::Signal;
use transport::Transport::{Http1, Http2};

#[tokio::test]
async fn nginx_gets_every_packet_once() {
    every_packet_comes_once(nginx, &[Http1, Http2]).await;
}

#[tokio::test]
async fn haproxy_gets_every_packet_once() {
    every_packet_comes_once(haproxy, &[Http1, Http2]).await;
}

#[tokio::test]
async fn nghttpx_gets_every_packet_once() {
    every_packet_comes_once(nghttpx, &[Http1, Http2]).await;
}

#[tokio::test]
async fn apache_with_php_gets_every_packet_once() {
    every_packet_comes_once(apache, &[Http1]).await;
}

#[tokio::test]
async fn go_gets_every_packet_once() {
    every_packet_comes_once(go, &[Http1]).await;
}

#[tokio::test]
async fn node_gets_every_packet_once() {
    every_packet_comes_once(node, &[Http1, Http2]).await;
}

#[tokio::test]
async fn uvicorn_gets_every_packet_once() {
    every_packet_comes_once(uvicorn, &[Http1]).await;
}

#[tokio::test]
async fn hypercorn_gets_every_packet_once() {
    every_packet_comes_once(hypercorn, &[Http1, Http2]).await;
}

#[tokio::test]
async fn python_gets_every_packet_once() {
    every_packet_comes_once(python, &[Http1]).await;
}

#[tokio::test]
async fn python_without_keep_alive_gets_every_packet_once() {
    every_packet_comes_once(python_without_keep_alive, &[Http1]).await;
}

#[tokio::test]
async fn nginx_gets_every_packet_once_through_reloads() {
    every_packet_comes_once_through_reloads(nginx, Signal::HUP, &[Http1, Http2]).await;
}

#[tokio::test]
async fn haproxy_gets_every_packet_once_through_reloads() {
    every_packet_comes_once_through_reloads(haproxy, Signal::USR2, &[Http1, Http2]).await;
}

#[tokio::test]
async fn nghttpx_gets_every_packet_once_through_reloads() {
    every_packet_comes_once_through_reloads(nghttpx, Signal::HUP, &[Http1, Http2]).await;
}
