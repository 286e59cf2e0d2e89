# The PTX interpreter, module `_ptxsim`. It knows nothing of the rest and needs neither CUDA nor torch.
set(MIMO_PTXSIM "AUTO" CACHE STRING "the PTX interpreter: AUTO (where nvcc was found), ON or OFF")
string(TOUPPER "${MIMO_PTXSIM}" mode)
if(mode STREQUAL "AUTO" AND MN_NVCC)
  set(mode ON)
endif()
if(NOT mode STREQUAL "ON")
  set(MN_PTXSIM_TEXT "not built: MIMO_PTXSIM=${MIMO_PTXSIM}")
  return()
endif()

set(folder csrc/ptxsim)
set(PTXSIM_LANE_SOURCES
  ${folder}/lane_compare.cpp
  ${folder}/lane_convert.cpp
  ${folder}/lane_float.cpp
  ${folder}/lane_handlers.cpp
  ${folder}/lane_integer.cpp
  ${folder}/lane_matrix.cpp
)
set(PTXSIM_SOURCES
  ${folder}/access.cpp
  ${folder}/async.cpp
  ${folder}/clock.cpp
  ${folder}/decoder.cpp
  ${folder}/launch.cpp
  ${folder}/levels.cpp
  ${folder}/lexer.cpp
  ${folder}/loaded_module.cpp
  ${folder}/memory.cpp
  ${folder}/metrics.cpp
  ${folder}/op_address.cpp
  ${folder}/op_arithmetic.cpp
  ${folder}/op_atomic.cpp
  ${folder}/op_control.cpp
  ${folder}/op_bulk.cpp
  ${folder}/op_cluster.cpp
  ${folder}/op_copy.cpp
  ${folder}/op_matrix.cpp
  ${folder}/op_mbarrier.cpp
  ${folder}/op_memory.cpp
  ${folder}/op_move.cpp
  ${folder}/op_tensor.cpp
  ${folder}/op_warp.cpp
  ${folder}/op_wgmma.cpp
  ${folder}/opcodes.cpp
  ${folder}/parse.cpp
  ${folder}/parse_function.cpp
  ${folder}/schedule.cpp
  ${folder}/schedule_warp.cpp
  ${folder}/shadow.cpp
  ${folder}/shared_memory.cpp
  ${folder}/special.cpp
  ${folder}/synchronise.cpp
  ${folder}/synchronise_memory.cpp
  ${folder}/token_stream.cpp
)
# Registers are read as whatever type an instruction names.
set(PTXSIM_FLAGS -O3 -fno-math-errno -fno-trapping-math -fno-strict-aliasing -ffp-contract=off -Wall -Wextra -Werror -Wno-psabi)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  list(APPEND PTXSIM_FLAGS -Wno-restrict)  # a false positive of GCC 12 on string concatenation (its bug 105651)
endif()
set(PTXSIM_LEVELS portable)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  list(APPEND PTXSIM_LEVELS avx512)
  list(APPEND PTXSIM_FLAGS -march=x86-64-v2 -DPTXSIM_HAVE_X86)
endif()
set(PTXSIM_FLAGS_portable "")
set(PTXSIM_FLAGS_avx512 -mavx2 -mfma -mavx512f -mavx512bw -mavx512vl -mavx512dq -mprefer-vector-width=512)

find_package(Threads REQUIRED)
# The interpreter and, where the toolkit's headers are, a CUDA runtime on top of it: host code that nvcc compiled links
# against this library instead of libcudart. Its symbols carry a version, so that a real runtime in the same process
# and this one are not taken for each other.
add_library(ptxsim SHARED ${PTXSIM_SOURCES})
set_target_properties(ptxsim PROPERTIES CXX_VISIBILITY_PRESET default VISIBILITY_INLINES_HIDDEN OFF
  SUFFIX .so.1)  # not .so, which Python would take for a module
target_include_directories(ptxsim PRIVATE csrc)
target_compile_options(ptxsim PRIVATE ${PTXSIM_FLAGS})
target_link_libraries(ptxsim PRIVATE Threads::Threads)
target_link_options(ptxsim PRIVATE -Wl,--version-script=${CMAKE_CURRENT_SOURCE_DIR}/${folder}/exports.map)
foreach(level IN LISTS PTXSIM_LEVELS)
  add_library(ptxsim_${level} OBJECT ${PTXSIM_LANE_SOURCES})
  target_include_directories(ptxsim_${level} PRIVATE csrc)
  target_compile_definitions(ptxsim_${level} PRIVATE PTXSIM_LEVEL=${level})
  target_compile_options(ptxsim_${level} PRIVATE ${PTXSIM_FLAGS} ${PTXSIM_FLAGS_${level}} -fno-exceptions
                                                 -Wno-unused-function)
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    target_compile_options(ptxsim_${level} PRIVATE -Wno-uninitialized -Wno-maybe-uninitialized)
  endif()
  target_link_libraries(ptxsim PRIVATE ptxsim_${level})
endforeach()

pybind11_add_module(_ptxsim MODULE NO_EXTRAS ${folder}/bind.cpp)
target_include_directories(_ptxsim PRIVATE csrc)
target_compile_options(_ptxsim PRIVATE ${PTXSIM_FLAGS})
target_link_libraries(_ptxsim PRIVATE ptxsim)
set_target_properties(_ptxsim PROPERTIES INSTALL_RPATH "$ORIGIN")
install(TARGETS ptxsim _ptxsim LIBRARY DESTINATION mimo_native COMPONENT python)
string(REPLACE ";" " " MN_PTXSIM_TEXT "lane handlers ${PTXSIM_LEVELS}")
if(NOT MN_NVCC)
  return()
endif()

target_sources(ptxsim PRIVATE
  ${folder}/cudart/driver.cpp
  ${folder}/cudart/fat_binary.cpp
  ${folder}/cudart/gpu.cpp
  ${folder}/cudart/launch.cpp
  ${folder}/cudart/runtime.cpp
)
target_include_directories(ptxsim SYSTEM PRIVATE ${CMAKE_CUDA_TOOLKIT_INCLUDE_DIRECTORIES})
target_sources(_ptxsim PRIVATE ${folder}/cudart/bind.cpp)
target_compile_definitions(_ptxsim PRIVATE PTXSIM_CUDART)

# The CUDA module once more, from the same objects and bindings, on the simulated runtime.
pybind11_add_module(_cuda_sim MODULE NO_EXTRAS ${MN_CUDA_BINDINGS} csrc/runtime/cuda/device.cu)
target_include_directories(_cuda_sim PRIVATE csrc)
target_compile_definitions(_cuda_sim PRIVATE MN_CUDART="simulated" MN_SIMULATED_GPU ${MN_CUTLASS_DEFINITIONS})
target_compile_options(_cuda_sim PRIVATE $<$<COMPILE_LANGUAGE:CXX>:${MN_CXX_FLAGS}>)
target_include_directories(_cuda_sim SYSTEM PRIVATE ${CMAKE_CUDA_TOOLKIT_INCLUDE_DIRECTORIES})
target_link_libraries(_cuda_sim PRIVATE mn_runtime ${MN_CUDA_OBJECTS} ptxsim)
set_target_properties(_cuda_sim PROPERTIES CUDA_RUNTIME_LIBRARY None LINKER_LANGUAGE CXX INSTALL_RPATH "$ORIGIN")
target_link_options(_cuda_sim PRIVATE -Wl,--exclude-libs,ALL)
install(TARGETS _cuda_sim LIBRARY DESTINATION mimo_native COMPONENT python)
string(APPEND MN_PTXSIM_TEXT ", simulated CUDA runtime")
