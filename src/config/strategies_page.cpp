// docs/strategies.md: everything that the table of strategies and the rules of writing say, as a page. The committed
// page is this text; a test compares them.

#include <fmt/format.h>

#include <string>

#include "kernels/numerics/strategy.h"
#include "src/config/config.h"

namespace dither {
namespace {

constexpr const char* kIntroduction = R"(# Precision strategies
Made from `kernels/numerics/strategy.h` (the table) and `weight_write.h` (how the weight is written); a test compares this
page with them. [adding-a-strategy.md](adding-a-strategy.md) shows how another one gets in.

`precision.strategy` chooses how weights, gradients and AdamW's moments are stored and how an update gets into the weight. The
update itself is the same for all of them, in FP32 registers (`precision.math: "bf16"` rounds every operation to BF16):

    G = gradient * clip factor       M = b1*m + (1-b1)*G       V = b2*v + (1-b2)*G*G
    D = learning rate * ( (M / (1-b1^t)) / (sqrt(V / (1-b2^t)) + epsilon) + weight decay * w )
    w <- store(w - D)                m <- M                    v <- V        each rounded to its storage

RN is round to nearest, ties to even; SR stochastic rounding: up or down at random, exact in the mean. Forward and backward read
the weight alone, never its extra component. BF16 moments are rounded to nearest, or stochastically under
`precision.first_moment_rounding` and `second_moment_rounding: "stochastic"`.

Bytes a parameter count weight, extra, gradient and both moments. `precision.gradient` may store the gradient otherwise, and
`precision.fp32_parameters` may keep kinds of tensors in FP32 (weight and moments, as `fp32` does); the table at the start of a run
says what the model at hand takes.

)";

std::string shown(DType type) {
  switch (type) {
    case DType::bf16:
      return "BF16";
    case DType::fp32:
      return "FP32";
    case DType::int16:
      return "int16";
    case DType::int64:  // no strategy stores it
    case DType::none:
      break;
  }
  return "-";
}

std::string shown_moment(DType type, bool free) { return free ? "FP32 or BF16" : shown(type); }

std::string with_name(DType type, const char* name) {
  return type == DType::none ? "-" : fmt::format("{} {}", name, shown(type));
}

std::string bytes_text(const StrategyInfo& s) {
  if (!s.free_moments) return fmt::format("{}", bytes_per_parameter(s));
  return fmt::format("{} to {}", bytes_per_parameter(s, s.gradient, DType::bf16, DType::bf16),
                     bytes_per_parameter(s, s.gradient, DType::fp32, DType::fp32));
}

std::string table() {
  std::string page =
      "| strategy | weight | extra | gradient | m | v | residual stream | products | bytes a parameter |\n"
      "|---|---|---|---|---|---|---|---|---|\n";
  for (const StrategyInfo& s : kStrategies) {
    const char* extra = with_weight_rule(s.write, [](auto rule) { return rule.extra; });
    const std::string v = shown_moment(s.second_moment, s.free_moments) +
                          (s.second_moment_extra == DType::none ? "" : " + " + with_name(s.second_moment_extra, "dv"));
    page +=
        fmt::format("| `{}` | {} | {} | {} | {} | {} | {} | {} | {} |\n", s.name, shown(s.weight),
                    with_name(s.weight_extra, extra), shown(s.gradient), shown_moment(s.first_moment, s.free_moments),
                    v, shown(s.weight), shown(s.compute), bytes_text(s));
  }
  return page;
}

std::string section(const StrategyInfo& s) {
  std::string text = fmt::format("\n## `{}`\n{}.\n\n", s.name, s.meaning);
  with_weight_rule(s.write, [&](auto rule) {
    text += fmt::format("- Write: {}.\n- EDQ: `edq` of w, `edq_full` of {}.\n", rule.formula, rule.whole);
  });
  if (s.second_moment_extra != DType::none) {
    text += "- (v, dv) is a length-2 expansion: times b2 by MulExp, plus RN((1-b2)*G*G) by Grow; D reads the new v.\n";
  }
  if (s.weight == DType::fp32 && s.compute == DType::bf16) {
    text += "- Every product reads a BF16 copy of its weight, made for that use; norms and embeddings read FP32.\n";
  }
  if (all_bf16(s)) text += "- `precision.math` may be `bf16`.\n";
  if (s.source[0] != '\0') text += fmt::format("- Source: {}.\n", s.source);
  return text;
}

}  // namespace

std::string strategies_page() {
  std::string page = kIntroduction + table();
  for (const StrategyInfo& s : kStrategies) page += section(s);
  return page;
}

}  // namespace dither
