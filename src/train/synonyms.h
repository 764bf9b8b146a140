// What people who know other programs mean by their words.
#pragma once

#include <functional>
#include <string>

namespace lockstep {

/// What to write in place of a flag of PyTorch's examples, Lightning, Keras, torchrun and the like, or of a setting's
/// key: "--set optim.lr=0.1" for "--learning-rate" with the value "0.1"; empty for a word without a known meaning.
/// `takes` tells which flags ("--set") the command has: nothing else is advised. `value` may be empty.
std::string meaning_of(const std::string& word, const std::string& value,
                       const std::function<bool(const std::string&)>& takes);

/// The setting ("optim.lr") that such a word means; empty if none.
std::string setting_meant(const std::string& word);

}  // namespace lockstep
