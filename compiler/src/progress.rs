//! Progress of long work: on standard error, and only where a person looks at it.

use indicatif::{ProgressBar, ProgressStyle};

/// A bar over bytes; hidden unless standard error is a terminal.
pub fn bytes(what: &'static str, total: u64) -> ProgressBar {
    bar(what, total, "{msg} {bar:30} {bytes}/{total_bytes}")
}

/// A bar over steps; hidden unless standard error is a terminal.
pub fn steps(what: &'static str, total: u64) -> ProgressBar {
    bar(what, total, "{msg} {bar:30} {pos}/{len} {eta}")
}

fn bar(what: &'static str, total: u64, template: &str) -> ProgressBar {
    // indicatif draws nothing where standard error is not a terminal.
    let style = ProgressStyle::with_template(template).expect("the templates above are valid");
    ProgressBar::new(total).with_style(style).with_message(what)
}
