// The commands of `dither`. Each function describes one command to the parser: its options, its help, and what runs
// once the command line has been read.
//
// A command reads options, calls what the rooms below offer and prints the result: whatever is more than that belongs
// to one of them. Errors are thrown; main.cpp prints them.
#pragma once

namespace CLI {
class App;
}

namespace dither {

void add_train_command(CLI::App& app);
void add_compare_command(CLI::App& app);
void add_report_command(CLI::App& app);
void add_evaluate_command(CLI::App& app);
void add_sample_command(CLI::App& app);
void add_tune_command(CLI::App& app);
void add_checkpoint_command(CLI::App& app);
void add_tokenize_command(CLI::App& app);
void add_bench_command(CLI::App& app);
/// What `dither bench` takes without a config, as JSON: model, types and batch of configs/gpt2-124m.json.
const char* default_bench_config();
void add_plan_command(CLI::App& app);
void add_schema_command(CLI::App& app);

}  // namespace dither
