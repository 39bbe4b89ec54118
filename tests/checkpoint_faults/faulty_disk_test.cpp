// The disk that fails is trusted by the fault tests: when it fails, how, and what has been done by then.
#include "tests/checkpoint_faults/faulty_disk.h"

#include "tests/catch.h"
#include "tests/checkpoint_faults/place.h"

using namespace dither;
using namespace dither::test;
using Content = std::map<std::string, std::string>;

// Catches: a count that begins at 0, other kinds that are counted, a fault that stays or one that goes.
TEST_CASE("the n-th operation of the kind fails, once or from then on") {
  const bool for_good = GENERATE(false, true);
  const Place place;
  FaultyDisk files(disk(), {.at = 2, .operation = DiskOperation::make_folder, .for_good = for_good, .text = "no"});
  files.sync_folder(place.real());
  files.make_folder(place / "a");
  REQUIRE_FALSE(files.reached());
  REQUIRE_THROWS_WITH(files.make_folder(place / "b"), (place / "b") + ": no");
  REQUIRE(files.reached());
  if (for_good) {
    REQUIRE_THROWS_AS(files.make_folder(place / "c"), Error);
  } else {
    files.make_folder(place / "c");
  }
  REQUIRE(place.content() == (for_good ? Content{{"a/", ""}} : Content{{"a/", ""}, {"c/", ""}}));
}

// Catches: a failing write that does all or nothing where half was asked for, one that goes unreported.
TEST_CASE("a short write leaves half of the bytes, others none") {
  const bool half = GENERATE(false, true);
  const Place place;
  FaultyDisk files(disk(), {.failure = half ? DiskFailure::short_write : DiskFailure::no_space, .at = 2});
  REQUIRE_THROWS_AS(put(files, place / "a", "12345678", false), Error);  // create, write
  REQUIRE(place.content() == Content{{"a", half ? "1234" : ""}});
}

// Catches: a folder that does not go, an operation on another one that fails too.
TEST_CASE("a folder that vanishes takes its content, and operations meet what is left") {
  const Place place;
  std::filesystem::create_directories(place / "x/y");
  FaultyDisk files(disk(), {.failure = DiskFailure::folder_vanished, .at = 1, .folder = place / "x"});
  files.make_folder(place / "z");
  REQUIRE(place.content() == Content{{"z/", ""}});
  REQUIRE_THROWS_AS(files.create(place / "x/a"), Error);  // the disk's own
}
