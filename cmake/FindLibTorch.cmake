# Finds LibTorch as lean IMPORTED targets: headers and the few libraries that a program names itself, from a pip wheel or an
# unpacked LibTorch. (The wheel's own TorchConfig wants a CUDA toolkit and a GPU to look at, even for a program on the CPU.)
#
#   LOCKSTEP_LIBTORCH    the folder that holds include/ and lib/; by default the wheel that launch/setup put in .deps/venv
#
# Gives LibTorch::torch_cpu, LibTorch_VERSION and LibTorch_DIR_FOUND. A CUDA flavour would add LibTorch::torch_cuda here.

set(LOCKSTEP_LIBTORCH "" CACHE PATH "Folder of LibTorch (with include/ and lib/), or of the pip package torch")

set(_roots "${LOCKSTEP_LIBTORCH}")
if(NOT LOCKSTEP_LIBTORCH)
  file(GLOB _roots "${CMAKE_CURRENT_LIST_DIR}/../.deps/venv/lib/python3*/site-packages/torch")
endif()

find_path(LibTorch_INCLUDE_DIR NAMES torch/csrc/api/include/torch/all.h PATHS ${_roots} PATH_SUFFIXES include NO_DEFAULT_PATH)
find_library(LibTorch_CPU_LIBRARY NAMES torch_cpu PATHS ${_roots} PATH_SUFFIXES lib NO_DEFAULT_PATH)
find_library(LibTorch_C10_LIBRARY NAMES c10 PATHS ${_roots} PATH_SUFFIXES lib NO_DEFAULT_PATH)

if(LibTorch_INCLUDE_DIR AND EXISTS "${LibTorch_INCLUDE_DIR}/torch/headeronly/version.h")
  file(STRINGS "${LibTorch_INCLUDE_DIR}/torch/headeronly/version.h" _line REGEX "#define TORCH_VERSION ")
elseif(LibTorch_INCLUDE_DIR AND EXISTS "${LibTorch_INCLUDE_DIR}/torch/csrc/api/include/torch/version.h")
  file(STRINGS "${LibTorch_INCLUDE_DIR}/torch/csrc/api/include/torch/version.h" _line REGEX "#define TORCH_VERSION ")
endif()
string(REGEX MATCH "[0-9]+\\.[0-9]+\\.[0-9]+" LibTorch_VERSION "${_line}")

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
