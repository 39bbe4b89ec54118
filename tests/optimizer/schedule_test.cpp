// The learning rate of every schedule, at the places where an off-by-one would show.
#include "src/optimizer/schedule.h"

#include <cmath>

#include "tests/catch.h"

namespace dither {

namespace {

OptimizerConfig with_schedule(ScheduleKind kind, int64_t warmup) {
  OptimizerConfig optimizer;
  optimizer.learning_rate = 2.0;
  optimizer.schedule = {.kind = kind, .warmup_steps = warmup, .final_fraction = 0.1, .decay_fraction = 0.2};
  return optimizer;
}

}  // namespace

// Catches: a first step with rate 0, a warm-up that ends one step late, steps counted from 0.
TEST_CASE("every schedule warms up linearly and first reaches the rate at the last warm-up step") {
  for (const ScheduleKind kind :
       {ScheduleKind::constant, ScheduleKind::linear, ScheduleKind::cosine, ScheduleKind::wsd}) {
    const OptimizerConfig o = with_schedule(kind, 4);
    CHECK(learning_rate_at(o, 100, 1) == 0.5);
    CHECK(learning_rate_at(o, 100, 3) == 1.5);
    CHECK(learning_rate_at(o, 100, 4) == 2.0);
    CHECK(learning_rate_at(o, 100, 5) <= 2.0);
  }
}

// Catches: a decay that ends at 0, one step early, or not at all.
TEST_CASE("decaying schedules end at final_fraction of the rate with the last step") {
  for (const ScheduleKind kind : {ScheduleKind::linear, ScheduleKind::cosine, ScheduleKind::wsd}) {
    const OptimizerConfig o = with_schedule(kind, 10);
    CHECK(learning_rate_at(o, 100, 100) == Approx(0.2).epsilon(1e-12));
    CHECK(learning_rate_at(o, 100, 99) > 0.2);
  }
  CHECK(learning_rate_at(with_schedule(ScheduleKind::constant, 10), 100, 100) == 2.0);
}

TEST_CASE("linear and cosine are half way down at half the steps after warm-up") {
  CHECK(learning_rate_at(with_schedule(ScheduleKind::linear, 0), 100, 50) == Approx(1.1));
  CHECK(learning_rate_at(with_schedule(ScheduleKind::cosine, 0), 100, 50) == Approx(1.1));
  CHECK(learning_rate_at(with_schedule(ScheduleKind::cosine, 0), 100, 25) == Approx(0.2 + 1.8 * 0.8535533905932737));
}

TEST_CASE("wsd is stable until the decay's share of all steps begins") {
  const OptimizerConfig o = with_schedule(ScheduleKind::wsd, 10);
  CHECK(learning_rate_at(o, 100, 80) == 2.0);
  CHECK(learning_rate_at(o, 100, 90) == Approx(1.1));
}

// Catches: the root of the wrong share, a shape that moves the ends. Source of the figures: 1 - sqrt(q), by hand.
TEST_CASE("the 1-sqrt decay of wsd falls fast, then slowly, between the same ends") {
  OptimizerConfig o = with_schedule(ScheduleKind::wsd, 10);
  o.schedule.decay_shape = DecayShape::one_minus_sqrt;
  CHECK(learning_rate_at(o, 100, 80) == 2.0);
  CHECK(learning_rate_at(o, 100, 85) == Approx(2.0 - 1.8 * 0.5));
  CHECK(learning_rate_at(o, 100, 90) == Approx(2.0 - 1.8 * std::sqrt(0.5)));
  CHECK(learning_rate_at(o, 100, 100) == Approx(0.2).epsilon(1e-12));
}

TEST_CASE("a warm-up longer than the run just never ends") {
  CHECK(learning_rate_at(with_schedule(ScheduleKind::cosine, 200), 100, 100) == 1.0);
}

// Catches: a warm-up or a course that counts from the first step of the run, a decay over a share of all steps, bits
// that change where the key is 0.
TEST_CASE("a schedule with a start takes the steps after it as its own") {
  for (const ScheduleKind kind :
       {ScheduleKind::constant, ScheduleKind::linear, ScheduleKind::cosine, ScheduleKind::wsd}) {
    const OptimizerConfig whole = with_schedule(kind, 4);
    OptimizerConfig late = whole;
    late.schedule.start_step = 40;
    for (int64_t step = 1; step <= 100; ++step) {
      CHECK(learning_rate_at(late, 140, 40 + step) == learning_rate_at(whole, 100, step));
    }
    CHECK(learning_rate_at(late, 140, 40) == 0);
  }
}

}  // namespace dither
