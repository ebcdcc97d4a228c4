//! The figures by name: what is divided by what, and what is to be reached.

use anyhow::bail;
use doorbuster_benches::settlement::ratio;
use doorbuster_benches::{bare_decr, claim_bytes};

use super::CompareArguments;
use super::probe::{FEW, MANY, Probe};
use crate::checkout;
use crate::stage::{Fsync, Stage};
use crate::ways::Way;

pub(super) struct Definition {
    pub(super) name: &'static str,
    pub(super) measured: Measured,
    pub(super) goal: &'static str,
}

#[derive(Clone, Copy)]
pub(super) enum Measured {
    /// The one over the other, round by round.
    Over(Probe, Probe),
    /// The server's processor time for an answer of the one over that of the other, round by round.
    ServerTimeOver(Probe, Probe),
    /// By itself, when the rounds are over.
    Alone(Alone),
}

/// Measured with the code of the benches, or with the whole way from the click to CONFIRMED.
#[derive(Clone, Copy)]
pub(super) enum Alone {
    ScriptOverBareDecr,
    SettlementOverCopy,
    BytesPerClaim,
    Checkouts,
}

const CLAIMS: Probe = Probe::claims(Way::Tokens, MANY);
const CEILING: Probe = Probe::claims(Way::Ceiling, MANY);
/// A shop that has more than one gateway: their groups of joins wait for each other.
const GATEWAYS: usize = 4;

pub(super) const FIGURES: &[Definition] = &[
    over("claims_over_ceiling", CLAIMS, CEILING, "0.80 or more"),
    over("claims_over_single_evalsha", CLAIMS, Probe::claims(Way::SingleEvalsha, MANY), "1.5 or more"),
    alone("script_over_bare_decr", Alone::ScriptOverBareDecr, "0.65 or more"),
    over("durable_over_everysec", CLAIMS, Probe::claims_with(Fsync::EverySecond), "0.9 or more"),
    over("sold_out_over_ceiling", Probe::SoldOut, CEILING, "0.95 or more"),
    over("p99_over_ceiling_half_load", Probe::half_load(Way::Tokens), Probe::half_load(Way::Ceiling), "2 or less"),
    over("joins_over_claims", Probe::Joins { gateways: 1 }, CLAIMS, "0.7 or more"),
    over(
        "joins_over_claims_4_gateways",
        Probe::Joins { gateways: GATEWAYS },
        Probe::claims_through(GATEWAYS),
        "0.7 or more",
    ),
    Definition {
        name: "board_over_ceiling",
        measured: Measured::ServerTimeOver(Probe::Board, CEILING),
        goal: "0.9 or less",
    },
    alone("settlement_over_copy", Alone::SettlementOverCopy, "0.65 or more"),
    over("tokens_over_row_lock", Probe::Settled, Probe::claims(Way::RowLock, FEW), "15 or more"),
    over("tokens_over_ten_rows", Probe::Settled, Probe::claims(Way::TenRows, FEW), "5 or more"),
    alone("checkouts_per_s", Alone::Checkouts, "10,000 or more"),
    alone("redis_bytes_per_claim", Alone::BytesPerClaim, "120 or less"),
    over("generator_over_wrk", Probe::Generator, Probe::Wrk, "0.8 or more"),
];

/// In the order in which a round measures them. What is divided by each other is measured within seconds, since the machine's
/// neighbours are louder at one time than at another; what needs a rate that another one finds comes behind it.
const ORDER: [Probe; 16] = [
    Probe::claims(Way::SingleEvalsha, MANY),
    Probe::claims_with(Fsync::EverySecond),
    CLAIMS,
    Probe::Joins { gateways: 1 },
    CEILING,
    Probe::Board,
    Probe::SoldOut,
    Probe::claims_through(GATEWAYS),
    Probe::Joins { gateways: GATEWAYS },
    Probe::half_load(Way::Tokens),
    Probe::half_load(Way::Ceiling),
    Probe::Generator,
    Probe::Wrk,
    Probe::claims(Way::RowLock, FEW),
    Probe::Settled,
    Probe::claims(Way::TenRows, FEW),
];

