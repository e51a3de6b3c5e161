//! Regular expressions that Python's `re` reads too: matched whole, in time linear in the text.
//! What one of the two doesn't know, or reads differently, is refused by name.

use regex_automata::{meta, util::syntax, Anchored, Input};
use regex_syntax::ast::{
    self, AssertionKind, Ast, ClassSetBinaryOp, ClassSetItem, Flag, FlagsItemKind,
};

const MAX_BYTES: usize = 2000;
const MAX_MACHINE_BYTES: usize = 1 << 20;
const MAX_NESTING: u32 = 100;

pub struct Expression {
    /// Look-aheads at the beginning: whether the text begins so, or does not.
    ahead: Vec<(bool, meta::Regex)>,
    body: meta::Regex,
}

impl Expression {
    pub fn new(pattern: &str) -> Result<Expression, String> {
        if pattern.len() > MAX_BYTES {
            let n = pattern.len();
            return Err(format!("it has {n} bytes; at most {MAX_BYTES} are allowed"));
        }
        let (ahead, rest) = leading_look_aheads(pattern);
        let body = parse(rest)?;
        if !ahead.is_empty() && matches!(body, Ast::Alternation(_)) {
            refuse("a look-ahead of one alternative")?;
        }
        Ok(Expression {
            ahead: ahead
                .into_iter()
                .map(|(wanted, inner)| {
                    parse(inner)?;
                    Ok((wanted, compile(inner)?))
                })
                .collect::<Result<_, String>>()?,
            body: compile(&format!("(?:{rest})\\z"))?,
        })
    }

    pub fn matches_whole(&self, text: &str) -> bool {
        let begins = |with: &meta::Regex| with.is_match(Input::new(text).anchored(Anchored::Yes));
        self.ahead
            .iter()
            .all(|(wanted, inner)| begins(inner) == *wanted)
            && begins(&self.body)
    }
}

fn compile(pattern: &str) -> Result<meta::Regex, String> {
    meta::Regex::builder()
        .configure(meta::Config::new().nfa_size_limit(Some(MAX_MACHINE_BYTES)))
        .syntax(syntax::Config::new().nest_limit(MAX_NESTING + 2))
        .build(pattern)
        .map_err(|e| match e.size_limit() {
            Some(_) => "it is too large when its repetitions are written out".to_string(),
            None => e.to_string(),
        })
}

/// Checks that Python reads the pattern likewise.
fn parse(pattern: &str) -> Result<Ast, String> {
    let tree = ast::parse::ParserBuilder::new()
        .nest_limit(MAX_NESTING)
        .build()
        .parse(pattern)
        .map_err(|e| e.kind().to_string())?;
    ast::visit(&tree, AsInPython)?;
    Ok(tree)
}

/// `^(?!a)(?=b)c` is `c` of a text that doesn't begin with a and begins with b: these need no going
/// back. Elsewhere look-around is refused by the parser.
fn leading_look_aheads(pattern: &str) -> (Vec<(bool, &str)>, &str) {
    let mut found = Vec::new();
    let mut rest = pattern.strip_prefix('^').unwrap_or(pattern);
    while rest.starts_with("(?!") || rest.starts_with("(?=") {
        let Some(end) = closing_bracket(rest) else {
            break;
        };
        found.push((rest.starts_with("(?="), &rest[3..end]));
        rest = &rest[end + 1..];
    }
    if found.is_empty() {
        (found, pattern)
    } else {
        (found, rest)
    }
}

/// Where the group ends that the text begins with.
fn closing_bracket(text: &str) -> Option<usize> {
    let (mut depth, mut set_begin) = (0, None);
    let mut chars = text.char_indices();
    while let Some((i, c)) = chars.next() {
        match (c, set_begin) {
            ('\\', _) => {
                chars.next();
            }
            // The first character of a set is never its end.
            (']', Some(begin)) if i > begin && &text[begin..i] != "^" => set_begin = None,
            (_, Some(_)) => {}
            ('[', None) => set_begin = Some(i + 1),
            ('(', None) => depth += 1,
            (')', None) => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(i);
        }
    }
    None
}

/// Finds what Python has not, or has with another meaning.
struct AsInPython;

fn refuse(what: &str) -> Result<(), String> {
    Err(format!("{what} is not supported"))
}

impl ast::Visitor for AsInPython {
    type Output = ();
    type Err = String;

    fn finish(self) -> Result<(), String> {
        Ok(())
    }

    fn visit_pre(&mut self, node: &Ast) -> Result<(), String> {
        let flags = match node {
            Ast::Repetition(r) if matches!(*r.ast, Ast::Repetition(_)) => {
                return refuse("a repetition of a repetition (*+, ++, ...)");
            }
            Ast::Assertion(a) => match a.kind {
                AssertionKind::StartLine
                | AssertionKind::EndLine
                | AssertionKind::StartText
                | AssertionKind::EndText
                | AssertionKind::WordBoundary
                | AssertionKind::NotWordBoundary => return Ok(()),
                _ => return refuse(r"a word's begin or end (\<, \>, \b{...})"),
            },
            Ast::Flags(f) => Some(&f.flags),
            Ast::Group(g) => g.flags(),
            _ => None,
        };
        for item in flags.map_or(&[][..], |f| &f.items) {
            if let FlagsItemKind::Flag(Flag::IgnoreWhitespace | Flag::SwapGreed | Flag::CRLF) =
                item.kind
            {
                return refuse("a flag other than i, m, s and u");
            }
        }
        Ok(())
    }

    fn visit_class_set_item_pre(&mut self, item: &ClassSetItem) -> Result<(), String> {
        match item {
            ClassSetItem::Bracketed(_) | ClassSetItem::Ascii(_) => refuse("a set within a set"),
            _ => Ok(()),
        }
    }

    fn visit_class_set_binary_op_pre(&mut self, _: &ClassSetBinaryOp) -> Result<(), String> {
        refuse("an operation of sets (&&, --, ~~)")
    }
}
