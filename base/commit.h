// Which source the program was built from, for everything that outlives the program: metrics, reports, --version.
#pragma once

namespace dither {

/// The git commit's first 12 hexadecimal digits, with "+changes" behind them if tracked files differed from it when the
/// program was built; "unknown" where there was no git. cmake/commit.cmake writes it at every build.
const char* commit();

}  // namespace dither
