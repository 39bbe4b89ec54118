// Unknown keys, contradictions and warnings: their texts, and that what is allowed stays allowed.

#include "src/config/spelling.h"
#include "tests/config/helpers.h"

namespace dither {
namespace {

// Catches: an unknown key that is ignored, a nearest key that is not near, a message that shows another range or
// default than the table's.
TEST_CASE("an unknown key is an error with the nearest key, or with what is allowed there") {
  CHECK(
      error_of(small_with(R"({"optimizer": {"beta2": 0.95}})")) ==
      "t.json: optimizer.beta2 is not a key\n"
      "       nearest: optimizer.betas (two reals above 0 and below 1, default [0.9, 0.95]), decay of the first and of "
      "the second moment at each step");
  CHECK(contains(error_of(small_with(R"({"optimiser": {"epsilon": 1}})")),
                 "optimiser is not a key\n       nearest: optimizer, a section"));
  CHECK(contains(error_of(small_with(R"({"batch": {"microbatch_size": 1}})")), "nearest: batch.micro_batch_size ("));
  CHECK(contains(error_of(small_with(R"({"optimizer": {"warmup_steps": 1}})")),
                 "nearest: optimizer.schedule.warmup_steps ("));
  CHECK(contains(error_of(small_with(R"({"step": 1})")),
                 "nearest: steps (an integer from 1 to 4294967295, required), optimizer"));
  CHECK(error_of(small_with(R"({"batch": {"zzz": 1}})")) ==
        "t.json: batch.zzz is not a key\n       allowed in batch: tokens_per_step, micro_batch_size");
  CHECK(contains(error_of(small_with(R"({"telemetry": {}})")),
                 "t.json: telemetry is not a key\n       allowed: $schema, extends, name, seed, device, algorithms, "
                 "steps, vary, model, "));
  CHECK(error_of(small_with(R"({"optimizer.epsilon": 1})")) ==
        "t.json: \"optimizer.epsilon\" is not a key: a name has letters and no dot, sections are nested objects");
  CHECK(contains(error_of(small_with(R"({"": {"steps": 5}})")), "t.json: \"\" is not a key"));
  CHECK(contains(error_of(small_with(R"({"seed": {"a": 1}})")),
                 "t.json: seed is {\"a\":1}, needs an integer from 0 to "));
}

TEST_CASE("a wrong value is shown with what is allowed and the nearest word") {
  CHECK(error_of(small_with(R"({"batch": {"micro_batch_size": 12.5}})")) ==
        "t.json: batch.micro_batch_size is 12.5, needs an integer from 1 to 65536");
  CHECK(error_of(small_with(R"({"precision": {"strategy": "bf16sr"}})")) ==
        "t.json: precision.strategy is \"bf16sr\", needs one of fp32, bf16, bf16_sr, bf16_kahan, "
        "collage_light, collage_plus, bf16_fp32_states, split32, mixed, mixed_autocast\n"
        "       nearest: bf16_sr");
  CHECK(contains(error_of(small_with(R"({"model": {"preset": "gpt2-124M"}})")), "\n       nearest: gpt2-124m"));
  CHECK(error_of(small_with(R"({"optimizer": {"betas": [0.9, 1.0]}})")) ==
        "t.json: optimizer.betas is [0.9, 1.0], needs two reals above 0 and below 1");
  CHECK(error_of(small_with(R"({"optimizer": {"learning_rate": 0}})")) ==
        "t.json: optimizer.learning_rate is 0, needs a real from 1e-30 to 1000");
  for (const char* name : {"", "a/b", "..", "a..b", ".hidden", "a\\\\b", "a\\nb"}) {
    CHECK(contains(error_of(small_with(std::string(R"({"name": ")") + name + "\"}")), "t.json: name is \""));
  }
  const std::string long_text = error_of(small_with(R"({"device": ")" + std::string(5000, 'x') + "\"}"));
  CHECK(long_text.size() < 150);
}

// Catches: an id that no target can equal, which the loader then asserts.
TEST_CASE("a token to ignore is a token of the model, or none") {
  const auto with = [](int vocabulary, int ignored) {
    return small_with(R"({"model": {"vocabulary": )" + std::to_string(vocabulary) + R"(}, "data": {"ignore_token": )" +
                      std::to_string(ignored) + "}}");
  };
  CHECK(error_of(with(257, 257)) ==
        "t.json: data.ignore_token is 257, which no token is with model.vocabulary 257: needs an id from 0 to 256, or "
        "-1 to count all");
  CHECK(contains(error_of(with(257, 50256)), "data.ignore_token is 50256"));
  CHECK(parsed(with(257, 256)).data.ignore_token == 256);
  CHECK(parsed(with(257, -1)).data.ignore_token == -1);
}

TEST_CASE("steps and data.train have no default") {
  CHECK(error_of(R"({"model": {"preset": "llama-tiny"}, "data": {"train": "a"}})") ==
        "t.json: steps is missing, needs an integer from 1 to 4294967295\n       meaning: optimizer steps of the whole "
        "run");
  CHECK(contains(error_of(R"({"model": {"preset": "llama-tiny"}, "steps": 1})"),
                 "t.json: data.train is missing, needs a path"));
}

TEST_CASE("heads must fit each other, the width, and the attention kernels") {
  const auto model_error = [](const std::string& keys) { return error_of(small_with("{\"model\": {" + keys + "}}")); };
  CHECK(model_error(R"("heads": 7, "kv_heads": 1)") ==
        "t.json: model.heads is 7, must divide model.hidden 192: change one of them, or give model.head_size");
  CHECK(model_error(R"("kv_heads": 4)") ==
        "t.json: model.kv_heads does not fit: model.kv_heads 4 must divide model.heads 6");
  CHECK(model_error(R"("heads": 4)") == "t.json: model.heads does not fit: model.kv_heads 3 must divide model.heads 4");
  CHECK(model_error(R"("heads": 8, "kv_heads": 8)") ==
        "t.json: model.heads is 8, which makes heads of 24 = model.hidden 192 / 8, but model.head_size needs a "
        "multiple of "
        "16 from 32 to 128: change one of them, or give model.head_size");
  CHECK(model_error(R"("hidden": 100)") == "t.json: model.hidden is 100, needs a multiple of 8 from 8 to 65536");
  CHECK(model_error(R"("ffn": 513)") == "t.json: model.ffn is 513, needs a multiple of 8 from 8 to 1048576");
  for (const int size : {16, 24, 33, 40, 72, 120, 144, 256}) {
    CHECK(contains(model_error("\"head_size\": " + std::to_string(size)), "needs a multiple of 16 from 32 to 128"));
  }
  for (const int size : {32, 48, 64, 80, 96, 112, 128}) {
    CHECK(parsed(small_with("{\"model\": {\"head_size\": " + std::to_string(size) + "}}")).model.head_size == size);
  }
  CHECK(parsed(small_with(R"({"model": {"heads": 5, "kv_heads": 5, "head_size": 64}})")).model.heads == 5);
}

TEST_CASE("rotary scaling needs rotary positions and rising frequencies") {
  CHECK(error_of(small_with(R"({"model": {"preset": "gpt2-124m", "rotary_scaling": "llama3"}})")) ==
        "t.json: model.rotary_scaling is \"llama3\", but model.positions is \"learned\": nothing is rotated");
  CHECK(error_of(small_with(R"({"model": {"preset": "llama-3.2-1b", "rotary_low_frequency": 4}})")) ==
        "t.json: model.rotary_low_frequency is 4, needs to be below model.rotary_high_frequency 4");
}

TEST_CASE("a step is a whole number of micro-batches that 64 bits can count") {
  const auto batch_error = [](const std::string& keys) { return error_of(small_with("{" + keys + "}")); };
  CHECK(batch_error(R"("batch": {"tokens_per_step": 5000})") ==
        "t.json: batch.tokens_per_step is 5000, needs a multiple of 2048 = batch.micro_batch_size 8 x "
        "model.sequence_length 256\n       nearest: 4096 or 6144");
  CHECK(contains(batch_error(R"("batch": {"tokens_per_step": 1})"), "nearest: 2048"));
  CHECK(contains(batch_error(R"("batch": {"tokens_per_step": 1099511627776})"),
                 "536870912 micro-batches a step, at most 8388608; raise batch.micro_batch_size"));
  CHECK(contains(
      batch_error(R"("steps": 4294967295, "batch": {"tokens_per_step": 1099511627776, "micro_batch_size": 65536})"),
      "t.json: steps is 4294967295, times batch.tokens_per_step 1099511627776 is more tokens than"));
  CHECK(contains(batch_error(R"("steps": 9223372036854775808)"), "needs an integer from 1 to 4294967295"));
  CHECK(contains(batch_error(R"("steps": 99999999999999999999999)"), "needs an integer from 1 to 4294967295"));
  CHECK(parsed(kSmall).batch.tokens_per_step == 8 * 256);  // one micro-batch by default
  CHECK(parsed(small_with(R"({"batch": {"micro_batch_size": 2}})")).batch.tokens_per_step == 2 * 256);
}

TEST_CASE("gradient, residual and compute follow the strategy") {
  const auto precision = [](const std::string& strategy) {
    return parsed(small_with(R"({"precision": {"strategy": ")" + strategy + "\"}}")).precision;
  };
  CHECK(precision("fp32").gradient == GradientStorage::fp32);
  CHECK(precision("fp32").residual == DType::fp32);
  CHECK(precision("fp32").compute == DType::fp32);
  CHECK(precision("mixed").gradient == GradientStorage::fp32);
  CHECK(precision("mixed").residual == DType::bf16);
  CHECK(precision("mixed").compute == DType::bf16);
  CHECK(precision("mixed_autocast").gradient == GradientStorage::fp32);
  CHECK(precision("mixed_autocast").residual == DType::fp32);
  CHECK(precision("mixed_autocast").compute == DType::bf16);
  CHECK(precision("bf16_sr").first_moment == DType::bf16);
  CHECK(precision("split32").first_moment == DType::fp32);
  CHECK(precision("bf16_fp32_states").second_moment == DType::fp32);
  for (const char* strategy :
       {"bf16", "bf16_sr", "bf16_kahan", "collage_light", "collage_plus", "bf16_fp32_states", "split32"}) {
    CHECK(precision(strategy).gradient == GradientStorage::bf16_sr);
    CHECK(precision(strategy).residual == DType::bf16);
    CHECK(precision(strategy).compute == DType::bf16);
  }
}

