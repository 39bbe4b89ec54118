#!/usr/bin/env bash
# The diff of docs/adding-a-strategy.md applies to the headers as they are, compiles, and gives a working strategy.
#
#   adding_a_strategy.sh SOURCE_DIRECTORY COMPILER
set -euo pipefail
source=$1
compiler=$2
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

mkdir -p "$folder/kernels"
cp -r "$source/kernels/numerics" "$folder/kernels/"
cp -r "$source/base" "$folder/"
sed -n '/^```diff$/,/^```$/p' "$source/docs/adding-a-strategy.md" | sed '1d;$d' >"$folder/shown.diff"
patch --silent --fuzz=0 --strip=1 --directory="$folder" --input="$folder/shown.diff"

cat >"$folder/main.cpp" <<'CODE'
#include <cstdio>
#include <cstring>

#include "kernels/numerics/adamw.h"

using namespace dither;

int main() {
  constexpr Strategy kNew = Strategy::bf16_truncated;
  AdamWStep step = {};
  step.learning_rate = 0x1p-12f;
  step.rest1 = step.rest2 = step.bias1 = step.bias2 = step.gradient_scale = 1;
  const AdamWUpdate u = adamw_update<kNew, Math::fp32>({1, 0, 0, 0, 0}, 1, {}, step);  // D = 2^-12 / (1 + 0)
  const bool row = std::strcmp(strategy_info(kNew).name, "bf16_truncated") == 0 &&
                   bytes_per_parameter(strategy_info(kNew)) == 8 && kStrategies.size() == 11;
  const bool rule = u.intended == 0x1p-12f && u.state.w == 1 - 0x1p-8f && full_weight<kNew>(u.state) == u.state.w;
  std::printf("row %d, rule %d: w %.9g after D %.9g\n", row, rule, u.state.w, u.intended);
  return row && rule ? 0 : 1;
}
CODE
"$compiler" -std=c++20 -O1 -Wall -Wextra -Werror -ffp-contract=off -I "$folder" "$folder/main.cpp" -o "$folder/main"
"$folder/main"
