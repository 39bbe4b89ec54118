// Arguments as Model, PlainParameters and Optimizer form them. What a step changes in place gets a place of its own
// here where the operation allows it: else its values would drift from call to call.
#include "src/benchmark/operations.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "base/error.h"
#include "src/benchmark/case_list.h"

namespace dither {

namespace {

void add_embedding(List& list) {
  const Shapes& shapes = list.shapes();
  const std::string shape = fmt::format("N {}, C {}, rows {}", shapes.N, shapes.C, shapes.Vp);
  list.add("embedding_forward", shape, [](const Shapes& s, CaseMemory& m) {
    const bool learned = s.config.model.positions == Positions::learned;
    const EmbeddingForward op{
        .y = m.zeros(s.N * s.C, s.residual),
        .tokens = m.random_below(s.N, s.V),
        .token_table = m.random(s.Vp * s.C, s.weight(ParameterKind::embedding)),
        .position_table = learned ? m.random(s.T * s.C, s.weight(ParameterKind::embedding)) : View(),
        .N = s.N,
        .T = s.T,
        .rows = s.Vp,
        .C = static_cast<int>(s.C)};
    return call(&Backend::embedding_forward, op);
  });
  list.add("embedding_backward", shape, [](const Shapes& s, CaseMemory& m) {
    const bool learned = s.config.model.positions == Positions::learned, tied = s.table.tied();
    EmbeddingBackward op{.d_token_table = m.random(s.Vp * s.C, tied ? DType::fp32 : s.gradient),
                         .d_position_table = learned ? m.zeros(s.T * s.C, s.gradient) : View(),
                         .dy = m.random(s.N * s.C, s.residual),
                         .tokens = m.random_below(s.N, s.V),
                         .N = s.N,
                         .T = s.T,
                         .rows = s.Vp,
                         .C = static_cast<int>(s.C),
                         .accumulate = tied,
                         .workspace = nullptr};
    op.workspace = m.workspace(op.workspace_bytes());
    return call(&Backend::embedding_backward, op);
  });
}

void add_norm(List& list) {
  const std::string shape = fmt::format("N {}, C {}", list.shapes().N, list.shapes().C);
  list.add("residual_norm_forward", shape, [](const Shapes& s, CaseMemory& m) {
    const ResidualNormForward op{.h = m.zeros(s.N * s.C, s.residual),
                                 .y = m.zeros(s.N * s.C, s.activation),
                                 .mean = s.layer_norm() ? m.zeros_fp32(s.N) : nullptr,
                                 .rstd = m.zeros_fp32(s.N),
                                 .x = m.random(s.N * s.C, s.residual),
                                 .r = m.random(s.N * s.C, s.activation),
                                 .weight = m.random(s.C, s.weight(ParameterKind::norm), 1, 0.1),
                                 .bias = s.layer_norm() ? m.random(s.C, s.weight(ParameterKind::norm), 0, 0.1) : View(),
                                 .N = s.N,
                                 .C = static_cast<int>(s.C),
                                 .epsilon = s.epsilon()};
    return call(&Backend::residual_norm_forward, op);
  });
  list.add("residual_norm_backward", shape, [](const Shapes& s, CaseMemory& m) {
    ResidualNormBackward op{.dx = m.zeros(s.N * s.C, s.residual),
                            .d_weight = m.zeros(s.C, s.gradient),
                            .d_bias = s.layer_norm() ? m.zeros(s.C, s.gradient) : View(),
                            .dh = m.random(s.N * s.C, s.residual),
                            .dy = m.random(s.N * s.C, s.activation),
                            .h = m.random(s.N * s.C, s.residual),
                            .mean = s.layer_norm() ? m.random_fp32(s.N, 0, 0.1) : nullptr,
                            .rstd = m.random_fp32(s.N, 1, 0.1),
                            .weight = m.random(s.C, s.weight(ParameterKind::norm), 1, 0.1),
                            .N = s.N,
                            .C = static_cast<int>(s.C),
                            .workspace = nullptr};
    op.workspace = m.workspace(op.workspace_bytes());
    return call(&Backend::residual_norm_backward, op);
  });
}

std::string head_shape(const Shapes& s) {
  return fmt::format("B {}, T {}, H {}, Hkv {}, D {}", s.B, s.T, s.H, s.Hkv, s.D);
}

void add_rotary(List& list) {
  // In place without QK-norm, as the model does it: a rotation leaves the size of values as it is.
  list.add("rotary_forward", head_shape(list.shapes()), [](const Shapes& s, CaseMemory& m) {
    const bool norm = s.config.model.qk_norm;
    const View qkv = m.random(s.N * s.qkv(), s.activation);
    const RotaryForward op{.out = norm ? m.zeros(s.N * s.qkv(), s.activation) : qkv,
                           .rstd = norm ? m.zeros_fp32(s.N * (s.H + s.Hkv)) : nullptr,
                           .qkv = qkv,
                           .cos_sin = m.random_fp32(s.T * s.D, 0, 0.7),
                           .query_gain = norm ? m.random(s.D, s.weight(ParameterKind::norm), 1, 0.1) : View(),
                           .key_gain = norm ? m.random(s.D, s.weight(ParameterKind::norm), 1, 0.1) : View(),
                           .N = s.N,
                           .T = s.T,
                           .H = s.H,
                           .Hkv = s.Hkv,
                           .D = s.D,
                           .epsilon = s.epsilon()};
    return call(&Backend::rotary_forward, op);
  });
  list.add("rotary_backward", head_shape(list.shapes()), [](const Shapes& s, CaseMemory& m) {
    const bool norm = s.config.model.qk_norm;
    const View d_qkv = m.random(s.N * s.qkv(), s.activation);
    RotaryBackward op{.d_qkv = d_qkv,
                      .d_query_gain = norm ? m.zeros(s.D, s.gradient) : View(),
                      .d_key_gain = norm ? m.zeros(s.D, s.gradient) : View(),
                      .d_out = d_qkv,
                      .qkv = norm ? m.random(s.N * s.qkv(), s.activation) : View(),
                      .rstd = norm ? m.random_fp32(s.N * (s.H + s.Hkv), 1, 0.1) : nullptr,
                      .cos_sin = m.random_fp32(s.T * s.D, 0, 0.7),
                      .query_gain = norm ? m.random(s.D, s.weight(ParameterKind::norm), 1, 0.1) : View(),
                      .key_gain = norm ? m.random(s.D, s.weight(ParameterKind::norm), 1, 0.1) : View(),
                      .N = s.N,
                      .T = s.T,
                      .H = s.H,
                      .Hkv = s.Hkv,
                      .D = s.D,
                      .workspace = nullptr};
    op.workspace = m.workspace(op.workspace_bytes());
    return call(&Backend::rotary_backward, op);
  });
}

void add_attention(List& list) {
  list.add("attention_forward", head_shape(list.shapes()), [](const Shapes& s, CaseMemory& m) {
    const AttentionForward op{.out = m.zeros(s.N * s.HD, s.activation),
                              .lse = m.zeros_fp32(s.N * s.H),
                              .qkv = m.random(s.N * s.qkv(), s.activation),
                              .B = s.B,
                              .T = s.T,
                              .H = s.H,
                              .Hkv = s.Hkv,
                              .D = s.D,
                              .scale = s.scale()};
    return call(&Backend::attention_forward, op);
  });
  // Scores of normal deviates are normal deviates: the logarithm of the sum of their T exponentials is about this.
  const double lse = std::log(static_cast<double>(list.shapes().T)) + 0.5;
  list.add("attention_backward", head_shape(list.shapes()), [lse](const Shapes& s, CaseMemory& m) {
    AttentionBackward op{.d_qkv = m.zeros(s.N * s.qkv(), s.activation),
                         .d_out = m.random(s.N * s.HD, s.activation),
                         .out = m.random(s.N * s.HD, s.activation),
                         .qkv = m.random(s.N * s.qkv(), s.activation),
                         .lse = m.random_fp32(s.N * s.H, lse, 0.1),
                         .B = s.B,
                         .T = s.T,
                         .H = s.H,
                         .Hkv = s.Hkv,
                         .D = s.D,
                         .scale = s.scale(),
                         .workspace = nullptr};
    op.workspace = m.workspace(op.workspace_bytes());
    return call(&Backend::attention_backward, op);
  });
}

void add_feed_forward(List& list) {
  const std::string shape = fmt::format("N {}, F {}", list.shapes().N, list.shapes().F);
  list.add("gelu_forward", shape, [](const Shapes& s, CaseMemory& m) {
    const GeluForward op{
        .y = m.zeros(s.N * s.F, s.activation), .x = m.random(s.N * s.F, s.activation), .elements = s.N * s.F};
    return call(&Backend::gelu_forward, op);
  });
  list.add("gelu_backward", shape, [](const Shapes& s, CaseMemory& m) {
    const GeluBackward op{.dx = m.zeros(s.N * s.F, s.activation),
                          .dy = m.random(s.N * s.F, s.activation),
                          .x = m.random(s.N * s.F, s.activation),
                          .elements = s.N * s.F};
    return call(&Backend::gelu_backward, op);
  });
  list.add("swiglu_forward", shape, [](const Shapes& s, CaseMemory& m) {
    const SwigluForward op{.y = m.zeros(s.N * s.F, s.activation),
                           .gate_up = m.random(s.N * 2 * s.F, s.activation),
                           .N = s.N,
                           .F = static_cast<int>(s.F)};
    return call(&Backend::swiglu_forward, op);
  });
  list.add("swiglu_backward", shape, [](const Shapes& s, CaseMemory& m) {
    const SwigluBackward op{.d_gate_up = m.zeros(s.N * 2 * s.F, s.activation),
                            .dy = m.random(s.N * s.F, s.activation),
                            .gate_up = m.random(s.N * 2 * s.F, s.activation),
                            .N = s.N,
                            .F = static_cast<int>(s.F)};
    return call(&Backend::swiglu_backward, op);
  });
}

}  // namespace

std::vector<Case> operation_cases(const Config& config) {
  List list(config);
  for (const auto add : {add_embedding, add_norm, add_rotary, add_attention, add_feed_forward, add_linear, add_loss,
                         add_update, add_copies}) {
    add(list);
  }
  return list.take();
}

std::vector<Case> chosen_cases(const Config& config, const std::vector<std::string>& operations) {
  std::vector<Case> all = operation_cases(config), chosen;
  if (operations.empty()) return all;
  std::set<std::string> wanted(operations.begin(), operations.end());
  std::string names, last;
  for (Case& c : all) {
    if (c.operation != last) names += (names.empty() ? "" : ", ") + c.operation;
    last = c.operation;
    if (std::find(operations.begin(), operations.end(), c.operation) == operations.end()) continue;
    wanted.erase(last);
    chosen.push_back(std::move(c));
  }
  if (!wanted.empty()) {
    throw Error("\"" + *wanted.begin() + "\" is not an operation of the backend\n       allowed: " + names);
  }
  return chosen;
}

}  // namespace dither
