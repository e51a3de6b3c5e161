#include "app/loss_input.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "core/error.h"

namespace hone::app {
namespace {

struct Reader {
  const Json& samples;
  const std::string& source;

  template <class... Args>
  [[noreturn]] void fail(size_t i, const char* field, std::string_view what) const {
    user_error("loss", "{}: sample {}: \"{}\" is not {}", source, i + 1, field, what);
  }

  const Json* find(size_t i, const char* field) const {
    const auto it = samples[i].find(field);
    return it == samples[i].end() || it->is_null() ? nullptr : &*it;
  }

  // Whether the samples have the field: all or none.
  bool has(const char* field) const {
    size_t n = 0, without = 0;
    for (size_t i = 0; i < samples.size(); ++i) {
      if (find(i, field) != nullptr) {
        n++;
      } else {
        without = i;
      }
    }
    if (n != 0 && n != samples.size())
      user_error("loss", "{}: sample {} has no \"{}\", which others have", source, without + 1,
                 field);
    return n != 0;
  }

  double number(size_t i, const char* field, const Json& value) const {
    if (!value.is_number() || !std::isfinite(value.get<double>())) fail(i, field, "a number");
    return value.get<double>();
  }

  loss::Column column(const char* field) const {
    loss::Column c;
    if (!has(field)) return c;
    for (size_t i = 0; i < samples.size(); ++i) {
      const Json& list = *find(i, field);
      if (!list.is_array()) fail(i, field, "a list of numbers");
      for (const Json& v : list)
        c.values.push_back(v.is_boolean() ? v.get<bool>() : number(i, field, v));
      c.segments.add(list.size());
    }
    return c;
  }

  std::vector<double> numbers(const char* field) const {
    std::vector<double> out;
    if (!has(field)) return out;
    for (size_t i = 0; i < samples.size(); ++i) out.push_back(number(i, field, *find(i, field)));
    return out;
  }

  std::vector<int64_t> ids(const char* field) const {
    std::vector<int64_t> out;
    if (!has(field)) return out;
    for (size_t i = 0; i < samples.size(); ++i) {
      if (!find(i, field)->is_number_integer()) fail(i, field, "a whole number");
      out.push_back(find(i, field)->get<int64_t>());
    }
    return out;
  }

  std::vector<uint8_t> flags(const char* field) const {
    std::vector<uint8_t> out;
    if (!has(field)) return out;
    for (size_t i = 0; i < samples.size(); ++i) {
      if (!find(i, field)->is_boolean()) fail(i, field, "true or false");
      out.push_back(find(i, field)->get<bool>() ? 1 : 0);
    }
    return out;
  }
};

// A margin belongs to a pair: either side may have it.
std::vector<double> margins(const Reader& r) {
  std::vector<double> out(r.samples.size(), 0);
  bool any = false;
  for (size_t i = 0; i < out.size(); ++i) {
    const Json* v = r.find(i, "margin");
    if (v == nullptr) continue;
    out[i] = r.number(i, "margin", *v);
    any = true;
  }
  return any ? out : std::vector<double>();
}

std::vector<std::vector<std::optional<double>>> rewards(const Reader& r) {
  std::vector<std::vector<std::optional<double>>> out;
  if (!r.has("rewards")) return out;
  for (size_t i = 0; i < r.samples.size(); ++i) {
    const Json& list = *r.find(i, "rewards");
    if (!list.is_array()) r.fail(i, "rewards", "a list of numbers and nulls");
    out.emplace_back();
    for (const Json& v : list)
      out.back().push_back(v.is_null() ? std::optional<double>()
                                       : std::optional(r.number(i, "rewards", v)));
  }
  return out;
}

}  // namespace

loss::Batch read_loss_batch(const Json& json, const std::string& source) {
  if (!json.is_object() || !json.contains("samples") || !json["samples"].is_array() ||
      json["samples"].empty())
    user_error("loss", "{}: expected {{\"samples\": [...]}} with at least one sample", source);
  static constexpr std::array<std::string_view, 23> kFields = {"logprob",
                                                               "ref_logprob",
                                                               "old_logprob",
                                                               "prompt_logprob",
                                                               "kl_logprob",
                                                               "kl_ref_logprob",
                                                               "entropy",
                                                               "log_sum_sq",
                                                               "mask",
                                                               "value",
                                                               "old_value",
                                                               "score",
                                                               "margin",
                                                               "advantage",
                                                               "pair",
                                                               "chosen",
                                                               "label",
                                                               "group",
                                                               "truncated",
                                                               "rewards",
                                                               "id",
                                                               "prompt",
                                                               "importance_sampling_ratio"};
  const Json& samples = json["samples"];
  for (size_t i = 0; i < samples.size(); ++i) {
    if (!samples[i].is_object()) user_error("loss", "{}: sample {} is no object", source, i + 1);
    for (const auto& [key, value] : samples[i].items())
      if (std::find(kFields.begin(), kFields.end(), key) == kFields.end())
        user_error("loss", "{}: sample {} has a field \"{}\" that is not known", source, i + 1,
                   key);
  }
  const Reader r{samples, source};
  loss::Batch b;
  b.samples = samples.size();
  b.logprob = r.column("logprob");
  b.ref_logprob = r.column("ref_logprob");
  b.old_logprob = r.column("old_logprob");
  b.prompt_logprob = r.column("prompt_logprob");
  b.kl_logprob = r.column("kl_logprob");
  b.kl_ref_logprob = r.column("kl_ref_logprob");
  b.entropy = r.column("entropy");
  b.log_sum_sq = r.column("log_sum_sq");
  b.sampling_ratio = r.column("importance_sampling_ratio");
  b.mask = r.column("mask");
  b.value = r.column("value");
  b.old_value = r.column("old_value");
  b.score = r.numbers("score");
  b.margin = margins(r);
  b.advantage = r.numbers("advantage");
  b.pair = r.ids("pair");
  b.chosen = r.flags("chosen");
  b.label = r.flags("label");
  b.group = r.ids("group");
  b.truncated = r.flags("truncated");
  b.rewards = rewards(r);
  if (!b.logprob.present() && b.score.empty())
    user_error("loss", "{}: the samples have no \"logprob\"", source);
  return b;
}

}  // namespace hone::app
