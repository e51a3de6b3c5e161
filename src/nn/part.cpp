#include "nn/part.h"

namespace hone::nn {

Tensor Mixer::project(Context& ctx, const MixerCall& call, const Linear& out, Tensor mixed,
                      const Tensor& x) {
  const StreamInputs& in = call.stream;
  if (!call.some) return ops::linear(ctx, {&out.params, 1}, mixed, x, in.row_ids);
  mixed = ops::gather_rows(ctx, mixed, in.wanted);
  return ops::linear(ctx, {&out.params, 1}, mixed, ops::gather_rows(ctx, x, in.wanted),
                     in.wanted_ids);
}

}  // namespace hone::nn
