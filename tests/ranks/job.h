// The ranks of this test program. All of them run the same test cases in the same order; what a case needs of the
// others goes through job().
#pragma once

#include <string>

#include "src/parallel/ranks.h"

namespace dither {

/// Made by main() before the first case.
Ranks& job();

/// Where the model computes in these tests: "cpu", or "cuda" in the program with the CUDA backend.
inline std::string job_device() { return DITHER_JOB_DEVICE; }

/// What the ranks have to complain of, a line each; "" if nothing. All ranks call it.
std::string complaints(const std::string& mine);

}  // namespace dither
