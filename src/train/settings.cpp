#include "lockstep/settings.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <toml++/toml.h>
#include <algorithm>
#include <charconv>
#include <cmath>
#include <filesystem>
#include <limits>
#include <variant>

#include "lockstep/error.h"
#include "lockstep/model.h"
#include "store/files.h"
#include "store/utf8.h"
#include "train/nearest.h"
#include "train/recipes.h"
#include "train/synonyms.h"

namespace lockstep {
namespace {

using Member = std::variant<bool Settings::*, int64_t Settings::*, double Settings::*, std::string Settings::*>;

struct Info {
  const char* name;  // section.key
  Member member;
  const char* text;
  double least = -std::numeric_limits<double>::infinity();
  double most = std::numeric_limits<double>::infinity();
  std::vector<std::string> choices = {};
};

constexpr double kMostSteps = 1e15;

// In the order of config.toml.
const std::vector<Info>& infos() {
  static const std::vector<Info> all = {
      {"data.dir", &Settings::data_dir, "folder of the .bin files, or its parent"},
      {"data.shuffle", &Settings::data_shuffle, "a new order of the images in each epoch"},
      {"data.seed", &Settings::data_seed, "seed of that order; -1: train.seed", -1, 9e18},
      {"data.normalize", &Settings::data_normalize, "images less the mean of their channel, over its deviation"},
      {"data.flip",
       &Settings::data_flip,
       "training images mirrored: half of them at random, or each in every other epoch",
       0,
       0,
       {"none", "random", "alternating"}},
      {"data.translate", &Settings::data_translate, "pixels that training images are moved by at most, edges reflected",
       0, 16},
      {"model.name", &Settings::model_name, "the network", 0, 0, net_names()},
      {"train.epochs", &Settings::train_epochs, "passes over the training images", 0, 1e9},
      {"train.max_steps", &Settings::train_max_steps, "stop after this many steps; 0: no limit", 0, kMostSteps},
      {"train.global_batch", &Settings::train_global_batch, "images a step, over all ranks", 1, 1e6},
      {"train.seed", &Settings::train_seed, "seed of the initial weights, and of how images are shown", 0, 9e18},
      {"train.accumulate", &Settings::train_accumulate, "backward passes that a rank's share of a step is cut into", 1,
       1e6},
      {"train.micro_batch", &Settings::train_micro_batch,
       "most images of a backward pass: a rank's share is cut into so many more; 0: no limit", 0, 1e6},
      {"train.virtual_ranks", &Settings::train_virtual_ranks,
       "micro-shards of a step, for the same bits at any rank count that divides them; 0: off", 0, 65536},
      {"train.clip_norm", &Settings::train_clip_norm, "longest gradient over all parameters; 0: no limit", 0, 1e30},
      {"train.precision",
       &Settings::train_precision,
       "what forward and backward compute in; bf16: where that is safe (autocast); channels_last convolutions only "
       "where a CPU is faster in it",
       0,
       0,
       {"fp32", "bf16"}},
      {"train.memory_format",
       &Settings::train_memory_format,
       "layout of images and of convolutions' weights",
       0,
       0,
       {"contiguous", "channels_last"}},
      {"train.tf32", &Settings::train_tf32, "let GPUs round float32 factors to TF32 (10 bits of mantissa): faster"},
      {"train.cuda_graph", &Settings::train_cuda_graph,
       "GPUs start each step as one recorded graph, after the first steps: much faster, with the same bits"},
      {"train.label_smoothing", &Settings::train_label_smoothing, "share of each label that is spread over all classes",
       0, 1},
      {"optim.name",
       &Settings::optim_name,
       "the optimizer; muon: for filters, and SGD for all else",
       0,
       0,
       {"sgd", "muon"}},
      {"optim.lr", &Settings::optim_lr, "learning rate; muon: of filters", 0, 1e6},
      {"optim.lr_scale",
       &Settings::optim_lr_scale,
       "what --batch-per-rank does to the rate",
       0,
       0,
       {"none", "linear", "sqrt"}},
      {"optim.momentum", &Settings::optim_momentum, "momentum; muon: of filters", 0, 1},
      {"optim.nesterov", &Settings::optim_nesterov, "Nesterov's momentum"},
      {"optim.weight_decay", &Settings::optim_weight_decay,
       "added to the gradient, times the weight; muon: over the rate, but for filters none", 0, 1e6},
      {"optim.ema", &Settings::optim_ema,
       "share that the averages of the weights keep in a step, which are tested and saved; 0: the weights themselves",
       0, 1},
      {"optim.schedule",
       &Settings::optim_schedule,
       "the rate over the steps of all epochs: stays, or falls to 0; triangular: rises in the first fifth",
       0,
       0,
       {"constant", "linear", "triangular", "cosine"}},
      {"optim.warmup_steps", &Settings::optim_warmup_steps,
       "steps in which the rate rises to optim.lr; 0: as the schedule says", 0, kMostSteps},
      {"optim.bias_lr", &Settings::optim_bias_lr, "muon: learning rate of biases", 0, 1e6},
      {"optim.head_lr", &Settings::optim_head_lr, "muon: learning rate of linear layers' weights", 0, 1e6},
      {"optim.sgd_momentum", &Settings::optim_sgd_momentum, "muon: momentum of biases and linear layers", 0, 1},
      {"optim.whiten_epochs", &Settings::optim_whiten_epochs,
       "muon: epochs in which the rate of a whitening layer's bias falls to 0; 0: as other biases", 0, 1e9},
      {"optim.divide",
       &Settings::optim_divide,
       "muon: whether each rank makes some filters' updates and sends them; auto: on CPUs of one host",
       0,
       0,
       {"auto", "on", "off"}},
      {"eval.batch", &Settings::eval_batch, "images a batch in evaluation", 1, 1e6},
      {"eval.every_epochs", &Settings::eval_every_epochs, "epochs between evaluations; 0: never", 0, 1e9},
      {"eval.tta",
       &Settings::eval_tta,
       "what logits are averaged over in evaluation: the image; and its mirror image; and both moved by a pixel",
       0,
       0,
       {"none", "mirror", "shifts"}},
      {"log.every_steps", &Settings::log_every_steps, "steps between lines of the log; 0: never", 0, kMostSteps},
      {"checkpoint.every_steps", &Settings::checkpoint_every_steps, "steps between checkpoints; 0: never", 0,
       kMostSteps},
      {"checkpoint.every_epochs", &Settings::checkpoint_every_epochs, "epochs between checkpoints; 0: never", 0, 1e9},
      {"checkpoint.keep", &Settings::checkpoint_keep, "newest checkpoints that stay, beside that of the best test", 1,
       1e9},
      {"ddp.bucket_bytes", &Settings::ddp_bucket_bytes, "bytes of gradients reduced at once", 1, 1e12},
      {"ddp.overlap",
       &Settings::ddp_overlap,
       "whether gradients travel while backward computes",
       0,
       0,
       {"auto", "on", "off"}},
      {"ddp.wire", &Settings::ddp_wire, "how gradients travel", 0, 0, {"fp32", "bf16"}},
      {"ddp.audit_every", &Settings::ddp_audit_every, "steps between comparisons of all replicas; 0: never", 0,
       kMostSteps},
      {"watch.deadline_s", &Settings::watch_deadline_s, "seconds that ranks wait for each other; 0: for ever", 0, 1e9},
  };
  return all;
}

std::vector<std::string> names() {
  std::vector<std::string> all;
  for (const Info& info : infos()) all.emplace_back(info.name);
  return all;
}

const Info& find(const std::string& name, const std::string& where) {
  for (const Info& info : infos()) {
    if (name == info.name) return info;
  }
  const std::string meant = setting_meant(name);
  throw Error(ExitCode::usage, fmt::format("{}: no setting is called '{}'", where, name),
              (meant.empty() ? did_you_mean(name, names()) : fmt::format("did you mean '{}'? ", meant)) +
                  "all settings: lockstep train --help");
}

std::string allowed(const Info& info) {
  if (!info.choices.empty()) return fmt::format("one of: {}", fmt::join(info.choices, ", "));
  if (std::holds_alternative<bool Settings::*>(info.member)) return "true or false";
  if (std::holds_alternative<std::string Settings::*>(info.member)) return "a text";
  const char* kind = std::holds_alternative<int64_t Settings::*>(info.member) ? "a whole number" : "a number";
  return fmt::format("{} from {:g} to {:g}", kind, info.least, info.most);
}

[[noreturn]] void refuse(const Info& info, const std::string& value, const std::string& where) {
  std::string hint = "allowed: " + allowed(info);
  if (!info.choices.empty()) hint = did_you_mean(value, info.choices) + hint;
  throw Error(ExitCode::usage, fmt::format("{}: '{}' is not a value for {}", where, value, info.name), hint);
}

template <typename Number>
bool parse(const std::string& text, Number& number) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  return error == std::errc() && end == text.data() + text.size();
}

// The one way a value enters, whatever it comes from: as text, checked against the table.
void set(Settings& settings, const Info& info, const std::string& value, const std::string& where) {
  if (const auto* flag = std::get_if<bool Settings::*>(&info.member)) {
    if (value != "true" && value != "false") refuse(info, value, where);
    settings.** flag = value == "true";
  } else if (const auto* text = std::get_if<std::string Settings::*>(&info.member)) {
    if (!info.choices.empty() && std::find(info.choices.begin(), info.choices.end(), value) == info.choices.end()) {
      refuse(info, value, where);
    }
    settings.** text = value;
  } else if (const auto* whole = std::get_if<int64_t Settings::*>(&info.member)) {
    int64_t number = 0;
    if (!parse(value, number) || static_cast<double>(number) < info.least || static_cast<double>(number) > info.most) {
      refuse(info, value, where);
    }
    settings.** whole = number;
  } else if (const auto* real = std::get_if<double Settings::*>(&info.member)) {
    double number = 0;
    // The comparison is false for NaN, which is refused too.
    if (!parse(value, number) || !(number >= info.least && number <= info.most)) refuse(info, value, where);
    settings.** real = number;
  }
}

std::string get(const Settings& settings, const Info& info) {
  return std::visit([&](auto member) -> std::string { return fmt::format("{}", settings.*member); }, info.member);
}

std::string text_of(const toml::node& node) {
  if (const auto* text = node.as_string()) return text->get();
  if (const auto* flag = node.as_boolean()) return flag->get() ? "true" : "false";
  if (const auto* whole = node.as_integer()) return fmt::format("{}", whole->get());
  if (const auto* real = node.as_floating_point()) return fmt::format("{}", real->get());
  return "(neither text, number nor flag)";
}

Settings from_toml(const std::string& text, const std::string& where) {
  toml::table table;
  try {
    table = toml::parse(text, where);
  } catch (const toml::parse_error& error) {
    throw Error(ExitCode::usage,
                fmt::format("{}:{}: not TOML: {}", where, error.source().begin.line, std::string(error.description())),
                "a recipe holds lines such as [train] and global_batch = 64");
  }
  Settings settings;
  for (const auto& [section, values] : table) {
    const auto place = [&](const toml::node& node) { return fmt::format("{}:{}", where, node.source().begin.line); };
    const toml::table* keys = values.as_table();
    if (keys == nullptr) find(std::string(section.str()), place(values));
    for (const auto& [key, value] : *keys) {
      const Info& info = find(fmt::format("{}.{}", section.str(), key.str()), place(value));
      const bool is_text = std::holds_alternative<std::string Settings::*>(info.member);
      if (is_text != value.is_string()) refuse(info, text_of(value), place(value));
      set(settings, info, text_of(value), place(value));
    }
  }
  return settings;
}

std::string toml_text(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
      out += fmt::format("\\u{:04X}", static_cast<unsigned>(static_cast<unsigned char>(c)));
    } else {
      out += c;
    }
  }
  return out + '"';
}

