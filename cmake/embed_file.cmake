# Writes a C++ source that holds a file, for a program that needs it where it is not installed:
#   cmake -DFILE=file -DHEADER=path -DFUNCTION=name -DSOURCE=out.cpp -P embed_file.cmake
# FUNCTION, declared in HEADER, then returns the file's bytes. Bytes and not a literal: no quoting can go wrong.
file(READ ${FILE} bytes HEX)
string(REGEX REPLACE "(..)" "0x\\1," bytes "${bytes}")
string(REGEX REPLACE "((0x..,){24})" "\\1\n    " bytes "${bytes}")
get_filename_component(name ${FILE} NAME)
file(WRITE ${SOURCE} "// Made from ${name} by cmake/embed_file.cmake.
#include \"${HEADER}\"

namespace dither {

static constexpr unsigned char kBytes[] = {
    ${bytes}};

std::string_view ${FUNCTION}() { return {reinterpret_cast<const char*>(kBytes), sizeof kBytes}; }

}  // namespace dither
")
