//! Fixed ranges of rows: the largest magnitude that calibration saw, as weights.

use crate::edit::{add_formal, make};
use crate::stats::{Site, activations};
use crate::{Context, PassError, factors};
use ir::{Arg, GraphId, Module, Source, ValueId};

/// The range of a place where nothing but zeros was seen.
const SMALLEST: f32 = 1e-6;

/// The operand that is the range of each value: a weight in a root, else a parameter that each call
/// binds to a weight of its own.
pub(crate) fn fixed(
    pass: &'static str,
    module: &mut Module,
    context: &Context<'_>,
    values: &[(GraphId, ValueId)],
) -> Result<Vec<Arg>, PassError> {
    let lab = factors::lab(pass, context.lab)?;
    let reached = activations(module);
    let of = |&(graph, value): &(GraphId, ValueId)| -> Vec<Site> {
        let calls = reached.iter().filter(|a| a.id == graph);
        calls.map(|a| Site { graph, value, call: a.call }).collect()
    };
    let all: Vec<Vec<Site>> = values.iter().map(of).collect();
    let stats = lab.observe(module, &all.concat(), false)?;
    let mut args = vec![];
    for (&(graph, value), sites) in values.iter().zip(&all) {
        let name = format!("{}.range", module.graph(graph).value(value).name);
        let mut bound = vec![];
        for site in sites {
            let moments = stats.sites.get(site);
            let most = moments.map_or(0.0, |m| m.absmax.iter().copied().fold(0.0, f32::max));
            let source = Source::Full(most.max(SMALLEST));
            bound.push(make(module, &format!("{name}.{}", site.call), &[1], source, vec![]));
        }
        args.push(match (module.graph(graph).is_root(), &bound[..]) {
            (true, [range]) => Arg::Weight(*range),
            _ => add_formal(pass, module, graph, &name, &[1], &bound)?,
        });
    }
    Ok(args)
}
