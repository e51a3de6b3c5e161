#!/bin/sh
# Runs the tests of products, attention and generation with the AMX path in software
# (HONE_EMULATE_AMX), on a machine with AVX-512 bf16 and without AMX; elsewhere it says why not:
# a machine with AMX runs that path in every test. Builds in build-amx; the Rust library is taken
# from build.
set -eu
cd "$(dirname "$0")/.."

has() { grep -qw "$1" /proc/cpuinfo; }
if has amx_bf16; then
  echo "check_amx: this machine has AMX, the tests run it as it is"
  exit 0
fi
if ! has avx512_bf16; then
  echo "check_amx: this machine has no AVX-512 bf16, the AMX path was left out"
  exit 0
fi
tests="backend_attention_test backend_attention_gradients_test backend_bf16t_test
  backend_format_test backend_gemm_dw_test backend_gemm_test backend_groups_test backend_head_test
  backend_isa_test train_rollout_test"
# shellcheck disable=SC2086
HONE_BUILD=build-amx HONE_CMAKE="-DHONE_EMULATE_AMX=ON -DHF_TEXT_TARGET=$PWD/build/rust" \
  ./run build $tests
ctest --test-dir build-amx -j "${HONE_JOBS:-$(getconf _NPROCESSORS_ONLN)}" --output-on-failure \
  -R '^(backend_(attention|bf16t|format|gemm_dw|gemm|groups|head|isa)|train_rollout)_'
