# CUDA is optional: module `_cuda`, and MN_CUDA_TEXT says in one line what was built, or why not.
set(MIMO_CUDART "static" CACHE STRING "static: needs no CUDA at run time but the driver; shared: libcudart.so of the machine")
set(MN_CUDA_ARCHS_TEXT "")
include(cmake/find_nvcc.cmake)
if(NOT MN_NVCC)
  return()
endif()

# Kernels for sm_80 and later; a family adds its own.
set(MN_CUDA_SOURCES
  csrc/attention/commit_sm80.cu
  csrc/attention/forward_f32_sm80.cu
  csrc/attention/forward_sm80.cu
  csrc/attention/merge_sm80.cu
  csrc/experts/combine_sm80.cu
  csrc/experts/sort_sm80.cu
  csrc/gemm/gemm_bf16_sm80.cu
  csrc/gemm/gemm_f32_sm80.cu
  csrc/gemm/row_tiles_sm80.cu
  csrc/routing/route_sm80.cu
  csrc/norm_rope/rms_norm_sm80.cu
  csrc/norm_rope/rope_sm80.cu
  csrc/sampling/sample_sm80.cu
  csrc/speculative/tree_sm80.cu
)
set(MN_CUDA_BINDINGS
  csrc/runtime/cuda/module.cpp
  csrc/attention/plan_sm80.cpp
  csrc/attention/bind_cuda.cpp
  csrc/experts/bind_cuda.cpp
  csrc/gemm/arguments_cuda.cpp
  csrc/gemm/plan_sm80.cpp
  csrc/gemm/bind_cuda.cpp
  csrc/routing/bind_cuda.cpp
  csrc/norm_rope/plan_sm80.cpp
  csrc/norm_rope/bind_cuda.cpp
  csrc/sampling/bind_cuda.cpp
  csrc/speculative/bind_cuda.cpp
)

set(CMAKE_CUDA_COMPILER ${MN_NVCC})
set(CMAKE_CUDA_HOST_COMPILER ${CMAKE_CXX_COMPILER})
set(CMAKE_CUDA_ARCHITECTURES ${MIMO_CUDA_ARCHS})
string(JOIN " " CMAKE_CUDA_FLAGS ${MN_NVCC_FLAGS} ${CMAKE_CUDA_FLAGS})
string(TOLOWER "${MIMO_CUDART}" cudart)
if(cudart STREQUAL "static")
  set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
elseif(cudart STREQUAL "shared")
  set(CMAKE_CUDA_RUNTIME_LIBRARY Shared)
else()
  message(FATAL_ERROR "MIMO_CUDART=${MIMO_CUDART}: expected static or shared")
endif()
enable_language(CUDA)
if(NOT DEFINED CMAKE_CUDA20_STANDARD_COMPILE_OPTION)  # CMake 3.25 does not know that nvcc has it
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
  set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION -std=c++20)
endif()
set(CMAKE_CUDA_STANDARD 20)
set(CMAKE_CUDA_VISIBILITY_PRESET hidden)

# One object library per set of architectures: an architecture with a suffix such as 90a has no forward compatibility
# and must not be forced on the portable kernels.
add_library(mn_cuda_sm80 OBJECT ${MN_CUDA_SOURCES})
set_target_properties(mn_cuda_sm80 PROPERTIES CUDA_ARCHITECTURES "${MIMO_CUDA_ARCHS}")
target_include_directories(mn_cuda_sm80 PRIVATE csrc)
# The PTX stays plain text, so that the interpreter of csrc/ptxsim runs the very code that ships.
target_compile_options(mn_cuda_sm80 PRIVATE -O3 -lineinfo --no-compress -Werror all-warnings -Xcompiler=-Wall,-Wextra,-Werror)

include(cmake/cutlass.cmake)

# The .cu file of its own makes CMake link the CUDA runtime.
pybind11_add_module(_cuda MODULE NO_EXTRAS ${MN_CUDA_BINDINGS} csrc/runtime/cuda/device.cu)
target_include_directories(_cuda PRIVATE csrc)
target_compile_definitions(_cuda PRIVATE MN_CUDART="${cudart}")
target_compile_options(_cuda PRIVATE $<$<COMPILE_LANGUAGE:CXX>:${MN_CXX_FLAGS}>)
# CMake leaves the toolkit's headers to nvcc; the bindings are plain C++ and include cuda_runtime_api.h.
target_include_directories(_cuda SYSTEM PRIVATE ${CMAKE_CUDA_TOOLKIT_INCLUDE_DIRECTORIES})
set(MN_CUDA_OBJECTS mn_cuda_sm80 ${MN_CUTLASS_OBJECTS})
target_compile_definitions(_cuda PRIVATE ${MN_CUTLASS_DEFINITIONS})
target_link_libraries(_cuda PRIVATE mn_runtime ${MN_CUDA_OBJECTS})
target_link_options(_cuda PRIVATE -Wl,--exclude-libs,ALL)
if(cudart STREQUAL "shared")
  # Where pip puts nvidia-cuda-runtime (CUDA 13, 12), beside this package.
  set_target_properties(_cuda PROPERTIES
    INSTALL_RPATH "$ORIGIN/../nvidia/cu13/lib:$ORIGIN/../nvidia/cuda_runtime/lib")
endif()
install(TARGETS _cuda LIBRARY DESTINATION mimo_native COMPONENT python)

string(REPLACE ";" " " MN_CUDA_ARCHS_TEXT "${MIMO_CUDA_ARCHS}")
string(APPEND MN_CUDA_TEXT ", ${cudart} CUDA runtime, ${MN_CUDA_ARCHS_TEXT}, ${MN_CUTLASS_TEXT}")
