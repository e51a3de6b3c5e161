// Options as they stand in run.json and in a run's identity: flag name -> value.
#pragma once

#include <nlohmann/json.hpp>
#include <type_traits>

#include "train/options.h"

namespace hone::train {
namespace detail {

template <class T>
nlohmann::json to_json(const T& value) {
  if constexpr (std::is_enum_v<T>) {
    return std::string(word_of(value));
  } else {
    return value;
  }
}
inline nlohmann::json to_json(const std::optional<DType>& t) {
  return t ? std::string(dtype_name(*t)) : "auto";
}
inline nlohmann::json to_json(const std::optional<int64_t>& n) { return n.value_or(-1); }
inline nlohmann::json to_json(const std::optional<double>& x) {
  return x ? nlohmann::json(*x) : nlohmann::json();
}
inline nlohmann::json to_json(const ByteCount& n) { return n.bytes; }
inline nlohmann::json to_json(const NoDecay& o) {
  nlohmann::json j = nlohmann::json::array();
  if (o.norm) j.push_back("norm");
  if (o.bias) j.push_back("bias");
  return j;
}

}  // namespace detail

// The effective configuration of a trainer.
template <class Options>
nlohmann::json options_json(const Options& o) {
  nlohmann::json j = {{"command", Options::kCommand}};
  Options::fields(o, [&j](const auto& value, const Field& f) {
    if (f.saved != Saved::kNot) j[f.key] = detail::to_json(value);
  });
  return j;
}

// What of it a run that goes on must have as it had it before.
template <class Options>
nlohmann::json options_identity(const Options& o) {
  nlohmann::json j = {{"command", Options::kCommand}};
  Options::fields(o, [&j](const auto& value, const Field& f) {
    if (f.saved == Saved::kSame) j[f.key] = detail::to_json(value);
  });
  return j;
}

}  // namespace hone::train
