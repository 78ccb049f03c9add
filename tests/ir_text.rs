//! Print, parse, print is the identity on the IR of every model at hand, before and after passes.

use ingot::frontend;
use ingot::model::prepare;
use ingot_tests::model::{SHIPPED, flags, shipped, smollm2};
use ingot_tests::shared;
use ir::Module;
use std::path::{Path, PathBuf};

fn check(what: &str, module: &Module) {
    let text = module.to_string();
    let parsed = ir::parse(&text).unwrap_or_else(|e| panic!("{what}: {e}\n{text}"));
    assert!(parsed == *module, "{what}: another module");
    assert_eq!(parsed.to_string(), text, "{what}");
}

#[test]
fn ir_of_models_is_what_its_text_says() {
    let shipped = SHIPPED.into_iter().map(shipped);
    let models: Vec<PathBuf> = shipped.chain(shared("data/stories260k")).chain(smollm2()).collect();
    for model in models {
        let name = model.display().to_string();
        check(&name, &frontend::open(&model).expect("a model that opens").module);
        for quant in ["f32", "f16", "bf16"] {
            for kv in ["f32", "f16"] {
                let line = format!("--quant {quant} --kv {kv}");
                let flags = flags(&model, Path::new("unused"), &line).model;
                check(&format!("{name} {line}"), &prepare(&flags).expect("it opens").module);
            }
        }
    }
}
