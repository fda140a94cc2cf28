//! What the parts cost, side by side with what they could be replaced by: `cargo bench -p pushline-benches`. Only ratios within one run mean
//! anything.
