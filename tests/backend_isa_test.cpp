// Which instruction path runs where.
#include <gtest/gtest.h>

#include <cstdlib>
#include <vector>

#include "backend/cpu/cpu.h"
#include "core/error.h"

namespace hone {
namespace {

using cpu::Isa;

TEST(Isa, BestByVendor) {
  std::vector<Isa> some = {Isa::reference, Isa::scalar};
  EXPECT_EQ(cpu::best_of(some, "AuthenticAMD"), Isa::scalar);
  some.insert(some.end(), {Isa::avx2, Isa::avx512});
  EXPECT_EQ(cpu::best_of(some, "GenuineIntel"), Isa::avx512);
  some.push_back(Isa::avx512bf16);
  EXPECT_EQ(cpu::best_of(some, "AuthenticAMD"), Isa::avx512bf16);
  EXPECT_EQ(cpu::best_of(some, "GenuineIntel"), Isa::avx512);
  some.push_back(Isa::amx);
  EXPECT_EQ(cpu::best_of(some, "GenuineIntel"), Isa::amx);
}

TEST(Isa, ChosenByTheEnvironment) {
  unsetenv("HONE_ISA");
  EXPECT_EQ(cpu::choose_isa(), cpu::best_isa());
  for (const Isa isa : cpu::available_isas()) {
    setenv("HONE_ISA", std::string(cpu::isa_name(isa)).c_str(), 1);
    EXPECT_EQ(cpu::choose_isa(), isa);
  }
  setenv("HONE_ISA", "sse9", 1);
  EXPECT_THROW(cpu::choose_isa(), UserError);
  unsetenv("HONE_ISA");
}

// The tests of paths run on the paths of this machine: which it lacks is said by not passing here.
TEST(Isa, EveryPathIsOnThisMachine) {
  std::string absent;
  for (const Isa isa :
       {Isa::reference, Isa::scalar, Isa::avx2, Isa::avx512, Isa::avx512bf16, Isa::amx}) {
    if (!cpu::isa_available(isa))
      absent += (absent.empty() ? "" : ", ") + std::string(cpu::isa_name(isa));
  }
  EXPECT_TRUE(cpu::isa_available(Isa::reference) && cpu::isa_available(Isa::scalar));
  if (!absent.empty()) GTEST_SKIP() << "paths not on this machine: " << absent;
}

}  // namespace
}  // namespace hone
