//! `doorbuster openapi`: the description of an API as `/openapi.json` has it, for generators of clients.

use anyhow::Context as _;
use clap::Args;

use super::Failure;
use crate::routes::{admin, api};

#[derive(Debug, Args)]
pub struct OpenapiArguments {
    /// The operators' API instead of the buyers'
    #[arg(long)]
    pub operators: bool,
}

pub fn run(arguments: &OpenapiArguments) -> Result<(), Failure> {
    let description = if arguments.operators { admin::api().1 } else { api().1 };
    let description = crate::openapi::complete(description);
    super::print(description.to_pretty_json().context("the description is not JSON")?);
    Ok(())
}
