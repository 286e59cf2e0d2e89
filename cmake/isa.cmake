# One object library per ISA level from the same kernel sources. MN_ISA_TARGETS lists them.
# The compiler is asked, not the machine, so that a cross compiler gets what it can make.
include(CheckCXXSymbolExists)
set(MN_ISA_NAMES scalar)
check_cxx_symbol_exists(__x86_64__ "" MN_COMPILES_FOR_X86)
if(MN_COMPILES_FOR_X86)
  list(APPEND MN_ISA_NAMES avx2 avx512 avx512bf16)
  add_compile_definitions(MN_HAVE_X86)
endif()
set(MN_ISA_FLAGS_scalar "")
set(MN_ISA_FLAGS_avx2 -mavx2 -mfma)
set(MN_ISA_FLAGS_avx512 ${MN_ISA_FLAGS_avx2} -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512cd
    -mprefer-vector-width=512)
set(MN_ISA_FLAGS_avx512bf16 ${MN_ISA_FLAGS_avx512} -mavx512bf16 -mavx512vbmi -mavx512vnni)

set(MN_ISA_TARGETS)
set(level 0)
foreach(isa IN LISTS MN_ISA_NAMES)
  add_library(mn_${isa} OBJECT ${MN_KERNEL_SOURCES})
  target_include_directories(mn_${isa} PRIVATE csrc)
  target_compile_definitions(mn_${isa} PRIVATE MN_ISA=${isa} MN_LEVEL=${level})
  target_compile_options(mn_${isa} PRIVATE ${MN_CXX_FLAGS} ${MN_ISA_FLAGS_${isa}} -fno-exceptions
                                           -Wno-unused-function)
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    # GCC's own AVX-512 header trips these (its bug 105593).
    target_compile_options(mn_${isa} PRIVATE -Wno-uninitialized -Wno-maybe-uninitialized)
  endif()
  target_link_libraries(mn_${isa} PRIVATE OpenMP::OpenMP_CXX)
  list(APPEND MN_ISA_TARGETS mn_${isa})
  math(EXPR level "${level} + 1")
endforeach()
