#include <bit>
#include <cmath>
#include <limits>

#include "backend/cpu/rowops.h"
#include "core/rng.h"

#define HONE_LAMBDA
namespace hone::cpu {
namespace {
#include "backend/cpu/rowops_vec_scalar.inc"
using Vec = Lane<double>;
#include "backend/cpu/rowops.inc"
}  // namespace
extern const RowOps kRowOpsReference = kOps;
}  // namespace hone::cpu
