// Catch2 2 or 3 under one include.
#pragma once
#if __has_include(<catch2/catch_all.hpp>)
#include <catch2/catch_all.hpp>  // Catch2 3
using Catch::Approx;
#else
#include <catch2/catch.hpp>  // Catch2 2
namespace Catch::Matchers {
inline auto ContainsSubstring(const std::string& text) { return Contains(text); }  // its name in Catch2 3
}  // namespace Catch::Matchers
#endif
