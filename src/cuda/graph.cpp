#include "cuda/graph.h"

#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>

#include <vector>

namespace lockstep {
namespace {

class Graph final : public RecordedWork {
 public:
  ~Graph() override {
    for (cudaEvent_t mark : marks_) cudaEventDestroy(mark);
  }

  void record(const std::function<void(RecordedWork&)>& work) {
    // Only this thread's calls are held to what can be recorded: NCCL's watchdog goes on asking for events meanwhile.
    graph_.capture_begin({0, 0}, cudaStreamCaptureModeThreadLocal);
    try {
      work(*this);
    } catch (...) {
      try {
        graph_.capture_end();
      } catch (const c10::Error&) {
        // A recording that broke off; what broke it is told.
      }
      cudaGetLastError();
      throw;
    }
    graph_.capture_end();
  }

  void mark() override {
    cudaEvent_t event = nullptr;
    C10_CUDA_CHECK(cudaEventCreate(&event));
    marks_.push_back(event);
    // External: a place in the graph, whose time each replay notes, and no order between recorded works.
    C10_CUDA_CHECK(cudaEventRecordWithFlags(event, c10::cuda::getCurrentCUDAStream(), cudaEventRecordExternal));
  }

  void replay() override { graph_.replay(); }

  double ms_after_mark(size_t i) const override {
    float ms = 0;
    C10_CUDA_CHECK(cudaEventElapsedTime(&ms, marks_.at(i), marks_.at(i + 1)));
    return ms;
  }

 private:
  at::cuda::CUDAGraph graph_;
  std::vector<cudaEvent_t> marks_;
};

}  // namespace

std::unique_ptr<RecordedWork> record_graph(const std::function<void(RecordedWork&)>& work) {
  auto graph = std::make_unique<Graph>();
  graph->record(work);
  return graph;
}

}  // namespace lockstep
