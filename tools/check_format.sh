#!/bin/sh
# Checks that the C++ sources are as clang-format 14 (.clang-format) leaves them. Another version
# formats otherwise, so without version 14 it says so and checks nothing.
set -eu
cd "$(dirname "$0")/.."
if ! command -v clang-format-14 > /dev/null; then
  echo "check_format: clang-format-14 is not installed, nothing checked"
  exit 0
fi
find src tests tools bench -type f \( -name '*.h' -o -name '*.cpp' \) -print0 |
  xargs -0 clang-format-14 --dry-run -Werror
echo "check_format: formatted"
