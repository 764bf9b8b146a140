// "Did you mean …?"
#pragma once

#include <string>
#include <vector>

namespace lockstep {

/// The name with the smallest edit distance (Levenshtein) to `word`; empty when none is near (more than half of `word`
/// differs).
std::string nearest(const std::string& word, const std::vector<std::string>& names);

/// " did you mean 'x'?" or "".
std::string did_you_mean(const std::string& word, const std::vector<std::string>& names);

}  // namespace lockstep
