#include "train/synonyms.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cctype>
#include <string_view>
#include <vector>

#include "lockstep/error.h"
#include "lockstep/settings.h"

namespace lockstep {
namespace {

struct Synonym {
  std::string_view words;  // a blank on both sides of each
  std::string_view needs;  // a flag that the command must have
  std::string_view meant;  // {} is the value
};

constexpr std::string_view kSet = "--set ";
constexpr std::string_view kBatch =
    " batch batch-size bs b train-batch-size per-device-train-batch-size mini-batch minibatch ";

// The first that fits is taken.
constexpr Synonym kSynonyms[] = {
    {kBatch, "--batch", "--batch {}"},
    {kBatch, "--batch-per-rank",
     "--set train.global_batch={} for all ranks together, or --batch-per-rank {} --lr-scale RULE for each rank"},
    {" eval-batch-size test-batch-size val-batch-size per-device-eval-batch-size ", "--batch", "--batch {}"},
    {" eval-batch-size test-batch-size val-batch-size per-device-eval-batch-size ", "--set", "--set eval.batch={}"},
    {" lr learning-rate base-lr initial-lr ", "--set", "--set optim.lr={}"},
    {" optimizer optim opt optimiser ", "--set", "--set optim.name={}"},
    {" model net network arch architecture a model-name ", "--set", "--set model.name={}"},
    {" arch architecture net network model-name a ", "--model", "--model {}"},
    {" weight-decay wd l2 ", "--set", "--set optim.weight_decay={}"},
    {" mom ", "--set", "--set optim.momentum={}"},
    {" scheduler lr-scheduler lr-schedule ", "--set", "--set optim.schedule={}"},
    {" warmup warmup-steps lr-warmup-steps num-warmup-steps ", "--set", "--set optim.warmup_steps={}"},
    {" ema-decay model-ema ", "--set", "--set optim.ema={}"},
    {" clip grad-clip clip-grad clip-grad-norm max-norm max-grad-norm gradient-clip-val clipnorm ", "--set",
     "--set train.clip_norm={}"},
    {" gradient-accumulation-steps accumulate-grad-batches grad-accum accum accumulation-steps ", "--set",
     "--set train.accumulate={}"},
    {" amp bf16 bfloat16 mixed-precision half autocast use-amp ", "--set", "--set train.precision=bf16"},
    {" amp bf16 bfloat16 mixed-precision half autocast use-amp ", "--precision", "--precision bf16"},
    {" fp16 float16 ", "--set", "--set train.precision=bf16, since float16 is not there"},
    {" dtype ", "--set", "--set train.precision=fp32 or bf16"},
    {" channels-last ", "--set", "--set train.memory_format=channels_last"},
    {" channels-last ", "--memory-format", "--memory-format channels_last"},
    {" smoothing ", "--set", "--set train.label_smoothing={}"},
    {" allow-tf32 ", "--set", "--set train.tf32=true"},
    {" log-interval log-every log-freq print-freq log-every-n-steps logging-steps ", "--set",
     "--set log.every_steps={}"},
    {" save-every save-freq save-interval checkpoint-every save-every-n-epochs save-period ", "--set",
     "--set checkpoint.every_epochs={}, or checkpoint.every_steps"},
    {" save-steps ", "--set", "--set checkpoint.every_steps={}"},
    {" save-top-k save-total-limit max-to-keep keep-checkpoints ", "--set", "--set checkpoint.keep={}"},
    {" eval-every eval-interval val-interval check-val-every-n-epoch eval-freq ", "--set",
     "--set eval.every_epochs={}"},
    {" timeout deadline ", "--set", "--set watch.deadline_s={}"},
    {" bucket-cap-mb bucket-size ", "--bucket-bytes", "--bucket-bytes BYTES"},
    {" bucket-cap-mb bucket-size ", "--set", "--set ddp.bucket_bytes=BYTES"},
    {" tta test-time-augmentation ", "--set", "--set eval.tta={}"},
    {" augment augmentation hflip ", "--set", "--set data.flip=random, and data.translate"},
    {" gpu gpus cuda use-cuda num-gpus n-gpus ngpu ngpus devices num-devices accelerator gpu-ids ", "--device",
     "--device cuda: each rank takes one GPU, and `mpirun -n N` starts N ranks"},
    {" cpu no-cuda use-cpu ", "--device", "--device cpu"},
    {" np n nproc nprocs nproc-per-node num-processes num-proc world-size ranks nodes nnodes num-nodes num-machines "
     "rank "
     "local-rank node-rank master-addr master-port dist-url dist-backend rdzv-backend rdzv-endpoint backend strategy "
     "distributed ddp multiprocessing-distributed ",
     "--device", "`mpirun -n N` before lockstep, which starts N ranks on one or more hosts"},
    {" workers num-workers j data-workers dataloader-num-workers ", "--threads",
     "--threads N for the threads of a rank: images are read from mapped files, without workers"},
    {" num-threads omp-num-threads nthreads ", "--threads", "--threads {}"},
    {" checkpoint ckpt ckpt-path checkpoint-path resume-from resume-from-checkpoint load load-checkpoint restore "
     "continue ",
     "--resume", "--resume {}"},
    {" checkpoint ckpt ckpt-path checkpoint-path weights load resume pretrained ", "--tta", "RUN|FILE without a flag"},
    {" output out-dir output-dir outdir o save-dir save-path log-dir logdir default-root-dir work-dir workdir run-dir "
     "run checkpoint-dir ckpt-dir model-dir results-dir tensorboard-dir ",
     "--out", "--out {}"},
    {" force overwrite-output-dir ", "--overwrite", "--overwrite"},
    {" epoch e num-epochs n-epochs nepochs max-epochs num-train-epochs ", "--epochs", "--epochs {}"},
    {" steps max-iter max-iters iters iterations num-steps total-steps train-steps max-iterations ", "--max-steps",
     "--max-steps {}"},
    {" steps iters iterations num-steps ", "--steps", "--steps {}"},
    {" data dataset data-path dataset-dir data-root dataroot root datadir data-folder ", "--data-dir", "--data-dir {}"},
    {" random-seed manual-seed rng-seed ", "--seed", "--seed {}"},
    {" config cfg config-file conf c ", "--recipe", "--recipe {}"},
    {" profile profiler ", "--trace", "--trace FILE"},
    {" silent ", "--quiet", "--quiet"},
};

std::string normalised(const std::string& word) {
  std::string text = word.substr(std::min(word.find_first_not_of('-'), word.size()));
  for (char& c : text) c = c == '_' ? '-' : static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return text;
}

// The settings of which `word` is the name, or the part after the section.
std::vector<std::string> settings_called(const std::string& word) {
  std::vector<std::string> all;
  for (const SettingHelp& setting : setting_help()) {
    const std::string name = normalised(setting.name);
    if (name == word || name.substr(name.find('.') + 1) == word) all.push_back(setting.name);
  }
  return all;
}

// Advice that can be followed: a value that the setting rejects is not repeated.
std::string with_value(std::string_view meant, std::string value) {
  std::string text(meant);
  if (const size_t end = meant.find("={}");
      meant.starts_with(kSet) && end != std::string_view::npos && !value.empty()) {
    const std::string name(meant.substr(kSet.size(), end - kSet.size()));
    try {
      Settings trial;
      apply_setting(trial, name + "=" + value);
    } catch (const Error&) {
      value.clear();
      for (const SettingHelp& setting : setting_help()) {
        if (setting.name == name) text += fmt::format(", {}", setting.allowed);
      }
    }
  }
  const std::string shown = value.empty() ? "VALUE" : value;
  for (size_t at = text.find("{}"); at != std::string::npos; at = text.find("{}", at + shown.size())) {
    text.replace(at, 2, shown);
  }
  return text;
}

}  // namespace

std::string meaning_of(const std::string& word, const std::string& value,
                       const std::function<bool(const std::string&)>& takes) {
  const std::string name = normalised(word);
  for (const Synonym& synonym : kSynonyms) {
    if (synonym.words.find(" " + name + " ") == std::string_view::npos) continue;
    if (takes(std::string(synonym.needs))) return with_value(synonym.meant, value);
  }
  if (!takes("--set")) return "";
  std::vector<std::string> advice;
  for (const std::string& setting : settings_called(name)) {
    advice.push_back(with_value("--set " + setting + "={}", value));
  }
  return fmt::format("{}", fmt::join(advice, " or "));
}

std::string setting_meant(const std::string& word) {
  const std::string name = normalised(word);
  const std::string key = name.substr(name.find('.') == std::string::npos ? 0 : name.find('.') + 1);
  for (const Synonym& synonym : kSynonyms) {
    if (synonym.words.find(" " + key + " ") == std::string_view::npos || !synonym.meant.starts_with(kSet)) continue;
    return std::string(synonym.meant.substr(kSet.size(), synonym.meant.find('=') - kSet.size()));
  }
  const std::vector<std::string> settings = settings_called(key);
  return settings.size() == 1 ? settings[0] : "";
}

}  // namespace lockstep