TEST_CASE("contradictions in precision are refused with a cure") {
  const auto precision_error = [](const std::string& keys) {
    return error_of(small_with("{\"precision\": {" + keys + "}}"));
  };
  CHECK(precision_error(R"("strategy": "fp32", "compute": "bf16")") ==
        "t.json: precision.compute is \"bf16\", but precision.strategy \"fp32\" is FP32 throughout: leave the key out, "
        "or "
        "choose another strategy");
  CHECK(contains(precision_error(R"("strategy": "fp32", "residual": "bf16")"), "precision.residual is \"bf16\", but"));
  CHECK(contains(precision_error(R"("strategy": "fp32", "gradient": "bf16")"), "precision.gradient is \"bf16\", but"));
  CHECK(contains(precision_error(R"("strategy": "fp32", "gradient": "bf16_sr")"),
                 "precision.gradient is \"bf16_sr\", but"));
  for (const char* strategy : {"bf16", "bf16_sr", "mixed", "collage_light", "collage_plus"}) {
    const std::string message = precision_error(std::string(R"("compute": "fp32", "strategy": ")") + strategy + "\"");
    CHECK(
        contains(message, "t.json: precision.compute is \"fp32\", but precision.strategy \"" + std::string(strategy)));
    CHECK(contains(message, "leave the key out, or choose precision.strategy \"fp32\""));
  }
  for (const char* strategy : {"fp32", "mixed", "split32", "bf16_fp32_states", "mixed_autocast"}) {
    CHECK(contains(precision_error(std::string(R"("math": "bf16", "strategy": ")") + strategy + "\""),
                   "keeps FP32 states"));
  }
  CHECK(precision_error(R"("strategy": "mixed_autocast", "gradient": "bf16_sr")") ==
        "t.json: precision.gradient is \"bf16_sr\", but precision.strategy \"mixed_autocast\" keeps FP32 gradients: "
        "leave "
        "the key out, or choose another strategy");
  CHECK_NOTHROW(parsed(small_with(R"({"precision": {"strategy": "mixed_autocast", "compute": "fp32"}})")));
  CHECK(precision_error(R"("strategy": "mixed", "first_moment": "bf16")") ==
        "t.json: precision.first_moment is \"bf16\", but precision.strategy \"mixed\" keeps it in fp32: leave the key "
        "out; under \"split32\" it is a choice");
  CHECK(contains(precision_error(R"("strategy": "bf16_sr", "second_moment": "fp32")"), "keeps it in bf16"));
  CHECK_NOTHROW(parsed(small_with(R"({"precision": {"strategy": "split32", "second_moment": "bf16"}})")));
  CHECK_NOTHROW(
      parsed(small_with(R"({"precision": {"strategy": "bf16_sr", "residual": "fp32", "gradient": "fp32"}})")));
  CHECK_NOTHROW(parsed(small_with(R"({"precision": {"strategy": "mixed", "gradient": "bf16"}})")));
}

