#include "models/family.h"

#include <array>

namespace hone::models {

std::span<const Family* const> families() {
  static constexpr std::array all = {&kLlama,    &kMistral,  &kQwen2,      &kQwen3,     &kMixtral,
                                     &kQwen2Moe, &kQwen3Moe, &kDeepseekV2, &kDeepseekV3};
  return all;
}

std::string supported_architectures() {
  const auto all = families();
  std::string text;
  for (size_t i = 0; i < all.size(); ++i) {
    if (i != 0) text += i + 1 == all.size() ? " and " : ", ";
    text += all[i]->architecture;
  }
  return text;
}

}  // namespace hone::models
