//! A chat template as pieces between texts.
//!
//! The Jinja template is rendered on conversations whose texts are marks; what stands between two
//! marks may depend on who speaks and who spoke before, and on nothing else. That it does not is
//! checked: on the other turns of those conversations, and by rendering conversations with ordinary
//! texts and comparing them with their pieces. A template that fails is refused, with the line that
//! wrote what is different.

mod blame;

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Error, ErrorKind, UndefinedBehavior, context};
use runtime::chat::Role;

/// What stands before the text of a turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Whose turn it was before.
    pub after: Role,
    /// Whose turn it is; nobody's where an answer is to come.
    pub role: Role,
    /// What the template writes.
    pub text: String,
    /// Whether white space around the turn's text is taken away.
    pub trim: bool,
}

impl Piece {
    fn is_of(&self, after: Role, role: Role) -> bool {
        (self.after, self.role) == (after, role)
    }
}

/// Why a template is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What stands against it.
    pub why: String,
    /// The line of the template, from 1, where it is known.
    pub line: Option<usize>,
}

/// A template with what it may ask for.
#[derive(Clone, Copy, Debug)]
pub struct Template<'t> {
    /// The Jinja source.
    pub source: &'t str,
    /// Name of the beginning-of-sequence token.
    pub bos: &'t str,
    /// Name of the end-of-sequence token.
    pub eos: &'t str,
}

/// Messages: who says what.
type Conversation = Vec<(Role, String)>;

/// Steps that a template may take; real ones take some thousand.
const FUEL: u64 = 1_000_000;

fn name(role: Role) -> &'static str {
    match role {
        Role::Start => "start",
        Role::System => "system",
        Role::User => "user",
        Role::Assistant => "assistant",
    }
}

