"""Fixtures of tests/app_dpo_test.cpp and app_kto_test.cpp: ten steps of TRL's DPOTrainer and KTOTrainer on a tiny model in fp32.

    python3 tools/golden_preference.py --out tests/fixtures/preference      # --check compares only

needs torch, transformers 5.23, trl 1.16, peft 0.21. Everything is seeded. A folder `model` with a byte tokenizer, two adapters of it (`adapter`, of
random values, and `adapter0`, whose B is zero), `pairs.jsonl` with `trl.json` and `labels.jsonl` with `trl_kto.json`: for each run its flags for hone dpo
or hone kto and what TRL logged step by step."""

import argparse
import json
import os
import random
import shutil
import tempfile

os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["CI"] = "1"
import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch.utils.data import SequentialSampler
from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer

SPECIAL = ["<|im_start|>", "<|im_end|>", "<|pad|>"]
CHATML = ("{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
          "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")
METRICS = ["loss", "grad_norm", "rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins", "logps/chosen", "logps/rejected", "kl"]


def byte_symbols():
    printable = list(range(33, 127)) + list(range(0xA1, 0xAD)) + list(range(0xAE, 0x100))
    symbols, n = {}, 0
    for b in range(256):
        if b in printable:
            symbols[b] = chr(b)
        else:
            symbols[b] = chr(256 + n)
            n += 1
    return symbols


