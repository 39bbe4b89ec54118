// A checkpoint of many ranks as one of a single file.
#pragma once

#include <string>

#include "src/checkpoint/file_system.h"
#include "src/checkpoint/manifest.h"

namespace dither {

constexpr const char* kConsolidatedName = "state.safetensors";

/// Throws Error where there is something of that name: neither a checkpoint nor weights are written over it.
void refuse_existing(const std::string& output);

/// Writes the state of `checkpoint` as a checkpoint at `output`: all tensors whole, in one file, under the same names;
/// the rest of the manifest stays as it is, so a run resumes from either alike. `output` appears whole or not at all
/// (checkpoint_folder.h). Holds a few MiB, however large the state. Returns the new manifest. Throws Error where
/// `output` exists or is called like a checkpoint of another step, where the checkpoint is damaged (everything is read
/// before), and where the disk refuses.
Manifest consolidate(const std::string& checkpoint, const std::string& output, FileSystem& files);

}  // namespace dither
