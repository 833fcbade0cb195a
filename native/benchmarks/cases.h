// What table_benchmark measures. Each case prints one JSON object to stdout: figures of every round, from
// which benchmarks/table.py computes medians and ratios. Notes on progress go to stderr.
#ifndef SATRAP_BENCHMARKS_CASES_H_
#define SATRAP_BENCHMARKS_CASES_H_

#include <cstddef>
#include <cstdint>
#include <string>

namespace satrap::benchmarks {

struct Settings {
  std::string folder;  // is there; tables and arrays are made in it, and go at the end
  std::size_t rows = 4'000'000;
  std::size_t last_rows = 10'000'000;  // where the growth ends
  std::size_t batches = 200;
  std::size_t batch_ids = 12'288;
  std::size_t rounds = 31;
  double seconds = 1.0;  // length of a window, where time and not work is given
  std::uint64_t seed = 2026;
};

// ns/id of the gather, the ablation and the table, evenly drawn and by Zipf's law; every round runs each
// once.
void lookups(const Settings& settings);
// Ids/s of one thread, and of two at once.
void threads(const Settings& settings);
// Ids/s undisturbed, and while a writer upserts a million rows a second.
void writer(const Settings& settings);
// Rows/s of an upsert of a million existing rows.
void upserts(const Settings& settings);
// Latencies of small lookups and memory held while a table grows.
void growth(const Settings& settings);

}  // namespace satrap::benchmarks

#endif  // SATRAP_BENCHMARKS_CASES_H_
