// Small random models in folders of their own, with weights in bf16 or the same numbers in FP8, and
// what is computed with them.
#pragma once

#include <gtest/gtest.h>

#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "backend/fp8_block.h"
#include "core/rng.h"
#include "exec/memory.h"
#include "io/safetensors.h"
#include "load/model.h"
#include "loss/objective.h"
#include "rollout/generate.h"
#include "train/pass.h"

namespace hone::test {

namespace fs = std::filesystem;
using Json = nlohmann::json;

inline Json config(int layers) {
  return {{"architectures", {"Qwen3ForCausalLM"}},
          {"model_type", "qwen3"},
          {"vocab_size", 96},
          {"hidden_size", 192},
          {"intermediate_size", 320},
          {"num_hidden_layers", layers},
          {"num_attention_heads", 3},
          {"num_key_value_heads", 1},
          {"head_dim", 64},
          {"rms_norm_eps", 1e-6},
          {"tie_word_embeddings", true},
          {"torch_dtype", "bfloat16"}};
}

struct Matrix {
  std::string name;
  int64_t rows, cols;
};

// A folder of the same numbers in FP8 or in bf16. spoil: changes the scales of one layer.
class SmallModel {
 public:
  explicit SmallModel(bool fp8, const std::function<void(std::vector<float>&)>& spoil = {},
                      bool with_scales = true, int layers = 2)
      : path_(fs::path(testing::TempDir()) / ("small-" + std::to_string(getpid()) + "-" +
                                              std::to_string(counter()++) + (fp8 ? "q" : "p"))) {
    fs::remove_all(path_);
    fs::create_directories(path_);
    Json c = config(layers);
    if (fp8) {
      c["quantization_config"] = {{"quant_method", "fp8"},
                                  {"fmt", "e4m3"},
                                  {"activation_scheme", "dynamic"},
                                  {"weight_block_size", {128, 128}},
                                  {"modules_to_not_convert", {"lm_head"}}};
    }
    std::ofstream(path_ / "config.json") << c.dump();
    add_vector("model.norm", 192);
    add_plain({"model.embed_tokens", 96, 192});
    for (int i = 0; i < layers; ++i) {
      const std::string p = "model.layers." + std::to_string(i) + ".";
      add_vector(p + "input_layernorm", 192);
      add_vector(p + "post_attention_layernorm", 192);
      add_vector(p + "self_attn.q_norm", 64);
      add_vector(p + "self_attn.k_norm", 64);
      for (const Matrix& m : std::vector<Matrix>{{p + "self_attn.q_proj", 192, 192},
                                                 {p + "self_attn.k_proj", 64, 192},
                                                 {p + "self_attn.v_proj", 64, 192},
                                                 {p + "self_attn.o_proj", 192, 192},
                                                 {p + "mlp.gate_proj", 320, 192},
                                                 {p + "mlp.up_proj", 320, 192},
                                                 {p + "mlp.down_proj", 192, 320}})
        add_quantized(m, fp8, with_scales,
                      m.name == "model.layers.1.mlp.up_proj" ? spoil : nullptr);
    }
    std::vector<io::TensorDecl> decls;
    for (const auto& [decl, bytes] : tensors_) decls.push_back(decl);
    io::ModelWriter writer(path_, decls);
    for (const auto& [decl, bytes] : tensors_) writer.write(decl.name, bytes);
    writer.finish();
  }
  ~SmallModel() { fs::remove_all(path_); }
  const fs::path& path() const { return path_; }

