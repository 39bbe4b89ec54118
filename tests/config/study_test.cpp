// Studies: what `vary` makes of a file, how its runs are ordered, named and checked, and when two runs compute the
// same.

#include "src/config/study.h"

#include <map>
#include <set>

#include "src/config/keys.h"
#include "tests/config/helpers.h"

namespace dither {
namespace {

using Json = nlohmann::json;
using Texts = std::vector<std::string>;

/// kSmall as a file "t.json" with this `vary` and a patch; every test reads it from a folder of its own.
class StudyFile {
 public:
  explicit StudyFile(const std::string& vary, const std::string& patch = "{}") {
    Json config = Json::parse(small_with(patch));
    config["vary"] = Json::parse(vary);
    path = folder.write("t.json", config.dump());
  }

  Study load(const Texts& assignments = {}) {
    warnings.clear();
    return load_study(path, assignments, warnings);
  }
  std::string error(const Texts& assignments = {}) {
    return error_in([&] { load(assignments); });
  }

  TemporaryFolder folder;
  std::string path;
  Texts warnings;
};

Texts names_of(const Study& study) {
  Texts names;
  for (const StudyRun& run : study.runs) names.push_back(run.name);
  return names;
}

Texts names_in(const std::string& vary, const std::string& patch = "{}") {
  return names_of(StudyFile(vary, patch).load());
}

// Catches: the order of JSON's sorted keys (optimizer before precision), the first key varying fastest, a value that
// does not reach the config, a run that keeps the study's name or folder.
TEST_CASE("a study is the product of its lists, in the order of the table, seed last and fastest") {
  StudyFile file(
      R"({"seed": [3, 1], "optimizer.learning_rate": [2e-3, 1e-3], "precision.strategy": ["mixed", "bf16"]})",
      R"({"name": "s", "logging": {"directory": "out/x"}})");
  const Study study = file.load();
  CHECK(study.name == "s");
  CHECK(study.folder == "out/x/s");
  REQUIRE(names_of(study) == Texts{"mixed,lr=0.002,seed=3", "mixed,lr=0.002,seed=1", "mixed,lr=0.001,seed=3",
                                   "mixed,lr=0.001,seed=1", "bf16,lr=0.002,seed=3", "bf16,lr=0.002,seed=1",
                                   "bf16,lr=0.001,seed=3", "bf16,lr=0.001,seed=1"});
  const StudyRun& run = study.runs[2];
  CHECK(run.assignments == Texts{"precision.strategy=mixed", "optimizer.learning_rate=0.001", "seed=3"});
  CHECK(run.config.precision.strategy == Strategy::mixed);
  CHECK(run.config.optimizer.learning_rate == 1e-3);
  CHECK(run.config.seed == 3);
  CHECK(run.config.steps == 10);
  CHECK(run.config.name == run.name);
  CHECK(run.config.logging.directory == "out/x/s");
}

// Catches: defaults that follow from the base's strategy instead of the run's.
TEST_CASE("what follows from a varied key follows in each run") {
  const Study study = StudyFile(R"({"precision.strategy": ["bf16", "fp32"]})").load();
  CHECK(study.runs[0].config.precision.compute == DType::bf16);
  CHECK(study.runs[1].config.precision.compute == DType::fp32);
  CHECK(study.runs[1].config.precision.gradient == GradientStorage::fp32);
}

// Catches: a computation run twice, the later of two kept, values that only look different counted as two.
TEST_CASE("a list of products is their union, each computation once") {
  StudyFile file(R"([{"precision.strategy": ["bf16", "mixed"]},
                     {"precision.strategy": ["mixed"], "optimizer.learning_rate": [6e-4, 1e-3]},
                     {"optimizer.learning_rate": [0.001]}])");  // the file's strategy is the default, bf16_sr
  const Study study = file.load();
  CHECK(names_of(study) == Texts{"bf16,lr=0.0006", "mixed,lr=0.0006", "mixed,lr=0.001", "bf16_sr,lr=0.001"});
  CHECK(study.runs[1].assignments == Texts{"precision.strategy=mixed"});  // of the first product that has it
}

// Catches: a key with one value in every name, betas as a JSON array, two keys under one label, a text as it stands.
TEST_CASE("names are made of what differs, short and legal for folders") {
  CHECK(names_in(R"({"precision.strategy": ["bf16"], "seed": [1, 2]})") == Texts{"seed=1", "seed=2"});
  CHECK(names_in(R"({"precision.strategy": ["bf16"], "seed": [1]})") == Texts{"bf16,seed=1"});
  CHECK(names_in(R"({"optimizer.betas": [[0.9, 0.95], [0.9, 0.999]]})") == Texts{"b2=0.95", "b2=0.999"});
  CHECK(names_in(R"({"optimizer.betas": [[0.9, 0.95], [0.8, 0.999]]})") == Texts{"b1=0.9,b2=0.95", "b1=0.8,b2=0.999"});
  CHECK(names_in(R"({"precision.second_moment_rounding": ["nearest", "stochastic"], "precision.strategy": ["bf16"],
                     "steps": [5, 1e1], "model.tied_embeddings": [true]})") ==
        Texts{"steps=5,v=nearest", "steps=5,v=stochastic", "steps=10,v=nearest", "steps=10,v=stochastic"});
  CHECK(names_in(R"({"model.layers": [2, 3], "precision.strategy": ["bf16", "bf16_sr"]})")[3] == "bf16_sr,layers=3");
  CHECK(names_in(R"({"guards.loss_z": [0, 4.5], "optimizer.weight_decay": [0, 1e-5]})")[3] == "wd=1e-05,loss_z=4.5");
  CHECK(names_in(R"({"data.train": ["../a b/*.bin", "b"]})") == Texts{"train=---a-b--.bin", "train=b"});
  CHECK(names_in(R"({"evaluation.tokens": [1, 2], "optimizer.epsilon": [1e-8, 1e-6]})")[0] == "eps=1e-08,tokens=1");
}

// Catches: two runs in one folder, a name that the file system refuses, a name that changes between two readings.
TEST_CASE("names that would be equal or too long end in a hash, and all names are what a run may be called") {
  const std::string tail(300, 'x');
  StudyFile file(R"({"data.train": ["a/b", "a b", ")" + tail + R"(1", ")" + tail + R"(2", "c"], "seed": [1, 2]})");
  const Texts names = names_of(file.load());
  REQUIRE(names.size() == 10);
  CHECK(std::set<std::string>(names.begin(), names.end()).size() == 10);
  for (const std::string& name : names) CHECK(problem(*find_key("name"), name).empty());
  CHECK(names[0].rfind("train=a-b,seed=1~", 0) == 0);
  CHECK(names[0].size() == std::string("train=a-b,seed=1~").size() + 16);
  CHECK(names[8] == "train=c,seed=1");
  CHECK(names_of(file.load()) == names);
}

// Catches: a mistake inside `vary` that is taken, or reported without its place.
TEST_CASE("a mistake in vary is an error that names its place") {
  struct Mistake {
    std::string vary, says;
  };
  const auto [vary, says] = GENERATE(values<Mistake>({
      {R"({"optimizer.learing_rate": [1e-3]})",
       "vary.optimizer.learing_rate is not a key\n       nearest: optimizer.learning_rate (a real from 1e-30 to 1000"},
      {R"({"frobnicate": [1]})", "vary.frobnicate is not a key\n       allowed: $schema, extends, name, seed"},
      {R"({"": [1]})", "vary. is not a key"},
      {R"({"optimizer": [{"epsilon": 1}]})", "vary.optimizer is a section: vary takes whole paths"},
      {R"({"seed": [1, -1]})", "vary.seed[1] is -1, needs an integer from 0 to 18446744073709551615"},
      {R"([{"seed": [1]}, {"seed": [2, "x"]}])", "vary[1].seed[1] is \"x\", needs an integer"},
      {R"({"precision.strategy": ["bf16", "bf16sr"]})", "vary.precision.strategy[1] is \"bf16sr\", needs one of fp32"},
      {R"({"precision.strategy": ["bf16sr"]})", "nearest: bf16_sr"},
      {R"({"optimizer.betas": [0.9, 0.95]})", "vary.optimizer.betas[0] is 0.9, needs two reals above 0 and below 1"},
      {R"({"seed": []})", "vary.seed is [], needs a list of values [...], each an integer from 0"},
      {R"({"seed": 3})", "vary.seed is 3, needs a list of values"},
      {R"({"steps": [1000, 2000, 1e3]})", "vary.steps[2] is 1000.0 again, as vary.steps[0]: keep one"},
      {R"({"extends": ["a.json"]})", "vary.extends cannot vary: it says how the file is read"},
      {R"({"vary": [{}]})", "vary.vary cannot vary: it says how the file is read"},
      {R"({"name": ["a", "b"]})", "vary.name cannot vary: runs are named by what varies"},
      {R"({"parallel.threads": [1, 2]})", "vary.parallel.threads cannot vary: it does not change what a run computes"},
      {R"({"device": ["cpu"]})", "vary.device cannot vary: it does not change"},
      {R"({"logging.directory": ["a"]})", "vary.logging.directory cannot vary: it does not change"},
      {R"({"checkpoint.async": [true, false]})", "vary.checkpoint.async cannot vary: it does not change"},
      {R"({"sampling.tokens": [4]})", "vary.sampling.tokens cannot vary: it does not change"},
      {R"({})", "vary is {}, needs an object of key paths, each with a list of values, or a list of such objects"},
      {R"([{"seed": [1]}, {}])", "vary is [{\"seed\":[1]}, {}], needs an object of key paths"},
      {R"(["seed"])", "vary is [\"seed\"], needs an object of key paths"},
      {R"({"seed": [null]})", "vary.seed is null: give a value"},
  }));
  INFO(vary);
  StudyFile file(vary);
  const std::string error = file.error();
  CHECK_THAT(error, Catch::Matchers::StartsWith(file.path + ": vary"));
  CHECK(contains(error, says));
}

// Catches: a contradiction found only when the run starts, or reported without saying which run.
TEST_CASE("every run of a study is checked, and an error names its values") {
  StudyFile file(R"({"precision.strategy": ["bf16", "mixed"], "precision.math": ["fp32", "bf16"], "seed": [1]})");
  const std::string error = file.error();
  CHECK(contains(error, file.path + ": precision.math is \"bf16\", but precision.strategy \"mixed\" "));
  CHECK_THAT(error, Catch::Matchers::EndsWith(
                        "\n       in the run with precision.strategy=mixed, precision.math=bf16, seed=1"));
  CHECK(contains(StudyFile(R"({"batch.tokens_per_step": [2048, 1000]})").error(),
                 "batch.tokens_per_step is 1000, needs"));
}

// Catches: the product formed before it is counted, counts that overflow, products counted one by one only.
TEST_CASE("a study of too many runs is refused before it is formed") {
  const std::string most = ": vary asks for more than 10000 runs, the product of its lists";
  Json seeds = Json::array(), vary = Json::object();
  for (int i = 0; i < 101; ++i) seeds.push_back(i);
  vary["seed"] = seeds;
  vary["data.ignore_token"] = seeds;
  CHECK(contains(StudyFile(vary.dump()).error(), most));  // 101 x 101
  vary["data.ignore_token"].erase(99);
  vary["data.ignore_token"].erase(98);  // 101 x 99 = 9,999
  const Json two = {{"seed", {1, 2}}};
  CHECK(contains(StudyFile(Json::array({vary, two}).dump()).error(), most));
  for (const char* path :
       {"evaluation.tokens", "evaluation.every_steps", "guards.loss_z", "guards.gradient_z", "optimizer.gradient_clip",
        "optimizer.weight_decay", "optimizer.schedule.warmup_steps", "data.ignore_token"}) {
    vary[path] = {};
    for (int i = 0; i < 256; ++i) vary[path].push_back(i);
  }
  vary.erase("seed");
  CHECK(contains(StudyFile(vary.dump()).error(), most));  // 256^8 = 2^64, which 64 bits take for 0
}

// Catches: a run of a study trained as if vary were not there, a study of one run taken in silence.
TEST_CASE("a file with vary is for compare, a file without it for train") {
  StudyFile file(R"({"seed": [1, 2]})");
  Texts warnings;
  CHECK(error_in([&] { load_config(file.path, {}, warnings); }) ==
        file.path + ": vary makes it a study of several runs: use dither compare");
  const std::string top = file.folder.write("top.json", R"({"extends": "t.json"})");
  CHECK(error_in([&] { load_config(top, {}, warnings); }) ==
        top + ": vary of " + file.path + " makes it a study of several runs: use dither compare");
  CHECK(error_of(small_with(R"({"vary": {"seed": [1]}})")) ==
        "t.json: vary makes it a study of several runs: use dither compare");
  const std::string plain = file.folder.write("plain.json", kSmall);
  CHECK(error_in([&] { load_study(plain, {}, warnings); }) ==
        plain +
            ": vary is missing, needs an object of key paths, each with a list of values, or a list of such objects\n" +
            "       a file without it is one run: use dither train");
}

// Catches: vary merged key by key over the files, the deepest file's vary, an error in an overridden one passed over.
TEST_CASE("the nearest file's vary holds, as a whole") {
  StudyFile file(R"({"seed": [1, 2], "steps": [5, 6]})");
  const auto load = [&](const char* name, const char* text) {
    return load_study(file.folder.write(name, text), {}, file.warnings);
  };
  const Study nearer = load("a.json", R"({"extends": "t.json", "steps": 7, "vary": {"seed": [8, 9]}})");
  CHECK(names_of(nearer) == Texts{"seed=8", "seed=9"});
  CHECK(nearer.runs[0].config.steps == 7);
  CHECK(nearer.name == "a");
  const Study inherited = load("b.json", R"({"extends": "t.json", "steps": 7})");
  CHECK(names_of(inherited) == Texts{"steps=5,seed=1", "steps=5,seed=2", "steps=6,seed=1", "steps=6,seed=2"});
  CHECK(inherited.folder == "runs/b");

  file.folder.write("wrong.json", R"({"vary": {"seed": [-1]}})");
  CHECK(error_in([&] { load("c.json", R"({"extends": "wrong.json", "vary": {"seed": [1]}})"); }) ==
        file.folder.path("wrong.json") + ": vary.seed[0] is -1, needs an integer from 0 to 18446744073709551615");
}

// Catches: --set that vary overrides in silence, a section that slips a varied key in, --set that reaches one run only.
TEST_CASE("assignments by --set hold for all runs and must leave varied keys alone") {
  StudyFile file(R"({"precision.strategy": ["bf16", "mixed"], "seed": [1, 2]})");
  for (const StudyRun& run : file.load({"steps=3", "optimizer.learning_rate=1e-5"}).runs) {
    CHECK(run.config.steps == 3);
    CHECK(run.config.optimizer.learning_rate == 1e-5);
  }
  CHECK(file.load({"name=other", "logging.directory=out/"}).folder == "out/other");
  const std::string message =
      " is varied by " + file.path + ": leave one of them out, the assignment or the key in vary";
  CHECK(file.error({"seed=1"}) == "--set: seed" + message);
  CHECK(file.error({R"(precision={"strategy": "bf16"})"}) == "--set: precision.strategy" + message);
  CHECK(file.error({"vary={\"seed\": [1]}"}) == "--set: vary stands in files alone");
}

// Catches: the same warning for every run, a warning lost, runs miscounted.
TEST_CASE("a warning is told once, with how many runs it concerns") {
  StudyFile file(R"({"precision.strategy": ["bf16", "mixed"], "optimizer.betas": [[0.9, 0.95], [0.9, 0.999]],
                     "seed": [1, 2, 3]})",
                 R"({"optimizer": {"schedule": {"warmup_steps": 11}}})");
  file.load();
  REQUIRE(file.warnings.size() == 2);
  CHECK_THAT(file.warnings[0], Catch::Matchers::StartsWith("optimizer.schedule.warmup_steps 11 is longer"));
  CHECK_THAT(file.warnings[0], Catch::Matchers::EndsWith("\n       concerns all 12 runs"));
  CHECK_THAT(file.warnings[1], Catch::Matchers::StartsWith("optimizer.betas[1] 0.999 with "));
  CHECK_THAT(file.warnings[1], Catch::Matchers::EndsWith("\n       concerns 3 of 12 runs, first bf16,b2=0.999,seed=1"));
}

// Catches: a value of a run that its own config.json does not bring back, an assignment that --set reads otherwise.
TEST_CASE("a run is the same again from its config and from its assignments") {
  StudyFile file(R"({"precision.strategy": ["fp32", "bf16_sr"], "model.preset": ["llama-tiny", "gpt2-124m"],
                     "optimizer.betas": [[0.9, 0.30000000000000004]], "data.train": ["a*.bin", "12", "x"],
                     "model.tied_embeddings": [true, false], "optimizer.learning_rate": [0.1234567890123456789]})");
  const Study study = file.load();
  REQUIRE(study.runs.size() == 24);
  const std::string plain = file.folder.write("plain.json", kSmall);
  for (const StudyRun& run : study.runs) {
    INFO(run.name);
    const Config again = parsed(to_json(run.config));
    CHECK(to_json(again) == to_json(run.config));
    CHECK(first_difference(again, run.config).empty());
    Texts warnings;
    CHECK(first_difference(load_config(plain, run.assignments, warnings), run.config).empty());
  }
}

// Catches: an exception of the JSON library that leaves the room, whatever the bytes are.
TEST_CASE("every byte of a study replaced makes a study or an Error") {
  const StudyFile file(R"([{"seed": [1, 2], "optimizer.betas": [[0.9, 0.95]]}, {"precision.strategy": ["bf16"]}])");
  const std::string text = Json::parse(std::ifstream(file.path)).dump();
  for (size_t i = 0; i < text.size(); ++i) {
    std::string changed = text;
    changed[i] = "\"{}[]:,0-e\xff\\nt.\0"[i % 16];
    Texts warnings;
    try {
      load_study(file.folder.write("changed.json", changed), {}, warnings);
    } catch (const Error&) {
    }  // any other exception fails the test
  }
  SUCCEED();
}

/// A value of the key other than the one that the config has.
Json another_value(const Key& key, const Config& config) {
  const Json now = key.load(config);
  Texts words;
  for (const Word& word : key.words) words.push_back(word.name);
  switch (key.type) {
    case KeyType::boolean:
      return !now.get<bool>();
    case KeyType::integer:
      return now.get<uint64_t>() == key.integers.most ? Json(key.integers.least) : Json(key.integers.most);
    case KeyType::real:
      return now.get<double>() * 1.0000000000000002 + 1e-30;  // at most two ulp away, or 1e-30 beside 0
    case KeyType::pair:
      return Json::array({now[0], now[1].get<double>() + 1e-15});
    case KeyType::word:
      return now == words.front() ? words.back() : words.front();
    case KeyType::words:
      return now.empty() ? Json(words) : Json::array();
    case KeyType::text:
      return now.get<std::string>() + "x";
    case KeyType::variation:
      break;
  }
  return {};
}

// Catches: a key that hash or comparison forgets, digits of a real lost, a seed inside the hash.
TEST_CASE("the hash depends on every key that decides what is computed, and on no other") {
  const std::set<std::string> other = {"name",
                                       "device",
                                       "algorithms",
                                       "parallel.threads",
                                       "parallel.transport",
                                       "parallel.device_index",
                                       "parallel.share_device",
                                       "parallel.timeout_seconds"};
  const Config config = parsed(kSmall);
  CHECK(config_hash(config) == config_hash(parsed(to_json(config))));
  CHECK(config_hash(config).size() == 16);
  CHECK(config_hash(config).find_first_not_of("0123456789abcdef") == std::string::npos);
  size_t deciding = 0;
  for (const Key& key : key_table()) {
    if (!key.load) continue;
    INFO(key.path);
    Config changed = config;
    key.store(changed, another_value(key, config));
    REQUIRE(key.load(changed) != key.load(config));
    const std::string section = key.path.substr(0, key.path.find('.'));
    const bool decides =
        other.count(key.path) == 0 && section != "checkpoint" && section != "logging" && section != "sampling";
    CHECK((config_hash(changed) != config_hash(config)) == (decides && key.path != "seed"));
    CHECK(first_difference(config, changed).rfind(decides ? key.path + " " : "", 0) == 0);
    CHECK(first_difference(config, changed).empty() == !decides);
    deciding += decides ? 1 : 0;
  }
  CHECK(deciding > 40);
}

// Catches: values in the wrong order, quotes around texts, a key listed that agrees in all, only neighbours compared.
TEST_CASE("differing keys are listed with each config's value, in the order of the table") {
  const Study study = StudyFile(R"([{"seed": [1, 2], "precision.strategy": ["bf16"]},
                                    {"seed": [1], "optimizer.betas": [[0.9, 0.999]], "precision.strategy": ["bf16"]}])")
                          .load();
  const std::vector<DifferingKey> keys =
      differing_keys({study.runs[0].config, study.runs[1].config, study.runs[2].config});
  REQUIRE(keys.size() == 2);
  CHECK(keys[0].path == "seed");
  CHECK(keys[0].values == Texts{"1", "2", "1"});
  CHECK(keys[1].path == "optimizer.betas");
  CHECK(keys[1].values == Texts{"[0.9,0.95]", "[0.9,0.95]", "[0.9,0.999]"});
  CHECK(first_difference(study.runs[0].config, study.runs[1].config) == "seed 1 here, 2 there");
  CHECK(differing_keys({study.runs[0].config}).empty());
  CHECK(differing_keys({}).empty());

  const Config a = parsed(kSmall), b = parsed(small_with(R"({"data": {"train": "b.bin"}, "seed": 1337})"));
  CHECK(first_difference(a, b) == "data.train train.bin here, b.bin there");
}

// Catches: a study in configs/compare that does not load; runs lost or doubled where its products overlap.
TEST_CASE("every study in configs/compare loads, with as many runs as it should have") {
  const std::string folder = std::string(DITHER_SOURCE_DIR) + "/configs/compare";
  std::map<std::string, size_t> runs;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.path().extension() != ".json") continue;
    INFO(entry.path().string());
    Texts warnings;
    const Study study = load_study(entry.path().string(), {}, warnings);
    CHECK(study.name == entry.path().stem().string());
    CHECK(study.folder == "runs/" + study.name);
    runs[study.name] = study.runs.size();
    for (const StudyRun& run : study.runs) CHECK(to_json(parsed(to_json(run.config))) == to_json(run.config));
    if (study.name == "quick") CHECK(warnings.empty());
  }
  CHECK(runs["quick"] == 4 * 3);
  CHECK(runs["second_moment"] == 5 * 3);
  CHECK(runs["strategies"] == (10 + 7 + 3 * 5) * 3);  // all at beta2 0.95, at 0.999, and five more learning rates
}

}  // namespace
}  // namespace dither
