#!/usr/bin/env python3
"""A base folder and an adapter folder in real PEFT: logits and a greedy continuation.

    check_peft.py --pretrained M --adapter A --input tokens.jsonl [--max_new_tokens 16]
    check_peft.py --pretrained M --adapter A --input tokens.jsonl --compare hone_logits.safetensors

tokens.jsonl has one JSON list of token ids a line. Prints one JSON line for each: "tokens",
"logits" (of the last position; with --all_logits of all), "greedy". --compare takes what
`hone logits` wrote for the same input and prints the largest error instead, max|a - b| / max|b| of
each sequence, and fails if one exceeds --tolerance. Without --adapter the base model is run.
"""
import argparse
import json
import os
import sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import torch
import transformers
from transformers import AutoModelForCausalLM


def load(args):
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[args.dtype]
    model = AutoModelForCausalLM.from_pretrained(args.pretrained, dtype=dtype)
    if args.adapter:
        import peft
        import safetensors.torch

        model = peft.PeftModel.from_pretrained(model, args.adapter)
        # PEFT only warns of tensors that it did not find or does not know: make that an error.
        saved = set(safetensors.torch.load_file(
            os.path.join(args.adapter, "adapter_model.safetensors")))
        known = set(peft.get_peft_model_state_dict(model))
        if saved != known:
            sys.exit(f"not in the adapter: {sorted(known - saved)}; "
                     f"unknown to PEFT: {sorted(saved - known)}")
    return model.eval()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--pretrained", required=True)
    parser.add_argument("--adapter")
    parser.add_argument("--input", required=True)
    parser.add_argument("--dtype", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--max_new_tokens", type=int, default=16)
    parser.add_argument("--all_logits", action="store_true")
    parser.add_argument("--compare")
    parser.add_argument("--tolerance", type=float, default=1e-5)
    args = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()

    with open(args.input) as f:
        sequences = [json.loads(line) for line in f if line.strip()]
    model = load(args)
    theirs = None
    if args.compare:
        import safetensors.torch

        theirs = safetensors.torch.load_file(args.compare)
    worst = 0.0
    for i, tokens in enumerate(sequences):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([tokens])).logits[0].float()
            if theirs is not None:
                other = theirs[str(i)].float()
                if other.shape != logits.shape:
                    sys.exit(f"sequence {i}: shape {tuple(other.shape)}, not "
                             f"{tuple(logits.shape)}")
                error = float((other - logits).abs().max() / logits.abs().max())
                worst = max(worst, error)
                print(json.dumps(dict(sequence=i, tokens=len(tokens), error=error)))
                continue
            greedy = list(tokens)
            for _ in range(args.max_new_tokens):
                out = model(input_ids=torch.tensor([greedy])).logits[0, -1]
                greedy.append(int(out.argmax()))
        print(json.dumps(dict(tokens=tokens, greedy=greedy[len(tokens):],
                              logits=(logits if args.all_logits else logits[-1]).tolist())))
    if theirs is not None and not worst <= args.tolerance:
        sys.exit(f"error {worst:.2e} is above {args.tolerance:.0e}")


if __name__ == "__main__":
    main()
