# The commit that the binary is built from: `commit()` of base/commit.h.
#
# Read twice. While CMake configures, it adds a target that runs this file at every build; as a script (cmake -P) it asks
# git and writes commit.cpp into the build folder, but only where the text changes: a build after a commit compiles that
# one small file and links, a build without a change does nothing.
#
# Text: 12 hexadecimal digits, "+changes" behind them where tracked files differ; "unknown" without git, or where the
# sources lie inside the repository of something else.
if(NOT CMAKE_SCRIPT_MODE_FILE)
  find_package(Git QUIET)
  add_custom_target(dither_commit
    COMMAND ${CMAKE_COMMAND} -DGIT=${GIT_EXECUTABLE} -DSOURCES=${PROJECT_SOURCE_DIR}
            -DOUTPUT=${PROJECT_BINARY_DIR}/generated/commit.cpp -P ${CMAKE_CURRENT_LIST_FILE}
    BYPRODUCTS ${PROJECT_BINARY_DIR}/generated/commit.cpp
    COMMENT "Commit of this build" VERBATIM)
  target_sources(dither_base PRIVATE ${PROJECT_BINARY_DIR}/generated/commit.cpp)
  add_dependencies(dither_base dither_commit)
  return()
endif()

set(commit "unknown")
if(GIT)
  # --show-prefix prints nothing at the top of a repository. No optional locks: a build must not disturb a git at work.
  execute_process(COMMAND ${GIT} -C ${SOURCES} rev-parse --show-prefix
                  RESULT_VARIABLE failed OUTPUT_VARIABLE prefix ERROR_QUIET OUTPUT_STRIP_TRAILING_WHITESPACE)
  if(NOT failed AND prefix STREQUAL "")
    execute_process(COMMAND ${GIT} --no-optional-locks -C ${SOURCES}
                            describe --always --abbrev=12 --exclude=* --dirty=+changes
                    RESULT_VARIABLE failed OUTPUT_VARIABLE described ERROR_QUIET OUTPUT_STRIP_TRAILING_WHITESPACE)
    if(NOT failed)
      set(commit "${described}")
    endif()
  endif()
endif()

set(text "// Written by cmake/commit.cmake at every build.
#include \"base/commit.h\"

const char* dither::commit() { return \"${commit}\"; }
")
set(before "")
if(EXISTS ${OUTPUT})
  file(READ ${OUTPUT} before)
endif()
if(NOT text STREQUAL before)
  file(WRITE ${OUTPUT} "${text}")
endif()
