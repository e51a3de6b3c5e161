#!/usr/bin/env python3
"""The rival: transformers + PEFT (+ TRL for data preparation) on the CPU, one job a process.

    rival_transformers.py model    --out M --tokenizer ../shared/assets/tok-qwen
    rival_transformers.py data     --gsm8k train.jsonl --chats chats.jsonl --prompts prompts.jsonl
    rival_transformers.py train    --model M --data chats.jsonl --steps 6 --checkpointing
    rival_transformers.py generate --model M --prompts prompts.jsonl
    rival_transformers.py prepare  --model M --data chats.jsonl

Every job prints its progress to stderr and one line of JSON to stdout.
"""
import argparse
import json
import os
import statistics
import sys
import tempfile
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import rival_inputs


def peak_rss():
    """VmHWM in bytes: the peak of resident pages, mapped files included."""
    with open("/proc/self/status") as f:
        for line in f:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    raise RuntimeError("no VmHWM in /proc/self/status")


def log(text):
    print(text, file=sys.stderr, flush=True)


def setup_torch(threads):
    import torch
    import transformers

    torch.set_num_threads(threads or len(os.sched_getaffinity(0)))
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return torch


# ---- train --------------------------------------------------------------------------------------


def encode_chat(tokenizer, messages, max_length, assistant_only):
    """Token ids, and labels: all tokens, or those of the answer and its end-of-turn token."""
    ids = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True)["input_ids"]
    labels = list(ids)
    if assistant_only:
        prompt = tokenizer.apply_chat_template(messages[:-1], tokenize=True, return_dict=True,
                                               add_generation_prompt=True)["input_ids"]
        assert ids[:len(prompt)] == prompt
        end = len(ids) - ids[::-1].index(tokenizer.eos_token_id)
        labels = [-100] * len(prompt) + ids[len(prompt):end] + [-100] * (len(ids) - end)
    return ids[:max_length], labels[:max_length]


def collate(torch, samples, pad):
    longest = max(len(ids) for ids, _ in samples)
    def rows(values):
        return torch.tensor(values)
    return dict(
        input_ids=rows([ids + [pad] * (longest - len(ids)) for ids, _ in samples]),
        attention_mask=rows([[1] * len(ids) + [0] * (longest - len(ids)) for ids, _ in samples]),
        labels=rows([labels + [-100] * (longest - len(labels)) for _, labels in samples]))


def train(args):
    torch = setup_torch(args.threads)
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(args.model)
    chats = rival_inputs.read_jsonl(args.data)[:args.steps * args.batch_size]
    samples = [encode_chat(tokenizer, c["messages"], args.max_length, args.train_on != "all")
               for c in chats]
    dtype = torch.float32 if args.dtype == "fp32" else torch.bfloat16
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=dtype)
    model.config.use_cache = False
    if args.kind == "lora":
        import peft

        config = peft.LoraConfig(r=args.lora_rank, lora_alpha=args.lora_alpha, lora_dropout=0.0,
                                 target_modules="all-linear", task_type="CAUSAL_LM")
        model = peft.get_peft_model(model, config, autocast_adapter_dtype=not args.adapters_bf16)
    if args.checkpointing:
        model.gradient_checkpointing_enable()
        if args.kind == "lora":
            model.enable_input_require_grads()
    model.train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=args.lr, betas=(0.9, 0.95), eps=1e-8,
                                  weight_decay=0.1, fused=True)
    log(f"{sum(p.numel() for p in parameters)} trained parameters in "
        f"{sorted({str(p.dtype) for p in parameters})}")
    rates, losses = [], []
    for step in range(args.steps):
        part = samples[step * args.batch_size:(step + 1) * args.batch_size]
        start = time.perf_counter()
        batch = collate(torch, part, tokenizer.pad_token_id)
        loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(float(loss.detach()))
        seconds = time.perf_counter() - start
        tokens = sum(len(ids) for ids, _ in part)
        padded = batch["input_ids"].numel()
        rates.append(tokens / seconds)
        log(f"step {step + 1}: loss {losses[-1]:.4f}, {tokens} tokens ({padded} with padding), "
            f"{seconds:.2f} s, {rates[-1]:.1f} tokens/s")
    return dict(tokens_per_second=statistics.median(rates[1:] or rates), rates=rates,
                losses=losses, peak_rss=peak_rss(), trained=sum(p.numel() for p in parameters))


# ---- generate -----------------------------------------------------------------------------------


def generate(args):
    torch = setup_torch(args.threads)
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(args.model, padding_side="left")
    prompts = [p["messages"] for p in rival_inputs.read_jsonl(args.prompts)][:args.streams]
    dtype = torch.float32 if args.dtype == "fp32" else torch.bfloat16
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=dtype).eval()
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    inputs = tokenizer.apply_chat_template(prompts, tokenize=True, add_generation_prompt=True,
                                           return_dict=True, padding=True, return_tensors="pt")
    with torch.inference_mode():
        model.generate(**inputs, max_new_tokens=2, do_sample=False)
        rates = []
        for _ in range(args.repeats):
            start = time.perf_counter()
            out = model.generate(**inputs, max_new_tokens=args.max_new_tokens, do_sample=False)
            seconds = time.perf_counter() - start
            made = out.shape[1] - inputs["input_ids"].shape[1]
            assert made == args.max_new_tokens, made
            rates.append(made * len(prompts) / seconds)
            log(f"{len(prompts)} x {made} tokens, prompts of {inputs['input_ids'].shape[1]} with "
                f"padding, {seconds:.2f} s, {rates[-1]:.1f} tokens/s")
    return dict(tokens_per_second=statistics.median(rates), rates=rates, streams=len(prompts),
                prompt_tokens=int(inputs["attention_mask"].sum()), peak_rss=peak_rss())