// Catches: a word taken twice, an order that follows the file, a list that to_json() writes otherwise than it was read.
TEST_CASE("fp32_parameters is a list of kinds, each at most once") {
  const auto given = [](const std::string& list) {
    return small_with("{\"precision\": {\"fp32_parameters\": " + list + "}}");
  };
  const Config config = parsed(given(R"(["embedding", "norm"])"));
  CHECK(config.precision.fp32_parameters == std::vector<ParameterKind>{ParameterKind::norm, ParameterKind::embedding});
  CHECK(config.precision.keeps_fp32(ParameterKind::norm));
  CHECK_FALSE(config.precision.keeps_fp32(ParameterKind::bias));
  CHECK(to_json(parsed(to_json(config))) == to_json(config));
  CHECK(parsed(kSmall, {R"(precision.fp32_parameters=["bias"])"}).precision.keeps_fp32(ParameterKind::bias));
  const std::string allowed = "needs a list without repetition of norm, bias, embedding";
  CHECK(contains(error_of(given(R"(["norm", "norm"])")), allowed));
  CHECK(contains(error_of(given(R"(["gain"])")), allowed));
  CHECK(contains(error_of(given(R"("norm")")), allowed));
}

TEST_CASE("keys that do nothing under the strategy or schedule at hand are warned of") {
  const auto only = [](const std::string& patch) {
    const auto warnings = warnings_of(small_with(patch));
    REQUIRE(warnings.size() == 1);
    return warnings[0];
  };
  CHECK(only(R"({"precision": {"strategy": "fp32", "fp32_parameters": ["norm"]}})") ==
        "precision.fp32_parameters does nothing under precision.strategy \"fp32\", which keeps all in FP32");
  CHECK(only(R"({"precision": {"strategy": "mixed", "first_moment_rounding": "stochastic"}})") ==
        "precision.first_moment_rounding \"stochastic\" does nothing under precision.strategy \"mixed\", whose first "
        "moment is FP32");
  CHECK(only(R"({"optimizer": {"schedule": {"decay_shape": "1-sqrt"}}})") ==
        "optimizer.schedule.decay_shape \"1-sqrt\" does nothing under optimizer.schedule.kind \"cosine\"");
}

