#include "io/loaded_model.h"

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <set>
#include <unordered_map>

#include <fmt/ranges.h>

#include "backend/bf16t.h"
#include "backend/cpu/cpu.h"
#include "io/files.h"
#include "io/peft_targets.h"
#include "io/run_folder.h"
#include "io/weight_names.h"

namespace hone::io {
namespace {

Format format_of(DType t) {
  switch (t) {
    case DType::bf16:
      return Format::bf16;
    case DType::f64:
      return Format::f64;
    default:
      return Format::f32;
  }
}

Format format_from(FileType t) {
  switch (t) {
    case FileType::bf16:
      return Format::bf16;
    case FileType::f16:
      return Format::f16;
    case FileType::f64:
      return Format::f64;
    default:
      return Format::f32;
  }
}

// Formats that kernels of a dtype multiply by as they lie in the file.
bool usable_as_is(DType run, FileType file, bool matrix) {
  if (run == DType::bf16) return file == FileType::bf16;
  if (run == DType::f32)
    return file == FileType::f32 || file == FileType::bf16 || (matrix && file == FileType::f16);
  return run == DType::f64 && file == FileType::f64;
}

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string s = "[";
  for (size_t i = 0; i < shape.size(); ++i) s += (i ? ", " : "") + std::to_string(shape[i]);
  return s + "]";
}

int thread_count(int asked) { return asked > 0 ? asked : available_threads(); }

using LayersByModule = std::unordered_map<std::string_view, const AdapterLayer*>;

LayersByModule by_module(const Adapter& adapter) {
  LayersByModule layers;
  for (const AdapterLayer& layer : adapter.layers) layers[layer.module] = &layer;
  return layers;
}

// The base's config.json with the type that the weights now have, and whether the head is tied.
void write_config(const std::filesystem::path& folder, const LoadedModel& model) {
  auto config = nlohmann::ordered_json::parse(
      read_text_file(model.folder() / "config.json", uint64_t{64} << 20));
  const char* name = model.dtype() == DType::bf16 ? "bfloat16" : "float32";
  config[config.contains("dtype") ? "dtype" : "torch_dtype"] = name;
  if (config.contains("tie_word_embeddings"))
    config["tie_word_embeddings"] = model.config().tie_word_embeddings;
  write_file_atomically(folder / "config.json", config.dump(2) + "\n");
}

}  // namespace

LoadedModel::LoadedModel(const LoadOptions& options)
    : options_(options),
      arena_(options.meta ? Arena::simulated(options.memory_limit)
                          : Arena::real(options.memory_limit)),
      pool_(options.meta ? 1 : thread_count(options.threads)) {
  models::ModelConfig config = models::load_model_config(options.folder);
  for (const std::string& field : config.unknown_fields) {
    if (options_.warn)
      options_.warn(fmt::format("config.json: field \"{}\" is not known and has no effect", field));
  }
  dtype_ = options.dtype.value_or(config.dtype == DType::f16 ? DType::bf16 : config.dtype);
  const cpu::Isa isa = dtype_ == DType::f64 ? cpu::Isa::reference : cpu::choose_isa();
  takes_bf16t_ = cpu::takes_bf16t(isa);
  device_ = {.table = cpu::kernel_table(isa),
             .props = cpu::device_props(thread_count(options.threads)),
             .arena = &arena_,
             .pool = &pool_,
             .meta = options.meta};
  const bool has_weights = std::filesystem::exists(options.folder / "model.safetensors") ||
                           std::filesystem::exists(options.folder / "model.safetensors.index.json");
  if (!options.meta || has_weights)
    reader_ = open_model_weights(options.folder, config, options_.warn);
  decoder_ = std::make_unique<models::Decoder>(config, params_, format_of(dtype_));
  if (reader_) check_names();
}

