// Finds the name that was probably meant.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace dither {

/// The candidate closest to `found` by single letters inserted, deleted, replaced or swapped with their neighbour, if
/// it is close enough to be a typo (a third of the last part's letters, at least one); else "". Names are dotted
/// paths: the right last part in the wrong section counts as one letter.
std::string nearest_name(std::string_view found, const std::vector<std::string>& candidates);

}  // namespace dither
