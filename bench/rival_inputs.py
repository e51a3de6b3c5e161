"""What hone and its rival are both given: a model folder of random weights at the real
Qwen2.5-0.5B shape, GSM8K as chats, and prompts."""
import gzip
import json
import os
import shutil

QWEN25_05B = dict(vocab_size=151936, hidden_size=896, intermediate_size=4864, num_hidden_layers=24,
                  num_attention_heads=14, num_key_value_heads=2, hidden_act="silu",
                  max_position_embeddings=32768, rms_norm_eps=1e-6, tie_word_embeddings=True,
                  use_sliding_window=False, bos_token_id=151643, eos_token_id=151645)


def make_model(folder, tokenizer_folder, layers=None):
    """bf16, every weight normal with deviation 0.02, norms one; the Qwen2.5 tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, Qwen2Config

    fields = dict(QWEN25_05B)
    if layers:
        fields["num_hidden_layers"] = layers
    config = Qwen2Config(rope_parameters=dict(rope_type="default", rope_theta=1e6),
                         dtype="bfloat16", **fields)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith("norm.weight"):
                p.fill_(1.0)
            else:  # biases too: all zeros would be faster than real numbers
                p.normal_(0.0, 0.02)
    os.makedirs(folder, exist_ok=True)
    model.save_pretrained(folder)
    with gzip.open(os.path.join(tokenizer_folder, "qwen2.5.tokenizer.json.gz")) as source, \
            open(os.path.join(folder, "tokenizer.json"), "wb") as target:
        shutil.copyfileobj(source, target)
    shutil.copyfile(os.path.join(tokenizer_folder, "qwen2.5.tokenizer_config.json"),
                    os.path.join(folder, "tokenizer_config.json"))
    return sum(p.numel() for p in model.parameters())


def read_jsonl(path):
    with open(path, encoding="utf-8") as f:
        return [json.loads(line) for line in f if line.strip()]


def make_data(gsm8k, chats_path, prompts_path, prompts=16):
    """GSM8K as {"messages": [user, assistant]}; the first questions as chats to answer."""
    rows = read_jsonl(gsm8k)
    with open(chats_path, "w", encoding="utf-8") as f:
        for row in rows:
            messages = [{"role": "user", "content": row["question"]},
                        {"role": "assistant", "content": row["answer"]}]
            f.write(json.dumps({"messages": messages}, ensure_ascii=False) + "\n")
    with open(prompts_path, "w", encoding="utf-8") as f:
        for row in rows[:prompts]:
            messages = [{"role": "user", "content": row["question"]}]
            f.write(json.dumps({"messages": messages}, ensure_ascii=False) + "\n")
    return len(rows)
