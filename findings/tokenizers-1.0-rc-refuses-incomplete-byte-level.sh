#!/bin/sh
# Crate tokenizers 1.0.0-rc.3 (its new pipeline) against 0.23.2 (what transformers has).
# A byte-level BPE whose vocabulary hasn't got all 256 bytes, as the library's own trainer makes it
# from a small text where no initial alphabet is given:
#   0.23.2      reads it, and leaves out characters that have no token
#   1.0.0-rc.3  refuses the file: "This byte-level vocabulary has no token for bytes 0x00, ..."
# So a tokenizer that works with transformers today can't be loaded by a program on the new crate.
# Seen 2026-11-28 with the two versions below. Exits 1 if that changes.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mkdir "$folder/src"
cat > "$folder/Cargo.toml" << 'EOF'
[package]
name = "finding"
version = "0.1.0"
edition = "2021"
[dependencies]
new = { package = "tokenizers", version = "=1.0.0-rc.3", default-features = false, features = ["bpe", "regex"] }
old = { package = "tokenizers", version = "=0.23.2", default-features = false, features = ["fancy-regex"] }
serde_json = { version = "1", features = ["preserve_order"] }
EOF
cat > "$folder/src/main.rs" << 'EOF'
fn main() {
    // "a", "b", the space as byte-level writes it, and one merge
    let json = r#"{"version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": null, "post_processor": null, "decoder": {"type": "ByteLevel",
        "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
        "use_regex": true}, "model": {"type": "BPE", "dropout": null, "unk_token": null,
        "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": false,
        "byte_fallback": false, "ignore_merges": false,
        "vocab": {"a": 0, "b": 1, "\u0120": 2, "ab": 3}, "merges": [["a", "b"]]}}"#;
    let old = old::Tokenizer::from_bytes(json.as_bytes()).expect("0.23.2 reads it");
    let ids = old.encode("ab xa", false).unwrap().get_ids().to_vec();
    println!("0.23.2: \"ab xa\" is {ids:?}");
    // As the new crate asks for files of version 1.0: converted first.
    let mut value: serde_json::Value = serde_json::from_str(json).unwrap();
    new::canonicalize_value(&mut value).expect("it is converted");
    let new = new::from_json(&value.to_string()).map(|_| ()).map_err(|e| e.to_string());
    println!("1.0.0-rc.3: {:.70}", format!("{new:?}"));
    assert_eq!(ids, [3, 2, 0]);
    assert!(new.unwrap_err().contains("has no token for bytes"));
}
EOF
cargo run --quiet --release --manifest-path "$folder/Cargo.toml"