void LoadedModel::check_names() const {
  std::set<std::string> known;
  const std::vector<std::string> names = reader_->names();
  for (ParamId id = 0; id < params_.count(); ++id) {
    const ParamSpec& spec = params_.spec(id);
    known.insert(spec.name);
    const TensorEntry* t = reader_->find(spec.name);
    if (t == nullptr && spec.name == "lm_head.weight") {
      user_error("weights",
                 "{}: config.json ({}) has tie_word_embeddings false, but the weights have no "
                 "lm_head.weight; if the head is the embedding, set it to true in a copy of "
                 "config.json",
                 options_.folder.string(), config_text());
    }
    if (t == nullptr) {
      user_error(
          "weights",
          "{}: tensor \"{}\" that config.json ({}) asks for is missing (\"{}\" is there, for "
          "one); the download may be incomplete, or config.json belongs to another model",
          options_.folder.string(), spec.name, config_text(),
          names.empty() ? "nothing" : names.front());
    }
    if (t->shape != spec.shape) {
      user_error("weights",
                 "{}: tensor \"{}\" has shape {} but config.json says {}; config.json and weights "
                 "don't belong together",
                 options_.folder.string(), spec.name, shape_text(t->shape), shape_text(spec.shape));
    }
    if (!to_dtype(t->type) || file_type_size(t->type) < 2 || t->type == FileType::i64 ||
        t->type == FileType::i32) {
      user_error("weights", "{}: tensor \"{}\" has type {}; supported are F32, BF16, F16 and F64",
                 options_.folder.string(), spec.name, file_type_name(t->type));
    }
  }
  for (const std::string& name : names) {
    if (known.contains(name) || name.ends_with("rotary_emb.inv_freq")) continue;
    user_error("weights",
               "{}: tensor \"{}\" is in the weights but config.json ({}) has no place for it; "
               "config.json and weights don't "
               "belong together",
               options_.folder.string(), name, config_text());
  }
}

std::string LoadedModel::config_text() const { return decoder_->config().architecture; }

uint64_t LoadedModel::mapped_bytes() const {
  uint64_t n = 0;
  for (ParamId id = 0; id < params_.count(); ++id) {
    if (!params_.owned(id)) n += params_.spec(id).bytes();
  }
  return n;
}

uint64_t LoadedModel::file_bytes() const {
  if (reader_) return reader_->total_bytes();
  uint64_t n = 0;
  for (ParamId id = 0; id < params_.count(); ++id) {
    if (!params_.spec(id).adapter) n += static_cast<uint64_t>(params_.spec(id).numel());
  }
  return n * dtype_size(decoder_->config().dtype);
}

void LoadedModel::register_adapter(const AdapterConfig& config,
                                   const std::vector<std::pair<nn::Linear*, int64_t>>& layers,
                                   bool trainable) {
  HONE_CHECK(!adapter_config_.has_value(), "one adapter at a time");
  std::vector<std::string> modules, tuned;
  for (const nn::Linear* l : decoder_->linears()) modules.push_back(l->path);
  modules.emplace_back("lm_head");
  for (const auto& [linear, rank] : layers) tuned.push_back(linear->path);
  adapter_config_ = resolved_config(config, modules, tuned);
  const AdapterRules rules(config);
  for (const auto& [linear, rank] : layers) {
    nn::add_lora(params_, *linear,
                 {.rank = rank,
                  .scale = static_cast<float>(rules.scale_of(linear->path)),
                  .dropout = static_cast<float>(config.dropout)});
    if (!trainable) {
      params_.set_trainable(linear->params.lora->a, false);
      params_.set_trainable(linear->params.lora->b, false);
    }
    adapted_.push_back(linear);
  }
}

std::vector<nn::Linear*> LoadedModel::add_adapter(const AdapterConfig& config) {
  const AdapterRules rules(config);
  std::vector<std::pair<nn::Linear*, int64_t>> matched;
  std::set<int64_t> blocks;
  for (nn::Linear* l : decoder_->linears()) {
    if (!rules.targets(l->path)) continue;
    matched.emplace_back(l, rules.rank_of(l->path));
    blocks.insert(*block_of(l->path));
  }
  for (const int64_t layer : config.layers_to_transform) {
    if (layer >= decoder_->config().num_hidden_layers) {
      user_error("lora_layers", "there is no block {}: {} has {}, counted from 0", layer,
                 config_text(), decoder_->config().num_hidden_layers);
    }
  }
  check_targets(config);
  for (const int64_t layer : config.layers_to_transform) {
    if (!blocks.contains(layer)) {
      user_error("lora_layers",
                 "no layer of block {} is a target; leave it out, or widen --lora_target", layer);
    }
  }
  register_adapter(config, matched, true);
  return adapted_;
}

// Each requested name must match something of its own.
void LoadedModel::check_targets(const AdapterConfig& config) const {
  const std::vector<nn::Linear*> all = decoder_->linears();
  const auto check = [&](const AdapterConfig& one, const std::string& target) {
    const AdapterRules rules(one);
    if (std::any_of(all.begin(), all.end(), [&](nn::Linear* l) { return rules.targets(l->path); }))
      return;
    std::set<std::string> names;
    for (const nn::Linear* l : all) names.insert(l->path.substr(l->path.rfind('.') + 1));
    user_error("lora_target",
               "\"{}\" matches no linear layer of {}; use all-linear, or of its layers {}", target,
               config_text(), fmt::join(names, ", "));
  };
  if (!config.target_expression.empty()) check(config, config.target_expression);
  for (const std::string& target : config.target_modules) {
    AdapterConfig one = config;
    one.target_modules = {target};
    check(one, target);
  }
}

