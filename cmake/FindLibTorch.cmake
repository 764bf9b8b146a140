# Finds LibTorch as lean IMPORTED targets: headers and the few libraries that a program names itself, from a pip wheel or an
# unpacked LibTorch. (The wheel's own TorchConfig wants a CUDA toolkit and a GPU to look at, even for a program on the CPU.)
#
#   LOCKSTEP_LIBTORCH    the folder that holds include/ and lib/; by default the wheel that launch/setup put in .deps/venv
#
# Gives LibTorch::torch_cpu and LibTorch_VERSION. Where CUDA's part of LibTorch is there with the libraries and headers that
# it needs (launch/setup --cuda), also LibTorch::torch_cuda and LibTorch_CUDA_FOUND; else LibTorch_CUDA_MISSING names what is not.

set(LOCKSTEP_LIBTORCH "" CACHE PATH "Folder of LibTorch (with include/ and lib/), or of the pip package torch")

set(_roots "${LOCKSTEP_LIBTORCH}")
if(NOT LOCKSTEP_LIBTORCH)
  file(GLOB _roots "${CMAKE_CURRENT_LIST_DIR}/../.deps/venv/lib/python3*/site-packages/torch")
endif()

find_path(LibTorch_INCLUDE_DIR NAMES torch/csrc/api/include/torch/all.h PATHS ${_roots} PATH_SUFFIXES include NO_DEFAULT_PATH)
find_library(LibTorch_CPU_LIBRARY NAMES torch_cpu PATHS ${_roots} PATH_SUFFIXES lib NO_DEFAULT_PATH)
find_library(LibTorch_C10_LIBRARY NAMES c10 PATHS ${_roots} PATH_SUFFIXES lib NO_DEFAULT_PATH)

set(LibTorch_VERSION "")
foreach(_header IN ITEMS torch/headeronly/version.h torch/csrc/api/include/torch/version.h)
  if(LibTorch_INCLUDE_DIR AND NOT LibTorch_VERSION AND EXISTS "${LibTorch_INCLUDE_DIR}/${_header}")
    foreach(_part IN ITEMS MAJOR MINOR PATCH)
      file(STRINGS "${LibTorch_INCLUDE_DIR}/${_header}" _line REGEX "#define TORCH_VERSION_${_part} ")
      string(REGEX MATCH "[0-9]+$" _number "${_line}")
      list(APPEND LibTorch_VERSION "${_number}")
    endforeach()
    list(JOIN LibTorch_VERSION "." LibTorch_VERSION)
  endif()
endforeach()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(LibTorch
  REQUIRED_VARS LibTorch_CPU_LIBRARY LibTorch_C10_LIBRARY LibTorch_INCLUDE_DIR
  VERSION_VAR LibTorch_VERSION
  REASON_FAILURE_MESSAGE "hint: run launch/setup, or give -DLOCKSTEP_LIBTORCH=DIR")

if(LibTorch_FOUND AND NOT TARGET LibTorch::torch_cpu)
  get_filename_component(LibTorch_LIB_DIR "${LibTorch_CPU_LIBRARY}" DIRECTORY)
  add_library(LibTorch::c10 SHARED IMPORTED)
  set_target_properties(LibTorch::c10 PROPERTIES IMPORTED_LOCATION "${LibTorch_C10_LIBRARY}")
  add_library(LibTorch::torch_cpu SHARED IMPORTED)
  # -idirafter: the wheel also carries fmt and others, which must not shadow the system's.
  set_target_properties(LibTorch::torch_cpu PROPERTIES
    IMPORTED_LOCATION "${LibTorch_CPU_LIBRARY}"
    INTERFACE_LINK_LIBRARIES LibTorch::c10
    # libtorch_cpu names libraries that it finds by its own RPATH
    INTERFACE_LINK_OPTIONS "LINKER:--allow-shlib-undefined"
    INTERFACE_COMPILE_DEFINITIONS "USE_DISTRIBUTED;USE_C10D"
    INTERFACE_COMPILE_OPTIONS
      "SHELL:-idirafter \"${LibTorch_INCLUDE_DIR}\";SHELL:-idirafter \"${LibTorch_INCLUDE_DIR}/torch/csrc/api/include\"")
endif()
mark_as_advanced(LibTorch_INCLUDE_DIR LibTorch_CPU_LIBRARY LibTorch_C10_LIBRARY)

# CUDA's runtime and NCCL are the wheel's own, by their full paths: a toolkit on this machine may be older, and the first library of
# that name to be loaded serves all.
set(LibTorch_CUDA_FOUND FALSE)
set(LibTorch_CUDA_MISSING "")
if(LibTorch_FOUND)
  get_filename_component(_packages "${LibTorch_INCLUDE_DIR}/../.." ABSOLUTE)
  get_filename_component(_lib "${LibTorch_CPU_LIBRARY}" DIRECTORY)
  foreach(_file IN ITEMS "${_lib}/libtorch_cuda.so" "${_lib}/libc10_cuda.so"
      "${_packages}/nvidia/nccl/lib/libnccl.so.2" "${_packages}/nvidia/nccl/include/nccl.h"
      "${_packages}/nvidia/cu13/lib/libcudart.so.13" "${_packages}/nvidia/cu13/include/cuda_runtime_api.h"
      "${_packages}/nvidia/cu13/include/crt/host_defines.h" "${_packages}/nvidia/cu13/include/nv/target" "${_packages}/nvidia/cu13/include/cublas_v2.h"
      "${_packages}/nvidia/cu13/include/cusparse.h" "${_packages}/nvidia/cu13/include/cusolverDn.h"
      "${_packages}/nvidia/cudnn/lib/libcudnn.so.9" "${_packages}/nvidia/nvshmem/lib/libnvshmem_host.so.3")
    if(NOT EXISTS "${_file}")
      list(APPEND LibTorch_CUDA_MISSING "${_file}")
    endif()
  endforeach()
  if(NOT LibTorch_CUDA_MISSING)
    set(LibTorch_CUDA_FOUND TRUE)
  endif()
endif()

if(LibTorch_CUDA_FOUND AND NOT TARGET LibTorch::torch_cuda)
  foreach(_pair IN ITEMS "c10_cuda|${_lib}/libc10_cuda.so" "torch_cuda_library|${_lib}/libtorch_cuda.so"
      "nccl|${_packages}/nvidia/nccl/lib/libnccl.so.2" "cudart|${_packages}/nvidia/cu13/lib/libcudart.so.13")
    string(REGEX MATCH "^([^|]+)\\|(.+)$" _ "${_pair}")
    add_library(LibTorch::${CMAKE_MATCH_1} SHARED IMPORTED)
    set_target_properties(LibTorch::${CMAKE_MATCH_1} PROPERTIES IMPORTED_LOCATION "${CMAKE_MATCH_2}")
  endforeach()
  add_library(LibTorch::torch_cuda INTERFACE IMPORTED)
  # libtorch_cuda registers its kernels when it is loaded: it must be linked though no symbol of it may be asked for.
  target_link_libraries(LibTorch::torch_cuda INTERFACE LibTorch::torch_cpu LibTorch::c10_cuda
    "-Wl,--push-state,--no-as-needed" LibTorch::torch_cuda_library LibTorch::nccl LibTorch::cudart "-Wl,--pop-state")
  target_compile_definitions(LibTorch::torch_cuda INTERFACE USE_C10D_NCCL USE_CUDA)
  target_compile_options(LibTorch::torch_cuda INTERFACE
    "SHELL:-isystem \"${_packages}/nvidia/cu13/include\"" "SHELL:-isystem \"${_packages}/nvidia/nccl/include\"")
endif()
