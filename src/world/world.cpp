#include "lockstep/world.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <optional>
#include <set>
#include <thread>

#include "world/affinity.h"
#include "world/gpu_part.h"
#include "world/last_words.h"
#include "world/launcher.h"
#include "world/plain_error.h"
#include "world/world_impl.h"

namespace lockstep {
namespace {

std::string host_name() {
  char name[256] = {};
  return gethostname(name, sizeof name - 1) == 0 ? name : "unknown";
}

// MPI waits for ranks that do not come, and is past aborting: the process's end makes the launcher end the others.
[[noreturn]] void end_without_mpi(double deadline_s) {
  const int rank = launcher_rank();
  const int size = launcher_size();
  let_lower_ranks_speak(rank);
  print_error(Error(ExitCode::rank_lost,
                    fmt::format("MPI did not start within {:g} s: not all {} ranks of the job have come to its start",
                                deadline_s, size),
                    "look for a rank that hangs, a host that cannot be reached, or another program among the ranks; if "
                    "the start is only slow, raise watch.deadline_s, of which this is four times"),
              size > 1 ? fmt::format("rank {} on {}", rank, host_name()) : "");
  _exit(static_cast<int>(ExitCode::rank_lost));
}

void start_mpi() {
  int started = 0;
  MPI_Initialized(&started);
  if (started != 0) {
    int ended = 0;
    MPI_Finalized(&ended);
    throw Error(
        ExitCode::launch,
        ended != 0 ? "MPI has ended in this process: its World is gone, and MPI cannot start again"
                   : "MPI is initialised already: by this program, a library of its, or a World that is there",
        "build one lockstep::World at the start of main in place of MPI_Init, and keep it to the end; MPI calls "
        "may follow");
  }
  if (std::getenv("OMPI_COMM_WORLD_SIZE") == nullptr && std::getenv("PMIX_RANK") == nullptr) {
    // Alone: without this, Open MPI 4 starts a daemon beside the process, for MPI_Comm_spawn, which costs start-up
    // time.
    setenv("OMPI_MCA_ess_singleton_isolated", "1", /*overwrite=*/0);
    // And it makes session folders beside those of other jobs, which may remove the common parent at that moment. One
    // rank needs none.
    setenv("OMPI_MCA_orte_create_session_dirs", "0", /*overwrite=*/0);
    // A single task of srun is alone as well. Open MPI, seeing a step, would look for a Slurm that speaks PMIx to it.
    if (launcher_size() == 1) unsetenv("SLURM_STEP_ID");
  }
  // The parts of our all-reduces between hosts go out at once and whole. Longer messages are first announced, and wait
  // until the other side has looked and answered, while here and there a computing thread has the core.
  for (const char* limit :
       {"OMPI_MCA_btl_tcp_eager_limit", "OMPI_MCA_btl_tcp_rndv_eager_limit", "OMPI_MCA_btl_tcp_max_send_size"}) {
    setenv(limit, std::to_string(kWholeMessageBytes).c_str(), /*overwrite=*/0);
  }
  int provided = MPI_THREAD_SINGLE;
  if (MPI_Init_thread(nullptr, nullptr, MPI_THREAD_MULTIPLE, &provided) != MPI_SUCCESS) {
    throw Error(ExitCode::launch, "MPI could not be started", "start the job with mpirun, or with srun --mpi=pmix");
  }
  if (provided < MPI_THREAD_SERIALIZED) {
    MPI_Finalize();
    throw Error(ExitCode::launch, "this MPI cannot be called from more than one thread",
                "use an MPI built with thread support (MPI_THREAD_SERIALIZED or better)");
  }
}

}  // namespace

void check_mpi(int code, const char* operation) {
  if (code == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING] = {};
  int length = 0;
  MPI_Error_string(code, text, &length);
  throw Error(ExitCode::rank_lost,
              fmt::format("{} failed: {}", operation, std::string(text, static_cast<size_t>(length))),
              "a rank or its host was lost; start again from the last weights");
}

World::World() : World(Options{}) {}

World::World(const Options& options) : impl_(std::make_unique<Impl>()) {
  refuse_separate_tasks(0);  // before MPI starts: Open MPI's own end would be a page and the code 1
  impl_->exceptions_at_start = std::uncaught_exceptions();
  std::optional<TimeLimit> limit;
  limit.emplace(options.start_deadline_s, [&options] { end_without_mpi(options.start_deadline_s); });
  start_mpi();
  Impl& world = *impl_;
  // Open MPI's nonblocking collectives report to MPI_COMM_WORLD, whatever communicator they are on.
  for (const MPI_Comm each : {MPI_COMM_WORLD, MPI_COMM_SELF}) MPI_Comm_set_errhandler(each, MPI_ERRORS_RETURN);
  check_mpi(MPI_Comm_dup(MPI_COMM_WORLD, &world.comm), "MPI_Comm_dup");
  check_mpi(MPI_Comm_dup(world.comm, &world.messages), "MPI_Comm_dup");
  check_mpi(MPI_Comm_dup(world.comm, &world.roll_call), "MPI_Comm_dup");
  MPI_Comm_rank(world.comm, &world.rank);
  MPI_Comm_size(world.comm, &world.size);
  world.host = host_name();

  if (separate_tasks(world.size)) {
    MPI_Finalize();
    refuse_separate_tasks(world.size);
  }

  MPI_Comm local = MPI_COMM_NULL;
  check_mpi(MPI_Comm_split_type(world.comm, MPI_COMM_TYPE_SHARED, world.rank, MPI_INFO_NULL, &local),
            "MPI_Comm_split_type");
  MPI_Comm_rank(local, &world.local_rank);
  MPI_Comm_size(local, &world.local_size);
  MPI_Comm_free(&local);

  // One text a rank, "host:core,core,…": hosts counted and overlapping masks found from the same gather.
  const std::vector<int> mine = affinity_cores();
  const int first_of_host = world.local_rank == 0 ? 1 : 0;
  MPI_Allreduce(&first_of_host, &world.hosts, 1, MPI_INT, MPI_SUM, world.comm);
  world.comm_thread = std::make_unique<CommThread>(world.comm, world.hosts > 1);
  const auto texts = all_gather(fmt::format("{}|{}", world.host, fmt::join(mine, ",")));
  std::vector<std::vector<int>> masks;
  for (const std::string& text : texts) {
    const size_t bar = text.rfind('|');
    world.hosts_of_ranks.push_back(text.substr(0, bar));
    if (world.hosts_of_ranks.back() != world.host) continue;
    std::vector<int>& mask = masks.emplace_back();
    for (const char* at = text.c_str() + bar + 1; *at != '\0';) {
      char* end = nullptr;
      mask.push_back(static_cast<int>(std::strtol(at, &end, 10)));
      at = *end == ',' ? end + 1 : end;
    }
  }
  world.cores = static_cast<int>(mine.size());
  world.sharers = ranks_sharing(masks, mine);
  limit.reset();
  if (world.size > 1) {
    const auto place = [&world](int other) {
      return other == world.rank
                 ? ""
                 : fmt::format("rank {} on {}", other, world.hosts_of_ranks[static_cast<size_t>(other)]);
    };
    world.comm_thread->watch({.comm = world.roll_call,
                              .place = place,
                              .where = [&world] { return world.where.now(); },
                              .last_step = [&world] { return world.where.last_step(); },
                              .on_asked = [&world] { world.write_flight("another rank asked who is there"); }});
  }
  set_threads(options.threads);
  set_deadline(options.deadline_s);
  world.chose_deadline = options.deadline_s != Options().deadline_s;
  try {
    choose_device(options.device, options.interface);
  } catch (const AgreedError&) {
    // All ranks know of it, so all can end in order; there will be no destructor.
    world.watchdog.reset();
    world.comm_thread.reset();
    MPI_Finalize();
    throw;
  } catch (...) {
    world.comm_thread->announce_leaving();
    world.watchdog.reset();
    world.comm_thread.reset();  // its thread reads what would be destroyed before it
    throw;
  }
}

World::~World() {
  Impl& world = *impl_;
  int finalized = 0;
  MPI_Finalized(&finalized);
  const bool unwinding = std::uncaught_exceptions() > world.exceptions_at_start;
  // A message that the other side never answers would keep this rank from the end in which all meet.
  const bool forgot_message = finalized == 0 && !unwinding && !world.comm_thread->failed() &&
                              !world.comm_thread->wait_for_messages(std::chrono::seconds(5));
  if (forgot_message) {
    print_warning(fmt::format("at the end of the job a {} is under way, and no rank completes it: the job cannot end "
                              "in order",
                              world.comm_thread->under_way().at(0)),
                  "wait() for every message before the World ends");
  }
  const bool failed = forgot_message || world.comm_thread->failed();
  // MPI_Finalize waits for every rank. With an exception on its way the others may never come: leave without, and
  // the launcher, which sees a process end that did not finalize, ends the job. Until then they are told.
  if (finalized == 0 && (unwinding || failed)) world.comm_thread->announce_leaving();
  world.where.enter(nullptr, 0);
  world.watchdog.reset();
  const bool in_order = finalized == 0 && !unwinding && !failed;
  if (in_order) world.end_together(*this);
  if (in_order && world.before_end) world.before_end();
  // The process's end is that of a group that is not in order: NCCL's part would wait for GPUs that may stand still,
  // and operations under way use MPI's part.
  if (!in_order) new std::shared_ptr<void>(world.process_group);
  world.process_group.reset();
  const double deadline_s = world.comm_thread->deadline_s();
  world.comm_thread.reset();
  if (!in_order) return;
  const TimeLimit limit(deadline_s, [&] {
    // Ranks that wait for one and the same: the lowest speaks, and the launcher, which sees a process end that did not
    // finalize, ends the others. MPI itself is past aborting.
    std::this_thread::sleep_for(std::chrono::milliseconds(100) * std::min(world.rank, 20));
    print_error(Error(ExitCode::rank_lost, fmt::format("MPI did not end within {:g} s", deadline_s),
                      "a rank stands still or was lost after its last step; the run's files are complete if it says so "
                      "above"),
                place_of(*this));
    _exit(static_cast<int>(ExitCode::rank_lost));
  });
  MPI_Comm_free(&world.roll_call);
  MPI_Comm_free(&world.messages);
  MPI_Comm_free(&world.comm);
  MPI_Finalize();
}

void World::Impl::end_together(World& owner) noexcept try {
  std::vector<std::string> forgotten;
  for (std::string& text : comm_thread->under_way()) {
    if (!text.starts_with(kStopConsensus)) forgotten.push_back(std::move(text));
  }
  comm_thread->wait_all();
  comm_thread->throw_failure();
  if (!forgotten.empty() && rank == 0) {
    print_warning(fmt::format("at the end of the job nobody had waited for {}{}: this rank did", forgotten[0],
                              forgotten.size() > 1 ? fmt::format(" and {} more", forgotten.size() - 1) : ""),
                  "call wait() on what a collective returns: until then its tensors are not to be used");
  }
  if (size > 1) run(Call::of(kEndOfJob), nullptr, where.last_step());
} catch (const std::exception& exception) {
  const Error error = plain_error(exception);
  // Ranks that are in calls which throw speak first, and their end is that of the job.
  std::this_thread::sleep_for(std::chrono::seconds(3) + std::chrono::milliseconds(100) * std::min(rank, 20));
  print_error(error, place_of(owner));
  write_flight(error.what());
  _exit(static_cast<int>(error.code()));
}

int World::rank() const { return impl_->rank; }
int World::size() const { return impl_->size; }
int World::local_rank() const { return impl_->local_rank; }
int World::local_size() const { return impl_->local_size; }
int World::hosts() const { return impl_->hosts; }
const std::string& World::host() const { return impl_->host; }
int World::cores() const { return impl_->cores; }
int World::threads() const { return impl_->threads; }

void World::set_threads(int threads) {
  impl_->threads = threads > 0 ? threads : default_threads(impl_->cores, impl_->sharers);
  at::set_num_threads(impl_->threads);
  impl_->comm_thread->set_spare_core(impl_->spare_core());
}

c10::Device World::device() const { return impl_->device; }

std::string World::device_text() const {
  return impl_->device.is_cuda() ? fmt::format("{} ({})", impl_->device.str(), impl_->gpu.name) : impl_->device.str();
}

void World::choose_device(DeviceWish wish, const std::string& interface) {
  give_gpus(*this, wish, wish == DeviceWish::cpu ? VisibleGpus{} : look_for_gpus());
  impl_->interface = interface;
  if (!impl_->device.is_cuda()) return;
  together([&] {  // a GPU in exclusive use, or a broken one, is found out by the first memory taken of it
    try {
      c10::impl::VirtualGuardImpl(c10::kCUDA).setDevice(impl_->device);
      at::empty({1}, at::TensorOptions(impl_->device));
    } catch (const c10::Error& error) {
      throw Error(
          ExitCode::launch,
          fmt::format("{} on {} cannot be used: {}", device_text(), impl_->host, error.what_without_backtrace()),
          "see nvidia-smi: other processes, compute mode, errors; or use --device cpu");
    }
  });
}

void give_gpus(World& world, DeviceWish wish, const VisibleGpus& mine) {
  World::Impl& impl = world.impl();
  if (impl.process_group) throw std::logic_error("choose_device after process_group");
  impl.device = c10::kCPU;
  if (wish == DeviceWish::cpu) return;
  std::vector<RankGpus> ranks;
  for (const std::string& text : world.all_gather(
           to_text({.host = impl.host, .local_rank = impl.local_rank, .local_size = impl.local_size, .sees = mine}))) {
    ranks.push_back(rank_gpus_from_text(text));
  }
  const int index = choose_gpus(wish, ranks)[static_cast<size_t>(impl.rank)];
  if (index < 0) return;
  impl.gpu = mine.gpus[static_cast<size_t>(index)];
  impl.device = c10::Device(c10::kCUDA, static_cast<c10::DeviceIndex>(index));
}

void World::set_deadline(double seconds) {
  impl_->chose_deadline = true;
  impl_->comm_thread->set_deadline(seconds);
  if (seconds > 0 && !impl_->watchdog) impl_->watchdog = std::make_unique<Watchdog>(*this);
}

void World::doing(const char* what, int64_t step) { impl_->where.enter(what, step); }

void World::still_doing() {
  const Whereabouts::Now now = impl_->where.now();
  impl_->where.enter(now.doing, now.step);
}

void World::set_flight_folder(const std::string& folder) {
  const std::lock_guard lock(impl_->flight_mutex);
  impl_->flight_folder = folder;
}

void World::Impl::write_flight(const std::string& reason) noexcept {
  const std::lock_guard lock(flight_mutex);  // threads that fail together write one after the other
  if (flight_folder.empty()) return;
  try {
    const std::string text =
        comm_thread->flight_json({.rank = rank, .size = size, .host = host, .reason = reason, .where = where.now()});
    std::ofstream(fmt::format("{}/flight-rank-{}.json", flight_folder, rank)) << text;
  } catch (...) {  // the failure itself is told elsewhere
  }
}

double World::comm_wait_s() const { return impl_->comm_thread->waited_s(); }

void observe_communication(World& world, CommunicationObserver observer) {
  world.impl().comm_thread->observe(std::move(observer));
}

std::string meeting_place(World& world) { return world.impl().meeting; }

void World::abort(int code, double grace_s) noexcept {
  // MPI_Abort is best effort: with a network down it may never come back.
  std::thread([code, grace_s] {
    std::this_thread::sleep_for(std::chrono::duration<double>(grace_s));
    _exit(code);
  }).detach();
  MPI_Abort(impl_->comm, code);
  _exit(code);
}

}  // namespace lockstep
