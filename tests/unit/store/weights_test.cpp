#include "lockstep/weights.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/_neg_view.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/imag.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/quantize_per_tensor.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/linear.h>

#include <algorithm>
#include <initializer_list>
#include <utility>

#include "../expect_error.h"
#include "../temporary_folder.h"
#include "store/checkpoint.h"

namespace lockstep {
namespace {

using test::bytes_of;
using test::expect_error;
using test::put_file;
using test::TemporaryFolder;
using ::testing::ElementsAre;

struct Small : torch::nn::Module {
  Small() : scale(register_parameter("scale", at::ones({2}))), norm(3), inner(4, 3) {
    register_module("norm", norm);
    register_module("inner", inner);
    register_buffer("seen", at::zeros({}, at::kLong));
  }
  at::Tensor scale;
  torch::nn::BatchNorm1d norm;
  torch::nn::Linear inner;
};

std::vector<std::string> names(const NamedTensors& tensors) {
  std::vector<std::string> all;
  for (const auto& [name, tensor] : tensors) all.push_back(name);
  return all;
}

TEST(StateDict, HasPythonsNamesInPythonsOrder) {
  EXPECT_THAT(names(state_dict(Small())),
              ElementsAre("scale", "seen", "norm.weight", "norm.bias", "norm.running_mean", "norm.running_var",
                          "norm.num_batches_tracked", "inner.weight", "inner.bias"));
}

TEST(StateDict, SharesStorageWithTheModule) {
  Small net;
  state_dict(net)[0].second.fill_(5);
  EXPECT_EQ(net.scale[1].item<float>(), 5);
  EXPECT_FALSE(state_dict(net)[0].second.requires_grad());
}

TEST(LoadStateDict, CopiesEveryTensorAndConvertsItsType) {
  Small from, to;
  NamedTensors tensors = state_dict(from);
  tensors[0].second = at::arange(2, at::kDouble);
  std::swap(tensors[2], tensors[7]);  // the order says nothing
  load_state_dict(to, tensors, "a test");
  EXPECT_TRUE(at::equal(to.inner->weight, from.inner->weight));
  EXPECT_EQ(to.scale.scalar_type(), at::kFloat);
  EXPECT_EQ(to.scale[1].item<float>(), 1);
  EXPECT_TRUE(to.scale.requires_grad());
}

TEST(LoadStateDict, NamesWhatDoesNotFitAndChangesNothing) {
  Small net;
  const at::Tensor before = net.inner->weight.detach().clone();
  NamedTensors good = state_dict(Small());
  NamedTensors lacking(good.begin(), good.end() - 1);
  expect_error(ExitCode::damaged, {"a.pth", "lacks", "inner.bias"}, [&] { load_state_dict(net, lacking, "a.pth"); });
  NamedTensors surplus = good;
  surplus.emplace_back("more", at::ones({1}));
  expect_error(ExitCode::damaged, {"a.pth", "unexpected", "more"}, [&] { load_state_dict(net, surplus, "a.pth"); });
  NamedTensors other = good;
  other[8].second = at::ones({4});
  expect_error(ExitCode::damaged, {"inner.bias", "[4]", "[3]"}, [&] { load_state_dict(net, other, "a.pth"); });
  EXPECT_TRUE(at::equal(net.inner->weight, before));
}

NamedTensors renamed(const NamedTensors& tensors, const std::string& prefix) {
  NamedTensors all;
  for (const auto& [name, tensor] : tensors) all.emplace_back(prefix + name, tensor);
  return all;
}

// DistributedDataParallel, torch.compile, both, and torch.optim.swa_utils.AveragedModel.
TEST(LoadStateDict, TakesNamesWithoutThePrefixThatAWrapperGaveThem) {
  for (const std::string prefix : {"module.", "_orig_mod.", "_orig_mod.module.", "ema."}) {
    Small from, to;
    NamedTensors given = renamed(state_dict(from), prefix);
    if (prefix == "module.") given.emplace_back("n_averaged", at::zeros({}, at::kLong));
    const std::string note = load_state_dict(to, given, "a.pth");
    EXPECT_THAT(note, ::testing::AllOf(::testing::HasSubstr("a.pth"), ::testing::HasSubstr("'" + prefix + "'")));
    EXPECT_TRUE(at::equal(to.inner->weight, from.inner->weight)) << prefix;
  }
  Small net;
  EXPECT_EQ(load_state_dict(net, state_dict(Small()), "a.pth"), "");
}

TEST(LoadStateDict, TakesNoPrefixThatLeavesSomethingOver) {
  Small net;
  NamedTensors surplus = renamed(state_dict(Small()), "module.");
  surplus.emplace_back("module.more", at::ones({1}));
  expect_error(ExitCode::damaged, {"lacks the tensor scale", "module.scale"},
               [&] { load_state_dict(net, surplus, "a.pth"); });
  NamedTensors mixed = renamed(state_dict(Small()), "module.");
  mixed[3].first = "norm.bias";
  expect_error(ExitCode::damaged, {"lacks the tensor scale"}, [&] { load_state_dict(net, mixed, "a.pth"); });
  expect_error(ExitCode::damaged, {"unexpected", "n_averaged"}, [&] {
    NamedTensors counted = state_dict(Small());
    counted.emplace_back("n_averaged", at::zeros({}, at::kLong));
    load_state_dict(net, counted, "a.pth");
  });
}

TEST(LoadStateDict, KeepsNumBatchesTrackedWhereTheFileLacksIt) {
  Small from, to;
  to.norm->num_batches_tracked.fill_(7);
  for (const std::string prefix : {"", "module."}) {
    NamedTensors given = renamed(state_dict(from), prefix);
    given.erase(given.begin() + 6);
    load_state_dict(to, given, "a.pth");
    EXPECT_EQ(to.norm->num_batches_tracked.item<int64_t>(), 7);
    EXPECT_TRUE(at::equal(to.inner->weight, from.inner->weight));
  }
  NamedTensors lacking = state_dict(from);
  lacking.erase(lacking.begin() + 5);
  expect_error(ExitCode::damaged, {"norm.running_var"}, [&] { load_state_dict(to, lacking, "a.pth"); });
}

NamedTensors examples() {
  const at::Tensor large = at::randn({50, 100});
  return {{"float", at::randn({3, 4})},
          {"double", at::randn({2}, at::kDouble)},
          {"half", at::randn({5}).to(at::kHalf)},
          {"bfloat16", at::randn({5}).to(at::kBFloat16)},
          {"long", at::arange(4)},
          {"int", at::arange(4, at::kInt)},
          {"byte", at::arange(4, at::kByte)},
          {"bool", at::ones({2}, at::kBool)},
          {"complex", at::randn({3}, at::kComplexFloat)},
          {"scalar", at::ones({})},
          {"empty", at::zeros({0, 3})},
          {"column", large.narrow(1, 5, 1)},
          {"transposed", large.t()},
          {"large", large},
          {"again", large},
          {"name with a blank, ünd mehr", at::ones({1})}};
}

TEST(Pth, GivesBackEveryTensorInOrder) {
  TemporaryFolder folder;
  const NamedTensors saved = examples();
  save_pth(folder / "weights.pth", saved);
  const NamedTensors loaded = load_pth(folder / "weights.pth");
  ASSERT_EQ(names(loaded), names(saved));
  for (std::size_t i = 0; i < saved.size(); ++i) {
    EXPECT_EQ(loaded[i].second.scalar_type(), saved[i].second.scalar_type()) << saved[i].first;
    EXPECT_TRUE(at::equal(loaded[i].second, saved[i].second)) << saved[i].first;
  }
  EXPECT_EQ(folder.entries(), 1u);
}

TEST(Pth, HoldsManyTensors) {
  TemporaryFolder folder;
  NamedTensors saved;
  for (int i = 0; i < 400; ++i) saved.emplace_back("tensor." + std::to_string(i), at::ones({3}) * i);
  save_pth(folder / "weights.pth", saved);
  const NamedTensors loaded = load_pth(folder / "weights.pth");
  ASSERT_EQ(loaded.size(), 400u);
  EXPECT_EQ(loaded[399].second[2].item<float>(), 399);
}

TEST(Pth, SavesAViewWithoutTheStorageBehindIt) {
  TemporaryFolder folder;
  save_pth(folder / "view.pth", {{"row", at::zeros({1000, 1000})[3]}});
  EXPECT_LT(bytes_of(folder / "view.pth").size(), 10'000u);
}

TEST(Pth, WritesTheNumbersOfPendingNegationAndConjugation) {
  TemporaryFolder folder;
  const at::Tensor real = at::randn({5}), complex = at::randn({2, 3}, at::kComplexDouble);
  const NamedTensors saved = {{"negated", at::_neg_view(real)},
                              {"part", at::_neg_view(real).narrow(0, 1, 2)},
                              {"conjugated", complex.conj()},
                              {"imaginary", at::imag(complex.conj())}};
  ASSERT_TRUE(saved[3].second.is_neg());
  save_pth(folder / "w.pth", saved);
  const NamedTensors loaded = load_pth(folder / "w.pth");
  for (std::size_t i = 0; i < saved.size(); ++i) {
    EXPECT_FALSE(loaded[i].second.is_neg() || loaded[i].second.is_conj());
    EXPECT_TRUE(at::equal(loaded[i].second, saved[i].second)) << saved[i].first;
  }
  EXPECT_EQ(loaded[0].second[0].item<float>(), -real[0].item<float>());
}

// What it writes of these, neither load_pth nor torch.load could read.
TEST(Pth, RefusesByNameWhatCannotBeReadBack) {
  TemporaryFolder folder;
  const auto refuse = [&](std::initializer_list<std::string> words, const std::string& name, const at::Tensor& tensor) {
    expect_error(ExitCode::internal, words, [&] {
      save_pth(folder / "w.pth", {{"good", at::ones({1})}, {name, tensor}});
    });
    EXPECT_EQ(folder.entries(), 0u);
  };
  for (const at::ScalarType type :
       {at::kUInt16, at::kUInt32, at::kUInt64, at::kFloat8_e5m2, at::kFloat8_e4m3fn, at::kFloat8_e5m2fnuz,
        at::kFloat8_e4m3fnuz, at::kFloat8_e8m0fnu, at::kComplexHalf}) {
    refuse({"the tensor a.b", c10::toString(type)}, "a.b", at::empty({2}, type));
  }
  refuse({"the tensor q", "QInt8"}, "q", at::quantize_per_tensor(at::ones({2}), 0.1, 0, at::kQInt8));
  refuse({"the tensor s", "not dense"}, "s", at::ones({2}).to_sparse());
  refuse({"the tensor u", "undefined"}, "u", at::Tensor());
  refuse({"caf\\xe9", "UTF-8"}, "caf\xe9", at::ones({1}));
  refuse({"two tensors are named good"}, "good", at::ones({1}));
}

TEST(Pth, TheSameTensorsGiveTheSameBytes) {
  TemporaryFolder folder;
  const NamedTensors tensors = examples();
  save_pth(folder / "one.pth", tensors);
  save_pth(folder / "two.pth", tensors);
  EXPECT_EQ(bytes_of(folder / "one.pth"), bytes_of(folder / "two.pth"));
}

TEST(Pth, SaysThatAFileIsMissingOrSomethingElse) {
  TemporaryFolder folder;
  const std::string path = folder / "x.pth";
  expect_error(ExitCode::missing, {path}, [&] { load_pth(path); });
  for (const std::string bytes : {"", "PK", "not weights at all, but long enough to hold the end of a zip archive"}) {
    put_file(path, bytes);
    expect_error(ExitCode::damaged, {path, "zip"}, [&] { load_pth(path); });
  }
}

// What a disk may do to a file: it is noticed, or it does not touch the tensors.
TEST(Pth, NoDamagedByteGoesUnnoticed) {
  TemporaryFolder folder;
  const NamedTensors saved = {{"weight", at::randn({3, 5})}, {"bias", at::randn({3})}};
  const std::string path = folder / "weights.pth";
  save_pth(path, saved);
  const std::string good = bytes_of(path);
  int noticed = 0;
  for (std::size_t i = 0; i < good.size(); ++i) {
    std::string bytes = good;
    bytes[i] = static_cast<char>(bytes[i] ^ 1 << i % 8);
    put_file(path, bytes);
    try {
      const NamedTensors loaded = load_pth(path);
      ASSERT_EQ(names(loaded), names(saved)) << "byte " << i;
      for (std::size_t t = 0; t < saved.size(); ++t)
        ASSERT_TRUE(at::equal(loaded[t].second, saved[t].second)) << "byte " << i;
    } catch (const Error& error) {
      ASSERT_EQ(error.code(), ExitCode::damaged) << "byte " << i;
      ++noticed;
    }
  }
  EXPECT_GT(noticed, 300);
}

TEST(Pth, NoTruncationGoesUnnoticed) {
  TemporaryFolder folder;
  const std::string path = folder / "weights.pth";
  save_pth(path, {{"weight", at::randn({3, 5})}});
  const std::string good = bytes_of(path);
  for (std::size_t size = 0; size < good.size(); size += 7) {
    put_file(path, good.substr(0, size));
    expect_error(ExitCode::damaged, {path}, [&] { load_pth(path); });
  }
}

TEST(Pth, SaysThatTheFolderIsMissing) {
  TemporaryFolder folder;
  expect_error(ExitCode::io, {folder / "no/x.pth"}, [&] { save_pth(folder / "no/x.pth", {{"a", at::ones({1})}}); });
}

TEST(SaveSafetensors, IsReadBackByLoadWeights) {
  TemporaryFolder folder;
  const NamedTensors saved = examples();
  save_safetensors(folder / "weights", saved);
  const NamedTensors loaded = load_weights(folder / "weights");
  ASSERT_EQ(loaded.size(), saved.size());
  for (const auto& [name, tensor] : saved) {
    const auto found = std::find_if(loaded.begin(), loaded.end(), [&](const auto& item) { return item.first == name; });
    ASSERT_NE(found, loaded.end()) << name;
    EXPECT_EQ(found->second.scalar_type(), tensor.scalar_type()) << name;
    EXPECT_TRUE(at::equal(found->second, tensor)) << name;
  }
  EXPECT_EQ(folder.entries(), 1u);
  expect_error(ExitCode::io, {folder / "no/x"}, [&] { save_safetensors(folder / "no/x", saved); });
}

TEST(LoadWeights, TellsThePthFromTheSafetensorsFileByItsContent) {
  TemporaryFolder folder;
  const NamedTensors tensors = {{"long", at::arange(4)}, {"float", at::randn({3, 4})}, {"empty", at::zeros({0, 3})}};
  save_pth(folder / "a.safetensors", tensors);
  save_safetensors(folder / "b.pth", tensors);
  for (const char* name : {"a.safetensors", "b.pth"}) {
    const NamedTensors loaded = load_weights(folder / name);
    ASSERT_EQ(names(loaded), names(tensors)) << name;
    for (std::size_t i = 0; i < tensors.size(); ++i)
      EXPECT_TRUE(at::equal(loaded[i].second, tensors[i].second)) << name;
  }
  // A header of "PK\3\4" bytes is still a safetensors file.
  const std::string header = "{}" + std::string(0x04034b50 - 2, ' ');
  put_file(folder / "c", std::string("PK\3\4\0\0\0\0", 8) + header);
  EXPECT_TRUE(load_weights(folder / "c").empty());
}

TEST(LoadWeights, GivesTheModelOfACheckpoint) {
  TemporaryFolder folder;
  const at::Tensor one = at::ones({1});
  put_file(folder / "c", checkpoint_bytes({{"model.a.b", one}, {"optim.a.b", one + 1}, {"model.c", one + 2}}, "{}"));
  const NamedTensors loaded = load_weights(folder / "c");
  EXPECT_THAT(names(loaded), ElementsAre("a.b", "c"));
  EXPECT_EQ(loaded[1].second.item<float>(), 3);
  put_file(folder / "c", checkpoint_bytes({{"model.a.b", one}, {"optimizer.a.b.average", one + 4}}, "{}"));
  EXPECT_EQ(load_weights(folder / "c")[0].second.item<float>(), 5);
  put_file(folder / "c", checkpoint_bytes({{"optim.a.b", one}}, "{}"));
  expect_error(ExitCode::damaged, {folder / "c", "without a model"}, [&] { load_weights(folder / "c"); });
}

TEST(LoadWeights, NoFlippedBitOfACheckpointGoesUnnoticed) {
  TemporaryFolder folder;
  const std::string good = checkpoint_bytes({{"model.w", at::randn({3, 5})}, {"optim.w", at::randn({3})}}, "{}");
  for (std::size_t i = 0; i < good.size(); ++i) {
    std::string bytes = good;
    bytes[i] = static_cast<char>(bytes[i] ^ 1 << i % 8);
    put_file(folder / "c", bytes);
    expect_error(ExitCode::damaged, {folder / "c"}, [&] { load_weights(folder / "c"); });
  }
}

TEST(LoadWeights, SaysWhatAFileOfAnotherProgramIs) {
  TemporaryFolder folder;
  const std::string path = folder / "a file.pth";
  const std::pair<std::string, std::string> files[] = {
      {std::string("\x80\x02\x8a\x0al\xfc\x9c"
                   "F\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.",
                   20),
       "old format of torch.save"},
      {std::string("\x80\x04\x95\x10\0\0\0\0\0\0\0}.", 13), "a Python pickle"},
      {std::string("\x1f\x8b\x08\0\0\0\0\0\0\x03", 10), "compressed"},
      {"version https://git-lfs.github.com/spec/v1\n", "Git LFS"},
      {"<!DOCTYPE html>\n<html>", "a web page"},
      {"\x89HDF\r\n\x1a\n", "HDF5"}};
  for (const auto& [bytes, what] : files) {
    put_file(path, bytes);
    for (const auto load : {load_weights, load_pth}) {
      expect_error(ExitCode::damaged, {path, what}, [&] { load(path); });
    }
  }
}

TEST(LoadWeights, SaysThatAFileIsMissingOrTornOrSomethingElse) {
  TemporaryFolder folder;
  const std::string path = folder / "x";
  expect_error(ExitCode::missing, {path}, [&] { load_weights(path); });
  expect_error(ExitCode::io, {folder.path()}, [&] { load_weights(folder.path()); });
  for (const std::string bytes : {"", "{", "12345678", "neither of the two"}) {
    put_file(path, bytes);
    expect_error(ExitCode::damaged, {path, "neither"}, [&] { load_weights(path); });
  }
  for (const auto save : {save_pth, save_safetensors}) {
    save(path, {{"weight", at::randn({3, 5})}});
    const std::string good = bytes_of(path);
    for (std::size_t size = 0; size < good.size(); size += 7) {
      put_file(path, good.substr(0, size));
      expect_error(ExitCode::damaged, {path}, [&] { load_weights(path); });
    }
  }
}

}  // namespace
}  // namespace lockstep