std::vector<nn::Linear*> LoadedModel::load_adapter(const std::filesystem::path& folder,
                                                   bool trainable) {
  adapter_values_ = io::load_adapter(folder);
  for (const std::string& note : adapter_values_->notes)
    if (options_.warn) options_.warn(note);
  const AdapterRules rules(adapter_values_->config);
  const auto layers = by_module(*adapter_values_);
  std::vector<std::pair<nn::Linear*, int64_t>> matched;
  std::set<std::string> taken;
  for (nn::Linear* l : decoder_->linears()) {
    const auto found = layers.find(l->path);
    if (found == layers.end()) {
      if (rules.targets(l->path)) {
        user_error(
            "adapter",
            "{}: adapter_config.json targets {} but adapter_model.safetensors holds nothing for it",
            folder.string(), l->path);
      }
      continue;
    }
    if (!rules.targets(l->path)) {
      user_error("adapter",
                 "{}: adapter_model.safetensors has weights for {}, which adapter_config.json does "
                 "not target, so that peft would leave them out; the two files don't belong "
                 "together",
                 folder.string(), l->path);
    }
    const AdapterLayer* layer = found->second;
    if (layer->in != l->in || layer->out != l->out) {
      user_error("adapter",
                 "{}: the adapter of {} is for a layer [{}, {}], but the base model's is [{}, {}]; "
                 "it was made for another model",
                 folder.string(), l->path, layer->out, layer->in, l->out, l->in);
    }
    taken.insert(l->path);
    matched.emplace_back(l, layer->rank);
  }
  for (const AdapterLayer& a : adapter_values_->layers) {
    if (!taken.contains(a.module)) {
      user_error("adapter",
                 "{}: the adapter has weights for \"{}\", which is not a linear layer of a block "
                 "of {}; it was made for another "
                 "model, or tunes a layer that is not supported",
                 folder.string(), a.module, config_text());
    }
  }
  register_adapter(adapter_values_->config, matched, trainable);
  return adapted_;
}

void LoadedModel::load_parameter(ParamId id, bool copy) {
  const ParamSpec& spec = params_.spec(id);
  if (options_.meta && !reader_) {
    const FileType file = to_file_type(decoder_->config().dtype);
    if (!spec.trainable && usable_as_is(dtype_, file, spec.shape.size() == 2)) {
      params_.set_format(id, format_from(file));
      params_.bind(id, nullptr);
      return;
    }
    params_.own(id, arena_);
    return;
  }
  const TensorEntry& t = reader_->at(spec.name);
  if (!spec.trainable && usable_as_is(dtype_, t.type, spec.shape.size() == 2)) {
    params_.set_format(id, format_from(t.type));
    if (copy && t.type != FileType::f16) {
      copy_parameter(id, t);
    } else {
      params_.bind(id, options_.meta ? nullptr : t.data);
    }
    return;
  }
  const Tensor value = params_.own(id, arena_);
  if (options_.meta) return;
  // In pieces, so that the fp32 copy in between stays small.
  std::vector<float> piece(1 << 16);
  const int64_t n = spec.numel();
  for (int64_t first = 0; first < n; first += static_cast<int64_t>(piece.size())) {
    const auto count =
        static_cast<size_t>(std::min<int64_t>(n - first, static_cast<int64_t>(piece.size())));
    read_as_float(t, first, {piece.data(), count});
    for (size_t i = 0; i < count; ++i) {
      const auto at = static_cast<size_t>(first) + i;
      switch (value.dtype()) {
        case DType::bf16:
          value.view().as<bf16>()[at] = bf16(piece[i]);
          break;
        case DType::f64:
          value.view().as<double>()[at] = piece[i];
          break;
        default:
          value.view().as<float>()[at] = piece[i];
          break;
      }
    }
  }
  drop_pages(t);
  if (copy && !spec.trainable) pack_parameter(id, value.view().data);
}

