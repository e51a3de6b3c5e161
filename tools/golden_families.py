"""The families of tools/golden.py: small shapes chosen so that a mix-up of sizes shows (head size
not hidden / heads, sizes that no vector width divides, several GQA ratios), and the two spellings
of config.json that transformers writes."""

ALL_LINEAR = dict(r=4, lora_alpha=8, target_modules="all-linear")


def config(kind, **fields):
    names = {"llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM",
             "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}
    base = dict(architectures=[names[kind]], model_type=kind, hidden_act="silu",
                attention_dropout=0.0, initializer_range=0.02, use_cache=True, bos_token_id=1,
                eos_token_id=2, torch_dtype="float32", max_position_embeddings=512)
    base.update(fields)
    return dict(sorted(base.items()))


FAMILIES = {
    # Llama 2: as many key heads as query heads; the old config spelling, without head_dim; a large
    # epsilon, so that a wrong one shows.
    "llama2": dict(
        config=config("llama", hidden_size=24, intermediate_size=56, num_attention_heads=3,
                      num_key_value_heads=3, num_hidden_layers=2, vocab_size=48,
                      rms_norm_eps=0.01, rope_theta=10000.0, rope_scaling=None,
                      attention_bias=False, mlp_bias=False, pretraining_tp=1,
                      tie_word_embeddings=False),
        adapters={"lora": ALL_LINEAR}),
    # Llama 3.x: rope_scaling llama3 with a short original context, so that frequencies of all
    # three kinds occur (kept, blended, divided); heads * head_dim != hidden; tied; file in bf16.
    "llama3": dict(
        config=config("llama", hidden_size=30, intermediate_size=44, num_attention_heads=6,
                      num_key_value_heads=2, head_dim=10, num_hidden_layers=2, vocab_size=59,
                      rms_norm_eps=1e-5, rope_theta=500000.0,
                      rope_scaling=dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0,
                                        high_freq_factor=4.0,
                                        original_max_position_embeddings=128),
                      attention_bias=False, mlp_bias=False, tie_word_embeddings=True,
                      torch_dtype="bfloat16"),
        file_dtype="bf16",
        adapters={"lora": ALL_LINEAR}),
    # Llama with every bias it can have (o_proj and the MLP too), one key head, the new spelling.
    "llama_bias": dict(
        config=config("llama", hidden_size=24, intermediate_size=40, num_attention_heads=3,
                      num_key_value_heads=1, head_dim=14, num_hidden_layers=2, vocab_size=47,
                      rms_norm_eps=1e-5, rope_theta=10000.0, attention_bias=True, mlp_bias=True,
                      tie_word_embeddings=False),
        new_spelling=True,
        adapters={"lora": ALL_LINEAR}),
    "mistral": dict(
        config=config("mistral", hidden_size=24, intermediate_size=40, num_attention_heads=4,
                      num_key_value_heads=2, head_dim=16, num_hidden_layers=2, vocab_size=48,
                      rms_norm_eps=1e-5, rope_theta=1000000.0, sliding_window=None,
                      tie_word_embeddings=False),
        adapters={"lora": ALL_LINEAR, "lora_qv": dict(r=8, lora_alpha=16,
                                                      target_modules=["q_proj", "v_proj"])}),
    # Qwen2.5-0.5B in small: tied, biases on q, k, v, seven query heads a key head, head size 6.
    "qwen2": dict(
        config=config("qwen2", hidden_size=42, intermediate_size=52, num_attention_heads=7,
                      num_key_value_heads=1, num_hidden_layers=2, vocab_size=51,
                      rms_norm_eps=1e-6, rope_theta=1000000.0, sliding_window=128,
                      max_window_layers=2, use_sliding_window=False, use_mrope=False,
                      tie_word_embeddings=True),
        adapters={"lora": ALL_LINEAR, "rslora": dict(use_rslora=True, r=4, lora_alpha=4,
                                                  target_modules=["q_proj", "o_proj",
                                                                  "down_proj"])}),
    # An R1 distill: Qwen2 untied, theta 10000; three layers; two shards; the new spelling.
    "r1_distill_qwen": dict(
        config=config("qwen2", hidden_size=24, intermediate_size=36, num_attention_heads=4,
                      num_key_value_heads=2, num_hidden_layers=3, vocab_size=53,
                      rms_norm_eps=1e-6, rope_theta=10000.0, sliding_window=4096,
                      max_window_layers=3, use_sliding_window=False, tie_word_embeddings=False),
        new_spelling=True, shards=2,
        adapters={"lora": ALL_LINEAR}),
    # Qwen3: a norm on each head's query and key, no biases, a head size of its own; tied.
    "qwen3": dict(
        config=config("qwen3", hidden_size=28, intermediate_size=40, num_attention_heads=4,
                      num_key_value_heads=2, head_dim=24, num_hidden_layers=2, vocab_size=49,
                      rms_norm_eps=1e-6, rope_theta=1000000.0, attention_bias=False,
                      sliding_window=None, max_window_layers=2, use_sliding_window=False,
                      rope_scaling=None, tie_word_embeddings=True),
        adapters={"lora": ALL_LINEAR}),
    # Qwen3 untied with biases (attention_bias on) and one query head a key head.
    "qwen3_untied": dict(
        config=config("qwen3", hidden_size=24, intermediate_size=36, num_attention_heads=3,
                      num_key_value_heads=3, head_dim=12, num_hidden_layers=2, vocab_size=50,
                      rms_norm_eps=1e-3, rope_theta=10000.0, attention_bias=True,
                      sliding_window=None, use_sliding_window=False, tie_word_embeddings=False),
        new_spelling=True,
        adapters={"lora": ALL_LINEAR}),
}
