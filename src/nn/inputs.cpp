#include "nn/inputs.h"

#include "backend/desc/elementwise.h"

namespace hone::nn {

void store_in_cache(Context& ctx, const StreamInputs& in, const View& heads, const Tensor& cache) {
  launch(ctx, ScatterRowsDesc{.y = heads, .rows = in.cache_rows.view(), .x = cache.view()},
         "kv_cache");
}

}  // namespace hone::nn
