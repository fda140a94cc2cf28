//! benches: starts small.
fn main() {}
