// Every setting of a run, as recipes, config.toml and --set name them.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace lockstep {

/// watch.deadline_s is for steps; what comes before the first one has ended, and the end of a run, may take this many
/// times as long.
constexpr double kPatience = 4;

/// The settings, `section_name` for the setting "section.name". Ranges, choices and a line of text for each stand in
/// src/train/settings.cpp; docs/settings.md lists them. A setting means the same at any rank count.
struct Settings {
  std::string data_dir;
  bool data_shuffle = true;
  int64_t data_seed = -1;  ///< -1: train_seed
  bool data_normalize = false;
  std::string data_flip = "none";
  int64_t data_translate = 0;  ///< pixels

  std::string model_name = "sjnet";

  int64_t train_epochs = 10;
  int64_t train_max_steps = 0;      ///< 0: no limit
  int64_t train_global_batch = 64;  ///< images a step over all ranks
  int64_t train_seed = 0;
  int64_t train_accumulate = 1;     ///< backward passes of a step on each rank
  int64_t train_micro_batch = 0;    ///< images of a backward pass at most; 0: as train_accumulate says
  int64_t train_virtual_ranks = 0;  ///< 0: off
  double train_clip_norm = 0;       ///< 0: off
  std::string train_precision = "fp32";
  std::string train_memory_format = "contiguous";
  bool train_tf32 = false;
  bool train_cuda_graph = true;
  double train_label_smoothing = 0;

  std::string optim_name = "sgd";
  double optim_lr = 0.01;
  std::string optim_lr_scale = "none";  ///< with --batch-per-rank: none, linear or sqrt in the global batch
  double optim_momentum = 0;
  bool optim_nesterov = false;
  double optim_weight_decay = 0;
  double optim_ema = 0;  ///< 0: off
  std::string optim_schedule = "constant";
  int64_t optim_warmup_steps = 0;
  // With muon: of what is not a filter.
  double optim_bias_lr = 0.01;
  double optim_head_lr = 0.01;
  double optim_sgd_momentum = 0.85;
  int64_t optim_whiten_epochs = 0;
  std::string optim_divide = "auto";  ///< with muon: whether ranks divide the filters' updates

  int64_t eval_batch = 64;
  int64_t eval_every_epochs = 1;  ///< 0: never
  std::string eval_tta = "none";

  int64_t log_every_steps = 100;  ///< 0: never

  int64_t checkpoint_every_steps = 0;   ///< 0: never
  int64_t checkpoint_every_epochs = 1;  ///< 0: never
  int64_t checkpoint_keep = 3;          ///< the newest ones; the one with the best test stays besides

  int64_t ddp_bucket_bytes = 256 * 1024;
  std::string ddp_overlap = "auto";
  std::string ddp_wire = "fp32";
  int64_t ddp_audit_every = 500;  ///< steps; 0: never

  double watch_deadline_s = 300;  ///< 0: none
};

/// A recipe of the binary by its name, or a TOML file (a name with a slash or ending in .toml). Settings it leaves out
/// keep their defaults. Throws Error: usage for an unknown recipe, setting, or bad value (with the place in the file
/// and the nearest name); missing or io for a file that cannot be read.
Settings load_recipe(const std::string& name_or_file);

/// Applies "section.key=value". Throws Error (usage) naming the setting, the value and what is allowed.
void apply_setting(Settings& settings, const std::string& assignment);

bool knows_setting(const std::string& name);  ///< "section.key"

/// Throws Error (usage) for settings that contradict each other.
void check_settings(const Settings& settings);

/// A TOML file that gives these settings again, every one of them, with a comment for each.
std::string to_toml(const Settings& settings);

/// Names and values as a person reads them, in the order of the file.
std::vector<std::pair<std::string, std::string>> setting_values(const Settings& settings);

std::vector<std::string> recipe_names();

struct SettingHelp {
  std::string name;     ///< section.key
  std::string text;     ///< what it is
  std::string allowed;  ///< its range or choices
};
std::vector<SettingHelp> setting_help();

}  // namespace lockstep
