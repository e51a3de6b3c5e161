// hone init: a model of random weights.
#include <filesystem>

#include "app/commands/commands.h"
#include "app/model_folder.h"
#include "app/terminal.h"
#include "app/units.h"
#include "app/version.h"
#include "backend/format.h"
#include "core/error.h"
#include "core/rng.h"
#include "core/thread_pool.h"
#include "io/files.h"
#include "io/run_folder.h"
#include "load/convert.h"
#include "models/decoder.h"
#include "text/tokenizer.h"

namespace hone::app {
namespace {

namespace fs = std::filesystem;

struct Flags {
  std::string config, tokenizer, output, dtype = "fp32", to;
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

// Rows of a task: whole blocks of FP8.
constexpr int64_t kRows = 128;

// Random values of a parameter, as declared: numbers of a plain type, or FP8 with its scales.
void write_random(const ParamSpec& spec, const io::TensorDecl& decl,
                  const models::ModelConfig& config, uint64_t seed, ThreadPool& pool,
                  io::ModelWriter& writer) {
  const bool fp8 = decl.type == io::FileType::f8_e4m3;
  const int64_t rows = spec.shape[0], cols = spec.shape.size() == 2 ? spec.shape[1] : 1;
  const int64_t group = kRows * pool.size();
  struct Piece {
    std::vector<std::byte> values, scales;
  };
  std::vector<std::byte> scales;
  for (int64_t first = 0; first < rows; first += group) {
    std::vector<Piece> pieces(static_cast<size_t>(pool.size()));
    pool.run(pool.size(), [&](int64_t task, int) {
      const int64_t from = first + task * kRows, n = std::min(kRows, rows - from);
      if (n <= 0) return;
      std::vector<double> values(static_cast<size_t>(n * cols));
      fill(spec, config.initializer_range, seed, from * cols, values);
      Piece& piece = pieces[static_cast<size_t>(task)];
      if (!fp8) {
        append_rounded(values, decl.type, piece.values);
        return;
      }
      const std::vector<float> numbers(values.begin(), values.end());
      piece.values.resize(numbers.size());
      piece.scales.resize(static_cast<size_t>(format_scale_bytes(Format::fp8_block, cols)));
      format_ops(Format::fp8_block)
          .pack(numbers.data(), contiguous_weight(Format::fp8_block, piece.values.data(),
                                                  piece.scales.data(), n, cols));
    });
    for (const Piece& piece : pieces) {
      writer.write(spec.name, piece.values);
      scales.insert(scales.end(), piece.scales.begin(), piece.scales.end());
    }
  }
  if (fp8) writer.write(load::scales_of(decl).name, scales);
}

int run(const Flags& f) {
  if (f.config.empty()) user_error("flags", "no shape was given; use --config config.json");
  check_output_folder(f.output, f.overwrite);
  const std::string text = io::read_text_file(f.config, 16 << 20);
  const models::ModelConfig config = models::parse_model_config(text, f.config);
  const DType dtype = parse_dtype("--dtype", f.dtype).value_or(DType::f32);
  const io::FileType type = io::to_file_type(dtype);
  if (!f.to.empty() && f.to != "fp8") user_error("flags", "--to {}: use fp8, or --dtype", f.to);
  const bool fp8 = !f.to.empty();
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
  std::vector<std::string> plain_matrices;
  int64_t parameters = 0;
  for (ParamId id = 0; id < store.count(); ++id) {
    const ParamSpec& spec = store.spec(id);
    io::TensorDecl decl{.name = spec.name, .type = type, .shape = spec.shape};
    parameters += spec.numel();
    if (fp8 && load::is_linear_weight(spec.name, spec.shape)) {
      decl.type = io::FileType::f8_e4m3;
      tensors.push_back(load::scales_of(decl));
    } else if (spec.shape.size() == 2) {
      plain_matrices.push_back(spec.name.substr(0, spec.name.rfind('.')));
    }
    tensors.push_back(decl);
  }
  if (!f.tokenizer.empty()) io::copy_model_files(f.tokenizer, f.output, /*with_config=*/false);
  io::ModelWriter writer(f.output, tensors);
  ThreadPool pool(available_threads());
  for (const io::TensorDecl& decl : tensors) {
    const ParamId id = store.find(decl.name);
    if (id != kNoParam) write_random(store.spec(id), decl, config, f.seed, pool, writer);
  }
  writer.finish();
  const std::string written = config_with_dtype(text, f.config, type);
  io::write_file_atomically(fs::path(f.output) / "config.json",
                            fp8 ? config_fp8(written, f.config, plain_matrices) : written);
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
  c.flag("--to", f->to, "Linear layers of blocks in FP8, with a scale for each 128 x 128", "fp8");
  c.flag("--overwrite", f->overwrite, "Replace the model that is in --output");
  c.run([f] { return run(*f); });
}

}  // namespace hone::app
