//! Text to module: recursive descent without recursion, one token of look-ahead, first error wins.
//!
//! Checks the form and that every name is defined somewhere; what the module means is the
//! verifier's business. The grammar is in `ir/README.md`.

use crate::attrs::{Attrs, Setting, Word};
use crate::history::{Side, Source as WeightSource, Step};
pub use crate::lex::ParseError;
use crate::lex::{Lexer, Sigil, Spot, Token};
use crate::module::{Cache, Meta, Module, Weight, WeightId};
use crate::op::{Gate, Levels, Op, Rope, RopeScaling, RowRange};
use crate::place::Lines;
use crate::repeat::expand;
use crate::resolve::resolve;
use crate::round::Rounding;
use crate::syntax::{GraphText, InstText, Name, Source, Verb, WeightText};
use crate::types::{DType, Dim, IntFormat, Type};

/// The version of the text form that this build reads and writes.
pub const VERSION: &str = "1";

/// The module of a text.
pub fn parse(text: &str) -> Result<Module, ParseError> {
    Ok(parse_with_lines(text)?.0)
}

/// The module of a text, and the line of each of its parts.
pub fn parse_with_lines(text: &str) -> Result<(Module, Lines), ParseError> {
    let expanded = expand(text)?;
    let parsed = Parser::new(&expanded.text).and_then(Parser::source).and_then(resolve);
    let (module, lines) = parsed.map_err(|error| expanded.place(error))?;
    Ok((module, lines.map(|line| expanded.line(line))))
}

struct Parser<'a> {
    lexer: Lexer<'a>,
    token: Token<'a>,
    spot: Spot,
}

impl<'a> Parser<'a> {
    fn new(text: &'a str) -> Result<Parser<'a>, ParseError> {
        let mut lexer = Lexer::new(text);
        let (token, spot) = lexer.next()?;
        Ok(Parser { lexer, token, spot })
    }

    fn source(mut self) -> Result<Source<'a>, ParseError> {
        self.keyword("ingot")?;
        let version = self.word("a version")?;
        if version.text != VERSION {
            return Err(version.error(&format!("version {VERSION} of the text form")));
        }
        let spot = self.spot;
        let meta = (self.meta()?, spot);
        let mut source = Source { meta, weights: vec![], caches: vec![], graphs: vec![] };
        loop {
            let spot = self.spot;
            match self.token {
                Token::Word("weight") => source.weights.push(self.weight()?),
                Token::Word("cache") => source.caches.push((self.cache()?, spot)),
                Token::Word("graph") => source.graphs.push(self.graph()?),
                Token::End => return Ok(source),
                _ => return Err(self.unexpected("`weight`, `cache` or `graph`")),
            }
        }
    }

    fn meta(&mut self) -> Result<Meta, ParseError> {
        self.keyword("model")?;
        let arch = self.text("the architecture, a string")?;
        let mut attrs = self.attrs("model", self.spot)?;
        let meta = Meta {
            arch,
            vocab: attrs.integer("vocab")?,
            context: attrs.integer("context")?,
            bos: attrs.word("bos")?.map(Word::token).transpose()?,
            eos: attrs.list("eos")?.into_iter().map(Word::token).collect::<Result<_, _>>()?,
        };
        attrs.finish()?;
        Ok(meta)
    }

