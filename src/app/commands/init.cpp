// hone init: a model of random weights.
#include <filesystem>

#include "app/commands/commands.h"
#include "app/model_folder.h"
#include "app/terminal.h"
#include "app/units.h"
#include "app/version.h"
#include "core/error.h"
#include "core/rng.h"
#include "core/thread_pool.h"
#include "io/files.h"
#include "io/run_folder.h"
#include "models/decoder.h"
#include "text/tokenizer.h"

namespace hone::app {
namespace {

namespace fs = std::filesystem;

struct Flags {
  std::string config, tokenizer, output, dtype = "fp32";
  uint64_t seed = 42;
  bool overwrite = false;
};

// As transformers initialises: matrices normal, norms one, biases zero.
void fill(const ParamSpec& spec, double range, uint64_t seed, int64_t first,
          std::span<double> out) {
  if (spec.shape.size() == 1) {
    const bool bias = spec.name.ends_with(".bias");
    std::fill(out.begin(), out.end(), bias ? 0.0 : 1.0);
    return;
  }
  const uint64_t name = hash_name(spec.name.data(), spec.name.size());
  for (size_t i = 0; i < out.size(); ++i) {
    const auto w = random_words(seed, Purpose::init, name,
                                static_cast<uint64_t>(first) + static_cast<uint64_t>(i));
    out[i] = range * normal_double(w[0], w[1]);
  }
}

int run(const Flags& f) {
  if (f.config.empty()) user_error("flags", "no shape was given; use --config config.json");
  check_output_folder(f.output, f.overwrite);
  const std::string text = io::read_text_file(f.config, 16 << 20);
  const models::ModelConfig config = models::parse_model_config(text, f.config);
  const DType dtype = parse_dtype("--dtype", f.dtype).value_or(DType::f32);
  const io::FileType type = io::to_file_type(dtype);
  if (!f.tokenizer.empty()) {
    const Tokenizer tokenizer = Tokenizer::load(f.tokenizer);
    if (tokenizer.max_id() >= config.vocab_size)
      user_error("config",
                 "{}: vocab_size {} is too small for the tokenizer in {}, whose ids go up to {}",
                 f.config, config.vocab_size, f.tokenizer, tokenizer.max_id());
  }
  ParamStore store;
  const models::Decoder decoder(config, store, dtype == DType::bf16 ? Format::bf16 : Format::f32);
  std::vector<io::TensorDecl> tensors;
  int64_t parameters = 0;
  for (ParamId id = 0; id < store.count(); ++id) {
    const ParamSpec& spec = store.spec(id);
    tensors.push_back({.name = spec.name, .type = type, .shape = spec.shape});
    parameters += spec.numel();
  }
  if (!f.tokenizer.empty()) io::copy_model_files(f.tokenizer, f.output, /*with_config=*/false);
  io::ModelWriter writer(f.output, tensors);
  ThreadPool pool(available_threads());
  constexpr int64_t kPiece = 1 << 16;
  for (ParamId id = 0; id < store.count(); ++id) {
    const ParamSpec& spec = store.spec(id);
    const int64_t n = spec.numel();
    const int64_t group = kPiece * pool.size();
    std::vector<double> values;
    std::vector<std::byte> bytes;
    for (int64_t first = 0; first < n; first += group) {
      values.resize(static_cast<size_t>(std::min(group, n - first)));
      const auto size = static_cast<int64_t>(values.size());
      pool.run((size + kPiece - 1) / kPiece, [&](int64_t task, int) {
        const int64_t from = task * kPiece;
        fill(spec, config.initializer_range, f.seed, first + from,
             std::span(values).subspan(static_cast<size_t>(from),
                                       static_cast<size_t>(std::min(kPiece, size - from))));
      });
      bytes.clear();
      append_rounded(values, type, bytes);
      writer.write(spec.name, bytes);
    }
  }
  writer.finish();
  io::write_file_atomically(fs::path(f.output) / "config.json",
                            config_with_dtype(text, f.config, type));
  say(fmt::format("wrote a {} of {} random parameters to {}", config.architecture, parameters,
                  f.output));
  return 0;
}

}  // namespace

void add_init(Cli& cli) {
  Command& c = cli.add("init", "a model of random weights from a config.json",
                       "Matrices are normal with the config's initializer_range, norms one, biases "
                       "zero; a function of\nseed, parameter name and element.");
  const auto f = std::make_shared<Flags>();
  c.group("Model");
  c.flag("--config", f->config, "A Hugging Face config.json", "FILE");
  c.flag("--tokenizer", f->tokenizer,
         "Folder whose tokenizer, template and generation config are "
         "copied",
         "DIR");
  c.flag("-o,--output", f->output, "The model's folder", "DIR");
  c.flag("--seed", f->seed, "Of the weights");
  c.flag("--dtype", f->dtype, "Of the file", "fp32|bf16");
  c.flag("--overwrite", f->overwrite, "Replace the model that is in --output");
  c.run([f] { return run(*f); });
}

}  // namespace hone::app
