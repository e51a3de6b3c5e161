#!/usr/bin/env python3
"""Writes the tokenizers of tests/fixtures/text, each with what the Python library makes of some texts:

  missing_bytes.json  a byte-level one as small models that people train themselves have it, without
                      all 256 bytes
  byte_level.json     one made as Qwen's are: NFC, its expression for words, all bytes
  fallback.json       one made as Llama's are: a space in front, bytes for what it has no token for

pip install tokenizers==0.23.3, then: tools/make_tokenizer_fixture.py
"""
import json
import pathlib

from tokenizers import (Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors,
                        trainers)

OUT = pathlib.Path(__file__).resolve().parent.parent / "tests" / "fixtures" / "text"
CORPUS = ["the cat sat on the mat and the dog sat on the cat",
          "a small model that people train themselves", "numbers 1 2 3"]
LONGER = CORPUS + ["Once upon a time there was a little girl who didn't like the rain.",
                   "std::vector and std::map: a::b, c::d", "What is it? It is the one thing that they're waiting for, said the user.",
                   "hello world, hello there: the answer is 12345 and the rest is nothing!",
                   "the user asks and the assistant answers, the user asks again\n\n"] * 3
TEXTS = ["the cat sat", "<|im_start|>user\nthe dog<|im_end|>", "a model, 1 2 3!", "naïve ☃ Zebra",
         "  two  spaces\n\n", "", "people train themselves"]
MORE = TEXTS + ["e\u0301 and é", "they're DIDN'T 12345", "\t\r\n x \x01", "日本語 👨\u200d👩\u200d👧", "<s>hello</s>"]
CHAT = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
WORDS = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
         r"|\s*[\r\n]+|\s+(?!\S)|\s+")


def write(name, tokenizer, texts, config=None):
    ids = [tokenizer.encode(t, add_special_tokens=False).ids for t in texts]
    special = [tokenizer.encode(t, add_special_tokens=True).ids for t in texts]
    decoded = [tokenizer.decode(i, skip_special_tokens=False) for i in ids]
    cases = [{"text": t, "ids": i, "decoded": d} for t, i, d in zip(texts, ids, decoded)]
    out = {"tokenizer": json.loads(tokenizer.to_str()), "cases": cases}
    if config is not None:
        out["config"] = config
        for case, i in zip(cases, special):
            case["with_special"] = i
    (OUT / name).write_text(json.dumps(out, ensure_ascii=False) + "\n")


def missing_bytes():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=90, show_progress=False, special_tokens=CHAT)
    tokenizer.train_from_iterator(CORPUS, trainer)
    write("missing_bytes.json", tokenizer, TEXTS)


def byte_level():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(WORDS), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=380, show_progress=False, special_tokens=CHAT,
                                  initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))
    tokenizer.train_from_iterator(LONGER, trainer)
    write("byte_level.json", tokenizer, MORE,
          {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "bos_token": None})


def fallback():
    special = ["<unk>", "<s>", "</s>"]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    trainer = trainers.BpeTrainer(vocab_size=400, show_progress=False, max_token_length=8,
                                  special_tokens=special + [f"<0x{b:02X}>" for b in range(256)])
    tokenizer.train_from_iterator([w for line in LONGER for w in line.split()], trainer)
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(),
                                           decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)])
    file = json.loads(tokenizer.to_str())  # the bytes are plain tokens
    file["added_tokens"] = file["added_tokens"][:len(special)]
    tokenizer = Tokenizer.from_str(json.dumps(file))
    write("fallback.json", tokenizer, MORE,
          {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>",
           "unk_token": "<unk>", "add_bos_token": True, "add_eos_token": False})


def main():
    missing_bytes()
    byte_level()
    fallback()


if __name__ == "__main__":
    main()