impl Template<'_> {
    /// The pieces of a template.
    pub fn pieces(&self) -> Result<Vec<Piece>, Refusal> {
        use Role::{Assistant, System, User};
        let without = [User, Assistant, User, Assistant, User];
        let with = [&[System][..], &without].concat();
        let mut pieces = self.between(&without)?;
        // A template may have no word for the system.
        let system = self.between(&with);
        let system = system.into_iter().flatten();
        for piece in system.filter(|piece| piece.after == System || piece.role == System) {
            pieces.push(piece);
        }
        self.check(&pieces)?;
        Ok(pieces)
    }

    /// What the template writes; `open` asks for the start of the assistant's answer.
    fn render(&self, conversation: &Conversation, open: bool) -> Result<String, Refusal> {
        self.render_source(self.source, conversation, open).map_err(|e| Refusal {
            why: e.detail().map_or_else(|| e.kind().to_string(), str::to_string),
            line: e.line(),
        })
    }

    fn render_source(
        &self,
        source: &str,
        conversation: &Conversation,
        open: bool,
    ) -> Result<String, Error> {
        let mut environment = Environment::new();
        // As Hugging Face transformers sets it.
        let blocks = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?;
        environment.set_syntax(blocks);
        environment.set_undefined_behavior(UndefinedBehavior::Lenient);
        environment.set_fuel(Some(FUEL));
        let compatible = minijinja_contrib::pycompat::unknown_method_callback;
        environment.set_unknown_method_callback(compatible);
        environment.add_function("raise_exception", |why: String| -> Result<String, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, why))
        });
        let message =
            |(role, text): &(Role, String)| context! { role => name(*role), content => text };
        let messages: Vec<minijinja::Value> = conversation.iter().map(message).collect();
        let none = minijinja::Value::from(());
        environment.template_from_str(source)?.render(context! {
            messages, add_generation_prompt => open, bos_token => self.bos, eos_token => self.eos,
            tools => none.clone(), documents => none,
        })
    }

    /// The pieces of a conversation in which these roles speak, and then the assistant shall.
    fn between(&self, roles: &[Role]) -> Result<Vec<Piece>, Refusal> {
        // White space around the marks shows what is taken away.
        let mark = |i: usize| format!("\u{f8f0}{i}\u{f8f1}");
        let said = roles.iter().enumerate().map(|(i, &role)| (role, format!(" \n{}\n ", mark(i))));
        let said: Conversation = said.collect();
        let rendered = self.render(&said, true)?;
        let places: Vec<usize> = (0..).map_while(|i| rendered.find(&mark(i))).collect();
        let marks = rendered.matches('\u{f8f0}').count();
        if (places.len(), marks) != (roles.len(), roles.len()) || !places.is_sorted() {
            let why = "it does not write each message once, in their order".into();
            return Err(Refusal { why, line: None });
        }
        let (mut rest, mut after, mut pieces) = (rendered.as_str(), Role::Start, vec![]);
        let mut add = |piece: Piece, at: usize| {
            let known = pieces.iter().find(|p: &&Piece| p.is_of(piece.after, piece.role));
            match known {
                Some(known) if *known == piece => {}
                Some(known) => return Err(self.differs(known, &piece, &said, at)),
                None => pieces.push(piece),
            }
            Ok(())
        };
        for (i, &role) in roles.iter().enumerate() {
            let at = rendered.len() - rest.len();
            let (before, behind) = rest.split_once(&mark(i)).unwrap_or((rest, ""));
            let kept = before.strip_suffix(" \n").zip(behind.strip_prefix("\n "));
            let (text, behind) = kept.unwrap_or((before, behind));
            add(Piece { after, role, text: text.into(), trim: kept.is_none() }, at)?;
            (rest, after) = (behind, role);
        }
        let at = rendered.len() - rest.len();
        add(Piece { after, role: Role::Start, text: rest.into(), trim: false }, at)?;
        let answer = pieces.iter().find(|piece| piece.is_of(after, Role::Assistant));
        let opens = |answer: &Piece| answer.text.trim_end() == rest.trim_end();
        match answer.filter(|answer| !opens(answer)) {
            // White space in front of an answer is the model's to write.
            None => Ok(pieces),
            Some(answer) => {
                let open = Piece { text: rest.into(), ..answer.clone() };
                Err(self.differs(answer, &open, &said, at))
            }
        }
    }

    /// Two beginnings of turns of the same roles, the second one at a place of what is written.
    fn differs(&self, one: &Piece, two: &Piece, said: &Conversation, at: usize) -> Refusal {
        let why = format!(
            "after the {} the {} begins with {:?} here and {:?} there",
            name(one.after),
            name(one.role),
            one.text,
            two.text
        );
        Refusal { why, line: self.blame(said, at + same_bytes(&one.text, &two.text)) }
    }

    /// Renders conversations and compares them with their pieces.
    fn check(&self, pieces: &[Piece]) -> Result<(), Refusal> {
        for conversation in conversations() {
            let Some(expected) = join(pieces, &conversation) else { continue };
            let found = self.render(&conversation, true)?;
            if found != expected {
                let same = same_bytes(&found, &expected);
                let roles: Vec<&str> = conversation.iter().map(|(role, _)| name(*role)).collect();
                let why = format!(
                    "what it writes between messages depends on more than who speaks, in the \
                     conversation {}",
                    roles.join(", ")
                );
                return Err(Refusal { why, line: self.blame(&conversation, same) });
            }
        }
        Ok(())
    }
}

/// How many bytes two texts have in common at their start.
fn same_bytes(one: &str, two: &str) -> usize {
    one.bytes().zip(two.bytes()).take_while(|(a, b)| a == b).count()
}

/// A conversation as its pieces make it, up to the start of an answer; `None` if a piece is missing.
fn join(pieces: &[Piece], conversation: &Conversation) -> Option<String> {
    let (mut joined, mut after) = (String::new(), Role::Start);
    let open = (Role::Start, String::new());
    for (role, text) in conversation.iter().chain([&open]) {
        let piece = pieces.iter().find(|piece| piece.is_of(after, *role))?;
        joined.push_str(&piece.text);
        joined.push_str(if piece.trim { text.trim() } else { text });
        after = *role;
    }
    Some(joined)
}

/// Conversations of several lengths with texts of several kinds.
fn conversations() -> Vec<Conversation> {
    const TEXTS: [&str; 6] = [
        "What is the capital of France?",
        "Paris.",
        " two\n\nlines \"and\" 'quotes' {{ braces }}\n",
        "x = [1, 2]\nprint(x)  # <b>&amp;</b>",
        "日本語 🦀",
        "a",
    ];
    let mut all = vec![];
    for system in [false, true] {
        for turns in [1, 3, 5, 7] {
            let roles = [Role::User, Role::Assistant].into_iter().cycle().take(turns);
            let roles = system.then_some(Role::System).into_iter().chain(roles);
            let texts = TEXTS.iter().cycle().skip(turns);
            all.push(roles.zip(texts).map(|(role, text)| (role, text.to_string())).collect());
        }
    }
    all
}
