#include "load/save.h"

#include <cstring>
#include <nlohmann/json.hpp>

#include "backend/format.h"
#include "exec/memory.h"
#include "io/files.h"
#include "io/run_folder.h"

namespace hone::load {
namespace {

// The base's config.json with the type that the weights now have, and whether the head is tied.
void write_config(const std::filesystem::path& folder, const Model& model) {
  auto config = nlohmann::ordered_json::parse(
      io::read_text_file(model.folder() / "config.json", uint64_t{64} << 20));
  const char* name = model.dtype() == DType::bf16 ? "bfloat16" : "float32";
  config[config.contains("dtype") ? "dtype" : "torch_dtype"] = name;
  if (config.contains("tie_word_embeddings"))
    config["tie_word_embeddings"] = model.config().tie_word_embeddings;
  config.erase("quantization_config");  // numbers are saved
  io::write_file_atomically(folder / "config.json", config.dump(2) + "\n");
}

}  // namespace

void save_files_beside_weights(const std::filesystem::path& folder, Model& model) {
  if (model.adapter_config()) {
    io::write_file_atomically(folder / "adapter_config.json",
                              io::adapter_config_json(*model.adapter_config()));
    return;
  }
  io::copy_model_files(model.folder(), folder);
  write_config(folder, model);
}

void save_adapter(const std::filesystem::path& folder, Model& model) {
  std::vector<io::AdapterLayerView> layers;
  for (const nn::Linear* l : model.adapted()) {
    const View a = model.params().value(l->params.lora->a).view();
    const View b = model.params().value(l->params.lora->b).view();
    HONE_CHECK(a.dtype == DType::f32, "adapters are saved from fp32");
    layers.push_back({.module = l->path,
                      .rank = b.shape[1],
                      .in = l->in,
                      .out = l->out,
                      .copies = l->copies(),
                      .a = readable_as<float>(model.device(), a).data(),
                      .b = readable_as<float>(model.device(), b).data()});
  }
  io::save_adapter(folder, layers);
  save_files_beside_weights(folder, model);
}

io::FileType SavedValue::type(const Model& model, ParamId id) {
  const Format format = model.params().format(id);
  return io::to_file_type(format_layout(format).plain ? format_dtype(format) : model.dtype());
}

SavedValue::SavedValue(Model& model, ParamId id) : lease_(model.params().lease(id)) {
  if (format_layout(model.params().format(id)).plain) {
    bytes_ = readable(model.device(), lease_.view());
    return;
  }
  const WeightView& w = lease_.weight();
  const bool rounded = model.dtype() == DType::bf16;
  const auto cols = static_cast<size_t>(w.cols);
  numbers_.resize(static_cast<size_t>(w.rows) * cols * (rounded ? 2 : 4));
  std::vector<float> row(cols);
  for (int64_t r = 0; r < w.rows; ++r) {
    format_ops(w.format).to_fp32(w, r, 0, w.cols, row.data());
    std::byte* to = numbers_.data() + static_cast<size_t>(r) * cols * (rounded ? 2 : 4);
    if (!rounded) std::memcpy(to, row.data(), cols * 4);
    for (size_t i = 0; rounded && i < cols; ++i) {
      const bf16 x(row[i]);
      std::memcpy(to + 2 * i, &x, 2);
    }
  }
  bytes_ = numbers_;
}

void save_model(const std::filesystem::path& folder, Model& model) {
  std::vector<io::TensorDecl> decls;
  const ParamStore& params = model.params();
  for (ParamId id = 0; id < params.count(); ++id) {
    const ParamSpec& s = params.spec(id);
    if (s.adapter) continue;
    decls.push_back({.name = s.name, .type = SavedValue::type(model, id), .shape = s.shape});
  }
  save_files_beside_weights(folder, model);
  io::ModelWriter writer(folder, decls);
  for (const io::TensorDecl& d : decls) {
    const SavedValue value(model, params.find(d.name));
    writer.write(d.name, value.bytes());
  }
  writer.finish();
}

}  // namespace hone::load