    fn weight(&mut self) -> Result<WeightText<'a>, ParseError> {
        let start = self.spot;
        self.keyword("weight")?;
        let name = self.name(Sigil::Weight)?;
        self.mark(":")?;
        let spot = self.spot;
        let ty = self.ty()?;
        let Some((dtype, dims)) = ty.as_weight() else {
            return Err(spot.error(format!("found {ty}, expected constant dimensions")));
        };
        self.mark("=")?;
        let source = self.weight_source()?;
        let mut steps = vec![];
        if self.token == Token::Word("via") {
            self.advance()?;
            steps = self.separated(Self::step)?;
        }
        let (via, operands) = steps.into_iter().unzip();
        let weight = Weight { name: name.text.to_string(), dtype, dims, source, via };
        Ok(WeightText { weight, operands, spot: start })
    }

    fn weight_source(&mut self) -> Result<WeightSource, ParseError> {
        let expected = "`blob`, `hadamard`, `eye`, `ones`, `full` or `factors`";
        let word = self.word(expected)?;
        Ok(match word.text {
            "blob" => WeightSource::Blob(self.text("a tensor's name, a string")?),
            "hadamard" => {
                let mut seed = None;
                if self.eat("(")? {
                    seed = Some(self.word("a seed")?.integer()?);
                    self.mark(")")?;
                }
                WeightSource::Hadamard { seed }
            }
            "eye" => WeightSource::Eye,
            "ones" => WeightSource::Ones,
            "full" => {
                self.mark("(")?;
                let number = self.word("a number")?;
                self.mark(")")?;
                WeightSource::Full(number.single()?)
            }
            "factors" => {
                let spot = self.spot;
                let text = self.text("one character a factor, a string")?;
                WeightSource::factors(&text)
                    .ok_or_else(|| spot.error("found a character outside `!` to `~`"))?
            }
            _ => return Err(word.error(expected)),
        })
    }

    /// A step, and the weight it names; `resolve` puts its handle where the step has none yet.
    fn step(&mut self) -> Result<(Step, Option<Name<'a>>), ParseError> {
        let step = self.word("a step of a weight's history")?;
        self.mark("(")?;
        let by = WeightId(u32::MAX);
        let scale = |side, inverse| Step::Scale { side, by, inverse };
        let named = match step.text {
            "scale_in" => Some(scale(Side::In, false)),
            "scale_out" => Some(scale(Side::Out, false)),
            "unscale_in" => Some(scale(Side::In, true)),
            "unscale_out" => Some(scale(Side::Out, true)),
            "rotate_in" => Some(Step::Rotate { side: Side::In, by }),
            "rotate_out" => Some(Step::Rotate { side: Side::Out, by }),
            _ => None,
        };
        if let Some(named) = named {
            let name = self.name(Sigil::Weight)?;
            self.mark(")")?;
            return Ok((named, Some(name)));
        }
        let argument = self.word("the step's argument")?;
        let plain = match step.text {
            "unpermute" => Step::Unpermute { heads: argument.integer()? },
            "plus" => Step::Plus { by: argument.integer()? },
            "cast" => Step::Cast(dtype(argument)?),
            "repeat" => {
                self.mark(",")?;
                let times = self.word("how often")?.integer()?;
                Step::Repeat { block: argument.integer()?, times }
            }
            "round" => {
                let DType::Int(format) = dtype(argument)? else {
                    return Err(argument.error("a format of integers"));
                };
                self.mark(",")?;
                let how = self.word("how to round")?;
                let known = Rounding::from_name(how.text);
                let how = known.ok_or_else(|| how.error("`nearest` or `gptq`"))?;
                Step::Round { format, how }
            }
            _ => return Err(step.error("a step of `ir/README.md`")),
        };
        self.mark(")")?;
        Ok((plain, None))
    }

    fn cache(&mut self) -> Result<Cache, ParseError> {
        self.keyword("cache")?;
        let name = self.name(Sigil::Cache)?;
        self.mark(":")?;
        Ok(Cache { name: name.text.to_string(), ty: self.ty()? })
    }

    fn graph(&mut self) -> Result<GraphText<'a>, ParseError> {
        self.keyword("graph")?;
        let name = self.name(Sigil::Graph)?;
        self.mark("(")?;
        let mut params = vec![];
        if self.token != Token::Mark(")") {
            params = self.separated(Self::param)?;
        }
        self.mark(")")?;
        self.mark("->")?;
        let spot = self.spot;
        let result_ty = (self.ty()?, spot);
        self.mark("{")?;
        let mut insts = vec![];
        while self.token != Token::Word("return") {
            insts.push(self.inst()?);
        }
        self.advance()?;
        let result = self.name(Sigil::Value)?;
        self.mark("}")?;
        Ok(GraphText { name, params, result_ty, insts, result })
    }

    fn param(&mut self) -> Result<(Name<'a>, Type), ParseError> {
        let name = self.operand("a parameter: `%value`, `$weight` or `^cache`")?;
        self.mark(":")?;
        Ok((name, self.ty()?))
    }

    fn inst(&mut self) -> Result<InstText<'a>, ParseError> {
        let Token::Name(Sigil::Value, _) = self.token else {
            return Err(self.unexpected("an instruction, `%name = …`, or `return`"));
        };
        let name = self.name(Sigil::Value)?;
        self.mark("=")?;
        let op = self.word("an operation")?;
        let callee = if op.text == "call" { Some(self.name(Sigil::Graph)?) } else { None };
        let more = match callee {
            Some(_) => self.eat(",")?,
            None => !matches!(self.token, Token::Mark("{" | ":")),
        };
        let args = if more { self.separated(|p| p.operand("an operand"))? } else { vec![] };
        let mut attrs = self.attrs(op.text, op.spot)?;
        let verb = match callee {
            Some(callee) => Verb::Call(callee),
            None => Verb::Op(operation(op, &mut attrs)?),
        };
        attrs.finish()?;
        self.mark(":")?;
        Ok(InstText { name, verb, args, ty: self.ty()? })
    }

    fn operand(&mut self, expected: &str) -> Result<Name<'a>, ParseError> {
        match self.token {
            Token::Name(sigil, _) if sigil != Sigil::Graph => self.name(sigil),
            _ => Err(self.unexpected(expected)),
        }
    }

    /// `{name = value, name = [value, …]}`, or nothing.
    fn attrs(&mut self, owner: &'a str, spot: Spot) -> Result<Attrs<'a>, ParseError> {
        let mut attrs = Attrs::new(owner, spot);
        if !self.eat("{")? || self.eat("}")? {
            return Ok(attrs);
        }
        for (name, setting) in self.separated(Self::attr)? {
            attrs.push(name, setting)?;
        }
        self.mark("}")?;
        Ok(attrs)
    }

    fn attr(&mut self) -> Result<(Word<'a>, Setting<'a>), ParseError> {
        let name = self.word("an attribute")?;
        self.mark("=")?;
        if !self.eat("[")? {
            return Ok((name, Setting::One(self.word("a value")?)));
        }
        if self.eat("]")? {
            return Ok((name, Setting::List(vec![])));
        }
        let list = self.separated(|p| p.word("a value"))?;
        self.mark("]")?;
        Ok((name, Setting::List(list)))
    }

    fn ty(&mut self) -> Result<Type, ParseError> {
        let word = self.word("a type, as in `f32[T, 64]`")?;
        self.mark("[")?;
        if let Some(element) = word.text.strip_prefix("kv.") {
            let dtype = dtype(Word { text: element, spot: word.spot })?;
            let heads = self.word("the number of heads")?.integer()?;
            self.mark(",")?;
            let head = self.word("the width of a head")?.integer()?;
            self.mark("]")?;
            return Ok(Type::Kv { dtype, heads, head });
        }
        let dtype = dtype(word)?;
        let mut dims = vec![];
        if self.token != Token::Mark("]") {
            dims = self.separated(Self::dim)?;
        }
        self.mark("]")?;
        Ok(Type::Tensor { dtype, dims })
    }

    fn dim(&mut self) -> Result<Dim, ParseError> {
        let word = self.word("a dimension: `T` or a number")?;
        if word.text == "T" { Ok(Dim::Tokens) } else { Ok(Dim::Const(word.integer()?)) }
    }

    /// One or more of something between commas.
    fn separated<X>(
        &mut self,
        mut one: impl FnMut(&mut Self) -> Result<X, ParseError>,
    ) -> Result<Vec<X>, ParseError> {
        let mut list = vec![one(self)?];
        while self.eat(",")? {
            list.push(one(self)?);
        }
        Ok(list)
    }

    fn advance(&mut self) -> Result<(Token<'a>, Spot), ParseError> {
        let (token, spot) = self.lexer.next()?;
        Ok((std::mem::replace(&mut self.token, token), std::mem::replace(&mut self.spot, spot)))
    }

    fn eat(&mut self, mark: &'static str) -> Result<bool, ParseError> {
        let found = self.token == Token::Mark(mark);
        if found {
            self.advance()?;
        }
        Ok(found)
    }

    fn mark(&mut self, mark: &'static str) -> Result<(), ParseError> {
        if self.eat(mark)? { Ok(()) } else { Err(self.unexpected(&format!("`{mark}`"))) }
    }

    fn keyword(&mut self, keyword: &'static str) -> Result<(), ParseError> {
        if self.token != Token::Word(keyword) {
            return Err(self.unexpected(&format!("`{keyword}`")));
        }
        self.advance()?;
        Ok(())
    }

    fn word(&mut self, expected: &str) -> Result<Word<'a>, ParseError> {
        let Token::Word(text) = self.token else { return Err(self.unexpected(expected)) };
        let (_, spot) = self.advance()?;
        Ok(Word { text, spot })
    }

    fn name(&mut self, sigil: Sigil) -> Result<Name<'a>, ParseError> {
        match self.token {
            Token::Name(found, text) if found == sigil => {
                let (_, spot) = self.advance()?;
                Ok(Name { sigil, text, spot })
            }
            _ => Err(self.unexpected(&format!("a name with `{}`", sigil.char()))),
        }
    }

    fn text(&mut self, expected: &str) -> Result<String, ParseError> {
        if !matches!(self.token, Token::Text(_)) {
            return Err(self.unexpected(expected));
        }
        match self.advance()? {
            (Token::Text(text), _) => Ok(text),
            (_, spot) => Err(spot.error(format!("expected {expected}"))),
        }
    }

    fn unexpected(&self, expected: &str) -> ParseError {
        self.spot.error(format!("found {}, expected {expected}", self.token))
    }
}

