// The child mode: dither::train(), with a forgetful disk below its checkpoints where that is asked for.
#include <cstdio>
#include <exception>
#include <optional>

#include "base/error.h"
#include "src/training/train.h"
#include "tests/checkpoint_faults/forgetful_disk.h"
#include "tests/torture/job.h"

namespace dither::torture {

int run_child(const std::string& config_path, const std::string& real, const std::string& image) {
  constexpr int kFailed = 2;
  try {
    Ranks ranks;
    ranks.run([&] {
      TrainOptions options;
      const Config config = load_config(config_path, {}, options.warnings);
      std::optional<ForgetfulDisk> files;
      if (!image.empty()) options.files = &files.emplace(real, image);
      train(config, options, ranks);
    });
    return 0;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "%serror: %s\n", error_origin().c_str(), e.what());
    return kFailed;
  }
}

}  // namespace dither::torture
