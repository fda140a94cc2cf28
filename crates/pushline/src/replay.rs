//! `pushline dead-letters replay`: replays dead letters in a running process, through its admin server.

use anyhow::{Context, bail};
use axum::http::Method;
use clap::Args;
use serde::{Deserialize, Serialize};

use crate::{
    dead_letters::{LOGS, PageStart, Selection},
    stdout::{counted, print},
};

/// Which dead letters are replayed: selected ones, or all.
#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    selection: Selection,
    /// Replay all dead letters
    #[arg(long)]
    all: bool,
}

/// What became of the dead letters of a page, in messages but for `packets`. The body of the admin server's response, as JSON.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Replayed {
    /// Dead letters that are sent again.
    pub(crate) messages: usize,
    /// The packets in them.
    pub(crate) packets: usize,
    /// Dead letters that were replayed before.
    pub(crate) already: usize,
    /// Packets that still match no group.
    pub(crate) unrouted: usize,
}

/// Replays page by page, and prints the sum.
pub(crate) async fn run(options: &Options) -> anyhow::Result<()> {
    if options.selection.is_all() != options.all {
        bail!("select dead letters by --group, --cause, --since, --until or --message-id, or all of them by --all");
    }
    let mut sum = Replayed::default();
    for log in LOGS {
        let mut start = Some(PageStart::default());
        while let Some(from) = start {
            let (page, next) = options.selection.ask(Method::POST, &format!("{log}/replay"), from).await?;
            let page: Replayed = serde_json::from_str(&page).context("the admin server's response isn't a replay's")?;
            sum.messages += page.messages;
            sum.packets += page.packets;
            sum.already += page.already;
            sum.unrouted += page.unrouted;
            if next.is_some() {
                crate::log::print(&format!("replayed {} so far", counted(sum.messages, "message")));
            }
            start = next;
        }
    }
    let Replayed { messages, packets, already, unrouted } = sum;
    print(format_args!(
        "replayed {} with {}; skipped {already} that were replayed before and {unrouted} that match no group\n",
        counted(messages, "message"),
        counted(packets, "packet")
    ))
}
