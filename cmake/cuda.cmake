# Where a program's CUDA backend comes from: one of three libraries of objects.
#   dither_cuda          kernels/cuda by nvcc, where there is one
#   dither_no_cuda       in its place where there is none: says so
#   dither_cuda_on_host  kernels/cuda compiled as plain C++ and run on the host, for the tests (tests/CMakeLists.txt)
# DITHER_DEVICE names the one that the program and most tests take.
set(DITHER_CUDA_FOUND FALSE)
if(NOT DITHER_CUDA STREQUAL "OFF")
  include(CheckLanguage)
  check_language(CUDA)
  find_package(CUDAToolkit 12.0 QUIET)
  if(CMAKE_CUDA_COMPILER AND CUDAToolkit_FOUND)
    set(DITHER_CUDA_FOUND TRUE)
    enable_language(CUDA)
    if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)  # CMake 3.25 does not know what nvcc 13 can
      set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
      set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION "-std=c++20")
    endif()
  elseif(DITHER_CUDA STREQUAL "ON")
    message(FATAL_ERROR "DITHER_CUDA is ON, but no CUDA 12 or newer was found: put its nvcc on the PATH, or set CUDACXX")
  endif()
endif()
if(DITHER_CUDA_FOUND)
  message(STATUS "CUDA backend: CUDA ${CUDAToolkit_VERSION}")
else()
  message(STATUS "CUDA backend: none (DITHER_CUDA=${DITHER_CUDA})")
endif()

set(DITHER_DEVICE dither_no_cuda)
file(GLOB sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/kernels/no_cuda/*.cpp)
dither_objects(dither_no_cuda SOURCES ${sources} LINKS dither_kernels)

if(DITHER_CUDA_FOUND)
  set(DITHER_DEVICE dither_cuda)
  file(GLOB sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/kernels/cuda/*.cu ${PROJECT_SOURCE_DIR}/kernels/cuda/*.cpp)
  dither_objects(dither_cuda SOURCES ${sources} LINKS dither_kernels nlohmann_json::nlohmann_json CUDA::cudart CUDA::cublasLt)
  set_target_properties(dither_cuda PROPERTIES CUDA_ARCHITECTURES "${DITHER_CUDA_ARCHITECTURES}" CUDA_STANDARD 20)
  if("${DITHER_CUDA_ARCHITECTURES}" MATCHES "90a")
    target_compile_definitions(dither_cuda PRIVATE DITHER_SM_90A)
  endif()
  # Contraction would break error-free transforms and the equality of bits with the CPU (docs/numerics.md).
  target_compile_options(dither_cuda PRIVATE $<$<COMPILE_LANGUAGE:CUDA>:-fmad=false -prec-div=true -prec-sqrt=true
    -ftz=false --expt-relaxed-constexpr -Werror=all-warnings -Xcompiler=-Wall -Xptxas=-v>)
endif()
