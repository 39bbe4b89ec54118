// The disk that forgets is trusted by the torture tests: what it keeps and what it loses, one rule at a time.
#include "tests/checkpoint_faults/forgetful_disk.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <functional>
#include <iterator>
#include <set>
#include <thread>

#include "base/error.h"
#include "tests/catch.h"
#include "tests/checkpoint_faults/place.h"

using namespace dither;
using dither::test::Place;
using dither::test::put;
using Content = std::map<std::string, std::string>;

namespace {

constexpr uint64_t kAll = 0;  // everything that was not synced is lost

/// What is left for each of many seeds.
std::set<Content> outcomes(const std::function<void(const Place&, FileSystem&)>& work, uint64_t seeds = 40) {
  std::set<Content> all;
  for (uint64_t seed = 1; seed <= seeds; ++seed) {
    const Place place;
    ForgetfulDisk files(place.real(), place.image());
    work(place, files);
    lose_unsynced(place.real(), place.image(), seed);
    const Content left = place.content();
    lose_unsynced(place.real(), place.image(), kAll);
    REQUIRE(place.content() == left);  // what a crash has left is on the disk
    all.insert(left);
  }
  return all;
}

}  // namespace

// Catches: an image that takes write() for sync(), one that keeps the bytes but not the name, or the name alone.
TEST_CASE("a file survives when both its bytes and its name were synced") {
  const bool bytes = GENERATE(false, true), name = GENERATE(false, true);
  const Place place;
  ForgetfulDisk files(place.real(), place.image());
  put(files, place / "a", "text", bytes);
  if (name) files.sync_folder(place.real());
  REQUIRE(place.content() == Content{{"a", "text"}});  // the operations themselves happen
  lose_unsynced(place.real(), place.image(), kAll);
  REQUIRE(place.content() == (name ? Content{{"a", bytes ? "text" : ""}} : Content{}));
}

// Catches: bytes taken at the loss instead of at the last sync, a second sync that is not seen.
TEST_CASE("bytes written after the last sync are lost, those before are not") {
  const Place place;
  ForgetfulDisk files(place.real(), place.image());
  {
    const auto file = put(files, place / "a", "one", true);
    file->write("two", 3);
    file->sync();
    file->write("three", 5);
    files.sync_folder(place.real());
  }
  lose_unsynced(place.real(), place.image(), kAll);
  REQUIRE(place.content() == Content{{"a", "onetwo"}});
}

// Catches: a file emptied in place whose old bytes come back: a disk may have emptied it already.
TEST_CASE("a file that is created anew has lost its old bytes before the new ones are synced") {
  const Place place;
  ForgetfulDisk files(place.real(), place.image());
  put(files, place / "a", "old", true);
  files.sync_folder(place.real());
  put(files, place / "a", "new", false);
  REQUIRE(place.content() == Content{{"a", "new"}});
  lose_unsynced(place.real(), place.image(), kAll);
  REQUIRE(place.content() == Content{{"a", ""}});
  put(files, place / "a", "newer", true);
  lose_unsynced(place.real(), place.image(), kAll);
  REQUIRE(place.content() == Content{{"a", "newer"}});
}

// Catches: a rename that is durable at once, one that is lost although the folder was synced, a folder's content lost
// because the folder has another name.
TEST_CASE("a rename is undone unless its folder was synced") {
  const bool synced = GENERATE(false, true);
  const Place place;
  ForgetfulDisk files(place.real(), place.image());
  files.make_folder(place / "x.partial");
  put(files, place / "x.partial/a", "text", true);
  files.sync_folder(place / "x.partial");
  files.sync_folder(place.real());
  files.rename(place / "x.partial", place / "x");
  if (synced) files.sync_folder(place.real());
  REQUIRE(place.content() == Content{{"x/", ""}, {"x/a", "text"}});
  lose_unsynced(place.real(), place.image(), kAll);
  const std::string name = synced ? "x" : "x.partial";
  REQUIRE(place.content() == Content{{name + "/", ""}, {name + "/a", "text"}});
}

// Catches: a folder that comes back with the names it had in the page cache.
TEST_CASE("a folder that was never synced comes back empty") {
  const Place place;
  ForgetfulDisk files(place.real(), place.image());
  files.make_folder(place / "x");
  put(files, place / "x/a", "text", true);
  files.sync_folder(place.real());
  lose_unsynced(place.real(), place.image(), kAll);
  REQUIRE(place.content() == Content{{"x/", ""}});
}