 private:
  static int& counter() {
    static int n = 0;
    return n;
  }
  static std::vector<float> numbers(const std::string& name, int64_t n, double scale, double mean) {
    const uint64_t id = hash_name(name.data(), name.size());
    std::vector<float> x(static_cast<size_t>(n));
    for (int64_t i = 0; i < n; ++i) {
      const auto w = random_words(5, Purpose::test, id, static_cast<uint64_t>(i));
      x[static_cast<size_t>(i)] = static_cast<float>(mean + scale * normal_double(w[0], w[1]));
    }
    return x;
  }
  void add(const std::string& name, io::FileType type, std::vector<int64_t> shape,
           const void* data) {
    const io::TensorDecl decl{.name = name, .type = type, .shape = std::move(shape)};
    const auto* bytes = static_cast<const std::byte*>(data);
    tensors_.emplace_back(decl, std::vector<std::byte>(bytes, bytes + decl.bytes()));
  }
  void add_bf16(const std::string& name, std::vector<int64_t> shape, const std::vector<float>& x) {
    std::vector<bf16> rounded;
    for (const float v : x) rounded.emplace_back(v);
    add(name + ".weight", io::FileType::bf16, std::move(shape), rounded.data());
  }
  void add_vector(const std::string& name, int64_t n) {
    add_bf16(name, {n}, numbers(name, n, 0.1, 1));
  }
  void add_plain(const Matrix& m) {
    add_bf16(m.name, {m.rows, m.cols}, numbers(m.name, m.rows * m.cols, 0.05, 0));
  }
  void add_quantized(const Matrix& m, bool fp8, bool with_scales,
                     const std::function<void(std::vector<float>&)>& spoil) {
    const std::vector<float> x = numbers(m.name, m.rows * m.cols, 0.05, 0);
    const int64_t down = (m.rows + 127) / 128, across = (m.cols + 127) / 128;
    std::vector<uint8_t> bytes(x.size());
    std::vector<float> scales(static_cast<size_t>(down * across));
    const WeightView w =
        contiguous_weight(Format::fp8_block, bytes.data(), scales.data(), m.rows, m.cols);
    fp8_block_pack(x.data(), w);
    if (!fp8) {
      std::vector<float> expanded(x.size());
      for (int64_t r = 0; r < m.rows; ++r)
        fp8_block_to_fp32(w, r, 0, m.cols, expanded.data() + r * m.cols);
      add_bf16(m.name, {m.rows, m.cols}, expanded);
      return;
    }
    if (spoil) spoil(scales);
    add(m.name + ".weight", io::FileType::f8_e4m3, {m.rows, m.cols}, bytes.data());
    if (with_scales) {
      std::vector<int64_t> shape = {down, across};
      if (static_cast<int64_t>(scales.size()) != down * across)
        shape = {static_cast<int64_t>(scales.size())};
      add(m.name + ".weight_scale_inv", io::FileType::f32, shape, scales.data());
    }
  }

  fs::path path_;
  std::vector<std::pair<io::TensorDecl, std::vector<std::byte>>> tensors_;
};

struct Results {
  double loss = 0;
  std::vector<std::vector<double>> gradients;
  std::vector<double> scores;
  std::vector<int32_t> drawn;
  std::vector<float> logprobs;
  uint64_t mapped = 0;
  load::StreamedFiles::Counters streamed;
};

inline Results compute(const fs::path& folder, DType dtype, size_t weights_memory = 0,
                       BlockPolicy policy = BlockPolicy::recompute) {
  Results r;
  Machine machine({.threads = 2});
  load::Model model(machine, {.folder = folder, .dtype = dtype, .weights_memory = weights_memory});
  model.add_adapter({.r = 4, .alpha = 8, .target_expression = "all-linear"});
  model.load(3);
  r.mapped = model.mapped_bytes();
  for (const nn::Linear* l : model.adapted()) {  // B isn't zero, so that every gradient has a value
    const Tensor b = model.params().value(l->params.lora->b);
    std::vector<float> values(static_cast<size_t>(b.numel()));
    for (size_t i = 0; i < values.size(); ++i)
      values[i] = 0.01f * static_cast<float>(static_cast<int>(i % 7) - 3);
    write(model.device(), b, 0, values);
  }
  Context ctx = model.context();
  ctx.policy = policy;
  model.params().allocate_gradients(machine.arena());
  train::zero_gradients(ctx);
  data::Sample sample;
  for (int i = 0; i < 40; ++i) {
    sample.tokens.push_back(i * 29 % 96);
    sample.trained.push_back(i > 3);
  }
  const std::vector<data::Sample> samples = {sample};
  const auto micro_batches = data::pack(samples, {.token_budget = 64});
  r.loss = train::forward_backward(ctx, model.decoder(), loss::SftObjective(),
                                   {.micro_batches = micro_batches, .step_tokens = 36})
               .loss;
  for (const ParamId id : model.params().trainable())
    r.gradients.push_back(read(ctx, model.params().grad(id), 0));
  r.scores = train::score(ctx, model.decoder(), micro_batches[0]);
  rollout::SamplingOptions o;
  o.max_new_tokens = 12;
  o.ignore_eos = true;
  const std::vector<rollout::Prompt> prompts = {{.tokens = {5, 9, 70}}};
  rollout::generate(ctx, model.decoder(), prompts, o, [&](const rollout::Completion& c) {
    r.drawn = c.tokens;
    r.logprobs = c.logprobs;
  });
  r.streamed = model.streamed();
  return r;
}

template <class F>
std::string error_of(F&& f) {
  try {
    f();
  } catch (const std::exception& e) {
    return e.what();
  }
  return "";
}

}  // namespace hone::test
