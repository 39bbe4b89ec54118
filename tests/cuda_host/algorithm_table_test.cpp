// The table of algorithms as text: what is written is what is read, and what is not a table is refused by name.
#include "kernels/cuda/algorithm_table.h"

#include <functional>

#include "base/error.h"
#include "tests/catch.h"

namespace dither {
namespace {

using Catch::Matchers::ContainsSubstring;
using cuda::Algorithm;
using cuda::AlgorithmTable;
using cuda::LinearProduct;
using cuda::ProductEpilogue;
using cuda::ProductKey;

const cuda::TableOrigin kHere{"a device", "9.0", 130100};

ProductKey key_of(LinearProduct product, ProductEpilogue epilogue, DType operands, DType result) {
  return {.product = product,
          .N = 8192,
          .I = 768,
          .O = int64_t{1} << 40,
          .operands = operands,
          .result = result,
          .epilogue = epilogue,
          .alignment = 256};
}

AlgorithmTable some_table() {
  AlgorithmTable table;
  table[key_of(LinearProduct::forward, ProductEpilogue::gelu_bias, DType::bf16, DType::bf16)] = {
      .words = {1, 0xFEDCBA9876543210, 0, ~uint64_t{0}, 5, 6, 7, 8},
      .fused = true,
      .split_k = 1,
      .tile = 20,
      .stages = 12,
      .seconds = 7.1e-5};
  table[key_of(LinearProduct::weight_gradient, ProductEpilogue::bias_gradient, DType::bf16, DType::fp32)] = {
      .words = {9}, .fused = false, .split_k = 4, .tile = 3, .stages = 0, .seconds = 0};
  table[key_of(LinearProduct::input_gradient, ProductEpilogue::none, DType::fp32, DType::fp32)] = {
      .words = {}, .fused = true, .split_k = -1, .tile = 0, .stages = 0, .seconds = 0};
  return table;
}

/// The text of some_table() with the first `from` replaced.
std::string damaged(const std::string& from, const std::string& to) {
  std::string text = cuda::to_json(kHere, some_table());
  const size_t at = text.find(from);
  REQUIRE(at != std::string::npos);
  return text.replace(at, from.size(), to);
}

std::string complaint(const std::string& text, const cuda::TableOrigin& here = kHere) {
  try {
    (void)cuda::algorithms_from_json(text, "a.json", here);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

}  // namespace

// Catches: a word cut to 32 bits or with its digits in another order, a field or an entry that is lost.
TEST_CASE("a table of algorithms is read as it was written") {
  const AlgorithmTable table = some_table();
  const AlgorithmTable read = cuda::algorithms_from_json(cuda::to_json(kHere, table), "a.json", kHere);
  REQUIRE(read.size() == 3);
  for (const auto& [key, algorithm] : table) {
    const Algorithm& found = read.at(key);
    CHECK(found.words == algorithm.words);
    CHECK(found.fused == algorithm.fused);
    CHECK(found.split_k == algorithm.split_k);
    CHECK(found.tile == algorithm.tile);
    CHECK(found.stages == algorithm.stages);
    CHECK(found.seconds == algorithm.seconds);
  }
  CHECK(cuda::to_json(kHere, read) == cuda::to_json(kHere, table));
  CHECK(cuda::to_json(kHere, {}).find("\"products\": []") != std::string::npos);
}

TEST_CASE("a table of algorithms is written as its header describes") {
  const std::string text = cuda::to_json(kHere, some_table());
  CHECK_THAT(text, ContainsSubstring("\"device\": \"a device\""));
  CHECK_THAT(text, ContainsSubstring("\"compute_capability\": \"9.0\""));
  CHECK_THAT(text, ContainsSubstring("\"cublaslt\": 130100"));
  CHECK_THAT(text, ContainsSubstring("\"operation\": \"linear_forward\""));
  CHECK_THAT(text,
             ContainsSubstring("\"algorithm\": \"0000000000000001fedcba98765432100000000000000000ffffffffffffffff"));
  CHECK_THAT(text, ContainsSubstring("\"seconds\": 7.1e-05"));
}

// Catches: a table taken over although the same words mean another kernel there.
TEST_CASE("a table of another device or library is refused, with both named and a way on") {
  const std::string text = cuda::to_json(kHere, some_table());
  CHECK(complaint(text) == "");
  for (const cuda::TableOrigin& other :
       {cuda::TableOrigin{"another", "9.0", 130100}, {"a device", "8.0", 130100}, {"a device", "9.0", 130101}}) {
    const std::string found = complaint(text, other);
    CHECK_THAT(found, ContainsSubstring("a.json: these algorithms belong to a device (compute capability 9.0, cuBLASLt "
                                        "130100), here is " +
                                        other.device + " (compute capability " + other.compute_capability));
    CHECK_THAT(found, ContainsSubstring("the bits would differ; make a table for it with `dither tune`"));
  }
}

// Catches: a damaged table read in part, a value cut to fit, a key that nobody reads.
TEST_CASE("text that is no table of algorithms is refused, and the message says where and why") {
  CHECK_THAT(complaint("{\"device\": "), ContainsSubstring("a.json: is not JSON (byte "));
  CHECK(complaint("[]") == "a.json: the table is [], needs an object");
  CHECK_THAT(complaint("{}"), ContainsSubstring("a.json: device is missing"));
  const auto refuses = [](const std::string& from, const std::string& to, const std::string& message) {
    CAPTURE(from, to);
    CHECK_THAT(complaint(damaged(from, to)), ContainsSubstring(message));
  };
  refuses("\"products\"", "\"product\"", "a.json: products is missing");
  refuses("\"products\":", "\"made\": 1, \"products\":", "a.json: made is not a key");
  refuses("\"N\": 8192", "\"N\": 0", "a.json: products[0].N is 0, needs an integer from 1 to 9223372036854775807");
  refuses("\"N\": 8192", "\"N\": 18446744073709551615", "products[0].N is 18446744073709551615, needs an integer");
  refuses("\"N\": 8192", "\"N\": 8192.5", "products[0].N is 8192.5, needs an integer");
  refuses("\"linear_forward\"", "\"linear\"",
          "products[0].operation is \"linear\", needs one of: linear_forward, linear_input_gradient, "
          "linear_weight_gradient");
  refuses("\"operands\": \"bf16\"", "\"operands\": \"none\"",
          "products[0].operands is \"none\", needs one of: bf16, fp32");
  refuses("\"result\": \"bf16\"", "\"result\": \"fp32\"",
          "products[0].result is \"fp32\", needs the type of the operands");
  refuses("\"gelu_bias\"", "\"bias_gradient\"", "products[0].epilogue is \"bias_gradient\", needs one that");
  refuses("\"alignment\": 256", "\"alignment\": 48", "products[0].alignment is 48, needs a power of two");
  refuses("\"alignment\": 256", "\"alignment\": 512", "products[0].alignment is 512, needs an integer from 1 to 256");
  refuses("fedcba98", "fedcbaG8", "needs 128 hexadecimal digits");
  refuses("fedcba98", "fedcba9", "needs 128 hexadecimal digits");
  refuses("\"fused\": true", "\"fused\": 1", "products[0].fused is 1, needs true or false");
  refuses("\"seconds\": 7.1e-05", "\"seconds\": -1", "products[0].seconds is -1, needs a number above 0");
  refuses("\"tile\": 20", "\"tile\": 20, \"swizzle\": 1", "products[0].swizzle is not a key");
  refuses("\"fused\": true,\n   \"algorithm\": \"0000000000000000000",
          "\"fused\": false,\n   \"algorithm\": \"0000000000000000000",
          "products[1].fused is false, needs true");  // of an input gradient, which nothing is left to finish
  refuses("\"bf16\",\n   \"result\": \"bf16\"", "\"fp32\",\n   \"result\": \"fp32\"",
          "products[0].fused is true, needs false: FP32 is never fused");
}

TEST_CASE("a table of algorithms has one entry for a product") {
  std::string text = cuda::to_json(kHere, some_table());
  const size_t begin = text.find("{", 1), end = text.find("}") + 1;
  text.insert(end, "," + text.substr(begin, end - begin));
  CHECK_THAT(complaint(text),
             ContainsSubstring("a.json: products[1] is the second entry for linear_forward N=8192 I=768 "
                               "O=1099511627776 bf16"));
}

}  // namespace dither
