# The CUDA kernels: kernels/cuda/*.cu as the library dither_cuda, where there is a CUDA compiler. Without one they are still
# compiled as plain C++ and tested on the host (tests/CMakeLists.txt).
if(NOT DITHER_CUDA STREQUAL "OFF")
  include(CheckLanguage)
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    enable_language(CUDA)
    if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)  # CMake 3.25 does not know what nvcc 13 can
      set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
      set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION "-std=c++20")
    endif()
    find_package(CUDAToolkit 12.0 REQUIRED)
  elseif(DITHER_CUDA STREQUAL "ON")
    message(FATAL_ERROR "DITHER_CUDA is ON, but no CUDA compiler was found: put nvcc on the PATH, or set CUDACXX")
  endif()
endif()

if(CMAKE_CUDA_COMPILER AND NOT DITHER_CUDA STREQUAL "OFF")
  file(GLOB sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/kernels/cuda/*.cu)
  add_library(dither_cuda STATIC EXCLUDE_FROM_ALL ${sources})
  set_target_properties(dither_cuda PROPERTIES CUDA_ARCHITECTURES "${DITHER_CUDA_ARCHITECTURES}" CUDA_STANDARD 20)
  target_include_directories(dither_cuda PUBLIC ${PROJECT_SOURCE_DIR})
  target_link_libraries(dither_cuda PUBLIC dither_kernels CUDA::cudart)
  # Contraction would break error-free transforms and the equality of bits with the CPU (docs/numerics.md).
  target_compile_options(dither_cuda PRIVATE $<$<COMPILE_LANGUAGE:CUDA>:-fmad=false -prec-div=true -prec-sqrt=true
    -ftz=false --expt-relaxed-constexpr -Werror=all-warnings -Xcompiler=-Wall -Xptxas=-v>)
endif()