// Catches: a removal that is durable at once, a removed folder whose content is not kept.
TEST_CASE("a removal is undone unless its folder was synced") {
  const bool synced = GENERATE(false, true);
  const Place place;
  ForgetfulDisk files(place.real(), place.image());
  files.make_folder(place / "x/y");
  put(files, place / "x/y/a", "text", true);
  put(files, place / "b", "more", true);
  for (const char* folder : {"x/y", "x", ""}) files.sync_folder(place / folder);
  const Content before = place.content();
  files.remove(place / "x");
  files.remove(place / "b");
  REQUIRE(place.content() == Content{});
  if (synced) files.sync_folder(place.real());
  lose_unsynced(place.real(), place.image(), kAll);
  REQUIRE(place.content() == (synced ? Content{} : before));
}

// Catches: an inode's number that is taken for the thing that had it before, for files and for folders.
TEST_CASE("a new thing under the name of a removed one does not inherit what that had synced") {
  const Place place;
  ForgetfulDisk files(place.real(), place.image());
  for (int round = 0; round < 3; ++round) {
    files.make_folder(place / "x");
    put(files, place / "x/a", "round " + std::to_string(round), round == 0);
    if (round == 0) files.sync_folder(place / "x");
    files.sync_folder(place.real());
    if (round < 2) files.remove(place / "x");
  }
  lose_unsynced(place.real(), place.image(), kAll);
  REQUIRE(place.content() == Content{{"x/", ""}});
}

// Catches: an image that goes stale by the loss, ids that are forgotten though their things survive.
TEST_CASE("work goes on after a loss and another loss finds what was durable then") {
  const Place place;
  for (int round = 0; round < 4; ++round) {
    ForgetfulDisk files(place.real(), place.image());
    const std::string name = std::to_string(round);
    files.make_folder(place / name);
    put(files, place / (name + "/kept"), name, true);
    files.sync_folder(place / name);
    files.sync_folder(place.real());
    put(files, place / (name + "/lost"), name, true);
    if (round > 0) files.remove(place / std::to_string(round - 1));
    lose_unsynced(place.real(), place.image(), kAll);
  }
  Content expected;
  for (const std::string name : {"0", "1", "2", "3"}) {
    expected[name + "/"];
    expected[name + "/kept"] = name;
  }
  REQUIRE(place.content() == expected);
  const auto count = [&](const char* part) {
    return std::distance(std::filesystem::directory_iterator(place.image() + part), {});
  };
  REQUIRE(count("/attic") == 0);
  REQUIRE(count("/files") == 4);
  REQUIRE(count("/bytes") == 4);
  REQUIRE(count("/folders") == 5);  // and the one around them
}

// Catches: a loss that deletes what it does not know, a folder of others that goes with its content.
TEST_CASE("what was not made through the layer stays as it is") {
  const Place place;
  std::filesystem::create_directories(place / "there");
  std::ofstream(place / "there/log") << "line";
  ForgetfulDisk files(place.real(), place.image());
  put(files, place / "there/a", "text", true);
  std::ofstream(place / "there/log", std::ios::app) << " two";
  lose_unsynced(place.real(), place.image(), kAll);
  REQUIRE(place.content() == Content{{"there/", ""}, {"there/log", "line two"}});
  REQUIRE_THROWS_AS(files.create(place / "there/log"), Error);  // it cannot know what of it is durable
}

// Catches: seeds that all give the same, a disk that never writes by itself, outcomes that no disk could have.
TEST_CASE("seeds draw whether an unsynced change has reached the disk") {
  SECTION("a new name comes or not, its bytes are missing or zeros") {
    const auto all = outcomes([](const Place& place, FileSystem& files) { put(files, place / "a", "text", false); });
    REQUIRE(all == std::set<Content>{{}, {{"a", ""}}, {{"a", std::string(4, '\0')}}});
  }
  SECTION("a rename leaves one of the two names, always whole") {
    const auto all = outcomes([](const Place& place, FileSystem& files) {
      put(files, place / "a", "text", true);
      files.sync_folder(place.real());
      files.rename(place / "a", place / "b");
    });
    REQUIRE(all == std::set<Content>{{{"a", "text"}}, {{"b", "text"}}});
  }
  SECTION("a rename over a file leaves the old or the new one under the name") {
    const auto all = outcomes([](const Place& place, FileSystem& files) {
      put(files, place / "a", "old", true);
      put(files, place / "b", "new", true);
      files.sync_folder(place.real());
      files.rename(place / "b", place / "a");
    });
    REQUIRE(all == std::set<Content>{{{"a", "old"}, {"b", "new"}}, {{"a", "new"}}});
  }
  SECTION("what is removed inside a folder may be gone while the folder still has its name") {
    const auto all = outcomes([](const Place& place, FileSystem& files) {
      files.make_folder(place / "x");
      put(files, place / "x/a", "text", true);
      files.sync_folder(place / "x");
      files.sync_folder(place.real());
      files.remove(place / "x");
    });
    REQUIRE(all == std::set<Content>{{}, {{"x/", ""}}, {{"x/", ""}, {"x/a", "text"}}});
  }
}

