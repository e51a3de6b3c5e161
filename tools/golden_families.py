"""The families of tools/golden.py: small shapes chosen so that a mix-up of sizes shows (head size
not hidden / heads, sizes that no vector width divides, several GQA ratios), and the two spellings
of config.json that transformers writes."""

ALL_LINEAR = dict(r=4, lora_alpha=8, target_modules="all-linear")
# What hone writes for all-linear of a mixture of experts: the router is not a target.
EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
WITH_EXPERTS = dict(r=3, lora_alpha=6, target_modules=ATTENTION, target_parameters=EXPERTS)
# PEFT makes of a gate_proj of DeepSeek's a parameter of experts, which dense blocks don't have.
LATENT = dict(r=4, lora_alpha=8, target_modules=["q_proj", "q_a_proj", "q_b_proj", "kv_b_proj",
                                                 "kv_a_proj_with_mqa", "o_proj"])


def config(kind, **fields):
    names = {"llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM",
             "mixtral": "MixtralForCausalLM",
             "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM",
             "qwen2_moe": "Qwen2MoeForCausalLM", "qwen3_moe": "Qwen3MoeForCausalLM",
             "deepseek_v2": "DeepseekV2ForCausalLM", "deepseek_v3": "DeepseekV3ForCausalLM"}
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
    # Qwen3 with experts: weights of a token add to 1, one dense block between; rank 3 and 6 experts
    # show a mix-up of the two in an adapter's layout. PEFT's own all-linear takes the router, too,
    # and doubles the rank of gate and up.
    "qwen3_moe": dict(
        config=config("qwen3_moe", hidden_size=24, intermediate_size=28, moe_intermediate_size=8,
                      num_attention_heads=4, num_key_value_heads=2, head_dim=12,
                      num_hidden_layers=3, vocab_size=49, rms_norm_eps=1e-6, rope_theta=1000000.0,
                      num_experts=6, num_experts_per_tok=2, norm_topk_prob=True,
                      decoder_sparse_step=1, mlp_only_layers=[1], attention_bias=False,
                      output_router_logits=False, router_aux_loss_coef=0.001,
                      sliding_window=None, use_sliding_window=False, tie_word_embeddings=False),
        adapters={"lora": WITH_EXPERTS, "lora_all": dict(r=2, lora_alpha=4,
                                                         target_modules="all-linear")}),
    # Qwen2 with experts and a shared one that has a gate; weights as the router gives them. Its
    # all-linear takes the shared expert and its gate, no other expert.
    "qwen2_moe": dict(
        config=config("qwen2_moe", hidden_size=24, intermediate_size=36, moe_intermediate_size=10,
                      shared_expert_intermediate_size=14, num_attention_heads=4,
                      num_key_value_heads=2, num_hidden_layers=2, vocab_size=46,
                      rms_norm_eps=1e-6, rope_theta=10000.0, num_experts=5,
                      num_experts_per_tok=3, norm_topk_prob=False, decoder_sparse_step=1,
                      output_router_logits=False, sliding_window=None, use_sliding_window=False,
                      tie_word_embeddings=False),
        new_spelling=True,
        adapters={"lora": dict(r=3, lora_alpha=6, target_parameters=EXPERTS,
                               target_modules=ATTENTION + ["gate_proj", "up_proj", "down_proj"]),
                  "lora_all": dict(r=2, lora_alpha=4, target_modules="all-linear")}),
    "mixtral": dict(
        config=config("mixtral", hidden_size=24, intermediate_size=20, num_attention_heads=3,
                      num_key_value_heads=1, num_hidden_layers=2, vocab_size=45,
                      rms_norm_eps=1e-5, rope_theta=1000000.0, num_local_experts=4,
                      num_experts_per_tok=2, output_router_logits=False,
                      router_aux_loss_coef=0.02, router_jitter_noise=0.0, sliding_window=None,
                      tie_word_embeddings=False),
        adapters={"lora": WITH_EXPERTS}),
    # Latent attention of DeepSeek-V3 with queries of low rank, biases, and yarn: frequencies of all
    # three kinds, cos and sin scaled, and the scores, too. All blocks are dense.
    "deepseek_v3": dict(
        config=config("deepseek_v3", hidden_size=26, intermediate_size=40, num_attention_heads=3,
                      num_key_value_heads=3, num_hidden_layers=2, vocab_size=51, rms_norm_eps=1e-3,
                      q_lora_rank=14, kv_lora_rank=11, qk_nope_head_dim=7, qk_rope_head_dim=16,
                      v_head_dim=9, attention_bias=True, rope_interleave=True, rope_theta=10000.0,
                      rope_scaling=dict(type="yarn", factor=8.0, beta_fast=8, beta_slow=1,
                                        mscale=1.0, mscale_all_dim=0.7,
                                        original_max_position_embeddings=64),
                      first_k_dense_replace=2, n_routed_experts=4, n_shared_experts=1,
                      num_experts_per_tok=2, n_group=1, topk_group=1, moe_intermediate_size=8,
                      tie_word_embeddings=False),
        adapters={"lora": LATENT}),
    # DeepSeek-V2-Lite: queries without a latent, one rotary kind; more of a head rotated than not.
    "deepseek_v2": dict(
        config=config("deepseek_v2", hidden_size=24, intermediate_size=36, num_attention_heads=4,
                      num_key_value_heads=4, num_hidden_layers=2, vocab_size=48, rms_norm_eps=1e-6,
                      q_lora_rank=None, kv_lora_rank=10, qk_nope_head_dim=4, qk_rope_head_dim=6,
                      v_head_dim=5, attention_bias=False, rope_theta=10000.0, rope_scaling=None,
                      first_k_dense_replace=2, n_routed_experts=4, n_shared_experts=1,
                      num_experts_per_tok=2, n_group=1, topk_group=1, topk_method="greedy",
                      moe_intermediate_size=8, tie_word_embeddings=False),
        adapters={"lora": LATENT}),
}
