// The cases of `dither bench`: there is one for every operation, and each does what its name says.
#include <set>
#include <string>
#include <vector>

#include "base/error.h"
#include "src/benchmark/operations.h"
#include "src/benchmark/timed_backend.h"
#include "tests/catch.h"
#include "tests/kernels/virtual_functions.h"
#include "tests/training/tiny_run.h"

namespace dither {
namespace {

using Names = std::set<std::string>;

/// Virtual functions that neither compute nor move anything.
const Names kNoOperation = {"~Backend",         "synchronize", "second_stream", "order",      "stream",
                            "repeat",           "allocate",    "free",          "free_bytes", "allocated_bytes",
                            "allocation_count", "description", "arithmetic",    "device_id",  "algorithms",
                            "use_algorithms",   "tune"};

Names names_of(const std::vector<Case>& cases) {
  Names names;
  for (const Case& c : cases) names.insert(c.operation);
  return names;
}

std::vector<Config> configs() {
  std::vector<Config> list;
  for (const StrategyInfo& strategy : kStrategies) {
    for (const Architecture architecture : {Architecture::gpt2, Architecture::llama}) {
      list.push_back(tiny_config(strategy.id, architecture));
    }
  }
  list.push_back(tiny_config(Strategy::bf16_sr));
  list.back().model.qk_norm = list.back().model.qkv_bias = true;
  list.back().precision.fp32_parameters = {ParameterKind::norm, ParameterKind::embedding};
  list.push_back(tiny_config(Strategy::bf16_sr));
  list.back().batch.tokens_per_step *= 2;  // two micro-batches: gradients of one are FP32
  return list;
}

constexpr Ceilings kCeilings{.copy_bytes_per_second = 1e9, .product_flop_per_second = 1e12};

}  // namespace

// Catches: an operation added to backend.h without a case, a case whose operation is gone.
TEST_CASE("every operation of backend.h has a bench case") {
  Names operations = virtual_functions(source_text("kernels/backend.h"));
  for (const std::string& name : kNoOperation) {
    INFO(name);
    REQUIRE(operations.erase(name) == 1);
  }
  REQUIRE(operations.count("linear_weight_gradient") == 1);
  REQUIRE(names_of(operation_cases(tiny_config(Strategy::mixed))) == operations);
}

// Catches: a case that calls another operation than its name says, arguments that check() refuses under some strategy
// or model, memory counted otherwise than it is taken, FLOP or bytes left out.
TEST_CASE("each bench case runs the operation of its name under every strategy") {
  TimedBackend backend(make_cpu_backend(2));
  for (const Config& config : configs()) {
    for (const Case& c : operation_cases(config)) {
      CAPTURE(strategy_info(config.precision.strategy).name, c.operation, c.shape);
      CaseMemory counted;
      c.make(counted);
      void* memory = backend.allocate(counted.bytes());
      CaseMemory filled(memory, backend);
      const Call call = c.make(filled);
      REQUIRE(filled.bytes() == counted.bytes());
      backend.start(kCeilings);
      call(backend, backend.stream());
      const Parts parts = backend.stop();
      backend.free(memory);
      REQUIRE(parts.size() == 1);
      REQUIRE(parts.count(c.operation) == 1);
      const Part& part = parts.at(c.operation);
      REQUIRE(part.calls == 1);
      REQUIRE(part.bytes > 0);
      REQUIRE(part.floor_seconds == kCeilings.floor_seconds(part.bytes, part.flop));
      const bool product = c.operation.rfind("linear", 0) == 0 || c.operation.rfind("attention", 0) == 0;
      REQUIRE((part.flop > 0) == product);
    }
  }
  REQUIRE(backend.allocated_bytes() == 0);
}

// Catches: a choice that is ignored, a misspelt name that quietly measures nothing.
TEST_CASE("operations are chosen by name, and a name that is none is refused with the list") {
  const Config config = tiny_config(Strategy::bf16_sr);
  REQUIRE(names_of(chosen_cases(config, {"adamw", "linear_forward"})) == Names{"adamw", "linear_forward"});
  REQUIRE(chosen_cases(config, {"linear_forward"}).size() == 5);
  REQUIRE(chosen_cases(config, {}).size() == operation_cases(config).size());
  try {
    chosen_cases(config, {"adamw", "gelu"});
    FAIL("was accepted");
  } catch (const Error& e) {
    const std::string text = e.what();
    REQUIRE(text.rfind("\"gelu\" is not an operation of the backend\n", 0) == 0);
    for (const std::string& name : names_of(operation_cases(config))) REQUIRE(text.find(name) != std::string::npos);
  }
}

}  // namespace dither
