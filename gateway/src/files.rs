//! How many files and connections this process may have open. Most systems begin with few and allow many.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Below this the stores, the probes and a handful of buyers are all there is room for.
const ENOUGH: u64 = 512;
/// Listeners, both Redis with all their nodes, the provider, the mail server, webhooks, probes and operators.
const RESERVED: u64 = 64;

/// Raises what we may have to what we are allowed to have; says so when that is little.
pub fn raise_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(_, allowed)| {
        setrlimit(Resource::RLIMIT_NOFILE, allowed, allowed)?;
        Ok(allowed)
    });
    match raised {
        Ok(allowed) if allowed < ENOUGH => tracing::warn!(
            allowed,
            "this process may have only {allowed} files open, so that few buyers find a connection: raise the hard \
             limit (ulimit -Hn, LimitNOFILE=) to 65536"
        ),
        Ok(_) => {}
        Err(error) => tracing::warn!(%error, "the limit of open files stays as it is: {error}"),
    }
}

/// Connections of buyers that leave room for everything else, of at most `wanted`.
pub fn places(wanted: usize, pool: usize) -> usize {
    let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(now, _)| now);
    places_of(limit, wanted, pool)
}

fn places_of(limit: u64, wanted: usize, pool: usize) -> usize {
    let left = usize::try_from(limit.saturating_sub(RESERVED)).unwrap_or(usize::MAX).saturating_sub(pool);
    left.clamp(1, wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stores_and_operators_keep_their_places() {
        for (limit, places) in [(u64::MAX, 10_000), (1024, 944), (256, 176), (64, 1)] {
            assert_eq!(places_of(limit, 10_000, 16), places, "{limit}");
        }
    }
}
