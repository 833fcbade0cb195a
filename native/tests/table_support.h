// What the tests of the table share: folders in shared memory, rows that tell whose they are and of which
// version, and a model of what a table is.
#ifndef SATRAP_TESTS_TABLE_SUPPORT_H_
#define SATRAP_TESTS_TABLE_SUPPORT_H_

#include <stdlib.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "../src/table_view.h"
#include "check.h"
#include "satrap/table.h"
#include "satrap/table_layout.h"
#include "satrap/table_memory.h"

namespace satrap::testing {

// Tests do less where everything takes many times as long: what runs on one thread is nothing to
// ThreadSanitizer, and mapping and unmapping is what it is slowest at.
enum class Build { kPlain, kAddressSanitizer, kThreadSanitizer };
#if defined(__SANITIZE_THREAD__)
constexpr Build kBuild = Build::kThreadSanitizer;
#elif defined(__SANITIZE_ADDRESS__)
constexpr Build kBuild = Build::kAddressSanitizer;
#else
constexpr Build kBuild = Build::kPlain;
#endif

inline BootId some_boot() {
  BootId boot;
  boot.fill(std::byte{7});
  return boot;
}

// A new folder in shared memory; it goes with its owner.
class Folder {
 public:
  Folder() {
    std::string path = "/dev/shm/satrap-test-XXXXXX";
    CHECK(::mkdtemp(path.data()) != nullptr);
    path_ = path;
  }
  ~Folder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;

  const std::string& path() const { return path_; }
  std::string file(const std::string& name) const { return path_ + "/" + name; }
  std::set<std::string> names() const {
    std::set<std::string> all;
    for (const auto& file : std::filesystem::directory_iterator(path_)) {
      all.insert(file.path().filename().string());
    }
    return all;
  }
  std::size_t bytes() const {
    std::size_t sum = 0;
    for (const auto& file : std::filesystem::directory_iterator(path_)) sum += file.file_size();
    return sum;
  }

