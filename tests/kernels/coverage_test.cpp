// Every operation of backend.h has test cases, and every forward pass a backward one. The header's text is the list: an
// operation that is added without tests fails here.
#include <map>
#include <set>
#include <string>
#include <vector>

#include "tests/kernels/operation_test.h"
#include "tests/kernels/virtual_functions.h"

namespace dither {
namespace {

using Names = std::set<std::string>;

/// Virtual functions that compute nothing, with the reason why no case of their own is asked for.
const std::map<std::string, std::string> kExempt = {
    {"~Backend", "every test destroys its backend"},
    {"allocated_bytes", "a counter: the cases of allocate and free read it"},
    {"allocation_count", "a counter: the cases of allocate read it"},
    {"description", "text for people, free to change"},
    {"arithmetic", "text that ranks compare"},
    {"device_id", "text that ranks compare"},
    {"stream", "names the queue that cases of repeat and every run use"},
    {"second_stream", "names the other queue: the cases of order use it"},
    {"free_bytes", "a figure of the machine's: refusals of allocate show it"},
};

/// What stands for the backward pass where it is not simply X_backward.
const std::map<std::string, std::vector<std::string>> kBackward = {
    {"linear_forward", {"linear_input_gradient", "linear_weight_gradient"}},
};

/// Virtual functions without cases, forward passes without backward, cases of no function: all of them failures.
Names gaps(const Names& declared, const Names& tested) {
  Names found;
  for (const std::string& name : declared) {
    if (kExempt.count(name) == 0 && tested.count(name) == 0) found.insert(name + " has no OPERATION_TEST");
    const size_t stem = name.rfind("_forward");
    if (stem == std::string::npos || stem + 8 != name.size()) continue;
    const auto other = kBackward.find(name);
    const std::vector<std::string> backward =
        other != kBackward.end() ? other->second : std::vector<std::string>{name.substr(0, stem) + "_backward"};
    for (const std::string& b : backward) {
      if (declared.count(b) == 0) found.insert(std::string(name).append(" has no ").append(b));
    }
  }
  for (const std::string& name : tested) {
    if (declared.count(name) == 0) found.insert(name + " is tested but not an operation");
  }
  for (const auto& [name, reason] : kExempt) {
    if (declared.count(name) == 0) found.insert(name + " is exempt but not declared");
  }
  return found;
}

}  // namespace

TEST_CASE("every operation of backend.h has test cases, forward and backward") {
  const Names missing = gaps(virtual_functions(source_text("kernels/backend.h")), tested_operations());
  std::string all;
  for (const std::string& gap : missing) all.append(gap).append("\n");
  INFO(all);
  REQUIRE(missing.empty());
}

// Catches: a test of coverage that passes whatever the header says, functions hidden by a comment, a return type with
// brackets or a line of its own, an exemption that outlives its function.
TEST_CASE("an operation without cases, a forward without backward and a stale name are found") {
  const std::string header = source_text("kernels/backend.h");
  const Names declared = virtual_functions(header);
  Names tested = declared;
  for (const auto& [name, reason] : kExempt) tested.erase(name);
  REQUIRE(declared.count("linear_weight_gradient") == 1);
  REQUIRE(gaps(declared, tested).empty());

  const auto with = [&](const std::string& line) {
    std::string changed = header;
    changed.insert(changed.find("  virtual void rotary_forward"), line + "\n");
    return gaps(virtual_functions(changed), tested);
  };
  REQUIRE(with("  // virtual void in_a_comment(int x) = 0;").empty());
  REQUIRE(with("  virtual void softcap(const Softcap& op, Stream stream) = 0;") ==
          Names{"softcap has no OPERATION_TEST"});
  REQUIRE(with("  virtual std::vector<int>\n      softcap(int x) const = 0;") ==
          Names{"softcap has no OPERATION_TEST"});
  REQUIRE(with("  virtual void softcap_forward(int x) = 0;") ==
          Names{"softcap_forward has no OPERATION_TEST", "softcap_forward has no softcap_backward"});

  Names misspelt = tested;
  misspelt.insert("rotary_foward");
  REQUIRE(gaps(declared, misspelt) == Names{"rotary_foward is tested but not an operation"});
  Names fewer = declared;
  fewer.erase("linear_input_gradient");
  fewer.erase("description");
  tested.erase("linear_input_gradient");
  REQUIRE(gaps(fewer, tested) ==
          Names{"description is exempt but not declared", "linear_forward has no linear_input_gradient"});
}

}  // namespace dither
