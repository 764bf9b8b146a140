#include "lockstep/world.h"

#include <ATen/Parallel.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <numeric>
#include <set>
#include <thread>

#include "world/affinity.h"
#include "world/launcher.h"
#include "world/world_impl.h"

namespace lockstep {
namespace {

std::string host_name() {
  char name[256] = {};
  return gethostname(name, sizeof name - 1) == 0 ? name : "unknown";
}

void start_mpi() {
  if (std::getenv("OMPI_COMM_WORLD_SIZE") == nullptr && std::getenv("PMIX_RANK") == nullptr) {
    // Alone: without this, Open MPI 4 starts a daemon beside the process, for MPI_Comm_spawn, which costs start-up
    // time.
    setenv("OMPI_MCA_ess_singleton_isolated", "1", /*overwrite=*/0);
    // And it makes session folders beside those of other jobs, which may remove the common parent at that moment. One
    // rank needs none.
    setenv("OMPI_MCA_orte_create_session_dirs", "0", /*overwrite=*/0);
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
  impl_->exceptions_at_start = std::uncaught_exceptions();
  start_mpi();
  Impl& world = *impl_;
  check_mpi(MPI_Comm_dup(MPI_COMM_WORLD, &world.comm), "MPI_Comm_dup");
  MPI_Comm_set_errhandler(world.comm, MPI_ERRORS_RETURN);
  MPI_Comm_rank(world.comm, &world.rank);
  MPI_Comm_size(world.comm, &world.size);
  world.host = host_name();

  if (const int tasks = unseen_tasks(world.size); tasks > 0) {
    MPI_Finalize();
    throw AgreedError(Error(ExitCode::launch, fmt::format("srun started {} tasks, but MPI sees only this one", tasks),
                            "start them with `srun --mpi=pmix`, or use mpirun"),
                      launcher_rank());
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
  const auto texts = all_gather(fmt::format("{}|{}", world.host, fmt::join(mine, ",")));
  std::vector<std::vector<int>> masks;
  for (const std::string& text : texts) {
    const size_t bar = text.rfind('|');
    if (text.substr(0, bar) != world.host) continue;
    std::vector<int>& mask = masks.emplace_back();
    for (const char* at = text.c_str() + bar + 1; *at != '\0';) {
      char* end = nullptr;
      mask.push_back(static_cast<int>(std::strtol(at, &end, 10)));
      at = *end == ',' ? end + 1 : end;
    }
  }
  world.cores = static_cast<int>(mine.size());
  world.sharers = ranks_sharing(masks, mine);
  set_threads(options.threads);
}

World::~World() {
  Impl& world = *impl_;
  world.process_group.reset();
  int finalized = 0;
  MPI_Finalized(&finalized);
  // MPI_Finalize waits for every rank. With an exception on its way the others may never come: leave without, and
  // the launcher, which sees a process end that did not finalize, ends the job.
  if (finalized != 0 || std::uncaught_exceptions() > world.exceptions_at_start) return;
  MPI_Comm_free(&world.comm);
  MPI_Finalize();
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
}

void World::barrier() { check_mpi(MPI_Barrier(impl_->comm), "MPI_Barrier"); }

std::vector<std::string> World::all_gather(const std::string& text) {
  const auto ranks = static_cast<size_t>(impl_->size);
  const int length = static_cast<int>(text.size());
  std::vector<int> lengths(ranks);
  std::vector<int> offsets(ranks);
  check_mpi(MPI_Allgather(&length, 1, MPI_INT, lengths.data(), 1, MPI_INT, impl_->comm), "MPI_Allgather");
  std::exclusive_scan(lengths.begin(), lengths.end(), offsets.begin(), 0);
  std::string all(static_cast<size_t>(offsets.back() + lengths.back()), '\0');
  check_mpi(
      MPI_Allgatherv(text.data(), length, MPI_BYTE, all.data(), lengths.data(), offsets.data(), MPI_BYTE, impl_->comm),
      "MPI_Allgatherv");
  std::vector<std::string> texts(ranks);
  for (size_t i = 0; i < ranks; ++i) {
    texts[i] = all.substr(static_cast<size_t>(offsets[i]), static_cast<size_t>(lengths[i]));
  }
  return texts;
}

void World::broadcast(void* data, std::size_t bytes, int root) {
  constexpr std::size_t kMost = std::numeric_limits<int>::max() / 2;
  for (std::size_t done = 0; done < bytes; done += kMost) {
    check_mpi(MPI_Bcast(static_cast<char*>(data) + done, static_cast<int>(std::min(kMost, bytes - done)), MPI_BYTE,
                        root, impl_->comm),
              "MPI_Bcast");
  }
}

void World::sum(std::span<double> values) {
  check_mpi(
      MPI_Allreduce(MPI_IN_PLACE, values.data(), static_cast<int>(values.size()), MPI_DOUBLE, MPI_SUM, impl_->comm),
      "MPI_Allreduce");
}

void World::sum(std::span<int64_t> values) {
  check_mpi(
      MPI_Allreduce(MPI_IN_PLACE, values.data(), static_cast<int>(values.size()), MPI_INT64_T, MPI_SUM, impl_->comm),
      "MPI_Allreduce");
}

void World::together(const std::function<void()>& work) {
  std::string verdict;  // empty: done; else code, message and hint, each ended by a zero byte
  try {
    work();
  } catch (const Error& error) {
    verdict = fmt::format("{}{}{}{}{}{}", static_cast<int>(error.code()), '\0', error.what(), '\0', error.hint(), '\0');
  } catch (const std::exception& error) {
    verdict = fmt::format("{}{}{}{}{}", static_cast<int>(ExitCode::internal), '\0', error.what(), '\0', '\0');
  }
  const auto verdicts = all_gather(verdict);
  for (int rank = 0; rank < size(); ++rank) {
    const std::string& text = verdicts[static_cast<size_t>(rank)];
    if (text.empty()) continue;
    const size_t message = text.find('\0') + 1;
    const size_t hint = text.find('\0', message) + 1;
    throw AgreedError(
        Error(static_cast<ExitCode>(std::atoi(text.c_str())), text.c_str() + message, text.c_str() + hint), rank);
  }
}

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
