#pragma once

namespace hone::app {

inline constexpr const char* kVersion = "0.1.0";
// Heading of the flags that all commands share.
inline constexpr const char* kCommonGroup = "Command line";

}  // namespace hone::app
