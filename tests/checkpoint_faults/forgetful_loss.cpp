// A crash of the machine, afterwards: what of a forgetful disk's folder had reached the disk.
//
// Folder by folder from above. What the layer knows in a folder is taken out, folders to the attic; then the names that
// survive are chosen and put back, files by the links that the image keeps, with the bytes that survive.
#include <filesystem>
#include <map>
#include <optional>
#include <random>
#include <set>
#include <utility>
#include <vector>

#include "base/error.h"
#include "tests/checkpoint_faults/forgetful_disk.h"
#include "tests/checkpoint_faults/forgetful_image.h"

namespace dither {

namespace fs = std::filesystem;

namespace {

class Loss {
 public:
  Loss(const std::string& image, uint64_t seed) : image_(image), all_(seed == 0), random_(seed) {}

  void apply(const std::string& folder) {
    const ForgetfulEntry self = entry_at(folder);
    kept_.insert(self.id);
    const ForgetfulEntries durable = image_.load(self.id);
    for (const auto& [name, entry] : durable) {
      if (entry.folder && !image_.knows(entry)) image_.store(entry.id, {});  // a kill in the middle of make_known()
    }
    const ForgetfulEntries current = image_.known_in(folder);
    const ForgetfulEntries surviving = choose(durable, current);
    for (const auto& [name, entry] : current) {
      const std::string path = folder + "/" + name;
      entry.folder ? fs::rename(path, image_.attic_of(entry.id)) : static_cast<void>(fs::remove(path));
    }
    for (const auto& [name, entry] : surviving) {
      const std::string path = folder + "/" + name;
      if (fs::exists(path)) throw Error(path + " was put where the forgetful disk has a name to restore");
      if (entry.folder) {
        if (!fs::exists(image_.attic_of(entry.id))) continue;  // removed for good, past the layer
        fs::rename(image_.attic_of(entry.id), path);
        apply(path);
      } else {
        restore_file(entry.id, path);
      }
    }
    image_.store(self.id, surviving);
  }

  /// What did not survive leaves the image.
  void forget_the_rest() const {
    fs::remove_all(image_.path() + "/attic");
    fs::create_directories(image_.path() + "/attic");
    for (const char* part : {"/files", "/bytes", "/folders"}) {
      for (const auto& item : fs::directory_iterator(image_.path() + part)) {
        const std::string name = item.path().filename().string();
        const bool whole = name.find('.') == std::string::npos;  // no half-written record
        if (!whole || kept_.count(std::stoull(name)) == 0) fs::remove(item.path());
      }
    }
  }

 private:
  bool undone() { return all_ || random_() % 2 == 0; }

  /// The names that a folder has after the crash. Each change since the last sync has reached the disk or not, whatever
  /// became of the others; a name that was taken over goes to the new owner or stays, but is never missing.
  ForgetfulEntries choose(const ForgetfulEntries& durable, const ForgetfulEntries& current) {
    struct Names {
      std::optional<std::string> before, now;
    };
    std::map<Identity, std::pair<Names, ForgetfulEntry>> known;
    for (const auto& [name, entry] : durable) known[entry.id] = {{name, {}}, entry};
    for (const auto& [name, entry] : current) {
      known[entry.id].first.now = name;
      known[entry.id].second = entry;
    }
    ForgetfulEntries chosen;
    std::vector<std::pair<Names, ForgetfulEntry>> moved, replaced;
    for (const auto& [id, thing] : known) {
      const auto& [names, entry] = thing;
      if (names.before && !names.now && current.count(*names.before) != 0) {
        replaced.push_back(thing);
      } else if (names.before == names.now || undone()) {
        if (names.before) chosen[*names.before] = entry;
      } else if (names.now) {
        moved.push_back(thing);
      }  // else its removal has reached the disk
    }
    for (const auto& [names, entry] : moved) {
      if (chosen.emplace(*names.now, entry).second || !names.before) continue;
      chosen.emplace(*names.before, entry);
    }
    for (const auto& [names, entry] : replaced) chosen.emplace(*names.before, entry);
    return chosen;
  }

  void restore_file(Identity id, const std::string& path) {
    kept_.insert(id);
    const std::string now = read_bytes(image_.link_of(id));
    std::string bytes = fs::exists(image_.bytes_of(id)) ? read_bytes(image_.bytes_of(id)) : "";
    if (!undone() && now.size() > bytes.size()) bytes.resize(now.size(), '\0');
    write_bytes(image_.link_of(id), bytes);
    image_.store_bytes(id);
    fs::create_hard_link(image_.link_of(id), path);
  }

  const ForgetfulImage image_;
  const bool all_;
  std::mt19937_64 random_;
  std::set<Identity> kept_;
};

}  // namespace

void lose_unsynced(const std::string& real, const std::string& image, uint64_t seed) {
  const ForgetfulLock lock(image);
  const std::string root = normal_path(real);
  if (!fs::exists(ForgetfulImage(image).record_of(entry_at(root).id))) return;  // the layer has not touched it
  Loss loss(image, seed);
  loss.apply(root);
  loss.forget_the_rest();
}

}  // namespace dither