fn dtype(word: Word<'_>) -> Result<DType, ParseError> {
    let names: Vec<&str> = DType::PLAIN.iter().map(|(_, name)| *name).collect();
    let expected = || format!("one of {}, {}", names.join(", "), IntFormat::NAMES);
    DType::from_name(word.text).ok_or_else(|| word.error(&expected()))
}

fn operation(op: Word<'_>, attrs: &mut Attrs<'_>) -> Result<Op, ParseError> {
    Ok(match op.text {
        "embed" => Op::Embed,
        "rms_norm" => Op::RmsNorm {
            eps: attrs.float("eps")?,
            group: attrs.word("group")?.map(Word::integer).transpose()?,
        },
        "linear" => Op::Linear,
        "quant_rows" => Op::QuantRows { group: group(op, attrs)?, range: row_range(attrs)? },
        "fake_quant" => {
            let levels =
                attrs.word("levels")?.ok_or_else(|| op.error("`levels`, as in `i4` or `e2m1`"))?;
            let known = Levels::from_name(levels.text);
            let levels = known.ok_or_else(|| levels.error("levels, as in `i4` or `e2m1`"))?;
            Op::FakeQuant { levels, group: group(op, attrs)? }
        }
        "hadamard" => Op::Hadamard { size: attrs.integer("size")? },
        "rope" => Op::Rope(Rope {
            head: attrs.integer("head")?,
            theta: attrs.float("theta")?,
            scaling: rope_scaling(attrs)?,
        }),
        "kv_append" => Op::KvAppend,
        "attention" => Op::Attention {
            heads: attrs.integer("heads")?,
            scale: attrs.float("scale")?,
            window: attrs.word("window")?.map(Word::integer).transpose()?,
            cap: attrs.word("cap")?.map(Word::float).transpose()?,
        },
        "add" => Op::Add,
        "scale" => Op::Scale { by: attrs.float("by")? },
        "softcap" => Op::Softcap { cap: attrs.float("cap")? },
        name => match Gate::ALL.into_iter().find(|gate| gate.name() == name) {
            Some(gate) => Op::GateMul(gate),
            None => return Err(op.error("an operation of `ir/README.md`")),
        },
    })
}

fn group(op: Word<'_>, attrs: &mut Attrs<'_>) -> Result<u32, ParseError> {
    let group = attrs.integer("group")?;
    u32::try_from(group).map_err(|_| op.error("a group below 2^32"))
}

fn row_range(attrs: &mut Attrs<'_>) -> Result<RowRange, ParseError> {
    let Some(word) = attrs.word("range")? else { return Ok(RowRange::Group) };
    let known = RowRange::ALL.into_iter().find(|range| range.name() == word.text);
    known.ok_or_else(|| word.error("`group`, `row` or `fixed`"))
}

fn rope_scaling(attrs: &mut Attrs<'_>) -> Result<RopeScaling, ParseError> {
    let Some(scaling) = attrs.word("scaling")? else { return Ok(RopeScaling::None) };
    match scaling.text {
        "linear" => Ok(RopeScaling::Linear { factor: attrs.float("factor")? }),
        "llama3" => Ok(RopeScaling::Llama3 {
            factor: attrs.float("factor")?,
            low: attrs.float("low")?,
            high: attrs.float("high")?,
            original: attrs.integer("original")?,
        }),
        _ => Err(scaling.error("`linear` or `llama3`")),
    }
}
