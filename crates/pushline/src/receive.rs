//! `pushline receive`: a sample webhook receiver that prints what it gets.

use std::time::Duration;

use anyhow::Context;
use pushline_sample::{Behaviour, Push, Receiver};
use tokio::signal::unix::{SignalKind, signal};

use crate::Receive;

/// Listens until it is interrupted.
pub(crate) async fn receive(options: &Receive) -> anyhow::Result<()> {
    let Receive { listen, status, delay, hang, every } = *options;
    let behaviour = Behaviour { status, delay: Duration::from_millis(delay), hang, every };
    let receiver =
        Receiver::start(listen, behaviour, |push| print(&push)).await.with_context(|| format!("can't listen on {listen} (--listen)"))?;
    // Before it says so: whoever reads it may interrupt it at once.
    let mut interrupted = signal(SignalKind::interrupt()).context("can't listen for Ctrl-C")?;
    println!("listening on http://{}", receiver.address());
    interrupted.recv().await;
    Ok(())
}

fn print(push: &Push) {
    let answer = push.status.map_or("no answer".to_owned(), |status| status.to_string());
    println!("{} POST {} {} -> {answer}", push.number, push.path, push.header("webhook-id"));
    for (name, value) in &push.headers {
        println!("  {name}: {}", String::from_utf8_lossy(value.as_bytes()));
    }
    println!("  {}", String::from_utf8_lossy(&push.body));
}
