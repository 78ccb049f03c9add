//! The def-use graph: what is alive, what comes first, renumbering after an edit, and a drawing.

use ir::def_use::{dead, def_use, dot, is_ordered, live, renumber};
use ir::sample::Sample;
use ir::*;

fn sample() -> Module {
    Sample::default().module().unwrap()
}

#[test]
fn every_value_is_a_node_and_every_use_an_edge() {
    let module = sample();
    let block = &module.graphs[0];
    let uses = def_use(block);
    assert_eq!(uses.node_count(), block.values.len());
    let values = |i: &Inst| i.args.iter().filter(|a| matches!(a, Arg::Value(_))).count();
    assert_eq!(uses.edge_count(), block.insts.iter().map(values).sum::<usize>());
    assert!(!petgraph::algo::is_cyclic_directed(&uses));
}

#[test]
fn what_the_result_does_not_need_is_dead_unless_it_writes_a_cache() {
    let mut module = sample();
    let block = &mut module.graphs[0];
    assert!(dead(block).is_empty());
    // Returning the input leaves the append and what it needs.
    block.result = ValueId(0);
    let names = |graph: &Graph| -> Vec<String> {
        let name = |i: usize| graph.value_name(graph.insts[i].result);
        live(graph).iter().enumerate().filter(|(_, l)| **l).map(|(i, _)| name(i)).collect()
    };
    assert_eq!(names(block), ["%h1", "%k", "%kr", "%v", "%c"]);
    assert_eq!(names(&module.graphs[1]), ["%x0", "%x1", "%x2"]);
}

#[test]
fn order_is_checked() {
    let mut module = sample();
    let block = &mut module.graphs[0];
    assert!(is_ordered(block));
    block.insts.swap(0, 1);
    assert!(!is_ordered(block));
}

#[test]
fn renumbering_repairs_an_edit() {
    let mut module = sample();
    let graph = &mut module.graphs[2];
    let ty = graph.values[0].ty.clone();
    let doubled = ValueId(graph.values.len() as u32);
    graph.values.push(Value { name: "twice".into(), ty });
    let x = Arg::Value(ValueId(0));
    graph.insts.insert(0, Inst { result: doubled, op: Op::Add, args: vec![x, x] });
    graph.insts[1].args[0] = doubled.into();
    assert!(verify(&module).is_err());
    renumber(&mut module.graphs[2]);
    verify(&module).unwrap();
    assert_eq!(parse(&module.to_string()).unwrap(), module);
    let names: Vec<&str> = module.graphs[2].values.iter().map(|v| v.name.as_str()).collect();
    assert_eq!(names, ["x", "twice", "h", "logits"]);
}

#[test]
fn the_drawing_names_operations_and_weights() {
    let text = dot(&sample());
    assert!(text.starts_with("digraph ingot {") && text.ends_with("}\n"));
    assert!(text.contains("label=\"%q = linear $wq\""), "{text}");
    assert!(text.contains("v0_0 -> v0_2;"), "{text}");
}