void LoadedModel::copy_parameter(ParamId id, const TensorEntry& t) {
  if (!pack_parameter(id, t.data)) {
    std::byte* to = static_cast<std::byte*>(params_.own(id, arena_).view().data);
    constexpr int64_t kPiece = 4 << 20;
    const auto bytes = static_cast<int64_t>(t.bytes);
    pool_.run((bytes + kPiece - 1) / kPiece, [&](int64_t task, int) {
      const int64_t first = task * kPiece;
      std::memcpy(to + first, t.data + first, static_cast<size_t>(std::min(kPiece, bytes - first)));
    });
  }
  drop_pages(t);
}

bool LoadedModel::pack_parameter(ParamId id, const void* data) {
  const ParamSpec& spec = params_.spec(id);
  if (!takes_bf16t_ || spec.format != Format::bf16 || spec.shape.size() != 2 ||
      !Bf16tPacker::fits(spec.shape[0], spec.shape[1]))
    return false;
  const Bf16tPacker packer(data, spec.shape[0], spec.shape[1], pool_);
  if (!packer.worth()) return false;
  packer.pack(params_.own_as(id, arena_, Format::bf16t, packer.bytes()).view().data);
  return true;
}

void LoadedModel::drop_pages(const TensorEntry& t) {
  // The file's copy is not needed again: its pages would count as ours.
  reader_->file_of(t.name).map().advise(MappedFile::Advice::dont_need, t.offset, t.bytes);
}

void LoadedModel::load(uint64_t init_seed, bool copy_weights) {
  const bool copy = copy_weights && !options_.meta;
  if (!options_.meta && !copy) check_finite(*reader_, pool_);
  for (ParamId id = 0; id < params_.count(); ++id) {
    const ParamSpec& spec = params_.spec(id);
    if (spec.adapter) {
      params_.own(id, arena_);
      continue;
    }
    // one by one, so that the file's pages are ours for one tensor at a time
    if (copy) check_finite(*reader_, {&spec.name, 1}, pool_);
    load_parameter(id, copy);
  }
  if (options_.meta) return;
  const auto layers = adapter_values_ ? by_module(*adapter_values_) : LayersByModule();
  for (nn::Linear* l : adapted_) {
    if (!adapter_values_) {
      nn::init_lora(params_, *l, init_seed);
      continue;
    }
    const AdapterLayer& layer = *layers.at(l->path);
    const auto fill = [this](ParamId id, const std::vector<float>& from) {
      const View v = params_.value(id).view();
      for (size_t i = 0; i < from.size(); ++i) {
        if (v.dtype == DType::f64) {
          v.as<double>()[i] = from[i];
        } else {
          v.as<float>()[i] = from[i];
        }
      }
    };
    fill(l->params.lora->a, layer.a);
    fill(l->params.lora->b, layer.b);
  }
  adapter_values_.reset();
  params_.values_changed();
}

Context LoadedModel::context() {
  Context ctx;
  ctx.device = &device_;
  ctx.params = &params_;
  ctx.dtype = dtype_;
  return ctx;
}

void save_files_beside_weights(const std::filesystem::path& folder, LoadedModel& model) {
  if (model.adapter_config()) {
    write_file_atomically(folder / "adapter_config.json",
                          adapter_config_json(*model.adapter_config()));
    return;
  }
  copy_model_files(model.folder(), folder);
  write_config(folder, model);
}

void save_adapter(const std::filesystem::path& folder, LoadedModel& model) {
  std::vector<AdapterLayerView> layers;
  for (const nn::Linear* l : model.adapted()) {
    const View a = model.params().value(l->params.lora->a).view();
    const View b = model.params().value(l->params.lora->b).view();
    HONE_CHECK(a.dtype == DType::f32, "adapters are saved from fp32");
    layers.push_back({.module = l->path,
                      .rank = a.shape[0],
                      .in = l->in,
                      .out = l->out,
                      .a = a.as<float>(),
                      .b = b.as<float>()});
  }
  save_adapter(folder, layers);
  save_files_beside_weights(folder, model);
}

void save_model(const std::filesystem::path& folder, LoadedModel& model) {
  std::vector<TensorDecl> decls;
  ParamStore& params = model.params();
  for (ParamId id = 0; id < params.count(); ++id) {
    const ParamSpec& s = params.spec(id);
    if (s.adapter) continue;
    decls.push_back(
        {.name = s.name, .type = to_file_type(format_dtype(s.format)), .shape = s.shape});
  }
  save_files_beside_weights(folder, model);
  ModelWriter writer(folder, decls);
  for (const TensorDecl& d : decls) {
    const Lease lease = params.lease(params.find(d.name));
    const View& v = lease.view();
    writer.write(d.name, {static_cast<const std::byte*>(v.data), d.bytes()});
  }
  writer.finish();
}

}  // namespace hone::io