# ---- prepare ------------------------------------------------------------------------------------


def prepare(args):
    """TRL's preparation inside SFTTrainer: chat template, tokens, assistant masks, packing. The
    trainer's constructor runs it; only reading the file and that method are timed."""
    torch = setup_torch(args.threads)
    import datasets
    import trl
    from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Config

    datasets.disable_caching()
    datasets.disable_progress_bars()
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model = AutoModelForCausalLM.from_config(Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1))
    inner, seconds = trl.SFTTrainer._prepare_dataset, []

    def timed(self, *a, **k):
        start = time.perf_counter()
        result = inner(self, *a, **k)
        seconds.append(time.perf_counter() - start)
        return result

    trl.SFTTrainer._prepare_dataset = timed
    with tempfile.TemporaryDirectory() as cache:
        start = time.perf_counter()
        data = datasets.load_dataset("json", data_files=args.data, split="train", cache_dir=cache)
        read = time.perf_counter() - start
        config = trl.SFTConfig(output_dir=cache, max_length=args.max_length, packing=True,
                               assistant_only_loss=True, dataset_num_proc=args.processes,
                               report_to=[], use_cpu=True, bf16=False)
        trainer = trl.SFTTrainer(model=model, args=config, train_dataset=data,
                                 processing_class=tokenizer)
        rows = len(trainer.train_dataset)
        tokens = sum(len(r) for r in trainer.train_dataset["input_ids"])
    return dict(seconds=seconds[0], read_seconds=read, samples=len(data), packed_rows=rows,
                tokens=tokens, processes=args.processes or 1, peak_rss=peak_rss())


# ---- command line -------------------------------------------------------------------------------


def make_model(args):
    return dict(parameters=rival_inputs.make_model(args.out, args.tokenizer, args.layers))


def make_data(args):
    return dict(samples=rival_inputs.make_data(args.gsm8k, args.chats, args.prompts))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    jobs = parser.add_subparsers(dest="job", required=True)

    p = jobs.add_parser("model", help="a folder of random weights at the Qwen2.5-0.5B shape")
    p.add_argument("--out", required=True)
    p.add_argument("--tokenizer", default="../shared/assets/tok-qwen")
    p.add_argument("--layers", type=int, help="fewer layers, for a quick trial")
    p.set_defaults(run=make_model)

    p = jobs.add_parser("data", help="GSM8K as chats and as prompts")
    p.add_argument("--gsm8k", default="../shared/assets/math/gsm8k_train.jsonl")
    p.add_argument("--chats", required=True)
    p.add_argument("--prompts", required=True)
    p.set_defaults(run=make_data)

    p = jobs.add_parser("train")
    p.add_argument("--model", required=True)
    p.add_argument("--data", required=True)
    p.add_argument("--kind", choices=["lora", "full"], default="lora")
    p.add_argument("--dtype", choices=["bf16", "fp32"], default="bf16")
    p.add_argument("--adapters_bf16", action="store_true", help="autocast_adapter_dtype=False")
    p.add_argument("--checkpointing", action="store_true")
    p.add_argument("--steps", type=int, default=6)
    p.add_argument("--batch_size", type=int, default=8)
    p.add_argument("--max_length", type=int, default=256)
    p.add_argument("--lora_rank", type=int, default=8)
    p.add_argument("--lora_alpha", type=int, default=16)
    p.add_argument("--lr", type=float, default=2e-5)
    p.add_argument("--train_on", choices=["assistant", "all"], default="assistant")
    p.set_defaults(run=train)

    p = jobs.add_parser("generate")
    p.add_argument("--model", required=True)
    p.add_argument("--prompts", required=True)
    p.add_argument("--dtype", choices=["bf16", "fp32"], default="bf16")
    p.add_argument("--streams", type=int, default=16)
    p.add_argument("--max_new_tokens", type=int, default=64)
    p.add_argument("--repeats", type=int, default=1)
    p.set_defaults(run=generate)

    p = jobs.add_parser("prepare")
    p.add_argument("--model", required=True)
    p.add_argument("--data", required=True)
    p.add_argument("--max_length", type=int, default=256)
    p.add_argument("--processes", type=int, help="dataset_num_proc")
    p.set_defaults(run=prepare)

    for p in jobs.choices.values():
        p.add_argument("--threads", type=int, help="default: all cores")
    args = parser.parse_args()
    print(json.dumps(args.run(args)), flush=True)


if __name__ == "__main__":
    main()
