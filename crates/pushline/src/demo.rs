//! `pushline demo`.
pub(crate) async fn demo() -> anyhow::Result<()> { Ok(()) }
