//! Which line of a template wrote something.
//!
//! A character of its own is written before each expression and behind each block, so that a rendered
//! text tells which of them came before each place. A block that writes it behind a block, and an
//! expression before an expression, leave white space control as it was.

use super::{Conversation, Template};

/// The first of the characters that stand for lines.
const FIRST: u32 = 0xf_0000;
/// Lines that can be told apart.
const LINES: usize = 0xfffd;

impl Template<'_> {
    /// The line that wrote byte `at` of a conversation; `None` if it cannot be found out.
    pub fn blame(&self, conversation: &Conversation, at: usize) -> Option<usize> {
        let marked = self.render_source(&marked(self.source)?, conversation, true).ok()?;
        let plain: String = marked.chars().filter(|c| line(*c).is_none()).collect();
        if plain != self.render(conversation, true).ok()? {
            return None;
        }
        let (mut passed, mut last) = (0, None);
        for c in marked.chars() {
            match line(c) {
                Some(line) => last = Some(line),
                None if passed >= at => break,
                None => passed += c.len_utf8(),
            }
        }
        last
    }
}

fn line(c: char) -> Option<usize> {
    let line = u32::from(c).checked_sub(FIRST)? as usize;
    (line < LINES).then_some(line)
}

/// The template with a mark for each expression and block.
fn marked(source: &str) -> Option<String> {
    let (mut out, mut rest, mut line) = (String::new(), source, 1);
    while let Some(start) = rest.find(['{']) {
        let tag = &rest[start..];
        let (end, block) = match tag.get(..2) {
            Some("{{") => (close(tag, "}}")?, false),
            Some("{%") => (close(tag, "%}")?, true),
            Some("{#") => (tag.find("#}")? + 2, false),
            _ => {
                let next = start + 1;
                line += rest[..next].matches('\n').count();
                out.push_str(&rest[..next]);
                rest = &rest[next..];
                continue;
            }
        };
        let (before, whole) = (&rest[..start], &tag[..end]);
        line += before.matches('\n').count();
        let mark = char::from_u32(FIRST + u32::try_from(line.min(LINES - 1)).ok()?)?;
        line += whole.matches('\n').count();
        rest = &rest[start + end..];
        out.push_str(before);
        match (block, whole.get(2..3)) {
            (false, Some("-")) if whole.starts_with("{{") => {
                out.push_str(&format!("{{{{- '{mark}' }}}}"))
            }
            (false, _) if whole.starts_with("{{") => out.push(mark),
            _ => {}
        }
        out.push_str(whole);
        match (block, whole[..whole.len() - 2].ends_with('-')) {
            (true, false) => out.push_str(&format!("{{% if true %}}{mark}{{% endif %}}")),
            (true, true) => out.push_str(&format!("{{% if true %}}{mark}{{% endif -%}}")),
            (false, _) => {}
        }
    }
    out.push_str(rest);
    (!source.contains("endraw")).then_some(out)
}

/// Where a tag ends that ends with `with`, which strings in it may hold too.
fn close(tag: &str, with: &str) -> Option<usize> {
    let (mut quote, mut escaped) = (None, false);
    for (at, c) in tag.char_indices().skip(2) {
        match quote {
            Some(_) if escaped => escaped = false,
            Some(_) if c == '\\' => escaped = true,
            Some(open) if c == open => quote = None,
            Some(_) => {}
            None if c == '"' || c == '\'' => quote = Some(c),
            None if tag[at..].starts_with(with) => return Some(at + 2),
            None => {}
        }
    }
    None
}
