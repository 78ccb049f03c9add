//! Dumps of the IR between passes: to standard error, or numbered into a folder.

use crate::Error;
use crate::options::DumpFlags;
use crate::output::say;
use ir::Module;

/// Names of passes that dumps may ask for.
pub(super) fn check_names(flags: &DumpFlags) -> Result<(), Error> {
    let known: Vec<&str> = ["import", "all", "changed"]
        .into_iter()
        .chain(passes::PASSES.iter().map(|p| p.name))
        .collect();
    for name in flags.dump_after.iter().chain(&flags.dump_before) {
        if !known.contains(&name.as_str()) {
            return Err(Error::new("IG0401", format!("no pass `{name}` to dump"))
                .help(format!("known: {}", known.join(", "))));
        }
    }
    Ok(())
}

/// Writes dumps.
pub(super) struct Dumps<'f> {
    flags: &'f DumpFlags,
    count: u32,
}

impl<'f> Dumps<'f> {
    pub(super) fn new(flags: &'f DumpFlags) -> Dumps<'f> {
        Dumps { flags, count: 0 }
    }

    pub(super) fn before(&mut self, pass: &str, module: &Module) -> Result<(), Error> {
        let wanted = self.flags.dump_before.iter().any(|n| n == pass || n == "all");
        if wanted { self.write(&format!("before-{pass}"), module) } else { Ok(()) }
    }

    pub(super) fn after(
        &mut self,
        pass: &str,
        module: &Module,
        changed: bool,
    ) -> Result<(), Error> {
        let asked = &self.flags.dump_after;
        let wanted = asked.iter().any(|n| n == pass || n == "all" || (n == "changed" && changed));
        if wanted { self.write(pass, module) } else { Ok(()) }
    }

    fn write(&mut self, name: &str, module: &Module) -> Result<(), Error> {
        let Some(dir) = &self.flags.dump_dir else {
            say(&format!("; {name}\n{module}"));
            return Ok(());
        };
        let path = dir.join(format!("{:02}-{name}.ingot", self.count));
        self.count += 1;
        std::fs::create_dir_all(dir)
            .and_then(|()| std::fs::write(&path, module.to_string()))
            .map_err(|e| Error::new("IG0601", "cannot write").file(&path).note(e.to_string()))
    }
}
