// What cross-entropy and the sum of its losses demand.
#include "kernels/operations/loss.h"

#include <string>

#include "base/error.h"
#include "kernels/operations/check.h"

namespace dither {
namespace {

constexpr int64_t kVocabularyMultiple = 64;  // rows of logits begin on cache lines of BF16, two of FP32

}  // namespace

void CrossEntropy::check() const {
  const char* name = "cross_entropy";
  demand_float(name, "logits", logits);
  demand(N >= 1, name, "N", N, "at least 1");
  demand(V >= 1, name, "V", V, "at least 1");
  demand(Vp >= V, name, "Vp", Vp, ("at least V (" + std::to_string(V) + ")").c_str());
  demand(Vp % kVocabularyMultiple == 0, name, "Vp", Vp,
         ("a multiple of " + std::to_string(kVocabularyMultiple)).c_str());
  DITHER_ASSERT(losses != nullptr && targets != nullptr);
  DITHER_ASSERT(scalars != nullptr || !gradient);
}

void SumLosses::check() const {
  const char* name = "sum_losses";
  demand(B >= 1, name, "B", B, "at least 1");
  demand(T >= 1, name, "T", T, "at least 1");
  DITHER_ASSERT(sum != nullptr && losses != nullptr);
}

}  // namespace dither