std::string read_recipe(const std::string& path) {
  std::error_code error;
  if (!std::filesystem::exists(path, error) && !error) {
    throw Error(ExitCode::missing, fmt::format("no recipe file {}", path),
                fmt::format("give a file, or one of: {}", fmt::join(recipe_names(), ", ")));
  }
  return read_file(path);
}

}  // namespace

std::vector<std::string> recipe_names() {
  std::vector<std::string> all;
  for (const EmbeddedRecipe& recipe : embedded_recipes()) all.push_back(recipe.name);
  return all;
}

Settings load_recipe(const std::string& name_or_file) {
  for (const EmbeddedRecipe& recipe : embedded_recipes()) {
    if (recipe.name == name_or_file) return from_toml(recipe.toml, "recipe " + recipe.name);
  }
  if (name_or_file.find('/') != std::string::npos || name_or_file.ends_with(".toml")) {
    return from_toml(read_recipe(name_or_file), name_or_file);
  }
  throw Error(ExitCode::usage, fmt::format("no recipe is called '{}'", name_or_file),
              fmt::format("{}recipes: {}; or a .toml file", did_you_mean(name_or_file, recipe_names()),
                          fmt::join(recipe_names(), ", ")));
}

void apply_setting(Settings& settings, const std::string& assignment) {
  const size_t equals = assignment.find('=');
  if (equals == std::string::npos) {
    throw Error(ExitCode::usage, fmt::format("--set {}: no '=' in it", assignment), "write --set section.key=value");
  }
  const Info& info = find(assignment.substr(0, equals), "--set");
  set(settings, info, assignment.substr(equals + 1), "--set");
}

