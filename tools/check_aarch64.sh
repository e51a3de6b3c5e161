#!/bin/sh
# Builds for aarch64 and runs fast tests under qemu:
#   tools/check_aarch64.sh            those of core, backend and exec: what knows the processor
#   tools/check_aarch64.sh --all      the whole fast tier, with the program itself
#   tools/check_aarch64.sh TEST...    these test programs alone
# The full tier is left out: qemu takes ten times as long and more.
# Needs Debian's g++-aarch64-linux-gnu and qemu-user-static, and rustc's target
# aarch64-unknown-linux-gnu (rustup target add). The C++ libraries for arm64 are unpacked into
# build-aarch64/root; nothing is installed. Builds in build-aarch64.
set -eu
cd "$(dirname "$0")/.."

build=$PWD/build-aarch64 root=$PWD/build-aarch64/root
jobs=${HONE_JOBS:-$(getconf _NPROCESSORS_ONLN)}
libraries="libfmt-dev libspdlog-dev nlohmann-json3-dev libcli11-dev libprotobuf-dev libgtest-dev
  libyaml-cpp-dev zlib1g-dev"

for tool in aarch64-linux-gnu-g++ qemu-aarch64-static cargo protoc dpkg-deb; do
  command -v $tool > /dev/null || { echo "check_aarch64: $tool is not installed" >&2; exit 1; }
done

# With apt's state of arm64 in a folder of ours: the lists, the packages and the shared libraries
# they depend on, unpacked.
unpack_libraries() {
  apt=$build/apt
  mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial" "$root"
  : > "$apt/status"
  arm64="-o APT::Architecture=arm64 -o APT::Architectures=arm64 -o APT::Sandbox::User=root
    -o Dir::State=$apt -o Dir::State::Lists=$apt/lists -o Dir::State::status=$apt/status
    -o Dir::Cache=$apt/cache"
  # shellcheck disable=SC2086
  apt-get $arm64 -qq update
  # shellcheck disable=SC2086
  shared=$(apt-cache $arm64 depends $libraries |
    awk '$1 == "Depends:" && $2 ~ /^(libfmt|libspdlog|libprotobuf|libyaml-cpp|zlib)[0-9]/ { print $2 }')
  # shellcheck disable=SC2086
  (cd "$apt" && apt-get $arm64 -qq download $libraries $shared)
  for package in "$apt"/*.deb; do dpkg-deb -x "$package" "$root"; done
}
[ -e "$root/unpacked" ] || { unpack_libraries && : > "$root/unpacked"; }

# What the tests run as hone.
paths=$root/usr/lib/aarch64-linux-gnu:$root/lib/aarch64-linux-gnu
printf '#!/bin/sh\nexec qemu-aarch64-static -L /usr/aarch64-linux-gnu -E LD_LIBRARY_PATH=%s %s "$@"\n' \
  "$paths" "$build/hone" > "$build/hone-qemu"
chmod +x "$build/hone-qemu"

cmake -S . -B "$build" -G Ninja \
  -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 \
  -DCMAKE_C_COMPILER=aarch64-linux-gnu-gcc -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++ \
  -DCMAKE_FIND_ROOT_PATH="$root" -DCMAKE_FIND_ROOT_PATH_MODE_PROGRAM=NEVER \
  -DCMAKE_FIND_ROOT_PATH_MODE_PACKAGE=ONLY -DCMAKE_FIND_ROOT_PATH_MODE_LIBRARY=ONLY \
  -DCMAKE_FIND_ROOT_PATH_MODE_INCLUDE=ONLY \
  -DCMAKE_EXE_LINKER_FLAGS="-Wl,-rpath-link,$paths" -DHONE_TEST_BINARY="$build/hone-qemu" \
  -DCMAKE_CROSSCOMPILING_EMULATOR="qemu-aarch64-static;-L;/usr/aarch64-linux-gnu;-E;LD_LIBRARY_PATH=$paths" \
  > "$build/configure.log" || { cat "$build/configure.log"; exit 1; }
check() {  # test programs
  cmake --build "$build" -j "$jobs" --target "$@"
  ctest --test-dir "$build" -j "$jobs" --output-on-failure -R "^($(echo "$*" | tr ' ' '|'))\$"
}
case ${1:-} in
  --all)
    cmake --build "$build" -j "$jobs"
    ctest --test-dir "$build" -j "$jobs" --output-on-failure -L fast
    echo "check_aarch64: left out: the full tier" ;;
  "")
    # shellcheck disable=SC2046
    check $(basename -s .cpp tests/core_*_test.cpp tests/backend_*_test.cpp tests/exec_*_test.cpp)
    echo "check_aarch64: left out: the tests of other modules (--all runs them), the full tier" ;;
  *) check "$@" ;;
esac
