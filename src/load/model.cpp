#include "load/model.h"

#include <algorithm>
#include <map>

#include "backend/format.h"
#include "exec/memory.h"
#include "io/weight_names.h"

namespace hone::load {
namespace {

// Of values that the run makes for itself.
Format owned_format(DType t) {
  switch (t) {
    case DType::bf16:
      return Format::bf16;
    case DType::f64:
      return Format::f64;
    default:
      return Format::f32;
  }
}

// Values of a meta machine.
class Nowhere final : public Residency {
 public:
  ParamValue acquire(ParamId) override { return {}; }
  void release(ParamId) override {}
  void prefetch(int) override {}
};

}  // namespace

Model::Model(Machine& machine, const ModelOptions& options) : machine_(machine), options_(options) {
  const std::filesystem::path& folder = options.folder;
  models::ModelConfig config = models::load_model_config(folder);
  for (const std::string& field : config.unknown_fields) {
    if (options_.warn)
      options_.warn(fmt::format("config.json: field \"{}\" is not known and has no effect", field));
  }
  dtype_ = options.dtype.value_or(config.dtype == DType::f16 ? DType::bf16 : config.dtype);
  device_ = &machine.device(dtype_);
  const bool has_weights = std::filesystem::exists(folder / "model.safetensors") ||
                           std::filesystem::exists(folder / "model.safetensors.index.json");
  if (!machine.meta() || has_weights)
    reader_ = io::open_model_weights(folder, config, options_.warn);
  decoder_ = std::make_unique<models::Decoder>(config, params_, owned_format(dtype_));
  if (reader_) {
    sources_ = find_sources(*reader_, params_, architecture());
    mapped_ = std::make_unique<MappedFiles>(*reader_, machine.pool());
    if (options.weights_memory != 0 && !machine.meta())
      streamed_ = std::make_unique<StreamedFiles>(*reader_, options.weights_memory);
  }
  if (machine.meta()) nowhere_ = std::make_unique<Nowhere>();
}

uint64_t Model::mapped_bytes() const {
  uint64_t n = 0;
  for (ParamId id = 0; id < params_.count(); ++id) {
    if (!params_.owned(id)) n += static_cast<uint64_t>(params_.bytes(id));
  }
  return n;
}

size_t Model::least_weights_memory() const {
  if (reader_) {
    StreamedFiles files(*reader_, 0);
    for (ParamId id = 0; id < params_.count(); ++id) {
      if (!params_.owned(id))
        files.add(id, params_.spec(id).unit, sources_[static_cast<size_t>(id)]);
    }
    keep_tied(files);
    return files.least();
  }
  // The files would have them one after the other.
  const int tied =
      config().tie_word_embeddings ? params_.spec(decoder_->embedding()).unit : kNoParam;
  std::map<int, size_t> units;
  for (ParamId id = 0; id < params_.count(); ++id) {
    if (!params_.owned(id)) units[params_.spec(id).unit] += static_cast<size_t>(params_.bytes(id));
  }
  size_t kept = 0;
  std::vector<size_t> others;
  for (const auto& [unit, bytes] : units) {
    if (unit == tied) {
      kept = bytes;
    } else {
      others.push_back(bytes);
    }
  }
  return StreamedFiles::least_for(kept, std::move(others));
}

void Model::keep_tied(StreamedFiles& files) const {
  if (config().tie_word_embeddings) files.keep(params_.spec(decoder_->embedding()).unit);
}

uint64_t Model::file_bytes() const {
  if (reader_) return reader_->total_bytes();
  uint64_t n = 0;
  for (ParamId id = 0; id < params_.count(); ++id) {
    if (!params_.spec(id).adapter)
      n += static_cast<uint64_t>(value_bytes(params_.spec(id).shape, file_format(id)));
  }
  return n;
}

Format Model::file_format(ParamId id) const {
  if (reader_) return sources_[static_cast<size_t>(id)].format;
  const models::ModelConfig& config = decoder_->config();
  const ParamSpec& spec = params_.spec(id);
  constexpr std::string_view kWeight = ".weight";
  if (config.quantization && is_linear_weight(spec.name, spec.shape) &&
      models::is_quantized(*config.quantization,
                           spec.name.substr(0, spec.name.size() - kWeight.size())))
    return config.quantization->format;
  return format_of(io::to_file_type(config.dtype));
}

void Model::load_parameter(ParamId id, bool copy) {
  const ParamSpec& spec = params_.spec(id);
  const Format format = file_format(id);
  if (spec.trainable || !usable_as_is(dtype_, format, spec.shape.size() == 2)) {
    convert_parameter(id);
    const Tensor value = params_.value(id);
    if (copy && !spec.trainable) pack_parameter(id, value.view().data);
  } else if (machine_.meta()) {
    params_.place(id, format, *nowhere_);
  } else if (copy && format != Format::f16 && format_layout(format).plain) {
    copy_parameter(id);
  } else if (streamed_) {
    streamed_->add(id, spec.unit, sources_[static_cast<size_t>(id)]);
    params_.place(id, format, *streamed_);
  } else {
    mapped_->add(id, spec.unit, sources_[static_cast<size_t>(id)]);
    params_.place(id, format, *mapped_);
  }
}

void Model::convert_parameter(ParamId id) {
  const ParamSpec& spec = params_.spec(id);
  const Tensor value =
      params_.owned(id) ? params_.value(id) : params_.own(id, machine_.arena(), spec.format);
  if (machine_.meta()) return;
  const Source& source = sources_[static_cast<size_t>(id)];
  check_finite(*reader_, {&source, 1}, machine_.pool());
  // In pieces, so that the fp32 copy in between stays small.
  std::vector<float> piece(1 << 16);
  const int64_t n = spec.numel();
  for (int64_t first = 0; first < n; first += static_cast<int64_t>(piece.size())) {
    const auto count =
        static_cast<size_t>(std::min<int64_t>(n - first, static_cast<int64_t>(piece.size())));
    read_numbers(source, first, {piece.data(), count});
    write(*device_, value, first, {piece.data(), count});
  }
  drop_pages(id);
}

void Model::copy_parameter(ParamId id) {
  const Source& source = sources_[static_cast<size_t>(id)];
  check_finite(*reader_, {&source, 1}, machine_.pool());
  const std::byte* from = source.values->data;
  if (!pack_parameter(id, from)) {
    const Tensor value = params_.own(id, machine_.arena(), source.format);
    std::byte* to = writable(*device_, value.view()).data();
    constexpr int64_t kPiece = 4 << 20;
    const auto bytes = static_cast<int64_t>(source.values->bytes);
    machine_.pool().run((bytes + kPiece - 1) / kPiece, [&](int64_t task, int) {
      const int64_t first = task * kPiece;
      std::copy_n(from + first, std::min(kPiece, bytes - first), to + first);
    });
  }
  drop_pages(id);
}

bool Model::pack_parameter(ParamId id, const void* data) {
  const ParamSpec& spec = params_.spec(id);
  const Format format = params_.owned(id) ? params_.format(id) : file_format(id);
  const Format compact = machine_.path(dtype_).compact;
  if (compact == Format::bf16 || format != Format::bf16 || spec.shape.size() != 2) return false;
  const auto packer =
      format_ops(compact).compact(data, spec.shape[0], spec.shape[1], machine_.pool());
  if (packer == nullptr) return false;
  const Tensor to = params_.own_as(id, machine_.arena(), compact, packer->bytes());
  packer->pack(writable(*device_, to.view()).data());
  return true;
}

void Model::drop_pages(ParamId id) {
  // The file's copy is not needed again: its pages would count as ours.
  const Source& source = sources_[static_cast<size_t>(id)];
  for (const io::TensorEntry* t : {source.values, source.scales}) {
    if (t == nullptr) continue;
    reader_->file_of(t->name).map().advise(io::MappedFile::Advice::dont_need, t->offset, t->bytes);
  }
}

void Model::load(uint64_t init_seed, bool copy_weights) {
  params_.own_trainable(machine_.arena());
  // one by one, so that the file's pages are ours for one tensor at a time
  for (ParamId id = 0; id < params_.count(); ++id) {
    const ParamSpec& spec = params_.spec(id);
    if (!spec.adapter) {
      load_parameter(id, copy_weights && !machine_.meta() && !streamed_);
    } else if (!params_.owned(id)) {
      params_.own(id, machine_.arena(), spec.format);
    }
  }
  if (machine_.meta()) return;
  if (streamed_) {
    keep_tied(*streamed_);
    streamed_->start();
  }
  fill_adapter(init_seed);
  params_.values_changed();
}

StreamedFiles::Counters Model::streamed() const {
  return streamed_ ? streamed_->counters() : StreamedFiles::Counters{};
}

void Model::check_weights() {
  if (mapped_) mapped_->check_all();
  if (streamed_) check_finite(*reader_, sources_, machine_.pool());
}

Context Model::context() {
  Context ctx;
  ctx.device = device_;
  ctx.params = &params_;
  ctx.dtype = dtype_;
  return ctx;
}

}  // namespace hone::load
