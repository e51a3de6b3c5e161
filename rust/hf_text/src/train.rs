//! Training a byte-level BPE.

use std::collections::HashMap;

use serde_json::{json, Value as Json};
use tokenizers::pipeline::PreTokenizer;
use tokenizers::trainers::BpeTrainer;
use tokenizers::vocab::bucket_added_vocabulary::AddedToken;
use tokenizers::Trainer;

use crate::tokenizer::byte_alphabet;

// Qwen2's cutting: contractions, words with one leading non-letter, digits one by one, punctuation
// with trailing line ends, line ends, spaces.
const SPLIT: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// options: {"vocab_size", "min_frequency", "special_tokens": [..]}. Returns a tokenizer.json as
/// transformers reads it.
pub fn train(texts: &[&str], options: &str) -> Result<String, String> {
    let options: Json = serde_json::from_str(options).map_err(|e| e.to_string())?;
    let number = |name: &str| options.get(name).and_then(Json::as_u64).unwrap_or(0);
    let specials: Vec<String> = options
        .get("special_tokens")
        .and_then(Json::as_array)
        .map(|list| {
            list.iter()
                .filter_map(Json::as_str)
                .map(str::to_string)
                .collect()
        })
        .unwrap_or_default();
    let alphabet: HashMap<u8, char> = byte_alphabet().collect();
    let mut trainer = BpeTrainer::builder()
        .vocab_size(number("vocab_size") as usize)
        .min_frequency(number("min_frequency"))
        .show_progress(false)
        .special_tokens(
            specials
                .iter()
                .map(|s| AddedToken::from(s.as_str(), true))
                .collect(),
        )
        .initial_alphabet(alphabet.values().copied().collect())
        .build();

    // The cutting is that of a tokenizer with the same pre-tokenizer and no merges yet.
    let bytes: Vec<String> = byte_alphabet().map(|(_, c)| c.to_string()).collect();
    let bare = document(&bytes, &[], &[]);
    let mut canonical = bare.clone();
    tokenizers::canonicalize_value(&mut canonical).map_err(|e| e.to_string())?;
    let cutter = tokenizers::from_json(&canonical.to_string()).map_err(|e| e.to_string())?;
    let cut = |text: &str| -> tokenizers::Result<Vec<String>> {
        let mut spans = Vec::new();
        let mut scratch = Default::default();
        cutter
            .get_pre_tokenizer()
            .pre_tokenize(text, &mut scratch, &mut spans)?;
        Ok(spans
            .iter()
            .map(|s| text[s.range()].bytes().map(|b| alphabet[&b]).collect())
            .collect())
    };
    trainer.feed(texts.iter(), cut).map_err(|e| e.to_string())?;
    let (vocab, merges, _) = trainer.train_vocab().map_err(|e| e.to_string())?;
    let mut tokens: Vec<(u32, String)> = vocab
        .iter()
        .map(|(token, id)| (*id, token.to_string()))
        .collect();
    tokens.sort();
    if tokens
        .iter()
        .enumerate()
        .any(|(i, (id, _))| i as u32 != *id)
    {
        return Err("the trained vocabulary has holes".into());
    }
    let tokens: Vec<String> = tokens.into_iter().map(|(_, token)| token).collect();
    let merges: Vec<(String, String)> = merges
        .iter()
        .map(|(a, b)| (a.to_string(), b.to_string()))
        .collect();
    serde_json::to_string_pretty(&document(&tokens, &merges, &specials)).map_err(|e| e.to_string())
}

fn document(tokens: &[String], merges: &[(String, String)], specials: &[String]) -> Json {
    let vocab: serde_json::Map<String, Json> = tokens
        .iter()
        .enumerate()
        .map(|(i, t)| (t.clone(), json!(i)))
        .collect();
    let added: Vec<Json> = specials
        .iter()
        .enumerate()
        .map(|(id, content)| {
            json!({"id": id, "content": content, "single_word": false, "lstrip": false,
                   "rstrip": false, "normalized": false, "special": true})
        })
        .collect();
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": null,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": SPLIT}, "behavior": "Isolated", "invert": false},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false,
             "use_regex": false}]},
        "post_processor": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false,
                           "use_regex": false},
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false,
                    "use_regex": false},
        "model": {"type": "BPE", "dropout": null, "unk_token": null,
                  "continuing_subword_prefix": "", "end_of_word_suffix": "", "fuse_unk": false,
                  "byte_fallback": false, "ignore_merges": false, "vocab": vocab,
                  "merges": merges.iter().map(|(a, b)| json!([a, b])).collect::<Vec<_>>()},
    })
}
