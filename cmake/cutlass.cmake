# The one product that CUTLASS makes, for sm_90a: MN_CUTLASS_OBJECTS and MN_CUTLASS_DEFINITIONS for who links it, and
# MN_CUTLASS_TEXT saying whether it is there. Its headers come with the package nvidia-cutlass; nothing of it is needed
# at run time.
set(MIMO_CUTLASS "AUTO" CACHE STRING "the sm_90a grouped product by CUTLASS: AUTO (where its headers are), ON or OFF")
set(MN_CUTLASS_OBJECTS "")
set(MN_CUTLASS_DEFINITIONS "")
string(TOUPPER "${MIMO_CUTLASS}" mode)
if(mode STREQUAL "OFF" OR mode STREQUAL "0")
  set(MN_CUTLASS_TEXT "no CUTLASS: MIMO_CUTLASS=${MIMO_CUTLASS}")
  return()
endif()
execute_process(
  COMMAND ${Python_EXECUTABLE} -c
    "import importlib.util as u, pathlib; print(pathlib.Path(u.find_spec('cutlass_library').origin).parent / 'source')"
  OUTPUT_VARIABLE source OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
if(NOT EXISTS "${source}/include/cutlass/cutlass.h")
  set(MN_CUTLASS_TEXT "no CUTLASS: its headers are not installed (pip install nvidia-cutlass==4.2.0.0)")
  if(mode STREQUAL "ON")
    message(FATAL_ERROR "MIMO_CUTLASS=ON, but ${MN_CUTLASS_TEXT}")
  endif()
  return()
endif()

# A file takes a minute and four gigabytes: one at a time.
set_property(GLOBAL APPEND PROPERTY JOB_POOLS mn_heavy=1)
add_library(mn_cuda_sm90a OBJECT csrc/gemm/grouped_sm90a.cu)
set_target_properties(mn_cuda_sm90a PROPERTIES CUDA_ARCHITECTURES "90a" JOB_POOL_COMPILE mn_heavy)
target_include_directories(mn_cuda_sm90a PRIVATE csrc)
target_include_directories(mn_cuda_sm90a SYSTEM PRIVATE ${source}/include ${source}/tools/util/include)
# Not with warnings as errors: templates of these headers are instantiated here.
target_compile_options(mn_cuda_sm90a PRIVATE -O3 --no-compress --expt-relaxed-constexpr -w)
set(MN_CUTLASS_OBJECTS mn_cuda_sm90a)
set(MN_CUTLASS_DEFINITIONS MN_HAVE_SM90A)
set(MN_CUTLASS_TEXT "90a by CUTLASS")
