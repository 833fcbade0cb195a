// One writer process, killed at any moment and started again, and readers in processes of their own that stay
// attached all the time. A reader's answer must be whole, not older than what was acknowledged before the
// lookup began, not older than what the same reader saw before; and readers go on while the writer is dead,
// or stopped in the middle of a store.
//
//   test_table_processes [rounds]      also from SATRAP_STRESS_ROUNDS
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "satrap/table.h"
#include "table_support.h"

namespace {

using namespace satrap;
using namespace satrap::testing;

constexpr RowShape kShape{16, RowType::kFloat32};
constexpr std::size_t kWords = 8;
constexpr std::size_t kReaders = 3;

// What batch `k` (1, 2, ...; its ordinal as well) does:
//   writes version k of all hot signs,
//   writes version k of kPart signs in turn, so that each comes again after kPeriod batches,
//   erases, of those written kPeriod/2 batches before, every fifth.
// Two of three do so by upsert and erase, the others by restore, which a kill may not leave half done either.
constexpr std::uint64_t kHots = 40;
constexpr std::uint64_t kPart = 50;
constexpr std::uint64_t kPeriod = 4000;
constexpr std::uint64_t kTurning = 1'000'000;
constexpr std::uint64_t kTurnings = kPart * kPeriod;

struct Shared {
  std::atomic<std::uint64_t> begun;         // the batch that was begun last
  std::atomic<std::uint64_t> acknowledged;  // the one that was done last
  std::atomic<bool> done;
  std::array<std::atomic<std::uint64_t>, kReaders> lookups;
  std::array<std::atomic<std::uint64_t>, kReaders>
      orphaned;  // lookups answered from a table without a writer
};

std::uint64_t word_of(std::uint64_t sign, std::uint64_t version, std::size_t i) {
  return i == 0 ? sign : i == 1 ? version : (sign * 0x9e3779b97f4a7c15u + version) * (2 * i + 1);
}

bool is_whole(const std::uint64_t* row, std::uint64_t sign) {
  bool whole = row[0] == sign;
  for (std::size_t i = 2; i < kWords; ++i) whole &= row[i] == word_of(sign, row[1], i);
  return whole;
}

// The last batch up to `k` that writes turning sign `i`; 0 if there is none.
std::uint64_t last_write(std::uint64_t i, std::uint64_t k) {
  const std::uint64_t first = i / kPart + 1;
  return k < first ? 0 : first + (k - first) / kPeriod * kPeriod;
}
bool is_erased_later(std::uint64_t i) { return i % 5 == 0; }

void run_batch(Table& table, std::uint64_t k) {
  std::vector<std::uint64_t> signs, rows;
  const auto add = [&](std::uint64_t sign) {
    signs.push_back(sign);
    for (std::size_t word = 0; word < kWords; ++word) rows.push_back(word_of(sign, k, word));
  };
  for (std::uint64_t sign = 0; sign < kHots; ++sign) add(sign);
  const std::uint64_t begin = (k - 1) % kPeriod * kPart;
  for (std::uint64_t i = begin; i < begin + kPart; ++i) add(kTurning + i);
  const auto ordinal = static_cast<std::uint32_t>(k);
  const auto* const values = reinterpret_cast<const std::byte*>(rows.data());
  const auto restore = [&](SignState state) {
    const std::vector<SignState> states(signs.size(), state);
    const std::vector<std::uint32_t> ordinals(signs.size(), ordinal);
    table.restore(bytes_of(signs), states.data(), reinterpret_cast<const std::byte*>(ordinals.data()), values,
                  signs.size());
  };
  const bool restores = k % 3 == 0;
  if (restores) {
    restore(SignState::kPresent);
  } else {
    table.upsert(bytes_of(signs), values, signs.size(), kShape.type, ordinal);
  }
  signs.clear();
  if (k > kPeriod / 2) {
    const std::uint64_t old = (k - 1 - kPeriod / 2) % kPeriod * kPart;
    for (std::uint64_t i = old; i < old + kPart; ++i) {
      if (is_erased_later(i)) signs.push_back(kTurning + i);
    }
    if (restores) {
      restore(SignState::kTombstone);
    } else {
      table.erase(bytes_of(signs), signs.size(), ordinal);
    }
  }
}

// Whether sign `i` may or must be there, given that batch `from` was done before the question and batch `to`
// begun when it was answered.
void check_turning(std::uint64_t i, std::uint64_t from, std::uint64_t to, bool found, std::uint64_t version) {
  const std::uint64_t done = last_write(i, from), begun = last_write(i, to);
  if (found) {
    CHECK(version >= done && version <= begun && version != 0 && last_write(i, version) == version);
    // Its erasure has been acknowledged, and it was not written since.
    if (is_erased_later(i)) CHECK(version + kPeriod / 2 > from || version != done);
  } else {
    const bool may_be_erased = is_erased_later(i) && done + kPeriod / 2 <= to;
    CHECK(done == 0 || may_be_erased);
  }
}

[[noreturn]] void write_for_ever(const std::string& path, Shared& shared) {
  const auto table = Table::recover(folder_memory(path), some_boot());
  for (;;) {
    const std::uint64_t k = shared.acknowledged.load() + 1;  // the one in flight is sent again
    shared.begun.store(k);
    run_batch(*table, k);
    if (k > kPeriod) table->forget_tombstones(static_cast<std::uint32_t>(k - kPeriod / 4));
    shared.acknowledged.store(k);
  }
}

[[noreturn]] void read_for_ever(const std::string& path, Shared& shared, std::size_t reader) {
  const auto view = TableView::attach(read_only_folder_memory(path), some_boot());
  std::mt19937_64 random(reader);
  std::vector<CopyForm> forms = copy_forms();
  constexpr std::size_t kBatch = 200;
  std::vector<std::uint64_t> signs(kBatch), rows(kBatch * kWords);
  std::vector<std::uint8_t> found(kBatch);
  std::array<std::uint64_t, kHots> newest{};
  while (!shared.done.load()) {
    const std::uint64_t from = shared.acknowledged.load();
    for (std::uint64_t& sign : signs) {
      const std::uint64_t draw = random();
      // Hot ones, those that were just written, and any.
      if (draw % 3 == 0) {
        sign = draw / 8 % kHots;
      } else if (draw % 3 == 1) {
        sign = kTurning + ((from + kPeriod) * kPart - draw / 8 % 500) % kTurnings;
      } else {
        sign = kTurning + draw / 8 % kTurnings;
      }
    }
    view->lookup(bytes_of(signs), kBatch, reinterpret_cast<std::byte*>(rows.data()), found.data(),
                 forms[random() % forms.size()]);
    const std::uint64_t to = shared.begun.load();
    for (std::size_t i = 0; i < kBatch; ++i) {
      const std::uint64_t* const row = rows.data() + i * kWords;
      if (found[i]) CHECK(is_whole(row, signs[i]));
      if (signs[i] < kHots) {
        CHECK(found[i] ? row[1] >= from && row[1] <= to && row[1] >= newest[signs[i]] : from == 0);
      } else {
        check_turning(signs[i] - kTurning, from, to, found[i], row[1]);
      }
    }
    for (std::size_t i = 0; i < kBatch; ++i) {
      if (signs[i] < kHots) newest[signs[i]] = std::max(newest[signs[i]], rows[i * kWords + 1]);
    }
    if (random() % 64 == 0) {
      for (std::uint64_t at = 0; at != TablePage::kEnd;) {
        const TablePage page = view->scan(at, 1000);
        for (std::size_t i = 0; i < page.signs.size(); ++i) {
          CHECK(
              is_whole(reinterpret_cast<const std::uint64_t*>(page.rows.data()) + i * kWords, page.signs[i]));
        }
        at = page.next;
      }
    }
    if (reader == 0 && random() % 8 == 0) view->follow();  // one that maps ahead
    shared.lookups[reader].fetch_add(1);
  }
  std::_Exit(0);
}

pid_t start(const std::function<void()>& act) {
  std::fflush(nullptr);
  const pid_t child = ::fork();
  CHECK(child >= 0);
  if (child == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    act();
    std::_Exit(1);
  }
  return child;
}

// Every reader does some lookups more, whatever the writer does, and within a generous time.
void check_readers_go_on(const Shared& shared, const std::vector<pid_t>& readers) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  for (std::size_t reader = 0; reader < kReaders; ++reader) {
    const std::uint64_t before = shared.lookups[reader].load();
    while (shared.lookups[reader].load() < before + 3) {
      int status = 0;
      CHECK(::waitpid(readers[reader], &status, WNOHANG) == 0 && "a reader has failed");
      CHECK(std::chrono::steady_clock::now() < deadline);
      std::this_thread::yield();
    }
  }
}