bool knows_setting(const std::string& name) {
  return std::any_of(infos().begin(), infos().end(), [&](const Info& info) { return name == info.name; });
}

void check_settings(const Settings& settings) {
  for (const Info& info : infos()) {
    const auto* member = std::get_if<std::string Settings::*>(&info.member);
    if (member == nullptr || is_utf8(settings.**member)) continue;
    throw Error(
        ExitCode::usage,
        fmt::format("{} = \"{}\" is not UTF-8, so config.toml cannot hold it", info.name, escaped(settings.**member)),
        "rename it, or give a symbolic link whose name is UTF-8");
  }
  if (settings.optim_nesterov && settings.optim_momentum <= 0) {
    throw Error(ExitCode::usage, "optim.nesterov needs a momentum", "set optim.momentum above 0, for instance 0.9");
  }
  if (settings.optim_name == "muon" && settings.optim_nesterov && settings.optim_sgd_momentum <= 0) {
    throw Error(ExitCode::usage, "optim.nesterov needs a momentum for biases and linear layers too",
                "set optim.sgd_momentum above 0, for instance 0.85");
  }
  if (settings.train_virtual_ranks > 0 && settings.ddp_wire != "fp32") {
    throw Error(ExitCode::usage, "train.virtual_ranks sends gradients as they are",
                "leave out ddp.wire=bf16, or train.virtual_ranks");
  }
}

