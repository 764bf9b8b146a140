#include "train/saver.h"

#include <fmt/format.h>

#include <string_view>
#include <utility>

#include "ddp/audit_digests.h"
#include "lockstep/audit.h"
#include "lockstep/world.h"
#include "optim/optimizer.h"
#include "store/checkpoint.h"
#include "store/checkpoint_writer.h"
#include "store/digest.h"
#include "store/row_major.h"
#include "train/fault.h"
#include "train/gradients.h"
#include "train/resume.h"
#include "train/run_files.h"

namespace lockstep {

NamedTensors replica_state(const Net& net, const Optimizer& optimizer) {
  NamedTensors state = state_dict(net);
  for (auto& [name, tensor] : optimizer.state()) state.emplace_back(name, tensor);
  return state;
}

Saver::Saver(const Parts& parts) : my_(parts) {
  if (my_.log == nullptr) return;
  writer_ = std::make_unique<CheckpointWriter>(
      CheckpointWriter::Options{.folder = checkpoints_of(my_.out),
                                .keep = my_.settings.checkpoint_keep,
                                .guard = my_.guard,
                                .half_written = [this] { my_.fault.at(Fault::Point::checkpoint); },
                                .before_latest = [this] { my_.fault.at(Fault::Point::commit); }});
}

Saver::~Saver() = default;

void Saver::sync() {
  my_.gradients.check(last_good_);
  my_.gradients.sync_buffers();
}

void Saver::audit(const NamedTensors& replica, int64_t step) {
  if (my_.settings.ddp_audit_every > 0) audit_replicas(my_.world, replica, step);
}

void Saver::checkpoint(RunState state) {
  sync();
  NamedTensors copies = replica_state(my_.net, my_.optimizer);
  last_step_ = state.step;
  if (my_.log == nullptr) {
    audit(copies, state.step);
    my_.fault.at(Fault::Point::checkpoint);
    my_.fault.at(Fault::Point::commit);
    return;
  }
  // Fresh memory would cost page faults here, and change where the next steps find theirs.
  NamedTensors memory = std::exchange(memory_, {});
  if (memory.size() != copies.size()) memory = checkpoint_memory(copies);
  // What will be written is what is audited, and each tensor's digest is made while it is in the cache.
  std::vector<std::string> digests;
  const auto copy = [&] {
    NamedDigests replica;
    for (size_t i = 0; i < copies.size(); ++i) {
      auto& [name, tensor] = copies[i];
      tensor = row_major_copy(tensor, memory[i].second);
      digests.push_back(digest_bytes(data_of(tensor)));
      replica.emplace_back(name, digest_tensor(tensor, digests.back()));
    }
    return replica;
  };
  if (my_.settings.ddp_audit_every > 0) {
    audit_digests(my_.world, copy, state.step);
  } else {
    copy();
  }
  const std::size_t of_net = state_dict(my_.net).size();
  for (std::size_t i = 0; i < copies.size(); ++i) {
    copies[i].first.insert(0, i < of_net ? kModelPrefix : kOptimizerPrefix);
  }
  state.logs = my_.log->positions();
  CheckpointWriter::Job job{.step = state.step,
                            .tensors = std::move(copies),
                            .digests = std::move(digests),
                            .state = state.to_json(),
                            .sync = my_.log->files()};
  if (state.best) job.keep_besides.insert(state.best->step);
  writer_->submit(std::move(job));
}

void Saver::report() {
  if (!writer_) return;
  for (CheckpointWriter::Outcome& outcome : writer_->outcomes()) {
    memory_ = std::move(outcome.tensors);
    if (outcome.skipped) {
      my_.log->warning(fmt::format("the checkpoint of step {} was left out: the disk is slower than checkpoint.every_*",
                                   outcome.step));
    } else if (!outcome.error) {
      durable_step_ = outcome.step;
      last_good_ = outcome.path;
      my_.log->checkpoint(outcome.step, outcome.path, outcome.bytes, outcome.seconds);
    } else if (outcome.error->code() == ExitCode::io) {
      my_.log->warning(fmt::format("no checkpoint of step {}: {}; training goes on{}", outcome.step,
                                   outcome.error->what(), last_good_.empty() ? "" : ", and " + last_good_ + " stays"));
    } else {
      throw Error(*outcome.error);
    }
  }
}

void Saver::finish() {
  if (writer_) writer_->flush();
  report();
}

void Saver::weights(const std::string& name, int64_t step, Failure failure) {
  sync();
  audit(replica_state(my_.net, my_.optimizer), step);
  if (my_.log == nullptr) return;
  my_.guard();
  const std::string path = fmt::format("{}/{}.pth", my_.out, name);
  try {
    my_.files->claim(name + ".pth");
    const Optimizer::Averaged averaged(my_.optimizer);
    save_pth(path, state_dict(my_.net));
  } catch (const Error& error) {
    if (failure == Failure::thrown || error.code() != ExitCode::io) throw;
    const bool says_which = std::string_view(error.what()).find(path) != std::string_view::npos;
    my_.log->warning(
        fmt::format("{}{}; training goes on without this file", says_which ? "" : "no " + path + ": ", error.what()));
    return;
  }
  if (durable_step_ < step) last_good_ = path;
  my_.log->weights(path);
}

}  // namespace lockstep