const fn over(name: &'static str, over: Probe, under: Probe, goal: &'static str) -> Definition {
    Definition { name, measured: Measured::Over(over, under), goal }
}

const fn alone(name: &'static str, alone: Alone, goal: &'static str) -> Definition {
    Definition { name, measured: Measured::Alone(alone), goal }
}

/// Those of these names; all of them if none is named.
pub(super) fn wanted(names: &[String]) -> anyhow::Result<Vec<&'static Definition>> {
    if let Some(unknown) = names.iter().find(|name| FIGURES.iter().all(|figure| figure.name != **name)) {
        bail!("there is no figure {unknown:?}; --list names them");
    }
    let is_wanted = |figure: &&Definition| names.is_empty() || names.iter().any(|name| name == figure.name);
    Ok(FIGURES.iter().filter(is_wanted).collect())
}

/// What a round measures for these figures.
pub(super) fn probes_of(figures: &[&Definition]) -> Vec<Probe> {
    let wanted = figures.iter().flat_map(|figure| figure.probes()).collect::<Vec<_>>();
    ORDER.into_iter().filter(|probe| wanted.contains(probe)).collect()
}

impl Definition {
    fn probes(&self) -> Vec<Probe> {
        match self.measured {
            // Its rate is half of what was found with claims.
            Measured::Over(over @ Probe::HalfLoad { .. }, under) => vec![CLAIMS, over, under],
            Measured::Over(over, under) | Measured::ServerTimeOver(over, under) => vec![over, under],
            Measured::Alone(_) => Vec::new(),
        }
    }
}

impl Alone {
    pub(super) async fn run(self, arguments: &CompareArguments, stage: &Stage) -> anyhow::Result<Vec<f64>> {
        let rounds = arguments.rounds;
        Ok(match self {
            Self::ScriptOverBareDecr => {
                bare_decr::run(rounds, |_| ()).await.iter().map(bare_decr::Round::script_over_bare).collect()
            }
            Self::SettlementOverCopy => {
                let rounds = ratio::run(&stage.postgres, arguments.earlier_orders, rounds, |_| ()).await;
                rounds.iter().map(ratio::Round::settled_over_copied).collect()
            }
            // The same number each time: memory does not depend on who else has the processor.
            Self::BytesPerClaim => vec![claim_bytes::run(arguments.claims_in_memory, 64).await.per_claim],
            Self::Checkouts => {
                let options = checkout::Options::new(arguments.sustain.try_into()?);
                let sustained = checkout::find_and_sustain(stage, &options).await?;
                sustained.print();
                vec![sustained.confirmed_per_s]
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_do_not_exist_are_refused_and_all_are_wanted_if_none_is_named() {
        assert_eq!(wanted(&[]).unwrap().len(), FIGURES.len());
        let one = wanted(&["sold_out_over_ceiling".to_owned()]).unwrap();
        assert_eq!(one[0].probes(), [Probe::SoldOut, CEILING]);
        assert!(wanted(&["sold_out".to_owned()]).is_err());
    }

    #[test]
    fn what_a_figure_divides_is_measured_side_by_side_and_half_load_behind_the_rate_that_it_is_half_of() {
        for figure in FIGURES {
            assert_eq!(probes_of(&[figure]).len(), figure.probes().len(), "{}", figure.name);
            if let Measured::Over(over, under) | Measured::ServerTimeOver(over, under) = figure.measured {
                let place = |wanted| ORDER.iter().position(|probe| *probe == wanted).unwrap();
                assert!(place(over).abs_diff(place(under)) <= 2, "{}", figure.name);
            }
        }
        let half_load = &wanted(&["p99_over_ceiling_half_load".to_owned()]).unwrap();
        assert_eq!(probes_of(half_load)[0], CLAIMS);
    }
}