std::string to_toml(const Settings& settings) {
  std::string out = "# Every setting of this run; `lockstep train --recipe FILE` takes it again.\n";
  std::string section;
  for (const Info& info : infos()) {
    const std::string name = info.name;
    const size_t dot = name.find('.');
    if (name.substr(0, dot) != section) {
      section = name.substr(0, dot);
      out += fmt::format("\n[{}]\n", section);
    }
    std::string value = get(settings, info);
    if (std::holds_alternative<std::string Settings::*>(info.member)) value = toml_text(value);
    // TOML tells 1 from 1.0; a real setting is written as a real.
    if (std::holds_alternative<double Settings::*>(info.member) && value.find_first_of(".en") == std::string::npos)
      value += ".0";
    out += fmt::format("{} = {}  # {}\n", name.substr(dot + 1), value, info.text);
  }
  return out;
}

std::vector<std::pair<std::string, std::string>> setting_values(const Settings& settings) {
  std::vector<std::pair<std::string, std::string>> all;
  for (const Info& info : infos()) all.emplace_back(info.name, get(settings, info));
  return all;
}

std::vector<SettingHelp> setting_help() {
  std::vector<SettingHelp> all;
  for (const Info& info : infos()) all.push_back({info.name, info.text, allowed(info)});
  return all;
}

}  // namespace lockstep
