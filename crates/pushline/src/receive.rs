//! `pushline receive`: a sample webhook receiver that prints each push.

use std::{fmt::Write, io, net::SocketAddr, time::Duration};

use anyhow::Context;
use pushline_sample::{Behaviour, Push, Receiver};
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    Receive,
    stdout::{print, printer},
};

/// Listens until it is interrupted, or until its output's reader has gone.
pub(crate) async fn receive(options: &Receive) -> anyhow::Result<()> {
    let Receive { listen, status, delay, hang, every } = options;
    let behaviour = Behaviour { status: *status, delay: Duration::from_millis(*delay), hang: *hang, every: *every };
    let (printer, mut printer_error) = printer();
    let receive = move |push| printer.print(description(&push));
    let receiver = async { Receiver::start(first(listen.addresses().await?)?, behaviour, receive).await };
    let receiver = receiver.await.with_context(|| format!("can't listen on {listen} (--listen)"))?;
    // Before the line that tells a script to go on: the script may interrupt at once.
    let mut interrupted = signal(SignalKind::interrupt()).context("can't install a handler for Ctrl-C")?;
    print(format_args!("listening on http://{}\n", receiver.address()))?;
    tokio::select! {
        _ = interrupted.recv() => Ok(()),
        error = printer_error.next() => Err(error),
    }
}

/// The address that a name stands for first, as curl and browsers try it first.
fn first(addresses: Vec<SocketAddr>) -> io::Result<SocketAddr> {
    addresses.into_iter().next().ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the name has no address"))
}

fn description(push: &Push) -> String {
    let response = push.status.map_or("no response".to_owned(), |status| status.to_string());
    let mut text = format!("{} POST {} {} -> {response}\n", push.number, push.path, push.header("webhook-id"));
    for (name, value) in &push.headers {
        writeln!(text, "  {name}: {}", String::from_utf8_lossy(value.as_bytes())).expect("a String takes everything");
    }
    writeln!(text, "  {}", String::from_utf8_lossy(&push.body)).expect("a String takes everything");
    text
}
