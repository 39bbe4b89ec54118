// What every fuzz target is: a reader of bytes from outside, and the use of whatever it accepts. libfuzzer.cpp feeds it
// with bytes that libFuzzer invents, replay.cpp with the files of the committed corpus.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace dither {

/// Gives the bytes to the reader; whether it accepted them. A refusal is an Error, caught here. A broken promise of
/// what was accepted breaks a DITHER_ASSERT, and any other exception leaves: both end the process, which is a finding.
/// The same bytes give the same answer, whatever came before.
bool accepts(const uint8_t* data, size_t size);

/// A folder of this process alone, below TMPDIR, made at the first call and removed when the process ends in order.
const std::string& scratch_folder();

}  // namespace dither
