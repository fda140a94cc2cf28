//! xtask: starts small.
fn main() {}