TEST_CASE("validation at intervals needs validation data") {
  CHECK(contains(error_of(small_with(R"({"evaluation": {"every_steps": 5}})")),
                 "t.json: evaluation.every_steps is 5, but data.validation is empty: "));
}

/// The only warning of kSmall with precision, betas[1]; "" for none.
std::string beta_warning(const std::string& precision, double beta) {
  const auto warnings = warnings_of(small_with("{\"precision\": {" + precision +
                                               "}, \"optimizer\": {\"betas\": [0.9, " + std::to_string(beta) + "]}}"));
  REQUIRE(warnings.size() <= 1);
  return warnings.empty() ? "" : warnings[0];
}

// Catches: a threshold that is exclusive, a warning for strategies whose second moment is not a rounded BF16, cures
// that do not cure.
TEST_CASE("a second moment that BF16 cannot hold is warned of, with cures") {
  const auto beta_one = [](const char* strategy) { return std::string(R"("strategy": ")") + strategy + "\""; };
  for (const char* strategy : {"bf16", "bf16_sr", "collage_light"}) {
    CHECK(beta_warning(beta_one(strategy), 0.989).empty());
    CHECK(contains(beta_warning(beta_one(strategy), 0.99), "wrong by some 5 %"));
    CHECK(contains(beta_warning(beta_one(strategy), 0.998), "can hardly fall"));
    CHECK(beta_warning(beta_one(strategy) + R"(, "second_moment_rounding": "stochastic")", 0.999).empty());
  }
  for (const char* strategy : {"fp32", "mixed", "collage_plus", "split32", "bf16_fp32_states"}) {
    CHECK(beta_warning(beta_one(strategy), 0.999).empty());
  }
  CHECK_FALSE(beta_warning(R"("strategy": "split32", "second_moment": "bf16")", 0.999).empty());
  CHECK(beta_warning(beta_one("bf16_sr"), 0.999) ==
        "optimizer.betas[1] 0.999 with precision.second_moment_rounding \"nearest\": a BF16 second moment cannot fall "
        "(1 - 0.999 < 2^-9): THE RUN GOES WRONG once gradients shrink\n"
        "       cures: second_moment_rounding \"stochastic\", precision.strategy \"collage_plus\", or an FP32 second "
        "moment "
        "(\"mixed\")");
}

