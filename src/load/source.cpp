#include "load/source.h"

#include <algorithm>
#include <set>

#include "backend/format.h"
#include "core/thread_pool.h"

namespace hone::load {
namespace {

constexpr std::string_view kScale = "_scale_inv";  // of a weight, after its name
constexpr int64_t kScaleBlock = 128;
constexpr std::string_view kWeight = ".weight";

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string s = "[";
  for (size_t i = 0; i < shape.size(); ++i) s += (i ? ", " : "") + std::to_string(shape[i]);
  return s + "]";
}

int64_t blocks(int64_t n) { return (n + kScaleBlock - 1) / kScaleBlock; }

[[noreturn]] void missing(const io::CheckpointReader& reader, const std::string& name,
                          const std::string& architecture) {
  const std::string folder = reader.folder().string();
  if (name == "lm_head.weight") {
    user_error("weights",
               "{}: config.json ({}) has tie_word_embeddings false, but the weights have no "
               "lm_head.weight; if the head is the embedding, set it to true in a copy of "
               "config.json",
               folder, architecture);
  }
  const std::vector<std::string> names = reader.names();
  user_error("weights",
             "{}: tensor \"{}\" that config.json ({}) asks for is missing (\"{}\" is there, for "
             "one); the download may be incomplete, or config.json belongs to another model",
             folder, name, architecture, names.empty() ? "nothing" : names.front());
}

const io::TensorEntry* scales_of(const io::CheckpointReader& reader,
                                 const io::TensorEntry& values) {
  const std::string name = values.name + std::string(kScale);
  const io::TensorEntry* scales = reader.find(name);
  if (scales == nullptr) {
    user_error("weights",
               "{}: tensor \"{}\" is {}, but its scales \"{}\" are missing; only FP8 with a scale "
               "for each block of 128 x 128 is supported",
               reader.folder().string(), values.name, io::file_type_name(values.type), name);
  }
  const std::vector<int64_t> shape = {blocks(values.shape[0]), blocks(values.shape[1])};
  if (scales->type != io::FileType::f32 || scales->shape != shape) {
    user_error("weights",
               "{}: the scales \"{}\" are {} {}, but for a weight of {} they should be F32 {}: one "
               "for each block of 128 x 128",
               reader.folder().string(), name, io::file_type_name(scales->type),
               shape_text(scales->shape), shape_text(values.shape), shape_text(shape));
  }
  return scales;
}

Source find_source(const io::CheckpointReader& reader, const ParamSpec& spec,
                   const std::string& architecture) {
  const io::TensorEntry* t = reader.find(spec.name);
  if (t == nullptr) missing(reader, spec.name, architecture);
  if (t->shape != spec.shape) {
    user_error("weights",
               "{}: tensor \"{}\" has shape {} but config.json says {}; config.json and weights "
               "don't belong together",
               reader.folder().string(), spec.name, shape_text(t->shape), shape_text(spec.shape));
  }
  return with_scales(reader, *t);
}

}  // namespace

Format format_of(io::FileType t) {
  switch (t) {
    case io::FileType::bf16:
      return Format::bf16;
    case io::FileType::f16:
      return Format::f16;
    case io::FileType::f64:
      return Format::f64;
    case io::FileType::f8_e4m3:
      return Format::fp8_block;
    default:
      return Format::f32;
  }
}

bool usable_as_is(DType run, Format file, bool matrix) {
  if (run == DType::f64) return file == Format::f64;
  if (file == Format::fp8_block) return matrix;
  if (run == DType::bf16) return file == Format::bf16;
  return file == Format::f32 || file == Format::bf16 || (matrix && file == Format::f16);
}

std::vector<Source> find_sources(const io::CheckpointReader& reader, const ParamStore& params,
                                 const std::string& architecture) {
  std::vector<Source> sources;
  std::set<std::string_view> known;
  for (ParamId id = 0; id < params.count(); ++id) {
    const Source& s = sources.emplace_back(find_source(reader, params.spec(id), architecture));
    known.insert(s.values->name);
    if (s.scales != nullptr) known.insert(s.scales->name);
  }
  for (const std::string& name : reader.names()) {
    if (known.contains(name) || name.ends_with("rotary_emb.inv_freq")) continue;
    user_error("weights",
               "{}: tensor \"{}\" is in the weights but config.json ({}) has no place for it; "
               "config.json and weights don't "
               "belong together",
               reader.folder().string(), name, architecture);
  }
  return sources;
}

bool is_linear_weight(const std::string& name, const std::vector<int64_t>& shape) {
  if (shape.size() != 2 || !name.ends_with(kWeight)) return false;
  const std::string_view path = std::string_view(name).substr(0, name.size() - kWeight.size());
  const std::string_view last = path.substr(path.rfind('.') + 1);
  return path.find("layers.") != std::string_view::npos &&
         (last.find("_proj") != std::string_view::npos || last == "w1" || last == "w2" ||
          last == "w3");
}

bool is_scale(const io::CheckpointReader& reader, const std::string& name) {
  return name.ends_with(kScale) &&
         reader.find(name.substr(0, name.size() - kScale.size())) != nullptr;
}

Source with_scales(const io::CheckpointReader& reader, const io::TensorEntry& t) {
  switch (t.type) {
    case io::FileType::f64:
    case io::FileType::f32:
    case io::FileType::bf16:
    case io::FileType::f16:
      return {.values = &t, .format = format_of(t.type)};
    case io::FileType::f8_e4m3:
      if (t.shape.size() == 2)
        return {.values = &t, .scales = scales_of(reader, t), .format = Format::fp8_block};
      break;
    default:
      break;
  }
  user_error("weights",
             "{}: tensor \"{}\" has type {}; supported are F32, BF16, F16 and F64, and of matrices "
             "F8_E4M3 with scales for blocks of 128 x 128",
             reader.folder().string(), t.name, io::file_type_name(t.type));
}

bool has_numbers(io::FileType t) {
  return t == io::FileType::f64 || t == io::FileType::f32 || t == io::FileType::bf16 ||
         t == io::FileType::f16 || t == io::FileType::f8_e4m3;
}

void read_numbers(const Source& source, int64_t first, std::span<float> out) {
  if (source.scales == nullptr) {
    io::read_as_float(*source.values, first, out);
    return;
  }
  const int64_t cols = source.values->shape[1];
  const WeightView w = contiguous_weight(source.format, source.values->data, source.scales->data,
                                         source.values->shape[0], cols);
  for (size_t done = 0; done < out.size();) {
    const int64_t at = first + static_cast<int64_t>(done), col = at % cols;
    const int64_t n = std::min<int64_t>(cols - col, static_cast<int64_t>(out.size() - done));
    format_ops(source.format).to_fp32(w, at / cols, col, n, out.data() + done);
    done += static_cast<size_t>(n);
  }
}

void check_finite(const io::CheckpointReader& reader, std::span<const Source> sources,
                  ThreadPool& pool) {
  std::vector<std::string> names;
  for (const Source& s : sources) {
    names.push_back(s.values->name);
    if (s.scales != nullptr) names.push_back(s.scales->name);
  }
  std::sort(names.begin(), names.end());
  io::check_finite(reader, names, pool);
}

}  // namespace hone::load
