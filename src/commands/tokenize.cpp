// dither tokenize: text files to token shards, one token a byte.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>

#include "base/counted.h"
#include "src/commands/commands.h"
#include "src/data/prepare.h"

namespace dither {

void add_tokenize_command(CLI::App& app) {
  struct Options {
    std::vector<std::string> texts;
    std::string output;
    double validation_fraction = 0.05;  // enough to judge by from 4 MB of text on, and little lost for training
  };
  const auto options = std::make_shared<Options>();

  CLI::App* command = app.add_subcommand("tokenize", "Make token shards from text files, one token a byte");
  command->add_option("--text", options->texts, "Text files, each one a document")->type_name("FILE")->required();
  command->add_option("--output", options->output, "Folder for train_*.bin, val_*.bin and tokenizer.bin")
      ->type_name("FOLDER")
      ->required();
  command
      ->add_option("--validation-fraction", options->validation_fraction,
                   "Share of each text, at its end, that is held out; default 0.05")
      ->type_name("F");
  command->footer(
      "Byte-pair vocabularies: scripts/prepare_data.py. Formats: docs/data-format.md.\n\n"
      "Example:\n"
      "  dither tokenize --text book.txt letters.txt --output data/mine");
  command->callback([options] {
    const PreparedCorpus made = prepare_byte_corpus(options->texts, options->output, options->validation_fraction);
    fmt::print("{}: {} in {}, {} in {}\n", options->output, counted(made.train_tokens, "training token"),
               counted(made.train_shards, "shard"), counted(made.validation_tokens, "validation token"),
               counted(made.validation_shards, "shard"));
  });
}

}  // namespace dither