void test_a_writer_that_is_killed(std::size_t rounds) {
  const auto begin = std::chrono::steady_clock::now();
  Folder folder;
  void* const memory =
      ::mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  CHECK(memory != MAP_FAILED);
  Shared& shared = *new (memory) Shared{};
  Table::create(kShape.dim, kShape.type, 0, folder_memory(folder.path()), some_boot()).reset();
  std::vector<pid_t> readers;
  for (std::size_t reader = 0; reader < kReaders; ++reader) {
    readers.push_back(start([&, reader] { read_for_ever(folder.path(), shared, reader); }));
  }
  check_readers_go_on(shared, readers);

  std::mt19937_64 random(20261121);
  std::size_t in_flight = 0, interrupted = 0;
  for (std::size_t round = 0; round < rounds; ++round) {
    const std::uint64_t before = shared.acknowledged.load();
    const pid_t writer = start([&] { write_for_ever(folder.path(), shared); });
    // Sometimes it dies while it recovers; usually after some batches.
    if (round % 5 != 4) {
      const std::uint64_t batches = 1 + random() % 40;
      while (shared.acknowledged.load() < before + batches) std::this_thread::yield();
    }
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 3000));
    if (round % 3 == 0) {
      CHECK(::kill(writer, SIGSTOP) == 0);
      int status = 0;
      CHECK(::waitpid(writer, &status, WUNTRACED) == writer && WIFSTOPPED(status));
      check_readers_go_on(shared, readers);
    }
    CHECK(::kill(writer, SIGKILL) == 0);
    int status = 0;
    CHECK(::waitpid(writer, &status, 0) == writer && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    const Mapping mapping = std::move(*read_only_folder_memory(folder.path())->open(kDirectoryFile));
    in_flight += directory_in(mapping).redo.operation.load() != 0;
    interrupted += shared.begun.load() != shared.acknowledged.load();
    check_readers_go_on(shared, readers);
  }
  CHECK(in_flight > 0 || rounds < 50);

  // The table is what the batches make, the one in flight sent again.
  auto table = Table::recover(folder_memory(folder.path()), some_boot());
  const std::uint64_t last = shared.begun.load();
  run_batch(*table, last);
  shared.acknowledged.store(last);
  check_readers_go_on(shared, readers);
  shared.done.store(true);
  for (const pid_t reader : readers) {
    int status = 0;
    CHECK(::waitpid(reader, &status, 0) == reader && WIFEXITED(status) && WEXITSTATUS(status) == 0);
  }
  const auto rows = scan_all(*table, kShape.bytes(), 10'000);
  std::size_t expected = 0;
  const auto check_row = [&](std::uint64_t sign, std::uint64_t version) {
    ++expected;
    const auto& [ordinal, bytes] = rows.at(sign);
    CHECK(ordinal == version);
    const auto* const row = reinterpret_cast<const std::uint64_t*>(bytes.data());
    CHECK(is_whole(row, sign) && row[1] == version);
  };
  for (std::uint64_t sign = 0; sign < kHots; ++sign) check_row(sign, last);
  for (std::uint64_t i = 0; i < kTurnings; ++i) {
    const std::uint64_t written = last_write(i, last);
    if (written == 0 || (is_erased_later(i) && written + kPeriod / 2 <= last)) continue;
    check_row(kTurning + i, written);
  }
  CHECK(rows.size() == expected && table->size() == expected);
  std::uint64_t lookups = 0;
  for (const auto& count : shared.lookups) lookups += count.load();
  const std::chrono::duration<double> time = std::chrono::steady_clock::now() - begin;
  std::printf(
      "  %zu writers killed, %zu in a batch, %zu with a redo record; %llu batches, %llu rows read, %.1f s\n",
      rounds, interrupted, in_flight, static_cast<unsigned long long>(last),
      static_cast<unsigned long long>(lookups * 200), time.count());
  CHECK(::munmap(memory, sizeof(Shared)) == 0);
}

}  // namespace

int main(int argc, char** argv) {
  const char* const asked = argc > 1 ? argv[1] : std::getenv("SATRAP_STRESS_ROUNDS");
  test_a_writer_that_is_killed(asked ? std::stoull(asked) : kBuild == Build::kThreadSanitizer ? 20 : 60);
  std::puts("table_processes: ok");
}