// b2*v is rounded to nearest on its own under math bf16, so a stochastic sum comes too late.
TEST_CASE("under math bf16 the warning comes earlier, and stochastic rounding alone is no cure") {
  const std::string literal = R"("strategy": "bf16_sr", "math": "bf16")";
  CHECK(beta_warning(literal, 0.95).empty());
  CHECK(contains(beta_warning(literal, 0.98), "precision.math \"bf16\": a BF16 second moment is wrong by some 3 %"));
  CHECK(contains(beta_warning(literal, 0.99), "wrong by some 10 %"));
  const std::string stochastic = beta_warning(literal + R"(, "second_moment_rounding": "stochastic")", 0.999);
  CHECK(contains(stochastic, "cannot fall"));
  CHECK(contains(stochastic, "cures: math \"fp32\" with second_moment_rounding \"stochastic\""));
  CHECK(beta_warning(R"("strategy": "collage_plus", "math": "bf16")", 0.999).empty());
}

TEST_CASE("a warm-up that outlasts the run is warned of") {
  const auto warnings = warnings_of(small_with(R"({"steps": 100, "optimizer": {"schedule": {"warmup_steps": 700}}})"));
  REQUIRE(warnings.size() == 1);
  CHECK(warnings[0] ==
        "optimizer.schedule.warmup_steps 700 is longer than the schedule of 100 steps: the learning rate never reaches "
        "0.0006");
  CHECK(warnings_of(small_with(R"({"steps": 100, "optimizer": {"schedule": {"warmup_steps": 100}}})")).empty());
  CHECK(warnings_of(small_with(R"({"steps": 100, "optimizer": {"schedule": {"kind": "wsd", "warmup_steps": 81}}})"))
            .size() == 1);
  CHECK(warnings_of(small_with(R"({"steps": 100, "optimizer": {"schedule": {"kind": "wsd", "warmup_steps": 80}}})"))
            .empty());
}

TEST_CASE("rounding that a strategy has no use for is warned of") {
  const auto warnings =
      warnings_of(small_with(R"({"precision": {"strategy": "mixed", "second_moment_rounding": "stochastic"}})"));
  REQUIRE(warnings.size() == 1);
  CHECK(contains(warnings[0], "does nothing under precision.strategy \"mixed\", whose second moment is FP32"));
}

/// The only warning of kSmall, 10 steps, with these keys of the section checkpoint; "" for none.
std::string checkpoint_warning(const std::string& keys, int64_t steps = 10) {
  const auto warnings =
      warnings_of(small_with("{\"steps\": " + std::to_string(steps) + ", \"checkpoint\": {" + keys + "}}"));
  REQUIRE(warnings.size() <= 1);
  return warnings.empty() ? "" : warnings[0];
}

// Catches: a warning at the multiples themselves, at a divisor (which keeps all), or at the default 0; a cure that
// brings the next warning; a common multiple that the run never reaches promised as kept.
TEST_CASE("permanent checkpoints at steps that are seldom or never written are warned of") {
  CHECK(checkpoint_warning(R"("every_steps": 1000, "keep_every": 1500)", 3000) ==
        "checkpoint.keep_every 1500 is no multiple of checkpoint.every_steps 1000: of the checkpoints by steps only "
        "every 3000 steps' stays for ever\n       cures: keep_every 1000 or 2000");
  CHECK(checkpoint_warning(R"("every_steps": 1000, "keep_every": 1500)", 2999) ==
        "checkpoint.keep_every 1500 is no multiple of checkpoint.every_steps 1000: no checkpoint by steps of this run "
        "of 2999 stays for ever\n       cures: keep_every 1000 or 2000");
  CHECK(contains(checkpoint_warning(R"("every_steps": 1000, "keep_every": 700)"), "cures: keep_every 1000 or 2000"));
  CHECK(contains(checkpoint_warning(R"("every_steps": 4294967291, "keep_every": 4294967295)"), "no checkpoint by"));
  for (const char* fits : {"0", "1", "500", "1000", "5000"}) {
    CHECK(checkpoint_warning(R"("every_steps": 1000, "keep_every": )" + std::string(fits)).empty());
  }
  CHECK(checkpoint_warning(R"("every_steps": 0, "every_minutes": 30, "keep_every": 5000)") ==
        "checkpoint.keep_every 5000 with checkpoint.every_steps 0: a checkpoint by time falls on a multiple of it by "
        "chance alone\n       cures: give every_steps, a divisor of 5000, or leave keep_every out");
  CHECK(checkpoint_warning(R"("every_steps": 0, "every_minutes": 30, "keep_every": 1)").empty());
  CHECK(checkpoint_warning(R"("every_steps": 0, "every_minutes": 30, "on_signal": "continue")").empty());
}

