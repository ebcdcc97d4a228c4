//! `doorbuster token`: a test buyer's token. Real ones come from whoever knows the buyers.

use clap::Args;
use doorbuster_engine::domain::clock::Clock;
use doorbuster_engine::domain::ids::BuyerId;
use jiff::SignedDuration;

use super::{Failure, print};
use crate::auth;
use crate::config::TokenSecret;

#[derive(Debug, Args)]
pub struct TokenArguments {
    /// The buyer: 1 to 255 visible ASCII characters
    #[arg(long, value_name = "ID")]
    buyer: BuyerId,
    /// How long the token is good for
    #[arg(long, default_value = "1h", value_name = "DURATION")]
    expires_in: SignedDuration,
    #[command(flatten)]
    secret: TokenSecret,
}

pub fn run(arguments: &TokenArguments) -> Result<(), Failure> {
    let keys = arguments.secret.check()?;
    print(auth::mint_with(&keys[0], &arguments.buyer, Clock::System.now(), arguments.expires_in));
    Ok(())
}
