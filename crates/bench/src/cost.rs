//! Dollars of an hour of lab work.

/// Settings of `bench cost`.
#[derive(Debug, clap::Args)]
pub struct CostArgs {}
