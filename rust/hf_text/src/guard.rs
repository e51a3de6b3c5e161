//! Guards on arithmetic with lists. The engine charges a rendering for the strings it makes, but
//! adds lists for free and writes a list as text before it charges, so that a few dozen doublings
//! ask for all memory. Here every operand of `+` that may be a list goes through a filter that
//! charges for its length, of `*` through one that refuses lists, and of `~` through one that
//! writes lists as text and pays as it goes. Other values pass the filters as they are.

pub const ADDED: &str = "__added";
pub const REPEATED: &str = "__repeated";
pub const WRITTEN: &str = "__written";

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Name,
    Literal,
    Open,
    Close,
    Operator,
}

struct Token<'a> {
    kind: Kind,
    text: &'a str,
    end: usize,
}

const KEYWORDS: [&str; 8] = ["in", "and", "or", "not", "if", "else", "is", "recursive"];

// The engine's parser recurses over the operators of an expression; 10000 fit its stack.
const MAX_TOKENS: usize = 4000;

/// The code of one tag, delimiters included.
pub fn guard(tag: &str) -> Result<String, String> {
    let end = tag.len().saturating_sub(2);
    let end = if tag[..end].ends_with(['-', '+']) {
        end - 1
    } else {
        end
    };
    let tokens = scan(tag, end.max(2));
    if tokens.len() > MAX_TOKENS {
        return Err(format!("a tag of more than {MAX_TOKENS} words and signs"));
    }
    let mut insertions: Vec<(usize, &str)> = Vec::new();
    for (i, token) in tokens.iter().enumerate() {
        let filter = match token.text {
            "+" => ADDED,
            "*" => REPEATED,
            "~" => WRITTEN,
            _ => continue,
        };
        let Some(left) = i
            .checked_sub(1)
            .map(|i| &tokens[i])
            .filter(|t| ends_operand(t))
        else {
            continue; // unary, or a *args
        };
        let Some(right) = tokens.get(i + 1) else {
            continue;
        };
        if filter == ADDED && (left.kind == Kind::Literal || right.kind == Kind::Literal) {
            continue; // a literal is no list
        }
        if left.kind != Kind::Literal {
            insertions.push((left.end, filter));
        }
        if right.kind != Kind::Literal {
            if let Some(end) = operand_end(&tokens, i + 1) {
                insertions.push((end, filter));
            }
        }
    }
    insertions.sort();
    insertions.dedup();
    let mut out = String::with_capacity(tag.len() + 16 * insertions.len());
    let mut from = 0;
    for (at, filter) in insertions {
        out.push_str(&tag[from..at]);
        out.push('|');
        out.push_str(filter);
        out.push(' ');
        from = at;
    }
    out.push_str(&tag[from..]);
    Ok(out)
}

fn ends_operand(token: &Token) -> bool {
    match token.kind {
        Kind::Name => !KEYWORDS.contains(&token.text),
        Kind::Literal | Kind::Close => true,
        _ => false,
    }
}

// Where the operand that starts with token i ends: a name, a literal or a bracket, with the
// attributes, items and calls that follow it.
fn operand_end(tokens: &[Token], mut i: usize) -> Option<usize> {
    while matches!(tokens.get(i)?.text, "-" | "+" | "not") {
        i += 1;
    }
    i = match tokens[i].kind {
        Kind::Open => closing(tokens, i)?,
        Kind::Name | Kind::Literal => i,
        _ => return None,
    };
    loop {
        match tokens.get(i + 1) {
            Some(t) if t.text == "." => i += 2,
            Some(t) if t.text == "[" || t.text == "(" => i = closing(tokens, i + 1)?,
            _ => return Some(tokens.get(i)?.end),
        }
    }
}

fn closing(tokens: &[Token], open: usize) -> Option<usize> {
    let mut depth = 0;
    for (i, token) in tokens.iter().enumerate().skip(open) {
        match token.kind {
            Kind::Open => depth += 1,
            Kind::Close => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(i);
        }
    }
    None
}

fn scan(tag: &str, end: usize) -> Vec<Token<'_>> {
    let bytes = tag.as_bytes();
    let mut tokens = Vec::new();
    let mut i = 2;
    if i < end && matches!(bytes[i], b'-' | b'+') {
        i += 1;
    }
    while i < end {
        let begin = i;
        let kind = match bytes[i] {
            c if c.is_ascii_whitespace() => {
                i += 1;
                continue;
            }
            quote @ (b'"' | b'\'') => {
                i += 1;
                while i < end && bytes[i] != quote {
                    i += if bytes[i] == b'\\' { 2 } else { 1 };
                }
                i = (i + 1).min(end);
                while !tag.is_char_boundary(i) {
                    i += 1;
                }
                Kind::Literal
            }
            c if c.is_ascii_digit() => {
                while i < end && (bytes[i].is_ascii_alphanumeric() || bytes[i] == b'_') {
                    i += 1;
                }
                Kind::Literal
            }
            c if c.is_ascii_alphabetic() || c == b'_' || c >= 0x80 => {
                while i < end
                    && (bytes[i].is_ascii_alphanumeric() || bytes[i] == b'_' || bytes[i] >= 0x80)
                {
                    i += 1;
                }
                Kind::Name
            }
            b'(' | b'[' | b'{' => {
                i += 1;
                Kind::Open
            }
            b')' | b']' | b'}' => {
                i += 1;
                Kind::Close
            }
            b'*' if bytes.get(i + 1) == Some(&b'*') => {
                i += 2;
                Kind::Operator
            }
            _ => {
                i += 1;
                Kind::Operator
            }
        };
        tokens.push(Token {
            kind,
            text: &tag[begin..i],
            end: i,
        });
    }
    tokens
}
