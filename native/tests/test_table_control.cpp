// The control file: what a reader sees of it, who may hold it, and everything that must be refused.
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "check.h"
#include "satrap/table_control.h"

namespace fs = std::filesystem;
using satrap::ControlFile;
using satrap::ControlHeader;
using satrap::ControlPage;
using satrap::GenerationState;
using satrap::TableError;

namespace {

// A folder that is removed with its owner.
struct Folder {
  Folder() {
    char name[] = "/tmp/satrap-control-XXXXXX";
    CHECK(::mkdtemp(name));
    path = name;
  }
  ~Folder() { fs::remove_all(path); }
  std::string path;
};

satrap::GenerationIdentity identity() {
  satrap::GenerationIdentity identity{.boot = satrap::present_boot(), .replica_index = 1, .replica_size = 3};
  identity.instance.fill(std::byte{7});
  return identity;
}

std::vector<std::byte> bytes_of(const std::string& text) {
  const auto* data = reinterpret_cast<const std::byte*>(text.data());
  return {data, data + text.size()};
}

ControlFile make(const Folder& folder) {
  return ControlFile::create(folder.path, identity(), bytes_of("{\"a\": 1}"), {});
}

// The file's bytes changed by `edit`.
template <class Edit>
void rewrite(const std::string& path, const Edit& edit) {
  std::ifstream in(path, std::ios::binary);
  std::string bytes((std::istreambuf_iterator<char>(in)), {});
  edit(bytes);
  std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
}

// The reason why a reader refuses `folder`; empty if it does not.
std::string refusal(const Folder& folder, std::optional<uid_t> owner = {}) {
  try {
    const ControlFile file = ControlFile::open_for_reading(folder.path, owner);
    static_cast<void>(file.state());
    static_cast<void>(file.info());
    return "";
  } catch (const TableError& error) {
    CHECK(std::strstr(error.what(), (folder.path + "/control").c_str()));  // every reason names the file
    return error.what();
  }
}

bool has(const std::string& text, const char* words) { return text.find(words) != std::string::npos; }

void test_a_reader_sees_what_the_writer_wrote() {
  const Folder folder;
  ControlFile writer = make(folder);
  const ControlFile reader = ControlFile::open_for_reading(folder.path, ::geteuid());
  CHECK(reader.header().replica_index == 1 && reader.header().replica_size == 3);
  CHECK(reader.header().instance == identity().instance && reader.header().boot == identity().boot);
  CHECK(reader.state() == GenerationState::kLoading &&
        reader.pid() == static_cast<std::uint32_t>(::getpid()));
  CHECK(reader.info() == bytes_of("{\"a\": 1}"));
  CHECK(reader.watermark() == satrap::Watermark{});
  CHECK(satrap::monotonic_ns() - reader.heartbeat_ns() < 60'000'000'000u);
  writer.set_state(GenerationState::kServing);
  writer.set_info({});
  writer.set_watermark({12, 34});
  writer.set_tables(2);
  CHECK(reader.state() == GenerationState::kServing && reader.info().empty() && reader.tables() == 2);
  CHECK((reader.watermark() == satrap::Watermark{12, 34}));
  CHECK(fs::status(folder.path + "/control").permissions() == fs::perms(0600));
  CHECK(std::distance(fs::directory_iterator(folder.path), {}) == 1);
}

void test_info_of_every_length() {
  const Folder folder;
  ControlFile writer = make(folder);
  for (const std::size_t length : {std::size_t{0}, std::size_t{1}, std::size_t{7}, std::size_t{8},
                                   std::size_t{9}, satrap::ControlInfo::kMaxBytes}) {
    const auto info = bytes_of(std::string(length, 'x'));
    writer.set_info(info);
    CHECK(writer.info() == info);
  }
  CHECK_THROWS(std::invalid_argument,
               writer.set_info(bytes_of(std::string(satrap::ControlInfo::kMaxBytes + 1, 'x'))));
}

void test_every_flipped_bit_of_the_header_is_refused() {
  const Folder folder;
  make(folder);
  const std::string path = folder.path + "/control";
  for (std::size_t bit = 0; bit < sizeof(ControlHeader) * 8; ++bit) {
    const auto flip = [bit](std::string& bytes) {
      bytes[bit / 8] = static_cast<char>(bytes[bit / 8] ^ (1 << (bit % 8)));
    };
    rewrite(path, flip);
    CHECK(!refusal(folder).empty());
    CHECK_THROWS(TableError, ControlFile::open_for_writing(folder.path));
    rewrite(path, flip);
  }
  CHECK(refusal(folder).empty());
}

void test_flipped_bits_of_state_and_info_are_refused() {
  const Folder folder;
  make(folder).set_state(GenerationState::kServing);
  const std::string path = folder.path + "/control";
  const std::size_t info =
      offsetof(ControlPage, infos) + sizeof(satrap::ControlInfo);  // the first write is to [1]
  for (const std::size_t start : {offsetof(ControlPage, state), info, info + 8, info + 16}) {
    for (std::size_t bit = 0; bit < 32; ++bit) {
      const auto flip = [start, bit](std::string& bytes) {
        bytes[start + bit / 8] = static_cast<char>(bytes[start + bit / 8] ^ (1 << (bit % 8)));
      };
      rewrite(path, flip);
      CHECK(has(refusal(folder), "damaged"));
      rewrite(path, flip);
    }
  }
  CHECK(refusal(folder).empty());
}

void test_truncated_files_are_refused() {
  for (const std::size_t bytes : {std::size_t{0}, std::size_t{1}, sizeof(ControlHeader) - 1,
                                  sizeof(ControlHeader), std::size_t{4096}, sizeof(ControlPage) - 1}) {
    const Folder folder;
    make(folder);
    fs::resize_file(folder.path + "/control", bytes);
    CHECK(has(refusal(folder), "it was cut"));
  }
  const Folder folder;
  make(folder);
  fs::resize_file(folder.path + "/control", sizeof(ControlPage) + 1);
  CHECK(has(refusal(folder), "has 65537 bytes"));
}

void test_other_files_are_refused() {
  const Folder nothing;
  CHECK(has(refusal(nothing), "No such file"));

  const Folder foreign;
  std::ofstream(foreign.path + "/control") << std::string(sizeof(ControlPage), 'x');
  CHECK(has(refusal(foreign), "no control file"));

  const Folder layout;
  make(layout);
  rewrite(layout.path + "/control", [](std::string& bytes) { bytes[offsetof(ControlHeader, layout)] = 99; });
  CHECK(has(refusal(layout), "of layout 99"));

  const Folder link;
  make(link);
  fs::rename(link.path + "/control", link.path + "/elsewhere");
  fs::create_symlink(link.path + "/elsewhere", link.path + "/control");
  CHECK(has(refusal(link), "refused"));

  const Folder folder;
  fs::create_directory(folder.path + "/control");
  CHECK(has(refusal(folder), "no regular file"));

  const Folder pipe;
  CHECK(::mkfifo((pipe.path + "/control").c_str(), 0600) == 0);
  CHECK(has(refusal(pipe), "no regular file"));
}

void test_another_users_file_is_refused() {
  const Folder folder;
  make(folder);
  CHECK(refusal(folder, ::geteuid()).empty());
  if (::geteuid() != 0) {
    CHECK(has(refusal(folder, ::geteuid() + 1), "belongs to user"));
    return;
  }
  CHECK(refusal(folder, 12345).empty());  // root's are anybody's
  CHECK(::chown((folder.path + "/control").c_str(), 4321, static_cast<gid_t>(-1)) == 0);
  CHECK(has(refusal(folder, 12345), "belongs to user 4321, not to 12345"));
  CHECK(refusal(folder, 4321).empty());
}

void test_the_lock_is_one_writers_and_readers_see_it() {
  const Folder folder;
  {
    const ControlFile writer = make(folder);
    const ControlFile reader = ControlFile::open_for_reading(folder.path);
    CHECK(reader.is_locked());
    CHECK(reader.is_locked());  // asking takes nothing
    ControlFile second = ControlFile::open_for_writing(folder.path);
    CHECK(!second.try_lock());
  }
  CHECK(!ControlFile::open_for_reading(folder.path).is_locked());
  ControlFile next = ControlFile::open_for_writing(folder.path);
  CHECK(next.try_lock() && next.try_lock());
  CHECK(ControlFile::open_for_reading(folder.path).is_locked());
}

void test_the_lock_goes_with_a_killed_process() {
  const Folder folder;
  int ready[2];
  CHECK(::pipe(ready) == 0);
  const pid_t child = ::fork();
  if (child == 0) {
    const ControlFile writer = make(folder);
    CHECK(::write(ready[1], "x", 1) == 1);
    for (;;) ::pause();
  }
  char byte;
  CHECK(::read(ready[0], &byte, 1) == 1);
  const ControlFile reader = ControlFile::open_for_reading(folder.path);
  CHECK(reader.is_locked() && reader.pid() == static_cast<std::uint32_t>(child));
  CHECK(::kill(child, SIGKILL) == 0 && ::waitpid(child, nullptr, 0) == child);
  CHECK(!reader.is_locked());
  ::close(ready[0]);
  ::close(ready[1]);
}

void test_a_second_file_of_the_name_is_refused() {
  const Folder folder;
  std::ofstream(folder.path + "/control.new") << "left over";
  CHECK_THROWS(TableError, make(folder));
}

// Killed at any moment of its making, the file is there whole and locked by nobody, or not at all.
void test_killed_while_it_is_made() {
  for (int microseconds = 0; microseconds < 400; microseconds += 8) {
    const Folder folder;
    const pid_t child = ::fork();
    if (child == 0) {
      const ControlFile writer = make(folder);
      for (;;) ::pause();
    }
    std::this_thread::sleep_for(std::chrono::microseconds(microseconds));  // the moment itself is what varies
    CHECK(::kill(child, SIGKILL) == 0 && ::waitpid(child, nullptr, 0) == child);
    if (fs::exists(folder.path + "/control")) {
      CHECK(refusal(folder).empty());
      CHECK(!ControlFile::open_for_reading(folder.path).is_locked());
    } else {
      CHECK(has(refusal(folder), "No such file"));
    }
  }
}

void test_the_heart_beats_until_it_is_stopped() {
  const Folder folder;
  ControlFile writer = make(folder);
  const ControlFile reader = ControlFile::open_for_reading(folder.path);
  {
    const satrap::Heartbeat heartbeat(writer);
    for (int beats = 0; beats < 3; ++beats) {
      const std::uint64_t before = reader.heartbeat_ns();
      const std::uint64_t started = satrap::monotonic_ns();
      while (reader.heartbeat_ns() == before) {
        CHECK(satrap::monotonic_ns() - started < 30'000'000'000u);
        std::this_thread::yield();
      }
    }
  }
  const std::uint64_t last = reader.heartbeat_ns();
  std::this_thread::sleep_for(std::chrono::milliseconds(250));  // nothing to wait for: it must not happen
  CHECK(reader.heartbeat_ns() == last);
}

// A reader never meets halves of two watermarks or of two infos.
void test_values_wider_than_a_word_change_at_once() {
  const Folder folder;
  ControlFile writer = make(folder);
  const ControlFile reader = ControlFile::open_for_reading(folder.path);
  writer.set_watermark({0, 0});
  writer.set_info(bytes_of(std::string(100, 'a')));
  std::atomic<bool> stop{false};
  std::thread reading([&] {
    while (!stop.load()) {
      const satrap::Watermark mark = reader.watermark();
      CHECK(mark.event_time_ns == static_cast<std::int64_t>(mark.sequence) * 3);
      const auto info = reader.info();  // its checksum is checked
      CHECK(info.size() == 100 && info.front() == info.back());
    }
  });
  for (std::uint64_t i = 0; i < 200'000; ++i) {
    writer.set_watermark({i, static_cast<std::int64_t>(i) * 3});
    if (i % 64 == 0) writer.set_info(bytes_of(std::string(100, static_cast<char>('a' + i / 64 % 26))));
  }
  stop = true;
  reading.join();
}

void test_a_group_may_read_if_it_was_named() {
  const Folder folder;
  const ControlFile file =
      ControlFile::create(folder.path, identity(), {}, {.file = 0640, .folder = 0750, .group = ::getegid()});
  CHECK(fs::status(file.path()).permissions() == fs::perms(0640));
  const satrap::FileModes modes = file.modes();
  CHECK(modes.file == 0640 && modes.folder == 0750 && modes.group == ::getegid());
}

}  // namespace

int main() {
  test_a_reader_sees_what_the_writer_wrote();
  test_info_of_every_length();
  test_every_flipped_bit_of_the_header_is_refused();
  test_flipped_bits_of_state_and_info_are_refused();
  test_truncated_files_are_refused();
  test_other_files_are_refused();
  test_another_users_file_is_refused();
  test_the_lock_is_one_writers_and_readers_see_it();
  test_the_lock_goes_with_a_killed_process();
  test_a_second_file_of_the_name_is_refused();
  test_killed_while_it_is_made();
  test_the_heart_beats_until_it_is_stopped();
  test_values_wider_than_a_word_change_at_once();
  test_a_group_may_read_if_it_was_named();
  std::puts("table_control ok");
}