// Catches: a warning for a run that has checkpoints by time alone, silence where both intervals are 0.
TEST_CASE("keys about checkpoints that are never written are warned of") {
  const std::string why =
      ": checkpoint.every_steps and checkpoint.every_minutes are both 0, so that no checkpoint is written\n"
      "       cures: give one of the two, or leave the key out";
  CHECK(checkpoint_warning(R"("every_steps": 0, "keep_every": 1)") == "checkpoint.keep_every 1 keeps nothing" + why);
  CHECK(checkpoint_warning(R"("every_steps": 0, "on_signal": "continue")") ==
        "checkpoint.on_signal \"continue\" saves nothing at SIGUSR1" + why);
  CHECK(checkpoint_warning(R"("every_steps": 0)").empty());
  CHECK(checkpoint_warning(R"("every_steps": 0, "resume": "runs/other", "allow_strategy_change": true)").empty());
}

// Catches: no checkpoint kept at all, an empty path taken for the working directory, a time that nanoseconds overflow.
TEST_CASE("the section checkpoint refuses what would lose checkpoints") {
  const auto refusal = [](const std::string& keys) { return error_of(small_with("{\"checkpoint\": {" + keys + "}}")); };
  CHECK(refusal(R"("keep_last": 0)") == "t.json: checkpoint.keep_last is 0, needs an integer from 1 to 4294967295");
  CHECK(refusal(R"("resume": "")") == "t.json: checkpoint.resume is \"\", needs a path, not empty");
  CHECK(refusal(R"("every_minutes": 1e9)") ==
        "t.json: checkpoint.every_minutes is 1000000000.0, needs a real from 0 to 50000000");
  CHECK(contains(refusal(R"("on_signal": "contniue")"), "needs one of exit, continue\n       nearest: continue"));
  const CheckpointConfig c = parsed(kSmall, {"checkpoint.resume=runs/a", "checkpoint.every_minutes=0.5"}).checkpoint;
  CHECK((c.resume == "runs/a" && c.every_minutes == 0.5 && c.every_steps == 1000 && c.keep_last == 2 && c.async));
}

TEST_CASE("a preset chosen above an extended file warns of the dimensions that stay") {
  const TemporaryFolder folder;
  folder.write("a.json", small_with(R"({"model": {"layers": 3, "heads": 6}})"));
  const std::string b = folder.write(
      "b.json", R"({"extends": "a.json", "model": {"preset": "qwen2.5-0.5b", "hidden": 384, "kv_heads": 2}})");
  std::vector<std::string> warnings;
  CHECK(load_config(b, {}, warnings).model.layers == 3);
  REQUIRE(warnings.size() == 2);
  CHECK(warnings[1] == "model.layers 3 of " + folder.path("a.json") + " stays, although " + b +
                           " chooses model.preset \"qwen2.5-0.5b\", which has 24");
}

TEST_CASE("a typo is one letter or a third of them, and the right word elsewhere is near") {
  const std::vector<std::string> names = {"optimizer.betas", "optimizer.epsilon", "batch.size", "steps"};
  CHECK(nearest_name("optimizer.epslion", names) == "optimizer.epsilon");  // neighbours swapped
  CHECK(nearest_name("optimizer.beta", names) == "optimizer.betas");
  CHECK(nearest_name("optimizer.batch", names).empty());
  CHECK(nearest_name("epsilon", names) == "optimizer.epsilon");
  CHECK(nearest_name("step", names) == "steps");
  CHECK(nearest_name("x", names).empty());
  CHECK(nearest_name(std::string(100000, 's'), names).empty());
}

}  // namespace
}  // namespace dither
