# Finds an nvcc that really works: MN_NVCC (empty: none), MN_NVCC_VERSION, MN_NVCC_FLAGS, and MN_CUDA_TEXT saying in
# one line what was found or why nothing was.
#
# find_package(CUDAToolkit) is not used: it fails on the layout of the PyPI toolkit, which has no unversioned
# libcudart.so. A toolkit can be half installed (a compiler without headers, ptxas without nvcc), so a candidate counts
# only if it compiles and links a kernel.
set(MN_NVCC "")
set(MN_NVCC_FLAGS "")
string(TOUPPER "${MIMO_CUDA}" mode)  # as a string: if(NOT MIMO_CUDA) would read OFF as "not given"

if(mode STREQUAL "OFF" OR mode STREQUAL "0")
  set(MN_CUDA_TEXT "not built: MIMO_CUDA=${MIMO_CUDA}")
  return()
endif()
if(NOT mode MATCHES "^(AUTO|ON|PIP)$")
  message(FATAL_ERROR "MIMO_CUDA=${MIMO_CUDA}: expected AUTO, ON, OFF or pip")
endif()

set(candidates)
if(NOT mode STREQUAL "PIP")
  find_program(MN_SYSTEM_NVCC nvcc
    HINTS $ENV{CUDACXX} $ENV{CUDA_HOME}/bin $ENV{CUDA_PATH}/bin /usr/local/cuda/bin)
  if(MN_SYSTEM_NVCC)
    list(APPEND candidates ${MN_SYSTEM_NVCC})
  endif()
endif()
execute_process(
  COMMAND ${Python_EXECUTABLE} -c
    "import glob, sys; print(';'.join(p for d in sys.path for p in sorted(glob.glob(d + '/nvidia/cu1*/bin/nvcc'))))"
  OUTPUT_VARIABLE from_python OUTPUT_STRIP_TRAILING_WHITESPACE)
list(APPEND candidates ${from_python})

set(probe ${CMAKE_CURRENT_BINARY_DIR}/nvcc_probe)
file(WRITE ${probe}.cu
"__global__ void fill(float* x) { x[threadIdx.x] = 1.f; }
int main() { fill<<<1, 1>>>(nullptr); return cudaDeviceSynchronize() == cudaSuccess; }
")
set(rejected "")
foreach(nvcc IN LISTS candidates)
  file(REAL_PATH ${nvcc} real)
  cmake_path(GET real PARENT_PATH bin)
  cmake_path(GET bin PARENT_PATH root)
  set(flags "-L${root}/lib")  # nvcc of the PyPI layout looks in lib64 only
  execute_process(
    COMMAND ${nvcc} -ccbin ${CMAKE_CXX_COMPILER} -arch=sm_90a -cudart static ${flags} ${probe}.cu -o ${probe}
    RESULT_VARIABLE failed OUTPUT_VARIABLE output ERROR_VARIABLE output)
  if(failed)
    string(REGEX REPLACE "\n.*" "" first_line "${output}")
    string(APPEND rejected " ${nvcc} cannot build a kernel (${first_line})")
    message(STATUS "CUDA: ${nvcc} cannot build a kernel:\n${output}")
    continue()
  endif()
  execute_process(COMMAND ${nvcc} --version OUTPUT_VARIABLE version)
  string(REGEX MATCH "V([0-9.]+)" version "${version}")
  set(MN_NVCC ${nvcc})
  set(MN_NVCC_VERSION ${CMAKE_MATCH_1})
  set(MN_NVCC_FLAGS ${flags})
  set(MN_CUDA_TEXT "nvcc ${CMAKE_MATCH_1}")
  return()
endforeach()

if(rejected STREQUAL "")
  set(rejected " no nvcc found")
endif()
set(MN_CUDA_TEXT "not built:${rejected}")
if(NOT mode STREQUAL "AUTO")
  message(FATAL_ERROR "MIMO_CUDA=${MIMO_CUDA}, but${rejected}")
endif()
