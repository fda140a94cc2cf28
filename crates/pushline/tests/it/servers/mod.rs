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

use origins::{apache, go, hypercorn, node, python, python_without_keep_alive, uvicorn};
use proxies::{haproxy, nghttpx, nginx};
use rustix::process::Signal;
use transport::Transport::Http1;

/// A test for each server and transport.
macro_rules! every_packet_comes_once {
    ($($test:ident: $server:ident, $transport:ident;)*) => {$(
        #[tokio::test]
        async fn $test() {
            load::every_packet_comes_once($server, $transport).await;
        }
    )*};
}

/// The same through reloads by a signal.
macro_rules! every_packet_comes_once_through_reloads {
    ($($test:ident: $server:ident, $signal:ident, $transport:ident;)*) => {$(
        #[tokio::test]
        async fn $test() {
            load::every_packet_comes_once_through_reloads($server, Signal::$signal, $transport).await;
        }
    )*};
}

every_packet_comes_once! {
    nginx_gets_every_packet_once_over_http_1: nginx, Http1;
    haproxy_gets_every_packet_once_over_http_1: haproxy, Http1;
    nghttpx_gets_every_packet_once_over_http_1: nghttpx, Http1;
    apache_with_php_gets_every_packet_once_over_http_1: apache, Http1;
    go_gets_every_packet_once_over_http_1: go, Http1;
    node_gets_every_packet_once_over_http_1: node, Http1;
    uvicorn_gets_every_packet_once_over_http_1: uvicorn, Http1;
    hypercorn_gets_every_packet_once_over_http_1: hypercorn, Http1;
    python_gets_every_packet_once_over_http_1: python, Http1;
    python_without_keep_alive_gets_every_packet_once: python_without_keep_alive, Http1;
}

every_packet_comes_once_through_reloads! {
    nginx_gets_every_packet_once_through_reloads_over_http_1: nginx, HUP, Http1;
    haproxy_gets_every_packet_once_through_reloads_over_http_1: haproxy, USR2, Http1;
    nghttpx_gets_every_packet_once_through_reloads_over_http_1: nghttpx, HUP, Http1;
}
