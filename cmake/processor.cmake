# The check of the processor (base/processor.h): compiled for any processor of its kind, in every program that links base.
set(baseline "")
if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
  set(baseline -march=x86-64)
elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "^(aarch64|arm64)$")
  set(baseline -march=armv8-a)
endif()
# The last -march= counts. No sanitizer: it would call what is not ready yet.
set_source_files_properties(base/processor.cpp PROPERTIES COMPILE_OPTIONS "${baseline};-fno-sanitize=all"
  COMPILE_DEFINITIONS "DITHER_ARCH=\"${DITHER_ARCH}\"")
# Nothing calls it, so that a linker would leave it in the library.
target_link_options(dither_base INTERFACE "LINKER:--undefined=dither_check_processor")
