//! A model cut into segments that run by themselves: one layer after the other, on rows in memory.
//!
//! A segment is a module like any other. What flows into it is a table that its `embed` reads, so
//! token `i` stands for row `i`. The first segment takes the model's own tokens; the last ends where
//! the matrix of `@head` begins.

use crate::stats::activations;
use ir::def_use::renumber;
use ir::{
    Arg, CacheId, DType, Graph, Inst, Meta, Module, Op, Param, Type, Value, ValueId, Weight,
    WeightId,
};
use std::collections::{HashMap, HashSet};

/// Name and blob of the table of rows that flow into a segment.
pub const ROWS: &str = "chain.rows";

/// Cuts a module of floats; tables have `rows` rows, conversations `context` tokens. Calls that
/// share weights are in one segment. A module that is no chain is an error that says why.
pub fn cut(float: &Module, rows: u64, context: u64) -> Result<Vec<Module>, String> {
    let chain = Chain::new(float)?;
    let mut segments = vec![];
    for (n, insts) in chain.pieces().into_iter().enumerate() {
        segments.push(chain.segment(n == 0, insts, rows, context)?);
    }
    Ok(segments)
}

/// `@model` and `@head` up to its matrix as one graph.
struct Chain<'m> {
    float: &'m Module,
    whole: Graph,
}

