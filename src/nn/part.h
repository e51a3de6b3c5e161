// A block is two parts: a mixer, in which tokens see each other, and an MLP, which works on each
// token alone. Both add to what they are given: x + part(norm(x)).
#pragma once

#include <string>
#include <vector>

#include "nn/inputs.h"
#include "nn/layers.h"

namespace hone::nn {

// Where a part's parameters go.
struct PartSite {
  ParamStore& store;
  std::string path;  // "model.layers.0.self_attn"
  int unit = 0;
  Format format = Format::f32;
};

struct MixerCall {
  const StreamInputs& stream;
  size_t layer = 0;   // of the cache
  bool some = false;  // only the rows that the stream wants, in their order
};

class Mixer {
 public:
  virtual ~Mixer() = default;
  // x + mixer(normed): [T, D], or [R, D] of the rows wanted. normed, the part's own, is let go as
  // early as can be.
  virtual Tensor forward(Context& ctx, const MixerCall& call, Tensor normed,
                         const Tensor& x) const = 0;
  virtual CacheShape cache_shape() const = 0;
  virtual std::vector<Linear*> linears() = 0;  // in model order

 protected:
  // x + out(mixed), of the rows that the call wants.
  static Tensor project(Context& ctx, const MixerCall& call, const Linear& out, Tensor mixed,
                        const Tensor& x);
};

class Mlp {
 public:
  virtual ~Mlp() = default;
  // x + mlp(normed), the block's output. row_ids: of these rows.
  virtual BlockOut forward(Context& ctx, Tensor normed, const Tensor& x,
                           const Tensor& row_ids) const = 0;
  virtual std::vector<Linear*> linears() = 0;
};

}  // namespace hone::nn
