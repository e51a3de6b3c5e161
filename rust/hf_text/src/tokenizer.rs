//! Reading a tokenizer.json, encoding and decoding.

use std::collections::HashMap;

use serde_json::Value as Json;
use tokenizers::pipeline::{EncodeOptions, Override, PipelineToken, PipelineTokenizer};

/// Who does the work: the fast engine, or where it refuses a file the one transformers has.
enum Engine {
    Fast(PipelineTokenizer),
    Stable(Box<tokenizers_stable::Tokenizer>),
}

impl Engine {
    /// json: a tokenizer.json. The error is the stable engine's, which reads more.
    fn of(mut json: Json) -> Result<Engine, String> {
        let text = json.to_string();
        let canonical = tokenizers::canonicalize_value(&mut json).map(|_| json.to_string());
        if let Ok(Ok(pipeline)) = canonical.map(|text| tokenizers::from_json(&text)) {
            return Ok(Engine::Fast(pipeline));
        }
        let mut stable =
            tokenizers_stable::Tokenizer::from_bytes(text.as_bytes()).map_err(|e| e.to_string())?;
        stable.with_padding(None);
        stable.with_truncation(None).map_err(|e| e.to_string())?;
        Ok(Engine::Stable(Box::new(stable)))
    }

    fn encode(&self, text: &str, special: bool, out: &mut Vec<u32>) -> Result<(), String> {
        match self {
            Engine::Fast(pipeline) => {
                let options = EncodeOptions {
                    add_special_tokens: special,
                    encode_special_tokens: false,
                    padding: Override::Off,
                    truncation: Override::Off,
                };
                let mut tokens: Vec<PipelineToken> = Vec::with_capacity(text.len() / 3 + 8);
                pipeline
                    .encode_into(text, &options, &mut tokens)
                    .map_err(|e| e.to_string())?;
                out.extend_from_slice(PipelineToken::cast_slice(&tokens));
            }
            Engine::Stable(stable) => {
                let encoding = stable
                    .encode_fast(text, special)
                    .map_err(|e| e.to_string())?;
                out.extend_from_slice(encoding.get_ids());
            }
        }
        Ok(())
    }

    fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String, String> {
        match self {
            Engine::Fast(pipeline) => pipeline
                .decode(ids, skip_special)
                .map_err(|e| e.to_string()),
            Engine::Stable(stable) => stable
                .decode(ids, skip_special)
                .map_err(|e| e.to_string()),
        }
    }
}

pub struct HfTokenizer {
    engine: Engine,
    known: Vec<bool>,
}

impl HfTokenizer {
    pub fn encode(&self, text: &str, special: bool, out: &mut Vec<u32>) -> Result<(), String> {
        self.engine.encode(text, special, out)
    }

    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<Vec<u8>, String> {
        if let Some(id) = ids.iter().find(|&&i| !self.is_known(i)) {
            return Err(format!("the tokenizer has no token with id {id}"));
        }
        self.engine.decode(ids, skip_special).map(String::into_bytes)
    }

    fn is_known(&self, id: u32) -> bool {
        self.known.get(id as usize).copied().unwrap_or(false)
    }
}

const ADDED: u8 = 1;
const SPECIAL: u8 = 2;

struct Token {
    spelling: String,
    bytes: Vec<u8>,
    flags: u8,
}

fn parse(text: &str, file: &str) -> Result<Json, String> {
    serde_json::from_str(text).map_err(|e| format!("{file}: {e}"))
}

fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u32).to_ne_bytes());
    out.extend_from_slice(bytes);
}

/// The tokenizer and a table: u32 number of roles, for each its name and its token; then for each
/// token u32 id, u32 flags (1 added, 2 special), its spelling, and the bytes it stands for in a
/// text. Strings are u32 length and bytes.
pub fn load(text: &str, config: &str, map: &str) -> Result<(HfTokenizer, Vec<u8>), String> {
    let optional = |text: &str, file: &str| match text {
        "" => Ok(Json::Null),
        _ => parse(text, file),
    };
    let mut json = parse(text, "tokenizer.json")?;
    let roles = crate::special::apply(
        &mut json,
        optional(config, "tokenizer_config.json")?,
        optional(map, "special_tokens_map.json")?,
    )?;
    let spelling = Spelling::of(&json);
    let mut tokens: HashMap<u32, Token> = HashMap::new();
    model_tokens(&json, &spelling, &mut tokens)?;
    let added = json.get("added_tokens").and_then(Json::as_array).cloned();
    let added_ids = added.iter().flatten().filter_map(|t| t.get("id")?.as_u64());
    if let Some(id) = tokens
        .keys()
        .map(|&id| id as u64)
        .chain(added_ids)
        .find(|&id| id > MAX_ID as u64)
    {
        return Err(format!("token id {id} is out of range (at most {MAX_ID})"));
    }
    let engine = Engine::of(json)?;
    for token in added.iter().flatten() {
        let content = token.get("content").and_then(Json::as_str).unwrap_or("");
        let id = token
            .get("id")
            .and_then(Json::as_u64)
            .and_then(|id| u32::try_from(id).ok())
            .ok_or_else(|| format!("added token {content:?} has no id"))?;
        let special = token
            .get("special")
            .and_then(Json::as_bool)
            .unwrap_or(false);
        tokens.insert(
            id,
            Token {
                spelling: content.to_string(),
                bytes: content.as_bytes().to_vec(),
                flags: ADDED | if special { SPECIAL } else { 0 },
            },
        );
    }
    let mut ids: Vec<u32> = tokens.keys().copied().collect();
    ids.sort_unstable();
    let mut known = vec![false; ids.last().map_or(0, |&id| id as usize + 1)];
    let mut table = Vec::new();
    table.extend_from_slice(&(roles.len() as u32).to_ne_bytes());
    for (role, token) in &roles {
        put(&mut table, role.as_bytes());
        put(&mut table, token.as_bytes());
    }
    for id in ids {
        known[id as usize] = true;
        let token = &tokens[&id];
        table.extend_from_slice(&id.to_ne_bytes());
        table.extend_from_slice(&(token.flags as u32).to_ne_bytes());
        put(&mut table, token.spelling.as_bytes());
        put(&mut table, &token.bytes);
    }
    Ok((HfTokenizer { engine, known }, table))
}

