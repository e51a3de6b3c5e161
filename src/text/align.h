// Which bytes of a text each of its tokens stands for.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string_view>

#include "text/tokenizer.h"

namespace hone {

// Fills ranges[i] with the bytes of `text` that ids[i] stands for; bytes_of(id) gives the bytes the
// token would write. Where the tokens' bytes, put together, are the text (every byte-level
// tokenizer), the ranges are exact. Where a normaliser rewrote a stretch of the text, the tokens
// that touch the stretch get all of it. A rewriting too large to follow is a UserError.
void align_tokens(std::string_view text, std::span<const int32_t> ids,
                  const std::function<std::string_view(int32_t)>& bytes_of,
                  std::span<ByteRange> ranges);

}  // namespace hone
