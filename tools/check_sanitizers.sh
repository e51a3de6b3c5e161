#!/bin/sh
# Runs the tests under sanitizers and the fuzzers:
#   tools/check_sanitizers.sh          everything: all tests under address + undefined, those that use
#                                      threads under thread, each fuzzer for ten minutes
#   tools/check_sanitizers.sh --short  the fast tests under address + undefined, each fuzzer for 20 s
# Builds in build-asan, build-tsan and build-fuzz. The fuzzers need clang (on Debian: clang and
# libclang-rt-14-dev); without it they are left out, and that is said.
set -eu
cd "$(dirname "$0")/.."

short=no
[ "${1:-}" != --short ] || short=yes
jobs=${HONE_JOBS:-$(getconf _NPROCESSORS_ONLN)}

sanitized() {  # FOLDER SANITIZERS ctest arguments...
  folder=$1 sanitizers=$2
  shift 2
  HONE_BUILD=$folder HONE_CMAKE="-DHONE_SANITIZE=$sanitizers" ./run build
  ctest --test-dir "$folder" -j "$jobs" --output-on-failure "$@"
}

export UBSAN_OPTIONS=print_stacktrace=1
if [ $short = yes ]; then
  sanitized build-asan address,undefined -L fast
else
  sanitized build-asan address,undefined
  sanitized build-tsan thread -R '^(core|data|text|rollout|train|io)_'
fi

if [ ! -d tests/fuzz ]; then
  echo "check_sanitizers: no fuzzers in tests/fuzz"
  exit 1
fi
if ! command -v clang++ > /dev/null; then
  echo "check_sanitizers: clang++ is not installed, the fuzzers were left out"
  exit 0
fi
HONE_BUILD=build-fuzz HONE_CMAKE="-DHONE_FUZZ=ON -DHONE_TESTS=OFF
  -DCMAKE_C_COMPILER=clang -DCMAKE_CXX_COMPILER=clang++" ./run build fuzzers
seconds=600
[ $short = no ] || seconds=20
for fuzzer in build-fuzz/tests/fuzz/*_fuzz; do
  name=$(basename "$fuzzer")
  echo "== $name for $seconds s"
  found=$(mktemp -d)
  # New inputs go to a folder of their own; the corpus in the repository is only read.
  "$fuzzer" -max_total_time=$seconds -rss_limit_mb=4096 -timeout=20 -print_final_stats=1 \
    -artifact_prefix="$found/" "$found" "tests/fuzz/corpus/$name" 2> "$found.log" ||
    { tail -n 60 "$found.log"; echo "check_sanitizers: $name failed, see $found"; exit 1; }
  grep -E 'stat::number_of_executed_units|stat::peak_rss_mb' "$found.log"
  rm -rf "$found" "$found.log"
done