// Ids index tables, so a hostile file may not ask for a table of 4 G entries.
const MAX_ID: u32 = 1 << 26;

fn model_tokens(
    json: &Json,
    spelling: &Spelling,
    tokens: &mut HashMap<u32, Token>,
) -> Result<(), String> {
    let vocab = json
        .get("model")
        .and_then(|m| m.get("vocab"))
        .ok_or("no model.vocab in it")?;
    let mut insert = |text: &str, id: Option<u64>| -> Result<(), String> {
        let id = id
            .and_then(|id| u32::try_from(id).ok())
            .ok_or_else(|| format!("token {text:?} has no proper id"))?;
        let token = Token {
            spelling: text.to_string(),
            bytes: spelling.bytes_of(text),
            flags: 0,
        };
        tokens.insert(id, token);
        Ok(())
    };
    match vocab {
        Json::Object(map) => {
            for (text, id) in map {
                insert(text, id.as_u64())?;
            }
        }
        Json::Array(list) => {
            for (id, entry) in list.iter().enumerate() {
                let text = entry.get(0).and_then(Json::as_str);
                insert(
                    text.ok_or("a vocab entry is no [text, score]")?,
                    Some(id as u64),
                )?;
            }
        }
        _ => return Err("model.vocab is neither an object nor an array".into()),
    }
    Ok(())
}

/// How the model spells the bytes of a text in its tokens.
struct Spelling {
    byte_of_char: Option<HashMap<char, u8>>,
    byte_fallback: bool,
    space: Option<String>,
    continuing: Option<String>,
}

impl Spelling {
    fn of(json: &Json) -> Spelling {
        let mut byte_level = false;
        let mut space = None;
        let visit = |node: &Json, byte_level: &mut bool, space: &mut Option<String>| match node
            .get("type")
            .and_then(Json::as_str)
        {
            Some("ByteLevel") => *byte_level = true,
            Some("Metaspace") => {
                let mark = node.get("replacement").and_then(Json::as_str);
                *space = Some(mark.unwrap_or("\u{2581}").to_string());
            }
            Some("Replace") => {
                let pattern = node.get("pattern").and_then(|p| p.get("String"));
                let (from, to) = (pattern.and_then(Json::as_str), node.get("content"));
                match (from, to.and_then(Json::as_str)) {
                    (Some(mark), Some(" ")) | (Some(" "), Some(mark)) => {
                        *space = Some(mark.to_string())
                    }
                    _ => {}
                }
            }
            _ => {}
        };
        for part in ["normalizer", "pre_tokenizer", "decoder"] {
            let Some(root) = json.get(part) else { continue };
            visit(root, &mut byte_level, &mut space);
            for list in ["normalizers", "pretokenizers", "decoders"] {
                for node in root
                    .get(list)
                    .and_then(Json::as_array)
                    .into_iter()
                    .flatten()
                {
                    visit(node, &mut byte_level, &mut space);
                }
            }
        }
        let model = json.get("model");
        let field = |name: &str| model.and_then(|m| m.get(name));
        Spelling {
            byte_of_char: byte_level.then(|| byte_alphabet().map(|(b, c)| (c, b)).collect()),
            byte_fallback: field("byte_fallback")
                .and_then(Json::as_bool)
                .unwrap_or(false),
            space,
            continuing: field("continuing_subword_prefix")
                .and_then(Json::as_str)
                .filter(|s| !s.is_empty())
                .map(str::to_string),
        }
    }

    fn bytes_of(&self, token: &str) -> Vec<u8> {
        if let Some(table) = &self.byte_of_char {
            let bytes: Option<Vec<u8>> = token.chars().map(|c| table.get(&c).copied()).collect();
            return bytes.unwrap_or_else(|| token.as_bytes().to_vec());
        }
        if self.byte_fallback
            && token.len() == 6
            && token.starts_with("<0x")
            && token.ends_with('>')
        {
            if let Ok(byte) = u8::from_str_radix(&token[3..5], 16) {
                return vec![byte];
            }
        }
        let mut text = token;
        if let Some(prefix) = &self.continuing {
            text = text.strip_prefix(prefix.as_str()).unwrap_or(text);
        }
        match &self.space {
            Some(mark) => text.replace(mark.as_str(), " ").into_bytes(),
            None => text.as_bytes().to_vec(),
        }
    }
}

/// GPT-2's printable stand-in for every byte.
pub fn byte_alphabet() -> impl Iterator<Item = (u8, char)> {
    let printable = |b: u8| matches!(b, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let mut next = 256u32;
    (0..=255u8).map(move |b| {
        let code = if printable(b) {
            b as u32
        } else {
            next += 1;
            next - 1
        };
        (b, char::from_u32(code).unwrap_or('\u{FFFD}'))
    })
}
