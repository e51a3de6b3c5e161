//! What tokenizer_config.json and special_tokens_map.json add to a tokenizer.json, resolved as
//! transformers does: roles of tokens, added tokens, and the bos and eos of the post-processor.

use std::collections::BTreeMap;

use serde_json::{json, Value as Json};

const ROLES: [&str; 7] = [
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
];

pub type Roles = BTreeMap<String, String>;

/// Edits `tokenizer` (a tokenizer.json); returns the role of tokens.
pub fn apply(tokenizer: &mut Json, mut config: Json, map: Json) -> Result<Roles, String> {
    if !config.is_object() {
        config = json!({});
    }
    if config.get("added_tokens_decoder").is_none() {
        for (key, value) in map.as_object().into_iter().flatten() {
            config[key] = value.clone();
        }
    }
    let mut roles = Roles::new();
    for role in ROLES {
        match config.get(role) {
            Some(value) => {
                let text = value
                    .as_str()
                    .or_else(|| value.get("content").and_then(Json::as_str));
                if let Some(text) = text {
                    roles.insert(role.to_string(), text.to_string());
                }
            }
            None => {
                let class = config.get("tokenizer_class").and_then(Json::as_str);
                let token = class_default(class.unwrap_or(""), role);
                if let Some(token) = token.filter(|t| id_of(tokenizer, t).is_some()) {
                    roles.insert(role.to_string(), token.to_string());
                }
            }
        }
    }
    add_tokens(tokenizer, &config, &roles)?;
    post_processor(tokenizer, &config, &roles);
    Ok(roles)
}

fn class_default(class: &str, role: &str) -> Option<&'static str> {
    match (class.strip_suffix("Fast").unwrap_or(class), role) {
        ("GPT2Tokenizer", "bos_token" | "eos_token" | "unk_token") => Some("<|endoftext|>"),
        ("Qwen2Tokenizer", "eos_token" | "unk_token" | "pad_token") => Some("<|endoftext|>"),
        ("LlamaTokenizer", "bos_token") => Some("<s>"),
        ("LlamaTokenizer", "eos_token") => Some("</s>"),
        ("LlamaTokenizer", "unk_token") => Some("<unk>"),
        _ => None,
    }
}

fn vocab_id(tokenizer: &Json, token: &str) -> Option<u64> {
    match tokenizer.get("model")?.get("vocab")? {
        Json::Object(map) => map.get(token)?.as_u64(),
        Json::Array(list) => list
            .iter()
            .position(|entry| entry.get(0).and_then(Json::as_str) == Some(token))
            .map(|i| i as u64),
        _ => None,
    }
}

fn vocab_size(tokenizer: &Json) -> u64 {
    match tokenizer.get("model").and_then(|m| m.get("vocab")) {
        Some(Json::Object(map)) => map.len() as u64,
        Some(Json::Array(list)) => list.len() as u64,
        _ => 0,
    }
}

fn added(tokenizer: &Json) -> &[Json] {
    tokenizer
        .get("added_tokens")
        .and_then(Json::as_array)
        .map_or(&[], Vec::as_slice)
}

fn id_of(tokenizer: &Json, token: &str) -> Option<u64> {
    let entry = added(tokenizer)
        .iter()
        .find(|t| t.get("content").and_then(Json::as_str) == Some(token));
    match entry {
        Some(entry) => entry.get("id")?.as_u64(),
        None => vocab_id(tokenizer, token),
    }
}

