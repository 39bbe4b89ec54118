// Catch2 2 or 3 under one include.
#pragma once
#if __has_include(<catch2/catch_all.hpp>)
#include <catch2/catch_all.hpp>  // Catch2 3
using Catch::Approx;
#else
#include <catch2/catch.hpp>  // Catch2 2
#endif
