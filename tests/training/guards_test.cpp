// Rolling statistics and the verdicts of the guards.
#include "src/training/guards.h"

#include <cmath>
#include <limits>

#include "tests/catch.h"

namespace dither {

namespace {

StepScalars step_of(double loss, double norm, bool apply) {
  StepScalars s;
  s.loss = loss;
  s.gradient_norm = norm;
  s.apply = apply ? 1 : 0;
  s.loss_limit = s.norm_limit = std::numeric_limits<double>::infinity();
  return s;
}

}  // namespace

TEST_CASE("z-scores are over the last window only, and 0 while they would say nothing") {
  RollingStatistics s(20);
  for (int i = 0; i < 15; ++i) s.add(i % 2);
  CHECK(s.z_score(100) == 0);
  CHECK(std::isinf(s.limit(3)));
  s.add(1);
  CHECK(s.z_score(1.5) == Approx(2));
  CHECK(s.limit(4) == Approx(2.5));
  for (int i = 0; i < 20; ++i) s.add(5);
  CHECK(s.count() == 20);
  CHECK(s.z_score(100) == 0);  // all equal: no deviation to measure by
}

// Catches: a limit set although the guard is off; outliers that enter the statistics and hide the next one.
TEST_CASE("limits follow applied steps only, and are infinite where the guard is off") {
  GuardConfig config;
  config.loss_z = 3;
  Guards guards(config);
  for (int i = 0; i < 32; ++i) CHECK_FALSE(guards.judge(step_of(i % 2, 1, true)).skipped);
  StepScalars limits;
  guards.set_limits(limits);
  CHECK(limits.loss_limit == Approx(2));
  CHECK(std::isinf(limits.norm_limit));

  StepScalars outlier = step_of(50, 1, false);
  outlier.loss_limit = limits.loss_limit;
  const GuardVerdict verdict = guards.judge(outlier);
  CHECK(verdict.skipped);
  CHECK(verdict.reason == "loss z-score");
  CHECK(verdict.loss_z == Approx(99));
  guards.set_limits(limits);
  CHECK(limits.loss_limit == Approx(2));
}

TEST_CASE("only skips in a row end a run") {
  GuardConfig config;
  config.stop_after_skips = 2;
  Guards guards(config);
  guards.judge(step_of(NAN, 1, false));
  guards.judge(step_of(1, 1, true));
  CHECK(guards.judge(step_of(1, INFINITY, false)).reason == "gradient not finite");
  CHECK_FALSE(guards.must_stop());
  guards.judge(step_of(NAN, 1, false));
  CHECK(guards.must_stop());
  CHECK(guards.skipped_steps() == 3);
}

}  // namespace dither
