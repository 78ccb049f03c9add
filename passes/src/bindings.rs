//! What stands behind the parameters of graphs: every way a graph is reached from a root, and the
//! weights that way binds. Weights are shared between calls, so a pass that changes one asks here
//! for all the places that read it.

use ir::{Arg, Graph, GraphId, Inst, Module, Op, Param, ValueId, WeightId};

/// The weights bound to each graph's weight parameters, one row for each way it is reached.
#[derive(Clone, Debug)]
pub struct Bindings {
    rows: Vec<Vec<Vec<WeightId>>>,
}

/// A place that reads a weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Use {
    /// The graph.
    pub graph: GraphId,
    /// Index of the instruction.
    pub inst: usize,
    /// Number of the operand.
    pub operand: usize,
}

impl Bindings {
    /// The bindings of a verified module.
    pub fn new(module: &Module) -> Bindings {
        let mut rows: Vec<Vec<Vec<WeightId>>> = vec![vec![]; module.graphs.len()];
        for (i, graph) in module.graphs.iter().enumerate().rev() {
            if graph.is_root() {
                rows[i].push(vec![]);
            }
            let own = rows[i].clone();
            for inst in &graph.insts {
                let Op::Call(callee) = inst.op else { continue };
                let weights = |row: &Vec<WeightId>| {
                    inst.args.iter().filter_map(|&arg| resolve(row, arg)).collect()
                };
                rows[callee.0 as usize].extend(own.iter().map(weights));
            }
        }
        Bindings { rows }
    }

    /// The weight behind an operand, one for each way the graph is reached, in order.
    pub fn of(&self, graph: GraphId, arg: Arg) -> Vec<WeightId> {
        self.rows[graph.0 as usize].iter().filter_map(|row| resolve(row, arg)).collect()
    }

    /// Every place that reads a weight, calls not counted: what they bind is read in their graphs.
    pub fn uses(&self, module: &Module, weight: WeightId) -> Vec<Use> {
        let mut uses = vec![];
        for (graph, inst, at) in instructions(module) {
            if matches!(inst.op, Op::Call(_)) {
                continue;
            }
            for (operand, &arg) in inst.args.iter().enumerate() {
                if self.of(graph, arg).contains(&weight) {
                    uses.push(Use { graph, inst: at, operand });
                }
            }
        }
        uses
    }
}

fn resolve(row: &[WeightId], arg: Arg) -> Option<WeightId> {
    match arg {
        Arg::Weight(id) => Some(id),
        Arg::FormalWeight(i) => row.get(i as usize).copied(),
        Arg::Value(_) | Arg::Cache(_) | Arg::FormalCache(_) => None,
    }
}

/// Every instruction with its graph and index.
pub fn instructions(module: &Module) -> impl Iterator<Item = (GraphId, &Inst, usize)> {
    let graphs = module.graphs.iter().enumerate();
    graphs.flat_map(|(g, graph)| {
        graph.insts.iter().enumerate().map(move |(i, inst)| (GraphId(g as u32), inst, i))
    })
}

/// The instruction that defines a value; `None` for a parameter.
pub fn producer(graph: &Graph, value: ValueId) -> Option<usize> {
    graph.insts.iter().position(|inst| inst.result == value)
}

/// Instructions that read a value, each with the number of the operand.
pub fn readers(graph: &Graph, value: ValueId) -> Vec<(usize, usize)> {
    let insts = graph.insts.iter().enumerate();
    let reads = insts.flat_map(|(i, inst)| {
        let args = inst.args.iter().enumerate();
        args.filter(move |(_, arg)| **arg == Arg::Value(value)).map(move |(n, _)| (i, n))
    });
    reads.collect()
}

/// The value that an operand is.
pub fn value_of(inst: &Inst, operand: usize) -> Option<ValueId> {
    match inst.args.get(operand) {
        Some(Arg::Value(v)) => Some(*v),
        _ => None,
    }
}

/// The matrices of the `linear`s that read a value; `None` if something else reads it too.
pub fn matrices(graph: &Graph, value: ValueId) -> Option<Vec<Arg>> {
    let readers = readers(graph, value);
    if readers.is_empty() || graph.result == value {
        return None;
    }
    let matrix = |(i, n): (usize, usize)| {
        let inst = &graph.insts[i];
        (inst.op == Op::Linear && n == 0).then(|| inst.args[1])
    };
    readers.into_iter().map(matrix).collect()
}

/// The parameter of a graph that a value is.
pub fn value_params(graph: &Graph) -> impl Iterator<Item = ValueId> {
    graph.params.iter().filter_map(|p| match p {
        Param::Value(v) => Some(*v),
        _ => None,
    })
}
