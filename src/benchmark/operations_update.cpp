// Cases of the products, the loss, what happens to gradients and weights, and copies.
#include <fmt/format.h>

#include <limits>

#include "src/benchmark/case_list.h"

namespace dither {

namespace {

StepScalars* scalars_of(const Shapes& s, CaseMemory& m) {
  StepScalars scalars;
  scalars.learning_rate = 1e-4f;
  scalars.bias1 = scalars.bias2 = 0.5f;
  scalars.step = 1;
  scalars.set_targets(s.config.batch.tokens_per_step);
  scalars.largest_norm = s.config.optimizer.gradient_clip;
  scalars.loss_limit = scalars.norm_limit = std::numeric_limits<double>::infinity();
  return m.from_host(std::vector<StepScalars>{scalars});
}

/// A linear layer of the model. The head works on a chunk of tokens and adds to the gradient of those before.
struct Layer {
  const char* name;
  int64_t N, I, O;
  bool bias, gelu, head;
};

std::vector<Layer> layers_of(const Shapes& s) {
  const ModelConfig& m = s.config.model;
  const bool gelu = m.activation == Activation::gelu;
  return {{"qkv", s.N, s.C, s.qkv(), m.linear_bias || m.qkv_bias, false, false},
          {"projection", s.N, s.HD, s.C, m.linear_bias, false, false},
          {"up", s.N, s.C, up_width(m), m.linear_bias, gelu, false},
          {"down", s.N, s.F, s.C, m.linear_bias, false, false},
          {"head", s.chunk, s.C, s.Vp, false, false, true}};
}

std::string shape_of(const Layer& l) { return fmt::format("{}: N {}, I {}, O {}", l.name, l.N, l.I, l.O); }

Call make_forward(const Layer& l, const Shapes& s, CaseMemory& m) {
  const LinearForward op{.y = m.zeros(l.N * l.O, s.activation),
                         .pre_activation = l.gelu ? m.zeros(l.N * l.O, s.activation) : View(),
                         .x = m.random(l.N * l.I, s.activation),
                         .weight = m.random(l.O * l.I, s.activation, 0, 0.02),
                         .bias = l.bias ? m.random(l.O, s.activation, 0, 0.02) : View(),
                         .N = l.N,
                         .I = l.I,
                         .O = l.O,
                         .epilogue = l.gelu ? Epilogue::gelu : Epilogue::none};
  return call(&Backend::linear_forward, op);
}

Call make_input_gradient(const Layer& l, const Shapes& s, CaseMemory& m) {
  const LinearInputGradient op{.dx = m.zeros(l.N * l.I, s.activation),
                               .dy = m.random(l.N * l.O, s.activation),
                               .weight = m.random(l.O * l.I, s.activation, 0, 0.02),
                               .N = l.N,
                               .I = l.I,
                               .O = l.O};
  return call(&Backend::linear_input_gradient, op);
}

Call make_weight_gradient(const Layer& l, const Shapes& s, CaseMemory& m) {
  LinearWeightGradient op{.d_weight = m.zeros(l.O * l.I, l.head ? DType::fp32 : s.gradient),
                          .d_bias = l.bias ? m.zeros(l.O, s.gradient) : View(),
                          .dy = m.random(l.N * l.O, s.activation),
                          .x = m.random(l.N * l.I, s.activation),
                          .N = l.N,
                          .I = l.I,
                          .O = l.O,
                          .accumulate = l.head,
                          .workspace = nullptr};
  op.workspace = m.workspace(op.workspace_bytes());
  return call(&Backend::linear_weight_gradient, op);
}

/// Weight and extra component as training begins with them, the second moment positive.
Call make_adamw(const Shapes& s, CaseMemory& m) {
  const std::vector<Segment> segments = s.table.segments(Plane::strategy);
  const int64_t elements = s.table.flat_elements(Plane::strategy);
  const PrecisionConfig& p = s.config.precision;
  const StrategyInfo& strategy = strategy_info(p.strategy);
  const auto zeros = [&](DType type) { return type == DType::none ? View() : m.zeros(elements, type); };
  const AdamW op{.weight = zeros(strategy.weight),
                 .weight_extra = zeros(strategy.weight_extra),
                 .first_moment = m.random(elements, p.first_moment, 0, 1e-3),
                 .second_moment = m.random(elements, p.second_moment, 1e-6, 1e-7),
                 .second_moment_extra = zeros(strategy.second_moment_extra),
                 .gradient = m.random(elements, gradient_type(p.gradient), 0, 1e-3),
                 .segments = m.from_host(segments),
                 .segment_count = static_cast<int64_t>(segments.size()),
                 .strategy = p.strategy,
                 .math = p.math,
                 .first_moment_rounding = p.first_moment_rounding,
                 .second_moment_rounding = p.second_moment_rounding,
                 .beta1 = s.config.optimizer.betas[0],
                 .beta2 = s.config.optimizer.betas[1],
                 .epsilon = s.config.optimizer.epsilon,
                 .weight_decay = s.config.optimizer.weight_decay,
                 .seed = 1,
                 .scalars = scalars_of(s, m),
                 .sums = nullptr};
  if (m.backend() != nullptr) {
    m.backend()->initialise({.weight = op.weight,
                             .extra = op.weight_extra,
                             .strategy = p.strategy,
                             .count = elements,
                             .mean = 0,
                             .std = 0.02,
                             .tensor = 1,
                             .seed = 1},
                            m.backend()->stream());
  }
  return call(&Backend::adamw, op);
}

}  // namespace

void add_linear(List& list) {
  const auto add = [&](const char* operation, auto make) {
    for (const Layer& layer : layers_of(list.shapes())) {
      list.add(operation, shape_of(layer), [layer, make](const Shapes& s, CaseMemory& m) { return make(layer, s, m); });
    }
  };
  add("linear_forward", make_forward);
  add("linear_input_gradient", make_input_gradient);
  add("linear_weight_gradient", make_weight_gradient);
}

void add_loss(List& list) {
  const Shapes& shapes = list.shapes();
  list.add("cross_entropy", fmt::format("N {}, V {}", shapes.chunk, shapes.V), [](const Shapes& s, CaseMemory& m) {
    const CrossEntropy op{.logits = m.random(s.chunk * s.Vp, s.activation),
                          .losses = m.zeros_fp32(s.chunk),
                          .targets = m.random_below(s.chunk, s.V),
                          .N = s.chunk,
                          .V = s.V,
                          .Vp = s.Vp,
                          .gradient = true,
                          .scalars = scalars_of(s, m)};
    return call(&Backend::cross_entropy, op);
  });
  list.add("sum_losses", fmt::format("B {}, T {}", shapes.B, shapes.T), [](const Shapes& s, CaseMemory& m) {
    const SumLosses op{.sum = &scalars_of(s, m)->loss_sum, .losses = m.random_fp32(s.N, 10), .B = s.B, .T = s.T};
    return call(&Backend::sum_losses, op);
  });
}

void add_update(List& list) {
  const Shapes& shapes = list.shapes();
  const int block = shapes.table.block_bucket(0);
  const int64_t in_block = shapes.table.buckets()[static_cast<size_t>(block)].extent(Plane::strategy).elements;
  const std::string whole = fmt::format("{} elements", shapes.table.flat_elements(Plane::strategy));
  list.add("initialise", fmt::format("{} elements", shapes.V * shapes.C), [](const Shapes& s, CaseMemory& m) {
    const StrategyInfo& strategy = strategy_info(s.config.precision.strategy);
    const Initialise op{
        .weight = m.zeros(s.V * s.C, strategy.weight),
        .extra = strategy.weight_extra == DType::none ? View() : m.zeros(s.V * s.C, strategy.weight_extra),
        .strategy = strategy.id,
        .count = s.V * s.C,
        .mean = 0,
        .std = 0.02,
        .tensor = 1,
        .seed = 1};
    return call(&Backend::initialise, op);
  });
  list.add("accumulate", fmt::format("a block: {} elements", in_block),
           [block, in_block](const Shapes& s, CaseMemory& m) {
             const std::vector<Segment> segments = s.table.bucket_segments(block, Plane::strategy);
             const bool stochastic = s.config.precision.gradient == GradientStorage::bf16_sr;
             const StepScalars* scalars = scalars_of(s, m);
             const Accumulate op{.sum = m.random(in_block, gradient_type(s.config.precision.gradient)),
                                 .addend = m.random(in_block, DType::fp32),
                                 .segments = m.from_host(segments),
                                 .segment_count = static_cast<int64_t>(segments.size()),
                                 .first = false,
                                 .rounding = stochastic ? Rounding::stochastic : Rounding::nearest,
                                 .seed = 1,
                                 .scalars = scalars,
                                 .draw = &scalars->micro_batch};
             return call(&Backend::accumulate, op);
           });
  list.add("squared_norm", whole, [](const Shapes& s, CaseMemory& m) {
    const std::vector<Segment> segments = s.table.segments(Plane::strategy);
    const int64_t elements = s.table.flat_elements(Plane::strategy);
    const SquaredNorm op{.gradient = m.random(elements, gradient_type(s.config.precision.gradient)),
                         .segments = m.from_host(segments),
                         .segment_count = static_cast<int64_t>(segments.size()),
                         .group_sums = nullptr,
                         .scalars = scalars_of(s, m)};
    return call(&Backend::squared_norm, op);
  });
  list.add("decide_step", "once a step", [](const Shapes& s, CaseMemory& m) {
    return call(&Backend::decide_step, DecideStep{.scalars = scalars_of(s, m)});
  });
  list.add("adamw", whole, make_adamw);
}

void add_copies(List& list) {
  const Shapes& shapes = list.shapes();
  const DType other = shapes.activation == DType::bf16 ? DType::fp32 : DType::bf16;
  list.add("copy", fmt::format("N {}, C {}, {} to {}", shapes.N, shapes.C, name_of(other), name_of(shapes.activation)),
           [other](const Shapes& s, CaseMemory& m) -> Call {
             const View to = m.zeros(s.N * s.C, s.activation), from = m.random(s.N * s.C, other);
             return [to, from, n = s.N * s.C](Backend& b, Stream stream) { b.copy(to, from, n, stream); };
           });
  const int64_t bytes = shapes.N * shapes.C * size_of(shapes.activation);
  list.add("zero", fmt::format("{} bytes", bytes), [bytes](const Shapes&, CaseMemory& m) -> Call {
    void* memory = m.workspace(bytes);
    return [memory, bytes](Backend& b, Stream stream) { b.zero(memory, bytes, stream); };
  });
  const auto add_host_copy = [&](const char* operation, auto copy) {
    list.add(operation, fmt::format("{} bytes", bytes), [bytes, copy](const Shapes&, CaseMemory& m) -> Call {
      void* memory = m.workspace(bytes);
      auto host = std::make_shared<std::vector<char>>(static_cast<size_t>(bytes));
      return [memory, host, bytes, copy](Backend& b, Stream stream) { copy(b, memory, host->data(), bytes, stream); };
    });
  };
  add_host_copy("copy_from_host", [](Backend& b, void* memory, char* host, int64_t n, Stream stream) {
    b.copy_from_host(memory, host, n, stream);
  });
  add_host_copy("copy_to_host", [](Backend& b, void* memory, char* host, int64_t n, Stream stream) {
    b.copy_to_host(host, memory, n, stream);
  });
}

}  // namespace dither
