# How every room is compiled, dither_room(): a static library of all sources in a folder, and dither_embed_folder(): a
# Python program as a function of a room.
set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release)
endif()

set(DITHER_WARNINGS -Wall -Wextra -Wshadow -Wnon-virtual-dtor -Woverloaded-virtual)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  # psabi: vectors in signatures of internal functions. restrict: GCC 12 takes std::string's operator+ for an overlapping
  # copy (bug 105329).
  list(APPEND DITHER_WARNINGS -Wno-psabi -Wno-restrict)
else()
  # Designated initialisers mean the rest to be empty (GCC knows). Sanitizers stop `omp simd` loops from vectorising.
  list(APPEND DITHER_WARNINGS -Wno-missing-field-initializers -Wno-pass-failed)
endif()
if(DITHER_WERROR)
  list(APPEND DITHER_WARNINGS -Werror)
endif()

# Bits first: no contraction of a*b+c into an FMA, no reassociation. The two -fno flags change no value: they only
# let loops with sqrt and selections vectorise (errno and FP traps are not used).
add_compile_options("$<$<COMPILE_LANGUAGE:CXX>:-ffp-contract=off;-fno-math-errno;-fno-trapping-math;-march=${DITHER_ARCH}>")
if(DITHER_SANITIZE)
  add_compile_options(
    "$<$<COMPILE_LANGUAGE:CXX>:-fsanitize=${DITHER_SANITIZE};-fno-omit-frame-pointer;-fno-sanitize-recover=all>")
  add_link_options(-fsanitize=${DITHER_SANITIZE})
endif()
include_directories(${PROJECT_SOURCE_DIR})

function(dither_room name)
  cmake_parse_arguments(ROOM "" "DIRECTORY" "LINKS" ${ARGN})
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/${ROOM_DIRECTORY}/*.cpp)
  list(FILTER sources EXCLUDE REGEX "/(kernels/(cuda|no_cuda)|src/parallel/(nccl|no_nccl))/")  # cmake/cuda.cmake, nccl.cmake
  add_library(dither_${name} STATIC ${sources})
  set_target_properties(dither_${name} PROPERTIES LINKER_LANGUAGE CXX)
  target_link_libraries(dither_${name} PUBLIC ${ROOM_LINKS})
  target_compile_options(dither_${name} PRIVATE ${DITHER_WARNINGS})
endfunction()

# dither_objects(name SOURCES files LINKS libraries): objects that a program takes as a whole, when one of several such
# libraries gives it its device.
function(dither_objects name)
  cmake_parse_arguments(OBJECTS "" "" "SOURCES;LINKS" ${ARGN})
  add_library(${name} OBJECT ${OBJECTS_SOURCES})
  target_link_libraries(${name} PUBLIC ${OBJECTS_LINKS})
  target_compile_options(${name} PRIVATE "$<$<COMPILE_LANGUAGE:CXX>:${DITHER_WARNINGS}>")
endfunction()

# dither_embed_folder(room FOLDER folder HEADER path FUNCTION name): FUNCTION, declared in HEADER, returns a zip archive
# of the Python modules in FOLDER, which Python can run.
function(dither_embed_folder room)
  cmake_parse_arguments(EMBED "" "FOLDER;HEADER;FUNCTION" "" ${ARGN})
  set(folder ${PROJECT_SOURCE_DIR}/${EMBED_FOLDER})
  file(GLOB modules RELATIVE ${folder} CONFIGURE_DEPENDS ${folder}/*.py)
  list(TRANSFORM modules PREPEND ${folder}/ OUTPUT_VARIABLE paths)
  set(script ${PROJECT_SOURCE_DIR}/cmake/embed_file.cmake)
  set(made ${PROJECT_BINARY_DIR}/${EMBED_FUNCTION})
  add_custom_command(OUTPUT ${made}.cpp BYPRODUCTS ${made}.zip DEPENDS ${paths} ${script} VERBATIM
    WORKING_DIRECTORY ${folder}
    COMMAND ${CMAKE_COMMAND} -E tar cf ${made}.zip --format=zip ${modules}
    COMMAND ${CMAKE_COMMAND} -DFILE=${made}.zip -DHEADER=${EMBED_HEADER} -DFUNCTION=${EMBED_FUNCTION}
            -DSOURCE=${made}.cpp -P ${script})
  target_sources(dither_${room} PRIVATE ${made}.cpp)
endfunction()
