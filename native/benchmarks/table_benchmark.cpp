// Measures the table without Python: table_benchmark CASE [--rows N] [...]; see cases.h.
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <functional>
#include <map>
#include <stdexcept>
#include <string>

#include "cases.h"

namespace satrap::benchmarks {
namespace {

const std::map<std::string, void (*)(const Settings&)> kCases{
    {"lookups", lookups}, {"threads", threads}, {"writer", writer}, {"upserts", upserts}, {"growth", growth}};

Settings settings_from(int count, char** arguments) {
  Settings settings;
  const std::map<std::string, std::function<void(const char*)>> flags{
      {"--folder", [&](const char* value) { settings.folder = value; }},
      {"--rows", [&](const char* value) { settings.rows = std::stoul(value); }},
      {"--last-rows", [&](const char* value) { settings.last_rows = std::stoul(value); }},
      {"--batches", [&](const char* value) { settings.batches = std::stoul(value); }},
      {"--batch-ids", [&](const char* value) { settings.batch_ids = std::stoul(value); }},
      {"--rounds", [&](const char* value) { settings.rounds = std::stoul(value); }},
      {"--seconds", [&](const char* value) { settings.seconds = std::stod(value); }},
      {"--seed", [&](const char* value) { settings.seed = std::stoull(value); }},
  };
  for (int i = 2; i < count; i += 2) {
    const auto flag = flags.find(arguments[i]);
    if (flag == flags.end() || i + 1 == count) {
      throw std::invalid_argument(std::string("unknown, or without a value: ") + arguments[i]);
    }
    flag->second(arguments[i + 1]);
  }
  if (settings.folder.empty()) throw std::invalid_argument("--folder, which must be there, is missing");
  return settings;
}

}  // namespace
}  // namespace satrap::benchmarks

int main(int count, char** arguments) {
  using namespace satrap::benchmarks;
  const auto wanted = kCases.find(count > 1 ? arguments[1] : "");
  if (wanted == kCases.end()) {
    std::fprintf(stderr, "usage: table_benchmark CASE --folder DIR [--rows N] [...]; cases:");
    for (const auto& [name, run] : kCases) std::fprintf(stderr, " %s", name.c_str());
    std::fprintf(stderr, "\n");
    return 2;
  }
  try {
    wanted->second(settings_from(count, arguments));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "table_benchmark: %s\n", error.what());
    return 1;
  }
  return 0;
}
