#include <fmt/format.h>

#include <cstdio>
#include <nlohmann/json.hpp>

#include "cli/data_folder.h"
#include "cli/options.h"
#include "cli/report.h"
#include "cli/target.h"
#include "lockstep/cifar10.h"
#include "lockstep/evaluator.h"
#include "lockstep/model.h"
#include "lockstep/net.h"
#include "lockstep/weights.h"
#include "lockstep/world.h"
#include "train/batches.h"
#include "train/device_path.h"
#include "train/inputs.h"
#include "train/tta.h"
#include "world/last_words.h"

namespace lockstep {
namespace {

cxxopts::Options evaluate_options() {
  cxxopts::Options options("lockstep evaluate",
                           "Exact test loss and accuracy of a run or a file of weights, over all ranks.\n");
  options.positional_help("RUN|FILE").custom_help("[FLAGS]");
  options.add_options()  //
      ("target", "A run folder, or a file of weights (.pth, .safetensors, a checkpoint)", cxxopts::value<std::string>(),
       "RUN|FILE")  //
      ("data-dir", "Folder of the .bin files, or its parent (default: the run's, $LOCKSTEP_DATA, data, ../shared/data)",
       cxxopts::value<std::string>(), "DIR")                                                //
      ("model", "The network (default: the run's)", cxxopts::value<std::string>(), "NAME")  //
      ("batch", "Images a batch; test_loss is the sum of the batch means (default: the run's)",
       cxxopts::value<int64_t>(), "N")  //
      ("tta", "Test-time augmentation: none, mirror or shifts (default: the run's)", cxxopts::value<std::string>(),
       "VIEWS")                                                                                        //
      ("threads", "LibTorch's threads on each rank", cxxopts::value<int>()->default_value("0"), "N")   //
      ("device", "auto, cpu or cuda", cxxopts::value<std::string>()->default_value("auto"), "DEVICE")  //
      ("json", "Print one JSON object");
  options.parse_positional({"target"});
  return options;
}

void print_text(const std::string& weights, const Cifar10& data, const Evaluation& result) {
  fmt::print("weights         {}\n", weights);
  fmt::print("data            {}{}: {} test images\n", data.synthetic() ? "SYNTHETIC " : "", data.folder(),
             result.images);
  fmt::print("test_loss       {} (sum of {} batch means)\n", result.loss_sum, result.batches);
  fmt::print("test_loss_mean  {}\n", result.loss_mean);
  fmt::print("test_accuracy   {:.2f} %\n", 100 * result.accuracy);
  for (size_t i = 0; i < 10; ++i) {
    const auto images = static_cast<double>(result.class_images[i]);
    fmt::print("  {:<13} {:.2f} % ({} of {})\n", Cifar10::kClasses[i],
               images > 0 ? 100 * static_cast<double>(result.class_correct[i]) / images : 0.0, result.class_correct[i],
               result.class_images[i]);
  }
}

void print_json(const std::string& weights, const Cifar10& data, const Evaluation& result) {
  nlohmann::ordered_json json = {{"weights", weights},
                                 {"data", data.folder()},
                                 {"synthetic", data.synthetic()},
                                 {"images", result.images},
                                 {"test_loss", result.loss_sum},
                                 {"test_loss_mean", result.loss_mean},
                                 {"test_accuracy", result.accuracy}};
  for (size_t i = 0; i < 10; ++i) {
    json["classes"][Cifar10::kClasses[i]] = {{"correct", result.class_correct[i]}, {"images", result.class_images[i]}};
  }
  fmt::print("{}\n", json.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace));
}

}  // namespace

int evaluate_command(const Words& words) {
  cxxopts::Options options = evaluate_options();
  if (wants_help(words)) {
    parse(options, words);
    return 0;
  }
  World world;
  return run_job(world, [&] {
    std::shared_ptr<Net> net;
    std::optional<Cifar10> data;
    Target target;
    std::string note;
    bool json = false;
    DeviceWish device = DeviceWish::cpu;
    std::optional<cxxopts::ParseResult> flags;
    agree_on_command(world, "evaluate");
    world.together([&] {
      flags = parse(options, words);
      device = device_wish((*flags)["device"].as<std::string>());
      if (flags->count("target") == 0) {
        throw Error(ExitCode::usage, "nothing to evaluate was named", "lockstep evaluate RUN|FILE --data-dir DIR");
      }
      if (!flags->unmatched().empty()) {
        throw Error(ExitCode::usage, fmt::format("'{}' is one word too many", flags->unmatched()[0]),
                    "lockstep evaluate RUN|FILE");
      }
      target = find_target((*flags)["target"].as<std::string>());
      for (const auto& [flag, setting] :
           {std::pair{"data-dir", "data.dir"}, std::pair{"model", "model.name"}, std::pair{"tta", "eval.tta"}}) {
        if (flags->count(flag) > 0) {
          apply_setting(target.settings, fmt::format("{}={}", setting, (*flags)[flag].as<std::string>()));
        }
      }
      if (flags->count("batch") > 0)
        apply_setting(target.settings, fmt::format("eval.batch={}", (*flags)["batch"].as<int64_t>()));
      json = flags->count("json") > 0;
      world.set_threads((*flags)["threads"].as<int>());
      data = Cifar10::open(Cifar10::find(data_folder(target.settings.data_dir)), Cifar10::Split::test);
      net = make_net(target.settings.model_name);
      note = load_state_dict(*net, load_weights(target.weights), target.weights);
    });
    agree_on_flags(world, *flags, {"device"});
    agree_on_evaluation(world, target.settings);
    agree_on_data(world, {&*data});
    agree_on_weights(world, target.weights, state_dict(*net));
    if (world.rank() == 0 && !note.empty()) print_warning(note, "");
    world.choose_device(device);
    const Settings& settings = target.settings;
    set_up_device(settings);
    move_net(*net, world.device(), settings.train_memory_format);
    const Autocast autocast(world.device(), settings.train_precision);
    const Evaluation result =
        evaluate(world, *net, *data, settings.eval_batch, test_augmentation(settings), tta_of(settings));
    if (world.rank() == 0) (json ? print_json : print_text)(target.weights, *data, result);
    return 0;
  });
}

}  // namespace lockstep
