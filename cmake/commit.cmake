# The commit that the binary is built from: `commit()` of base/commit.h.
#
# Read twice. While CMake configures, it adds a target that runs this file at every build; as a script (cmake -P) it asks
# git and writes commit.cpp into the build folder, but only where the text changes: a build after a commit compiles that
# one small file and links, a build without a change does nothing.
#
# Text: 12 hexadecimal digits, "+changes" behind them where tracked files differ. Without git, or where the sources lie
# inside the repository of something else, what -DDITHER_COMMIT= hands in; else what `git archive` has put into
# archive_commit.txt (.gitattributes); else "unknown".
if(NOT CMAKE_SCRIPT_MODE_FILE)
  find_package(Git QUIET)
  set(DITHER_COMMIT "" CACHE STRING "The commit of sources that have no .git: 12 to 40 hexadecimal digits, +changes behind them or not")
  string(REPLACE "+changes" "" digits "${DITHER_COMMIT}")
  string(LENGTH "${digits}" length)
  if(DITHER_COMMIT AND (NOT DITHER_COMMIT MATCHES "^[0-9a-f]+(\\+changes)?$" OR length LESS 12 OR length GREATER 40))
    message(FATAL_ERROR "DITHER_COMMIT is \"${DITHER_COMMIT}\", needs 12 to 40 hexadecimal digits, as git rev-parse HEAD prints them; +changes may follow")
  endif()
  add_custom_target(dither_commit
    COMMAND ${CMAKE_COMMAND} -DGIT=${GIT_EXECUTABLE} -DSOURCES=${PROJECT_SOURCE_DIR} -DHANDED_IN=${DITHER_COMMIT}
            -DOUTPUT=${PROJECT_BINARY_DIR}/generated/commit.cpp -P ${CMAKE_CURRENT_LIST_FILE}
    BYPRODUCTS ${PROJECT_BINARY_DIR}/generated/commit.cpp
    COMMENT "Commit of this build" VERBATIM)
  target_sources(dither_base PRIVATE ${PROJECT_BINARY_DIR}/generated/commit.cpp)
  add_dependencies(dither_base dither_commit)
  return()
endif()

# Sources of another owner: git refuses them unless told. Whoever builds them runs what they say anyway.
set(git ${GIT} -c safe.directory=${SOURCES} --no-optional-locks -C ${SOURCES}) # a build must not disturb a git at work
set(commit "")
if(GIT)
  # --show-prefix prints nothing at the top of a repository.
  execute_process(COMMAND ${git} rev-parse --show-prefix
                  RESULT_VARIABLE failed OUTPUT_VARIABLE prefix ERROR_QUIET OUTPUT_STRIP_TRAILING_WHITESPACE)
  if(NOT failed AND prefix STREQUAL "")
    execute_process(COMMAND ${git} describe --always --abbrev=12 --exclude=* --dirty=+changes
                    RESULT_VARIABLE failed OUTPUT_VARIABLE described ERROR_QUIET OUTPUT_STRIP_TRAILING_WHITESPACE)
    if(NOT failed)
      set(commit "${described}")
    endif()
  endif()
endif()
set(archived "")
if(EXISTS ${SOURCES}/cmake/archive_commit.txt)
  file(READ ${SOURCES}/cmake/archive_commit.txt archived)
endif()
foreach(name HANDED_IN archived)  # their first 12 digits
  string(REGEX REPLACE "^(............)[0-9a-f]*" "\\1" ${name} "${${name}}")
endforeach()
string(STRIP "${archived}" archived)
if(commit AND HANDED_IN AND NOT commit STREQUAL HANDED_IN)
  message(WARNING "DITHER_COMMIT=${HANDED_IN} is not used: git says ${commit}")
elseif(NOT commit AND HANDED_IN)
  set(commit "${HANDED_IN}")
elseif(NOT commit AND archived MATCHES "^[0-9a-f]+$")
  set(commit "${archived}")
elseif(NOT commit)
  set(commit "unknown")
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
