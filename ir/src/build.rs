//! Building a graph: parameters, then one instruction after another, result types inferred.

use crate::infer::{Mismatch, infer};
use crate::module::{Arg, Formal, Graph, Inst, Module, Param, Value, ValueId};
use crate::op::Op;
use crate::types::{DType, Type};

/// A graph under construction.
pub struct GraphBuilder {
    graph: Graph,
}

impl GraphBuilder {
    /// An empty graph of that name.
    pub fn new(name: &str) -> GraphBuilder {
        GraphBuilder {
            graph: Graph {
                name: name.to_string(),
                params: vec![],
                weights: vec![],
                caches: vec![],
                values: vec![],
                insts: vec![],
                result: ValueId(0),
            },
        }
    }

    /// A value parameter.
    pub fn param(&mut self, name: &str, ty: Type) -> ValueId {
        let id = self.value(name, ty);
        self.graph.params.push(Param::Value(id));
        id
    }

    /// A weight parameter.
    pub fn weight_param(&mut self, name: &str, dtype: DType, dims: &[u64]) -> Arg {
        let index = self.graph.weights.len() as u32;
        self.graph.weights.push(Formal { name: name.into(), ty: Type::weight(dtype, dims) });
        self.graph.params.push(Param::Weight(index));
        Arg::FormalWeight(index)
    }

    /// A cache parameter.
    pub fn cache_param(&mut self, name: &str, ty: Type) -> Arg {
        let index = self.graph.caches.len() as u32;
        self.graph.caches.push(Formal { name: name.into(), ty });
        self.graph.params.push(Param::Cache(index));
        Arg::FormalCache(index)
    }

    /// An instruction; its type is inferred, or the reason why it has none is returned.
    pub fn inst(
        &mut self,
        module: &Module,
        name: &str,
        op: Op,
        args: &[Arg],
    ) -> Result<ValueId, Mismatch> {
        let ty = infer(module, &self.graph, &op, args)?;
        let result = self.value(name, ty);
        self.graph.insts.push(Inst { result, op, args: args.to_vec() });
        Ok(result)
    }

    /// The finished graph.
    pub fn finish(mut self, result: ValueId) -> Graph {
        self.graph.result = result;
        self.graph
    }

    fn value(&mut self, name: &str, ty: Type) -> ValueId {
        self.graph.values.push(Value { name: name.to_string(), ty });
        ValueId(self.graph.values.len() as u32 - 1)
    }
}
