//! loadtest: starts small.
fn main() {}
