// Logits of whole sequences, some rows at a time.
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "exec/context.h"
#include "models/decoder.h"

namespace hone::app {

// Calls fn(first row, rows of [n, V] fp32) for all tokens in order; memory does not follow T x V.
void for_each_logits(Context& ctx, const models::Decoder& decoder,
                     const std::vector<int32_t>& tokens,
                     const std::function<void(int64_t, std::span<const float>)>& fn);

}  // namespace hone::app