def write_tokenizer(folder):
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    added = [{"id": 256 + i, "content": s, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
             for i, s in enumerate(SPECIAL)]
    model = {"type": "BPE", "dropout": None, "unk_token": None, "byte_fallback": False, "fuse_unk": False, "ignore_merges": False,
             "vocab": {s: b for b, s in byte_symbols().items()}, "merges": []}
    json.dump({"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None, "pre_tokenizer": level,
               "post_processor": level, "decoder": level, "model": model}, open(f"{folder}/tokenizer.json", "w"))
    json.dump({"eos_token": "<|im_end|>", "pad_token": "<|pad|>", "chat_template": CHATML, "tokenizer_class": "PreTrainedTokenizerFast"},
              open(f"{folder}/tokenizer_config.json", "w"))


def write_model(folder):
    torch.manual_seed(1)
    config = Qwen2Config(vocab_size=260, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
                         max_position_embeddings=256, tie_word_embeddings=True, eos_token_id=257, bos_token_id=None, pad_token_id=258,
                         initializer_range=0.2, dtype="float32")
    model = Qwen2ForCausalLM(config)
    model.save_pretrained(folder)
    write_tokenizer(folder)
    for name in ("generation_config.json",):
        if os.path.exists(f"{folder}/{name}"):
            os.remove(f"{folder}/{name}")


def write_adapters(out):
    for name, zero in (("adapter", False), ("adapter0", True)):
        torch.manual_seed(2)
        model = get_peft_model(Qwen2ForCausalLM.from_pretrained(f"{out}/model"), LoraConfig(r=2, lora_alpha=4, target_modules="all-linear", task_type="CAUSAL_LM"))
        model.save_pretrained(f"{out}/{name}")
        os.remove(f"{out}/{name}/README.md") if os.path.exists(f"{out}/{name}/README.md") else None
        path = f"{out}/{name}/adapter_model.safetensors"
        tensors = load_file(path)
        if not zero:
            tensors = {k: (torch.randn_like(v) * 0.1 if "lora_B" in k else v).contiguous() for k, v in sorted(tensors.items())}
        save_file(tensors, path, metadata={"format": "pt"})
        config = json.load(open(f"{out}/{name}/adapter_config.json"))
        config["base_model_name_or_path"] = "model"
        json.dump(config, open(f"{out}/{name}/adapter_config.json", "w"), indent=1, sort_keys=True)


def write_pairs(out):
    rng = random.Random(3)
    words = ["red", "green", "blue", "one", "two", "three", "cat", "dog", "fish", "runs", "sleeps", "swims"]
    def text(n):
        return " ".join(rng.choice(words) for _ in range(n))
    with open(f"{out}/pairs.jsonl", "w") as f:
        for i in range(40):
            prompt = text(rng.randint(1, 5)) + "? "
            f.write(json.dumps({"prompt": prompt, "chosen": text(rng.randint(1, 6)) + ".", "rejected": text(rng.randint(1, 6)) + "!"}) + "\n")


    with open(f"{out}/labels.jsonl", "w") as f:
        for i in range(40):
            f.write(json.dumps({"prompt": text(rng.randint(1, 5)) + "? ", "completion": text(rng.randint(1, 6)) + ".", "label": rng.random() < 0.6}) + "\n")


class InOrder(DPOTrainer):
    def _get_train_sampler(self, dataset=None):
        return SequentialSampler(self.train_dataset)


class KtoInOrder(KTOTrainer):
    def _get_train_sampler(self, dataset=None):
        return SequentialSampler(self.train_dataset)


def trl_run(out, data, make_config, make_trainer, adapter, **options):
    rows = [json.loads(line) for line in open(f"{out}/{data}")]
    tokenizer = AutoTokenizer.from_pretrained(f"{out}/model")
    model = Qwen2ForCausalLM.from_pretrained(f"{out}/model", dtype=torch.float32, attn_implementation="eager")
    if adapter:
        model = PeftModel.from_pretrained(model, f"{out}/{adapter}", is_trainable=True)
    with tempfile.TemporaryDirectory() as scratch:
        config = make_config(output_dir=scratch, per_device_train_batch_size=4, gradient_accumulation_steps=1, max_steps=10, learning_rate=1e-3,
                           lr_scheduler_type="constant", warmup_steps=0, optim="adamw_torch", adam_beta1=0.9, adam_beta2=0.95, adam_epsilon=1e-8,
                           weight_decay=0.0, max_grad_norm=1.0, logging_steps=1, bf16=False, fp16=False, gradient_checkpointing=False, max_length=256,
                           report_to=[], save_strategy="no", seed=1, use_cpu=True, disable_tqdm=True, disable_dropout=True, dataloader_pin_memory=False, **options)
        trainer = make_trainer(model=model, args=config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)
        trainer.train()
        log = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(log) == 10, len(log)
    # null: not logged in that step
    return {name: [entry.get(name) for entry in log] for name in METRICS if any(name in entry for entry in log)}


RUNS = {
    "full_sigmoid": (None, dict(loss_type="sigmoid", beta=0.1), ["--loss", "sigmoid"]),
    "lora_sigmoid": ("adapter", dict(loss_type="sigmoid", beta=0.3), ["--loss", "sigmoid", "--beta", "0.3"]),
    "lora_base": ("adapter0", dict(loss_type="sigmoid", beta=0.5), ["--loss", "sigmoid", "--beta", "0.5", "--reference", "base"]),
    "full_sum": (None, dict(loss_type=["sigmoid", "bco_pair", "sft"], loss_weights=[0.8, 0.2, 1.0], beta=0.2),
                 ["--loss", "sigmoid,bco_pair,sft", "--loss_weights", "0.8,0.2,1", "--beta", "0.2"]),
    "full_ipo": (None, dict(loss_type="ipo", beta=0.2), ["--loss", "ipo", "--beta", "0.2"]),
    "full_aot": (None, dict(loss_type="aot_unpaired", beta=0.5, label_smoothing=0.1), ["--loss", "aot_unpaired", "--beta", "0.5", "--label_smoothing", "0.1"]),
    "full_js": (None, dict(loss_type="sigmoid", beta=0.5, f_divergence_type="js_divergence"), ["--beta", "0.5", "--f_divergence_type", "js_divergence"]),
    "full_ld": (None, dict(loss_type="sigmoid", beta=0.5, ld_alpha=0.5), ["--beta", "0.5", "--ld_alpha", "0.5"]),
}

KTO_RUNS = {
    "full_kto": (None, dict(loss_type="kto", beta=0.1), ["--loss", "kto"]),
    "lora_kto": ("adapter", dict(loss_type="kto", beta=0.3, desirable_weight=1.33, undesirable_weight=0.5),
                 ["--beta", "0.3", "--desirable_weight", "1.33", "--undesirable_weight", "0.5"]),
    "lora_base": ("adapter0", dict(loss_type="kto", beta=0.5), ["--beta", "0.5", "--reference", "base"]),
    "full_apo": (None, dict(loss_type="apo_zero_unpaired", beta=0.2), ["--loss", "apo_zero_unpaired", "--beta", "0.2"]),
}


def make(out):
    os.makedirs(f"{out}/model", exist_ok=True)
    write_model(f"{out}/model")
    write_adapters(out)
    write_pairs(out)
    for file, data, config, trainer, chosen in (("trl.json", "pairs.jsonl", DPOConfig, InOrder, RUNS),
                                                ("trl_kto.json", "labels.jsonl", KTOConfig, KtoInOrder, KTO_RUNS)):
        runs = {}
        for name, (adapter, options, flags) in chosen.items():
            print(name, flush=True)
            runs[name] = {"adapter": adapter or "", "flags": flags, **trl_run(out, data, config, trainer, adapter, **options)}
            if options["loss_type"] == "apo_zero_unpaired":
                del runs[name]["kl"]  # it has none; TRL logs 0
        json.dump(runs, open(f"{out}/{file}", "w"), indent=1)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", default="tests/fixtures/preference")
    parser.add_argument("--check", action="store_true", help="make it elsewhere and compare the numbers")
    args = parser.parse_args()
    if not args.check:
        return make(args.out)
    with tempfile.TemporaryDirectory() as other:
        make(other)
        for file in ("trl.json", "trl_kto.json"):
            ours, theirs = (json.load(open(f"{d}/{file}")) for d in (args.out, other))
            for name, run in ours.items():
                for metric in METRICS:
                    pairs = [(a, b) for a, b in zip(run.get(metric, []), theirs[name].get(metric, [])) if a is not None]
                    gap = max((abs(a - b) / (1 + abs(a)) for a, b in pairs), default=0)
                    assert gap < 1e-4, (name, metric, gap)
    print("the same")


if __name__ == "__main__":
    main()