fn add_tokens(tokenizer: &mut Json, config: &Json, roles: &Roles) -> Result<(), String> {
    let mut wanted: Vec<(u64, Json)> = Vec::new();
    let decoder = config.get("added_tokens_decoder").and_then(Json::as_object);
    for (id, token) in decoder.into_iter().flatten() {
        let id: u64 = id
            .parse()
            .map_err(|_| format!("added_tokens_decoder of tokenizer_config.json: id {id:?}"))?;
        if token
            .get("content")
            .and_then(Json::as_str)
            .is_some_and(|t| !t.is_empty())
        {
            wanted.push((id, token.clone()));
        }
    }
    wanted.sort_by_key(|(id, _)| *id);
    let mut wanted: Vec<Json> = wanted.into_iter().map(|(_, token)| token).collect();
    let known = |wanted: &[Json], text: &str| {
        let is = |t: &Json| t.get("content").and_then(Json::as_str) == Some(text);
        wanted.iter().any(is) || added(tokenizer).iter().any(is)
    };
    let mut named: Vec<&str> = roles.values().map(String::as_str).collect();
    for list in ["additional_special_tokens", "extra_special_tokens"] {
        let list = config.get(list).and_then(Json::as_array);
        named.extend(list.into_iter().flatten().filter_map(|t| {
            t.as_str()
                .or_else(|| t.get("content").and_then(Json::as_str))
        }));
    }
    for text in named {
        if !text.is_empty() && !known(&wanted, text) {
            wanted.push(json!({"content": text, "normalized": false, "special": true}));
        }
    }
    let mut list: Vec<Json> = added(tokenizer).to_vec();
    let size = vocab_size(tokenizer);
    for token in wanted {
        let text = token
            .get("content")
            .and_then(Json::as_str)
            .unwrap_or("")
            .to_string();
        let flag = |name: &str| token.get(name).and_then(Json::as_bool).unwrap_or(false);
        let place = list
            .iter()
            .position(|t| t.get("content").and_then(Json::as_str) == Some(text.as_str()));
        let id = match place {
            Some(i) => list[i].get("id").and_then(Json::as_u64).unwrap_or(0),
            None => vocab_id(tokenizer, &text).unwrap_or_else(|| {
                let ids = list
                    .iter()
                    .filter_map(|t| t.get("id").and_then(Json::as_u64));
                ids.max().map_or(size, |max| size.max(max + 1))
            }),
        };
        let entry = json!({"id": id, "content": text, "single_word": flag("single_word"),
            "lstrip": flag("lstrip"), "rstrip": flag("rstrip"),
            "normalized": flag("normalized"), "special": flag("special")});
        match place {
            Some(i) => list[i] = entry,
            None => list.push(entry),
        }
    }
    list.sort_by_key(|t| t.get("id").and_then(Json::as_u64));
    tokenizer["added_tokens"] = Json::Array(list);
    Ok(())
}

// Where the config says whether a bos or an eos is added, that is all the post-processor does.
fn post_processor(tokenizer: &mut Json, config: &Json, roles: &Roles) {
    if config.get("add_bos_token").is_none() && config.get("add_eos_token").is_none() {
        return;
    }
    let wanted = |flag: &str, role: &str| {
        let on = config.get(flag).and_then(Json::as_bool).unwrap_or(false);
        let token = roles.get(role).filter(|_| on)?;
        Some((token.clone(), id_of(tokenizer, token)?))
    };
    let bos = wanted("add_bos_token", "bos_token");
    let eos = wanted("add_eos_token", "eos_token");
    let special = |token: &Option<(String, u64)>, sequence: u64| {
        token
            .as_ref()
            .map(|(text, _)| json!({"SpecialToken": {"id": text, "type_id": sequence}}))
    };
    let side = |name: &str, sequence: u64| -> Vec<Json> {
        [
            special(&bos, sequence),
            Some(json!({"Sequence": {"id": name, "type_id": sequence}})),
            special(&eos, sequence),
        ]
        .into_iter()
        .flatten()
        .collect()
    };
    let tokens: serde_json::Map<String, Json> = [&bos, &eos]
        .into_iter()
        .flatten()
        .map(|(text, id)| {
            (
                text.clone(),
                json!({"id": text, "ids": [id], "tokens": [text]}),
            )
        })
        .collect();
    let (single, mut pair) = (side("A", 0), side("A", 0));
    pair.extend(side("B", 1));
    tokenizer["post_processor"] = json!({"type": "TemplateProcessing", "single": single,
        "pair": pair, "special_tokens": tokens});
}
