// lockstep data: the data set — get it, look at it, or make a stand-in.
#include <fmt/format.h>

#include <array>
#include <cstdio>
#include <string>

#include "cli/commands.h"
#include "cli/data_folder.h"
#include "cli/options.h"
#include "data/fetch.h"
#include "lockstep/cifar10.h"
#include "lockstep/error.h"
#include "log/text.h"

namespace lockstep {
namespace {

constexpr const char* kDataUsage = R"(Usage: lockstep data COMMAND [OPTION...]

Commands:
  fetch        download CIFAR-10, verify and unpack it
  check        look at every file of a data set
  synthesize   make learnable images in the same format, for trying things out without the data

`lockstep data COMMAND --help` lists a command's options.
)";

// Sets the variables that the options name. False when help was asked for, and printed.
bool parse_flags(cxxopts::Options& options, const Words& words) {
  const auto result = parse(options, words);
  if (result && !result->unmatched().empty()) {
    throw Error(ExitCode::usage, fmt::format("unexpected word '{}'", result->unmatched()[0]),
                fmt::format("all flags: {} --help", options.program()));
  }
  return result.has_value();
}

void print_split(const Cifar10& data, const char* name) {
  std::array<int64_t, Cifar10::kClasses.size()> images{};
  for (int64_t i = 0; i < data.size(); ++i) ++images[data.label(i)];
  fmt::print("{:<6}{:>8} images{}\n", name, grouped(data.size()), data.synthetic() ? "  SYNTHETIC" : "");
  for (std::size_t label = 0; label < images.size(); ++label) {
    fmt::print("  {:<11}{:>7}\n", Cifar10::kClasses[label], grouped(images[label]));
  }
}

void print_data(const std::string& dir) {
  const std::string folder = Cifar10::find(dir);
  const Cifar10 train = Cifar10::open(folder, Cifar10::Split::train);
  const Cifar10 test = Cifar10::open(folder, Cifar10::Split::test);
  if (train.synthetic() != test.synthetic()) {
    throw Error(ExitCode::damaged,
                fmt::format("in {} one of the training and test sets is synthetic, the other is not", folder),
                "keep real and synthetic data in folders of their own");
  }
  fmt::print("{}: complete{}\n", folder, train.synthetic() ? ", SYNTHETIC: made by lockstep, not photographs" : "");
  print_split(train, "train");
  print_split(test, "test");
}

int fetch(const Words& words) {
  cxxopts::Options options("lockstep data fetch",
                           "Downloads CIFAR-10 in its binary version (163 MB), verifies and unpacks it.");
  FetchOptions fetching;
  // clang-format off
  options.add_options()
      ("out", "folder to put cifar-10-batches-bin/ into", cxxopts::value(fetching.out)->default_value("data"), "DIR")
      ("url", "where the archive is", cxxopts::value(fetching.url)->default_value(kCifar10Url), "URL")
      ("md5", "the archive's MD5", cxxopts::value(fetching.md5)->default_value(kCifar10Md5), "HEX");
  // clang-format on
  if (!parse_flags(options, words)) return 0;
  fetch_cifar10(fetching);
  print_data(fetching.out);
  return 0;
}

int check(const Words& words) {
  cxxopts::Options options("lockstep data check",
                           "Checks the sizes of all files and every label, and counts the images.");
  std::string dir;
  // clang-format off
  options.add_options()
      ("data-dir", "folder of the .bin files, or its parent (default: $LOCKSTEP_DATA, data, ../shared/data)", cxxopts::value(dir), "DIR");
  // clang-format on
  if (!parse_flags(options, words)) return 0;
  print_data(data_folder(dir));
  return 0;
}

int synthesize(const Words& words) {
  cxxopts::Options options("lockstep data synthesize",
                           "Makes learnable images in the format of CIFAR-10. Whatever trains on them says SYNTHETIC.");
  std::string out;
  SynthesizeOptions making;
  // clang-format off
  options.add_options()
      ("out", "folder for the .bin files; it may not hold any yet", cxxopts::value(out), "DIR")
      ("train-images", "a multiple of 5", cxxopts::value(making.train_images)->default_value("50000"), "N")
      ("test-images", "at least 1", cxxopts::value(making.test_images)->default_value("10000"), "N")
      ("seed", "the same seed and counts give the same bytes", cxxopts::value(making.seed)->default_value("0"), "N");
  // clang-format on
  if (!parse_flags(options, words)) return 0;
  if (out.empty()) throw Error(ExitCode::usage, "--out is missing", "give the folder to make: --out DIR");
  synthesize_cifar10(out, making);
  print_data(out);
  return 0;
}

}  // namespace

int data_command(const Words& words) {
  if (words.empty()) {
    throw Error(ExitCode::usage, "`lockstep data` needs a command: fetch, check or synthesize",
                "`lockstep data --help`");
  }
  const Words rest(words.begin() + 1, words.end());
  if (words[0] == "fetch") return fetch(rest);
  if (words[0] == "check") return check(rest);
  if (words[0] == "synthesize") return synthesize(rest);
  if (words[0] == "--help" || words[0] == "-h" || words[0] == "help") {
    fmt::print("{}", kDataUsage);
    return 0;
  }
  throw Error(ExitCode::usage, fmt::format("`lockstep data` has no command '{}'", words[0]),
              "the commands are fetch, check and synthesize");
}

}  // namespace lockstep
