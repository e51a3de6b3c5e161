//! {% generation %} blocks, which the engine does not know. As transformers does, a block becomes a
//! call block; what it calls marks the text it is given, and the marks are taken out of the output.

/// The function that call blocks call.
pub const FUNCTION: &str = "__generation";

// The engine recurses over chains of tags; five times as many fit its stack.
const MAX_TAGS: usize = 10_000;

/// Rewrites the tags, and guards the code (`guard`); the second value says whether there were
/// generation blocks.
pub fn rewrite(source: &str) -> Result<(String, bool), String> {
    let mut out = String::with_capacity(source.len());
    let mut found = false;
    let mut tags = 0;
    let mut rest = source;
    while let Some(at) = next_open(rest) {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let end = match &rest[..2] {
            "{#" => rest.find("#}").map(|i| i + 2),
            "{{" => end_of_code(rest, "}}"),
            _ => end_of_code(rest, "%}"),
        }
        .unwrap_or(rest.len());
        tags += 1;
        if tags > MAX_TAGS {
            return Err(format!("more than {MAX_TAGS} tags"));
        }
        let tag = &rest[..end];
        rest = &rest[end..];
        match tag_name(tag) {
            Some((at, "generation")) => {
                found = true;
                splice(
                    &mut out,
                    tag,
                    at,
                    "generation",
                    &format!("call {FUNCTION}()"),
                );
            }
            Some((at, "endgeneration")) => {
                splice(&mut out, tag, at, "endgeneration", "endcall");
            }
            Some((_, "raw")) => {
                out.push_str(tag);
                let end = end_of_raw(rest);
                out.push_str(&rest[..end]);
                rest = &rest[end..];
            }
            _ if tag.starts_with("{#") => out.push_str(tag),
            _ => out.push_str(&crate::guard::guard(tag)?),
        }
    }
    out.push_str(rest);
    Ok((out, found))
}

fn splice(out: &mut String, tag: &str, at: usize, old: &str, new: &str) {
    out.push_str(&tag[..at]);
    out.push_str(new);
    out.push_str(&tag[at + old.len()..]);
}

fn next_open(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    (0..bytes.len().saturating_sub(1))
        .find(|&i| bytes[i] == b'{' && matches!(bytes[i + 1], b'%' | b'{' | b'#'))
}

/// The end of a tag, just after `close`; strings in it may contain anything.
fn end_of_code(text: &str, close: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let mut i = 2;
    while i < bytes.len() {
        match bytes[i] {
            quote @ (b'"' | b'\'') => {
                i += 1;
                while i < bytes.len() && bytes[i] != quote {
                    i += if bytes[i] == b'\\' { 2 } else { 1 };
                }
                i += 1;
            }
            _ if bytes[i..].starts_with(close.as_bytes()) => return Some(i + 2),
            _ => i += 1,
        }
    }
    None
}

fn end_of_raw(text: &str) -> usize {
    let mut from = 0;
    while let Some(i) = text[from..].find("{%") {
        let tag = &text[from + i..];
        if matches!(tag_name(tag), Some((_, "endraw"))) {
            return from + i;
        }
        from += i + 2;
    }
    text.len()
}

/// Where in a block tag its name starts, and the name.
fn tag_name(tag: &str) -> Option<(usize, &str)> {
    let inner = tag.strip_prefix("{%")?;
    let inner = inner.strip_prefix(['-', '+']).unwrap_or(inner);
    let name = inner.trim_start();
    let at = tag.len() - name.len();
    let len = name
        .find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .unwrap_or(name.len());
    Some((at, &name[..len]))
}

/// A pair of marks that no input contains. Noncharacters: never in text that means anything.
#[derive(Clone, Copy)]
pub struct Marks {
    pub begin: char,
    pub end: char,
}

impl Marks {
    pub fn unused_in(inputs: &[&str]) -> Option<Marks> {
        // Any noncharacter may also be spelt as an escape in JSON, or built by a template; the
        // second is caught when the marks don't pair up.
        const PAIRS: [(char, char); 3] = [
            ('\u{10FFFE}', '\u{10FFFF}'),
            ('\u{FFFFE}', '\u{FFFFF}'),
            ('\u{EFFFE}', '\u{EFFFF}'),
        ];
        let used = |c: char| {
            let mut units = [0u16; 2];
            let escaped: String = c
                .encode_utf16(&mut units)
                .iter()
                .map(|u| format!("\\u{u:04x}"))
                .collect();
            inputs.iter().any(|text| {
                text.contains(c) || (text.contains("\\u") && text.to_lowercase().contains(&escaped))
            })
        };
        PAIRS
            .into_iter()
            .find(|&(a, b)| !used(a) && !used(b))
            .map(|(begin, end)| Marks { begin, end })
    }

    /// The text without the marks, and the spans between them.
    pub fn take_out(self, text: String) -> Result<(String, Vec<(u64, u64)>), String> {
        let mut out = String::with_capacity(text.len());
        let mut spans = Vec::new();
        let mut open: Vec<u64> = Vec::new();
        let mut rest = text.as_str();
        while let Some(at) = rest.find([self.begin, self.end]) {
            out.push_str(&rest[..at]);
            let mark = rest[at..].chars().next().unwrap_or(self.end);
            rest = &rest[at + mark.len_utf8()..];
            if mark == self.begin {
                open.push(out.len() as u64);
            } else {
                let begin = open
                    .pop()
                    .ok_or("its {% generation %} blocks don't pair up")?;
                if open.is_empty() {
                    spans.push((begin, out.len() as u64));
                }
            }
        }
        if !open.is_empty() {
            return Err("its {% generation %} blocks don't pair up".into());
        }
        out.push_str(rest);
        Ok((out, spans))
    }
}
