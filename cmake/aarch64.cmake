# Cross-compiles for 64-bit Arm, which gets the scalar level:
#   apt-get install g++-aarch64-linux-gnu
#   cmake -S . -B build/aarch64 -G Ninja -DCMAKE_TOOLCHAIN_FILE=cmake/aarch64.cmake -DMIMO_CUDA=OFF -DPython_EXECUTABLE="$(command -v python)" -Dpybind11_DIR="$(python -m pybind11 --cmakedir)" && cmake --build build/aarch64
# The headers of the build machine's Python serve, as they do on any 64-bit Linux.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
