// Reads the pickles in which PyTorch saves dicts of tensors.
#pragma once

#include "lockstep/weights.h"
#include "store/zip_reader.h"

namespace lockstep {

/// The tensors of data.pkl in a .pth archive, in the order of the dict: a dict or OrderedDict (a state_dict) of names
/// and tensors. Like Python's weights_only=True it makes nothing but plain values and tensors, so that a file cannot
/// run code. Negation and conjugation that were pending when a tensor was saved are done. Opcodes: Python's
/// Lib/pickle.py, those that torch.save writes with its pickle protocol 2. Throws Malformed.
NamedTensors read_pickled_tensors(const ZipReader& archive);

}  // namespace lockstep
