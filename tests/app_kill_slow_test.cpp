// SIGKILL at many random moments, for LoRA and full tuning in both types.
#include "robust_kill.h"

namespace hone::robust {
namespace {

class Kill : public ::testing::TestWithParam<int> {};

TEST_P(Kill, ResumedEqualsNeverStopped) {
  TempFolder work;
  const std::string model = work / "model", data = work.write("data.jsonl", chats(41));
  make_model(work, model);
  const KillCase& what = kill_cases()[static_cast<size_t>(GetParam())];
  kill_and_resume(work, model, data, what, 10, 1000u + static_cast<uint32_t>(GetParam()));
}
INSTANTIATE_TEST_SUITE_P(All, Kill, ::testing::Range(0, 4));

}  // namespace
}  // namespace hone::robust
