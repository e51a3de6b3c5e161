// Words of flags: sizes, element types, lists of numbers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/dtype.h"

namespace hone::app {

// "6GiB", "1.5 GB", "800MB", "1048576": KB, MB, GB, TB are powers of 1000, KiB, MiB, GiB, TiB (and
// K, M, G, T) of 1024. UserError.
size_t parse_memory(std::string_view flag, const std::string& text);
// "auto" is null. UserError.
std::optional<DType> parse_dtype(std::string_view flag, const std::string& text);
// Values, each of which may be several with commas between: {"a,b", "c"} is {"a", "b", "c"}.
std::vector<std::string> comma_list(const std::vector<std::string>& values);
// "0,1,5-7". UserError.
std::vector<int64_t> number_list(std::string_view flag, const std::vector<std::string>& values);

}  // namespace hone::app
