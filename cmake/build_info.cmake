# The build record that `mimo-native doctor` prints, and the summary at the end of a configure run.
string(REPLACE ";" " " MN_ISA_TEXT "${MN_ISA_NAMES}")
string(REPLACE ";" " " MN_FLAGS_TEXT "${MN_CXX_FLAGS}")
file(CONFIGURE OUTPUT ${CMAKE_CURRENT_BINARY_DIR}/_build_info.py @ONLY CONTENT
"\"\"\"Written by the build.\"\"\"

BUILD_INFO = {
    \"version\": \"@PROJECT_VERSION@\",
    \"compiler\": \"@CMAKE_CXX_COMPILER_ID@ @CMAKE_CXX_COMPILER_VERSION@\",
    \"flags\": \"@MN_FLAGS_TEXT@\",
    \"processor\": \"@CMAKE_SYSTEM_PROCESSOR@\",
    \"isa_levels\": \"@MN_ISA_TEXT@\".split(),
    \"cuda\": \"@MN_CUDA_TEXT@\",
    \"cuda_architectures\": \"@MN_CUDA_ARCHS_TEXT@\",
    \"ptxsim\": \"@MN_PTXSIM_TEXT@\",
}
")
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/_build_info.py DESTINATION mimo_native COMPONENT python)

message(STATUS "mimo_native ${PROJECT_VERSION}")
message(STATUS "  compiler    ${CMAKE_CXX_COMPILER_ID} ${CMAKE_CXX_COMPILER_VERSION}")
message(STATUS "  CPU levels  ${MN_ISA_TEXT}")
message(STATUS "  CUDA        ${MN_CUDA_TEXT}")
message(STATUS "  ptxsim      ${MN_PTXSIM_TEXT}")