impl<'m> Chain<'m> {
    fn new(float: &'m Module) -> Result<Chain<'m>, String> {
        let root = |name: &str| float.graph_named(name).ok_or(format!("there is no @{name}"));
        let (model, head) = (float.graph(root("model")?), float.graph(root("head")?));
        let mut whole = model.clone();
        let linear = head.logits().ok_or("no linear makes the logits of @head")?;
        let Arg::Value(end) = head.insts[linear].args[0] else { unreachable!("verified: V3") };
        // The head's parameter is what the model returns.
        let mut moved: HashMap<ValueId, ValueId> = HashMap::new();
        for param in &head.params {
            match param {
                Param::Value(v) => moved.insert(*v, model.result),
                _ => return Err("@head has parameters that are no rows".into()),
            };
        }
        for inst in &head.insts[..linear] {
            let id = ValueId(whole.values.len() as u32);
            let value = head.value(inst.result);
            whole.values.push(Value { name: format!("head.{}", value.name), ty: value.ty.clone() });
            moved.insert(inst.result, id);
            let args = inst.args.iter().map(|arg| match arg {
                Arg::Value(v) => Arg::Value(moved[v]),
                other => *other,
            });
            whole.insts.push(Inst { result: id, op: inst.op.clone(), args: args.collect() });
        }
        whole.result = moved[&end];
        Ok(Chain { float, whole })
    }

    /// Instructions of each segment: those before the first call, then calls with what follows them.
    /// A call begins a segment unless weights of a call before it are bound again from it on.
    fn pieces(&self) -> Vec<&[Inst]> {
        let insts = &self.whole.insts;
        let calls: Vec<usize> =
            (0..insts.len()).filter(|&i| matches!(insts[i].op, Op::Call(_))).collect();
        let bound = |at: &usize| {
            insts[*at].args.iter().filter_map(|arg| match arg {
                Arg::Weight(id) => Some(*id),
                _ => None,
            })
        };
        let (mut pieces, mut start) = (vec![], 0);
        for (n, &at) in calls.iter().enumerate() {
            let before: HashSet<WeightId> = calls[..n].iter().flat_map(bound).collect();
            if calls[n..].iter().flat_map(bound).all(|id| !before.contains(&id)) {
                pieces.push(&insts[start..at]);
                start = at;
            }
        }
        pieces.push(&insts[start..]);
        pieces
    }

    fn segment(
        &self,
        first: bool,
        insts: &[Inst],
        rows: u64,
        context: u64,
    ) -> Result<Module, String> {
        let mut module = self.float.clone();
        let mut graph = Graph { insts: insts.to_vec(), ..self.whole.clone() };
        graph.result = insts.last().ok_or("a segment is empty")?.result;
        if !first {
            self.read_rows(&mut module, &mut graph, rows)?;
        }
        module.meta.context = context;
        own_caches(&mut module, &mut graph);
        renumber(&mut graph);
        let at = module.graph_named("model").expect("it was cut");
        module.graphs[at.0 as usize] = graph;
        Ok(module)
    }

    /// Puts an `embed` of the table in the place of the value that flows in.
    fn read_rows(&self, module: &mut Module, graph: &mut Graph, rows: u64) -> Result<(), String> {
        let own: HashSet<ValueId> = graph.insts.iter().map(|inst| inst.result).collect();
        let args = graph.insts.iter().flat_map(|inst| &inst.args);
        let outside: HashSet<ValueId> = args
            .filter_map(|arg| match arg {
                Arg::Value(v) if !own.contains(v) => Some(*v),
                _ => None,
            })
            .filter(|v| self.whole.value(*v).ty.row_width().is_some())
            .collect();
        let [flows_in] = outside.into_iter().collect::<Vec<_>>()[..] else {
            return Err("a layer reads the rows of more than the layer before it".into());
        };
        let width = self.whole.value(flows_in).ty.row_width().unwrap_or(0);
        if graph.value(graph.result).ty.row_width() != Some(width) {
            return Err(format!("a layer does not return rows of {width} as it takes them"));
        }
        let tokens = graph.params.iter().find_map(|param| match param {
            Param::Value(v) => Some(*v),
            _ => None,
        });
        let table = module.add_weight(Weight {
            name: ROWS.into(),
            dtype: DType::F32,
            dims: vec![rows, width],
            source: ROWS.into(),
            via: vec![],
        });
        let args = vec![tokens.ok_or("@model has no tokens")?.into(), table.into()];
        graph.insts.insert(0, Inst { result: flows_in, op: Op::Embed, args });
        module.meta = Meta { vocab: rows, bos: None, eos: vec![], ..module.meta.clone() };
        let at = module.graph_named("head").expect("it was cut");
        module.graphs[at.0 as usize] = head(table, width, rows);
        Ok(())
    }
}

/// A head that costs little: rows against the table they come from.
fn head(table: WeightId, width: u64, rows: u64) -> Graph {
    let x = Value { name: "x".into(), ty: Type::rows(width) };
    let logits = Value { name: "logits".into(), ty: Type::rows(rows) };
    let args = vec![ValueId(0).into(), table.into()];
    Graph {
        name: "head".into(),
        params: vec![Param::Value(ValueId(0))],
        weights: vec![],
        caches: vec![],
        values: vec![x, logits],
        insts: vec![Inst { result: ValueId(1), op: Op::Linear, args }],
        result: ValueId(1),
    }
}

/// Leaves the module the cache slots that the segment uses.
fn own_caches(module: &mut Module, graph: &mut Graph) {
    let mut used: Vec<CacheId> = vec![];
    for arg in graph.insts.iter_mut().flat_map(|inst| &mut inst.args) {
        if let Arg::Cache(id) = arg {
            used.push(*id);
            *id = CacheId(used.len() as u32 - 1);
        }
    }
    module.caches = used.iter().map(|id| module.cache(*id).clone()).collect();
}

/// Weights of a segment in the order they are used, those that meet the same rows together.
pub fn stages(segment: &Module) -> Vec<Vec<WeightId>> {
    let mut stages: Vec<(Vec<crate::stats::Site>, Vec<WeightId>)> = vec![];
    let head = segment.graph_named("head");
    for activation in activations(segment).iter().filter(|a| Some(a.id) != head) {
        for (_, weight) in activation.products() {
            if stages.iter().any(|(_, weights)| weights.contains(&weight)) {
                continue;
            }
            let sites = crate::stats::inputs_of(segment, weight);
            match stages.iter_mut().find(|(known, _)| *known == sites) {
                Some((_, weights)) => weights.push(weight),
                None => stages.push((sites, vec![weight])),
            }
        }
    }
    stages.into_iter().map(|(_, weights)| weights).collect()
}
