#include "nn/layers.h"

#include <algorithm>
#include <cmath>

#include "core/rng.h"
#include "exec/memory.h"

namespace hone::nn {

Linear add_linear(ParamStore& store, const LinearSpec& spec) {
  Linear l{.path = spec.path, .in = spec.in, .out = spec.out, .unit = spec.unit};
  l.params.label = spec.label;
  l.params.weight = store.add({.name = spec.path + ".weight",
                               .shape = {spec.out, spec.in},
                               .format = spec.format,
                               .placement = spec.placement,
                               .unit = spec.unit});
  if (spec.bias)
    l.params.bias = add_vector(store, spec.path + ".bias", spec.out, spec.unit, spec.format);
  return l;
}

ParamId add_vector(ParamStore& store, const std::string& name, int64_t n, int unit, Format format) {
  return store.add({.name = name, .shape = {n}, .format = format, .unit = unit});
}

std::string lora_name(const std::string& path, char which) {
  return "base_model.model." + path + ".lora_" + which + ".weight";
}

void add_lora(ParamStore& store, Linear& linear, const LoraSpec& spec) {
  const Format format =
      store.spec(linear.first_weight()).format == Format::f64 ? Format::f64 : Format::f32;
  ops::Lora lora{.scale = spec.scale, .dropout = spec.dropout};
  const auto add = [&](char which, std::vector<int64_t> shape) {
    return store.add({.name = lora_name(linear.path, which),
                      .shape = std::move(shape),
                      .format = format,
                      .unit = linear.unit,
                      .trainable = true,
                      .adapter = true});
  };
  lora.a = add('A', {linear.copies() * spec.rank, linear.in});
  lora.b = add('B', {linear.copies() * linear.out, spec.rank});
  lora.salt = hash_name(linear.path.data(), linear.path.size());
  linear.params.lora = lora;
}

void init_lora(const Device& device, ParamStore& store, const Linear& linear, uint64_t seed) {
  const ops::Lora& lora = *linear.params.lora;
  const std::string& name = store.spec(lora.a).name;
  const uint64_t id = hash_name(name.data(), name.size());
  const View a = store.value(lora.a).view();
  std::byte* values = writable(device, a).data();
  const double bound = 1.0 / std::sqrt(static_cast<double>(linear.in));
  for (int64_t i = 0; i < a.numel(); ++i) {
    const auto words = random_words(seed, Purpose::init, id, static_cast<uint64_t>(i));
    const double u = (2.0 * uniform_double(words[0], words[1]) - 1.0) * bound;
    if (a.dtype == DType::f64) {
      reinterpret_cast<double*>(values)[i] = u;
    } else {
      reinterpret_cast<float*>(values)[i] = static_cast<float>(u);
    }
  }
  std::ranges::fill(writable(device, store.value(lora.b).view()), std::byte{0});
}

}  // namespace hone::nn