// Catches: two writers whose records overwrite each other's, a lock that does not hold between threads or processes.
TEST_CASE("several processes with several threads use one image") {
  constexpr int kProcesses = 2, kThreads = 2, kFiles = 100;
  const Place place;
  int start[2];  // closed when all are there
  REQUIRE(pipe(start) == 0);
  pid_t children[kProcesses];
  for (int p = 0; p < kProcesses; ++p) {
    children[p] = fork();
    REQUIRE(children[p] >= 0);
    if (children[p] != 0) continue;
    close(start[1]);
    char nothing;
    int status = read(start[0], &nothing, 1) == 0 ? 0 : 1;
    try {
      ForgetfulDisk files(place.real(), place.image());
      std::thread threads[kThreads];
      for (int t = 0; t < kThreads; ++t) {
        threads[t] = std::thread([&, t] {
          for (int i = 0; i < kFiles; ++i) {
            put(files, place / (std::to_string(p) + "-" + std::to_string(t) + "-" + std::to_string(i)), "text", true);
            files.sync_folder(place.real());
          }
        });
      }
      for (std::thread& thread : threads) thread.join();
    } catch (...) {
      status = 1;
    }
    _exit(status);
  }
  close(start[0]);
  close(start[1]);
  for (const pid_t child : children) {
    int status = 0;
    REQUIRE(waitpid(child, &status, 0) == child);
    REQUIRE(status == 0);
  }
  lose_unsynced(place.real(), place.image(), kAll);
  const Content content = place.content();
  REQUIRE(content.size() == kProcesses * kThreads * kFiles);
  for (const auto& [name, bytes] : content) REQUIRE(bytes == "text");
}

// Catches: records that a kill can tear, and a promise broken: what sync_folder() has returned for must be there.
TEST_CASE("a kill at any moment leaves an image of a state that a disk could have") {
  for (int round = 0; round < 24; ++round) {
    const Place place;
    int report[2];
    REQUIRE(pipe(report) == 0);
    const pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
      ForgetfulDisk files(place.real(), place.image());
      for (int i = 0;; ++i) {  // the protocol of a checkpoint, the one before it removed
        const std::string name = place / std::to_string(i);
        files.make_folder(name + ".partial");
        put(files, name + ".partial/a", std::string(1000, 'a'), true);
        files.sync_folder(name + ".partial");
        files.rename(name + ".partial", name);
        files.sync_folder(place.real());
        if (write(report[1], &i, sizeof i) != sizeof i) _exit(1);
        if (i < 2) continue;
        const std::string old = place / std::to_string(i - 2);
        files.rename(old, old + ".removed");
        files.sync_folder(place.real());
        files.remove(old + ".removed");
      }
    }
    close(report[1]);
    int last = -1;
    REQUIRE(read(report[0], &last, sizeof last) == sizeof last);
    std::this_thread::sleep_for(std::chrono::microseconds(400 * round));
    REQUIRE(kill(child, SIGKILL) == 0);
    REQUIRE(waitpid(child, nullptr, 0) == child);
    while (read(report[0], &last, sizeof last) == sizeof last) {
    }
    close(report[0]);
    lose_unsynced(place.real(), place.image(), static_cast<uint64_t>(round));
    INFO("round " << round << ", last report " << last);
    Content content = place.content();
    REQUIRE(content.count(std::to_string(last) + "/") == 1);
    for (const auto& [name, bytes] : content) {
      if (name.back() != '/' || name.find('.') != std::string::npos) continue;
      REQUIRE(content[name + "a"] == std::string(1000, 'a'));
    }
  }
}