 private:
  std::string path_;
};

inline std::uint64_t mixed(std::uint64_t value) { return sign_hash(value + 0x9e3779b97f4a7c15u); }

// The bytes of version `version` of a sign's row: any bit pattern may be a value.
inline void fill_row(std::uint64_t sign, std::uint64_t version, std::size_t bytes, std::byte* row) {
  const std::uint64_t seed = mixed(sign) ^ version << 1;
  for (std::size_t at = 0; at < bytes; at += 8) {
    const std::uint64_t word = mixed(seed + at);
    std::memcpy(row + at, &word, std::min<std::size_t>(8, bytes - at));
  }
}

inline std::vector<std::byte> row_of(std::uint64_t sign, std::uint64_t version, std::size_t bytes) {
  std::vector<std::byte> row(bytes);
  fill_row(sign, version, bytes, row.data());
  return row;
}

inline const std::byte* bytes_of(const std::vector<std::uint64_t>& signs) {
  return reinterpret_cast<const std::byte*>(signs.data());
}

// What a table says about a sign.
struct Known {
  bool is_row;  // else a tombstone
  std::uint32_t ordinal;
  std::uint64_t version;
  bool operator==(const Known&) const = default;
};

// One call of the writer.
struct Call {
  enum Kind { kUpsert, kErase, kReserve, kForget, kRestore } kind;
  std::vector<std::uint64_t> signs;
  std::uint32_t ordinal = 0;                // kForget: the horizon
  std::uint64_t version = 0;                // of the rows
  std::size_t rows = 0;                     // kReserve
  std::vector<std::optional<Known>> known;  // kRestore: what each sign, named once, shall be again
};

// Runs a call on a table or its writer.
template <class Target>
std::size_t run(Target& target, const Call& call, RowShape shape) {
  switch (call.kind) {
    case Call::kUpsert: {
      std::vector<std::byte> rows(call.signs.size() * shape.bytes());
      std::vector<const std::byte*> pointers;
      for (std::size_t i = 0; i < call.signs.size(); ++i) {
        fill_row(call.signs[i], call.version, shape.bytes(), rows.data() + i * shape.bytes());
        pointers.push_back(rows.data() + i * shape.bytes());
      }
      return target.upsert(bytes_of(call.signs), pointers.data(), call.signs.size(), shape.type,
                           call.ordinal);
    }
    case Call::kErase:
      return target.erase(bytes_of(call.signs), call.signs.size(), call.ordinal);
    case Call::kReserve:
      target.reserve(call.rows);
      return 0;
    case Call::kForget:
      target.forget_tombstones(call.ordinal);
      return 0;
    case Call::kRestore: {
      const std::size_t n = call.signs.size();
      std::vector<SignState> states(n);
      std::vector<std::uint32_t> ordinals(n);
      std::vector<std::byte> rows(n * shape.bytes());
      for (std::size_t i = 0; i < n; ++i) {
        const std::optional<Known>& known = call.known[i];
        if (!known) continue;
        states[i] = known->is_row ? SignState::kPresent : SignState::kTombstone;
        ordinals[i] = known->ordinal;
        if (known->is_row)
          fill_row(call.signs[i], known->version, shape.bytes(), rows.data() + i * shape.bytes());
      }
      return target.restore(bytes_of(call.signs), states.data(),
                            reinterpret_cast<const std::byte*>(ordinals.data()), rows.data(), n);
    }
  }
  return 0;
}

// A table in the plainest words. Tombstones are kept for ever.
class Model {
 public:
  // As the writer's: how many rows were written or went.
  std::size_t run(const Call& call) {
    std::size_t count = 0;
    for (const std::uint64_t sign : call.signs) count += apply(call, sign);
    return count;
  }
  bool apply(const Call& call, std::uint64_t sign) {
    if (call.kind == Call::kReserve || call.kind == Call::kForget) return false;
    const auto at = known_.find(sign);
    if (call.kind == Call::kRestore) {
      const auto position = std::find(call.signs.begin(), call.signs.end(), sign) - call.signs.begin();
      const std::optional<Known>& wanted = call.known[static_cast<std::size_t>(position)];
      if (!wanted && at == known_.end()) return false;
      known_[sign] = wanted.value_or(Known{false, 0, 0});
      return true;
    }
    if (at != known_.end() && at->second.ordinal > call.ordinal) return false;
    const bool was_row = at != known_.end() && at->second.is_row;
    known_[sign] = {call.kind == Call::kUpsert, call.ordinal, call.version};
    return call.kind == Call::kUpsert || was_row;
  }
  std::optional<Known> of(std::uint64_t sign) const {
    const auto at = known_.find(sign);
    return at == known_.end() ? std::nullopt : std::optional(at->second);
  }
  const std::map<std::uint64_t, Known>& known() const { return known_; }
  std::size_t rows() const {
    std::size_t count = 0;
    for (const auto& [sign, known] : known_) count += known.is_row;
    return count;
  }

 private:
  std::map<std::uint64_t, Known> known_;
};

// All rows of a scan in pages of `limit`; `Scanned` is a Table or a TableView.
template <class Scanned>
std::map<std::uint64_t, std::pair<std::uint32_t, std::vector<std::byte>>> scan_all(const Scanned& table,
                                                                                   std::size_t row_bytes,
                                                                                   std::size_t limit = 100) {
  std::map<std::uint64_t, std::pair<std::uint32_t, std::vector<std::byte>>> rows;
  for (std::uint64_t at = 0; at != TablePage::kEnd;) {
    const TablePage page = table.scan(at, limit);
    CHECK(page.rows.size() == page.signs.size() * row_bytes);
    CHECK(page.ordinals.size() == page.signs.size());
    for (std::size_t i = 0; i < page.signs.size(); ++i) {
      const std::byte* const row = page.rows.data() + i * row_bytes;
      rows[page.signs[i]] = {page.ordinals[i], std::vector<std::byte>(row, row + row_bytes)};
    }
    at = page.next;
  }
  return rows;
}

// The next signs after `from` whose home is `bucket` of a segment of `bucket_count` that serves all entries
// in [first_entry, end_entry).
inline std::vector<std::uint64_t> signs_at_home(std::size_t bucket, std::size_t bucket_count, std::size_t n,
                                                std::uint64_t from = 0, std::size_t first_entry = 0,
                                                std::size_t end_entry = kEntries) {
  std::vector<std::uint64_t> signs;
  for (std::uint64_t sign = from; signs.size() < n; ++sign) {
    const std::uint64_t hash = sign_hash(sign);
    if (home_bucket(hash, bucket_count) == bucket && entry_of(hash) >= first_entry &&
        entry_of(hash) < end_entry) {
      signs.push_back(sign);
    }
  }
  return signs;
}

}  // namespace satrap::testing

#endif  // SATRAP_TESTS_TABLE_SUPPORT_H_
