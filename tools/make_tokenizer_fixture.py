#!/usr/bin/env python3
"""Writes tests/fixtures/text/missing_bytes.json: a byte-level tokenizer as small models that people
train themselves have it, without all 256 bytes, and what the Python library makes of some texts.

pip install tokenizers==0.23.3, then: tools/make_tokenizer_fixture.py
"""
import json
import pathlib

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

OUT = pathlib.Path(__file__).resolve().parent.parent / "tests" / "fixtures" / "text"
TEXTS = ["the cat sat", "<|im_start|>user\nthe dog<|im_end|>", "a model, 1 2 3!", "naïve ☃ Zebra",
         "  two  spaces\n\n", "", "people train themselves"]


def main():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=90, show_progress=False,
                                  special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    tokenizer.train_from_iterator(["the cat sat on the mat and the dog sat on the cat",
                                   "a small model that people train themselves", "numbers 1 2 3"],
                                  trainer)
    ids = [tokenizer.encode(t, add_special_tokens=False).ids for t in TEXTS]
    texts = [tokenizer.decode(i, skip_special_tokens=False) for i in ids]
    cases = [{"text": t, "ids": i, "decoded": d} for t, i, d in zip(TEXTS, ids, texts)]
    out = {"tokenizer": json.loads(tokenizer.to_str()), "cases": cases}
    (OUT / "missing_bytes.json").write_text(json.dumps(out, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
