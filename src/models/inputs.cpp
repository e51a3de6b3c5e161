#include "models/inputs.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "backend/desc/elementwise.h"
#include "backend/desc/key_blocks.h"
#include "core/rng.h"
#include "exec/memory.h"

namespace hone::models {
namespace {

void upload_stream(Context& ctx, const ModelConfig& config, const Stream& stream,
                   std::span<const int32_t> wanted, StreamInputs& in) {
  in.tokens = upload(ctx, std::span<const int32_t>(stream.tokens));
  const Tensor positions = upload(ctx, std::span<const int32_t>(stream.positions));
  for (const RopeSpec& rope : config.ropes) {
    const std::vector<float> freq = rope_inv_freq(rope);
    const Tensor inv_freq = upload(ctx, std::span<const float>(freq));
    const Tensor& table = in.ropes.emplace_back(ctx.empty(ctx.wide(), {stream.size(), rope.dim}));
    launch(ctx,
           RopeTableDesc{.positions = positions.view(),
                         .inv_freq = inv_freq.view(),
                         .table = table.view(),
                         .scale = static_cast<float>(rope.scaling.attention_factor)},
           "rope_table");
  }
  if (!wanted.empty()) in.wanted = upload(ctx, wanted);
  if (!ctx.training) return;
  std::vector<int64_t> ids(stream.tokens.size());
  for (const Segment& s : stream.segments) {
    for (int32_t i = 0; i < s.len; ++i) {
      const auto w =
          random_words(ctx.seed, Purpose::dropout, s.key,
                       (static_cast<uint64_t>(ctx.step) << 32) | static_cast<uint32_t>(s.pos0 + i));
      ids[static_cast<size_t>(s.begin + i)] =
          static_cast<int64_t>((static_cast<uint64_t>(w[0]) << 32) | w[1]);
    }
  }
  in.row_ids = upload(ctx, std::span<const int64_t>(ids));
  std::vector<int64_t> wanted_ids;
  for (const int32_t row : wanted) wanted_ids.push_back(ids[static_cast<size_t>(row)]);
  if (!wanted.empty()) in.wanted_ids = upload(ctx, std::span<const int64_t>(wanted_ids));
}

// A segment whose blocks are added to the plan's next.
void add_segment(const Segment& s, ops::AttentionPlan& plan) {
  plan.segments.push_back({.q_begin = s.begin,
                           .q_len = s.len,
                           .kv_len = s.pos0 + s.len,
                           .first_block = static_cast<int32_t>(plan.blocks.size())});
}

}  // namespace

namespace {

// How much of pair i's frequency is kept, as the original model has it; the rest is divided.
class YarnRamp {
 public:
  explicit YarnRamp(const RopeSpec& rope) {
    const RopeScaling& s = rope.scaling;
    const double dim = static_cast<double>(rope.dim);
    // the pair that turns so often over the original length
    const auto pair_of = [&](double rotations) {
      const double length = static_cast<double>(s.original_max_position_embeddings);
      return dim * std::log(length / (rotations * 2 * std::numbers::pi)) /
             (2 * std::log(rope.theta));
    };
    double low = pair_of(s.beta_fast), high = pair_of(s.beta_slow);
    if (s.truncate) low = std::floor(low), high = std::ceil(high);
    low = std::max(low, 0.0), high = std::min(high, dim - 1);
    if (low == high) high += 0.001;
    low_ = static_cast<float>(low), width_ = static_cast<float>(high - low);
  }
  float kept(int64_t i) const {
    return 1 - std::clamp((static_cast<float>(i) - low_) / width_, 0.0f, 1.0f);
  }

 private:
  float low_, width_;
};

}  // namespace

std::vector<float> rope_inv_freq(const RopeSpec& rope) {
  const int64_t d = rope.dim;
  const RopeScaling& s = rope.scaling;
  std::vector<float> f(static_cast<size_t>(d / 2));
  for (int64_t i = 0; i < d / 2; ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(d);
    const float power = static_cast<float>(std::pow(rope.theta, static_cast<double>(exponent)));
    float inv = 1.0f / power;
    if (s.type == RopeScaling::Type::linear) inv /= s.factor;
    if (s.type == RopeScaling::Type::yarn) {
      const float kept = YarnRamp(rope).kept(i);
      inv = 1.0f / (s.factor * power) * (1 - kept) + inv * kept;
    }
    if (s.type == RopeScaling::Type::llama3) {
      const float old_length = static_cast<float>(s.original_max_position_embeddings);
      const float low_wavelength = old_length / s.low_freq_factor;
      const float high_wavelength = old_length / s.high_freq_factor;
      const float wavelength = 2 * std::numbers::pi_v<float> / inv;
      if (wavelength > low_wavelength) {
        inv /= s.factor;
      } else if (wavelength >= high_wavelength) {
        const float smooth = (old_length / wavelength - s.low_freq_factor) /
                             (s.high_freq_factor - s.low_freq_factor);
        inv = (1 - smooth) * (inv / s.factor) + smooth * inv;
      }
    }
    f[static_cast<size_t>(i)] = inv;
  }
  return f;
}

StreamInputs make_inputs(Context& ctx, const ModelConfig& config, const Stream& stream,
                         std::span<const int32_t> wanted) {
  StreamInputs in;
  upload_stream(ctx, config, stream, wanted, in);
  for (const Segment& s : stream.segments) {
    HONE_CHECK(s.parent == -1 && s.pos0 == 0, "a stream without a cache holds whole sequences");
    add_segment(s, in.plan);
    for (int32_t row = 0; row < s.len; row += kKeyBlock)
      in.plan.blocks.push_back({.row = s.begin + row});
  }
  return in;
}

StreamInputs make_cached_inputs(Context& ctx, const ModelConfig& config, const Stream& stream,
                                std::span<const std::span<const CacheBlock>> blocks, KvCache& cache,
                                std::span<const int32_t> wanted) {
  StreamInputs in;
  upload_stream(ctx, config, stream, wanted, in);
  in.cache = &cache;
  std::vector<int32_t> rows(stream.tokens.size());
  for (size_t i = 0; i < stream.segments.size(); ++i) {
    const Segment& s = stream.segments[i];
    add_segment(s, in.plan);
    const int32_t keys = s.pos0 + s.len;
    HONE_CHECK(static_cast<int64_t>(blocks[i].size()) * kKeyBlock >= keys);
    for (int32_t b = 0; b * kKeyBlock < keys; ++b) {
      const CacheBlock& block = blocks[i][static_cast<size_t>(b)];
      KeyBlock k{.row = cache.row(block.page, 0), .split = block.split};
      if (block.split < kKeyBlock) k.row_after = cache.row(block.after, block.split);
      in.plan.blocks.push_back(k);
    }
    for (int32_t t = 0; t < s.len; ++t) {
      const int32_t position = s.pos0 + t;
      const CacheBlock& block = blocks[i][static_cast<size_t>(position / kKeyBlock)];
      rows[static_cast<size_t>(s.begin + t)] = cache.row(block.page_of(position), position);
    }
  }
  in.cache_rows = upload(ctx, std::span<const int32_t>(rows));
  return in;
}

}  // namespace hone::models
